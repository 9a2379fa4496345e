package wire_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

func TestStatesMapOneToOneWithThoseOfTheProto(t *testing.T) {
	seen := map[taskv1.State]bool{taskv1.State_STATE_UNSPECIFIED: true}
	for _, s := range task.States() {
		on := wire.State(s)
		if seen[on] {
			t.Errorf("%s is %s, as another state is", s, on)
		}
		seen[on] = true
		if back := wire.FromState(on); back != s {
			t.Errorf("%s comes back as %q", s, back)
		}
	}
	for number, name := range taskv1.State_name {
		if !seen[taskv1.State(number)] {
			t.Errorf("%s is in the proto, and no state of ours", name)
		}
	}
}

func TestUnknownStatesBecomeTheZeroValue(t *testing.T) {
	if got := wire.State("paused"); got != taskv1.State_STATE_UNSPECIFIED {
		t.Errorf("an unknown word is %s", got)
	}
	for _, number := range []taskv1.State{taskv1.State_STATE_UNSPECIFIED, 99, -1} {
		if got := wire.FromState(number); got != "" {
			t.Errorf("%d is %q", number, got)
		}
	}
}

func TestErrorsAndTimesComeBackAsTheyWere(t *testing.T) {
	at := time.Date(2026, time.March, 4, 5, 6, 7, 891_234_000, time.UTC)
	for _, want := range []*time.Time{nil, &at} {
		if diff := cmp.Diff(want, wire.FromTime(wire.Time(want))); diff != "" {
			t.Error(diff)
		}
	}
	for _, want := range []*task.Error{nil, {}, {Description: "d", Traceback: "t", Reason: "r", Code: "C"}} {
		if diff := cmp.Diff(want, wire.FromError(wire.Error(want))); diff != "" {
			t.Error(diff)
		}
	}
}

// A field added to the proto and forgotten in Task is empty for ever: every field must differ from its zero value.
func TestTaskFillsEveryFieldOfTheProto(t *testing.T) {
	at := time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)
	after := func(n int) *time.Time { later := at.Add(time.Duration(n) * time.Second); return &later }
	full := &task.Task{
		ID: "id", Seq: 7, Name: "name", State: task.Failed, Domain: "domain",
		Reserved:  task.Reservation{Exclusive: []string{"e"}, Shared: []string{"s"}},
		Immediate: true, Deferred: true, Versions: map[string]string{"core": "1"}, ParentID: "parent", GroupID: "group",
		CorrelationID: "correlation", CreatedAt: at, UpdatedAt: *after(1), UnblockedAt: after(2), StartedAt: after(3), FinishedAt: after(4),
		Executor: "executor", Incarnation: "incarnation", Attempt: 2, Claim: 3, Result: "1", Error: &task.Error{Reason: "r"},
		Options: task.Options{
			Timeout: time.Minute, Retry: &task.Retry{Attempts: 3, Backoff: time.Second, MaxBackoff: time.Hour, On: []string{"TIMEOUT"}},
			Profile: []string{"memory"}, Files: []string{"file"}, CreatedBy: 9,
		},
		RetryAt: after(5),
	}
	source := reflect.ValueOf(*full)
	for _, filled := range []reflect.Value{source, source.FieldByName("Options")} {
		for i := range filled.NumField() {
			if filled.Field(i).IsZero() {
				t.Errorf("the test does not set %s", filled.Type().Field(i).Name)
			}
		}
	}
	got := wire.Task(full)
	fields := got.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if !got.ProtoReflect().Has(fields.Get(i)) {
			t.Errorf("%s is not set", fields.Get(i).Name())
		}
	}
	want := &taskv1.Task{
		Id: "id", Seq: 7, Name: "name", State: taskv1.State_STATE_FAILED, Domain: "domain",
		ExclusiveResources: []string{"e"}, SharedResources: []string{"s"}, Immediate: true, Deferred: true,
		Versions: map[string]string{"core": "1"}, ParentId: "parent", GroupId: "group", CorrelationId: "correlation",
		CreatedAt: timestamppb.New(at), UpdatedAt: timestamppb.New(*after(1)), UnblockedAt: timestamppb.New(*after(2)),
		StartedAt: timestamppb.New(*after(3)), FinishedAt: timestamppb.New(*after(4)),
		Executor: "executor", Incarnation: "incarnation", Attempt: 2, Claim: 3, ResultJson: "1", Error: &taskv1.TaskError{Reason: "r"},
		Timeout: durationpb.New(time.Minute), RetryAt: timestamppb.New(*after(5)), ProfileOptions: []string{"memory"}, FileIds: []string{"file"},
		CreatedBy: 9,
		Retry:     &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: durationpb.New(time.Second), MaxBackoff: durationpb.New(time.Hour), On: []string{"TIMEOUT"}},
	}
	if !proto.Equal(want, got) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTaskLeavesUnsetWhatHasNotHappened(t *testing.T) {
	got := wire.Task(&task.Task{ID: "id", State: task.Waiting}).ProtoReflect()
	for _, name := range []protoreflect.Name{
		"unblocked_at", "started_at", "finished_at", "error", "executor", "result_json", "timeout", "retry", "retry_at",
	} {
		if got.Has(got.Descriptor().Fields().ByName(name)) {
			t.Errorf("%s is set", name)
		}
	}
}

func TestRetriesComeBackAsTheyWere(t *testing.T) {
	for _, want := range []*task.Retry{
		nil, {Attempts: 2}, {Attempts: 100, Backoff: time.Millisecond, MaxBackoff: 24 * time.Hour, On: []string{"A", "B"}},
	} {
		if diff := cmp.Diff(want, wire.FromRetry(wire.Retry(want))); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRetriesThatLeaveSomethingOutGetTheDefaults(t *testing.T) {
	for name, c := range map[string]struct {
		on   *taskv1.RetryPolicy
		want *task.Retry
	}{
		"one attempt is no policy":      {&taskv1.RetryPolicy{MaxAttempts: 1, On: []string{"A"}}, nil},
		"only attempts":                 {&taskv1.RetryPolicy{MaxAttempts: 2}, &task.Retry{Attempts: 2, Backoff: time.Second, MaxBackoff: time.Minute}},
		"no pause at all":               {&taskv1.RetryPolicy{MaxAttempts: 2, Backoff: durationpb.New(0)}, &task.Retry{Attempts: 2, MaxBackoff: time.Minute}},
		"a short limit":                 {&taskv1.RetryPolicy{MaxAttempts: 2, MaxBackoff: durationpb.New(time.Second)}, &task.Retry{Attempts: 2, Backoff: time.Second, MaxBackoff: time.Second}},
		"a pause longer than the usual": {&taskv1.RetryPolicy{MaxAttempts: 2, Backoff: durationpb.New(time.Hour)}, &task.Retry{Attempts: 2, Backoff: time.Hour, MaxBackoff: time.Hour}},
	} {
		if diff := cmp.Diff(c.want, wire.FromRetry(c.on)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

package dispatcher_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// schedule makes a schedule, and fails the test if it can't.
func (w *world) schedule(t *testing.T, asked *dispatcherv1.TaskSchedule) *dispatcherv1.TaskSchedule {
	t.Helper()
	answer, err := w.client.CreateTaskSchedule(t.Context(), &dispatcherv1.CreateTaskScheduleRequest{Schedule: asked})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetSchedule()
}

func (w *world) schedules(t *testing.T) []*dispatcherv1.TaskSchedule {
	t.Helper()
	answer, err := w.client.ListTaskSchedules(t.Context(), &dispatcherv1.ListTaskSchedulesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetSchedules()
}

func TestAScheduleComesBackAsItWasAskedFor(t *testing.T) {
	w := newWorld(t, &leader{})
	asked := &dispatcherv1.TaskSchedule{
		Name: "nightly", DispatchInterval: durationpb.New(36*time.Hour + 1500*time.Millisecond),
		NextDispatch: timestamppb.New(time.Date(2031, 2, 3, 4, 5, 6, 789_000, time.UTC)),
		Task: &taskv1.TaskSpec{
			Name: "t", ArgsJson: `[12345678901234567890]`, KwargsJson: `{"b":1,"a":2}`, ExclusiveResources: []string{"r1", `"{},\`}, SharedResources: []string{"r2"},
			Deferred: proto.Bool(true), Versions: map[string]string{"core": "3.1"}, CorrelationId: "c", Timeout: durationpb.New(time.Minute),
			Retry:          &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: durationpb.New(time.Second), MaxBackoff: durationpb.New(time.Minute), On: []string{"TIMEOUT"}},
			ProfileOptions: []string{"memory"}, CreatedBy: 7,
		},
	}
	made := w.schedule(t, proto.CloneOf(asked))
	if made.GetId() == "" || made.GetCreatedAt().AsTime().IsZero() || !made.GetUpdatedAt().AsTime().Equal(made.GetCreatedAt().AsTime()) {
		t.Errorf("made %v", made)
	}
	want := proto.CloneOf(asked)
	want.Id, want.CreatedAt, want.UpdatedAt = made.GetId(), made.GetCreatedAt(), made.GetUpdatedAt()
	if diff := cmp.Diff(want, made, protocmp.Transform()); diff != "" {
		t.Errorf("as it was made (-want +got):\n%s", diff)
	}
	read, err := w.client.GetTaskSchedule(t.Context(), &dispatcherv1.GetTaskScheduleRequest{ScheduleId: made.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read.GetSchedule(), protocmp.Transform()); diff != "" {
		t.Errorf("as it is read (-want +got):\n%s", diff)
	}
	want.Task.ArgsJson, want.Task.KwargsJson = "", ""
	if diff := cmp.Diff([]*dispatcherv1.TaskSchedule{want}, w.schedules(t), protocmp.Transform()); diff != "" {
		t.Errorf("as it is listed (-want +got):\n%s", diff)
	}
	if shared := pgtest.One[[]string](t, w, `select shared from task_schedule`); !slices.Contains(shared, task.DomainResource(task.DefaultDomainID)) {
		t.Errorf("its tasks would share %v, and not their domain", shared)
	}
}

func TestAScheduleWithoutATimeIsDueAtOnce(t *testing.T) {
	w := newWorld(t, &leader{})
	before := pgtest.One[time.Time](t, w, `select clock_timestamp()`)
	made := w.schedule(t, &dispatcherv1.TaskSchedule{Name: "once", Task: newSpec("t")})
	if next := made.GetNextDispatch().AsTime(); next.Before(before) || !next.Equal(made.GetCreatedAt().AsTime()) {
		t.Errorf("it is due at %s, asked for after %s", next, before)
	}
	if made.GetDispatchInterval() != nil {
		t.Errorf("it has an interval of %s", made.GetDispatchInterval().AsDuration())
	}
}

func TestSchedulesAreListedByName(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, name := range []string{"b", "c", "a"} {
		w.schedule(t, &dispatcherv1.TaskSchedule{Name: name, Task: newSpec("t")})
	}
	var names []string
	for _, s := range w.schedules(t) {
		names = append(names, s.GetName())
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestTheNameOfAScheduleIsTakenUntilItIsDeleted(t *testing.T) {
	w := newWorld(t, &leader{})
	asked := &dispatcherv1.TaskSchedule{Name: "n", Task: newSpec("t")}
	first := w.schedule(t, asked)
	_, err := w.client.CreateTaskSchedule(t.Context(), &dispatcherv1.CreateTaskScheduleRequest{Schedule: asked})
	if !errs.Is(err, errs.ScheduleExists) || status.Code(err) != codes.AlreadyExists {
		t.Errorf("the second one: %v", err)
	}
	remove := &dispatcherv1.DeleteTaskScheduleRequest{ScheduleId: first.GetId()}
	if _, err := w.client.DeleteTaskSchedule(t.Context(), remove); err != nil {
		t.Fatal(err)
	}
	if second := w.schedule(t, asked); second.GetId() == first.GetId() {
		t.Error("it has the same id")
	}
	if _, err := w.client.DeleteTaskSchedule(t.Context(), remove); !errs.Is(err, errs.ScheduleNotFound) || status.Code(err) != codes.NotFound {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := w.client.GetTaskSchedule(t.Context(), &dispatcherv1.GetTaskScheduleRequest{ScheduleId: first.GetId()}); !errs.Is(err, errs.ScheduleNotFound) {
		t.Errorf("read after it was deleted: %v", err)
	}
}

// They count together, whoever makes them at the same moment.
func TestThereAreNoMoreSchedulesThanThereMayBe(t *testing.T) {
	w := newWorld(t, &leader{})
	const room, callers = 3, 12
	pgtest.Must(t, w, limits.MaxSchedules-room, `
		insert into task_schedule (id, domain_id, name, task_name)
		select gen_random_uuid(), gen_random_uuid(), 'n' || n, 't' from generate_series(1, $1) n`, limits.MaxSchedules-room)
	var made atomic.Int32
	var calls sync.WaitGroup
	for n := range callers {
		calls.Go(func() {
			_, err := w.client.CreateTaskSchedule(t.Context(), &dispatcherv1.CreateTaskScheduleRequest{Schedule: &dispatcherv1.TaskSchedule{
				Name: fmt.Sprint("more ", n), Task: newSpec("t"),
			}})
			switch {
			case err == nil:
				made.Add(1)
			case !errs.Is(err, errs.TooManySchedules) || status.Code(err) != codes.ResourceExhausted:
				t.Error(err)
			}
		})
	}
	if calls.Wait(); made.Load() != room {
		t.Errorf("%d were made where there was room for %d", made.Load(), room)
	}
	if n := len(w.schedules(t)); n != limits.MaxSchedules {
		t.Errorf("%d are listed", n)
	}
}

// A list is one message, and a client takes no larger ones than the server does.
func TestAllSchedulesFitIntoOneList(t *testing.T) {
	w := newWorld(t, &leader{})
	spec := newSpec("t")
	for n := range limits.MaxResources {
		spec.SharedResources = append(spec.SharedResources, fmt.Sprint(n)+strings.Repeat("x", limits.MaxResourceName-5))
	}
	var err error
	made := 0
	for ; err == nil && made < 100; made++ {
		_, err = w.client.CreateTaskSchedule(t.Context(), &dispatcherv1.CreateTaskScheduleRequest{Schedule: &dispatcherv1.TaskSchedule{
			Name: fmt.Sprint(made), Task: spec,
		}})
	}
	if !errs.Is(err, errs.TooManySchedules) {
		t.Errorf("after %d: %v", made, err)
	}
	answer, err := w.client.ListTaskSchedules(t.Context(), &dispatcherv1.ListTaskSchedulesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if size := proto.Size(answer); size > limits.MaxMessage || size < limits.MaxMessage/2 {
		t.Errorf("the list has %d bytes", size)
	}
}

func TestAScheduleForgetsATaskThatIsDeleted(t *testing.T) {
	w := newWorld(t, &leader{})
	id := w.inState(t, task.Completed)
	made := w.schedule(t, &dispatcherv1.TaskSchedule{Name: "n", Task: newSpec("t")})
	pgtest.Must(t, w, 1, `update task_schedule s set last_task_id = t.id, last_seq = t.seq from task t where t.id = $1::text::uuid`, id)
	last := func() string {
		t.Helper()
		read, err := w.client.GetTaskSchedule(t.Context(), &dispatcherv1.GetTaskScheduleRequest{ScheduleId: made.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		if listed := w.schedules(t)[0].GetLastTaskId(); listed != read.GetSchedule().GetLastTaskId() {
			t.Errorf("listed with %q, read with %q", listed, read.GetSchedule().GetLastTaskId())
		}
		return read.GetSchedule().GetLastTaskId()
	}
	if got := last(); got != id {
		t.Errorf("its last task is %q, want %s", got, id)
	}
	if _, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: id}); err != nil {
		t.Fatal(err)
	}
	if got := last(); got != "" {
		t.Errorf("its last task is %q, and that is deleted", got)
	}
}

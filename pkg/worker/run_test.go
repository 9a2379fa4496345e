package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

func TestHandlerSeesItsTask(t *testing.T) {
	mux := worker.NewMux()
	var got worker.Task
	var raw worker.Arguments
	worker.Handle(mux, "t", func(ctx context.Context, _ struct {
		N float64 `json:"n"`
	},
	) (worker.None, error) {
		got, raw = worker.Current(ctx), worker.RawArguments(ctx)
		return worker.None{}, nil
	})
	completes(t, mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{
		TaskId: "task", Name: "t", Claim: 7, Attempt: 2, MaxAttempts: 5, Domain: "domain", CorrelationId: "request", GroupId: "group",
		Traceparent: "00-1-2-01", Tracestate: "a=b", ProfileOptions: []string{"cpu"}, FileIds: []string{"file"}, Immediate: true,
		KwargsJson: `{"n": 1.00}`,
	}}))
	want := worker.Task{
		ID: "task", Name: "t", Claim: 7, Attempt: 2, MaxAttempts: 5, Domain: "domain", CorrelationID: "request", GroupID: "group",
		Traceparent: "00-1-2-01", Tracestate: "a=b", ProfileOptions: []string{"cpu"}, FileIDs: []string{"file"}, Immediate: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("current task (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(worker.Arguments{Args: json.RawMessage("[]"), Kwargs: json.RawMessage(`{"n": 1.00}`)}, raw); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t", ArgsJson: "[1]"}})
	if got.MaxAttempts != 1 {
		t.Errorf("attempts of a task without retries: %d", got.MaxAttempts)
	}
}

// asked notes what a task asks for.
type asked struct {
	worker.Calls // for what nobody calls
	spec         *taskv1.TaskSpec
	paths, ids   []string
	err          error
}

func (a *asked) Dispatch(_ context.Context, spec *taskv1.TaskSpec) (string, error) {
	a.spec = spec
	return "id", a.err
}

func (a *asked) KeepFile(_ context.Context, path string) (string, error) {
	a.paths = append(a.paths, path)
	return "file", a.err
}

func (a *asked) FetchFile(_ context.Context, id string) (string, error) {
	a.ids = append(a.ids, id)
	return "/some/path", a.err
}

func (a *asked) run(t *testing.T, fn func(ctx context.Context) error) *taskv1.Outcome {
	mux := worker.NewMux()
	worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) { return worker.None{}, fn(ctx) })
	return mux.Run(t.Context(), worker.Run{
		Assignment: &taskv1.Assignment{Name: "t"}, Calls: a, WorkingDir: func() (string, error) { return "/its/own", nil },
	})
}

func TestDispatchCarriesAllThatASpecSays(t *testing.T) {
	deferred, no := true, false
	for name, c := range map[string]struct {
		spec worker.Spec
		want *taskv1.TaskSpec
	}{
		"little": {worker.Spec{Name: "x"}, &taskv1.TaskSpec{Name: "x", Deferred: &deferred}},
		"everything": {
			worker.Spec{
				Name: "x", Args: []any{1, "a"}, Kwargs: map[string]any{"k": nil}, Exclusive: []string{"e"}, Shared: []string{"s"}, GroupID: "g",
				Immediate: true, NoDefer: true, Versions: map[string]string{"core": "1"}, Timeout: time.Minute, FileIDs: []string{"f"},
				Retry: &worker.Retry{Attempts: 3, Backoff: time.Second, MaxBackoff: time.Hour, On: []string{"BUSY"}},
			},
			&taskv1.TaskSpec{
				Name: "x", ArgsJson: `[1,"a"]`, KwargsJson: `{"k":null}`, ExclusiveResources: []string{"e"}, SharedResources: []string{"s"}, GroupId: "g",
				Immediate: true, Deferred: &no, Versions: map[string]string{"core": "1"}, Timeout: durationpb.New(time.Minute), FileIds: []string{"f"},
				Retry: &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: durationpb.New(time.Second), MaxBackoff: durationpb.New(time.Hour), On: []string{"BUSY"}},
			},
		},
		"pauses by default": {
			worker.Spec{Name: "x", Retry: &worker.Retry{Attempts: 1 << 40}},
			&taskv1.TaskSpec{Name: "x", Deferred: &deferred, Retry: &taskv1.RetryPolicy{MaxAttempts: 1<<31 - 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := &asked{}
			completes(t, a.run(t, func(ctx context.Context) error {
				_, err := worker.Dispatch(ctx, c.spec)
				return err
			}))
			if diff := cmp.Diff(c.want, a.spec, protocmp.Transform()); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFilesGoByWholePaths(t *testing.T) {
	a := &asked{}
	completes(t, a.run(t, func(ctx context.Context) error {
		for _, path := range []string{"a", "./b/../c", "/d", "..", "/its/own//e"} {
			if id, err := worker.KeepFile(ctx, path); id != "file" || err != nil {
				t.Errorf("keep %q: %q, %v", path, id, err)
			}
		}
		for _, path := range []string{"", "\xff"} {
			if _, err := worker.KeepFile(ctx, path); err == nil {
				t.Errorf("keep %q: no error", path)
			}
		}
		path, err := worker.FetchFile(ctx, "id")
		if path != "/some/path" {
			t.Errorf("fetched %q", path)
		}
		return err
	}))
	if diff := cmp.Diff([]string{"/its/own/a", "/its/own/c", "/d", "/its", "/its/own/e"}, a.paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"id"}, a.ids); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	a.err = errors.New("the disk is full")
	a.run(t, func(ctx context.Context) error {
		_, keep := worker.KeepFile(ctx, "a")
		_, fetch := worker.FetchFile(ctx, "id")
		for want, err := range map[string]error{`keep the file "a": the disk is full`: keep, "fetch the file id: the disk is full": fetch} {
			if !errors.Is(err, a.err) || err.Error() != want {
				t.Errorf("want %q, got %v", want, err)
			}
		}
		return nil
	})
}

func TestTimeoutIsSeenByTheHandlerAndNamedInTheOutcome(t *testing.T) {
	late := failed("TIMEOUT", true, "")
	late.Error.Reason = "Timed out after 30s."
	for name, c := range map[string]struct {
		handler func(context.Context) error
		want    *taskv1.Outcome
	}{
		"in time":         {func(context.Context) error { pass(29 * time.Second); return nil }, result("null")},
		"fails in time":   {func(context.Context) error { pass(29 * time.Second); return errors.New("x") }, failed("ERROR", false, "x")},
		"obeys":           {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, late},
		"fails too late":  {func(context.Context) error { pass(31 * time.Second); return errors.New("x") }, late},
		"completes late":  {func(context.Context) error { pass(31 * time.Second); return nil }, result("null")},
		"its own timeout": {func(context.Context) error { return context.DeadlineExceeded }, failed("ERROR", false, "context deadline exceeded")},
		"seen": {func(ctx context.Context) error {
			if at, limited := ctx.Deadline(); !limited || time.Until(at) != 30*time.Second {
				t.Errorf("deadline in %s", time.Until(at))
			}
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) || context.Cause(ctx).Error() != "timed out after 30s" {
				t.Errorf("cause: %v", context.Cause(ctx))
			}
			return nil
		}, result("null")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mux := worker.NewMux()
				worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) { return worker.None{}, c.handler(ctx) })
				got := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t"}, Timeout: 30 * time.Second})
				if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestStopBeforeTheTimeoutIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		mux := worker.NewMux()
		worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) {
			stop()
			<-ctx.Done()
			pass(time.Hour) // it stops late, but the stop came first
			return worker.None{}, context.Cause(ctx)
		})
		got := mux.Run(ctx, worker.Run{Assignment: &taskv1.Assignment{Name: "t"}, Timeout: 30 * time.Second})
		if diff := cmp.Diff(failed("ERROR", false, "context canceled"), got, protocmp.Transform()); diff != "" {
			t.Errorf("outcome (-want +got):\n%s", diff)
		}
	})
}

func TestWhatAHandlerLeftRunningHearsThatItIsOver(t *testing.T) {
	mux, over := worker.NewMux(), make(chan struct{})
	worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) {
		go func() { <-ctx.Done(); close(over) }()
		return worker.None{}, nil
	})
	completes(t, mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t"}}))
	<-over
}

func discardMux(called *[]string) *worker.Mux {
	mux := worker.NewMux()
	plain := func(context.Context, struct{}) (worker.None, error) { return worker.None{}, nil }
	worker.Handle(mux, "can't", plain)
	worker.Handle(mux, "can", plain, worker.Discards(func(ctx context.Context, resource string) error {
		*called = append(*called, resource)
		_, dispatched := worker.Dispatch(ctx, worker.Spec{Name: "x"})
		_, dir := worker.WorkingDir(ctx)
		if worker.Current(ctx).ID != "the-task" || dispatched == nil || dir == nil || worker.Created(ctx, "x") == nil {
			return errors.New("in the wrong place")
		}
		switch what, _, _ := strings.Cut(resource, ":"); what {
		case "fail":
			return errors.New("no\nluck")
		case "panic":
			panic("ouch\nand more")
		case "goexit":
			runtime.Goexit()
		case "long":
			return errors.New(strings.Repeat("€", 10_000))
		}
		return nil
	}))
	return mux
}

func TestDiscardGoesOnWhateverHappens(t *testing.T) {
	var called []string
	mux := discardMux(&called)
	resources := []string{"a", "fail", "b", "panic", "c", "goexit", "d", "long", "e"}
	run := worker.Run{Assignment: &taskv1.Assignment{Name: "can", TaskId: "the-task"}, Calls: &asked{}, WorkingDir: func() (string, error) { return "/x", nil }}
	got := mux.Discard(t.Context(), run, resources)
	want := map[string]string{
		"fail": "no", "panic": "panic: ouch", "goexit": "it ended its goroutine without returning", "long": strings.Repeat("€", limits.MaxMessageText/3),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(resources, called); diff != "" {
		t.Errorf("called for (-want +got):\n%s", diff)
	}
	if got := mux.Discard(t.Context(), run, []string{"a", "b"}); got != nil {
		t.Errorf("all went well, but %v", got)
	}
}

func TestDiscardSaysWhyItDidNothing(t *testing.T) {
	var called []string
	mux := discardMux(&called)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no time left"))
	for name, c := range map[string]struct {
		ctx  context.Context
		want string
	}{
		"can't": {t.Context(), "the handler of this task can't delete what it made"}, "unknown": {t.Context(), "the handler of this task can't delete what it made"},
		"can": {ctx, "no time left"},
	} {
		got := mux.Discard(c.ctx, worker.Run{Assignment: &taskv1.Assignment{Name: name}}, []string{"a", "b"})
		if diff := cmp.Diff(map[string]string{"a": c.want, "b": c.want}, got); diff != "" {
			t.Errorf("%s: failed (-want +got):\n%s", name, diff)
		}
	}
	if len(called) != 0 {
		t.Errorf("called for %v", called)
	}
}

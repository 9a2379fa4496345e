package limits_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const id = "01234567-89ab-7def-8123-456789abcdef"

// violations returns what Check says of a request, and fails the test when it says so in another form than it must.
func violations(t *testing.T, request proto.Message) []errs.Violation {
	t.Helper()
	err := limits.Check(request)
	if err == nil {
		return nil
	}
	var e *errs.Error
	if !errors.As(err, &e) || e.Code != codes.InvalidArgument || e.Reason != errs.InvalidInput || len(e.Violations) == 0 {
		t.Fatalf("%v is no InvalidArgument with violations", err)
	}
	return e.Violations
}

func fields(violations []errs.Violation) []string {
	var names []string
	for _, v := range violations {
		names = append(names, v.Field)
	}
	return names
}

func newSpec(name string) *taskv1.TaskSpec { return &taskv1.TaskSpec{Name: name} }

// spec is a request to dispatch a task that is right but for what change does.
func spec(change func(*taskv1.TaskSpec)) *dispatcherv1.DispatchRequest {
	s := &taskv1.TaskSpec{Name: "test.noop"}
	change(s)
	return &dispatcherv1.DispatchRequest{Task: s}
}

func hello(change func(*schedulerv1.Hello)) *schedulerv1.AcquireRequest {
	h := &schedulerv1.Hello{Executor: "e1", Incarnation: id}
	change(h)
	return &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Hello{Hello: h}}
}

func report(r *schedulerv1.Report) *schedulerv1.AcquireRequest {
	return &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Report{Report: r}}
}

// finish is a report of two ends, of which the first is right and the second has the outcome.
func finish(o *taskv1.Outcome) *schedulerv1.AcquireRequest {
	claim := &schedulerv1.Claim{TaskId: id, Claim: 1}
	right := &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: "1"}
	return report(&schedulerv1.Report{Finished: []*schedulerv1.Finish{{Claim: claim, Outcome: right}, {Claim: claim, Outcome: o}}})
}

func batch(tasks ...*taskv1.TaskSpec) *dispatcherv1.DispatchBatchRequest {
	return &dispatcherv1.DispatchBatchRequest{Tasks: tasks}
}

// offer tells of two tasks, of which the first is right and the second but for what change does.
func offer(change func(*schedulerv1.OfferedTask)) *schedulerv1.OfferRequest {
	task := func(seq int) *schedulerv1.OfferedTask {
		return &schedulerv1.OfferedTask{Seq: int64(seq), TaskId: id, Name: "test.noop"}
	}
	second := task(2)
	change(second)
	return &schedulerv1.OfferRequest{Tasks: []*schedulerv1.OfferedTask{task(1), second}}
}

func failed(e *taskv1.TaskError) *schedulerv1.AcquireRequest {
	return finish(&taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: e})
}

func register(change func(*heartbeatv1.RegisterRequest)) *heartbeatv1.RegisterRequest {
	r := &heartbeatv1.RegisterRequest{Name: "w1", Kind: heartbeatv1.Kind_KIND_WORKER, Ttl: durationpb.New(10 * time.Second)}
	change(r)
	return r
}

// retry is a dispatch with a policy that is right but for what change does.
func retry(change func(*taskv1.RetryPolicy)) *dispatcherv1.DispatchRequest {
	r := &taskv1.RetryPolicy{MaxAttempts: 3}
	change(r)
	return spec(func(s *taskv1.TaskSpec) { s.Retry = r })
}

// taskReport has two parts and two created resources, of which the first are right, and the second but for what change does.
func taskReport(change func(*taskv1.Progress, *taskv1.CreatedResource)) *statusv1.PutTaskReportRequest {
	progress, created := &taskv1.Progress{Code: "b"}, &taskv1.CreatedResource{Resource: "b"}
	change(progress, created)
	return &statusv1.PutTaskReportRequest{
		TaskId: id, Claim: 1, Progress: []*taskv1.Progress{{Code: "a"}, progress}, Created: []*taskv1.CreatedResource{{Resource: "a"}, created},
	}
}

// workerHello presents a worker with two handlers, of which the first is right, and the second but for what change does.
func workerHello(change func(*executorv1.WorkerHello, *executorv1.TaskHandler)) *executorv1.WorkRequest {
	second := &executorv1.TaskHandler{Name: "b"}
	h := &executorv1.WorkerHello{Handlers: []*executorv1.TaskHandler{{Name: "a"}, second}}
	change(h, second)
	return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Hello{Hello: h}}
}

func notDiscarded(failed map[string]string) *executorv1.WorkRequest {
	return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Discarded{Discarded: &executorv1.RunDiscarded{TaskId: id, Failed: failed}}}
}

// groupPart reports one part of a group's work, changed by a number.
func groupPart(change func(*taskv1.GroupProgress, int)) func(int) proto.Message {
	return func(n int) proto.Message {
		p := &taskv1.GroupProgress{Code: "a"}
		change(p, n)
		return &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: []*taskv1.GroupProgress{p}}
	}
}

func long(n int) string { return strings.Repeat("x", n) }

func times[T any](n int, item func(int) T) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = item(i)
	}
	return list
}

func numbered(prefix string) func(int) string {
	return func(i int) string { return fmt.Sprintf("%s%d", prefix, i) }
}

func component(n int) map[string]string {
	versions := map[string]string{}
	for i := range n {
		versions[fmt.Sprint("c", i)] = "1"
	}
	return versions
}

// nested is an array of arrays, n deep.
func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// sized is a JSON array of n bytes.
func sized(n int) string { return `["` + long(n-4) + `"]` }

// Each row gives a request for a number; at the edge it passes, one step beyond it is refused for exactly one field.
// purge is a request that passes, changed.
func purge(change func(*dispatcherv1.PurgeTasksRequest)) *dispatcherv1.PurgeTasksRequest {
	r := &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.Now()}
	change(r)
	return r
}

func TestEveryLimitHoldsAtItsEdge(t *testing.T) {
	text := func(set func(*taskv1.TaskSpec, string)) func(int) proto.Message {
		return func(n int) proto.Message { return spec(func(s *taskv1.TaskSpec) { set(s, long(n)) }) }
	}
	list := func(set func(*statusv1.ListTasksRequest, int)) func(int) proto.Message {
		return func(n int) proto.Message { r := &statusv1.ListTasksRequest{}; set(r, n); return r }
	}
	for _, c := range []struct {
		name   string
		edge   int
		beyond int // edge+1 unless set
		make   func(int) proto.Message
		field  string
	}{
		{name: "task name", edge: 255, field: "task.name", make: text(func(s *taskv1.TaskSpec, v string) { s.Name = v })},
		{name: "task name, least", edge: 1, beyond: -1, field: "task.name", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.Name = long(max(0, n)) })
		}},
		{name: "exclusive resource", edge: 1024, field: "task.exclusive_resources[0]", make: text(func(s *taskv1.TaskSpec, v string) { s.ExclusiveResources = []string{v} })},
		{name: "shared resource", edge: 1024, field: "task.shared_resources[1]", make: text(func(s *taskv1.TaskSpec, v string) { s.SharedResources = []string{"a", v} })},
		{name: "correlation id", edge: 255, field: "task.correlation_id", make: text(func(s *taskv1.TaskSpec, v string) { s.CorrelationId = v })},
		{name: "request id", edge: 128, field: "task.request_id", make: text(func(s *taskv1.TaskSpec, v string) { s.RequestId = v })},
		{name: "tasks of a purge", edge: 10_000, field: "page_size", make: func(n int) proto.Message {
			return purge(func(r *dispatcherv1.PurgeTasksRequest) { r.PageSize = int32(n) })
		}},
		{name: "tasks of a purge, least", edge: 0, beyond: -1, field: "page_size", make: func(n int) proto.Message {
			return purge(func(r *dispatcherv1.PurgeTasksRequest) { r.PageSize = int32(n) })
		}},
		{name: "token of a purge", edge: 255, field: "page_token", make: func(n int) proto.Message {
			return purge(func(r *dispatcherv1.PurgeTasksRequest) { r.PageToken = long(n) })
		}},
		{name: "epoch that is heard, least", edge: 1, beyond: -1, field: "hearing.epoch", make: func(n int) proto.Message {
			return &heartbeatv1.BeatRequest{Incarnation: id, Hearing: &heartbeatv1.Hearing{Epoch: int64(n), SilentFor: durationpb.New(0)}}
		}},
		{name: "silence, least", edge: 0, beyond: -1, field: "hearing.silent_for", make: func(n int) proto.Message {
			return &heartbeatv1.BeatRequest{Incarnation: id, Hearing: &heartbeatv1.Hearing{Epoch: 1, SilentFor: durationpb.New(time.Duration(n))}}
		}},
		{name: "version", edge: 255, field: `task.versions["core"]`, make: text(func(s *taskv1.TaskSpec, v string) { s.Versions = map[string]string{"core": v} })},
		{name: "component", edge: 255, field: `task.versions["` + long(40) + `"]`, make: text(func(s *taskv1.TaskSpec, v string) { s.Versions = map[string]string{v: "1"} })},
		{name: "components", edge: 64, field: "task.versions", make: func(n int) proto.Message { return spec(func(s *taskv1.TaskSpec) { s.Versions = component(n) }) }},
		{name: "exclusive resources", edge: 1000, field: "task.exclusive_resources", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.ExclusiveResources = times(n, numbered("r")) })
		}},
		{name: "resources together", edge: 1000, field: "task.exclusive_resources", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) {
				s.ExclusiveResources, s.SharedResources = times(400, numbered("e")), times(n-400, numbered("s"))
			})
		}},
		{name: "arguments", edge: 1 << 20, field: "task.args_json", make: func(n int) proto.Message { return spec(func(s *taskv1.TaskSpec) { s.ArgsJson = sized(n) }) }},
		{name: "named arguments", edge: 1 << 20, field: "task.kwargs_json", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.KwargsJson = `{"a":"` + long(n-8) + `"}` })
		}},
		{name: "depth of arguments", edge: 100, field: "task.args_json", make: func(n int) proto.Message { return spec(func(s *taskv1.TaskSpec) { s.ArgsJson = nested(n) }) }},
		{name: "depth of named arguments", edge: 100, field: "task.kwargs_json", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.KwargsJson = `{"a":` + nested(n-1) + `}` })
		}},
		{name: "time limit, ns", edge: int(30 * 24 * time.Hour), field: "task.timeout", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.Timeout = durationpb.New(time.Duration(n)) })
		}},
		{name: "time limit, least", edge: int(time.Millisecond), beyond: int(time.Millisecond) - 1, field: "task.timeout", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.Timeout = durationpb.New(time.Duration(n)) })
		}},
		{name: "attempts", edge: 100, field: "task.retry.max_attempts", make: func(n int) proto.Message {
			return retry(func(r *taskv1.RetryPolicy) { r.MaxAttempts = int32(n) })
		}},
		{name: "attempts, least", edge: 1, beyond: -1, field: "task.retry.max_attempts", make: func(n int) proto.Message {
			return retry(func(r *taskv1.RetryPolicy) { r.MaxAttempts = int32(n) })
		}},
		{name: "pause, ns", edge: int(24 * time.Hour), field: "task.retry.backoff", make: func(n int) proto.Message {
			return retry(func(r *taskv1.RetryPolicy) { r.Backoff = durationpb.New(time.Duration(n)) })
		}},
		{name: "pause, least", edge: 0, beyond: -1, field: "task.retry.backoff", make: func(n int) proto.Message {
			return retry(func(r *taskv1.RetryPolicy) { r.Backoff = durationpb.New(time.Duration(n)) })
		}},
		{name: "longest pause, ns", edge: int(24 * time.Hour), field: "task.retry.max_backoff", make: func(n int) proto.Message {
			return retry(func(r *taskv1.RetryPolicy) { r.MaxBackoff = durationpb.New(time.Duration(n)) })
		}},
		{name: "codes to retry", edge: 32, field: "task.retry.on", make: func(n int) proto.Message {
			return retry(func(r *taskv1.RetryPolicy) { r.On = times(n, numbered("E")) })
		}},
		{name: "code to retry", edge: 64, field: "task.retry.on[1]", make: func(n int) proto.Message {
			return retry(func(r *taskv1.RetryPolicy) { r.On = []string{"A", strings.Repeat("X", n)} })
		}},
		{name: "attempts of an offered task", edge: 100, field: "tasks[1].retry.max_attempts", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) { o.Retry = &taskv1.RetryPolicy{MaxAttempts: int32(n)} })
		}},
		{name: "diagnostics", edge: 16, field: "task.profile_options", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.ProfileOptions = times(n, numbered("p")) })
		}},
		{name: "diagnostic", edge: 64, field: "task.profile_options[0]", make: text(func(s *taskv1.TaskSpec, v string) { s.ProfileOptions = []string{v} })},
		{name: "files", edge: 100, field: "task.file_ids", make: func(n int) proto.Message {
			return spec(func(s *taskv1.TaskSpec) { s.FileIds = times(n, func(int) string { return id }) })
		}},
		{name: "name of a file", edge: 255, field: "name", make: func(n int) proto.Message { return &dispatcherv1.PutFileRequest{Name: long(n)} }},
		{name: "part of a file", edge: 1 << 20, field: "data", make: func(n int) proto.Message { return &dispatcherv1.PutFileRequest{Data: make([]byte, n)} }},
		{name: "tasks of a batch", edge: 1000, field: "tasks", make: func(n int) proto.Message {
			return batch(times(n, func(int) *taskv1.TaskSpec { return newSpec("n") })...)
		}},
		{name: "tasks of a batch, least", edge: 1, beyond: -1, field: "tasks", make: func(n int) proto.Message {
			return batch(times(max(0, n), func(int) *taskv1.TaskSpec { return newSpec("n") })...)
		}},
		{name: "task name in a batch", edge: 255, field: "tasks[1].name", make: func(n int) proto.Message {
			return batch(newSpec("n"), newSpec(long(n)))
		}},
		{name: "resources of one task in a batch", edge: 1000, field: "tasks[0].exclusive_resources", make: func(n int) proto.Message {
			// Each task has a limit of its own.
			return batch(&taskv1.TaskSpec{Name: "n", SharedResources: times(n, numbered("r"))}, &taskv1.TaskSpec{Name: "n", SharedResources: times(1000, numbered("r"))})
		}},
		{name: "group description", edge: 1024, field: "description", make: func(n int) proto.Message {
			return &dispatcherv1.CreateTaskGroupRequest{Description: long(n)}
		}},

		{name: "tasks to settle", edge: 1000, field: "settle_task_ids", make: func(n int) proto.Message {
			return &schedulerv1.OfferRequest{SettleTaskIds: times(n, func(int) string { return id })}
		}},
		{name: "tasks offered", edge: 2000, field: "tasks", make: func(n int) proto.Message {
			return &schedulerv1.OfferRequest{Tasks: times(n, func(i int) *schedulerv1.OfferedTask {
				return &schedulerv1.OfferedTask{Seq: int64(i + 1), TaskId: id, Name: "n"}
			})}
		}},
		{name: "place of an offered task, least", edge: 1, beyond: -1, field: "tasks[1].seq", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) { o.Seq = int64(max(0, n)) })
		}},
		{name: "name of an offered task", edge: 255, field: "tasks[1].name", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) { o.Name = long(n) })
		}},
		{name: "name of an offered task, least", edge: 1, beyond: -1, field: "tasks[1].name", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) { o.Name = long(max(0, n)) })
		}},
		{name: "resources of an offered task, with its domain", edge: 1001, field: "tasks[1].exclusive_resources", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) {
				o.ExclusiveResources, o.SharedResources = times(n-1, numbered("r")), []string{"domain"}
			})
		}},
		{name: "exclusive resource of an offered task", edge: 1024, field: "tasks[1].exclusive_resources[0]", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) { o.ExclusiveResources = []string{long(n)} })
		}},
		{name: "shared resource of an offered task", edge: 1024, field: "tasks[1].shared_resources[1]", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) { o.SharedResources = []string{"a", long(n)} })
		}},
		{name: "components of an offered task", edge: 64, field: "tasks[1].versions", make: func(n int) proto.Message {
			return offer(func(o *schedulerv1.OfferedTask) { o.Versions = component(n) })
		}},
		{name: "acknowledgements in a report", edge: 10000, field: "report.acknowledged", make: func(n int) proto.Message {
			return report(&schedulerv1.Report{Acknowledged: times(n, func(int) *schedulerv1.Claim { return &schedulerv1.Claim{TaskId: id, Claim: 1} })})
		}},
		{name: "ends in a report", edge: 10000, field: "report.finished", make: func(n int) proto.Message {
			return report(&schedulerv1.Report{Finished: times(n, func(int) *schedulerv1.Finish {
				return &schedulerv1.Finish{Claim: &schedulerv1.Claim{TaskId: id, Claim: 1}, Outcome: &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED}}
			})})
		}},
		{name: "executor name", edge: 255, field: "hello.executor", make: func(n int) proto.Message { return hello(func(h *schedulerv1.Hello) { h.Executor = long(n) }) }},
		{name: "slots", edge: 10000, field: "hello.slots", make: func(n int) proto.Message { return hello(func(h *schedulerv1.Hello) { h.Slots = int32(n) }) }},
		{name: "slots, least", edge: 0, beyond: -1, field: "hello.slots", make: func(n int) proto.Message { return hello(func(h *schedulerv1.Hello) { h.Slots = int32(n) }) }},
		{name: "immediate slots", edge: 10000, field: "hello.immediate_slots", make: func(n int) proto.Message {
			return hello(func(h *schedulerv1.Hello) { h.ImmediateSlots = int32(n) })
		}},
		{name: "task names", edge: 10000, field: "hello.task_names", make: func(n int) proto.Message {
			return hello(func(h *schedulerv1.Hello) { h.TaskNames = times(n, numbered("t")) })
		}},
		{name: "one task name", edge: 255, field: "hello.task_names[0]", make: func(n int) proto.Message {
			return hello(func(h *schedulerv1.Hello) { h.TaskNames = []string{long(n)} })
		}},
		{name: "executor's components", edge: 64, field: "hello.versions", make: func(n int) proto.Message {
			return hello(func(h *schedulerv1.Hello) { h.Versions = component(n) })
		}},
		{name: "result", edge: 1 << 20, field: "report.finished[1].outcome.result_json", make: func(n int) proto.Message {
			return finish(&taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: sized(n)})
		}},
		{name: "depth of result", edge: 100, field: "report.finished[1].outcome.result_json", make: func(n int) proto.Message {
			return finish(&taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: nested(n)})
		}},
		{name: "error description", edge: 64 << 10, field: "report.finished[1].outcome.error.description", make: func(n int) proto.Message {
			return failed(&taskv1.TaskError{Description: long(n)})
		}},
		{name: "traceback", edge: 64 << 10, field: "report.finished[1].outcome.error.traceback", make: func(n int) proto.Message {
			return failed(&taskv1.TaskError{Traceback: long(n)})
		}},
		{name: "reason", edge: 64 << 10, field: "report.finished[1].outcome.error.reason", make: func(n int) proto.Message {
			return failed(&taskv1.TaskError{Reason: long(n)})
		}},
		{name: "code of an error", edge: 64, field: "report.finished[1].outcome.error.code", make: func(n int) proto.Message {
			return failed(&taskv1.TaskError{Code: strings.Repeat("X", n)})
		}},

		{name: "worker's name", edge: 64, field: "hello.name", make: func(n int) proto.Message {
			return workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) { h.Name = long(n) })
		}},
		{name: "handlers", edge: 10000, field: "hello.handlers", make: func(n int) proto.Message {
			return workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) {
				h.Handlers = times(n, func(i int) *executorv1.TaskHandler { return &executorv1.TaskHandler{Name: fmt.Sprint("t", i)} })
			})
		}},
		{name: "handlers, least", edge: 1, beyond: -1, field: "hello.handlers", make: func(n int) proto.Message {
			return workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) { h.Handlers = h.GetHandlers()[:max(0, n)] })
		}},
		{name: "handler's name", edge: 255, field: "hello.handlers[1].name", make: func(n int) proto.Message {
			return workerHello(func(_ *executorv1.WorkerHello, h *executorv1.TaskHandler) { h.Name = long(n) })
		}},
		{name: "handler's time limit, ns", edge: int(30 * 24 * time.Hour), field: "hello.handlers[1].timeout", make: func(n int) proto.Message {
			return workerHello(func(_ *executorv1.WorkerHello, h *executorv1.TaskHandler) {
				h.Timeout = durationpb.New(time.Duration(n))
			})
		}},
		{name: "worker's slots", edge: 10000, field: "hello.slots", make: func(n int) proto.Message {
			return workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) { h.Slots = int32(n) })
		}},
		{name: "worker's immediate slots", edge: 10000, field: "hello.immediate_slots", make: func(n int) proto.Message {
			return workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) { h.ImmediateSlots = int32(n) })
		}},
		{name: "worker's components", edge: 64, field: "hello.versions", make: func(n int) proto.Message {
			return workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) { h.Versions = component(n) })
		}},
		{name: "worker's log", edge: 64 << 10, field: "log.text", make: func(n int) proto.Message {
			return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Log{Log: &executorv1.RunLog{TaskId: id, Text: long(n)}}}
		}},
		{name: "worker's progress", edge: 1024, field: "progress.progress.message", make: func(n int) proto.Message {
			return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Progress{
				Progress: &executorv1.RunProgress{TaskId: id, Progress: &taskv1.Progress{Code: "a", Message: long(n)}},
			}}
		}},
		{name: "what a worker created", edge: 1024, field: "created.created.resource", make: func(n int) proto.Message {
			return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Created{
				Created: &executorv1.RunCreated{TaskId: id, Created: &taskv1.CreatedResource{Resource: long(n)}},
			}}
		}},
		{name: "what a worker could not delete", edge: 1000, field: "discarded.failed", make: func(n int) proto.Message {
			return notDiscarded(component(n))
		}},
		{name: "name of it", edge: 1024, field: `discarded.failed["` + long(40) + `"]`, make: func(n int) proto.Message {
			return notDiscarded(map[string]string{long(n): "why"})
		}},
		{name: "and why", edge: 64 << 10, field: `discarded.failed["a"]`, make: func(n int) proto.Message {
			return notDiscarded(map[string]string{"a": long(n)})
		}},
		{name: "page of resources", edge: 1000, field: "page_size", make: func(n int) proto.Message { return &schedulerv1.ListResourcesRequest{PageSize: int32(n)} }},
		{name: "resource asked for", edge: 1024, field: "name", make: func(n int) proto.Message { return &schedulerv1.GetResourceRequest{Name: long(n)} }},
		{name: "page of a queue", edge: 1000, field: "page_size", make: func(n int) proto.Message {
			return &schedulerv1.GetResourceRequest{Name: "r", PageSize: int32(n)}
		}},

		{name: "page of tasks", edge: 1000, field: "page_size", make: list(func(r *statusv1.ListTasksRequest, n int) { r.PageSize = int32(n) })},
		{name: "page of tasks, least", edge: 0, beyond: -1, field: "page_size", make: list(func(r *statusv1.ListTasksRequest, n int) { r.PageSize = int32(n) })},
		{name: "offset", edge: 1_000_000, field: "offset", make: list(func(r *statusv1.ListTasksRequest, n int) { r.Offset = int32(n) })},
		{name: "offset, least", edge: 0, beyond: -1, field: "offset", make: list(func(r *statusv1.ListTasksRequest, n int) { r.Offset = int32(n) })},
		{name: "page token", edge: 255, field: "page_token", make: list(func(r *statusv1.ListTasksRequest, n int) { r.PageToken = long(n) })},
		{name: "name filter", edge: 255, field: "name", make: list(func(r *statusv1.ListTasksRequest, n int) { r.Name = long(n) })},
		{name: "correlation id filter", edge: 255, field: "correlation_id", make: list(func(r *statusv1.ListTasksRequest, n int) { r.CorrelationId = long(n) })},
		{name: "resource filters", edge: 100, field: "resources", make: list(func(r *statusv1.ListTasksRequest, n int) { r.Resources = times(n, numbered("r")) })},
		{name: "resource filter", edge: 1024, field: "resources[0]", make: list(func(r *statusv1.ListTasksRequest, n int) { r.Resources = []string{long(n)} })},
		{name: "conditions", edge: 200, field: "filter", make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Filter = allOf(anyOf(times(n/2, func(int) *statusv1.Filter { return named() })...), not(allOf(times(n-n/2, func(int) *statusv1.Filter { return named() })...)))
		})},
		{name: "filters of a list", edge: 200, field: "filter.all.filters", make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Filter = allOf(times(n, func(int) *statusv1.Filter { return allOf() })...)
		})},
		{name: "depth of a filter", edge: 20, field: "filter" + strings.Repeat(".not", 21), make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Filter = named()
			for range n {
				r.Filter = not(r.GetFilter())
			}
		})},
		{name: "depth of a mixed filter", edge: 20, field: "filter.any.filters[0].all.filters[1].not" + strings.Repeat(".any.filters[0].all.filters[1].not", 6), make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Filter = deep(n, named())
		})},
		{name: "values of a condition", edge: 1000, field: "filter.condition.values", make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Filter = condition(statusv1.TaskField_TASK_FIELD_NAME, statusv1.Comparison_COMPARISON_IN, times(n, numbered("n"))...)
		})},
		{name: "resources of a condition", edge: 1000, field: "filter.condition.values", make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Filter = condition(statusv1.TaskField_TASK_FIELD_RESOURCES, statusv1.Comparison_COMPARISON_ALL, times(n, numbered("r"))...)
		})},
		{name: "value of a condition", edge: 1024, field: "filter.condition.values[1]", make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Filter = condition(statusv1.TaskField_TASK_FIELD_NAME, statusv1.Comparison_COMPARISON_IN, "a", long(n))
		})},
		{name: "keys of an order", edge: 8, field: "order", make: list(func(r *statusv1.ListTasksRequest, n int) {
			r.Order = times(n, func(int) *statusv1.Order { return &statusv1.Order{Field: statusv1.TaskField_TASK_FIELD_NAME} })
		})},
		{name: "time to await, ns", edge: int(5 * time.Minute), field: "timeout", make: func(n int) proto.Message {
			return &statusv1.AwaitTasksRequest{Timeout: durationpb.New(time.Duration(n))}
		}},
		{name: "time to await, least", edge: 0, beyond: -1, field: "timeout", make: func(n int) proto.Message {
			return &statusv1.AwaitTasksRequest{Timeout: durationpb.New(time.Duration(n))}
		}},
		{name: "where a watch goes on", edge: 255, field: "resume", make: func(n int) proto.Message { return &statusv1.WatchTasksRequest{Resume: long(n)} }},
		{name: "page of groups", edge: 1000, field: "page_size", make: func(n int) proto.Message { return &statusv1.ListTaskGroupsRequest{PageSize: int32(n)} }},
		{name: "page of groups, least", edge: 0, beyond: -1, field: "page_size", make: func(n int) proto.Message { return &statusv1.ListTaskGroupsRequest{PageSize: int32(n)} }},
		{name: "offset of groups", edge: 1_000_000, field: "offset", make: func(n int) proto.Message { return &statusv1.ListTaskGroupsRequest{Offset: int32(n)} }},
		{name: "diagnostic that is stored", edge: 4 << 20, field: "data", make: func(n int) proto.Message {
			return &statusv1.PutTaskArtifactRequest{TaskId: id, Claim: 1, Name: "a", Data: make([]byte, n)}
		}},
		{name: "name of a stored diagnostic", edge: 64, field: "name", make: func(n int) proto.Message {
			return &statusv1.PutTaskArtifactRequest{TaskId: id, Claim: 1, Name: long(n)}
		}},
		{name: "media type of a diagnostic", edge: 255, field: "content_type", make: func(n int) proto.Message {
			return &statusv1.PutTaskArtifactRequest{TaskId: id, Claim: 1, Name: "a", ContentType: long(n)}
		}},
		{name: "claim of a diagnostic, least", edge: 1, beyond: -1, field: "claim", make: func(n int) proto.Message {
			return &statusv1.PutTaskArtifactRequest{TaskId: id, Claim: int64(n), Name: "a"}
		}},
		{name: "key of a diagnostic", edge: 255, field: "key", make: func(n int) proto.Message {
			return &statusv1.GetTaskArtifactRequest{TaskId: id, Name: "a", Key: long(n)}
		}},
		{name: "parts of a group", edge: 100, field: "group_progress", make: func(n int) proto.Message {
			return &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: times(n, func(int) *taskv1.GroupProgress { return &taskv1.GroupProgress{Code: "a"} })}
		}},
		{name: "code of a group's part", edge: 255, field: "group_progress[0].code", make: groupPart(func(p *taskv1.GroupProgress, n int) { p.Code = long(n) })},
		{name: "message of a group's part", edge: 1024, field: "group_progress[0].message", make: groupPart(func(p *taskv1.GroupProgress, n int) { p.Message = long(n) })},
		{name: "suffix of a group's part", edge: 255, field: "group_progress[0].suffix", make: groupPart(func(p *taskv1.GroupProgress, n int) { p.Suffix = long(n) })},
		{name: "total of a group's part", edge: 1 << 53, field: "group_progress[0].total", make: groupPart(func(p *taskv1.GroupProgress, n int) { p.Total = int64(n) })},
		{name: "done of a group's part", edge: 1 << 53, field: "group_progress[0].done", make: groupPart(func(p *taskv1.GroupProgress, n int) { p.Done = int64(n) })},
		{name: "done of a group's part, least", edge: 0, beyond: -1, field: "group_progress[0].done", make: groupPart(func(p *taskv1.GroupProgress, n int) { p.Done = int64(n) })},
		{name: "user name", edge: 150, field: "username", make: func(n int) proto.Message { return user(long(n), "correct horse") }},
		{name: "user name that is tried", edge: 150, field: "password.username", make: func(n int) proto.Message { return password(long(n), "") }},
		{name: "password", edge: 1024, field: "password", make: func(n int) proto.Message { return user("a", long(n)) }},
		{name: "password, least", edge: 8, beyond: 7, field: "password", make: func(n int) proto.Message { return user("a", long(n)) }},
		{name: "password that is tried", edge: 1024, field: "password.password", make: func(n int) proto.Message { return password("", long(n)) }},
		{name: "token that is tried", edge: 255, field: "token", make: func(n int) proto.Message { return token(long(n)) }},
		{name: "token to delete", edge: 255, field: "token", make: func(n int) proto.Message { return &accessv1.DeleteTokenRequest{Token: long(n)} }},
		{name: "name of a schedule", edge: 255, field: "schedule.name", make: func(n int) proto.Message {
			return schedule(func(s *dispatcherv1.TaskSchedule) { s.Name = long(n) })
		}},
		{name: "interval, ns", edge: int(10 * 365 * 24 * time.Hour), field: "schedule.dispatch_interval", make: func(n int) proto.Message {
			return schedule(func(s *dispatcherv1.TaskSchedule) { s.DispatchInterval = durationpb.New(time.Duration(n)) })
		}},
		{name: "interval, least", edge: int(time.Second), beyond: int(time.Second) - 1, field: "schedule.dispatch_interval", make: func(n int) proto.Message {
			return schedule(func(s *dispatcherv1.TaskSchedule) { s.DispatchInterval = durationpb.New(time.Duration(n)) })
		}},
		{name: "tasks to wait for", edge: 1000, field: "task_ids", make: func(n int) proto.Message {
			return &statusv1.WaitTasksRequest{TaskIds: times(n, func(int) string { return id })}
		}},
		{name: "tasks to wait for, least", edge: 1, beyond: -1, field: "task_ids", make: func(n int) proto.Message {
			return &statusv1.WaitTasksRequest{TaskIds: times(max(0, n), func(int) string { return id })}
		}},
		{name: "time to wait, ns", edge: int(5 * time.Minute), field: "timeout", make: func(n int) proto.Message {
			return &statusv1.WaitTasksRequest{TaskIds: []string{id}, Timeout: durationpb.New(time.Duration(n))}
		}},
		{name: "time to wait, least", edge: 0, beyond: -1, field: "timeout", make: func(n int) proto.Message {
			return &statusv1.WaitTasksRequest{TaskIds: []string{id}, Timeout: durationpb.New(time.Duration(n))}
		}},
		{name: "log", edge: 256 << 10, field: "text", make: func(n int) proto.Message {
			return &statusv1.PutTaskLogRequest{TaskId: id, Claim: 1, Text: long(n)}
		}},
		{name: "log's claim, least", edge: 1, beyond: -1, field: "claim", make: func(n int) proto.Message {
			return &statusv1.PutTaskLogRequest{TaskId: id, Claim: int64(n)}
		}},
		{name: "report's claim, least", edge: 1, beyond: -1, field: "claim", make: func(n int) proto.Message {
			return &statusv1.PutTaskReportRequest{TaskId: id, Claim: int64(n)}
		}},
		{name: "parts", edge: 100, field: "progress", make: func(n int) proto.Message {
			return &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Progress: times(n, func(int) *taskv1.Progress { return &taskv1.Progress{Code: "a"} })}
		}},
		{name: "code of a part", edge: 255, field: "progress[1].code", make: func(n int) proto.Message {
			return taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.Code = long(n) })
		}},
		{name: "message of a part", edge: 1024, field: "progress[1].message", make: func(n int) proto.Message {
			return taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.Message = long(n) })
		}},
		{name: "suffix of a part", edge: 255, field: "progress[1].suffix", make: func(n int) proto.Message {
			return taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.Suffix = long(n) })
		}},
		{name: "total of a part, least", edge: 0, beyond: -1, field: "progress[1].total", make: func(n int) proto.Message {
			return taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.Total = proto.Int64(int64(n)) })
		}},
		{name: "done of a part, least", edge: 0, beyond: -1, field: "progress[1].done", make: func(n int) proto.Message {
			return taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.Done = int64(n) })
		}},
		{name: "state of a part", edge: 7, field: "progress[1].state", make: func(n int) proto.Message {
			return taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.State = taskv1.State(n) })
		}},
		{name: "created", edge: 1000, field: "created", make: func(n int) proto.Message {
			return &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Created: times(n, func(int) *taskv1.CreatedResource { return &taskv1.CreatedResource{Resource: "a"} })}
		}},
		{name: "created resource", edge: 1024, field: "created[1].resource", make: func(n int) proto.Message {
			return taskReport(func(_ *taskv1.Progress, made *taskv1.CreatedResource) { made.Resource = long(n) })
		}},
		{name: "discarded", edge: 1000, field: "discarded", make: func(n int) proto.Message {
			return &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Discarded: times(n, numbered("r"))}
		}},
		{name: "discarded resource", edge: 1024, field: "discarded[0]", make: func(n int) proto.Message {
			return &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Discarded: []string{long(n)}}
		}},
		{name: "statistics of a name", edge: 255, field: "name", make: func(n int) proto.Message { return &statusv1.GetStatsRequest{Name: long(n)} }},
		{name: "statistics, ns back", edge: int(30 * 24 * time.Hour), field: "since", make: func(n int) proto.Message {
			return &statusv1.GetStatsRequest{Since: durationpb.New(time.Duration(n))}
		}},
		{name: "statistics, least", edge: int(time.Second), beyond: int(time.Second) - 1, field: "since", make: func(n int) proto.Message {
			return &statusv1.GetStatsRequest{Since: durationpb.New(time.Duration(n))}
		}},

		{name: "app name", edge: 255, field: "name", make: func(n int) proto.Message {
			return register(func(r *heartbeatv1.RegisterRequest) { r.Name = long(n) })
		}},
		{name: "app's components", edge: 64, field: "versions", make: func(n int) proto.Message {
			return register(func(r *heartbeatv1.RegisterRequest) { r.Versions = component(n) })
		}},
		{name: "time to live, ns", edge: int(time.Hour), field: "ttl", make: func(n int) proto.Message {
			return register(func(r *heartbeatv1.RegisterRequest) { r.Ttl = durationpb.New(time.Duration(n)) })
		}},
		{name: "time to live, least", edge: int(time.Second), beyond: int(time.Second) - 1, field: "ttl", make: func(n int) proto.Message {
			return register(func(r *heartbeatv1.RegisterRequest) { r.Ttl = durationpb.New(time.Duration(n)) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := violations(t, c.make(c.edge)); got != nil {
				t.Errorf("at the edge: %v", got)
			}
			beyond := c.beyond
			if beyond == 0 {
				beyond = c.edge + 1
			}
			if diff := cmp.Diff([]string{c.field}, fields(violations(t, c.make(beyond)))); diff != "" {
				t.Errorf("beyond the edge: %s", diff)
			}
		})
	}
}

func TestBadInputNamesTheFieldAndTheRule(t *testing.T) {
	for _, c := range []struct {
		name    string
		request proto.Message
		field   string
		rule    string // a part of it
	}{
		{"no task", &dispatcherv1.DispatchRequest{}, "task", "is required"},
		{"no name", spec(func(s *taskv1.TaskSpec) { s.Name = "" }), "task.name", "must not be empty or blank"},
		{"blank name", spec(func(s *taskv1.TaskSpec) { s.Name = " \t\n " }), "task.name", "must not be empty or blank"},
		{"blank in another alphabet", spec(func(s *taskv1.TaskSpec) { s.Name = "\u2003\u00a0" }), "task.name", "must not be empty or blank"},
		{"newline in name", spec(func(s *taskv1.TaskSpec) { s.Name = "a\nb" }), "task.name", "U+000A at byte 1"},
		{"zero in name", spec(func(s *taskv1.TaskSpec) { s.Name = "a\x00" }), "task.name", "U+0000 at byte 1"},
		{"delete in name", spec(func(s *taskv1.TaskSpec) { s.Name = "ä\x7f" }), "task.name", "U+007F at byte 2"},
		{"C1 control in name", spec(func(s *taskv1.TaskSpec) { s.Name = "a\u0085" }), "task.name", "U+0085 at byte 1"},
		{"invalid UTF-8", spec(func(s *taskv1.TaskSpec) { s.Name = "a\xff" }), "task.name", "must be valid UTF-8"},
		{"cut UTF-8", spec(func(s *taskv1.TaskSpec) { s.CorrelationId = "a\xe2\x82" }), "task.correlation_id", "must be valid UTF-8"},
		{"surrogate in UTF-8", spec(func(s *taskv1.TaskSpec) { s.ExclusiveResources = []string{"\xed\xa0\x80"} }), "task.exclusive_resources[0]", "must be valid UTF-8"},
		{"empty resource", spec(func(s *taskv1.TaskSpec) { s.ExclusiveResources = []string{"a", ""} }), "task.exclusive_resources[1]", "must not be empty or blank"},
		{"control in resource", spec(func(s *taskv1.TaskSpec) { s.SharedResources = []string{"a\tb"} }), "task.shared_resources[0]", "U+0009"},
		{"prefix in exclusive", spec(func(s *taskv1.TaskSpec) { s.ExclusiveResources = []string{"shared:a"} }), "task.exclusive_resources[0]", `must not begin with "shared:"`},
		{"prefix in shared", spec(func(s *taskv1.TaskSpec) { s.SharedResources = []string{"shared:"} }), "task.shared_resources[0]", "shared_resources without the prefix"},
		{"neither immediate nor deferred", spec(func(s *taskv1.TaskSpec) { s.Deferred = proto.Bool(false) }), "task.deferred", "at least one of immediate and deferred"},
		{"empty component", spec(func(s *taskv1.TaskSpec) { s.Versions = map[string]string{"": "1"} }), `task.versions[""]`, "must not be empty"},
		{"empty version", spec(func(s *taskv1.TaskSpec) { s.Versions = map[string]string{"core": ""} }), `task.versions["core"]`, "must not be empty"},
		{"component in invalid UTF-8", spec(func(s *taskv1.TaskSpec) { s.Versions = map[string]string{"a\xff": "1"} }), `task.versions["a\xff"]`, "must be valid UTF-8"},

		{"arguments are no JSON", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = "[1,]" }), "task.args_json", "must be valid JSON: invalid character ']'"},
		{"arguments are Python", spec(func(s *taskv1.TaskSpec) { s.KwargsJson = "{'a': None}" }), "task.kwargs_json", "at byte 2"},
		{"arguments are cut", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = `["a` }), "task.args_json", "must be valid JSON"},
		{"two values", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = `[] []` }), "task.args_json", "must be valid JSON"},
		{"only space", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = " " }), "task.args_json", "must be valid JSON"},
		{"no number", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = "[NaN]" }), "task.args_json", "must be valid JSON"},
		{"raw zero in JSON", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = "[\"\x00\"]" }), "task.args_json", "must be valid JSON"},
		{"invalid UTF-8 in JSON", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = "[\"\xff\"]" }), "task.args_json", "must be valid UTF-8"},
		{"byte order mark", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = "\ufeff[]" }), "task.args_json", "must be valid JSON"},
		{"very deep", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = nested(200_000) }), "task.args_json", "must"},
		{"arguments are an object", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = ` {"a":1}` }), "task.args_json", "must be a JSON array, is an object"},
		{"named arguments are an array", spec(func(s *taskv1.TaskSpec) { s.KwargsJson = "\n[]" }), "task.kwargs_json", "must be a JSON object, is an array"},
		{"arguments are a string", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = `"[]"` }), "task.args_json", "is a string"},
		{"arguments are a number", spec(func(s *taskv1.TaskSpec) { s.ArgsJson = `-1` }), "task.args_json", "is a number"},
		{"arguments are null", spec(func(s *taskv1.TaskSpec) { s.KwargsJson = `null` }), "task.kwargs_json", "is null"},
		{"arguments are true", spec(func(s *taskv1.TaskSpec) { s.KwargsJson = `true` }), "task.kwargs_json", "is a boolean"},

		{"no task in a batch", batch(newSpec("n"), nil), "tasks[1]", "is required"},
		{"component in a batch", batch(newSpec("n"), &taskv1.TaskSpec{Name: "n", Versions: map[string]string{"core": ""}}), `tasks[1].versions["core"]`, "must not be empty"},
		{"offered nothing", &schedulerv1.OfferRequest{Tasks: []*schedulerv1.OfferedTask{nil}}, "tasks[0].seq", "must be between 1 and"},
		{"offered without id", offer(func(o *schedulerv1.OfferedTask) { o.TaskId = "" }), "tasks[1].task_id", "is required"},
		{"offered with no UUID", offer(func(o *schedulerv1.OfferedTask) { o.TaskId = strings.ToUpper(id) }), "tasks[1].task_id", "must be a UUID"},
		{"control in description", &dispatcherv1.CreateTaskGroupRequest{Description: "a\nb"}, "description", "U+000A"},
		{"empty stream message", &schedulerv1.AcquireRequest{}, "message", "is required"},
		{"empty hello", &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Hello{}}, "hello.executor", "must not be empty"},
		{"held without a task", hello(func(h *schedulerv1.Hello) { h.Held = []*schedulerv1.Claim{{TaskId: id}, {}} }), "hello.held[1].task_id", "is required"},
		{"acknowledgement of nothing", report(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{{TaskId: id}, {}}}), "report.acknowledged[1].task_id", "is required"},
		{"acknowledgement of no id", report(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{{TaskId: "x"}}}), "report.acknowledged[0].task_id", "must be a UUID"},
		{"finish of nothing", report(&schedulerv1.Report{Finished: []*schedulerv1.Finish{{}}}), "report.finished[0].claim.task_id", "is required"},
		{"finish without outcome", finish(nil), "report.finished[1].outcome", "is required"},
		{"finish that runs on", finish(&taskv1.Outcome{State: taskv1.State_STATE_RUNNING}), "report.finished[1].outcome.state", "must be completed, failed or canceled"},
		{"finish as skipped", finish(&taskv1.Outcome{State: taskv1.State_STATE_SKIPPED}), "report.finished[1].outcome.state", "must be completed"},
		{"completed with error", finish(&taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, Error: &taskv1.TaskError{}}), "report.finished[1].outcome.error", "must not be set"},
		{"failed without error", failed(nil), "report.finished[1].outcome.error", "is required"},
		{"canceled without error", finish(&taskv1.Outcome{State: taskv1.State_STATE_CANCELED}), "report.finished[1].outcome.error", "is required"},
		{"failed with result", finish(&taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{}, ResultJson: "1"}), "report.finished[1].outcome.result_json", "must not be set"},
		{"result is no JSON", finish(&taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: "yes"}), "report.finished[1].outcome.result_json", "must be valid JSON"},
		{"resource without name", &schedulerv1.GetResourceRequest{}, "name", "must not be empty"},

		{"retry of an immediate task", spec(func(s *taskv1.TaskSpec) { s.Immediate, s.Retry = true, &taskv1.RetryPolicy{MaxAttempts: 2} }), "task.retry", "must not be set for an immediate task"},
		{"policy without attempts", retry(func(r *taskv1.RetryPolicy) { r.MaxAttempts = 0 }), "task.retry.max_attempts", "between 1 and 100, is 0"},
		{"code in small letters", retry(func(r *taskv1.RetryPolicy) { r.On = []string{"TIMEOUT", "error"} }), "task.retry.on[1]", "capital letters"},
		{"empty code", retry(func(r *taskv1.RetryPolicy) { r.On = []string{""} }), "task.retry.on[0]", "must be 1 to 64 capital letters"},
		{"code of an error", failed(&taskv1.TaskError{Code: "A B"}), "report.finished[1].outcome.error.code", "capital letters"},
		{"blank diagnostic", spec(func(s *taskv1.TaskSpec) { s.ProfileOptions = []string{"a", " "} }), "task.profile_options[1]", "must not be empty"},
		{"file that is no id", spec(func(s *taskv1.TaskSpec) { s.FileIds = []string{id, "x"} }), "task.file_ids[1]", "must be a UUID"},
		{"file with a path", &dispatcherv1.PutFileRequest{Name: "a/b"}, "name", "without a slash"},
		{"file of the folder", &dispatcherv1.PutFileRequest{Name: ".."}, "name", "must be the name of a file"},
		{"control in a file's name", &dispatcherv1.PutFileRequest{Name: "a\n"}, "name", "U+000A"},
		{"no time limit that could be kept", spec(func(s *taskv1.TaskSpec) { s.Timeout = &durationpb.Duration{} }), "task.timeout", "between 1ms and 720h0m0s, is 0s"},

		{"worker that says nothing", &executorv1.WorkRequest{}, "message", "is required"},
		{"worker without handlers", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Hello{}}, "hello.handlers", "between 1 and"},
		{"name with a slash", workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) { h.Name = "a/b" }), "hello.name", "letters, digits"},
		{"handler given twice", workerHello(func(_ *executorv1.WorkerHello, h *executorv1.TaskHandler) { h.Name = "a" }), "hello.handlers[1].name", "must not be given twice: \"a\""},
		{"handler without name", workerHello(func(_ *executorv1.WorkerHello, h *executorv1.TaskHandler) { h.Name = "" }), "hello.handlers[1].name", "must not be empty"},
		{"start of nothing", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Started{}}, "started.task_id", "is required"},
		{"end of nothing", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Ended{}}, "ended.task_id", "is required"},
		{"progress of nothing", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Progress{}}, "progress.task_id", "is required"},
		{"log of nothing", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Log{}}, "log.task_id", "is required"},
		{"call of nothing", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Call{}}, "call.task_id", "is required"},
		{"created by nothing", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Created{}}, "created.task_id", "is required"},
		{"discarded of nothing", &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Discarded{}}, "discarded.task_id", "is required"},
		{"discarded without name", notDiscarded(map[string]string{"": "why"}), `discarded.failed[""]`, "must not be empty"},

		{"part without code", taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.Code = "" }), "progress[1].code", "must not be empty"},
		{"control in a message", taskReport(func(p *taskv1.Progress, _ *taskv1.CreatedResource) { p.Message = "a\r" }), "progress[1].message", "U+000D"},
		{"created without name", taskReport(func(_ *taskv1.Progress, made *taskv1.CreatedResource) { made.Resource = " " }), "created[1].resource", "must not be empty"},
		{"zero in what was created", taskReport(func(_ *taskv1.Progress, made *taskv1.CreatedResource) { made.Resource = "a\x00" }), "created[1].resource", "U+0000"},
		{"discarded without a name", &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Discarded: []string{""}}, "discarded[0]", "must not be empty"},

		{"unknown state", &statusv1.ListTasksRequest{States: []taskv1.State{taskv1.State_STATE_RUNNING, 77}}, "states[1]", "is 77"},
		{"unset state", &statusv1.ListTasksRequest{States: []taskv1.State{0}}, "states[0]", "must be a known state"},
		{"offset with token", &statusv1.ListTasksRequest{Offset: 1, PageToken: "a"}, "offset", "not be given together"},
		{"blank resource filter", &statusv1.ListTasksRequest{Resources: []string{" "}}, "resources[0]", "must not be empty"},
		{"no duration", &statusv1.WaitTasksRequest{TaskIds: []string{id}, Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}, "timeout", "must be a valid duration"},
		{"duration beyond int64", &statusv1.WaitTasksRequest{TaskIds: []string{id}, Timeout: &durationpb.Duration{Seconds: 300_000_000_000}}, "timeout", "must be between"},

		{"control in request id", spec(func(s *taskv1.TaskSpec) { s.RequestId = "a\n" }), "task.request_id", "U+000A"},
		{"purge of what ended when", purge(func(r *dispatcherv1.PurgeTasksRequest) { r.FinishedBefore = nil }), "finished_before", "is required"},
		{"purge before no time", purge(func(r *dispatcherv1.PurgeTasksRequest) { r.FinishedBefore = &timestamppb.Timestamp{Nanos: -1} }), "finished_before", "must be a valid time"},
		{"purge of what lives", purge(func(r *dispatcherv1.PurgeTasksRequest) { r.States = []taskv1.State{4, taskv1.State_STATE_CANCELING} }), "states[1]", "must be a final state"},
		{"purge of what runs", purge(func(r *dispatcherv1.PurgeTasksRequest) { r.States = []taskv1.State{taskv1.State_STATE_RUNNING} }), "states[0]", "must be a final state"},
		{"purge of no state", purge(func(r *dispatcherv1.PurgeTasksRequest) { r.States = []taskv1.State{0} }), "states[0]", "must be a final state"},
		{"silence of no length", &heartbeatv1.BeatRequest{Incarnation: id, Hearing: &heartbeatv1.Hearing{Epoch: 1}}, "hearing.silent_for", "is required"},
		{"replaces no life", register(func(r *heartbeatv1.RegisterRequest) { r.Replaces = "x" }), "replaces", "must be a UUID"},

		{"no time to live", register(func(r *heartbeatv1.RegisterRequest) { r.Ttl = nil }), "ttl", "is required"},
		{"no kind", register(func(r *heartbeatv1.RegisterRequest) { r.Kind = 0 }), "kind", "is required"},
		{"unknown kind", register(func(r *heartbeatv1.RegisterRequest) { r.Kind = 9 }), "kind", "is required"},
		{"unknown kind in list", &heartbeatv1.ListAppsRequest{Kind: 9}, "kind", "must be a known kind, is 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := violations(t, c.request)
			if len(got) == 0 || got[0].Field != c.field || !strings.Contains(got[0].Rule, c.rule) {
				t.Errorf("got %q, want %s: …%s…", got, c.field, c.rule)
			}
		})
	}
}

func TestGoodInputPasses(t *testing.T) {
	for name, request := range map[string]proto.Message{
		"nothing but a name":    spec(func(*taskv1.TaskSpec) {}),
		"explicitly deferred":   spec(func(s *taskv1.TaskSpec) { s.Deferred = proto.Bool(true) }),
		"immediate alone":       spec(func(s *taskv1.TaskSpec) { s.Immediate, s.Deferred = true, proto.Bool(false) }),
		"both":                  spec(func(s *taskv1.TaskSpec) { s.Immediate, s.Deferred = true, proto.Bool(true) }),
		"in both lists":         spec(func(s *taskv1.TaskSpec) { s.ExclusiveResources, s.SharedResources = []string{"a"}, []string{"a"} }),
		"prefix in the middle":  spec(func(s *taskv1.TaskSpec) { s.ExclusiveResources = []string{"not shared:a"} }),
		"other alphabets":       spec(func(s *taskv1.TaskSpec) { s.Name, s.ExclusiveResources = "näme 🚰", []string{"資源"} }),
		"JSON with space":       spec(func(s *taskv1.TaskSpec) { s.ArgsJson, s.KwargsJson = " \n[ 1 ]\t", "\r\n{ }" }),
		"JSON with big numbers": spec(func(s *taskv1.TaskSpec) { s.ArgsJson = "[1e400, 123456789012345678901234567890]" }),
		"brackets in strings":   spec(func(s *taskv1.TaskSpec) { s.ArgsJson = `["` + strings.Repeat(`[{\"\\`, 500) + `"]` }),
		"empty report":          report(&schedulerv1.Report{}),
		"plain hint":            &schedulerv1.OfferRequest{},
		"failed":                failed(&taskv1.TaskError{Description: "a\x00b\n"}),
		"completed with null":   finish(&taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: "null"}),
		"completed with none":   finish(&taskv1.Outcome{State: taskv1.State_STATE_COMPLETED}),
		"drain":                 &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Drain{}},
		"all states":            &statusv1.ListTasksRequest{States: []taskv1.State{1, 2, 3, 4, 5, 6, 7}},
		"unset timeout":         &statusv1.WaitTasksRequest{TaskIds: []string{id}},
		"log with controls":     &statusv1.PutTaskLogRequest{TaskId: id, Claim: 1, Text: "a\x00\x1b[0m\n"},
		"any kind":              &heartbeatv1.ListAppsRequest{},
		"no time limit":         spec(func(s *taskv1.TaskSpec) { s.Timeout = nil }),
		"retry at once":         retry(func(r *taskv1.RetryPolicy) { r.Backoff, r.MaxBackoff = durationpb.New(0), durationpb.New(0) }),
		"retry what a user has": retry(func(r *taskv1.RetryPolicy) { r.On = []string{"E_404", "TIMEOUT"} }),
		"part of a file":        &dispatcherv1.PutFileRequest{Data: []byte{0, 255}},
		"hidden file":           &dispatcherv1.PutFileRequest{Name: ".profile.."},
		"empty report of work":  &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1},
		"part without a state":  taskReport(func(*taskv1.Progress, *taskv1.CreatedResource) {}),
		"worker with a name":    workerHello(func(h *executorv1.WorkerHello, _ *executorv1.TaskHandler) { h.Name = "py-1_a.B" }),
		"worker that drains":    &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Drain{}},
		"nothing left over":     notDiscarded(nil),
		"purge of everything":   purge(func(*dispatcherv1.PurgeTasksRequest) {}),
		"purge of what ended": purge(func(r *dispatcherv1.PurgeTasksRequest) {
			r.States = []taskv1.State{taskv1.State_STATE_COMPLETED, taskv1.State_STATE_FAILED, taskv1.State_STATE_CANCELED, taskv1.State_STATE_SKIPPED}
		}),
		"beat that hears":        &heartbeatv1.BeatRequest{Incarnation: id, Hearing: &heartbeatv1.Hearing{Epoch: 3, SilentFor: durationpb.New(time.Hour)}},
		"beat that hears none":   &heartbeatv1.BeatRequest{Incarnation: id},
		"pulse":                  &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Pulse{}},
		"request id of a person": spec(func(s *taskv1.TaskSpec) { s.RequestId = "nightly 2026-03-01 ü" }),
		"why, in lines":          notDiscarded(map[string]string{"/a/": "no\nway\x00"}),
	} {
		if got := violations(t, request); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestIDsHaveOneSpelling(t *testing.T) {
	if got := violations(t, &statusv1.GetTaskRequest{TaskId: id}); got != nil {
		t.Errorf("%s: %v", id, got)
	}
	for _, spelling := range []string{
		strings.ToUpper(id), "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), id + " ", " " + id, id[:35], id + "0",
		"g" + id[1:], strings.Replace(id, "-", "_", 1), "/pulp/api/v3/tasks/" + id + "/", "1", "\x00", "\xff",
	} {
		for _, request := range []proto.Message{
			&statusv1.GetTaskRequest{TaskId: spelling}, &dispatcherv1.CancelRequest{TaskId: spelling},
			&heartbeatv1.BeatRequest{Incarnation: spelling}, &statusv1.ListTasksRequest{GroupId: spelling},
			spec(func(s *taskv1.TaskSpec) { s.ParentId = spelling }),
		} {
			got := violations(t, request)
			if len(got) != 1 || !strings.HasPrefix(got[0].Rule, "must be a UUID in lower case") {
				t.Errorf("%T with %q: %v", request, spelling, got)
			}
		}
	}
	for _, required := range []proto.Message{
		&statusv1.GetTaskRequest{}, &statusv1.WatchTaskRequest{}, &statusv1.GetTaskGroupRequest{}, &statusv1.GetTaskLogRequest{},
		&dispatcherv1.CancelRequest{}, &dispatcherv1.DeleteRequest{}, &schedulerv1.ExplainRequest{},
		&heartbeatv1.BeatRequest{}, &heartbeatv1.DeregisterRequest{}, &statusv1.PutTaskLogRequest{Claim: 1},
	} {
		if got := violations(t, required); len(got) != 1 || got[0].Rule != "is required" {
			t.Errorf("%T: %v", required, got)
		}
	}
}

func TestAllBrokenFieldsAreNamedAtOnceAndEachOnce(t *testing.T) {
	got := violations(t, &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{
		Name: "", ArgsJson: "{}", KwargsJson: "[]", ExclusiveResources: []string{"ok", "", "shared:" + long(1024)}, SharedResources: []string{"a\nb"},
		Deferred: proto.Bool(false), Versions: map[string]string{" ": "", "core": "1"}, ParentId: "x", GroupId: "y", CorrelationId: "\x01",
	}})
	want := []string{
		"task.name", "task.args_json", "task.kwargs_json", "task.exclusive_resources[1]", "task.exclusive_resources[2]",
		"task.shared_resources[0]", "task.deferred", `task.versions[" "]`, "task.parent_id", "task.group_id", "task.correlation_id",
	}
	if diff := cmp.Diff(want, fields(got)); diff != "" {
		t.Error(diff)
	}
}

func TestEveryBadTaskOfABatchIsNamed(t *testing.T) {
	tasks := times(100, func(int) *taskv1.TaskSpec { return newSpec("n") })
	tasks[3].Name, tasks[3].ArgsJson = "", "{}"
	tasks[40].SharedResources = []string{"a", "shared:b"}
	tasks[99] = nil
	want := []string{"tasks[3].name", "tasks[3].args_json", "tasks[40].shared_resources[1]", "tasks[99]"}
	if diff := cmp.Diff(want, fields(violations(t, batch(tasks...)))); diff != "" {
		t.Error(diff)
	}
}

// What an executor lets pass must not cost it its line, and what it refuses must not be what a scheduler would have taken.
func TestCheckOfAnOutcomeAgreesWithThatOfItsReport(t *testing.T) {
	const completed, failed = taskv1.State_STATE_COMPLETED, taskv1.State_STATE_FAILED
	for _, o := range []*taskv1.Outcome{
		nil,
		{},
		{State: completed},
		{State: completed, ResultJson: "1"},
		{State: completed, ResultJson: "yes"},
		{State: completed, ResultJson: nested(101)},
		{State: completed, Error: &taskv1.TaskError{}},
		{State: failed},
		{State: failed, ResultJson: "1"},
		{State: failed, Error: &taskv1.TaskError{}},
		{State: failed, Error: &taskv1.TaskError{Reason: long(64<<10 + 1), Traceback: long(64<<10 + 1)}},
		{State: taskv1.State_STATE_SKIPPED},
	} {
		var own []errs.Violation
		var e *errs.Error
		if errors.As(limits.CheckOutcome(o), &e) {
			own = e.Violations
		}
		for i := range own {
			own[i].Field = "report.finished[1]." + own[i].Field
		}
		if diff := cmp.Diff(violations(t, finish(o)), own); diff != "" {
			t.Errorf("%.100s: %s", o, diff)
		}
	}
}

func TestCallsAreCheckedBeforeAnybodyIsAskedForThem(t *testing.T) {
	dispatch := func(s *taskv1.TaskSpec) *executorv1.Call {
		return &executorv1.Call{Request: &executorv1.Call_Dispatch{Dispatch: s}}
	}
	group := func(text string) *executorv1.Call {
		return &executorv1.Call{Request: &executorv1.Call_NewGroup{NewGroup: &executorv1.NewGroup{Description: text}}}
	}
	keep := func(path string) *executorv1.Call {
		return &executorv1.Call{Request: &executorv1.Call_KeepFile{KeepFile: &executorv1.KeepFile{Path: path}}}
	}
	fetch := func(file string) *executorv1.Call {
		return &executorv1.Call{Request: &executorv1.Call_FetchFile{FetchFile: &executorv1.FetchFile{FileId: file}}}
	}
	for _, c := range []struct {
		call  *executorv1.Call
		field string // "" for one that is right
	}{
		{dispatch(newSpec("n")), ""},
		{dispatch(newSpec("")), "dispatch.name"},
		{dispatch(nil), "dispatch"},
		{group(""), ""},
		{group(long(1024)), ""},
		{group(long(1025)), "new_group.description"},
		{keep("a/b"), ""},
		{keep(long(4096)), ""},
		{keep(long(4097)), "keep_file.path"},
		{keep(""), "keep_file.path"},
		{fetch(id), ""},
		{fetch("x"), "fetch_file.file_id"},
		{&executorv1.Call{}, "request"},
		{nil, "request"},
	} {
		var e *errs.Error
		got := ""
		if errors.As(limits.CheckCall(c.call), &e) {
			got = strings.Join(fields(e.Violations), " ")
		}
		if got != c.field {
			t.Errorf("%.60s: %q, want %q", c.call, got, c.field)
		}
	}
}

// The SDK asks before it sends: what it lets pass must not be refused.
func TestWhatAHandlerMayTellAgreesWithTheReportOfIt(t *testing.T) {
	for _, p := range []*taskv1.Progress{nil, {}, {Code: "a"}, {Code: "a", Done: -1}, {Code: "a", Message: "\n"}, {Code: "a", State: 9}} {
		request := &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Progress: []*taskv1.Progress{p}}
		if own, sent := limits.CheckProgress(p) != nil, limits.Check(request) != nil; own != sent {
			t.Errorf("%v is refused: %v, its report: %v", p, own, sent)
		}
	}
	for _, name := range []string{"", " ", "/a/", long(1024), long(1025), "a\x00", "\xff"} {
		request := &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Created: []*taskv1.CreatedResource{{Resource: name}}}
		if own, sent := limits.CheckCreated(name) != nil, limits.Check(request) != nil; own != sent {
			t.Errorf("%.20q is refused: %v, its report: %v", name, own, sent)
		}
	}
}

// A thousand broken resources, or names that are megabytes long, must not make an answer that no client can take.
func TestAnswersStaySmallHoweverMuchIsBroken(t *testing.T) {
	versions := map[string]string{}
	for i := range 64 {
		versions[fmt.Sprint(i, long(1<<16))] = ""
	}
	for name, request := range map[string]proto.Message{
		"resources": spec(func(s *taskv1.TaskSpec) { s.SharedResources = times(1000, func(int) string { return "\x01" }) }),
		"versions":  spec(func(s *taskv1.TaskSpec) { s.Versions = versions }),
		"batch": batch(times(1000, func(int) *taskv1.TaskSpec {
			return &taskv1.TaskSpec{Name: "n", Versions: map[string]string{long(1 << 10): ""}}
		})...),
		"report":         report(&schedulerv1.Report{Finished: make([]*schedulerv1.Finish, 10_000)}),
		"offer":          &schedulerv1.OfferRequest{Tasks: make([]*schedulerv1.OfferedTask, 2000)},
		"task names":     hello(func(h *schedulerv1.Hello) { h.TaskNames = make([]string, 10_000) }),
		"held":           hello(func(h *schedulerv1.Hello) { h.Held = make([]*schedulerv1.Claim, 100_000) }),
		"report of work": &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Progress: make([]*taskv1.Progress, 100), Created: make([]*taskv1.CreatedResource, 1000)},
		"not deleted":    notDiscarded(versions),
		"states":         &statusv1.ListTasksRequest{States: make([]taskv1.State, 100_000)},
	} {
		var e *errs.Error
		if !errors.As(limits.Check(request), &e) || len(e.Violations) != limits.MaxViolations {
			t.Errorf("%s: %d violations, want %d", name, len(e.Violations), limits.MaxViolations)
		}
		// The details travel in base64, the message as it is.
		if size := len(e.Message) + proto.Size(e.GRPCStatus().Proto())*4/3; size > 8<<10 {
			t.Errorf("%s: the answer takes %d bytes of headers", name, size)
		}
	}
}

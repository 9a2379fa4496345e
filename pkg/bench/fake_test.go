package bench_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// system is a Sluice of a hundred lines: it runs the handlers of a mux one after the other in the order of dispatch, which
// keeps every promise, unless it is told to break one.
type system struct {
	mux *worker.Mux

	// lose is the place of a task that is never run, repeat that of one that is run twice, late that of one that is run after
	// the one behind it, silent that of one whose end is not told to followers. 0: none; the first is 1.
	lose, repeat, late, silent int
	// deaf: the first stream of changes breaks after so many messages.
	deaf int
	// refuse: a dispatch of this task is an error.
	refuse int
	// leak: the gate is no gate, and what should wait behind it runs.
	leak bool

	mu       sync.Mutex
	placed   int
	tasks    map[string]*taskv1.Task
	order    []string
	queue    chan *taskv1.Task
	follower chan *schedulerv1.Change
	broke    bool
	calls    map[string]int
}

// start serves the system and runs what it is given until it is stopped.
func (s *system) start(t *testing.T) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	s.tasks, s.calls = map[string]*taskv1.Task{}, map[string]int{}
	s.queue, s.follower = make(chan *taskv1.Task, 100_000), make(chan *schedulerv1.Change, 100_000)
	conn, stopServing := rpctest.Serve(t, func(r grpc.ServiceRegistrar) {
		dispatcherv1.RegisterDispatcherServiceServer(r, dispatcher{system: s})
		schedulerv1.RegisterSchedulerServiceServer(r, scheduler{system: s})
		statusv1.RegisterStatusServiceServer(r, status{system: s})
	})
	var running sync.WaitGroup
	running.Go(func() {
		for task := range s.queue {
			s.run(task)
		}
	})
	stop = sync.OnceFunc(func() {
		stopServing()
		close(s.queue)
		running.Wait()
	})
	t.Cleanup(stop)
	return conn, stop
}

// store takes a task in. The system's places count those that may run.
func (s *system) store(method string, spec *taskv1.TaskSpec) (*taskv1.Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[method]++
	task := &taskv1.Task{
		Id: uuid.NewString(), Name: spec.GetName(), State: taskv1.State_STATE_WAITING, CorrelationId: spec.GetCorrelationId(),
		ExclusiveResources: spec.GetExclusiveResources(), SharedResources: spec.GetSharedResources(), Versions: spec.GetVersions(),
	}
	s.tasks[task.GetId()] = task
	s.order = append(s.order, task.GetId())
	if s.waits(task) && !s.leak {
		return task, nil
	}
	s.placed++
	if s.placed == s.refuse {
		return nil, errs.Away(errs.DatabaseAway, nil, "the database is away")
	}
	s.queue <- task
	return task, nil
}

// waits tells the gate, which nobody can run, and what waits behind it.
func (s *system) waits(task *taskv1.Task) bool {
	for _, name := range task.GetSharedResources() {
		if len(name) > 5 && name[len(name)-5:] == ":gate" {
			return true
		}
	}
	return task.GetName() == "bench.gate"
}

func (s *system) run(task *taskv1.Task) {
	s.mu.Lock()
	place := slices.Index(s.order, task.GetId()) + 1
	s.mu.Unlock()
	switch place {
	case s.lose:
		return
	case s.repeat:
		s.handle(task, 1)
		s.handle(task, 2)
	case s.late:
		next := <-s.queue
		s.run(next)
		s.handle(task, 1)
	default:
		s.handle(task, 1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	task.State = taskv1.State_STATE_COMPLETED
	if place != s.silent {
		s.follower <- &schedulerv1.Change{TaskId: task.GetId(), State: task.GetState()}
	}
}

func (s *system) handle(task *taskv1.Task, claim int64) {
	s.mux.Run(context.Background(), worker.Run{Assignment: &taskv1.Assignment{
		TaskId: task.GetId(), Claim: claim, Name: task.GetName(), CorrelationId: task.GetCorrelationId(),
	}})
}

type dispatcher struct {
	dispatcherv1.UnimplementedDispatcherServiceServer
	*system
}

func (d dispatcher) Dispatch(_ context.Context, r *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	task, err := d.store("Dispatch", r.GetTask())
	return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: task.GetId()}}, err
}

func (d dispatcher) DispatchBatch(_ context.Context, r *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error) {
	answer := &dispatcherv1.DispatchBatchResponse{}
	for _, spec := range r.GetTasks() {
		task, err := d.store("DispatchBatch", spec)
		if err != nil {
			return nil, err
		}
		answer.Tasks = append(answer.GetTasks(), &taskv1.Task{Id: task.GetId()})
	}
	return answer, nil
}

func (d dispatcher) Cancel(_ context.Context, r *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls["Cancel "+d.tasks[r.GetTaskId()].GetName()]++
	d.tasks[r.GetTaskId()].State = taskv1.State_STATE_CANCELED
	return &dispatcherv1.CancelResponse{}, nil
}

type scheduler struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	*system
}

func (s scheduler) Follow(_ *schedulerv1.FollowRequest, stream grpc.ServerStreamingServer[schedulerv1.FollowResponse]) error {
	if err := stream.Send(&schedulerv1.FollowResponse{}); err != nil {
		return err
	}
	for n := 1; ; n++ {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case c := <-s.follower:
			if n == s.deaf && !s.broke {
				s.broke = true // with what it was about to send
				return errors.New("the line is cut")
			}
			// Somebody else's task in between.
			foreign := &schedulerv1.Change{TaskId: uuid.NewString(), State: taskv1.State_STATE_COMPLETED}
			started := &schedulerv1.Change{TaskId: c.GetTaskId(), State: taskv1.State_STATE_RUNNING}
			if err := stream.Send(&schedulerv1.FollowResponse{Changes: []*schedulerv1.Change{foreign, started, c}}); err != nil {
				return err
			}
		}
	}
}

type status struct {
	statusv1.UnimplementedStatusServiceServer
	*system
}

func (s status) WaitTasks(_ context.Context, r *statusv1.WaitTasksRequest) (*statusv1.WaitTasksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls["WaitTasks"]++
	answer := &statusv1.WaitTasksResponse{}
	for _, id := range r.GetTaskIds() {
		task, known := s.tasks[id]
		if !known {
			return nil, fmt.Errorf("no task %s", id)
		}
		answer.Tasks = append(answer.GetTasks(), &taskv1.Task{Id: id, State: task.GetState()})
	}
	return answer, nil
}

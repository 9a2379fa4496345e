// Package clienttest is a Sluice in memory, for tests of programs that talk to one: the real gRPC server with its checks of
// every request, on loopback, and behind it a map of tasks that do what the test says.
//
// # Owns
//
// A listener, a server and the tasks. Nothing is scheduled: a task changes when the test changes it.
//
// # States
//
// up, and down between Stop and Start; the tasks outlive both.
//
// # Failure
//
// What can't be set up fails the test.
package clienttest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// Epoch is when the first task is dispatched; each further one is a second younger.
var Epoch = time.Date(2026, time.January, 2, 3, 4, 5, 123456000, time.UTC)

// Server is the Sluice in memory. Its fields are answers that are given as they are; set them before the first call.
type Server struct {
	// Addr is host:port, the same after a restart.
	Addr string

	Explanation *schedulerv1.ExplainResponse
	Resources   *schedulerv1.ListResourcesResponse
	Resource    *schedulerv1.GetResourceResponse
	Apps        *heartbeatv1.ListAppsResponse
	Stats       *statusv1.GetStatsResponse
	System      *statusv1.GetSystemStatusResponse
	Log         *statusv1.GetTaskLogResponse
	Load        *schedulerv1.GetLoadResponse
	// Skips: all pieces of logs come after something that was left out.
	Skips bool
	// Groups are listed and shown as they stand here; others are shown with their members counted.
	Groups []*statusv1.GetTaskGroupResponse
	// OnDispatch, if set, changes a task before it is stored.
	OnDispatch func(*taskv1.Task)
	// Fail, if set, is asked before every call; an error is the answer.
	Fail func(method string) error
	// Lose, if set, is asked after every unary call that worked; an error takes the place of its answer.
	Lose func(method string) error
	// OnPurge, if set, answers PurgeTasks.
	OnPurge func(*dispatcherv1.PurgeTasksRequest) (*dispatcherv1.PurgeTasksResponse, error)
	// Damage, if set, changes what GetFile is about to send.
	Damage func([]*dispatcherv1.GetFileResponse) []*dispatcherv1.GetFileResponse

	tb     testing.TB
	server *rpc.Server
	served chan struct{}
	calls  chan string
	sent   chan sent

	mu    sync.Mutex
	tasks map[string]*taskv1.Task
	told  map[string]*statusv1.GetTaskResponse // its reports and attempts
	logs  map[attempt]string
	specs []*taskv1.TaskSpec
	// requests are the ids of tasks by their request ids, requested the latter in the order in which they came.
	requests  map[string]string
	requested []string
	files     map[string]file
	schedules []*dispatcherv1.TaskSchedule
	uploads   int
	changed   chan struct{} // closed and replaced at each change
}

// New starts a server that stops with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{
		Addr: "127.0.0.1:0", tb: tb, tasks: map[string]*taskv1.Task{}, told: map[string]*statusv1.GetTaskResponse{}, files: map[string]file{},
		logs:     map[attempt]string{},
		requests: map[string]string{},
		changed:  make(chan struct{}), calls: make(chan string, 1000), sent: make(chan sent, 1000),
	}
	s.Start()
	tb.Cleanup(s.Stop)
	return s
}

// Start serves again after Stop.
func (s *Server) Start() {
	s.tb.Helper()
	listener, err := rpc.Listen(context.Background(), s.Addr)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.Addr = listener.Addr().String()
	s.server = rpc.NewServer(slog.New(slog.DiscardHandler), grpc.ChainUnaryInterceptor(s.unary), grpc.ChainStreamInterceptor(s.stream))
	dispatcherv1.RegisterDispatcherServiceServer(s.server, dispatcher{Server: s})
	statusv1.RegisterStatusServiceServer(s.server, status{Server: s})
	schedulerv1.RegisterSchedulerServiceServer(s.server, scheduler{Server: s})
	heartbeatv1.RegisterHeartbeatServiceServer(s.server, heartbeat{Server: s})
	served := make(chan struct{})
	s.served = served
	go func() {
		defer close(served)
		_ = s.server.Serve(listener) // ends with an error when stopped, which is the plan
	}()
}

// Stop cuts all connections. Calls in flight end as UNAVAILABLE for their callers.
func (s *Server) Stop() {
	s.server.Server.Stop()
	<-s.served
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.called(info.FullMethod); err != nil {
		return nil, err
	}
	answer, err := handler(ctx, req)
	if err == nil && s.Lose != nil {
		err = s.Lose(info.FullMethod)
	}
	return answer, err
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := s.called(info.FullMethod); err != nil {
		return err
	}
	return handler(srv, stream)
}

func (s *Server) called(method string) error {
	select {
	case s.calls <- method:
	default: // a test that counts on calls has far fewer of them
	}
	if s.Fail == nil {
		return nil
	}
	return s.Fail(method)
}

// AwaitCall returns when the method, for example statusv1.StatusService_WaitTasks_FullMethodName, was called once more since
// it was last awaited.
func (s *Server) AwaitCall(method string) {
	s.tb.Helper()
	for {
		select {
		case got := <-s.calls:
			if got == method {
				return
			}
		case <-time.After(30 * time.Second):
			s.tb.Errorf("%s was not called", method)
			return
		}
	}
}

// Requests returns the request ids of all calls so far, a repeated one as often as it came.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requested)
}

// Specs returns what was dispatched so far, each task once, without its request id.
func (s *Server) Specs() []*taskv1.TaskSpec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.specs)
}

// ID is the id of the nth task, from 1.
func ID(n int) string { return fmt.Sprintf("01900000-0000-7000-8000-%012d", n) }

// Put stores a task as if it had been dispatched: what it leaves out of id, seq, state and times is filled in.
func (s *Server) Put(t *taskv1.Task) *taskv1.Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.tasks) + 1
	at := timestamppb.New(Epoch.Add(time.Duration(n-1) * time.Second))
	t = proto.CloneOf(t)
	t.Id = cmp.Or(t.GetId(), ID(n))
	t.Seq = cmp.Or(t.GetSeq(), int64(n))
	t.State = cmp.Or(t.GetState(), taskv1.State_STATE_WAITING)
	t.Domain = cmp.Or(t.GetDomain(), "default")
	t.CreatedAt = cmp.Or(t.GetCreatedAt(), at)
	t.UpdatedAt = cmp.Or(t.GetUpdatedAt(), at)
	s.tasks[t.GetId()] = t
	s.announce()
	return proto.CloneOf(t)
}

// Change changes a task; everybody who waits for it learns of it.
func (s *Server) Change(id string, change func(*taskv1.Task)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.tasks[id])
	s.announce()
}

// Tell stores what a task has told of its work, and its attempts that failed, in place of what was stored before. The states of
// parts are shown as they are given.
func (s *Server) Tell(id string, report *statusv1.TaskReport, attempts ...*statusv1.Attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[id] = &statusv1.GetTaskResponse{Report: report, Attempts: attempts}
}

// Print lets the present attempt of a task print something.
func (s *Server) Print(id, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[attempt{id, s.tasks[id].GetAttempt()}] += text
	s.announce()
}

// End lets the present attempt of a task print something, and the task complete, at the same moment.
func (s *Server) End(id, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	s.logs[attempt{id, t.GetAttempt()}] += text
	t.State = taskv1.State_STATE_COMPLETED
	s.announce()
}

// Forget drops what the present attempt of a task has printed.
func (s *Server) Forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.logs, attempt{id, s.tasks[id].GetAttempt()})
}

// attempt is one of a task.
type attempt struct {
	id     string
	number int32
}

func (s *Server) printed(id string, number int32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[attempt{id, number}]
}

// Start and end a task at fixed times after its dispatch.
const (
	unblockedAfter = 2 * time.Millisecond
	startedAfter   = 12 * time.Millisecond
	finishedAfter  = 1512 * time.Millisecond
)

// Run makes a task running on "worker-1".
func Run(t *taskv1.Task) {
	created := t.GetCreatedAt().AsTime()
	t.State = taskv1.State_STATE_RUNNING
	t.UnblockedAt = timestamppb.New(created.Add(unblockedAfter))
	t.StartedAt = timestamppb.New(created.Add(startedAfter))
	t.UpdatedAt = t.GetStartedAt()
	t.Executor, t.Attempt, t.Claim = "worker-1", 1, 1
}

// Complete lets a task end well.
func Complete(result string) func(*taskv1.Task) {
	return func(t *taskv1.Task) {
		Run(t)
		t.State = taskv1.State_STATE_COMPLETED
		t.ResultJson = result
		t.FinishedAt = timestamppb.New(t.GetCreatedAt().AsTime().Add(finishedAfter))
		t.UpdatedAt = t.GetFinishedAt()
	}
}

// End lets a task end otherwise.
func End(state taskv1.State, err *taskv1.TaskError) func(*taskv1.Task) {
	return func(t *taskv1.Task) {
		Complete("")(t)
		t.State, t.Error = state, err
	}
}

// announce wakes all that wait. The caller holds mu.
func (s *Server) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Remove forgets a task, as if somebody had deleted it.
func (s *Server) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
	s.announce()
}

// AwaitSent returns when a watcher was sent the task in this state.
func (s *Server) AwaitSent(id string, state taskv1.State) {
	s.tb.Helper()
	for {
		select {
		case got := <-s.sent:
			if got.id == id && got.state == state {
				return
			}
		case <-time.After(30 * time.Second):
			s.tb.Errorf("%s was not sent as %s", id, state)
			return
		}
	}
}

// sent is one message of a watch.
type sent struct {
	id    string
	state taskv1.State
}

package executor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/executor"
)

// guest is a worker of another language, as far as the executor can tell.
type guest struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[executorv1.WorkRequest, executorv1.WorkResponse]
	vanish context.CancelFunc
	in     chan *executorv1.WorkResponse
	ended  chan error
	leases chan *executorv1.Lease
}

// invite serves an executor's face to workers.
func (s *subject) invite() executorv1.ExecutorServiceClient {
	s.t.Helper()
	conn, _ := rpctest.Serve(s.t, s.Register)
	return executorv1.NewExecutorServiceClient(conn)
}

// attach opens a stream and says hello.
func attach(t testing.TB, to executorv1.ExecutorServiceClient, hello *executorv1.WorkerHello) *guest {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := to.Work(ctx)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{
		t: t, stream: stream, vanish: cancel, in: make(chan *executorv1.WorkResponse, 10_000),
		ended: make(chan error, 1), leases: make(chan *executorv1.Lease, 10_000),
	}
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			m, err := stream.Recv()
			if err != nil {
				g.ended <- err
				return
			}
			if m.GetLease() != nil {
				g.leases <- m.GetLease()
				continue
			}
			g.in <- m
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-reading
	})
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Hello{Hello: hello}})
	return g
}

func (g *guest) say(m *executorv1.WorkRequest) {
	g.t.Helper()
	if err := g.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		g.t.Fatal(err)
	}
}

func (g *guest) next() *executorv1.WorkResponse {
	g.t.Helper()
	return receive(g.t, g.in, "a message to the worker")
}

// run expects a task.
func (g *guest) run(a *taskv1.Assignment) *executorv1.RunTask {
	g.t.Helper()
	m := g.next()
	if m.GetRun().GetAssignment().GetTaskId() != a.GetTaskId() {
		g.t.Fatalf("expected the task %s, got %v", a.GetTaskId(), m)
	}
	return m.GetRun()
}

func (g *guest) started(a *taskv1.Assignment) {
	g.t.Helper()
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Started{
		Started: &executorv1.RunStarted{TaskId: a.GetTaskId(), Claim: a.GetClaim()},
	}})
}

func (g *guest) end(a *taskv1.Assignment, outcome *taskv1.Outcome) {
	g.t.Helper()
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Ended{
		Ended: &executorv1.RunEnded{TaskId: a.GetTaskId(), Claim: a.GetClaim(), Outcome: outcome},
	}})
}

func (g *guest) progress(a *taskv1.Assignment, p *taskv1.Progress) {
	g.t.Helper()
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Progress{
		Progress: &executorv1.RunProgress{TaskId: a.GetTaskId(), Claim: a.GetClaim(), Progress: p},
	}})
}

func (g *guest) created(a *taskv1.Assignment, name string, incomplete bool) {
	g.t.Helper()
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Created{Created: &executorv1.RunCreated{
		TaskId: a.GetTaskId(), Claim: a.GetClaim(), Created: &taskv1.CreatedResource{Resource: name, Incomplete: incomplete},
	}}})
}

// stop expects to be told to stop a task.
func (g *guest) stop(a *taskv1.Assignment) {
	g.t.Helper()
	if m := g.next(); m.GetStop().GetTaskId() != a.GetTaskId() || m.GetStop().GetClaim() != a.GetClaim() {
		g.t.Fatalf("expected to be told to stop %s, got %v", a.GetTaskId(), m)
	}
}

// last expects the end of a task of a worker that is gone, for which nothing more is wanted.
func (l *fakeLine) last(a *taskv1.Assignment) *taskv1.Outcome {
	l.t.Helper()
	for {
		switch m := l.next(); {
		case m.finish == nil:
		case !names(m.finish.GetClaim(), a):
			l.t.Fatalf("expected the end of %v, got %v", a, m)
		default:
			l.finished(a)
			return m.finish.GetOutcome()
		}
	}
}

// over expects the end of the stream with this code, and returns its text.
func (g *guest) over(code codes.Code) string {
	g.t.Helper()
	err := receive(g.t, g.ended, "the end of the stream")
	if status.Code(err) != code {
		g.t.Fatalf("the stream ended with %v, expected %s", err, code)
	}
	return status.Convert(err).Message()
}

func handlers(names ...string) (list []*executorv1.TaskHandler) {
	for _, name := range names {
		list = append(list, &executorv1.TaskHandler{Name: name})
	}
	return list
}

func done(result string) *taskv1.Outcome {
	return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: result}
}

// host starts an executor, and a worker that is connected to it and has been welcomed.
func host(t testing.TB, config executor.Config, hello *executorv1.WorkerHello) (*fakes, *subject, executorv1.ExecutorServiceClient, *guest, *fakeLine) {
	t.Helper()
	if config.Name == "" {
		config.Name = "host"
	}
	f, s, _ := connect(t, config)
	receive(t, f.registers, "the executor's registration")
	face := s.invite()
	g := attach(t, face, hello)
	if got := g.next().GetWelcome().GetWorker(); got != config.Name+"/"+hello.GetName() {
		t.Fatalf("welcomed as %q", got)
	}
	l := f.line()
	l.welcome()
	return f, s, face, g, l
}

func TestAWorkerIsAnExecutorToEverybodyElse(t *testing.T) {
	f, s, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{
		Name: "py", Handlers: handlers("py.b", "py.a"), Slots: 3, ImmediateSlots: 2, Versions: map[string]string{"rpm": "3.2"},
	})
	if got := receive(t, f.registers, "the worker's registration"); got.GetName() != "host/py" || got.GetVersions()["rpm"] != "3.2" {
		t.Errorf("registered as %v", got)
	}
	h := l.hello
	if h.GetExecutor() != "host/py" || h.GetSlots() != 3 || h.GetImmediateSlots() != 2 || h.GetVersions()["rpm"] != "3.2" ||
		cmp.Diff([]string{"py.a", "py.b"}, h.GetTaskNames()) != "" {
		t.Errorf("its hello is %v", h)
	}
	if lease := receive(t, g.leases, "a lease").GetValidFor().AsDuration(); lease <= 0 || lease > 40*time.Second {
		t.Errorf("leased for %s", lease) // two thirds of the time to live of a minute
	}
	a := l.assign(order("py.a", `{"n": 1}`))
	run := g.run(a)
	if diff := cmp.Diff(a, run.GetAssignment(), protocmp.Transform()); diff != "" {
		t.Errorf("assignment (-want +got):\n%s", diff)
	}
	if entries, err := os.ReadDir(run.GetWorkingDir()); err != nil || len(entries) != 0 {
		t.Errorf("its directory: %v, %v", entries, err)
	}
	g.started(a)
	l.acknowledged(a)
	if runs := s.running(); len(runs) != 1 || runs[0].GetWorker() != "py" || runs[0].GetTaskId() != a.GetTaskId() {
		t.Errorf("the executor lists %v", runs)
	}
	g.end(a, done(`{"n":1}`))
	expectOutcome(t, done(`{"n":1}`), l.end(a))
	if _, err := os.Stat(run.GetWorkingDir()); !os.IsNotExist(err) {
		t.Errorf("its directory is still there: %v", err)
	}
}

func TestWhatAWorkerTellsIsStoredBeforeTheEndIsReported(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	const flood = 5000
	for i := range int64(flood) {
		g.progress(a, &taskv1.Progress{Code: "part", Message: "working", Total: proto.Int64(flood), Done: i + 1})
	}
	g.created(a, "/repositories/1/", true)
	g.created(a, "/repositories/1/", false)
	for _, text := range []string{"one\n", "two\n"} {
		g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Log{
			Log: &executorv1.RunLog{TaskId: a.GetTaskId(), Claim: a.GetClaim(), Text: text},
		}})
	}
	g.end(a, done("1"))
	expectOutcome(t, done("1"), l.end(a))

	if log := receive(t, f.logs, "the log"); log.GetText() != "one\ntwo\n" || log.GetClaim() != 1 || log.GetTaskId() != a.GetTaskId() {
		t.Errorf("log %v", log)
	}
	close(f.reports)
	var last *statusv1.PutTaskReportRequest
	n := 0
	for report := range f.reports {
		last = report
		n++
	}
	want := &statusv1.PutTaskReportRequest{
		TaskId: a.GetTaskId(), Claim: 1,
		Progress: []*taskv1.Progress{{Code: "part", Message: "working", Total: proto.Int64(flood), Done: flood}},
		Created:  []*taskv1.CreatedResource{{Resource: "/repositories/1/"}},
	}
	if diff := cmp.Diff(want, last, protocmp.Transform()); diff != "" {
		t.Errorf("the last report (-want +got):\n%s", diff)
	}
	if n > flood/10 {
		t.Errorf("%d messages of progress became %d reports", flood, n)
	}
}

func TestAnOutcomeThatBreaksARuleFailsItsTaskOnly(t *testing.T) {
	_, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a"), Slots: 2})
	other := l.assign(order("py.a", ""))
	g.run(other)
	for name, c := range map[string]struct {
		outcome *taskv1.Outcome
		says    string
	}{
		"too large":    {done(`"` + strings.Repeat("x", 2<<20) + `"`), "1048576"},
		"no JSON":      {done("{"), "JSON"},
		"none":         {nil, "without an outcome"},
		"canceled":     {&taskv1.Outcome{State: taskv1.State_STATE_CANCELED, Error: &taskv1.TaskError{Reason: "no"}}, "nobody had asked"},
		"no state":     {&taskv1.Outcome{}, "must be completed, failed or canceled"},
		"no error":     {&taskv1.Outcome{State: taskv1.State_STATE_FAILED}, "is required"},
		"strange code": {&taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Code: "no such"}}, "capital letters"},
	} {
		t.Run(name, func(t *testing.T) {
			a := l.assign(order("py.a", ""))
			g.run(a)
			g.started(a)
			g.end(a, c.outcome)
			m := l.next()
			for m.finish == nil {
				m = l.next() // of the other
			}
			if got := m.finish.GetOutcome(); got.GetState() != taskv1.State_STATE_FAILED || !strings.Contains(got.GetError().GetDescription(), c.says) {
				t.Errorf("outcome %v does not say %q", got, c.says)
			}
			l.finished(a)
		})
	}
	g.end(other, done("2"))
	l.known[key(other)] = true
	expectOutcome(t, done("2"), l.end(other))
}

func TestAWorkerIsToldToStop(t *testing.T) {
	_, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.started(a)
	l.acknowledged(a)
	l.cancel(a)
	g.stop(a)
	g.end(a, &taskv1.Outcome{State: taskv1.State_STATE_CANCELED, Error: &taskv1.TaskError{Reason: "stopped"}})
	expectOutcome(t, canceled, l.end(a))

	// It lives on.
	b := l.assign(order("py.a", ""))
	g.run(b)
	g.end(b, done("1"))
	expectOutcome(t, done("1"), l.end(b))
}

func TestAWorkerThatDoesNotStopInTimeLosesItsStream(t *testing.T) {
	f, _, face, g, l := host(t, executor.Config{CancelGrace: 50 * time.Millisecond}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a"), Slots: 2})
	a, other := l.assign(order("py.a", "")), l.assign(order("py.a", ""))
	for range 2 {
		g.next()
	}
	g.started(a)
	g.started(other)
	l.cancel(a)
	g.stop(a)
	if text := g.over(codes.DeadlineExceeded); !strings.Contains(text, a.GetTaskId()) {
		t.Errorf("the stream ended with %q", text)
	}
	outcomes := map[string]*taskv1.Outcome{}
	for len(outcomes) < 2 {
		if m := l.next(); m.finish != nil {
			outcomes[m.finish.GetClaim().GetTaskId()] = m.finish.GetOutcome()
		}
	}
	expectOutcome(t, canceled, outcomes[a.GetTaskId()])
	if e := outcomes[other.GetTaskId()].GetError(); e.GetCode() != task.CodeDisconnected || !strings.Contains(e.GetReason(), "did not stop") {
		t.Errorf("the other task ended with %v", e)
	}
	l.finished(a)
	l.finished(other)
	receive(t, f.deregisters, "the goodbye")

	// Its name is free again.
	for {
		again := attach(t, face, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
		select {
		case m := <-again.in:
			if m.GetWelcome() == nil {
				t.Errorf("expected a welcome, got %v", m)
			}
			return
		case err := <-again.ended: // a moment too early
			if status.Code(err) != codes.AlreadyExists {
				t.Fatal(err)
			}
		}
	}
}

func TestAWorkerThatVanishesFailsItsTasksAtOnce(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.started(a)
	l.acknowledged(a)
	g.vanish()
	want := &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{
		Code: task.CodeDisconnected, Reason: "The worker is gone: its stream ended: its connection broke.",
	}}
	expectOutcome(t, want, l.last(a))
	receive(t, f.deregisters, "the goodbye")
}

func TestAWorkerThatDoesNotConfirmATaskLosesItsStream(t *testing.T) {
	_, _, _, g, l := host(t, executor.Config{ConfirmTimeout: 20 * time.Millisecond}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	if text := g.over(codes.DeadlineExceeded); !strings.Contains(text, "it begins task "+a.GetTaskId()) {
		t.Errorf("the stream ended with %q", text)
	}
	if e := l.last(a).GetError(); e.GetCode() != task.CodeDisconnected || !strings.Contains(e.GetReason(), "begins task") {
		t.Errorf("the task ended with %v", e)
	}
}

func TestHellosThatBreakARuleAreRefused(t *testing.T) {
	_, _, face, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	for name, c := range map[string]struct {
		hello *executorv1.WorkerHello
		code  codes.Code
		says  string
	}{
		"a task twice":     {&executorv1.WorkerHello{Handlers: handlers("a", "b", "a")}, codes.InvalidArgument, "hello.handlers[2].name"},
		"no task":          {&executorv1.WorkerHello{}, codes.InvalidArgument, "hello.handlers"},
		"a strange name":   {&executorv1.WorkerHello{Name: "a/b", Handlers: handlers("a")}, codes.InvalidArgument, "hello.name"},
		"too many slots":   {&executorv1.WorkerHello{Slots: 10_001, Handlers: handlers("a")}, codes.InvalidArgument, "hello.slots"},
		"a name in use":    {&executorv1.WorkerHello{Name: "py", Handlers: handlers("a")}, codes.AlreadyExists, "py"},
		"no hello":         {nil, codes.InvalidArgument, "hello"},
		"negative timeout": {&executorv1.WorkerHello{Handlers: []*executorv1.TaskHandler{{Name: "a", Timeout: durationpb.New(-1)}}}, codes.InvalidArgument, "hello.handlers[0].timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			if text := attach(t, face, c.hello).over(c.code); !strings.Contains(text, c.says) {
				t.Errorf("refused with %q", text)
			}
		})
	}
	unnamed := attach(t, face, &executorv1.WorkerHello{Handlers: handlers("a")})
	if got := unnamed.next().GetWelcome().GetWorker(); got != "host/worker-1" {
		t.Errorf("a worker without a name is called %q", got)
	}
	// Nothing of that was any harm to the first one.
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.end(a, done("1"))
	expectOutcome(t, done("1"), l.end(a))
}

func TestAWorkerCanSpeakOnlyOfItsOwnTasks(t *testing.T) {
	_, _, face, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	thief := attach(t, face, &executorv1.WorkerHello{Name: "thief", Handlers: handlers("py.a")})
	thief.next()
	thief.end(a, done(`"stolen"`))
	refusal := func(g *guest, what string) {
		t.Helper()
		if r := g.next().GetRefusal(); r.GetTaskId() != a.GetTaskId() || r.GetReason() == "" {
			t.Errorf("%s: got %v", what, r)
		}
	}
	refusal(thief, "another worker's task")
	newer := proto.CloneOf(a)
	newer.Claim++
	g.end(newer, done(`"too new"`))
	refusal(g, "another claim")
	g.end(a, done(`"mine"`))
	expectOutcome(t, done(`"mine"`), l.end(a))
	g.end(a, done(`"again"`))
	refusal(g, "a second end")
	thief.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Call{Call: &executorv1.Call{
		Id: 7, TaskId: a.GetTaskId(), Request: &executorv1.Call_Dispatch{Dispatch: &taskv1.TaskSpec{Name: "x"}},
	}}})
	if reply := thief.next().GetReply(); reply.GetId() != 7 || !strings.Contains(reply.GetError(), a.GetTaskId()) {
		t.Errorf("a call in the name of another's task: %v", reply)
	}
}

func TestAMessageThatIsTooLargeEndsTheStreamAndNothingElse(t *testing.T) {
	_, s, face, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	other := attach(t, face, &executorv1.WorkerHello{Name: "other", Handlers: handlers("py.a")})
	other.next()
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.end(a, done(`"`+strings.Repeat("x", 100<<20)+`"`))
	if text := g.over(codes.ResourceExhausted); !strings.Contains(text, "8388608") {
		t.Errorf("the stream ended with %q", text)
	}
	if e := l.last(a).GetError(); e.GetCode() != task.CodeDisconnected || !strings.Contains(e.GetReason(), "8 MiB") {
		t.Errorf("the task ended with %v", e)
	}
	other.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Drain{Drain: &executorv1.WorkerDrain{}}})
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("the executor: %v", err)
	}
	select {
	case err := <-other.ended:
		t.Errorf("the other worker's stream ended: %v", err)
	default:
	}
}

func TestAWorkerThatLostItsLeaseIsToldSo(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{TTL: time.Second}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	f.deaf.Store(true)
	err := receive(t, g.ended, "the end of the stream")
	if !errs.Is(err, errs.Fenced) {
		t.Errorf("the stream ended with %v", err)
	}
	f.deaf.Store(false)
}

func TestAWorkersTasksDispatchInTheirOwnName(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := order("py.a", "")
	a.ProfileOptions, a.CreatedBy = []string{"memory"}, 7
	l.assign(a)
	g.run(a)
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Call{Call: &executorv1.Call{
		Id: 1, TaskId: a.GetTaskId(), Request: &executorv1.Call_Dispatch{Dispatch: &taskv1.TaskSpec{Name: "child", ParentId: newID(), CreatedBy: 1}},
	}}})
	got := receive(t, f.dispatches, "a dispatch")
	want := &taskv1.TaskSpec{
		Name: "child", ParentId: a.GetTaskId(), CorrelationId: a.GetCorrelationId(), ProfileOptions: []string{"memory"}, CreatedBy: 7,
	}
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(got, "request_id")); diff != "" {
		t.Errorf("dispatched (-want +got):\n%s", diff)
	}
	if reply := g.next().GetReply(); reply.GetId() != 1 || reply.GetMadeId() == "" || reply.GetError() != "" {
		t.Errorf("the answer is %v", reply)
	}
	g.end(a, done("1"))
	l.end(a)
}

func TestWhatAWorkerLeavesIncompleteIsDeletedByIt(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{
		Name: "py", Handlers: []*executorv1.TaskHandler{{Name: "py.a", Discards: true}},
	})
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.created(a, "whole", false)
	g.created(a, "half", true)
	g.created(a, "stuck", true)
	g.end(a, &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: "no luck"}})
	discard := g.next().GetDiscard()
	if diff := cmp.Diff([]string{"half", "stuck"}, discard.GetResources()); diff != "" {
		t.Errorf("to be deleted (-want +got):\n%s", diff)
	}
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Discarded{Discarded: &executorv1.RunDiscarded{
		TaskId: a.GetTaskId(), Claim: 1, Failed: map[string]string{"stuck": "in use"},
	}}})
	if outcome := l.end(a); outcome.GetError().GetDescription() != "no luck" {
		t.Errorf("outcome %v", outcome)
	}
	close(f.reports)
	var last *statusv1.PutTaskReportRequest
	for report := range f.reports {
		last = report
	}
	want := &statusv1.PutTaskReportRequest{
		TaskId: a.GetTaskId(), Claim: 1, Discarded: []string{"half"},
		Created: []*taskv1.CreatedResource{{Resource: "whole"}, {Resource: "stuck", Incomplete: true}},
	}
	if diff := cmp.Diff(want, last, protocmp.Transform()); diff != "" {
		t.Errorf("the last report (-want +got):\n%s", diff)
	}
}

func TestATaskOfAWorkerThatTakesTooLongIsStopped(t *testing.T) {
	for name, c := range map[string]struct{ handlers, dispatch time.Duration }{
		"by its handler":                     {50 * time.Millisecond, 0},
		"by its dispatch":                    {0, 50 * time.Millisecond},
		"by its dispatch, not its handler's": {time.Hour, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{
				Name: "py", Handlers: []*executorv1.TaskHandler{{Name: "py.a", Timeout: durationpb.New(c.handlers)}},
			})
			a := order("py.a", "")
			if c.dispatch > 0 {
				a.Timeout = durationpb.New(c.dispatch)
			}
			l.assign(a)
			if got := g.run(a).GetTimeout().AsDuration(); got != 50*time.Millisecond {
				t.Errorf("it was told that it has %s", got)
			}
			g.stop(a)
			g.end(a, done("1"))
			want := &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{
				Code: task.CodeTimeout, Reason: fmt.Sprintf(task.ReasonTimeoutFormat, 50*time.Millisecond),
			}}
			expectOutcome(t, want, l.end(a))
		})
	}
}

func TestStoppingIncludesWorkers(t *testing.T) {
	for name, how := range map[string]executor.Stopping{"patiently": executor.Patiently, "at once": executor.AtOnce} {
		t.Run(name, func(t *testing.T) {
			_, s, face, g, l := host(t, executor.Config{ShutdownGrace: time.Hour}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
			a := l.assign(order("py.a", ""))
			g.run(a)
			g.started(a)
			l.acknowledged(a)
			s.Stop(how)
			want := aborted
			m := l.next()
			if m.drain == nil {
				t.Fatalf("expected that it wants no more, got %v", m)
			}
			if how == executor.Patiently {
				late := attach(t, face, &executorv1.WorkerHello{Handlers: handlers("a")})
				late.over(codes.Unavailable)
				g.end(a, done("1"))
				want = done("1")
			} else {
				g.over(codes.Unavailable)
			}
			expectOutcome(t, want, l.end(a))
			if how == executor.Patiently {
				g.over(codes.Unavailable)
			}
			s.end()
		})
	}
}

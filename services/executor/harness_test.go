package executor_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/services/executor"
)

// patience is how long a test waits for something that must happen. Nothing is asserted about how long it takes.
const patience = 60 * time.Second

// remoteExecutor makes the test binary run an executor in a process of its own, against the fakes at this address.
const remoteExecutor = "TEST_EXECUTOR_PEERS"

func TestMain(m *testing.M) {
	switch {
	case worker.IsChild():
		os.Exit(worker.ChildMain(testMux()))
	case os.Getenv(remoteExecutor) != "":
		os.Exit(runRemoteExecutor())
	}
	// Each executor waits for the end of its guard, which with the race detector would sleep for a second before.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func runRemoteExecutor() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conn, err := rpc.Dial(os.Getenv(remoteExecutor))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ttl, err := time.ParseDuration(cmp.Or(os.Getenv("TEST_EXECUTOR_TTL"), "1m"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	config := executor.Config{
		Name: os.Getenv("TEST_EXECUTOR_NAME"), HeartbeatAddr: os.Getenv("TEST_EXECUTOR_HEARTBEAT"), TTL: ttl,
		Slots: 4, ImmediateSlots: 4, WorkDir: os.Getenv("TEST_EXECUTOR_DIR"),
	}
	s, err := executor.New(config, peersOn(conn), testMux(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakes are the four peers of an executor, real gRPC servers that do what the test says.
type fakes struct {
	t           testing.TB
	addr        string
	lines       chan *fakeLine // each Acquire stream, once its hello has arrived
	logs        chan *statusv1.PutTaskLogRequest
	reports     chan *statusv1.PutTaskReportRequest
	artifacts   chan *statusv1.PutTaskArtifactRequest
	dispatches  chan *taskv1.TaskSpec
	groups      chan string
	deregisters chan string
	deaths      chan string // those that are said to be dead
	registers   chan *heartbeatv1.RegisterRequest

	// The answers to come. All may be changed at any time.
	away      atomic.Bool  // Acquire answers that no scheduler leads
	deaf      atomic.Bool  // beats are not answered
	mute      atomic.Bool  // goodbyes are not answered
	held      atomic.Bool  // what is acknowledged does not begin by itself
	fenced    atomic.Bool  // beats are answered with FENCED
	nameTaken atomic.Int32 // so many registrations are refused
	logFails  atomic.Bool
	// What the storing of a report, a log or a diagnostic does before it is answered, nil for nothing. An error is the answer.
	onReport, onLog, onArtifact atomic.Pointer[func(context.Context) error]
	// executorLog gets what the executor logs, if it is not nil. To be set before begin.
	executorLog io.Writer
	beats       atomic.Int64
	hearing     atomic.Pointer[heartbeatv1.Hearing] // of the last beat
	stopped     chan struct{}
}

type fakeScheduler struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	*fakes
}

type fakeHeartbeat struct {
	heartbeatv1.UnimplementedHeartbeatServiceServer
	*fakes
}

type fakeDispatcher struct {
	dispatcherv1.UnimplementedDispatcherServiceServer
	*fakes
}

type fakeStatus struct {
	statusv1.UnimplementedStatusServiceServer
	*fakes
}

func newFakes(t testing.TB) *fakes {
	t.Helper()
	f := &fakes{
		t:           t,
		lines:       make(chan *fakeLine, 100),
		logs:        make(chan *statusv1.PutTaskLogRequest, 10_000),
		reports:     make(chan *statusv1.PutTaskReportRequest, 10_000),
		artifacts:   make(chan *statusv1.PutTaskArtifactRequest, 100),
		dispatches:  make(chan *taskv1.TaskSpec, 10_000),
		groups:      make(chan string, 100),
		deregisters: make(chan string, 100),
		deaths:      make(chan string, 100),
		registers:   make(chan *heartbeatv1.RegisterRequest, 100),
		stopped:     make(chan struct{}),
	}
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = listener.Addr().String()
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	schedulerv1.RegisterSchedulerServiceServer(server, fakeScheduler{fakes: f})
	heartbeatv1.RegisterHeartbeatServiceServer(server, fakeHeartbeat{fakes: f})
	dispatcherv1.RegisterDispatcherServiceServer(server, fakeDispatcher{fakes: f})
	statusv1.RegisterStatusServiceServer(server, fakeStatus{fakes: f})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		close(f.stopped)
		server.Server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve the fakes: %v", err)
		}
	})
	return f
}

func (f fakeHeartbeat) Register(_ context.Context, r *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
	f.registers <- r
	if f.nameTaken.Add(-1) >= 0 {
		return nil, errs.Exists(errs.NameTaken, "%q lives", r.GetName())
	}
	return &heartbeatv1.RegisterResponse{Incarnation: newID()}, nil
}

func (f fakeHeartbeat) Beat(stream heartbeatv1.HeartbeatService_BeatServer) error {
	for {
		beat, err := stream.Recv()
		if err != nil {
			return err
		}
		f.hearing.Store(beat.GetHearing())
		f.beats.Add(1)
		if f.fenced.Swap(false) {
			return errs.Precondition(errs.Fenced, "declared missing")
		}
		if f.deaf.Load() {
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		if err := stream.Send(&heartbeatv1.BeatResponse{}); err != nil {
			return err
		}
	}
}

func (f fakeHeartbeat) Deregister(ctx context.Context, r *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
	if r.GetDead() {
		f.deaths <- r.GetIncarnation()
	} else {
		f.deregisters <- r.GetIncarnation()
	}
	if f.mute.Load() {
		<-ctx.Done()
	}
	return &heartbeatv1.DeregisterResponse{}, nil
}

func (f fakeDispatcher) Dispatch(_ context.Context, r *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	f.dispatches <- r.GetTask()
	return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: newID()}}, nil
}

func (f fakeDispatcher) CreateTaskGroup(_ context.Context, r *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error) {
	f.groups <- r.GetDescription()
	return &dispatcherv1.CreateTaskGroupResponse{GroupId: newID()}, nil
}

func (f fakeStatus) PutTaskLog(ctx context.Context, r *statusv1.PutTaskLogRequest) (*statusv1.PutTaskLogResponse, error) {
	f.logs <- r
	if f.logFails.Load() {
		return nil, errs.Away(errs.DatabaseAway, nil, "away")
	}
	if do := f.onLog.Load(); do != nil {
		return &statusv1.PutTaskLogResponse{}, (*do)(ctx)
	}
	return &statusv1.PutTaskLogResponse{}, nil
}

func (f fakeStatus) PutTaskReport(ctx context.Context, r *statusv1.PutTaskReportRequest) (*statusv1.PutTaskReportResponse, error) {
	f.reports <- r
	if do := f.onReport.Load(); do != nil {
		return &statusv1.PutTaskReportResponse{}, (*do)(ctx)
	}
	return &statusv1.PutTaskReportResponse{}, nil
}

func (f fakeStatus) PutTaskArtifact(ctx context.Context, r *statusv1.PutTaskArtifactRequest) (*statusv1.PutTaskArtifactResponse, error) {
	f.artifacts <- r
	if do := f.onArtifact.Load(); do != nil {
		return &statusv1.PutTaskArtifactResponse{}, (*do)(ctx)
	}
	return &statusv1.PutTaskArtifactResponse{}, nil
}

// fakeLine is the scheduler's side of one Acquire stream.
type fakeLine struct {
	t     testing.TB
	hello *schedulerv1.Hello
	in    chan said
	out   chan *schedulerv1.AcquireResponse
	hang  chan error // ends the stream
	gone  chan struct{}
	// acknowledgements that a test has seen.
	known map[string]bool
}

// said is one thing that an executor says: exactly one of the first four. Several come in one message, of which the order
// is nobody's business; here they come one by one.
type said struct {
	drain        *schedulerv1.Drain
	pulse        *schedulerv1.Pulse
	finish       *schedulerv1.Finish
	acknowledged *schedulerv1.Claim
	message      *schedulerv1.AcquireRequest
}

func (m said) String() string { return m.message.String() }

// each takes a message apart.
func each(message *schedulerv1.AcquireRequest, do func(said)) {
	if drain := message.GetDrain(); drain != nil {
		do(said{drain: drain, message: message})
	}
	if pulse := message.GetPulse(); pulse != nil {
		do(said{pulse: pulse, message: message})
	}
	for _, claim := range message.GetReport().GetAcknowledged() {
		do(said{acknowledged: claim, message: message})
	}
	for _, finish := range message.GetReport().GetFinished() {
		do(said{finish: finish, message: message})
	}
}

func (f fakeScheduler) Acquire(stream schedulerv1.SchedulerService_AcquireServer) error {
	if f.away.Load() {
		return errs.Away(errs.NotLeading, nil, "no scheduler leads")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	l := &fakeLine{
		t: f.t, hello: first.GetHello(), gone: make(chan struct{}), known: map[string]bool{},
		in: make(chan said, 10_000), out: make(chan *schedulerv1.AcquireResponse), hang: make(chan error, 1),
	}
	defer close(l.gone)
	go func() { // ends when this handler has returned
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if held := m.GetReport().GetAcknowledged(); len(held) > 0 && !f.held.Load() {
				l.tryOrder(&schedulerv1.Orders{Begin: held})
			}
			each(m, func(s said) { l.in <- s })
		}
	}()
	f.lines <- l
	for {
		select {
		case m := <-l.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-l.hang:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-f.stopped:
			return errors.New("the test is over")
		}
	}
}

// receive waits for something that must come.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func (l *fakeLine) send(m *schedulerv1.AcquireResponse) {
	l.t.Helper()
	select {
	case l.out <- m:
	case <-l.gone:
		l.t.Fatal("the line is gone")
	case <-time.After(patience):
		l.t.Fatal("could not send to the executor")
	}
}

// tryOrder sends orders on a line that may be gone.
func (l *fakeLine) tryOrder(orders *schedulerv1.Orders) {
	select {
	case l.out <- &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Orders{Orders: orders}}:
	case <-l.gone:
	}
}

// welcome answers the hello. What it names is still the executor's.
func (l *fakeLine) welcome() {
	l.t.Helper()
	l.greet(&schedulerv1.Welcome{Epoch: 1})
	if held := l.hello.GetHeld(); len(held) > 0 {
		l.order(&schedulerv1.Orders{Begin: held})
	}
}

// greet answers the hello, and lets nothing begin.
func (l *fakeLine) greet(w *schedulerv1.Welcome) {
	l.t.Helper()
	l.send(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Welcome{Welcome: w}})
}

// breakOff ends the line as a scheduler that loses its leadership does.
func (l *fakeLine) breakOff() {
	l.t.Helper()
	l.hang <- errs.Away(errs.NotLeading, nil, "not leading any more")
	receive(l.t, l.gone, "the end of the line")
}

// order makes an assignment; kwargs is a JSON object or "".
func order(name, kwargs string) *taskv1.Assignment {
	return &taskv1.Assignment{
		TaskId: newID(), Claim: 1, Attempt: 1, Name: name, KwargsJson: kwargs, Domain: "default", CorrelationId: "the-request",
	}
}

// order sends orders, all in one message.
func (l *fakeLine) order(orders *schedulerv1.Orders) {
	l.t.Helper()
	l.send(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Orders{Orders: orders}})
}

func (l *fakeLine) assign(a *taskv1.Assignment) *taskv1.Assignment {
	l.t.Helper()
	l.order(&schedulerv1.Orders{Assign: []*taskv1.Assignment{a}})
	return a
}

func (l *fakeLine) cancel(a *taskv1.Assignment) {
	l.t.Helper()
	l.order(&schedulerv1.Orders{Cancel: []*schedulerv1.Claim{claimOf(a)}})
}

func (l *fakeLine) finished(a *taskv1.Assignment) {
	l.t.Helper()
	l.order(&schedulerv1.Orders{Finished: []*schedulerv1.Claim{claimOf(a)}})
}

func (l *fakeLine) refuse(a *taskv1.Assignment) {
	l.t.Helper()
	l.order(&schedulerv1.Orders{Refused: []*schedulerv1.Refused{{Claim: claimOf(a), Reason: "test"}}})
}

func claimOf(a *taskv1.Assignment) *schedulerv1.Claim {
	return &schedulerv1.Claim{TaskId: a.GetTaskId(), Claim: a.GetClaim()}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func (l *fakeLine) next() said {
	l.t.Helper()
	return receive(l.t, l.in, "a message of the executor")
}

// key is what a claim is known by: its task can be claimed again.
func key(a *taskv1.Assignment) string { return fmt.Sprint(a.GetTaskId(), "/", a.GetClaim()) }

// names reports whether c is the claim of a.
func names(c *schedulerv1.Claim, a *taskv1.Assignment) bool {
	return c != nil && c.GetTaskId() == a.GetTaskId() && c.GetClaim() == a.GetClaim()
}

// begin says that what was acknowledged is to begin.
func (l *fakeLine) begin(a ...*taskv1.Assignment) {
	l.t.Helper()
	orders := &schedulerv1.Orders{}
	for _, a := range a {
		orders.Begin = append(orders.Begin, claimOf(a))
	}
	l.order(orders)
}

// pulse sends a pulse and expects the answer as the next thing that is said.
func (l *fakeLine) pulse(number int64) {
	l.t.Helper()
	l.send(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Pulse{Pulse: &schedulerv1.Pulse{Number: number}}})
	if m := l.next(); m.pulse.GetNumber() != number {
		l.t.Fatalf("expected the answer to pulse %d, got %v", number, m)
	}
}

// acknowledged expects the acknowledgement of a as the next thing that is said.
func (l *fakeLine) acknowledged(a *taskv1.Assignment) said {
	l.t.Helper()
	m := l.next()
	if !names(m.acknowledged, a) {
		l.t.Fatalf("expected the acknowledgement of %v, got %v", a, m)
	}
	l.known[key(a)] = true
	return m
}

// outcome expects the end of a as the next thing that is said, but for the acknowledgement of a, if that has not come.
func (l *fakeLine) outcome(a *taskv1.Assignment) *taskv1.Outcome {
	l.t.Helper()
	m := l.next()
	if names(m.acknowledged, a) && !l.known[key(a)] {
		m = l.next()
	}
	if m.finish == nil || !names(m.finish.GetClaim(), a) {
		l.t.Fatalf("expected the end of %v, got %v", a, m)
	}
	l.known[key(a)] = true // the end said it all
	return m.finish.GetOutcome()
}

// end expects the end of a as the next message, and accepts it.
func (l *fakeLine) end(a *taskv1.Assignment) *taskv1.Outcome {
	l.t.Helper()
	outcome := l.outcome(a)
	l.finished(a)
	return outcome
}

// do runs a task from its assignment to its acceptance.
func (l *fakeLine) do(a *taskv1.Assignment) *taskv1.Outcome {
	l.t.Helper()
	l.assign(a)
	return l.end(a)
}

// result is do for a task that must complete.
func (l *fakeLine) result(a *taskv1.Assignment, into any) {
	l.t.Helper()
	outcome := l.do(a)
	if outcome.GetState() != taskv1.State_STATE_COMPLETED {
		l.t.Fatalf("%s: %v", a.GetName(), outcome)
	}
	if err := json.Unmarshal([]byte(outcome.GetResultJson()), into); err != nil {
		l.t.Fatalf("%s: result %q: %v", a.GetName(), outcome.GetResultJson(), err)
	}
}

// peersOn makes clients of the fakes.
func peersOn(conn *grpc.ClientConn) executor.Peers {
	return executor.Peers{
		Scheduler:  schedulerv1.NewSchedulerServiceClient(conn),
		Dispatcher: dispatcherv1.NewDispatcherServiceClient(conn),
		Heartbeat:  heartbeatv1.NewHeartbeatServiceClient(conn),
		Status:     statusv1.NewStatusServiceClient(conn),
	}
}

// subject is the executor under test.
type subject struct {
	*executor.Service
	t    testing.TB
	stop context.CancelFunc
	done chan struct{}
	err  error
}

// begin starts an executor; what is zero in config gets a value fit for tests.
func (f *fakes) begin(config executor.Config) *subject {
	f.t.Helper()
	if config.Slots == 0 {
		config.Slots = 4
	}
	if config.ImmediateSlots == 0 {
		config.ImmediateSlots = 4
	}
	if config.WorkDir == "" {
		config.WorkDir = f.t.TempDir()
	}
	if config.TTL == 0 {
		config.TTL = time.Minute
	}
	if config.ShutdownGrace == 0 {
		config.ShutdownGrace = time.Millisecond
	}
	conn, err := rpc.Dial(f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	out := f.t.Output()
	if f.executorLog != nil {
		out = io.MultiWriter(out, f.executorLog)
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if _, measuring := f.t.(*testing.B); measuring {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := executor.New(config, peersOn(conn), testMux(), log)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	subject := &subject{Service: s, t: f.t, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(subject.done)
		subject.err = s.Run(ctx)
	}()
	f.t.Cleanup(func() {
		subject.end()
		if err := conn.Close(); err != nil {
			f.t.Error(err)
		}
	})
	return subject
}

// end stops the executor and waits until it has.
func (s *subject) end() {
	s.t.Helper()
	s.stop()
	receive(s.t, s.done, "the end of the executor")
	if s.err != nil {
		s.t.Errorf("Run: %v", s.err)
	}
}

// line waits for the executor's next connection.
func (f *fakes) line() *fakeLine {
	f.t.Helper()
	return receive(f.t, f.lines, "an executor that connects")
}

// connect starts an executor and welcomes it.
func connect(t testing.TB, config executor.Config) (*fakes, *subject, *fakeLine) {
	t.Helper()
	f := newFakes(t)
	s := f.begin(config)
	l := f.line()
	l.welcome()
	return f, s, l
}

// process watches another process by a descriptor that can't come to mean a different one.
type process struct {
	t   testing.TB
	pid int
	fd  int
}

func watch(t testing.TB, pid int) process {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("watch process %d: %v", pid, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return process{t: t, pid: pid, fd: fd}
}

// ends waits for the end of the process.
func (p process) ends(what string) {
	p.t.Helper()
	if !p.over(patience) {
		p.t.Errorf("%s (process %d) still lives", what, p.pid)
		_ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
	}
}

// lives fails the test if the process has ended.
func (p process) lives(what string) {
	p.t.Helper()
	if p.over(0) {
		p.t.Errorf("%s (process %d) has ended", what, p.pid)
	}
}

func (p process) over(limit time.Duration) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}

var errFenced = errs.Precondition(errs.Fenced, "this incarnation is over")

// running asks the executor what it runs, through its gRPC face.
func (s *subject) running() []*executorv1.Run {
	s.t.Helper()
	response, err := s.face().ListRunning(s.t.Context(), &executorv1.ListRunningRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return response.GetRuns()
}

func (s *subject) drain() int32 {
	s.t.Helper()
	response, err := s.face().Drain(s.t.Context(), &executorv1.DrainRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return response.GetRunning()
}

// face is the executor's own service, as it registers it.
func (s *subject) face() executorv1.ExecutorServiceServer {
	var face registered
	s.Register(&face)
	return face.server
}

// registered catches what is registered.
type registered struct {
	server executorv1.ExecutorServiceServer
}

func (r *registered) RegisterService(_ *grpc.ServiceDesc, server any) {
	r.server = server.(executorv1.ExecutorServiceServer)
}

// quiet waits until the executor runs nothing.
func (s *subject) quiet() {
	s.t.Helper()
	for deadline := time.Now().Add(patience); len(s.running()) > 0; {
		if time.Now().After(deadline) {
			s.t.Fatalf("still running: %v", s.running())
		}
	}
}

// canceling waits until all that the executor runs, which is something, is being stopped.
func (s *subject) canceling() {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		running := s.running()
		if len(running) > 0 && !slices.ContainsFunc(running, func(r *executorv1.Run) bool { return !r.GetCanceling() }) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not being stopped: %v", running)
		}
	}
}

// readPID reads a process id from a fifo.
func readPID(t testing.TB, fifo string) int {
	t.Helper()
	text := make(chan string, 1)
	go func() {
		b, err := os.ReadFile(fifo)
		if err != nil {
			b = []byte(err.Error())
		}
		text <- string(b)
	}()
	got := receive(t, text, "a process id from a command")
	pid, err := strconv.Atoi(strings.TrimSpace(got))
	if err != nil {
		t.Fatalf("a process id: %q", got)
	}
	return pid
}

// childrenOf lists the child processes of a process, zombies included.
func childrenOf(t testing.TB, parent int) []string {
	t.Helper()
	out, err := exec.Command("ps", "-o", "pid=,stat=,args=", "--ppid", strconv.Itoa(parent)).Output()
	var none *exec.ExitError
	if err != nil && !errors.As(err, &none) {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(out)), "\n"), func(line string) bool {
		return line == "" || strings.Contains(line, "ps -o pid=") || strings.Contains(line, "sluice guard")
	})
}

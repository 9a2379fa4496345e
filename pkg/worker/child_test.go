package worker_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/testing/protocmp"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// executor is the other end of a child's line.
type executor struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
	served chan error
}

// serve runs the child's side in this process.
func serve(t *testing.T, mux *worker.Mux) *executor {
	t.Helper()
	ours, theirs := net.Pipe()
	e := &executor{t: t, conn: ours, reader: bufio.NewReader(ours), served: make(chan error, 1)}
	go func() { e.served <- worker.ServeChild(context.Background(), mux, theirs) }()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	if e.receive().GetReady().GetPid() != int32(os.Getpid()) {
		t.Error("the first message is not ready")
	}
	return e
}

func (e *executor) send(m *executorv1.ToWorker) {
	e.t.Helper()
	if _, err := protodelim.MarshalTo(e.conn, m); err != nil {
		e.t.Fatal(err)
	}
}

func (e *executor) receive() *executorv1.FromWorker {
	e.t.Helper()
	if err := e.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		e.t.Fatal(err)
	}
	m := &executorv1.FromWorker{}
	if err := protodelim.UnmarshalFrom(e.reader, m); err != nil {
		e.t.Fatal(err)
	}
	return m
}

func (e *executor) run(claim int64, name string) {
	e.t.Helper()
	e.send(&executorv1.ToWorker{Message: &executorv1.ToWorker_Run{Run: &executorv1.RunTask{
		Assignment: &taskv1.Assignment{Name: name, Claim: claim, TaskId: "the-task"}, WorkingDir: e.t.TempDir(),
	}}})
}

func (e *executor) stop(claim int64) {
	e.t.Helper()
	e.send(&executorv1.ToWorker{Message: &executorv1.ToWorker_Stop{Stop: &executorv1.StopTask{Claim: claim}}})
}

func (e *executor) ended(claim int64, want *taskv1.Outcome) {
	e.t.Helper()
	wanted := &executorv1.FromWorker{Message: &executorv1.FromWorker_Ended{Ended: &executorv1.TaskEnded{Claim: claim, Outcome: want}}}
	if diff := cmp.Diff(wanted, e.receive(), protocmp.Transform()); diff != "" {
		e.t.Errorf("message (-want +got):\n%s", diff)
	}
}

func result(text string) *taskv1.Outcome {
	return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: text}
}

func childMux(running chan<- struct{}) *worker.Mux {
	mux := worker.NewMux()
	worker.Handle(mux, "where", func(ctx context.Context, _ struct{}) (bool, error) {
		here, err := os.Getwd()
		own, dirErr := worker.WorkingDir(ctx)
		return here == own, errors.Join(err, dirErr)
	})
	worker.Handle(mux, "wait", func(ctx context.Context, _ struct{}) (worker.None, error) {
		running <- struct{}{}
		<-ctx.Done()
		return worker.None{}, context.Cause(ctx)
	})
	worker.Handle(mux, "ask", func(ctx context.Context, _ struct{}) ([]string, error) {
		task, err := worker.Dispatch(ctx, worker.Spec{Name: "x", Args: []any{1}})
		if err != nil {
			return nil, err
		}
		group, err := worker.NewGroup(ctx, "y")
		return []string{task, group}, err
	})
	return mux
}

func TestChildRunsOneTaskAfterAnother(t *testing.T) {
	home, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	e := serve(t, childMux(nil))
	for claim := range int64(3) {
		e.run(claim+1, "where")
		e.ended(claim+1, result("true"))
	}
	if now, err := os.Getwd(); err != nil || now != home {
		t.Errorf("left in %s: %v", now, err)
	}
}

func TestStopReachesItsTaskOnly(t *testing.T) {
	running := make(chan struct{})
	e := serve(t, childMux(running))
	e.stop(1) // nothing runs
	e.run(2, "wait")
	<-running
	e.stop(1)
	e.stop(3)
	e.run(2, "where") // read after the stops, and one too many
	if err := <-e.served; err == nil || !strings.Contains(err.Error(), "one task at a time") {
		t.Errorf("served: %v", err)
	}
	_ = e.conn.Close()
}

func TestStopCancelsTheHandler(t *testing.T) {
	running := make(chan struct{})
	e := serve(t, childMux(running))
	for claim := range int64(2) {
		e.run(claim+1, "wait")
		<-running
		e.stop(claim + 1)
		e.ended(claim+1, worker.Failed("context canceled", ""))
	}
}

func TestCallsAreAnswered(t *testing.T) {
	e := serve(t, childMux(nil))
	e.run(1, "ask")
	first := e.receive().GetCall()
	deferred := true
	want := &taskv1.TaskSpec{Name: "x", ArgsJson: "[1]", Deferred: &deferred}
	if diff := cmp.Diff(want, first.GetDispatch(), protocmp.Transform()); diff != "" {
		t.Errorf("dispatch (-want +got):\n%s", diff)
	}
	reply := func(r *executorv1.CallReply) {
		t.Helper()
		e.send(&executorv1.ToWorker{Message: &executorv1.ToWorker_Reply{Reply: r}})
	}
	reply(&executorv1.CallReply{Id: first.GetId() + 100, MadeId: "nobody asked"})
	reply(&executorv1.CallReply{Id: first.GetId(), MadeId: "task-id"})
	reply(&executorv1.CallReply{Id: first.GetId(), MadeId: "once more"})
	second := e.receive().GetCall()
	if second.GetNewGroup().GetDescription() != "y" || second.GetId() == first.GetId() {
		t.Errorf("second call: %v", second)
	}
	reply(&executorv1.CallReply{Id: second.GetId(), MadeId: "group-id"})
	e.ended(1, result(`["task-id","group-id"]`))

	e.run(2, "ask")
	reply(&executorv1.CallReply{Id: e.receive().GetCall().GetId(), Error: "no such thing"})
	e.ended(2, worker.Failed("dispatch x: no such thing", ""))
}

func TestTaskWithoutItsDirectoryFails(t *testing.T) {
	e := serve(t, childMux(nil))
	e.send(&executorv1.ToWorker{Message: &executorv1.ToWorker_Run{Run: &executorv1.RunTask{
		Assignment: &taskv1.Assignment{Name: "where", Claim: 1}, WorkingDir: "/does/not/exist",
	}}})
	e.ended(1, worker.Failed("enter the task's working directory: chdir /does/not/exist: no such file or directory", ""))
}

func TestChildNoticesAtOnceThatItsExecutorIsGone(t *testing.T) {
	running := make(chan struct{})
	stopped := make(chan error)
	mux := worker.NewMux()
	worker.Handle(mux, "deaf", func(ctx context.Context, _ struct{}) (worker.None, error) {
		running <- struct{}{}
		<-ctx.Done()
		stopped <- ctx.Err()
		return worker.None{}, nil
	})
	e := serve(t, mux)
	e.run(1, "deaf")
	<-running
	if err := e.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-e.served; err != nil { // although the handler has not returned
		t.Errorf("served: %v", err)
	}
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context: %v", err)
	}
}

func TestGarbageFromTheExecutorEndsTheChild(t *testing.T) {
	e := serve(t, childMux(nil))
	go func() { _, _ = e.conn.Write([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")) }()
	if err := <-e.served; err == nil || !strings.Contains(err.Error(), "read from the executor") {
		t.Errorf("served: %v", err)
	}
}

func TestWrongEnvironmentIsNoChild(t *testing.T) {
	if worker.IsChild() {
		t.Error("a test is no child")
	}
	for _, value := range []string{"0", "x", "999"} {
		t.Setenv(worker.ChildEnv, value)
		if !worker.IsChild() {
			t.Error("not asked to be a child")
		}
		if code := worker.ChildMain(worker.NewMux()); code != 1 {
			t.Errorf("%s=%s: exit code %d", worker.ChildEnv, value, code)
		}
	}
}

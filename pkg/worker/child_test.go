package worker_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

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
	if e.receive().GetHello().GetPid() != int32(os.Getpid()) {
		t.Error("the first message is not ready")
	}
	return e
}

func (e *executor) send(m *executorv1.WorkResponse) {
	e.t.Helper()
	if _, err := protodelim.MarshalTo(e.conn, m); err != nil {
		e.t.Fatal(err)
	}
}

func (e *executor) receive() *executorv1.WorkRequest {
	e.t.Helper()
	if err := e.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		e.t.Fatal(err)
	}
	m := &executorv1.WorkRequest{}
	if err := protodelim.UnmarshalFrom(e.reader, m); err != nil {
		e.t.Fatal(err)
	}
	return m
}

// run hands a task over, and returns its directory.
func (e *executor) run(claim int64, name string) string {
	e.t.Helper()
	dir := e.t.TempDir()
	e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Run{Run: &executorv1.RunTask{
		Assignment: &taskv1.Assignment{Name: name, Claim: claim, TaskId: "the-task"}, WorkingDir: dir,
	}}})
	return dir
}

func (e *executor) stop(claim int64) {
	e.t.Helper()
	e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Stop{Stop: &executorv1.StopRun{TaskId: "the-task", Claim: claim}}})
}

func (e *executor) ended(claim int64, want *taskv1.Outcome) {
	e.t.Helper()
	wanted := &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Ended{Ended: &executorv1.RunEnded{TaskId: "the-task", Claim: claim, Outcome: want}}}
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
	e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Stop{Stop: &executorv1.StopRun{TaskId: "another", Claim: 2}}})
	e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Refusal{Refusal: &executorv1.Refusal{TaskId: "the-task", Claim: 2, Reason: "just so"}}})
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
		e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Reply{Reply: r}})
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

// All that a run says carries its task and its claim, in the order in which it was said.
func TestChildReportsWhatARunSays(t *testing.T) {
	mux := worker.NewMux()
	worker.Handle(mux, "reports", func(ctx context.Context, _ struct{}) ([]string, error) {
		if err := worker.Creating(ctx, "thing"); err != nil {
			return nil, err
		}
		id, err := worker.KeepFile(ctx, "a")
		if err != nil {
			return nil, err
		}
		path, err := worker.FetchFile(ctx, id)
		if err != nil {
			return nil, err
		}
		p, err := worker.NewProgress(ctx, worker.Part{Code: "part"})
		p.Done()
		return []string{id, path}, errors.Join(err, worker.Created(ctx, "thing"))
	})
	e := serve(t, mux)
	dir := e.run(3, "reports")
	created := func(incomplete bool) *executorv1.WorkRequest {
		return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Created{Created: &executorv1.RunCreated{
			TaskId: "the-task", Claim: 3, Created: &taskv1.CreatedResource{Resource: "thing", Incomplete: incomplete},
		}}}
	}
	expect := func(want, got *executorv1.WorkRequest) {
		t.Helper()
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	call := func(want *executorv1.Call, reply *executorv1.CallReply) {
		t.Helper()
		got := e.receive()
		want.Id, want.TaskId, reply.Id = got.GetCall().GetId(), "the-task", got.GetCall().GetId()
		expect(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Call{Call: want}}, got)
		e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Reply{Reply: reply}})
	}
	expect(created(true), e.receive())
	call(&executorv1.Call{Request: &executorv1.Call_KeepFile{KeepFile: &executorv1.KeepFile{Path: filepath.Join(dir, "a")}}}, &executorv1.CallReply{MadeId: "file"})
	call(&executorv1.Call{Request: &executorv1.Call_FetchFile{FetchFile: &executorv1.FetchFile{FileId: "file"}}}, &executorv1.CallReply{Path: "/there"})

	// Progress travels beside the rest, and its last state before the end.
	var last *executorv1.WorkRequest
	var others []*executorv1.WorkRequest
	for len(others) < 2 {
		if m := e.receive(); m.GetProgress() != nil {
			last = m
		} else {
			others = append(others, m)
		}
	}
	expect(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Progress{Progress: &executorv1.RunProgress{
		TaskId: "the-task", Claim: 3, Progress: &taskv1.Progress{Code: "part", State: taskv1.State_STATE_COMPLETED},
	}}}, last)
	expect(created(false), others[0])
	expect(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Ended{Ended: &executorv1.RunEnded{
		TaskId: "the-task", Claim: 3, Outcome: result(`["file","/there"]`),
	}}}, others[1])
}

func TestChildShowsTheDeadline(t *testing.T) {
	mux := worker.NewMux()
	worker.Handle(mux, "limited", func(ctx context.Context, _ struct{}) (bool, error) {
		at, limited := ctx.Deadline()
		return limited && time.Until(at) > 0 && time.Until(at) <= time.Hour, nil
	})
	e := serve(t, mux)
	e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Run{Run: &executorv1.RunTask{
		Assignment: &taskv1.Assignment{Name: "limited", Claim: 1, TaskId: "the-task"}, WorkingDir: t.TempDir(), Timeout: durationpb.New(time.Hour),
	}}})
	e.ended(1, result("true"))
	e.run(2, "limited")
	e.ended(2, result("false"))
}

func TestChildDiscards(t *testing.T) {
	running := make(chan struct{})
	mux := childMux(nil)
	worker.Handle(mux, "makes", func(context.Context, struct{}) (worker.None, error) { return worker.None{}, nil },
		worker.Discards(func(ctx context.Context, resource string) error {
			if resource == "sticky" {
				running <- struct{}{}
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		}))
	e := serve(t, mux)
	discard := func(claim int64, resources ...string) {
		t.Helper()
		e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Discard{Discard: &executorv1.DiscardRun{
			Assignment: &taskv1.Assignment{Name: "makes", Claim: claim, TaskId: "the-task"}, Resources: resources,
		}}})
	}
	discarded := func(claim int64, failed map[string]string) {
		t.Helper()
		want := &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Discarded{
			Discarded: &executorv1.RunDiscarded{TaskId: "the-task", Claim: claim, Failed: failed},
		}}
		if diff := cmp.Diff(want, e.receive(), protocmp.Transform()); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	discard(1, "a", "b")
	discarded(1, nil)
	e.run(2, "where") // it is free for the next
	e.ended(2, result("true"))
	discard(3, "a", "sticky", "b") // a stop ends it
	<-running
	e.stop(3)
	discarded(3, map[string]string{"sticky": "context canceled", "b": "context canceled"})
	discard(4, "sticky")
	<-running
	e.run(5, "where") // it does one thing at a time
	if err := <-e.served; err == nil || !strings.Contains(err.Error(), "one task at a time") {
		t.Errorf("served: %v", err)
	}
	_ = e.conn.Close()
}

func TestMessageThatNobodyWouldTakeFailsItsCallOnly(t *testing.T) {
	mux := worker.NewMux()
	worker.Handle(mux, "too much", func(ctx context.Context, _ struct{}) (worker.None, error) {
		_, err := worker.NewGroup(ctx, strings.Repeat("x", 9<<20))
		return worker.None{}, err
	})
	worker.Handle(mux, "not UTF-8", func(ctx context.Context, _ struct{}) (worker.None, error) {
		_, err := worker.NewGroup(ctx, "\xff")
		return worker.None{}, err
	})
	e := serve(t, mux)
	for claim, c := range []struct{ name, want string }{
		{"too much", "make a task group: a message to the executor has 94372"}, {"not UTF-8", "make a task group: encode a message to the executor: "},
	} {
		e.run(int64(claim+1), c.name)
		if got := e.receive().GetEnded().GetOutcome().GetError().GetDescription(); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func TestTaskWithoutItsDirectoryFails(t *testing.T) {
	e := serve(t, childMux(nil))
	e.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Run{Run: &executorv1.RunTask{
		Assignment: &taskv1.Assignment{Name: "where", TaskId: "the-task", Claim: 1}, WorkingDir: "/does/not/exist",
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

package worker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/limits"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// errExecutorGone ends the calls of a child whose executor closed the line.
var errExecutorGone = errors.New("the executor is gone")

// ServeChild runs tasks from mux, one at a time, as the executor at the other end of conn hands them over. The messages
// are WorkResponse and WorkRequest of sluice.executor.v1, each preceded by its length as a varint. Around a task it changes the
// process's current directory.
//
// It returns nil as soon as the executor has closed the line, without waiting for a handler that still runs (its context
// is canceled), and an error when the line breaks or the executor breaks the protocol. Programs call [ChildMain], which
// also sees to it that nothing of the process survives.
func ServeChild(ctx context.Context, mux *Mux, conn io.ReadWriteCloser) error {
	return newChild(mux, conn).serve(ctx)
}

// child is the worker's side of the line.
type child struct {
	mux  *Mux
	conn io.ReadWriteCloser
	log  *slog.Logger
	// home is where the process is when it has no task.
	home string
	// settle is called when a handler has returned, before that is reported: what must be over by then.
	settle func()
	// traces are the spans that handlers make.
	traces childTraces

	writing sync.Mutex // one message at a time

	mu       sync.Mutex
	current  *job // nil while it waits for a task
	lastCall int64
	open     map[int64]chan *executorv1.CallReply
}

// job is what a child does at the moment: a run of a task, or the deletion of what a run left.
type job struct {
	child *child
	task  string
	claim int64
	stop  context.CancelFunc
}

func newChild(mux *Mux, conn io.ReadWriteCloser) *child {
	home, err := os.Getwd()
	if err != nil {
		home = "/"
	}
	return &child{
		mux:    mux,
		conn:   conn,
		home:   home,
		log:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
		settle: func() {},
		open:   map[int64]chan *executorv1.CallReply{},
	}
}

func (c *child) serve(ctx context.Context) error {
	// Canceling the handler is all that is left to do for it when this returns.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unhook := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer unhook()

	hello := &executorv1.WorkerHello{Pid: int32(os.Getpid())}
	if err := c.send(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Hello{Hello: hello}}); err != nil {
		return fmt.Errorf("say that the worker is ready: %w", err)
	}
	reader := bufio.NewReader(c.conn)
	for {
		message := &executorv1.WorkResponse{}
		err := protodelim.UnmarshalOptions{MaxSize: limits.MaxMessage}.UnmarshalFrom(reader, message)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read from the executor: %w", err)
		}
		if err := c.receive(ctx, message); err != nil {
			return err
		}
	}
}

func (c *child) receive(ctx context.Context, message *executorv1.WorkResponse) error {
	switch m := message.GetMessage().(type) {
	case *executorv1.WorkResponse_Run:
		return c.start(ctx, m.Run.GetAssignment(), func(ctx context.Context, j *job) *executorv1.WorkRequest {
			return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Ended{
				Ended: &executorv1.RunEnded{TaskId: j.task, Claim: j.claim, Outcome: j.perform(ctx, m.Run)},
			}}
		})
	case *executorv1.WorkResponse_Discard:
		return c.start(ctx, m.Discard.GetAssignment(), func(ctx context.Context, j *job) *executorv1.WorkRequest {
			return &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Discarded{
				Discarded: &executorv1.RunDiscarded{TaskId: j.task, Claim: j.claim, Failed: j.discard(ctx, m.Discard)},
			}}
		})
	case *executorv1.WorkResponse_Stop:
		c.stopRun(m.Stop.GetTaskId(), m.Stop.GetClaim())
	case *executorv1.WorkResponse_Reply:
		c.answer(m.Reply)
	case *executorv1.WorkResponse_Refusal:
		c.log.WarnContext(ctx, "the executor refused what was said about a run", slog.String("task_id", m.Refusal.GetTaskId()),
			slog.Int64("claim", m.Refusal.GetClaim()), slog.String("reason", m.Refusal.GetReason()))
	default:
		// A newer executor may say more than we know. What it must not do is depend on it.
	}
	return nil
}

// start does a job beside the reading of messages, for a stop must find its way to it, and sends what came of it.
func (c *child) start(ctx context.Context, a *taskv1.Assignment, do func(context.Context, *job) *executorv1.WorkRequest) error {
	ctx, stop := context.WithCancel(ctx)
	j := &job{child: c, task: a.GetTaskId(), claim: a.GetClaim(), stop: stop}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		stop()
		return fmt.Errorf("start claim %d: claim %d still runs, a worker takes one task at a time", j.claim, c.current.claim)
	}
	c.current = j
	go func() {
		defer stop()
		report := do(ctx, j)
		// Free before the report is out: the next task may follow it at once.
		c.mu.Lock()
		c.current = nil
		c.mu.Unlock()
		// An executor that can't be told is gone, and serve finds that out too.
		_ = c.send(report)
	}()
	return nil
}

// perform runs a task in its directory.
func (j *job) perform(ctx context.Context, run *executorv1.RunTask) *taskv1.Outcome {
	if err := os.Chdir(run.GetWorkingDir()); err != nil {
		return Failed(fmt.Sprintf("enter the task's working directory: %v", err), "")
	}
	defer func() {
		j.child.settle()
		// The directory is about to be removed; a process that stays in it would pin it.
		_ = os.Chdir(j.child.home)
	}()
	tracing, flush := j.child.traces.of(ctx, run.GetAssignment())
	defer flush() // once the end is reported, this process may be killed
	return j.child.mux.Run(ctx, Run{
		Assignment: run.GetAssignment(), Timeout: run.GetTimeout().AsDuration(), Log: j.child.log, Calls: j, Tracing: tracing,
		WorkingDir: func() (string, error) { return run.GetWorkingDir(), nil },
	})
}

// discard deletes what a run left.
func (j *job) discard(ctx context.Context, what *executorv1.DiscardRun) map[string]string {
	defer j.child.settle()
	return j.child.mux.Discard(ctx, Run{Assignment: what.GetAssignment(), Log: j.child.log}, what.GetResources())
}

// stopRun cancels the handler's context if it still is the claim's; a stop can cross the report of the end on the way.
func (c *child) stopRun(task string, claim int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j := c.current; j != nil && j.task == task && j.claim == claim {
		j.stop()
	}
}

// stopAny cancels whatever runs. A child that is idle goes on: only its executor ends it.
func (c *child) stopAny() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		c.current.stop()
	}
}

// Dispatch asks the executor to store a child task.
func (j *job) Dispatch(ctx context.Context, spec *taskv1.TaskSpec) (string, error) {
	reply, err := j.call(ctx, &executorv1.Call{Request: &executorv1.Call_Dispatch{Dispatch: spec}})
	return reply.GetMadeId(), err
}

// NewGroup asks the executor to make a task group.
func (j *job) NewGroup(ctx context.Context, description string) (string, error) {
	reply, err := j.call(ctx, &executorv1.Call{Request: &executorv1.Call_NewGroup{NewGroup: &executorv1.NewGroup{Description: description}}})
	return reply.GetMadeId(), err
}

// KeepFile asks the executor to store a file.
func (j *job) KeepFile(ctx context.Context, path string) (string, error) {
	reply, err := j.call(ctx, &executorv1.Call{Request: &executorv1.Call_KeepFile{KeepFile: &executorv1.KeepFile{Path: path}}})
	return reply.GetMadeId(), err
}

// FetchFile asks the executor for a file.
func (j *job) FetchFile(ctx context.Context, id string) (string, error) {
	reply, err := j.call(ctx, &executorv1.Call{Request: &executorv1.Call_FetchFile{FetchFile: &executorv1.FetchFile{FileId: id}}})
	return reply.GetPath(), err
}

// Progress tells the executor how far a part of the task is. Like Created it returns at once, as an executor reads all the time:
// if it is gone, writing fails, which serve finds out too.
func (j *job) Progress(p *taskv1.Progress) {
	_ = j.child.send(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Progress{
		Progress: &executorv1.RunProgress{TaskId: j.task, Claim: j.claim, Progress: p},
	}})
}

// GroupProgress tells the executor what the run has added to the progress of its group.
func (j *job) GroupProgress(p *taskv1.GroupProgress) {
	_ = j.child.send(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_GroupProgress{
		GroupProgress: &executorv1.RunGroupProgress{TaskId: j.task, Claim: j.claim, Progress: p},
	}})
}

// Created tells the executor what the task made. It is on its way when this returns, and so before the end of the run.
func (j *job) Created(made *taskv1.CreatedResource) {
	_ = j.child.send(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Created{
		Created: &executorv1.RunCreated{TaskId: j.task, Claim: j.claim, Created: made},
	}})
}

// call sends a request and waits for its answer.
func (j *job) call(ctx context.Context, call *executorv1.Call) (*executorv1.CallReply, error) {
	c := j.child
	answer := make(chan *executorv1.CallReply, 1)
	c.mu.Lock()
	c.lastCall++
	call.Id, call.TaskId = c.lastCall, j.task
	c.open[call.GetId()] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.open, call.GetId())
		c.mu.Unlock()
	}()
	if err := c.send(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Call{Call: call}}); err != nil {
		return nil, err
	}
	select {
	case reply := <-answer:
		if reply.GetError() != "" {
			return nil, errors.New(reply.GetError())
		}
		return reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answer wakes the call that a reply belongs to; it may have given up.
func (c *child) answer(reply *executorv1.CallReply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if waiting, ok := c.open[reply.GetId()]; ok {
		delete(c.open, reply.GetId()) // a second reply with this id finds nobody, and the buffer holds one
		waiting <- reply
	}
}

// send writes one message with one write, so that a task that ends in the middle of a call can't tear it.
func (c *child) send(message proto.Message) error {
	var b bytes.Buffer
	if _, err := protodelim.MarshalTo(&b, message); err != nil {
		return fmt.Errorf("encode a message to the executor: %w", err)
	}
	if b.Len() > limits.MaxMessage {
		// The executor would take it for garbage and kill us.
		return fmt.Errorf("a message to the executor has %d bytes, more than the limit of %d", b.Len(), limits.MaxMessage)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.conn.Write(b.Bytes()); err != nil {
		return fmt.Errorf("%w: %w", errExecutorGone, err)
	}
	return nil
}

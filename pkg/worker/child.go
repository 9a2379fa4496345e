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
// are ToWorker and FromWorker of sluice.executor.v1, each preceded by its length as a varint. Around a task it changes the
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
	// settle is called when a handler has returned, before that is reported: what must be over by then.
	settle func()

	writing sync.Mutex // one message at a time

	mu       sync.Mutex
	running  int64 // claim of the task that runs, 0 if none
	stop     context.CancelFunc
	lastCall int64
	open     map[int64]chan *executorv1.CallReply
}

func newChild(mux *Mux, conn io.ReadWriteCloser) *child {
	return &child{
		mux:    mux,
		conn:   conn,
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

	ready := &executorv1.Ready{Pid: int32(os.Getpid())}
	if err := c.send(&executorv1.FromWorker{Message: &executorv1.FromWorker_Ready{Ready: ready}}); err != nil {
		return fmt.Errorf("say that the worker is ready: %w", err)
	}
	reader := bufio.NewReader(c.conn)
	for {
		message := &executorv1.ToWorker{}
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

func (c *child) receive(ctx context.Context, message *executorv1.ToWorker) error {
	switch m := message.GetMessage().(type) {
	case *executorv1.ToWorker_Run:
		return c.start(ctx, m.Run)
	case *executorv1.ToWorker_Stop:
		c.stopRun(m.Stop.GetClaim())
	case *executorv1.ToWorker_Reply:
		c.answer(m.Reply)
	default:
		// A newer executor may say more than we know. What it must not do is depend on it.
	}
	return nil
}

// start runs a task beside the reading of messages: a stop must find its way to it.
func (c *child) start(ctx context.Context, run *executorv1.RunTask) error {
	ctx, stop := context.WithCancel(ctx)
	claim := run.GetAssignment().GetClaim()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != 0 {
		stop()
		return fmt.Errorf("start claim %d: claim %d still runs, a worker takes one task at a time", claim, c.running)
	}
	c.running, c.stop = claim, stop
	go func() {
		defer stop()
		outcome := c.perform(ctx, run)
		// Free before the report is out: the next task may follow it at once.
		c.mu.Lock()
		c.running, c.stop = 0, nil
		c.mu.Unlock()
		// An executor that can't be told is gone, and serve finds that out too.
		_ = c.send(&executorv1.FromWorker{Message: &executorv1.FromWorker_Ended{
			Ended: &executorv1.TaskEnded{Claim: claim, Outcome: outcome},
		}})
	}()
	return nil
}

func (c *child) perform(ctx context.Context, run *executorv1.RunTask) *taskv1.Outcome {
	home, err := os.Getwd()
	if err != nil {
		home = "/"
	}
	if err := os.Chdir(run.GetWorkingDir()); err != nil {
		return Failed(fmt.Sprintf("enter the task's working directory: %v", err), "")
	}
	defer func() {
		c.settle()
		// The directory is about to be removed; a process that stays in it would pin it.
		_ = os.Chdir(home)
	}()
	dir := func() (string, error) { return run.GetWorkingDir(), nil }
	return c.mux.Run(ctx, Run{Assignment: run.GetAssignment(), WorkingDir: dir, Log: c.log, Calls: c})
}

// stopRun cancels the handler's context if it still is the claim's; a stop can cross the report of the end on the way.
func (c *child) stopRun(claim int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil && c.running == claim {
		c.stop()
	}
}

// stopAny cancels whatever runs. A child that is idle goes on: only its executor ends it.
func (c *child) stopAny() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.stop()
	}
}

// Dispatch asks the executor to store a child task.
func (c *child) Dispatch(ctx context.Context, spec *taskv1.TaskSpec) (string, error) {
	return c.call(ctx, &executorv1.Call{Request: &executorv1.Call_Dispatch{Dispatch: spec}})
}

// NewGroup asks the executor to make a task group.
func (c *child) NewGroup(ctx context.Context, description string) (string, error) {
	return c.call(ctx, &executorv1.Call{Request: &executorv1.Call_NewGroup{NewGroup: &executorv1.NewGroup{Description: description}}})
}

// call sends a request and waits for its answer.
func (c *child) call(ctx context.Context, call *executorv1.Call) (string, error) {
	answer := make(chan *executorv1.CallReply, 1)
	c.mu.Lock()
	c.lastCall++
	id := c.lastCall
	call.Id = id
	c.open[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.open, id)
		c.mu.Unlock()
	}()
	if err := c.send(&executorv1.FromWorker{Message: &executorv1.FromWorker_Call{Call: call}}); err != nil {
		return "", fmt.Errorf("%w: %w", errExecutorGone, err)
	}
	select {
	case reply := <-answer:
		if reply.GetError() != "" {
			return "", errors.New(reply.GetError())
		}
		return reply.GetMadeId(), nil
	case <-ctx.Done():
		return "", ctx.Err()
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
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.conn.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write to the executor: %w", err)
	}
	return nil
}

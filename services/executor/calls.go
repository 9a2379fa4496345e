package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// calls serves what a running task asks for, in its name and under its lease.
type calls struct {
	dispatcher dispatcherv1.DispatcherServiceClient
	log        *slog.Logger
	run        *run
	dir        *taskDir
}

// Dispatch stores a child of the task. Whose child it is, the handler can't choose; its trace goes on with the child.
func (c calls) Dispatch(ctx context.Context, spec *taskv1.TaskSpec) (string, error) {
	if !c.run.lease.holds() {
		return "", errFenced
	}
	a := c.run.assignment
	spec.ParentId = a.GetTaskId()
	spec.CorrelationId = a.GetCorrelationId()
	spec.CreatedBy = a.GetCreatedBy()
	if len(spec.GetProfileOptions()) == 0 {
		spec.ProfileOptions = a.GetProfileOptions()
	}
	made, err := client.SendTask(traceOf(ctx, a), c.dispatcher, spec)
	if err != nil {
		return "", err
	}
	return made.GetId(), nil
}

// NewGroup makes a task group.
func (c calls) NewGroup(ctx context.Context, description string) (string, error) {
	if !c.run.lease.holds() {
		return "", errFenced
	}
	response, err := c.dispatcher.CreateTaskGroup(ctx, &dispatcherv1.CreateTaskGroupRequest{Description: description})
	if err != nil {
		return "", err
	}
	return response.GetGroupId(), nil
}

// KeepFile stores a file of the task's working directory.
func (c calls) KeepFile(ctx context.Context, path string) (string, error) {
	if !c.run.lease.holds() {
		return "", errFenced
	}
	dir, err := c.dir.make()
	if err != nil {
		return "", err
	}
	return keepFile(ctx, c.dispatcher, dir, path)
}

// FetchFile brings a temporary file, to where it is removed when the task has ended.
func (c calls) FetchFile(ctx context.Context, id string) (string, error) {
	if !c.run.lease.holds() {
		return "", errFenced
	}
	dir, err := c.dir.makeFiles()
	if err != nil {
		return "", err
	}
	return fetchFile(ctx, c.dispatcher, dir, id)
}

// Progress notes how far the task is.
func (c calls) Progress(p *taskv1.Progress) { c.note("progress", c.run.told.progress(p)) }

// GroupProgress notes what the task has added to the progress of its group.
func (c calls) GroupProgress(p *taskv1.GroupProgress) { c.note("group progress", c.run.told.added(p)) }

// Created notes what the task made.
func (c calls) Created(made *taskv1.CreatedResource) {
	c.note("a created resource", c.run.told.created(made))
}

func (c calls) note(what string, err error) {
	if err != nil {
		c.log.Warn("a task told of something that is not kept", append(c.run.attrs(), slog.String("what", what), slog.Any("error", err))...)
	}
}

// callServer serves the calls of one run in another process, several at a time.
type callServer struct {
	ctx     context.Context
	cancel  context.CancelFunc
	calls   calls
	answer  func(*executorv1.CallReply)
	open    chan struct{}
	active  chan struct{}
	serving sync.WaitGroup
}

func newCallServer(ctx context.Context, calls calls, answer func(*executorv1.CallReply)) *callServer {
	ctx, cancel := context.WithCancel(ctx)
	return &callServer{
		ctx: ctx, cancel: cancel, calls: calls, answer: answer,
		open: make(chan struct{}, openCalls), active: make(chan struct{}, callsAtOnce),
	}
}

// close gives up the calls that are still open: the handler that made them has returned.
func (c *callServer) close() {
	c.cancel()
	c.serving.Wait()
}

// serve answers a call, sooner or later. It never waits: a stop or a death must not go unnoticed behind a call.
func (c *callServer) serve(call *executorv1.Call) {
	reply := &executorv1.CallReply{Id: call.GetId()}
	select {
	case c.open <- struct{}{}:
	default:
		c.reply(reply, fmt.Errorf("the task has more than %d calls open", openCalls))
		return
	}
	c.serving.Go(func() {
		defer func() { <-c.open }()
		select {
		case c.active <- struct{}{}:
			defer func() { <-c.active }()
		case <-c.ctx.Done():
			c.reply(reply, c.ctx.Err())
			return
		}
		c.reply(reply, c.do(call, reply))
	})
}

// serveFor serves a call of a child, which has one task at a time. What an earlier one left running in it can still ask, but not in
// the name of its successor.
func (c *callServer) serveFor(task string, call *executorv1.Call) {
	if call.GetTaskId() != "" && call.GetTaskId() != task {
		c.reply(&executorv1.CallReply{Id: call.GetId()}, errEnded)
		return
	}
	c.serve(call)
}

func (c *callServer) do(call *executorv1.Call, reply *executorv1.CallReply) (err error) {
	if err := limits.CheckCall(call); err != nil {
		return err
	}
	switch request := call.GetRequest().(type) {
	case *executorv1.Call_Dispatch:
		if request.Dispatch == nil {
			return errors.New("the call names no task")
		}
		reply.MadeId, err = c.calls.Dispatch(c.ctx, request.Dispatch)
	case *executorv1.Call_NewGroup:
		reply.MadeId, err = c.calls.NewGroup(c.ctx, request.NewGroup.GetDescription())
	case *executorv1.Call_KeepFile:
		reply.MadeId, err = c.calls.KeepFile(c.ctx, request.KeepFile.GetPath())
	case *executorv1.Call_FetchFile:
		reply.Path, err = c.calls.FetchFile(c.ctx, request.FetchFile.GetFileId())
	default:
		err = errors.New("this executor does not know the call")
	}
	return err
}

func (c *callServer) reply(reply *executorv1.CallReply, err error) {
	if err != nil {
		reply.Error = firstOf(err.Error(), "unknown error")
	}
	c.answer(reply)
}

// firstOf is the first text that says something.
func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

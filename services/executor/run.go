package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// run is one claimed task in the hands of the executor.
type run struct {
	claim      claim
	assignment *taskv1.Assignment
	since      time.Time

	// after is closed when an older run of the same task has ended; nil if there was none.
	after <-chan struct{}
	// done is closed when nothing of the run is left.
	done chan struct{}

	// Two wishes. asked is done when the task is to stop: it has a grace. killed, which includes it, is done when it has
	// none. The causes say who wished so, and the first one counts.
	asked  context.Context
	cancel context.CancelCauseFunc
	killed context.Context
	kill   context.CancelCauseFunc

	// Under the lock of the service.
	outcome *taskv1.Outcome // nil until it ended
	// abandoned: its handler ignores everything, and the executor stops without it.
	abandoned bool
	pid       int
}

// newRun makes a run, which outlives the line that brought it.
func newRun(ctx context.Context, c claim, a *taskv1.Assignment) *run {
	r := &run{claim: c, assignment: a, since: time.Now(), done: make(chan struct{})}
	r.killed, r.kill = context.WithCancelCause(context.WithoutCancel(ctx))
	r.asked, r.cancel = context.WithCancelCause(r.killed)
	return r
}

func (r *run) attrs() []any {
	return []any{
		slog.String("task_id", r.claim.task),
		slog.Int64("claim", r.claim.number),
		slog.String("task", r.assignment.GetName()),
		slog.String("correlation_id", r.assignment.GetCorrelationId()),
	}
}

// verdict is the outcome of a run that made something of itself: what was asked of it goes before what it made of that.
func (r *run) verdict(made *taskv1.Outcome) *taskv1.Outcome {
	cause := context.Cause(r.asked)
	if cause == nil {
		cause = context.Cause(r.killed) // a moment ago: it reaches asked after it is seen here
	}
	switch {
	case cause == nil:
		return made
	case errors.Is(cause, errCanceled):
		return ended(taskv1.State_STATE_CANCELED, task.ReasonCanceled)
	case errors.Is(cause, errStopping):
		return ended(taskv1.State_STATE_FAILED, task.ReasonShutdown)
	default:
		return made // dropped: nobody will hear of it
	}
}

// ended is an outcome that was decided from outside the handler.
func ended(state taskv1.State, reason string) *taskv1.Outcome {
	return &taskv1.Outcome{State: state, Error: &taskv1.TaskError{Reason: reason}}
}

// perform takes a run through its life and reports its end.
func (s *Service) perform(r *run) {
	outcome, output := s.conduct(r)
	s.keepLog(r, output)
	if err := worker.Check(outcome); outcome != nil && err != nil {
		outcome = worker.Failed(fmt.Sprintf("The worker reported an outcome that breaks a rule: %v.", err), "")
	}
	r.kill(errDropped) // to release the contexts: it changes nothing any more

	s.mu.Lock()
	defer s.mu.Unlock()
	close(r.done)
	if s.byTask[r.claim.task] == r {
		delete(s.byTask, r.claim.task)
	}
	if s.runs[r.claim] != r {
		return // dropped
	}
	if outcome == nil {
		// Somebody's code still runs. Who says that the task has ended frees its resources; the end of the lease says so
		// when this process is gone.
		r.abandoned = true
		s.changedLocked()
		return
	}
	r.outcome = outcome
	s.changedLocked()
	if s.line != nil {
		s.line.finish(r.claim, outcome)
	}
	if s.log.Enabled(r.killed, slog.LevelInfo) {
		s.log.Info("ended", append(r.attrs(), slog.String("state", string(wire.FromState(outcome.GetState()))),
			slog.Duration("after", time.Since(r.since)), slog.String("error", wire.FromError(outcome.GetError()).String()))...)
	}
}

// conduct waits for all that must come first, runs the handler where it belongs, and returns what came of it together with
// what the task's process wrote.
func (s *Service) conduct(r *run) (*taskv1.Outcome, output) {
	slots := s.slots
	if r.assignment.GetImmediate() {
		slots = s.immediate
	}
	if !r.await(r.after) {
		return r.verdict(nil), output{}
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-r.asked.Done():
		return r.verdict(nil), output{}
	}

	name := r.assignment.GetName()
	traits, known := s.mux.Traits(name)
	switch {
	case !known:
		return worker.Failed(fmt.Sprintf("This executor has no handler for the task %q.", name), ""), output{}
	case r.assignment.GetImmediate() && !traits.Immediate:
		return worker.Failed(fmt.Sprintf("%s The handler of %q is not declared fit to run immediately.", task.DescriptionImmediate, name), ""), output{}
	}
	dir := &taskDir{home: s.home, task: r.claim.task}
	defer func() {
		if err := dir.remove(); err != nil {
			s.log.Warn("could not remove a working directory", append(r.attrs(), slog.Any("error", err))...)
		}
	}()
	if traits.InProcess {
		return s.runHere(r, dir), output{}
	}
	path, err := dir.make()
	if err != nil {
		return worker.Failed(fmt.Sprintf("Could not make the task's working directory: %v.", err), ""), output{}
	}
	return s.runInChild(r, path)
}

// await reports whether a moment (nil: no need to wait) came before the run was asked to stop.
func (r *run) await(moment <-chan struct{}) bool {
	if moment == nil {
		return r.asked.Err() == nil
	}
	select {
	case <-moment:
		return r.asked.Err() == nil
	case <-r.asked.Done():
		return false
	}
}

// runHere runs a handler as a goroutine. All it can do to stop it is to cancel its context: the run ends when the handler
// returns, or, if the executor itself must go on, after a grace.
func (s *Service) runHere(r *run, dir *taskDir) *taskv1.Outcome {
	ctx := r.asked
	if r.assignment.GetImmediate() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.config.ImmediateTimeout)
		defer cancel()
	}
	result := s.mux.Start(ctx, worker.Run{Assignment: r.assignment, WorkingDir: dir.make, Log: s.log, Calls: s.callsOf(r)})

	var patience <-chan time.Time
	asked, killed := ctx.Done(), r.killed.Done()
	for {
		select {
		case made := <-result:
			if r.asked.Err() == nil && ctx.Err() != nil {
				seconds := strconv.FormatFloat(s.config.ImmediateTimeout.Seconds(), 'f', -1, 64)
				made = worker.Failed(fmt.Sprintf(task.DescriptionTimeFormat, r.claim.task, r.assignment.GetName(), seconds), "")
			}
			return r.verdict(made)
		case <-asked:
			asked = nil
			timer := time.NewTimer(s.config.CancelGrace)
			defer timer.Stop()
			patience = timer.C
		case <-patience:
			s.log.Error("an in-process handler ignores that its context ended; its task goes on until it returns", r.attrs()...)
			if killed == nil {
				return nil
			}
			patience = nil
		case <-killed:
			killed = nil
			timer := time.NewTimer(s.config.CancelGrace)
			defer timer.Stop()
			patience = timer.C
		}
	}
}

// runInChild runs a task in a child process and climbs the ladder when it is asked to stop: a message and SIGTERM, then
// after the grace SIGKILL, to the whole process group.
func (s *Service) runInChild(r *run, dir string) (*taskv1.Outcome, output) {
	child, err := s.children.get(r.asked)
	if err != nil {
		var failed *startError
		errors.As(err, &failed)
		return r.verdict(worker.Failed(fmt.Sprintf("Could not start a process for the task: %v.", err), "")), failed.output()
	}
	s.mu.Lock()
	r.pid = child.pid
	s.mu.Unlock()
	child.output.reset() // what was written before is not this task's
	child.send(&executorv1.ToWorker{Message: &executorv1.ToWorker_Run{
		Run: &executorv1.RunTask{Assignment: r.assignment, WorkingDir: dir},
	}})

	calls := newCallServer(r.asked, s.callsOf(r), child)
	made := s.supervise(r, child, calls)
	calls.close() // nothing of this run may reach the child's next task
	s.mu.Lock()
	r.pid = 0
	s.mu.Unlock()

	if made == nil {
		how := child.end()
		return r.verdict(how), child.output.take()
	}
	text := child.output.take()
	verdict := r.verdict(made)
	s.children.put(child, verdict == made && reusable(made))
	return verdict, text
}

// reusable: only a panic has a traceback, and what a handler left half done when it panicked, nobody knows.
func reusable(made *taskv1.Outcome) bool { return made.GetError().GetTraceback() == "" }

// supervise waits until the child reports the end of the run, and returns that, or nil if the child died or had to.
func (s *Service) supervise(r *run, child *child, calls *callServer) *taskv1.Outcome {
	var grace <-chan time.Time
	asked, killed := r.asked.Done(), r.killed.Done()
	for {
		select {
		case message, alive := <-child.messages:
			if !alive {
				return nil
			}
			switch m := message.GetMessage().(type) {
			case *executorv1.FromWorker_Ended:
				if m.Ended.GetClaim() != r.claim.number {
					child.blame(fmt.Errorf("it reported the end of claim %d while it had claim %d", m.Ended.GetClaim(), r.claim.number))
					return nil
				}
				return honest(m.Ended.GetOutcome())
			case *executorv1.FromWorker_Call:
				calls.serve(m.Call)
			default:
				// A second ready, or what a newer worker says.
			}
		case <-asked:
			asked = nil
			child.send(&executorv1.ToWorker{Message: &executorv1.ToWorker_Stop{Stop: &executorv1.StopTask{Claim: r.claim.number}}})
			child.signal(unix.SIGTERM)
			timer := time.NewTimer(s.config.CancelGrace)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			s.log.Warn("the task did not stop within its grace, killing it", r.attrs()...)
			child.kill()
		case <-killed:
			killed = nil
			child.kill()
		}
	}
}

// honest is the outcome that a worker reported, if it may report that at all: canceled is for who was asked to stop, and
// then it is our word.
func honest(made *taskv1.Outcome) *taskv1.Outcome {
	switch {
	case made == nil:
		return worker.Failed("The worker reported an end without an outcome.", "")
	case made.GetState() == taskv1.State_STATE_CANCELED:
		return worker.Failed("The worker gave the task up as canceled, which nobody had asked for.", "")
	default:
		return made
	}
}

// keepLog stores what the task wrote, before its end is reported, so that whoever waits for the end finds the log. It is
// worth an attempt, not a delay.
func (s *Service) keepLog(r *run, output output) {
	if output.text == "" || errors.Is(context.Cause(r.killed), errDropped) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.killed), s.config.ReportTimeout)
	defer cancel()
	_, err := s.peers.Status.PutTaskLog(ctx, &statusv1.PutTaskLogRequest{
		TaskId: r.claim.task, Claim: r.claim.number, Text: output.text, Truncated: output.truncated,
	})
	if err != nil {
		s.log.Warn("could not store the task's log", append(r.attrs(), slog.Any("error", err), slog.Int("bytes", len(output.text)))...)
	}
}

// calls serves what a running task asks for, in its name.
type calls struct {
	peers      Peers
	assignment *taskv1.Assignment
}

func (s *Service) callsOf(r *run) worker.Calls {
	return calls{peers: s.peers, assignment: r.assignment}
}

// Dispatch stores a child of the task. Whose child it is, the handler can't choose.
func (c calls) Dispatch(ctx context.Context, spec *taskv1.TaskSpec) (string, error) {
	spec.ParentId = c.assignment.GetTaskId()
	spec.CorrelationId = c.assignment.GetCorrelationId()
	response, err := c.peers.Dispatcher.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: spec})
	if err != nil {
		return "", err
	}
	return response.GetTask().GetId(), nil
}

// NewGroup makes a task group.
func (c calls) NewGroup(ctx context.Context, description string) (string, error) {
	response, err := c.peers.Dispatcher.CreateTaskGroup(ctx, &dispatcherv1.CreateTaskGroupRequest{Description: description})
	if err != nil {
		return "", err
	}
	return response.GetGroupId(), nil
}

// callServer serves the calls of one run in a child, several at a time.
type callServer struct {
	ctx     context.Context
	cancel  context.CancelFunc
	calls   worker.Calls
	child   *child
	open    chan struct{}
	active  chan struct{}
	serving sync.WaitGroup
}

func newCallServer(ctx context.Context, calls worker.Calls, child *child) *callServer {
	ctx, cancel := context.WithCancel(ctx)
	return &callServer{
		ctx: ctx, cancel: cancel, calls: calls, child: child,
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
	select {
	case c.open <- struct{}{}:
	default:
		c.reply(call, "", fmt.Errorf("the task has more than %d calls open", openCalls))
		return
	}
	c.serving.Go(func() {
		defer func() { <-c.open }()
		select {
		case c.active <- struct{}{}:
			defer func() { <-c.active }()
		case <-c.ctx.Done():
			c.reply(call, "", c.ctx.Err())
			return
		}
		id, err := c.do(call)
		c.reply(call, id, err)
	})
}

func (c *callServer) do(call *executorv1.Call) (string, error) {
	switch request := call.GetRequest().(type) {
	case *executorv1.Call_Dispatch:
		if request.Dispatch == nil {
			return "", errors.New("the call names no task")
		}
		return c.calls.Dispatch(c.ctx, request.Dispatch)
	case *executorv1.Call_NewGroup:
		return c.calls.NewGroup(c.ctx, request.NewGroup.GetDescription())
	default:
		return "", errors.New("this executor does not know the call")
	}
}

func (c *callServer) reply(call *executorv1.Call, id string, err error) {
	reply := &executorv1.CallReply{Id: call.GetId(), MadeId: id}
	if err != nil {
		reply.Error = firstOf(err.Error(), "unknown error")
	}
	c.child.send(&executorv1.ToWorker{Message: &executorv1.ToWorker_Reply{Reply: reply}})
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

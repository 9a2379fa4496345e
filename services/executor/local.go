package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// local is the place of the executor's own tasks: its handlers, run in this process or in children.
type local struct {
	config   Config
	peers    Peers
	mux      *worker.Mux
	log      *slog.Logger
	children *pool
	// home is where tasks have their directories; nil until the executor's name is its own.
	home func() *home
	// running notes which process runs a task, 0 for none.
	running func(r *run, pid int)
}

func (l *local) tasks() []string { return l.mux.Names() }

// versions are those of the handlers' components, and what the executor was told that it has.
func (l *local) versions() map[string]string {
	all := maps.Clone(l.config.Versions)
	if all == nil {
		all = map[string]string{}
	}
	for component, version := range l.mux.Versions() {
		if _, told := all[component]; !told {
			all[component] = version
		}
	}
	return all
}

// leased is nothing to our own processes: they die with us, and we see to the lease.
func (l *local) leased(*lease) {}

// fenced leaves it to the runs, which are killed.
func (l *local) fenced() {}

// perform runs a handler where it belongs, and deletes what it made if it came to nothing.
func (l *local) perform(r *run) *taskv1.Outcome {
	name := r.assignment.GetName()
	traits, known := l.mux.Traits(name)
	switch {
	case !known:
		return unfit("This executor has no handler for the task %q.", name)
	case r.assignment.GetImmediate() && !traits.Immediate:
		return unfit("%s The handler of %q is not declared fit to run immediately.", task.DescriptionImmediate, name)
	}
	dir := &taskDir{home: l.home(), task: r.claim.task}
	defer dir.clear(r, l.log)
	calls := calls{dispatcher: l.peers.Dispatcher, log: l.log, run: r, dir: dir}
	over := r.within(traits.Timeout, 0)
	var outcome *taskv1.Outcome
	if traits.InProcess {
		outcome = l.runHere(r, calls)
	} else {
		outcome = l.runInChild(r, calls)
	}
	over()
	if left := leftover(r, outcome); len(left) > 0 {
		r.told.gone(without(left, l.discard(r, traits, left), r, l.log))
	}
	return outcome
}

// leftover names what a run made, did not complete, and is not to stay. What is not ours any more is not ours to delete.
func leftover(r *run, outcome *taskv1.Outcome) []string {
	if outcome == nil || outcome.GetState() == taskv1.State_STATE_COMPLETED || r.dropped.Err() != nil {
		return nil
	}
	return r.told.incomplete()
}

// without is what was deleted of what was to be; one failure does not stop the others.
func without(left []string, failed map[string]string, r *run, log *slog.Logger) []string {
	for name, reason := range failed {
		log.Warn("could not delete what a task had left incomplete", append(r.attrs(), slog.String("resource", name), slog.String("error", reason))...)
	}
	return slices.DeleteFunc(left, func(name string) bool { _, stays := failed[name]; return stays })
}

// all says of everything why it could not be deleted.
func all(names []string, reason string) map[string]string {
	failed := make(map[string]string, len(names))
	for _, name := range names {
		failed[name] = reason
	}
	return failed
}

// discard has the handler's own means delete what a run of it left incomplete. Its process may be dead, so another one does it.
func (l *local) discard(r *run, traits worker.Traits, names []string) (failed map[string]string) {
	if !traits.Discards {
		return all(names, "the handler declares no way to delete it")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.killed), l.config.CancelGrace)
	defer cancel()
	defer context.AfterFunc(r.dropped, cancel)()
	if traits.InProcess {
		result := make(chan map[string]string, 1)
		go func() {
			result <- l.mux.Discard(ctx, worker.Run{Assignment: r.assignment, Log: l.log}, names)
		}()
		select {
		case failed := <-result:
			return failed
		case <-ctx.Done():
			r.loose = true
			return all(names, cutShort(ctx))
		}
	}
	child, err := l.children.get(ctx)
	if err != nil {
		return all(names, err.Error())
	}
	child.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Discard{
		Discard: &executorv1.DiscardRun{Assignment: r.assignment, Resources: names},
	}})
	for {
		select {
		case message, alive := <-child.messages:
			if !alive {
				how := child.end()
				r.loose = r.loose || child.stuck
				return all(names, firstOf(how.GetError().GetReason(), "its process died"))
			}
			if discarded := message.GetDiscarded(); discarded != nil {
				l.children.put(child, discarded.GetTaskId() == r.claim.task)
				return discarded.GetFailed()
			}
		case <-ctx.Done():
			child.kill()
			child.end()
			r.loose = r.loose || child.stuck
			return all(names, cutShort(ctx))
		}
	}
}

// cutShort says why a deletion was not waited for.
func cutShort(ctx context.Context) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return "it took longer than the cancel grace"
	}
	return errDropped.Error()
}

// runHere runs a handler as a goroutine. All it can do to stop it is to cancel its context: the run ends when the handler
// returns, or, if the executor itself must go on, after a grace.
func (l *local) runHere(r *run, calls calls) *taskv1.Outcome {
	ctx := r.asked
	if r.assignment.GetImmediate() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.config.ImmediateTimeout)
		defer cancel()
	}
	if warning := r.diagnose(l.config.Diagnostics, false); warning != "" {
		_ = r.told.write(warning) // it has not ended
	}
	log := l.log
	if r.diagnosis.logs {
		// What it logs goes to the executor's log, and nobody captures what it writes.
		log = slog.New(slog.NewMultiHandler(log.Handler(), slog.NewTextHandler(&r.told, nil)))
	}
	result := l.mux.Start(r.traced.within(ctx), worker.Run{
		Assignment: r.assignment, WorkingDir: calls.dir.make, Log: log, Calls: calls, Timeout: r.limit, Tracing: r.traced.provider(),
	})

	var patience <-chan time.Time
	asked, killed := ctx.Done(), r.killed.Done()
	for {
		select {
		case made := <-result:
			if r.asked.Err() == nil && ctx.Err() != nil {
				seconds := strconv.FormatFloat(l.config.ImmediateTimeout.Seconds(), 'f', -1, 64)
				made = unfit(task.DescriptionTimeFormat, r.claim.task, r.assignment.GetName(), seconds)
				made.Error.Code = task.CodeTimeout
			}
			return r.verdict(made)
		case <-asked:
			asked = nil
			timer := time.NewTimer(l.config.CancelGrace)
			defer timer.Stop()
			patience = timer.C
		case <-patience:
			l.log.Error("an in-process handler ignores that its context ended; its task goes on until it returns", r.attrs()...)
			if killed == nil {
				return nil
			}
			patience = nil
		case <-killed:
			killed = nil
			timer := time.NewTimer(l.config.CancelGrace)
			defer timer.Stop()
			patience = timer.C
		}
	}
}

// runInChild runs a task in a child process and climbs the ladder when it is asked to stop.
func (l *local) runInChild(r *run, calls calls) *taskv1.Outcome {
	child, err := l.children.get(r.asked)
	if err != nil {
		var failed *startError
		errors.As(err, &failed)
		r.told.heard(failed.output())
		return r.verdict(unfit("Could not start a process for the task: %v.", err))
	}
	if !r.lease.holds() { // to start a process may take long
		l.children.put(child, true)
		return unfit("The lease of the executor is over.")
	}
	if !calls.dir.makeOf(child.spare) {
		child.spare.remove() // whatever became of it
	}
	child.spare = nil
	dir, err := calls.dir.make()
	if err != nil {
		l.children.put(child, true)
		return unfit("Could not make the task's working directory: %v.", err)
	}
	l.running(r, child.pid)
	child.output.reset() // what was written before is not this task's
	if warning := r.diagnose(l.config.Diagnostics, true); warning != "" {
		child.output.say(warning)
	}
	r.told.listen(child.output)
	run := &executorv1.RunTask{Assignment: r.assignment, WorkingDir: dir}
	if r.limit > 0 {
		run.Timeout = durationpb.New(r.limit)
	}
	child.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Run{Run: run}})

	measured := r.diagnosis.measure(child.pid)
	served := newCallServer(r.asked, calls, child.reply)
	made := l.supervise(r, child, calls, served)
	measured()
	verdict := made
	if made != nil {
		verdict = r.verdict(made) // what is asked of it from now on comes too late
	}
	served.close() // nothing of this run may reach the child's next task
	l.running(r, 0)

	if made == nil {
		how := child.end()
		r.loose = r.loose || child.stuck
		r.told.heard(child.output.take())
		return r.verdict(how)
	}
	r.told.heard(child.output.take())
	reuse := verdict == made && reusable(made)
	if reuse && child.spare == nil {
		child.spare = calls.dir.keep(sparePrefix + strconv.Itoa(child.pid))
	}
	l.children.put(child, reuse)
	return verdict
}

// reusable: only a panic has a traceback, and what a handler left half done when it panicked, nobody knows.
func reusable(made *taskv1.Outcome) bool { return made.GetError().GetTraceback() == "" }

// notice is how long a handler that is asked to stop has for itself, before the processes that it started are told to.
func notice(grace time.Duration) time.Duration { return min(time.Second, grace/5) }

// supervise waits until the child reports the end of the run, and returns that, or nil if the child died or had to. To stop a
// run there is a ladder, each step with a deadline of its own: a message, which cancels the handler's context; SIGTERM to the
// process group; when the grace is over, SIGKILL to it and to all that left it.
func (l *local) supervise(r *run, child *child, calls calls, served *callServer) *taskv1.Outcome {
	step := time.NewTimer(time.Hour) // nothing is to be done before it is asked to stop
	step.Stop()
	defer step.Stop()
	terminated := false
	asked, killed := r.asked.Done(), r.killed.Done()
	for {
		select {
		case message, alive := <-child.messages:
			if !alive {
				return nil
			}
			switch m := message.GetMessage().(type) {
			case *executorv1.WorkRequest_Ended:
				if c := (claim{task: m.Ended.GetTaskId(), number: m.Ended.GetClaim()}); c != r.claim {
					child.blame(fmt.Errorf("it reported the end of claim %d of task %s while it had claim %d of task %s", c.number, c.task, r.claim.number, r.claim.task))
					return nil
				}
				return honest(m.Ended.GetOutcome())
			case *executorv1.WorkRequest_Call:
				served.serveFor(r.claim.task, m.Call)
			case *executorv1.WorkRequest_Progress:
				if r.claim.is(m.Progress) {
					calls.Progress(m.Progress.GetProgress())
				}
			case *executorv1.WorkRequest_GroupProgress:
				if r.claim.is(m.GroupProgress) {
					calls.GroupProgress(m.GroupProgress.GetProgress())
				}
			case *executorv1.WorkRequest_Created:
				if r.claim.is(m.Created) {
					calls.Created(m.Created.GetCreated())
				}
			default:
				// A second hello, or what a newer worker says.
			}
		case <-asked:
			asked = nil
			child.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Stop{
				Stop: &executorv1.StopRun{TaskId: r.claim.task, Claim: r.claim.number},
			}})
			step.Reset(notice(l.config.CancelGrace))
		case <-step.C:
			if !terminated {
				terminated = true
				child.signal(unix.SIGTERM)
				step.Reset(l.config.CancelGrace - notice(l.config.CancelGrace))
				continue
			}
			l.log.Warn("the task did not stop within its grace, killing it", r.attrs()...)
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
		return unfit("The worker reported an end without an outcome.")
	case made.GetState() == taskv1.State_STATE_CANCELED:
		return unfit("The worker gave the task up as canceled, which nobody had asked for.")
	default:
		return made
	}
}

package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
	"github.com/sluice-tasks/sluice/pkg/wire"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// run is one claimed task in the hands of a station.
type run struct {
	claim      claim
	assignment *taskv1.Assignment
	since      time.Time

	// begun is closed when the scheduler has confirmed that it knows that we have the claim. Before, nothing of the task may
	// happen: if the line ends, it is given to others.
	begun chan struct{}
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
	// dropped is done when the claim is not ours any more, also if the run had been asked to stop for another reason before.
	dropped context.Context
	drop    context.CancelFunc

	traced traced
	// told is what it tells of itself, limit how long it may run, 0 if that does not matter.
	told  told
	limit time.Duration
	// diagnosis is what is kept of it beside that. For who performs it.
	diagnosis diagnosis
	// loose: something of it goes on, or may, although it has ended. For who performs it.
	loose bool

	// lease is that of the life that took it. What does not hold it any more lets nothing out.
	lease *lease

	// Under the lock of the station.
	outcome *taskv1.Outcome // nil until it ended
	// abandoned: its handler ignores everything, and the executor stops without it.
	abandoned bool
	pid       int
}

// newRun makes a run, which outlives the line that brought it. It must be called with the lock of the station held.
func newRun(ctx context.Context, s *station, c claim, a *taskv1.Assignment) *run {
	r := &run{claim: c, assignment: a, lease: s.lease, since: time.Now(), begun: make(chan struct{}), done: make(chan struct{})}
	r.killed, r.kill = context.WithCancelCause(context.WithoutCancel(ctx))
	r.asked, r.cancel = context.WithCancelCause(r.killed)
	r.dropped, r.drop = context.WithCancel(context.WithoutCancel(ctx))
	r.told.store = func(report *statusv1.PutTaskReportRequest, log *output) unstored { return s.keep(r, report, log) }
	r.told.storing = make(chan struct{}, 1)
	r.told.member = a.GetGroupId() != ""
	r.told.logEvery = s.config.LogEvery
	s.config.spans.take(r)
	return r
}

func (r *run) attrs() []any { return describe(r.claim, r.assignment) }

// describe is what each line of the log that is about a task says of it.
func describe(c claim, a *taskv1.Assignment) []any {
	return []any{
		slog.String("task_id", c.task),
		slog.Int64("claim", c.number),
		slog.String("task", a.GetName()),
		slog.String("correlation_id", a.GetCorrelationId()),
		tasktrace.LogID(a.GetTraceparent()),
	}
}

// within asks the run to stop when it has taken as long as its dispatch allows or, if that says nothing, its handler, and never
// longer than most, if that is not 0.
func (r *run) within(handlers, most time.Duration) (over func()) {
	r.limit = cmp.Or(r.assignment.GetTimeout().AsDuration(), handlers, most)
	if most > 0 {
		r.limit = min(r.limit, most)
	}
	if r.limit <= 0 {
		return func() {}
	}
	timer := time.AfterFunc(r.limit, func() { r.cancel(errTimeout) })
	return func() { timer.Stop() }
}

// why is what the run was asked to stop for, nil if it was not.
func (r *run) why() error {
	if cause := context.Cause(r.asked); cause != nil {
		return cause
	}
	return context.Cause(r.killed) // a moment ago: it reaches asked after it is seen here
}

// verdict is the outcome of a run that made something of itself: what was asked of it goes before what it made of that.
func (r *run) verdict(made *taskv1.Outcome) *taskv1.Outcome {
	switch cause := r.why(); {
	case errors.Is(cause, errCanceled):
		return ended(taskv1.State_STATE_CANCELED, task.ReasonCanceled, "")
	case errors.Is(cause, errTimeout):
		return ended(taskv1.State_STATE_FAILED, fmt.Sprintf(task.ReasonTimeoutFormat, r.limit), task.CodeTimeout)
	case errors.Is(cause, errStopping):
		return ended(taskv1.State_STATE_FAILED, task.ReasonShutdown, task.CodeShutdown)
	case errors.Is(cause, errVanished):
		return ended(taskv1.State_STATE_FAILED, fmt.Sprintf("The worker is gone: %v.", cause), task.CodeDisconnected)
	default:
		return made // nobody asked, or it was dropped and nobody will hear of it
	}
}

// ended is an outcome that was decided from outside the handler.
func ended(state taskv1.State, reason, code string) *taskv1.Outcome {
	return &taskv1.Outcome{State: state, Error: &taskv1.TaskError{Reason: reason, Code: code}, Safe: true}
}

// unfit is the outcome of a task that could not be run, or whose worker did not keep to the rules, in words of ours.
func unfit(format string, args ...any) *taskv1.Outcome {
	outcome := worker.Failed(fmt.Sprintf(format, args...), "")
	outcome.Safe = true
	return outcome
}

// conduct takes a run through its life and reports its end.
func (s *station) conduct(r *run) {
	outcome := s.presentable(r, s.attempt(r))
	s.config.metrics.ended(outcome)
	var diagnosed sync.WaitGroup // beside the rest, so that the end is not reported later for it
	if r.diagnosis.any() {
		diagnosed.Go(func() { s.keepDiagnosis(r) })
	}
	r.told.end()
	diagnosed.Wait()
	r.kill(errDropped) // to release the contexts: it changes nothing any more

	s.mu.Lock()
	defer s.mu.Unlock()
	close(r.done)
	if s.byTask[r.claim.task] == r {
		delete(s.byTask, r.claim.task)
	}
	s.loose = s.loose || r.loose
	if s.runs[r.claim] != r || !r.lease.holds() {
		return // dropped, or about to be
	}
	if outcome == nil {
		// Somebody's code still runs. Who says that the task has ended frees its resources; the end of the lease says so
		// when this process is gone.
		r.abandoned = true
		s.changedLocked()
		return
	}
	r.outcome = outcome
	r.traced.report(outcome)
	s.changedLocked()
	if s.line != nil {
		s.line.finish(r.claim, outcome)
	}
	if s.log.Enabled(r.killed, slog.LevelInfo) {
		s.log.Info("ended", append(r.attrs(), slog.String("state", string(wire.FromState(outcome.GetState()))),
			slog.Duration("after", time.Since(r.since)), slog.String("error", wire.FromError(outcome.GetError()).String()))...)
	}
}

// attempt waits for all that must come first, and has the task run where that belongs.
func (s *station) attempt(r *run) *taskv1.Outcome {
	slots := s.slots
	if r.assignment.GetImmediate() {
		slots = s.immediate
	}
	if !r.await(r.begun) || !r.await(r.after) {
		return r.verdict(nil)
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-r.asked.Done():
		return r.verdict(nil)
	}
	if r.asked.Err() != nil || !r.lease.holds() {
		return r.verdict(nil) // while it waited for the slot
	}
	if r.assignment.GetAttempt() > 1 {
		r.told.renew()
	}
	s.config.spans.begin(r, s.name)
	outcome := s.place.perform(r)
	r.traced.over()
	r.loose = r.loose || outcome == nil
	return outcome
}

// hasBegun reports whether the run was confirmed.
func (r *run) hasBegun() bool {
	select {
	case <-r.begun:
		return true
	default:
		return false
	}
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

// presentable makes of an outcome what can be reported: within all limits, with a code, and, if the executor is set to it,
// without texts that were not written for whoever sees the task. What they are replaced with can be found in the log.
func (s *station) presentable(r *run, outcome *taskv1.Outcome) *taskv1.Outcome {
	if outcome == nil {
		return nil
	}
	if err := worker.Check(outcome); err != nil {
		outcome = unfit("The worker reported an outcome that breaks a rule: %v.", err)
	}
	safe := outcome.GetSafe()
	outcome.Safe = false // it has done its work here
	failure := outcome.GetError()
	if failure == nil || outcome.GetState() != taskv1.State_STATE_FAILED {
		return outcome
	}
	failure.Code = cmp.Or(failure.GetCode(), task.CodeError)
	if safe || !s.config.RedactErrors {
		return outcome
	}
	reference := uuid.NewString()
	s.log.Error("a task failed; this is not shown to its clients", append(r.attrs(), slog.String("reference", reference),
		slog.String("code", failure.GetCode()), slog.String("error", failure.GetDescription()), slog.String("traceback", failure.GetTraceback()),
		slog.String("reason", failure.GetReason()))...)
	failure.Description = fmt.Sprintf("The task failed. What happened is in the executor's log, reference %s.", reference)
	failure.Traceback, failure.Reason = "", ""
	return outcome
}

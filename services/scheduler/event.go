package scheduler

import (
	"log/slog"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// errFenced ends the line of an executor whose life is over.
var errFenced = errs.Precondition(errs.Fenced, "this incarnation was declared missing: stop its tasks and register anew")

// errReplaced ends a line when its executor says hello on another.
var errReplaced = errs.Away(errs.BadProtocol, nil, "another stream of this executor took over")

// event is something that happened outside, to be applied by the goroutine that owns the memory.
type event interface{ apply(l *leader) }

type (
	helloEvent struct {
		line  *line
		hello *schedulerv1.Hello
	}
	finishEvent struct {
		line   *line
		from   string // incarnation
		finish *schedulerv1.Finish
	}
	drainEvent  struct{ from string }
	hangupEvent struct {
		line *line
		from string
	}
	// offerEvent says that there is something to find; with a settle it also waits for immediate tasks.
	offerEvent struct{ settle *settle }
	// askEvent runs a question in the goroutine that owns the memory.
	askEvent func(l *leader)
)

// apply takes an executor in, anew or for the first time, and settles who holds what.
func (e helloEvent) apply(l *leader) {
	h := e.hello
	x := l.life(h.GetExecutor(), h.GetIncarnation())
	if x.line != nil {
		x.line.close(errReplaced)
	}
	x.line, x.draining, x.versions = e.line, h.GetDraining(), h.GetVersions()
	x.slots, x.immediateSlots = int(h.GetSlots()), int(h.GetImmediateSlots())
	x.names = make(map[string]bool, len(h.GetTaskNames()))
	for _, name := range h.GetTaskNames() {
		x.names[name] = true
	}
	x.line.put(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Welcome{Welcome: &schedulerv1.Welcome{Epoch: l.epoch}}})

	held := make(map[int64]bool, len(h.GetHeld()))
	for _, claim := range h.GetHeld() {
		t := l.tasks[l.seqs[claim.GetTaskId()]]
		if t == nil || t.owner != x || t.claim != claim.GetClaim() {
			l.refuse(x.line, claim, "the claim is not this executor's")
			continue
		}
		held[t.seq] = true
		if t.canceling {
			l.tellCancel(t)
		}
	}
	for _, t := range bySeq(x.claims) {
		if !held[t.seq] {
			l.requeue(t)
		}
	}
	l.log.Info("executor connected", slog.String("executor", x.name), slog.String("incarnation", x.incarnation),
		slog.Int("slots", x.slots), slog.Int("immediate_slots", x.immediateSlots), slog.Int("held", len(held)))
}

// apply ends a run, if the claim is the sender's.
func (e finishEvent) apply(l *leader) {
	claim := e.finish.GetClaim()
	t := l.tasks[l.seqs[claim.GetTaskId()]]
	x := l.executors[e.from]
	if t == nil || x == nil || x.line != e.line || t.owner != x || t.claim != claim.GetClaim() {
		l.refuse(e.line, claim, "the claim is not, or no longer, this executor's")
		return
	}
	outcome := e.finish.GetOutcome()
	end := End{State: wire.FromState(outcome.GetState()), Result: outcome.GetResultJson(), Error: wire.FromError(outcome.GetError())}
	if end.State == task.Canceled && !t.canceling {
		// Nobody asked for it, so it is a failure. Should the wish be on its way, the statement makes it canceled.
		end.State = task.Failed
	}
	l.finish(t, end)
	l.answers = append(l.answers, answer{line: e.line, message: &schedulerv1.AcquireResponse{
		Message: &schedulerv1.AcquireResponse_Finished{Finished: &schedulerv1.Finished{Claim: claim}},
	}})
}

func (e drainEvent) apply(l *leader) {
	if x := l.executors[e.from]; x != nil {
		x.draining = true
		l.log.Info("executor drains", slog.String("executor", x.name), slog.Int("running", len(x.claims)))
	}
}

// apply notes a broken stream. What the executor runs stays its own: it may be back in a moment.
func (e hangupEvent) apply(l *leader) {
	x := l.executors[e.from]
	if x == nil || x.line != e.line {
		return
	}
	x.line = nil
	if len(x.claims) == 0 {
		delete(l.executors, e.from)
	}
	l.log.Info("executor disconnected", slog.String("executor", x.name), slog.Int("running", len(x.claims)))
}

func (e offerEvent) apply(l *leader) {
	l.hinted = true
	if e.settle != nil {
		l.settles = append(l.settles, e.settle)
	}
}

func (e askEvent) apply(l *leader) { e(l) }

// refuse answers after the next commit, like everything that says what became of a claim: the memory may not know the claim
// because its end is about to be written, and if that fails, the executor must still have it.
func (l *leader) refuse(line *line, claim *schedulerv1.Claim, reason string) {
	l.answers = append(l.answers, answer{line: line, message: &schedulerv1.AcquireResponse{
		Message: &schedulerv1.AcquireResponse_Refused{Refused: &schedulerv1.Refused{Claim: claim, Reason: reason}},
	}})
}

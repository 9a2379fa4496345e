package scheduler

import (
	"log/slog"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// errFenced ends the line of an executor whose life is over.
var errFenced = errs.Precondition(errs.Fenced, "this incarnation was declared missing: stop its tasks and register anew")

// errReplaced ends a line when its executor says hello on another.
var errReplaced = errs.Away(errs.BadProtocol, nil, "another stream of this executor took over")

// errDeaf ends a line whose executor does not acknowledge what it is given, or says nothing at all.
var errDeaf = errs.Away(errs.BadProtocol, nil, "assignments or pulses were not answered in time: say hello again")

// event is something that happened outside, to be applied by the goroutine that owns the memory.
type event interface{ apply(l *leader) }

type (
	helloEvent struct {
		line  *line
		hello *schedulerv1.Hello
	}
	reportEvent struct {
		line   *line
		from   string // incarnation
		report *schedulerv1.Report
		at     time.Time // when it came
	}
	drainEvent  struct{ from string }
	hangupEvent struct {
		line *line
		from string
	}
	// offerEvent says that there is something to find, if it does not bring it; with a settle it also waits for immediate tasks.
	offerEvent struct {
		rows   []Row
		settle *settle
	}
	// askEvent runs a question in the goroutine that owns the memory.
	askEvent func(l *leader)
)

// apply takes an executor in, anew or for the first time, and settles who holds what.
func (e helloEvent) apply(l *leader) {
	h := e.hello
	if _, over := l.over[h.GetIncarnation()]; over {
		e.line.close(errFenced) // it was declared missing between the question for it and now
		return
	}
	x := l.life(h.GetExecutor(), h.GetIncarnation())
	if h.GetLine() < x.hello {
		// The network held it back. What it does not name was given on the line after it, and may run.
		e.line.close(errReplaced)
		return
	}
	x.hello = h.GetLine()
	l.dismiss(x)
	l.cut(x, errReplaced)
	x.line, x.draining, x.burst, x.versions = e.line, h.GetDraining(), h.GetBurst(), h.GetVersions()
	x.slots = [kinds]int{immediately: int(h.GetImmediateSlots()), ordinarily: int(h.GetSlots())}
	x.names = make(map[string]bool, len(h.GetTaskNames()))
	for _, name := range h.GetTaskNames() {
		x.names[name] = true
	}
	if !x.draining {
		l.enlist(x)
	}
	x.line.put(order{welcome: &schedulerv1.Welcome{Epoch: l.epoch, PulseEvery: wire.Duration(l.pulseEvery)}})

	held := make(map[int64]bool, len(h.GetHeld()))
	for _, claim := range h.GetHeld() {
		t := l.tasks[l.seqs[claim.GetTaskId()]]
		if t == nil || t.owner != x || t.claim != claim.GetClaim() {
			l.refuse(x.line, claim, "the claim is not this executor's")
			continue
		}
		// The executor may have heard that it may begin, or not; it knows. A cancel is read first, wherever it stands.
		held[t.seq], t.known = true, true
		if t.canceling {
			l.tellCancel(t)
		}
		x.line.put(order{begin: claim})
	}
	for _, t := range bySeq(x.claims) {
		if !held[t.seq] {
			l.requeue(t)
		}
	}
	l.log.Info("executor connected", slog.String("executor", x.name), slog.String("incarnation", x.incarnation),
		slog.Int("slots", x.slots[ordinarily]), slog.Int("immediate_slots", x.slots[immediately]), slog.Int("held", len(held)))
}

// apply ends the runs that ended, if the claims are the sender's. What was acknowledged the line knows.
func (e reportEvent) apply(l *leader) {
	x := l.executors[e.from]
	if x != nil && x.line != e.line {
		x = nil // it has another line, where it says all this again
	}
	if x != nil {
		l.heard(x) // or the receipts of a line that lives long would pile up
	}
	for _, finish := range e.report.GetFinished() {
		l.finished(e.line, x, finish, e.at)
	}
}

// finished ends a run that x has reported on a line at a moment; x is nil for who is not known there.
func (l *leader) finished(from *line, x *executor, finish *schedulerv1.Finish, at time.Time) {
	claim := finish.GetClaim()
	t := l.tasks[l.seqs[claim.GetTaskId()]]
	if t == nil || x == nil || t.owner != x || t.claim != claim.GetClaim() {
		l.refuse(from, claim, "the claim is not, or no longer, this executor's")
		return
	}
	outcome := finish.GetOutcome()
	end := End{State: wire.FromState(outcome.GetState()), Result: outcome.GetResultJson(), Error: wire.FromError(outcome.GetError())}
	if end.State == task.Canceled && !t.canceling {
		// Nobody asked for it, so it is a failure. Should the wish be on its way, the statement makes it canceled.
		end.State = task.Failed
	}
	l.spans.reported(t, at)
	l.finish(t, end)
	l.tell(from, order{finished: claim})
}

func (e drainEvent) apply(l *leader) {
	if x := l.executors[e.from]; x != nil {
		x.draining = true
		l.dismiss(x)
		l.log.Info("executor drains", slog.String("executor", x.name), slog.Int("running", len(x.claims)))
	}
}

// apply notes a broken stream.
func (e hangupEvent) apply(l *leader) {
	x := l.executors[e.from]
	if x == nil || x.line != e.line {
		return
	}
	l.disconnect(x, nil)
	l.log.Info("executor disconnected", slog.String("executor", x.name), slog.Int("running", len(x.claims)))
}

func (e offerEvent) apply(l *leader) {
	for _, row := range e.rows {
		l.offer(row)
	}
	if len(e.rows) == 0 {
		l.hinted = true
	}
	if e.settle != nil {
		l.settles = append(l.settles, e.settle)
	}
}

func (e askEvent) apply(l *leader) { e(l) }

// refuse answers after the next commit, like everything that says what became of a claim: the memory may not know the claim
// because its end is about to be written, and if that fails, the executor must still have it.
func (l *leader) refuse(from *line, claim *schedulerv1.Claim, reason string) {
	l.tell(from, order{refused: &schedulerv1.Refused{Claim: claim, Reason: reason}})
}

// tickBytes is how many bytes of results one tick writes. After an outage everybody reports at once, and PostgreSQL takes no
// parameter above 1 GiB.
const tickBytes = 64 << 20

// portion takes from the front of the events as many as fit into one tick, one at least.
func portion(events []event) (now, later []event) {
	size := 0
	for i, e := range events {
		r, ok := e.(reportEvent)
		if !ok {
			continue
		}
		for _, f := range r.report.GetFinished() {
			size += len(f.GetOutcome().GetResultJson())
		}
		if size > tickBytes && i > 0 {
			return events[:i], events[i:]
		}
	}
	return events, nil
}

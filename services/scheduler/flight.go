package scheduler

import (
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/lock"
)

// maxFlights is how many ticks may be under way at once. While the database works on one, the next is made. A third makes large ones
// smaller and nothing faster; beside small ones, those of a few chains, it is one link that need not wait for another's.
const (
	maxFlights   = 3
	smallFlights = 8 // changes of all that are under way, for one more than two
)

// flight is a tick from when it is made until its answer has been applied, and everything that leaves with its commit.
type flight struct {
	plan   *Plan
	giving []*live
	outbox map[*line][]order
	// undated was unblocked by this tick: its answer says when.
	undated []*live
	// freed are the resources that tasks let go of whose end this tick writes, and whether one of them had it exclusively. Until
	// the commit is known they may be theirs still.
	freed map[string]lock.Mode
	sent  time.Time
}

func newFlight() *flight {
	return &flight{plan: &Plan{}, outbox: map[*line][]order{}, freed: map[string]lock.Mode{}}
}

// tell puts an order into the box of what leaves after the commit.
func (f *flight) tell(to *line, o order) { f.outbox[to] = append(f.outbox[to], o) }

// release notes what a task lets go of.
func (f *flight) release(locks *lock.Table, t *live) {
	locks.Requests(t.seq, func(name string, mode lock.Mode) bool {
		f.freed[name] = max(f.freed[name], mode)
		return true
	})
}

// dated hands over the tasks that are to be dated.
func (f *flight) dated() []*live {
	tasks := f.undated
	f.undated = nil
	return tasks
}

// light reports whether another tick may be under way beside this one. Such a one writes only the ends of runs and claims, each of
// which stands by itself: it looks at nothing that another one changes, and takes nothing back.
func (f *flight) light() bool {
	p := f.plan
	return !p.Look && len(p.Requeue)+len(p.Reject)+len(p.Unblock)+len(p.ForgetCancels)+len(p.ForgetLives) == 0
}

// size is how many changes it writes.
func (f *flight) size() int { return len(f.plan.Finish) + len(f.plan.Retry) + len(f.plan.Claim) }

// breach is a line that broke, and whose it was.
type breach struct {
	x    *executor
	line *line
}

// unnumbered reports whether the database has yet to say that the task is claimed. Until then its claim is below zero, so that no
// report can name it, and what it will be without the sign.
func (t *live) unnumbered() bool { return t.claim < 0 }

// number gives the task a claim that the next tick is to write: the number rises by one with each, and nobody else changes it.
func (t *live) number() { t.claim = -(t.claim + 1) }

// announced is what the claim will be called that a tick under way writes.
func (t *live) announced() claimKey { return claimKey{t.id, -t.claim} }

// send takes what was made of the next tick, to be sent now.
func (l *leader) send() *flight {
	f := l.next
	l.next = newFlight()
	for _, t := range f.undated {
		t.dating = true
	}
	f.plan.Beside = len(l.flights) > 0
	f.sent = l.now()
	l.flights = append(l.flights, f)
	l.announce(f.giving)
	return f
}

// join makes a tick of events that is sent while others are under way, nil if there is nothing to write or to say. All of these
// have to be light, and so must be the events, and nothing else be to do: see mayJoin.
//
// The commit of each stands by itself: this one may happen, and that of one that was sent before it not. So it must not rest on
// what they write. An end rests on nothing but the claim that was committed when the executor was told of it. A claim rests on the
// ends of the tasks that were in its way: see unsure. The slot that it takes is free because the executor said so, whatever is
// written of it. And what is said leaves in the order in which ticks were sent, and not at all if one of them fails.
func (l *leader) join(events []event) *flight {
	for _, e := range events {
		e.apply(l)
	}
	l.admitOffered()
	l.match()
	if !l.next.plan.writes() && len(l.next.outbox) == 0 {
		return nil // what became ready is dated with the next one
	}
	return l.send()
}

// mayJoin reports whether the next tick may be sent while others are under way.
func (l *leader) mayJoin(events []event, lookEvery time.Duration) bool {
	return !l.full() && l.flights[len(l.flights)-1].light() && !slices.ContainsFunc(events, heavy) &&
		!l.pressed() && len(l.settles) == 0 && !l.lookIsDue(lookEvery) && worth(events, l.flights[len(l.flights)-1])
}

// full reports whether there are as many ticks under way as there should be.
func (l *leader) full() bool {
	if len(l.flights) < maxFlights-1 {
		return false
	}
	size := 0
	for _, f := range l.flights {
		size += f.size()
	}
	return len(l.flights) == maxFlights || size > smallFlights
}

// heavy reports whether an event needs a tick that is alone: it asks for a look, takes something back, may turn a task away, or wants to
// know what is so.
func heavy(e event) bool {
	switch e := e.(type) {
	case reportEvent:
		return false
	case offerEvent:
		return len(e.rows) == 0 || e.settle != nil || e.impatient()
	default:
		return true
	}
}

// impatient reports whether a task came that is turned away if it can't run at once.
func (e offerEvent) impatient() bool {
	for i := range e.rows {
		if e.rows[i].Immediate && !e.rows[i].Deferred {
			return true
		}
	}
	return false
}

// worth reports whether events are worth a tick of their own, while another one is under way: each costs a commit, and many small
// ones cost more than they gain. Half as much as is under way is. A chain goes on with one at a time.
func worth(events []event, before *flight) bool {
	n := 0
	for _, e := range events {
		switch e := e.(type) {
		case reportEvent:
			n += 2 * len(e.report.GetFinished()) // and somebody else gets the slot
		case offerEvent:
			n += len(e.rows)
		}
	}
	return n > 0 && 2*n >= before.size()
}

// pressed reports whether there is something to do at once that only a tick can which is alone.
func (l *leader) pressed() bool {
	return l.hinted || l.uncertain || len(l.doubtful)+len(l.broken) > 0 || l.next.plan.writes() || len(l.next.outbox) > 0 ||
		l.rested() || l.scheduleIsDue() || l.someoneIsDone()
}

// unsure reports whether a ready task may not be given away yet, because the end of one that was in its way is still under way.
func (l *leader) unsure(t *live) bool {
	for _, f := range l.flights {
		free := l.locks.Requests(t.seq, func(name string, mode lock.Mode) bool {
			had, freed := f.freed[name]
			return !freed || had == lock.Shared && mode == lock.Shared
		})
		if !free {
			return true
		}
	}
	return false
}

// mend disconnects the executors whose lines broke while something was in flight: a claim of theirs may have had no number then.
func (l *leader) mend() {
	for _, b := range l.broken {
		if b.x.line == b.line {
			l.disconnect(b.x, nil)
		}
	}
	l.broken = nil
}

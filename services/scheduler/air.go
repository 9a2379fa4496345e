package scheduler

import (
	"context"
	"time"

	"github.com/sluice-tasks/sluice/pkg/run"
)

// air is where the ticks are that were sent and have not been applied. Each is sent by a goroutine of its own; all else belongs to
// the one that owns the leader's memory.
type air struct {
	lease   time.Duration
	flying  int
	returns chan landing
	// carriers send them.
	carriers *run.Hands
	// early are those that returned before one that was sent before them.
	early map[*flight]*Report
}

// landing is a flight that returned.
type landing struct {
	flight *flight
	report *Report
	err    error
}

func newAir(lease time.Duration) *air {
	return &air{lease: lease, returns: make(chan landing, maxFlights), carriers: run.NewHands(), early: map[*flight]*Report{}}
}

// limit bounds a tick. It goes on when ctx ends: a write under way should be known to have happened. One that takes longer than the
// lease is likely to have lost it; the fence decides.
func (a *air) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*a.lease)
}

// maxHeld is how many events are taken out of the inbox at most for a tick that may not be sent yet. The inbox turns callers away when
// it is full, which it would never be if whoever can't write emptied it all the same.
const maxHeld = 1000

// room reports whether the inbox may be emptied for another tick.
func (a *air) room(l *leader, waiting []event) bool {
	return !l.full() && len(waiting) < maxHeld
}

// start sends a tick.
func (a *air) start(ctx context.Context, l *leader, f *flight) {
	ctx, cancel := a.limit(ctx)
	a.flying++
	s, epoch := l.store, l.epoch
	a.carriers.Go(func() {
		defer cancel()
		report, err := s.Tick(ctx, epoch, f.plan)
		a.returns <- landing{flight: f, report: report, err: err}
	})
}

// land applies what a flight brought, and what waited for it: answers are applied in the order in which the ticks were sent.
func (a *air) land(l *leader, r landing, lookEvery time.Duration) (more bool, err error) {
	a.flying--
	if r.err != nil {
		return false, r.err
	}
	a.early[r.flight] = r.report
	for len(l.flights) > 0 {
		first := l.flights[0]
		report := a.early[first]
		if report == nil {
			break
		}
		delete(a.early, first)
		if more, err = l.land(first, report, lookEvery); err != nil {
			return false, err
		}
	}
	return more, nil
}

// drain waits for what is under way. Of what it brings nothing is applied.
func (a *air) drain() {
	for ; a.flying > 0; a.flying-- {
		<-a.returns
	}
	a.carriers.Wait()
}

package heartbeat

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Beater beats without a stream.
type Beater struct{ *beater }

// NewBeater makes one.
func (s *Service) NewBeater() Beater { return Beater{s.newBeater()} }

// Beat is one beat of an executor that hears the scheduler.
func (b Beater) Beat(ctx context.Context, incarnation uuid.UUID) error {
	return b.beat(ctx, incarnation, true, 0)
}

// Begin registers.
func (s *Service) Begin(ctx context.Context, a App, replaces string) (string, error) {
	return s.begin(ctx, a, replaces)
}

// End deregisters.
func (s *Service) End(ctx context.Context, incarnation string, dead bool) error {
	return s.end(ctx, incarnation, dead)
}

// Pending is how many lives wait for their beat to be written.
func (s *Service) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// KnowsTheClock reports whether a statement has answered.
func (s *Service) KnowsTheClock() bool { return s.Belief() != Belief{} }

// Belief is what it believes of the clock.
func (s *Service) Belief() Belief { return s.clock.belief(time.Now()) }

// HasKnownTheClockFor makes it believe that the clock was not set for a while before it began.
func (s *Service) HasKnownTheClockFor(d time.Duration) {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	s.clock.since = s.clock.since.Add(-d)
}

// ThinksTheClockWas makes it remember that the database's clock was off by a while, as if it had been set back by that since.
func (s *Service) ThinksTheClockWas(off time.Duration) {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	s.clock.low, s.clock.high, s.clock.since = s.clock.low+off, s.clock.high+off, s.clock.since.Add(off)
}

// SweepNow brings the next look forward.
func (s *Service) SweepNow() { s.sweepBy(time.Now()) }

// Clock is the comparison of clocks.
type Clock struct{ clock }

// Observe is observe.
func (c *Clock) Observe(sent, received, shown time.Time) time.Duration {
	return c.observe(sent, received, shown)
}

// Belief is belief.
func (c *Clock) Belief(now time.Time) Belief { return c.belief(now) }

// BeatHearing is one beat of an executor that has a line to the scheduler, which said nothing for a while, or none.
func (b Beater) BeatHearing(ctx context.Context, incarnation uuid.UUID, line bool, silent time.Duration) error {
	return b.beat(ctx, incarnation, line, silent)
}

package heartbeat

import (
	"sync"
	"time"
)

// Belief is what a service knows of the database's clock. The zero Belief knows nothing: then nobody is silent yet.
type Belief struct {
	// Now is what it shows at least, unless it was set.
	Now time.Time
	// Since is when it was set last, as far as is known: silence counts from there.
	Since time.Time
}

const (
	// slack is by how much the clock may be off from what was expected before that counts as set, plus a tenth of the time since
	// the last look: daemons that correct a clock smoothly change its pace by less than that. A life of a second has a third of
	// one between its own end and its end in our eyes, longer ones have more.
	slack = 100 * time.Millisecond
	// maxSlackTime bounds the time of which a tenth counts.
	maxSlackTime = 10 * time.Second
	// drift is by how much two clocks may part that nobody corrects: one in.
	drift = 1000
)

// clock compares the database's clock with our own monotonic one, which nobody can set. Every statement that answers the time
// bounds the difference: the time was read after the statement was sent, and before its answer was here. So a slow statement
// says little, and never looks like a clock that was set.
type clock struct {
	mu sync.Mutex
	// origin is what our times are counted from: durations between times of this process are monotonic.
	origin time.Time
	// low and high bound the difference, as it was at the time seen; at zero nothing is known.
	low, high time.Duration
	seen      time.Time
	since     time.Time
}

// observe takes note of what the database's clock showed at some moment between sent and received. It reports by how much the
// clock was set since it was seen last, 0 if it was not.
func (c *clock) observe(sent, received, shown time.Time) (step time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen.IsZero() {
		c.origin = sent
	}
	low := time.Duration(shown.UnixNano()) - received.Sub(c.origin)
	high := time.Duration(shown.UnixNano()) - sent.Sub(c.origin)
	if c.seen.IsZero() {
		// What was before we came, we don't know: everybody has his whole time.
		c.low, c.high, c.seen, c.since = low, high, received, shown
		return 0
	}
	passed := max(0, received.Sub(c.seen))
	allowed := slack + min(passed, maxSlackTime)/10
	c.low -= passed / drift
	c.high += passed / drift
	c.seen = received
	switch {
	case low > c.high+allowed:
		step = low - c.high
	case high < c.low-allowed:
		step = high - c.low
	case low > c.high || high < c.low: // corrected smoothly
	default:
		c.low, c.high = max(c.low, low), min(c.high, high)
		return 0
	}
	c.low, c.high = low, high
	if step != 0 {
		c.since = shown
	}
	return step
}

// belief is what is known at a moment that is not in the past.
func (c *clock) belief(now time.Time) Belief {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen.IsZero() {
		return Belief{}
	}
	return Belief{Now: time.Unix(0, int64(c.low+now.Sub(c.origin))), Since: c.since}
}

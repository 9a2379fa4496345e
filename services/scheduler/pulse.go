package scheduler

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// maxUnanswered is how many pulses in a row may be followed by no word of the executor, be it the answer or anything else. When
// the pause after the last one is over, too, its line is cut.
const maxUnanswered = 3

// pulse says something on a line now and then, so that an executor knows that it hears, and makes sure that it answers. It is a
// timer and no goroutine, for there may be ten thousand lines, and not the one that sends, which hangs when nobody reads. It counts
// its own beats and looks at no clock: after a pause of this process everybody has as much time as before.
type pulse struct {
	every time.Duration
	line  *line
	// deaf is called once, when the line was cut.
	deaf func()

	timer      *time.Timer
	heard      atomic.Bool // the executor said something since the last beat
	unanswered int         // pulses since it did
}

// startPulse begins to beat, the first time after a part of the pause: after a takeover all lines begin at once. No pause: it does
// not beat.
func startPulse(on *line, every time.Duration, deaf func()) *pulse {
	p := &pulse{every: every, line: on, deaf: deaf}
	p.timer = time.AfterFunc(math.MaxInt64, p.beat)
	if every > 0 {
		p.timer.Reset(rand.N(every))
	}
	return p
}

// beat is one pulse. No two overlap: each sets the timer for the next.
func (p *pulse) beat() {
	if p.heard.Swap(false) {
		p.unanswered = 0
	}
	if p.unanswered == maxUnanswered {
		p.line.close(errDeaf)
		p.deaf()
		return
	}
	said, open := p.line.beat()
	if said {
		p.unanswered++
	}
	if open {
		p.timer.Reset(p.every)
	}
}

// hear notes that the executor said something.
func (p *pulse) hear() {
	if !p.heard.Load() { // a write that changes nothing would still take the line of cache from the other processors
		p.heard.Store(true)
	}
}

// stop ends it, when the line is closed: a beat that is under way finds it so.
func (p *pulse) stop() { p.timer.Stop() }

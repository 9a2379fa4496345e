package executor

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	process "github.com/sluice-tasks/sluice/pkg/run" // run is a task's here
)

// lease is how long what a life began may go on: two thirds of the time to live, counted from when the last beat was sent that was
// confirmed; when it was stored, we can't know. The last third is for the killing.
//
// A process that was stopped (SIGSTOP), or whose machine slept, goes on in the middle of whatever it did, long before a timer of
// its own runs. So whoever is about to let something out asks, and the first who finds that it is too late ends the life. What is
// stopped between the question and the deed is fenced by its claim's number.
type lease struct {
	clock clock
	ttl   time.Duration
	// until is when it ends, by the clock; 0 when it was lost.
	until atomic.Int64
	// lost is called when it has ended, perhaps several times.
	lost func()
}

// clock tells the time since some moment in the past. It goes on while this process is stopped, and while the machine sleeps.
type clock func() time.Duration

// rereadAfter is how old a reading of the kernel's clock may be that boottime goes on from. In between it adds what has passed by Go's
// clock, which goes on while the process is stopped, and stands still only while the machine sleeps: a machine that wakes up is noticed by
// so much later, no more than had it slept between a question to the lease and the deed. Reading is a system call, and each run asks
// several times.
const rereadAfter = time.Millisecond

// boottime makes the clock that counts, for a station.
func boottime() clock {
	type reading struct{ at, boot time.Duration }
	var last atomic.Pointer[reading]
	begin := time.Now()
	return func() time.Duration {
		now := time.Since(begin)
		if r := last.Load(); r != nil && now-r.at < rereadAfter {
			return r.boot + now - r.at
		}
		r := &reading{at: now, boot: readClock(unix.CLOCK_BOOTTIME)}
		last.Store(r)
		return r.boot
	}
}

// readClock reads one of the kernel's clocks, which no caller can do without.
func readClock(id int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(id, &now); err != nil {
		panic("read the clock: " + err.Error()) // as old as Linux 2.6.39
	}
	return time.Duration(now.Nano())
}

// newLease makes a lease that counts from a moment of the clock.
func newLease(clock clock, ttl, sent time.Duration, lost func()) *lease {
	l := &lease{clock: clock, ttl: ttl, lost: lost}
	l.until.Store(int64(sent + ttl*2/3))
	return l
}

// extend counts the lease from a later beat, unless it has ended, which is for good.
func (l *lease) extend(sent time.Duration) bool {
	for {
		until := l.until.Load()
		if !l.holds() {
			return false
		}
		if l.until.CompareAndSwap(until, max(until, int64(sent+l.ttl*2/3))) {
			return true
		}
	}
}

// holds reports whether the lease holds. If it does not, the life ends.
func (l *lease) holds() bool {
	if l.left() > 0 {
		return true
	}
	l.lose()
	return false
}

// left is how long it holds, 0 if it does not.
func (l *lease) left() time.Duration { return max(0, time.Duration(l.until.Load())-l.clock()) }

// lose ends the lease now.
func (l *lease) lose() {
	l.until.Store(0)
	l.lost()
}

// last is the moment by which everything of the life must be dead, whoever kills it, in nanoseconds of the clock: after the end of
// the lease, and with a quarter of the time to live left: who kills then needs a processor, on a machine that may have none to
// spare. (With a sixth, a task on a starved machine outlived the time to live.)
func (l *lease) last() int64 { return l.until.Load() + int64(l.ttl/12) }

// watchEvery is how often the clock is looked at when nobody asks. Timers of Go stand still while the machine sleeps: one for all that
// is left would go off as much later as the machine slept, and handlers in this process would go on until then.
const watchEvery = time.Second

// watch notices the end of the lease when nobody asks.
func (l *lease) watch(ctx context.Context) {
	for l.holds() {
		if !process.Pause(ctx, min(l.left(), watchEvery)) {
			return
		}
	}
}

// message tells a worker when the lease ends.
func (l *lease) message() *executorv1.Lease {
	monotonic := readClock(unix.CLOCK_MONOTONIC) // first: what comes between makes the end earlier, not later
	left := l.left()
	return &executorv1.Lease{ValidFor: durationpb.New(left), EndsAtMonotonic: int64(monotonic + left)}
}

package heartbeat_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// ledger is a database in memory that does what the SQL does, with a clock that can be set, and troubles that can be ordered.
type ledger struct {
	heartbeat.Database

	// slow is how long a statement takes to get there, to be run, and to get back.
	slow func() (there, run, back time.Duration)

	mu    sync.Mutex
	set   time.Duration // by how much the clock is off
	down  bool
	lives map[uuid.UUID]*entry
	// missing hears of each life that is declared missing, under the lock.
	missing func(id uuid.UUID, e *entry)
	count   int
}

type entry struct {
	name   string
	ttl    time.Duration
	beaten time.Time // by the clock
	heard  time.Time // when that was in truth
	over   bool
}

func newLedger() *ledger {
	return &ledger{
		slow:    func() (there, run, back time.Duration) { return time.Millisecond, 0, time.Millisecond },
		lives:   map[uuid.UUID]*entry{},
		missing: func(uuid.UUID, *entry) {},
	}
}

var errDown = errors.New("the database is down")

// run runs a statement, whose time is that of its arrival, not that of its effects.
func (l *ledger) run(ctx context.Context, effects func(now time.Time)) error {
	there, run, back := l.slow()
	if err := during(ctx, there); err != nil {
		return err
	}
	l.mu.Lock()
	now, down := time.Now().Add(l.set), l.down
	l.count++
	l.mu.Unlock()
	if down {
		return errDown
	}
	_ = during(context.WithoutCancel(ctx), run) // a server notices late that nobody waits any more
	l.mu.Lock()
	effects(now)
	l.mu.Unlock()
	return during(ctx, back)
}

// during lets time pass, unless the caller leaves before.
func during(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clock is what clock_timestamp() says.
func (l *ledger) clock() time.Time { return time.Now().Add(l.set) }

// judgement says what counts as now, and since when silence counts.
func (l *ledger) judgement(now time.Time, b heartbeat.Belief) (judged, since time.Time) {
	judged, since = now, b.Since
	if l.clock().Before(judged) {
		judged = l.clock()
	}
	if !b.Now.IsZero() && b.Now.Before(judged) {
		judged = b.Now
	}
	if since.IsZero() {
		since = now
	}
	return judged, since
}

func (e *entry) end(since time.Time) time.Time {
	if e.beaten.After(since) {
		since = e.beaten
	}
	return since.Add(e.ttl)
}

func (l *ledger) declare(id uuid.UUID, e *entry) {
	e.over = true
	l.missing(id, e)
}

// Insert begins a life.
func (l *ledger) Insert(ctx context.Context, a heartbeat.App, replaces string, b heartbeat.Belief) (made heartbeat.Registered, err error) {
	err = l.run(ctx, func(now time.Time) {
		made.At = now
		judged, since := l.judgement(now, b)
		for id, e := range l.lives {
			if e.over || e.name != a.Name {
				continue
			}
			if id.String() != replaces && !e.end(since).Before(judged) {
				made.Taken = true
				return
			}
			made.Ended = true
			l.declare(id, e)
		}
		l.lives[uuid.MustParse(a.Incarnation)] = &entry{name: a.Name, ttl: a.TTL, beaten: now, heard: time.Now()}
	})
	return made, err
}

// Beat writes beats.
func (l *ledger) Beat(ctx context.Context, beats []heartbeat.Beat) (beaten heartbeat.Beaten, err error) {
	err = l.run(ctx, func(now time.Time) {
		beaten = heartbeat.Beaten{At: now, TTLs: make([]time.Duration, len(beats))}
		for i, b := range beats {
			if e, known := l.lives[b.Incarnation]; known && !e.over {
				e.beaten, e.heard = now, time.Now()
				beaten.TTLs[i] = e.ttl
			}
		}
	})
	return beaten, err
}

// End ends a life.
func (l *ledger) End(ctx context.Context, incarnation string, dead bool) (ended bool, err error) {
	id, err := uuid.Parse(incarnation)
	if err != nil {
		return false, fmt.Errorf("end %q: %w", incarnation, err)
	}
	err = l.run(ctx, func(time.Time) {
		e, known := l.lives[id]
		if !known || e.over {
			return
		}
		ended, e.over = true, true
		if dead {
			l.missing(id, e)
		}
	})
	return ended, err
}

// Sweep declares the silent missing.
func (l *ledger) Sweep(ctx context.Context, b heartbeat.Belief) (swept heartbeat.Swept, err error) {
	err = l.run(ctx, func(now time.Time) {
		swept.At = now
		judged, since := l.judgement(now, b)
		var next time.Time
		for id, e := range l.lives {
			if e.over {
				continue
			}
			if e.beaten.After(l.clock()) {
				e.beaten = l.clock()
			}
			end := e.end(since)
			if end.Before(judged) {
				l.declare(id, e)
				swept.Missing = append(swept.Missing, "worker "+e.name)
				continue
			}
			if next.IsZero() || end.Before(next) {
				next = end
			}
		}
		if !next.IsZero() {
			swept.Alive, swept.Next = true, next.Sub(judged)
		}
	})
	return swept, err
}

// open returns the lives that are not over.
func (l *ledger) open() map[uuid.UUID]entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := map[uuid.UUID]entry{}
	for id, e := range maps.All(l.lives) {
		if !e.over {
			open[id] = *e
		}
	}
	return open
}

func (l *ledger) setBy(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set += d
}

func (l *ledger) isDown(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
}

func (l *ledger) statements() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// Forget keeps everything.
func (l *ledger) Forget(context.Context, time.Duration) error { return nil }

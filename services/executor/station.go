package executor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	process "github.com/sluice-tasks/sluice/pkg/run" // run is a task's here
)

// Why a life of a station ended, or a run was stopped. They travel as causes of contexts.
var (
	errFenced   = errors.New("this life of the executor is over")
	errStopping = errors.New("the executor stops")
	errCanceled = errors.New("the task was canceled")
	errDropped  = errors.New("the claim is not ours any more")
	errTimeout  = errors.New("the task took longer than it may")
	errVanished = errors.New("its stream ended")
)

// Stopping is how an executor stops, the more urgent the higher.
type Stopping int

const (
	// Patiently lets those tasks that run end, however long they take; no new ones are taken.
	Patiently Stopping = iota + 1
	// Graceful gives them the shutdown grace, then they are aborted.
	Graceful
	// AtOnce aborts them now.
	AtOnce
)

// place is where the tasks of a station are run.
type place interface {
	// tasks names what can be run there.
	tasks() []string
	// versions are the components that are there.
	versions() map[string]string
	// perform runs a task, once there is a slot for it, and returns how it ended: nil if it goes on although nothing can be
	// done about it any more.
	perform(r *run) *taskv1.Outcome
	// leased hears that a beat was confirmed, and so how long the station may go on.
	leased(lease *lease)
	// fenced hears that the lease was lost: what runs must stop at once.
	fenced()
}

// station is one name under which tasks are taken: the executor's own, or that of a worker that is connected to it. To
// everybody else each of them is an executor, with a lease and a line to the scheduler of its own.
type station struct {
	name   string
	config Config
	peers  Peers
	log    *slog.Logger
	place  place
	slots  chan struct{}
	// immediate are the slots of immediate tasks.
	immediate chan struct{}
	// prepare is called when the name is ours for the first time; nil for nothing to do.
	prepare func() error
	// once: it has one life. When that is fenced, it is over.
	once bool
	// nothingLeft hears that the scheduler has nothing for this station; nil if nobody wants to know.
	nothingLeft func()
	// replaces is an incarnation of this name of which nothing runs any more, as somebody knows who was here before us; "" if
	// none is known.
	replaces string
	// witness hears of the station's lives; nil for nobody.
	witness witness
	clock   clock

	// begun is canceled when the station is to stop.
	begun  context.Context
	signal context.CancelFunc

	mu sync.Mutex
	// runs are the claims that the station holds: running, or ended and not yet accepted by the scheduler.
	runs map[claim]*run
	// byTask finds the run of a task that is being performed, held or not: two runs of one task never overlap.
	byTask map[string]*run
	// past are claims that are over.
	past memory
	// lease is that of the present life, nil before the first. loose: a run of this life was given up, and goes on.
	lease *lease
	loose bool
	// line is the connection to the scheduler, nil while there is none.
	line *line
	// hellos counts how often a line was opened. takenBack: what the last of them named as held was given back since.
	hellos    int64
	takenBack bool
	// leaving: the executor stops, and not only this station.
	leaving bool
	// draining: no more tasks are wanted. stopping: none are taken.
	draining, stopping bool
	// how it is to stop, 0 if it is not, and since when.
	how   Stopping
	since time.Time
	// abort is what runs are told that outlast the stopping.
	abort error
	// waitsFor says what the station lacks, nil if it is ready.
	waitsFor error
	// idle: the scheduler had nothing left for it, and has sent nothing since.
	idle bool
	// changed is closed, and replaced, whenever a run ends or is forgotten, or how it is to stop.
	changed chan struct{}

	// performing are the goroutines that perform runs.
	performing *process.Hands
}

// newStation makes a station. Nothing is started before run.
func newStation(ctx context.Context, name string, slots, immediate int, config Config, peers Peers, place place, log *slog.Logger) *station {
	begun, signal := context.WithCancel(context.WithoutCancel(ctx))
	return &station{
		name:      name,
		config:    config,
		peers:     peers,
		log:       log.With(slog.String("executor", name)),
		place:     place,
		slots:     make(chan struct{}, slots),
		immediate: make(chan struct{}, immediate),
		clock:     boottime(),
		begun:     begun,
		signal:    signal,
		runs:      map[claim]*run{},
		byTask:    map[string]*run{},
		abort:     errStopping,
		waitsFor:  errors.New("not started"),
		changed:   make(chan struct{}),

		performing: process.NewHands(),
	}
}

// stop asks the station to stop, or to stop sooner. abort is what runs are told that are not let end.
func (s *station) stop(how Stopping, abort error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(abort, errStopping) && !s.leaving {
		s.leaving = true
		s.changedLocked()
	}
	if how <= s.how {
		return
	}
	s.how, s.since, s.abort = how, time.Now(), abort
	s.signal()
	s.changedLocked()
}

// run takes and runs tasks until the station is told to stop, and stops in order: no new tasks, time for those that run, the
// last reports, the goodbye. When it returns, no goroutine of it is left but those of in-process handlers that ignore their
// context. It returns an error if the station can't be prepared, or errFenced if it has one life only and lost it.
func (s *station) run() error {
	replaces := s.replaces
	delays := newDelays(soon, s.config.TTL/5)
	for {
		began := time.Now()
		life, registered := s.register(s.begun, replaces)
		if !registered {
			return nil // stopped before it began
		}
		if s.prepare != nil {
			if err := s.prepare(); err != nil {
				s.deregister(life.incarnation, false)
				return err
			}
			s.prepare = nil
		}
		dead := s.live(life)
		s.bury(life, dead)
		switch {
		case s.stops():
			return nil
		case s.once:
			return errFenced
		}
		// What goes on and can't be killed may still be at it: then heartbeat is not told to hurry, and the name is ours again
		// when the time to live is over.
		if replaces = ""; dead {
			replaces = life.incarnation
		}
		// A scheduler that asks another database than the heartbeat service's fences each life as soon as it says hello. Each is a row.
		if time.Since(began) > delays.MaxInterval {
			delays.Reset()
		} else {
			process.Pause(s.begun, delays.NextBackOff())
		}
	}
}

// bury tells of the end of a life as soon as somebody can be told. Until that was attempted its witness stands by.
func (s *station) bury(l *life, dead bool) {
	switch {
	case !s.stops():
		// The next registration tells.
	case !l.fenced() && s.settled():
		s.deregister(l.incarnation, false)
	case dead && !s.once: // of what a worker does that was sent away we know nothing
		s.deregister(l.incarnation, true)
	}
	if dead && s.witness != nil {
		s.witness.over()
	}
}

// held is the lease of the present life, nil before the first.
func (s *station) held() *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// stops reports whether the station was told to stop.
func (s *station) stops() bool { return s.begun.Err() != nil }

// live is one life: it beats and works until the station stops or the life is fenced. It reports whether nothing of the life runs
// any more.
func (s *station) live(l *life) (dead bool) {
	defer l.end(nil)
	if s.witness != nil {
		s.witness.begins(l.incarnation, l.lease.last())
	}
	var parts sync.WaitGroup
	parts.Go(func() { l.lease.watch(l.over) })
	parts.Go(func() { s.beat(l) })
	parts.Go(func() { s.acquire(l) })

	select {
	case <-l.over.Done():
	case <-s.begun.Done():
		s.finish(l.over)
	}
	fenced := l.fenced()
	if fenced {
		s.config.metrics.count(countFenced)
		s.log.ErrorContext(s.begun, "giving up all tasks", slog.Any("error", context.Cause(l.over)))
		s.dropAll() // first: of how a worker's tasks end because it is sent away, nothing is to be said
		s.place.fenced()
	}
	l.end(errStopping)
	parts.Wait()
	if fenced {
		s.dropAll() // again: a line that was just being opened may have brought something in between
	}
	s.performing.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	dead, s.loose = !s.loose, false
	return dead
}

// settled reports whether the scheduler accepted the end of every task that was taken over. Only then may the station say
// goodbye: the scheduler takes its word for it that whatever else it was given, it never began, and gives that to others.
// Without a goodbye the lease runs out, and the tasks fail as lost.
func (s *station) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.runs) == 0
}

// finish lets the running tasks end, as the station was told to stop, then aborts them, and sees the reports off. It is cut
// short when the life is fenced.
func (s *station) finish(life context.Context) {
	s.mu.Lock()
	s.draining, s.stopping = true, true
	s.waitsFor = errStopping
	s.drainLocked()
	s.giveBackLocked()
	running := s.runningLocked()
	s.mu.Unlock()
	s.log.InfoContext(life, "stopping", slog.Int("running", running), slog.Duration("grace", s.config.ShutdownGrace))

	if !s.letEnd(life) && life.Err() == nil {
		s.mu.Lock()
		for _, r := range s.runs {
			r.kill(s.abort)
		}
		s.mu.Unlock()
		// Each run ends by itself now: killed children at once, deaf in-process handlers are given up after their grace.
		s.await(life, 0, func() bool { return s.runningLocked() == 0 })
	}
	// The ends of a worker's tasks that has left can wait for the scheduler as long as the executor is here.
	s.await(life, 0, func() bool { return len(s.runs) == 0 || s.leaving })
	if !s.await(life, s.config.ReportTimeout, func() bool { return len(s.runs) == 0 }) && life.Err() == nil {
		s.mu.Lock()
		s.log.WarnContext(life, "stopped before the scheduler confirmed the end of all tasks; they will be declared lost", slog.Int("tasks", len(s.runs)))
		s.mu.Unlock()
	}
}

// letEnd waits for the end of what runs, for as long as the way to stop allows, which can become more urgent meanwhile. It
// reports false if something still runs.
func (s *station) letEnd(life context.Context) bool {
	for {
		s.mu.Lock()
		how, since := s.how, s.since
		s.mu.Unlock()
		var limit time.Duration // none
		switch how {
		case AtOnce:
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.runningLocked() == 0
		case Graceful:
			limit = max(1, s.config.ShutdownGrace-time.Since(since))
		case Patiently:
		}
		inTime := s.await(life, limit, func() bool { return s.runningLocked() == 0 || s.how != how })
		s.mu.Lock()
		none := s.runningLocked() == 0
		s.mu.Unlock()
		if none || !inTime {
			return none
		}
	}
}

// drain stops the taking of tasks for good; those that run go on.
func (s *station) drain() (running int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.drainLocked()
	if s.nothingLeft != nil {
		s.nothingLeft()
	}
	return s.runningLocked()
}

// drainLocked tells the scheduler that no more tasks are wanted, or leaves it to the next hello.
func (s *station) drainLocked() {
	if s.line != nil {
		s.line.wantNoMore()
	}
}

// runningLocked counts the runs that have not ended.
func (s *station) runningLocked() int {
	n := 0
	for _, r := range s.runs {
		if r.outcome == nil && !r.abandoned {
			n++
		}
	}
	return n
}

// await waits until done, which is called under the lock, is true. It reports false when the limit (0: none) or ctx ends
// first.
func (s *station) await(ctx context.Context, limit time.Duration, done func() bool) bool {
	var timeout <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		timeout = timer.C
	}
	for {
		s.mu.Lock()
		reached, changed := done(), s.changed
		s.mu.Unlock()
		if reached {
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// changedLocked wakes whoever awaits something.
func (s *station) changedLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// ready returns nil when the station is registered and connected to the leading scheduler.
func (s *station) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitsFor
}

// nowWaitsFor records what the station lacks, and logs it when it is something new: a peer that is away for an hour is one
// line, not thousands.
func (s *station) nowWaitsFor(err error) {
	s.mu.Lock()
	before := s.waitsFor
	if !s.stopping {
		s.waitsFor = err
	}
	s.mu.Unlock()
	switch {
	case err == nil:
		s.log.Info("ready")
	case before == nil:
		s.log.Warn("not ready any more", slog.Any("error", err))
	case before.Error() != err.Error():
		s.log.Info("not ready yet", slog.Any("error", err))
	}
}

package heartbeat

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

// Kinds of named processes, as they are stored.
const (
	kindAPI    = "api"
	kindWorker = "worker"
)

// App is one life of a named process.
type App struct {
	Incarnation  string
	Name         string
	Kind         string // "api" or "worker"
	Versions     map[string]string
	TTL          time.Duration
	RegisteredAt time.Time
	LastBeatAt   time.Time
	// DeafSince is since when it beats without hearing the scheduler; nil while it hears, or need not.
	DeafSince *time.Time
	Online    bool
	Missing   bool
	Running   []string // ids of its tasks, the oldest first
}

// Registered is what became of a registration.
type Registered struct {
	// At is the database's clock.
	At time.Time
	// Taken: a living process has the name.
	Taken bool
	// Ended: a life of before is over with it.
	Ended bool
}

// Beat is one beat that is to be written.
type Beat struct {
	Incarnation uuid.UUID
	Hearing     Hearing
}

// Beaten is what became of some beats.
type Beaten struct {
	// At is the database's clock.
	At time.Time
	// TTLs are, for each beat, how long its sender may be silent now; 0 for a life that is over.
	TTLs []time.Duration
}

// Swept is what a look for the silent found.
type Swept struct {
	// At is the database's clock.
	At time.Time
	// Next is in how long the next life can be over; Alive is false when there is none.
	Next  time.Duration
	Alive bool
	// Missing are those that are now, each by kind and name: "worker w1".
	Missing []string
}

// Database is the SQL that the service needs.
type Database interface {
	// Insert begins a life, and ends the one of before under its name: if that is silent for too long, or is replaces (empty: none).
	Insert(ctx context.Context, a App, replaces string, belief Belief) (Registered, error)
	// Beat writes beats, in order of the incarnations.
	Beat(ctx context.Context, beats []Beat) (Beaten, error)
	// End ends a life, as missing if it is dead, and reports whether that was one of an executor that was not over.
	End(ctx context.Context, incarnation string, dead bool) (ended bool, err error)
	// Sweep declares the silent missing.
	Sweep(ctx context.Context, belief Belief) (Swept, error)
	// Forget removes lives that are over for longer than keep.
	Forget(ctx context.Context, keep time.Duration) error
	// List returns lives, of one kind or of all (""), with gone also those that are over for less than a day.
	List(ctx context.Context, kind string, gone bool) ([]App, error)
}

// Config of a heartbeat service. Start from Defaults.
type Config struct {
	// FlushEvery is how long a beat waits for others at most. Less if a tenth of somebody's time to live is less.
	FlushEvery time.Duration
	// SweepEvery is how long nobody looks for the silent at most, for who registered with another service. One that can be over
	// sooner is looked for when it is.
	SweepEvery time.Duration
	// KeepFor is how long past lives stay listed.
	KeepFor time.Duration
}

// Defaults are the settings of a production service.
func Defaults() Config {
	return Config{FlushEvery: 3 * time.Second, SweepEvery: 10 * time.Second, KeepFor: 24 * time.Hour}
}

// Service is one heartbeat service. All of them are active: what they do is idempotent.
type Service struct {
	cfg   Config
	db    Database
	log   *slog.Logger
	clock clock
	hints *hinter
	// metrics are those of nobody until Observe.
	metrics *metrics

	mu sync.Mutex
	// pending are the beats since the last flush.
	pending map[uuid.UUID]*pending
	// flushAt is when they are to be written, sweepAt when the silent are to be looked for.
	flushAt, sweepAt time.Time
	// flushed is when beats were written last.
	flushed time.Time
	// sooner tells the loop that one of the times was brought forward.
	sooner  chan struct{}
	stopped bool
}

// New makes a heartbeat service. The scheduler is told, as a hint, when lives of executors are over.
func New(cfg Config, db Database, scheduler schedulerv1.SchedulerServiceClient, log *slog.Logger) *Service {
	return &Service{
		cfg: cfg, db: db, log: log, hints: newHinter(scheduler, log), metrics: unmeasured(),
		pending: map[uuid.UUID]*pending{}, sooner: make(chan struct{}, 1),
	}
}

// statementLimit bounds a statement: a connection that a failover left dead must not keep beats waiting for ever, and a slow
// checkpoint must not cost anybody his lease.
const statementLimit = 3 * time.Second

// begin registers a new life and returns its incarnation. It ends the one of before under its name, if the caller says that it
// has stopped (replaces), or if it is silent for too long.
func (s *Service) begin(ctx context.Context, a App, replaces string) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make an incarnation: %w", err)
	}
	a.Incarnation = id.String()
	if a.Versions == nil {
		a.Versions = map[string]string{}
	}
	sent := time.Now()
	made, err := s.db.Insert(ctx, a, replaces, s.clock.belief(sent))
	if err == nil {
		s.saw(ctx, sent, made.At)
	}
	if made.Ended && a.Kind == kindWorker {
		s.hints.hint()
	}
	switch {
	case made.Taken:
		return "", errs.Exists(errs.NameTaken, "a living %s is registered as %q: stop it, choose another name, or wait until it is declared missing", a.Kind, a.Name)
	case err == nil && ctx.Err() == nil:
		s.metrics.registers(ctx, a.Kind)
		s.log.InfoContext(ctx, "registered", slog.String("kind", a.Kind), slog.String("name", a.Name), slog.String("incarnation", a.Incarnation))
		s.sweepBy(sent.Add(a.TTL))
		return a.Incarnation, nil
	case err == nil:
		err = fmt.Errorf("register %s %q: %w", a.Kind, a.Name, ctx.Err())
	}
	// Nobody will ever hear of this incarnation, and it may be in the database: then the caller, who tries again, would find his
	// own name taken for a whole time to live.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementLimit)
	defer cancel()
	if _, failed := s.db.End(limited, a.Incarnation, false); failed != nil {
		s.log.DebugContext(ctx, "can't take a registration back", slog.String("incarnation", a.Incarnation), slog.Any("error", failed))
	}
	return "", err
}

// end ends a life, in good order or as dead. It is no error if it is over already.
func (s *Service) end(ctx context.Context, incarnation string, dead bool) error {
	ended, err := s.db.End(ctx, incarnation, dead)
	if ended {
		s.hints.hint()
	}
	return err
}

// Run writes beats and looks for the silent until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { s.work(ctx) })
	parts.Go(func() { s.forget(ctx) })
	parts.Go(func() { s.hints.run(ctx) })
	parts.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, p := range s.pending {
		p.answer(answer{err: errStopping()})
	}
	clear(s.pending)
	return nil
}

// work does at each time what is due: first it writes the beats that are there, then it looks for the silent. So who has beaten
// is never declared missing for want of a statement.
func (s *Service) work(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sooner:
		case <-timer.C:
		}
		flush, sweep := s.due()
		if flush {
			s.flush(ctx)
		}
		if sweep {
			s.sweep(ctx)
		}
		timer.Reset(s.untilDue())
	}
}

// due says what is to be done now.
func (s *Service) due() (flush, sweep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	sweep = !now.Before(s.sweepAt)
	flush = len(s.pending) > 0 && (sweep || !now.Before(s.flushAt))
	return flush, sweep
}

func (s *Service) untilDue() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.sweepAt
	if len(s.pending) > 0 && s.flushAt.Before(at) {
		at = s.flushAt
	}
	return time.Until(at)
}

// wake makes the loop look at its times.
func (s *Service) wake() {
	select {
	case s.sooner <- struct{}{}:
	default:
	}
}

// saw takes note of what the database's clock showed between sent and now.
func (s *Service) saw(ctx context.Context, sent, shown time.Time) {
	step := s.clock.observe(sent, time.Now(), shown)
	if step == 0 {
		return
	}
	s.log.WarnContext(ctx, "the database's clock was set: everybody's silence counts from now", slog.Duration("by", step))
	s.sweepBy(time.Now()) // beats from the future are put right by it
}

// forget removes past lives now and then.
func (s *Service) forget(ctx context.Context) {
	every := time.NewTicker(time.Hour)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		limited, cancel := context.WithTimeout(ctx, forgetLimit)
		if err := s.db.Forget(limited, s.cfg.KeepFor); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "can't forget past lives", slog.Any("error", err))
		}
		cancel()
	}
}

// forgetLimit is long, because this statement holds nobody up.
const forgetLimit = time.Minute

// Ready always reports nil: who can't be served is told so.
func (s *Service) Ready(context.Context) error { return nil }

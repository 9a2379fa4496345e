package heartbeat

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
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
	Online       bool
	Missing      bool
	Running      []string // ids of its tasks, the oldest first
}

// Database is the SQL that the service needs.
type Database interface {
	Insert(ctx context.Context, a App) error
	Beat(ctx context.Context, incarnations []string) (alive []string, err error)
	End(ctx context.Context, incarnation string) error
	Sweep(ctx context.Context) (missing []string, err error)
	Forget(ctx context.Context, keep time.Duration) error
	List(ctx context.Context, kind string, gone bool) ([]App, error)
}

// Config of a heartbeat service. Start from Defaults.
type Config struct {
	// FlushEvery is how often collected beats are written. A process may wait that long for the confirmation, so it must be
	// small against the shortest time to live.
	FlushEvery time.Duration
	// SweepEvery is how often the silent are looked for.
	SweepEvery time.Duration
	// KeepFor is how long past lives stay listed.
	KeepFor time.Duration
}

// Defaults are the settings of a production service.
func Defaults() Config {
	return Config{FlushEvery: 250 * time.Millisecond, SweepEvery: time.Second, KeepFor: 24 * time.Hour}
}

// Service is one heartbeat service. All of them are active: what they do is idempotent.
type Service struct {
	cfg Config
	db  Database
	log *slog.Logger

	mu sync.Mutex
	// pending are the beats since the last flush, each with those who wait for its confirmation.
	pending map[string][]chan error
	// beaten wakes the writer when the first beat after a quiet time comes.
	beaten  chan struct{}
	stopped bool
}

// New makes a heartbeat service.
func New(cfg Config, db Database, log *slog.Logger) *Service {
	return &Service{cfg: cfg, db: db, log: log, pending: map[string][]chan error{}, beaten: make(chan struct{}, 1)}
}

// begin registers a new life and returns its incarnation.
func (s *Service) begin(ctx context.Context, a App) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make an incarnation: %w", err)
	}
	a.Incarnation = id.String()
	if a.Versions == nil {
		a.Versions = map[string]string{}
	}
	if err := s.db.Insert(ctx, a); err != nil {
		return "", err
	}
	s.log.InfoContext(ctx, "registered", slog.String("kind", a.Kind), slog.String("name", a.Name), slog.String("incarnation", a.Incarnation))
	return a.Incarnation, nil
}

// beat returns when the beat is written, or with the reason why it is not.
func (s *Service) beat(ctx context.Context, incarnation string) error {
	written := make(chan error, 1)
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return errs.Away(errs.Stopping, nil, "this heartbeat service is stopping")
	}
	s.pending[incarnation] = append(s.pending[incarnation], written)
	s.mu.Unlock()
	select {
	case s.beaten <- struct{}{}:
	default:
	}
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run writes beats and sweeps until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var done sync.WaitGroup
	done.Go(func() { s.flushLoop(ctx) })
	done.Go(func() { s.sweepLoop(ctx) })
	done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, waiting := range s.pending {
		answer(waiting, errs.Away(errs.Stopping, nil, "this heartbeat service is stopping"))
	}
	clear(s.pending)
	return nil
}

// flushLoop writes the first beat after a quiet time at once, and what comes after it together, at most once in FlushEvery.
func (s *Service) flushLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.beaten:
		}
		s.flush(ctx)
		pause := time.NewTimer(s.cfg.FlushEvery)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// Limits of the statements. A connection that a failover left dead must not stop the service for good; a slow checkpoint must
// not cost anybody his lease.
const (
	flushLimit = 3 * time.Second
	sweepLimit = 10 * time.Second
)

func (s *Service) flush(ctx context.Context) {
	s.mu.Lock()
	pending := s.pending
	s.pending = map[string][]chan error{}
	s.mu.Unlock()
	if len(pending) == 0 {
		return
	}
	// A database that hangs must not keep beats waiting for ever: the processes count the time from their last confirmed one.
	limited, cancel := context.WithTimeout(ctx, max(s.cfg.FlushEvery, flushLimit))
	defer cancel()
	alive, err := s.db.Beat(limited, slices.Collect(maps.Keys(pending)))
	if err != nil {
		s.log.WarnContext(ctx, "beats are not written", slog.Int("beats", len(pending)), slog.Any("error", err))
		for _, waiting := range pending {
			answer(waiting, err)
		}
		return
	}
	for _, incarnation := range alive {
		answer(pending[incarnation], nil)
		delete(pending, incarnation)
	}
	for _, waiting := range pending {
		answer(waiting, errs.Precondition(errs.Fenced, "this incarnation is over: stop its tasks and register anew"))
	}
}

func answer(waiting []chan error, err error) {
	for _, w := range waiting {
		w <- err
	}
}

// sweepLoop declares the silent missing.
func (s *Service) sweepLoop(ctx context.Context) {
	sweep := time.NewTicker(s.cfg.SweepEvery)
	defer sweep.Stop()
	forget := time.NewTicker(time.Hour)
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			limited, cancel := context.WithTimeout(ctx, sweepLimit)
			missing, err := s.db.Sweep(limited)
			cancel()
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "can't look for the silent", slog.Any("error", err))
			}
			for _, who := range missing {
				s.log.WarnContext(ctx, "declared missing", slog.String("app", who))
			}
		case <-forget.C:
			limited, cancel := context.WithTimeout(ctx, 6*sweepLimit)
			if err := s.db.Forget(limited, s.cfg.KeepFor); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "can't forget past lives", slog.Any("error", err))
			}
			cancel()
		}
	}
}

// Ready always reports nil: who can't be served is told so.
func (s *Service) Ready(context.Context) error { return nil }

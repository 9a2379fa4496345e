package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
)

// Config of a scheduler. Start from Defaults.
type Config struct {
	// Holder names this scheduler in the lease row, for people.
	Holder string
	// Lease is how long a leadership lasts without being renewed; a standby takes over at most that long after a death.
	Lease time.Duration
	// LookEvery is the time between looks when nobody hints.
	LookEvery time.Duration
	// Steal takes the lease from another without waiting for its end. Only for an installation that is known to be alone.
	Steal bool
}

// Defaults are the settings of a production scheduler.
func Defaults() Config {
	return Config{Holder: "scheduler", Lease: 3 * time.Second, LookEvery: time.Second}
}

// Database is the SQL that the service needs: Store, or a test's.
type Database interface {
	store
	Take(ctx context.Context, holder string, steal bool) (epoch int64, taken bool, err error)
	Yield(ctx context.Context, epoch int64) error
	Living(ctx context.Context, name, incarnation string) (bool, error)
}

// Service is one scheduler: leader or standby.
type Service struct {
	schedulerv1.UnimplementedSchedulerServiceServer

	cfg Config
	db  Database
	log *slog.Logger

	// asked is set while the database answers who leads.
	asked atomic.Bool

	mu        sync.Mutex
	inbox     *queue[event] // nil while standing by
	followers map[*queue[*schedulerv1.Change]]struct{}
}

// New makes a scheduler.
func New(cfg Config, db Database, log *slog.Logger) *Service {
	return &Service{cfg: cfg, db: db, log: log, followers: map[*queue[*schedulerv1.Change]]struct{}{}}
}

// errStandby answers while another leads, or none.
func errStandby() *errs.Error { return errs.Away(errs.NotLeading, nil, "this scheduler does not lead") }

// Run stands by, leads when it can, and goes back to standing by after any error.
func (s *Service) Run(ctx context.Context) error {
	// A quarter of the lease keeps the gap after a death short; the jitter keeps standbys from asking in step.
	pause := s.cfg.Lease / 4
	for ctx.Err() == nil {
		takeCtx, cancel := context.WithTimeout(ctx, s.cfg.Lease)
		epoch, taken, err := s.db.Take(takeCtx, s.cfg.Holder, s.cfg.Steal)
		cancel()
		s.asked.Store(err == nil)
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.WarnContext(ctx, "can't ask for the lease", slog.Any("error", err))
		case taken:
			err := s.lead(ctx, epoch)
			if err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "leadership ended", slog.Int64("epoch", epoch), slog.Any("error", err))
			}
			if ctx.Err() == nil && !errors.Is(err, ErrDeposed) {
				// Whoever is able to may lead now; if nobody else is there, this one does after the pause, under a new epoch.
				s.yield(ctx, epoch)
			}
		}
		run.Pause(ctx, pause/2+rand.N(pause))
	}
	return nil
}

// lead loads the memory and ticks until the leadership or ctx ends.
func (s *Service) lead(ctx context.Context, epoch int64) error {
	// A write under way when ctx ends should be known to have happened; it is bounded by its own time limit.
	tickCtx := context.WithoutCancel(ctx)
	l := newLeader(epoch, s.db, s.log, time.Now, s.publish)
	loadCtx, loaded := context.WithTimeout(ctx, loadLimit)
	err := l.load(loadCtx)
	loaded()
	if err != nil {
		return err
	}

	inbox := newQueue[event]()
	var waiting []event // taken, but not yet applied
	s.setInbox(inbox)
	defer func() {
		s.setInbox(nil)
		inbox.close(errStandby())
		late, _, _ := inbox.take()
		l.disband(append(waiting, late...))
	}()

	look := time.NewTicker(s.cfg.LookEvery)
	defer look.Stop()
	for more := true; ; {
		if !more {
			select {
			case <-ctx.Done():
				s.yield(tickCtx, epoch)
				return nil
			case <-inbox.signal:
			case <-look.C:
			}
		} else if ctx.Err() != nil {
			s.yield(tickCtx, epoch)
			return nil
		}
		arrived, _, _ := inbox.take()
		events, rest := portion(append(waiting, arrived...))
		waiting = rest
		// A tick that takes longer than the lease is likely to have lost it; the fence decides.
		limited, cancel := context.WithTimeout(tickCtx, 2*s.cfg.Lease)
		more, err = l.tick(limited, events, s.cfg.LookEvery)
		cancel()
		if err != nil {
			return err
		}
		more = more || len(waiting) > 0
	}
}

// loadLimit bounds a load, for a connection that died without a word. Some million tasks take a minute.
const loadLimit = 15 * time.Minute

// tickBytes is how many bytes of results one tick writes. After an outage everybody reports at once, and PostgreSQL takes no
// parameter above 1 GiB.
const tickBytes = 64 << 20

// portion takes from the front of the events as many as fit into one tick, one at least.
func portion(events []event) (now, later []event) {
	size := 0
	for i, e := range events {
		if f, ok := e.(finishEvent); ok {
			if size += len(f.finish.GetOutcome().GetResultJson()); size > tickBytes && i > 0 {
				return events[:i], events[i:]
			}
		}
	}
	return events, nil
}

// yield gives the lease up within a bounded time, also when the process is about to stop.
func (s *Service) yield(ctx context.Context, epoch int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Lease)
	defer cancel()
	if err := s.db.Yield(ctx, epoch); err != nil {
		s.log.WarnContext(ctx, "can't yield the lease, it will run out", slog.Any("error", err))
	}
}

// disband ends every line and every wait of a leadership that is over: executors and dispatchers look for the next leader.
func (l *leader) disband(unapplied []event) {
	for _, x := range l.executors {
		if x.line != nil {
			x.line.close(errStandby())
		}
	}
	for _, e := range unapplied {
		if hello, ok := e.(helloEvent); ok {
			hello.line.close(errStandby())
		}
	}
}

// Ready reports nil while this scheduler leads, or stands by and has been told by the database that another leads.
func (s *Service) Ready(context.Context) error {
	if _, err := s.leading(); err != nil && !s.asked.Load() {
		return err
	}
	return nil
}

func (s *Service) setInbox(inbox *queue[event]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inbox = inbox
}

// leading returns the leader's inbox.
func (s *Service) leading() (*queue[event], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inbox == nil {
		return nil, errStandby()
	}
	return s.inbox, nil
}

// post puts an event into the leader's inbox.
func (s *Service) post(e event) error {
	inbox, err := s.leading()
	if err != nil {
		return err
	}
	if !inbox.put(e) {
		return errStandby()
	}
	return nil
}

// maxBehind is how many changes a follower may be behind before it is cut off: it looks by itself anyway.
const maxBehind = 100_000

// publish tells all followers.
func (s *Service) publish(changes []*schedulerv1.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for follower := range s.followers {
		for _, c := range changes {
			follower.put(c)
		}
		if follower.length() > maxBehind {
			follower.close(errs.Away(errs.Overloaded, nil, "too far behind"))
			delete(s.followers, follower)
		}
	}
}

func (s *Service) follow() (follower *queue[*schedulerv1.Change], unfollow func()) {
	follower = newQueue[*schedulerv1.Change]()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followers[follower] = struct{}{}
	return follower, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.followers, follower)
	}
}

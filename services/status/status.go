package status

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Database is the SQL that the service needs.
type Database interface {
	Get(ctx context.Context, id string) (*task.Task, error)
	States(ctx context.Context, ids []string) (map[string]task.State, error)
	GetMany(ctx context.Context, ids []string) (map[string]*task.Task, error)
	Details(ctx context.Context, id string) (*Details, error)
	ListDatabase
	Reports(ctx context.Context, tasks []*task.Task) (reports map[string]*Report, fit int, err error)
	LogDatabase
	ReportDatabase
	GroupDatabase
	ArtifactDatabase
	WatchDatabase
	StatsDatabase
	System(ctx context.Context) (*System, error)
}

// Config of a status service. Start from Defaults.
type Config struct {
	// Version of the binary, for the system's status.
	Version string
	// LookEvery is how often a waiter looks by itself while the leader is followed.
	LookEvery time.Duration
	// LookAlone is how soon it looks when no leader is followed; each further pause is twice as long, up to LookEvery.
	LookAlone time.Duration
	// Watch are the times of watching; what is zero has its usual value.
	Watch WatchTimes
}

// Defaults are the settings of a production service.
func Defaults() Config {
	return Config{Version: "unknown", LookEvery: time.Second, LookAlone: 100 * time.Millisecond}
}

// Service is one status service. All of them are active.
type Service struct {
	cfg       Config
	db        Database
	scheduler schedulerv1.SchedulerServiceClient
	log       *slog.Logger
	watching  *watching

	following atomic.Bool
	awaited   atomic.Int64 // tasks that calls wait for which named them by a filter
	followers atomic.Int64 // of logs
	mu        sync.Mutex
	waiters   map[string]map[*waiter]struct{} // by task id, or by what logOf makes of it
	// stopping is closed when Run ends: open streams must not hold the process up.
	stopping chan struct{}
}

// New makes a status service.
func New(cfg Config, db Database, scheduler schedulerv1.SchedulerServiceClient, log *slog.Logger) *Service {
	return &Service{
		cfg: cfg, db: db, scheduler: scheduler, log: log, watching: newWatching(db, cfg.Watch, cfg.LookEvery, log),
		waiters: map[string]map[*waiter]struct{}{}, stopping: make(chan struct{}),
	}
}

// waiter is woken when one of its tasks may have changed.
type waiter struct {
	signal chan struct{}
	pause  time.Duration // of the latest look that no leader was followed for
}

func (w *waiter) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// await registers interest in tasks. A caller registers before it looks, so that no change falls between.
func (s *Service) await(ids []string) (w *waiter, leave func()) {
	w = &waiter{signal: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if s.waiters[id] == nil {
			s.waiters[id] = map[*waiter]struct{}{}
		}
		s.waiters[id][w] = struct{}{}
	}
	return w, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			delete(s.waiters[id], w)
			if len(s.waiters[id]) == 0 {
				delete(s.waiters, id)
			}
		}
	}
}

// next returns when a task of the waiter may have changed, or it is time to look anyway. It reports false when ctx ends or
// the service stops.
func (s *Service) next(ctx context.Context, w *waiter) bool {
	timer := time.NewTimer(s.pause(w))
	defer timer.Stop()
	select {
	case <-w.signal:
		return true
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-s.stopping:
		return false
	}
}

// pause is how long a waiter waits until it looks by itself. Without a leader to follow, that is soon at first, then as rarely as with
// one: when something is down, waiters must not be a load.
func (s *Service) pause(w *waiter) time.Duration {
	if s.following.Load() {
		return s.cfg.LookEvery
	}
	w.pause = min(max(2*w.pause, s.cfg.LookAlone), s.cfg.LookEvery)
	return w.pause
}

// waitFor returns the tasks as they are once all are final, or after limit.
func (s *Service) waitFor(ctx context.Context, limit time.Duration, ids []string) (tasks []*task.Task, done bool, err error) {
	w, leave := s.await(ids)
	defer leave()
	waitCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		// A look may take as long as the call: it must not fail because the time to wait has ended.
		states, err := s.db.States(ctx, ids)
		if err != nil {
			return nil, false, err
		}
		over := true
		for _, id := range ids {
			state, there := states[id]
			if !there {
				return nil, false, errs.NotFound(errs.TaskNotFound, "no task %s", id)
			}
			over = over && state.Final()
		}
		if over || !s.next(waitCtx, w) {
			return s.read(ctx, ids)
		}
	}
}

// read returns tasks as they are, and whether all are final.
func (s *Service) read(ctx context.Context, ids []string) (tasks []*task.Task, done bool, err error) {
	found, err := s.db.GetMany(ctx, ids)
	if err != nil {
		return nil, false, err
	}
	done = true
	for _, id := range ids {
		t := found[id]
		if t == nil {
			return nil, false, errs.NotFound(errs.TaskNotFound, "no task %s", id)
		}
		tasks = append(tasks, t)
		done = done && t.State.Final()
	}
	return tasks, done, nil
}

// watch calls show with the task as it is now, and after each change, until it is final.
func (s *Service) watch(ctx context.Context, id string, show func(*task.Task) error) error {
	w, leave := s.await([]string{id})
	defer leave()
	var shown time.Time
	for {
		t, err := s.db.Get(ctx, id)
		if err != nil {
			return err
		}
		if !t.UpdatedAt.Equal(shown) {
			if err := show(t); err != nil {
				return err
			}
			shown = t.UpdatedAt
		}
		if t.State.Final() {
			return nil
		}
		if !s.next(ctx, w) {
			if err := ctx.Err(); err != nil {
				return err
			}
			return errs.Away(errs.Stopping, nil, "this status service is stopping")
		}
	}
}

// Run follows the leader, and finds changes for those who watch, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	watching.Go(func() { s.watching.run(ctx) })
	defer watching.Wait()
	defer close(s.stopping)
	for ctx.Err() == nil {
		err := s.follow(ctx)
		if s.following.Swap(false) {
			s.watching.follows(false)
			s.wakeAll()
		}
		if ctx.Err() == nil {
			s.log.DebugContext(ctx, "not following a leader", slog.Any("error", err))
			run.Pause(ctx, 200*time.Millisecond)
		}
	}
	return nil
}

// follow wakes waiters by what one leader commits.
func (s *Service) follow(ctx context.Context) error {
	stream, err := s.scheduler.Follow(ctx, &schedulerv1.FollowRequest{})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		if !s.following.Swap(true) {
			// What was committed before this moment was not told: everybody looks.
			s.watching.follows(true)
			s.wakeAll()
		}
		s.mu.Lock()
		for _, change := range message.GetChanges() {
			for w := range s.waiters[change.GetTaskId()] {
				w.wake()
			}
		}
		s.mu.Unlock()
		s.watching.hear(message.GetChanges())
	}
}

func (s *Service) wakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, those := range s.waiters {
		for w := range those {
			w.wake()
		}
	}
}

// Ready always reports nil: while the database is away, callers are told so.
func (s *Service) Ready(context.Context) error { return nil }

package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

// Why a life of the executor ended, or a run was stopped. They travel as causes of contexts.
var (
	errFenced   = errors.New("this life of the executor is over")
	errStopping = errors.New("the executor stops")
	errCanceled = errors.New("the task was canceled")
	errDropped  = errors.New("the claim is not ours any more")
)

// Service is one executor.
type Service struct {
	config    Config
	peers     Peers
	mux       *worker.Mux
	log       *slog.Logger
	children  *pool
	slots     chan struct{}
	immediate chan struct{}

	mu sync.Mutex
	// runs are the claims that the executor holds: running, or ended and not yet accepted by the scheduler.
	runs map[claim]*run
	// byTask finds the run of a task that is being performed, held or not: two runs of one task never overlap.
	byTask map[string]*run
	// past are claims that are over.
	past memory
	// line is the connection to the scheduler, nil while there is none.
	line *line
	// hellos counts how often a line was opened.
	hellos int64
	// draining: no more tasks are wanted. stopping: none are taken.
	draining, stopping bool
	// waitsFor says what the executor lacks, nil if it is ready.
	waitsFor error
	// changed is closed, and replaced, whenever a run ends or is forgotten.
	changed chan struct{}

	// performing counts the goroutines that perform runs.
	performing sync.WaitGroup
	home       *home
}

// New makes an executor of the handlers in mux. Nothing is started, read or written before Run.
func New(config Config, peers Peers, mux *worker.Mux, log *slog.Logger) (*Service, error) {
	config, err := config.complete()
	if err != nil {
		return nil, fmt.Errorf("configure the executor: %w", err)
	}
	log = log.With(slog.String("executor", config.Name))
	return &Service{
		config:    config,
		peers:     peers,
		mux:       mux,
		log:       log,
		children:  newPool(config, log),
		slots:     make(chan struct{}, config.Slots),
		immediate: make(chan struct{}, config.ImmediateSlots),
		runs:      map[claim]*run{},
		byTask:    map[string]*run{},
		waitsFor:  errors.New("not started"),
		changed:   make(chan struct{}),
	}, nil
}

// Name is what the executor is called, also when that was left to it.
func (s *Service) Name() string { return s.config.Name }

// Ready returns nil when the executor is registered and connected to the leading scheduler.
func (s *Service) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitsFor
}

// Run runs tasks until ctx is canceled, then stops in order: no new tasks, a grace for those that run, the last reports, the
// goodbye. When it returns, no child is left, and no goroutine but those of in-process handlers that ignore their context.
// It returns an error only if the working directory can't be had.
func (s *Service) Run(ctx context.Context) error {
	s.children.open()
	defer s.children.close()
	defer func() {
		if s.home != nil {
			s.home.close()
		}
	}()
	for {
		life, err := s.register(ctx)
		if err != nil {
			return nil // stopped before it began
		}
		// Only now is the name ours, and so the directory of that name.
		if s.home == nil {
			if s.home, err = openHome(s.config.WorkDir, s.config.Name); err != nil {
				s.deregister(ctx, life)
				return fmt.Errorf("prepare the working directory: %w", err)
			}
			s.children.dir = s.home.path
		}
		if fenced := s.live(ctx, life); !fenced || ctx.Err() != nil {
			return nil
		}
	}
}

// live is one life: it beats and works until ctx is canceled or the life is fenced, and reports the latter.
func (s *Service) live(ctx context.Context, life life) (fenced bool) {
	own, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	var parts sync.WaitGroup
	parts.Go(func() { s.beat(own, life, end) })
	parts.Go(func() { s.acquire(own, life, end) })

	select {
	case <-own.Done():
	case <-ctx.Done():
		s.stop(own)
	}
	fenced = errors.Is(context.Cause(own), errFenced)
	if fenced {
		s.dropAll()
	}
	end(errStopping)
	parts.Wait()
	if fenced {
		s.dropAll() // again: a line that was just being opened may have brought something in between
	}
	s.performing.Wait()
	if !fenced && s.settled() {
		s.deregister(ctx, life)
	}
	return fenced
}

// settled reports whether the scheduler accepted the end of every task that was taken over. Only then may the executor say
// goodbye: the scheduler takes its word for it that whatever else it was given, it never began, and gives that to others.
// Without a goodbye the lease runs out, and the tasks fail as lost.
func (s *Service) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.runs) == 0
}

// stop lets the running tasks end, at most for the grace, then aborts them, and sees the reports off. It is cut short when
// the life is fenced.
func (s *Service) stop(life context.Context) {
	s.mu.Lock()
	s.draining, s.stopping = true, true
	s.waitsFor = errStopping
	s.drainLocked()
	running := s.runningLocked()
	s.mu.Unlock()
	s.log.InfoContext(life, "stopping", slog.Int("running", running), slog.Duration("grace", s.config.ShutdownGrace))

	if !s.await(life, s.config.ShutdownGrace, func() bool { return s.runningLocked() == 0 }) && life.Err() == nil {
		s.mu.Lock()
		for _, r := range s.runs {
			r.kill(errStopping)
		}
		s.mu.Unlock()
		// Each run ends by itself now: killed children at once, deaf in-process handlers are given up after their grace.
		s.await(life, 0, func() bool { return s.runningLocked() == 0 })
	}
	if !s.await(life, s.config.ReportTimeout, func() bool { return len(s.runs) == 0 }) && life.Err() == nil {
		s.mu.Lock()
		s.log.WarnContext(life, "stopped before the scheduler confirmed the end of all tasks; they will be declared lost", slog.Int("tasks", len(s.runs)))
		s.mu.Unlock()
	}
}

// drainLocked tells the scheduler that no more tasks are wanted, or leaves it to the next hello.
func (s *Service) drainLocked() {
	if s.line != nil {
		s.line.wantNoMore()
	}
}

// runningLocked counts the runs that have not ended.
func (s *Service) runningLocked() int {
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
func (s *Service) await(ctx context.Context, limit time.Duration, done func() bool) bool {
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
func (s *Service) changedLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// nowWaitsFor records what the executor lacks, and logs it when it is something new: a peer that is away for an hour is
// one line, not thousands.
func (s *Service) nowWaitsFor(err error) {
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

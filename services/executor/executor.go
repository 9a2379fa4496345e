package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	process "github.com/sluice-tasks/sluice/pkg/run" // run is a task's here
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// Service is one executor: a station for the tasks that it has handlers for, and one for each worker that is connected to it.
type Service struct {
	config   Config
	peers    Peers
	log      *slog.Logger
	children *pool
	sentry   *sentry
	// tree is the mark of the processes that the executor starts.
	tree string
	own  *station
	// taken is the directory of our name, from before that is ours. mourning counts who tells of others' deaths.
	taken    *home
	mourning sync.WaitGroup
	// nothing is told that a station had nothing left to do.
	nothing chan struct{}

	mu   sync.Mutex
	home *home // nil until the executor's name is its own
	// guests are the connected workers, by the names that they have here. hosting counts the calls that serve them.
	guests   map[string]*guest
	unnamed  int
	how      Stopping
	closed   bool
	hosting  sync.WaitGroup
	draining bool
}

// New makes an executor of the handlers in mux. Nothing is started, read or written before Run.
func New(config Config, peers Peers, mux *worker.Mux, log *slog.Logger) (*Service, error) {
	if worker.IsChild() {
		return nil, errNotChild // or it would start another of its kind, which would start another
	}
	config, err := config.complete()
	if err != nil {
		return nil, fmt.Errorf("configure the executor: %w", err)
	}
	config.metrics, config.spans = unmeasured(), &spans{}
	s := &Service{config: config, peers: peers, log: log, guests: map[string]*guest{}, nothing: make(chan struct{}, 1), tree: newMark()}
	own := log.With(slog.String("executor", config.Name))
	env := childEnv(os.Environ(), config.ChildEnv, config.ChildMemory)
	s.sentry = newSentry(config, env, s.tree, own)
	s.children = newPool(config, append(slices.Clip(env), s.tree), own)
	place := &local{config: config, peers: peers, mux: mux, log: own, children: s.children, home: s.openedHome, running: s.running}
	//nolint:forbidigo // the station is stopped by Stop, and outlives whatever context New is called with
	s.own = newStation(context.Background(), config.Name, config.Slots, config.ImmediateSlots, config, peers, place, log)
	s.own.prepare = s.settle
	s.own.nothingLeft = s.nothingLeft()
	return s, nil
}

// Name is what the executor is called, also when that was left to it.
func (s *Service) Name() string { return s.config.Name }

// Ready returns nil when the executor is registered and connected to the leading scheduler.
func (s *Service) Ready(context.Context) error { return s.own.ready() }

// Stop makes Run stop, or stop sooner than it was asked to before. A more patient wish than an earlier one changes nothing.
func (s *Service) Stop(how Stopping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.how = max(s.how, how)
	s.own.stop(s.how, errStopping)
	for _, g := range s.guests {
		g.station.stop(s.how, errStopping)
	}
}

// Run runs tasks until ctx is canceled or Stop is called, then stops in order: no new tasks, time for those that run, the last
// reports, the goodbye. How much time, Stop says; the end of ctx alone gives the shutdown grace. When Run returns, no child is
// left, and no goroutine but those of in-process handlers that ignore their context. It returns an error only if the working
// directory, or a guard, can't be had.
func (s *Service) Run(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		asked := s.how != 0
		s.mu.Unlock()
		if !asked {
			s.Stop(Graceful)
		}
	})
	defer unhook()
	taken, err := s.takeHome()
	if errors.Is(err, errStopping) {
		return nil
	}
	if err != nil {
		return err
	}
	defer taken.close()
	s.own.replaces, s.own.witness = taken.predecessor, keepers{s.sentry, taken}
	if err := s.sentry.open(); err != nil {
		return err
	}
	defer s.sentry.close()
	s.taken = taken
	s.children.open()
	defer s.children.close()
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watchForNothing(watching) })
	watcher.Go(func() { s.tidy(watching) })
	defer s.mourning.Wait()
	defer watcher.Wait()
	defer stop()

	err = s.own.run()
	s.dismissGuests()
	return err
}

// takeHome takes the directory of our name, as soon as no living executor has it, or returns errStopping.
func (s *Service) takeHome() (*home, error) {
	delays := newDelays(50*time.Millisecond, time.Second)
	for {
		taken, err := takeHome(s.config.WorkDir, s.config.Name, s.tree, s.log)
		switch {
		case err == nil:
			return taken, nil
		case !errors.Is(err, errInhabited):
			return nil, fmt.Errorf("prepare the working directory: %w", err)
		}
		s.own.nowWaitsFor(fmt.Errorf("prepare the working directory: %w", err))
		if !process.Pause(s.own.begun, delays.NextBackOff()) {
			return nil, errStopping
		}
	}
}

// tidyEvery is how often an executor looks for what others left that died beside it, and shows that its own directory is in use.
const tidyEvery = 10 * time.Minute

func (s *Service) tidy(ctx context.Context) {
	for process.Pause(ctx, tidyEvery) {
		if home := s.openedHome(); home != nil {
			home.refresh()
			s.mourn(home.reclaim())
		}
	}
}

// settle prepares what only the owner of the name may touch: the directory of that name.
func (s *Service) settle() error {
	dead, err := s.taken.clear()
	if err != nil {
		return fmt.Errorf("prepare the working directory: %w", err)
	}
	s.mu.Lock()
	s.home, s.children.dir = s.taken, s.taken.path
	s.mu.Unlock()
	s.mourning.Go(func() { s.mourn(dead) }) // the lease runs
	return nil
}

// mourn tells of lives of others of which nothing is left. When nobody listens, they are over when their time to live is.
func (s *Service) mourn(dead []string) {
	for _, incarnation := range dead {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.own.begun), s.config.ReportTimeout)
		_, err := s.peers.Heartbeat.Deregister(ctx, &heartbeatv1.DeregisterRequest{Incarnation: incarnation, Dead: true})
		cancel()
		if err != nil {
			s.log.Warn("could not tell that another executor is dead", slog.String("incarnation", incarnation), slog.Any("error", err))
		}
	}
}

func (s *Service) openedHome() *home {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.home
}

// running notes which process runs a task.
func (s *Service) running(r *run, pid int) {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	r.pid = pid
}

// drain stops the taking of tasks until the executor is started anew, and counts those that run.
func (s *Service) drain() (running int) {
	s.mu.Lock()
	s.draining = true
	stations := s.stationsLocked()
	s.mu.Unlock()
	for _, st := range stations {
		running += st.drain()
	}
	return running
}

func (s *Service) stationsLocked() []*station {
	stations := []*station{s.own}
	for _, g := range s.guests {
		stations = append(stations, g.station)
	}
	return stations
}

// nothingLeft is what a station calls that the scheduler has nothing left for; nil unless that is the end.
func (s *Service) nothingLeft() func() {
	if s.config.NothingLeft == nil {
		return nil
	}
	return func() {
		select {
		case s.nothing <- struct{}{}:
		default:
		}
	}
}

// watchForNothing tells when there is nothing left for any station.
func (s *Service) watchForNothing(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.nothing:
		}
		s.mu.Lock()
		stations := s.stationsLocked()
		s.mu.Unlock()
		if !slices.ContainsFunc(stations, func(st *station) bool { return !st.spare() }) {
			s.config.NothingLeft()
		}
	}
}

// spare reports whether a station has nothing, and the scheduler nothing for it, or nothing is wanted.
func (s *station) spare() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (s.idle || s.draining) && len(s.runs) == 0
}

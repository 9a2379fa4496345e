package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
)

// Config of a scheduler. Start from Defaults.
type Config struct {
	// Holder names this scheduler in the lease row, for people.
	Holder string
	// Address is where the other schedulers reach this one (HOST:PORT), to hear when it stops leading. Empty: they can't, and
	// find out by looking.
	Address string
	// Lease is how long a leadership lasts without being renewed; a standby takes over at most that long after a death.
	Lease time.Duration
	// LookEvery is the time between looks when nobody hints.
	LookEvery time.Duration
	// PulseEvery is the pause between two signs of life on the line to an executor. One that does not answer for three times as
	// long loses its line.
	PulseEvery time.Duration
	// Steal takes the lease from another without waiting for its end. Only for an installation that is known to be alone.
	Steal bool
}

// Defaults are the settings of a production scheduler.
func Defaults() Config {
	return Config{Holder: "scheduler", Lease: 3 * time.Second, LookEvery: time.Second, PulseEvery: 5 * time.Second}
}

// Database is the SQL that the service needs: Store, or a test's.
type Database interface {
	store
	Take(ctx context.Context, bid Bid) (Seat, error)
	Renew(ctx context.Context, epoch int64) error
	Yield(ctx context.Context, epoch int64) error
	Evict(ctx context.Context) (ended int, err error)
	Living(ctx context.Context, name, incarnation string) (bool, error)
	Particulars(ctx context.Context, id string) (*Particulars, error)
	LatencyDatabase
}

// Service is one scheduler: leader or standby.
type Service struct {
	schedulerv1.UnimplementedSchedulerServiceServer

	cfg Config
	db  Database
	log *slog.Logger

	// asked is set while the database answers who leads.
	asked atomic.Bool
	// standing is what the others are told.
	standing *standing

	// tracer is nil unless there is tracing.
	tracer trace.Tracer

	// metrics are those of nobody until Observe.
	metrics *metrics
	// survey is what the leader counted last; nil while standing by.
	survey atomic.Pointer[Survey]
	// latencies is what the leader has measured; nil while standing by.
	latencies atomic.Pointer[latencies]

	// live is how many tasks the leader knew that are not final, after its last tick.
	live atomic.Int64
	// dispatched and undispatched count the times of schedules at which this scheduler led.
	dispatched, undispatched atomic.Int64

	// questions bounds how many questions about executors the database is asked at once.
	questions chan struct{}

	mu        sync.Mutex
	inbox     *inbox // nil while standing by
	followers map[*queue[*schedulerv1.Change]]struct{}
}

// New makes a scheduler.
func New(cfg Config, db Database, log *slog.Logger) *Service {
	return &Service{
		cfg: cfg, db: db, log: log, standing: newStanding(), questions: make(chan struct{}, maxQuestions),
		metrics:   unmeasured(),
		followers: map[*queue[*schedulerv1.Change]]struct{}{},
	}
}

// maxQuestions leaves the ticks, maxFlights at most, connections of their own in a pool of the usual size.
const maxQuestions = 3

// errBusy answers when more calls wait for the leader than it has room for.
func errBusy() *errs.Error {
	e := errs.Oversize(errs.Overloaded, "too many calls wait for the scheduler")
	e.RetryAfter = time.Second
	return e
}

// errStandby answers while another leads, or none.
func errStandby() *errs.Error { return errs.Away(errs.NotLeading, nil, "this scheduler does not lead") }

// Run stands by, leads when it can, and goes back to standing by after any error.
func (s *Service) Run(ctx context.Context) error {
	defer s.standing.end()
	var leader vigil
	defer leader.end()
	var astray stray
	for ctx.Err() == nil {
		began := time.Now()
		seat, err := s.take(ctx, astray.over(max(s.cfg.Lease, strayLooks*s.cfg.LookEvery)))
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.WarnContext(ctx, "can't ask for the lease", slog.Any("error", err))
		case seat.Taken:
			astray = stray{}
			leader.end()
			s.reign(ctx, seat.Epoch)
		case err == nil:
			astray.see(seat)
		}
		patience := s.patience(seat)
		if seat.Taken && time.Since(began) > s.cfg.Lease {
			// It led well until something went wrong, a connection that broke for one: nobody need wait for long. One who fails
			// again and again does.
			patience /= 8
		}
		pause := time.NewTimer(patience)
		select {
		case <-pause.C:
		case <-leader.over(ctx, seat, s.cfg.Address):
		case <-ctx.Done():
		}
		pause.Stop()
	}
	return nil
}

// take asks for the lease, and takes it from another if steal says so.
func (s *Service) take(ctx context.Context, steal bool) (Seat, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Lease)
	defer cancel()
	seat, err := s.db.Take(ctx, Bid{Holder: s.cfg.Holder, Address: s.cfg.Address, Steal: s.cfg.Steal || steal})
	s.asked.Store(err == nil)
	if err != nil || seat.Taken || seat.Left > -s.cfg.Lease {
		return seat, err
	}
	// Long over, and not to be had: somebody's transaction holds the row.
	ended, err := s.db.Evict(ctx)
	if ended > 0 {
		s.log.WarnContext(ctx, "a leader was stuck in the middle of a transaction, its database sessions are ended",
			slog.String("holder", seat.Holder), slog.Int64("epoch", seat.Epoch), slog.Int("sessions", ended))
	}
	return seat, err
}

// maxPatience bounds how long a standby leaves a lease alone that nobody is seen to hold, however long leases last.
const maxPatience = time.Second

// patience is how long to wait before the lease is asked for again, if nothing else happens. A quarter of the lease keeps the
// gap short when a leader yielded and nobody heard of it; when it died, the lease's end is known. The jitter keeps standbys
// from asking in step.
func (s *Service) patience(seat Seat) time.Duration {
	quarter := s.cfg.Lease / 4
	pause := quarter/2 + rand.N(quarter)
	switch {
	case seat.Taken || seat.Epoch == 0:
		return pause
	case seat.Left <= 0:
		// It ran out, or was given up, but a transaction that holds it is yet to end: perhaps that of another standby, which takes
		// it at this very moment and is to be watched as soon as it is known.
		return min(pause/4, maxPatience)
	default:
		return min(pause, seat.Left+rand.N(quarter/8))
	}
}

// reign leads under an epoch, and gives the lease up at the end, so that whoever is able to may lead. If nobody else is
// there, this scheduler does after a pause, under a new epoch.
func (s *Service) reign(ctx context.Context, epoch int64) {
	s.standing.say(epoch, false)
	// Those who watch hear of the end when the lease can be had.
	defer s.standing.say(0, false)
	err := s.lead(ctx, epoch)
	if err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "leadership ended", slog.Int64("epoch", epoch), slog.Any("error", err))
	}
	if !errors.Is(err, ErrDeposed) {
		s.yield(ctx, epoch)
	}
}

// lead loads the memory and ticks until the leadership or ctx ends.
func (s *Service) lead(ctx context.Context, epoch int64) error {
	l := newLeader(epoch, s.db, s.log, steady(), s.publish)
	l.surveyed, l.fired, l.pulseEvery = s.survey.Store, s.tally, s.cfg.PulseEvery
	l.witnesses = append(l.witnesses, journal{s.log})
	l.trace(s.tracer)
	l.metrics, l.witnesses = s.metrics, append(l.witnesses, s.metrics)
	s.metrics.leaderships.Add(ctx, 1)
	err := s.load(ctx, l)
	if err != nil {
		return err
	}
	defer s.measure(ctx, l)()

	inbox := newInbox()
	var waiting []event // taken, but not yet applied
	s.live.Store(int64(len(l.tasks)))
	s.setInbox(inbox)
	s.standing.say(epoch, true)
	defer func() {
		s.standing.say(epoch, false)
		s.setInbox(nil)
		s.survey.Store(nil)
		inbox.close(errStandby())
		late, _, _ := inbox.take()
		l.disband(append(waiting, late...))
	}()

	// A glance renews the lease of a leader that has nothing else to do, if a quarter of it is gone: it comes three times within
	// a lease, so at least half of one is left for one that is late.
	lookEvery := min(s.cfg.LookEvery, s.cfg.Lease/3)
	alarm := time.NewTimer(lookEvery)
	defer alarm.Stop()
	air := newAir(s.cfg.Lease)
	defer air.drain()
	for more := true; ctx.Err() == nil || air.flying > 0; {
		switch {
		case air.flying > 0:
			var signal <-chan struct{}
			if air.room(l, waiting) {
				signal = inbox.signal
			}
			select {
			case r := <-air.returns:
				if more, err = air.land(l, r, lookEvery); err != nil {
					return err
				}
				more = more || len(waiting)+inbox.length() > 0
				if air.flying == 0 && !more {
					continue
				}
			case <-signal:
			}
		case !more:
			// The looks are too far apart for the pauses between attempts, and for schedules. A ticker would not do for the looks: of
			// a hint between two of its ticks comes a look, which the next tick would find too young and the one after it too old.
			wait := l.lookedAt.Add(lookEvery).Sub(l.now())
			if left, some := l.alarm(); some {
				wait = min(wait, left)
			}
			alarm.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-inbox.signal:
			case <-alarm.C:
			}
		}
		if ctx.Err() != nil || air.flying > 0 && !air.room(l, waiting) {
			continue
		}
		arrived, _, _ := inbox.take()
		events, rest := portion(append(waiting, arrived...))
		if air.flying > 0 && !l.mayJoin(events, lookEvery) {
			waiting = append(events, rest...)
			continue
		}
		waiting = rest
		if more, err = s.tick(ctx, l, air, events, lookEvery); err != nil {
			return err
		}
		inbox.applied(events)
		s.live.Store(int64(len(l.tasks) + len(l.offered)))
		more = more || len(waiting) > 0
	}
	return nil
}

// steady returns a clock that is set once and then only goes on: when the machine's is put forward, no executor is deaf for it,
// and when it is put back, nothing waits until it has caught up.
func steady() func() time.Time {
	start := time.Now()
	return func() time.Time { return start.Add(time.Since(start)) }
}

// tick makes one tick. One that must be alone is done when it returns; another one is under way.
func (s *Service) tick(ctx context.Context, l *leader, air *air, events []event, lookEvery time.Duration) (more bool, err error) {
	if air.flying > 0 {
		if f := l.join(events); f != nil {
			air.start(ctx, l, f)
		}
		return false, nil
	}
	ctx, cancel := air.limit(ctx)
	defer cancel()
	f, err := l.begin(ctx, events, lookEvery)
	switch {
	case err != nil:
		return false, err
	case f == nil:
		return l.glance(ctx, lookEvery)
	case f.light():
		air.start(ctx, l, f)
		return false, nil
	}
	report, err := l.store.Tick(ctx, l.epoch, f.plan)
	if err != nil {
		return false, err
	}
	return l.land(f, report, lookEvery)
}

// loadLimit bounds a load, for a connection that died without a word. Some million tasks take a minute.
const loadLimit = 15 * time.Minute

// load fills the memory, and keeps the lease meanwhile, however long it takes.
func (s *Service) load(ctx context.Context, l *leader) error {
	limited, loaded := context.WithTimeout(ctx, loadLimit)
	defer loaded()
	ctx, stop := context.WithCancelCause(limited)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		for run.Pause(ctx, s.cfg.Lease/3) {
			if err := s.db.Renew(ctx, l.epoch); errors.Is(err, ErrDeposed) {
				stop(err)
			}
		}
	}()
	err := l.load(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, ErrDeposed) {
		err = cause
	}
	stop(nil)
	<-renewed
	return err
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

func (s *Service) setInbox(inbox *inbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inbox = inbox
}

// leading returns the leader's inbox.
func (s *Service) leading() (*inbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inbox == nil {
		return nil, errStandby()
	}
	return s.inbox, nil
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

package scheduler_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// patient is a configuration whose lease no test waits for.
func patient() scheduler.Config {
	cfg := config()
	cfg.Lease = time.Hour
	return cfg
}

// watch reads what a scheduler says of its leadership.
func watch(t *testing.T, client schedulerv1.SchedulerServiceClient) grpc.ServerStreamingClient[schedulerv1.WatchLeadershipResponse] {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	t.Cleanup(cancel)
	stream, err := client.WatchLeadership(ctx, &schedulerv1.WatchLeadershipRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// until reads on until what is said is so, and returns it.
func until(t *testing.T, stream grpc.ServerStreamingClient[schedulerv1.WatchLeadershipResponse], so func(*schedulerv1.WatchLeadershipResponse) bool) *schedulerv1.WatchLeadershipResponse {
	t.Helper()
	for {
		now, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if so(now) {
			return now
		}
	}
}

func leads(now *schedulerv1.WatchLeadershipResponse) bool { return now.GetReady() }

// With a lease of an hour a standby that leads at all within the test was told to.
func TestAStandbyLeadsAtOnceWhenTheLeaderStops(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, patient().Lease)
	one := run(t, patient(), store)
	first := until(t, watch(t, one.client), leads)
	// Any number may stand by; one of them gets it, and the others watch that one.
	others := []*running{run(t, patient(), store), run(t, patient(), store)}
	for _, other := range others {
		probe.Eventually(t, "it stands by", func() bool { return other.scheduler.Ready(t.Context()) == nil })
	}
	waits, _ := insert(t, db, spec{exclusive: []string{"a"}})

	one.stop()
	leader, standby := others[0], others[1]
	probe.Eventually(t, "another leads", func() bool {
		for i, other := range others {
			if _, err := other.client.Offer(t.Context(), &schedulerv1.OfferRequest{}); err == nil {
				leader, standby = other, others[1-i]
				return true
			}
		}
		return false
	})
	if second := until(t, watch(t, leader.client), leads); second.GetEpoch() <= first.GetEpoch() {
		t.Errorf("the second leadership is %d, after %d", second.GetEpoch(), first.GetEpoch())
	}
	join(t, leader, db, "x", 1).assigned(waits)

	leader.stop()
	until(t, watch(t, standby.client), leads)
}

func TestTheEndOfALeadershipIsSaidWhenTheLeaseCanBeHad(t *testing.T) {
	store := scheduler.NewStore(pgtest.New(t), time.Hour)
	fail, yielding, goOn := make(chan struct{}), make(chan struct{}, 10), make(chan struct{})
	r := run(t, patient(), hooked{
		Store: store,
		tick: func() error {
			select {
			case <-fail:
				return errors.New("the test wants it to fail")
			default:
				return nil
			}
		},
		yield: func() {
			yielding <- struct{}{}
			<-goOn
		},
	})
	watched := watch(t, r.client)
	epoch := until(t, watched, leads).GetEpoch()
	close(fail)
	<-yielding
	if now := until(t, watched, func(now *schedulerv1.WatchLeadershipResponse) bool { return !now.GetReady() }); now.GetEpoch() != epoch {
		t.Errorf("it says %v while nobody can have the lease", now)
	}
	close(goOn)
	until(t, watched, func(now *schedulerv1.WatchLeadershipResponse) bool { return now.GetEpoch() != epoch })
	if seat := bid(t, store, "other"); !seat.Taken && seat.Epoch == epoch {
		t.Errorf("the lease can't be had: %+v", seat)
	}
}

// A server that stops in good order waits for its streams.
func TestASchedulerThatStopsLetsItsWatchersGo(t *testing.T) {
	r := run(t, patient(), scheduler.NewStore(pgtest.New(t), time.Hour))
	watched := watch(t, r.client)
	until(t, watched, leads)
	r.stop()
	for {
		if _, err := watched.Recv(); err != nil {
			if !errs.Is(err, errs.NotLeading) {
				t.Errorf("watching ended with %v", err)
			}
			return
		}
	}
}

// hooked is a database in front of which something happens.
type hooked struct {
	*scheduler.Store
	load  func(ctx context.Context) error
	tick  func() error
	yield func()
}

func (h hooked) Load(ctx context.Context, epoch int64, admit func(scheduler.Row)) (scheduler.Loaded, error) {
	if h.load != nil {
		if err := h.load(ctx); err != nil {
			return scheduler.Loaded{}, err
		}
	}
	return h.Store.Load(ctx, epoch, admit)
}

func (h hooked) Tick(ctx context.Context, epoch int64, plan *scheduler.Plan) (*scheduler.Report, error) {
	if h.tick != nil {
		if err := h.tick(); err != nil {
			return nil, err
		}
	}
	return h.Store.Tick(ctx, epoch, plan)
}

func (h hooked) Glance(ctx context.Context, epoch, high int64, owners []string) (scheduler.Glimpse, error) {
	if h.tick != nil {
		if err := h.tick(); err != nil {
			return scheduler.Glimpse{}, err
		}
	}
	return h.Store.Glance(ctx, epoch, high, owners)
}

func (h hooked) Fire(ctx context.Context, epoch int64, fresh []scheduler.Fresh) (scheduler.Firing, error) {
	if h.tick != nil {
		if err := h.tick(); err != nil {
			return scheduler.Firing{}, err
		}
	}
	return h.Store.Fire(ctx, epoch, fresh)
}

func (h hooked) Yield(ctx context.Context, epoch int64) error {
	if h.yield != nil {
		h.yield()
	}
	return h.Store.Yield(ctx, epoch)
}

// Some million tasks take longer to load than a lease lasts.
func TestALeaderThatLoadsKeepsItsLease(t *testing.T) {
	db := pgtest.New(t)
	cfg := config()
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	r := run(t, cfg, hooked{Store: scheduler.NewStore(db, cfg.Lease), load: func(context.Context) error {
		begun <- struct{}{}
		<-goOn
		return nil
	}})
	<-begun
	watched := watch(t, r.client)
	loading := until(t, watched, func(now *schedulerv1.WatchLeadershipResponse) bool { return now.GetEpoch() > 0 })
	if loading.GetReady() {
		t.Error("it is ready before it has loaded")
	}
	before := pgtest.One[time.Time](t, db, `select expires_at from lease`)
	probe.Eventually(t, "the lease is renewed", func() bool {
		return pgtest.One[time.Time](t, db, `select expires_at from lease`).After(before)
	})
	close(goOn)
	if now := until(t, watched, leads); now.GetEpoch() != loading.GetEpoch() {
		t.Errorf("it leads under epoch %d, and loaded under %d", now.GetEpoch(), loading.GetEpoch())
	}
}

func TestALoadEndsWhenItsLeaderIsDeposed(t *testing.T) {
	db := pgtest.New(t)
	cfg := config()
	loads := make(chan error, 10)
	run(t, cfg, hooked{Store: scheduler.NewStore(db, cfg.Lease), load: func(ctx context.Context) error {
		loads <- nil
		<-ctx.Done()
		loads <- context.Cause(ctx)
		return ctx.Err()
	}})
	<-loads
	pgtest.Must(t, db, 1, `update lease set epoch = epoch + 1, expires_at = now() + interval '1 hour'`)
	if why := <-loads; !errors.Is(why, scheduler.ErrDeposed) {
		t.Errorf("the load ended with %v", why)
	}
}

// run runs a scheduler as a process does: it knows its address, and its server stops after it.
func run(t *testing.T, cfg scheduler.Config, db scheduler.Database) *running {
	t.Helper()
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Address = listener.Addr().String()
	conn, err := rpc.Dial(cfg.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s := scheduler.New(cfg, db, quiet())
	server := rpc.NewServer(quiet())
	s.Register(server)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var runs sync.WaitGroup
	runs.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	runs.Go(func() {
		defer server.Stop(patience)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	r := &running{scheduler: s, client: schedulerv1.NewSchedulerServiceClient(conn)}
	r.stop = func() {
		cancel()
		runs.Wait()
	}
	t.Cleanup(r.stop)
	return r
}

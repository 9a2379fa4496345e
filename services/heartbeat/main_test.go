package heartbeat_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const unknownID = "01234567-89ab-7def-8123-456789abcdef"

// world is a heartbeat service on a database of the test's own, behind gRPC.
type world struct {
	postgres.Querier

	url     string
	store   *heartbeat.Store
	service *heartbeat.Service
	client  heartbeatv1.HeartbeatServiceClient
	hints   *hinted
}

// hinted is a scheduler that counts its hints.
type hinted struct {
	schedulerv1.SchedulerServiceClient

	offers atomic.Int64
}

// Offer counts.
func (h *hinted) Offer(_ context.Context, r *schedulerv1.OfferRequest, _ ...grpc.CallOption) (*schedulerv1.OfferResponse, error) {
	if len(r.GetTasks())+len(r.GetSettleTaskIds()) > 0 {
		panic("heartbeat knows no tasks")
	}
	h.offers.Add(1)
	return &schedulerv1.OfferResponse{}, nil
}

// newWorld starts a service that writes beats at once and, after its first look, sweeps only when a life can be over. It knows
// the clock for long enough to call somebody silent.
func newWorld(t *testing.T) *world {
	t.Helper()
	return worldWith(t, pgtest.URL(t), heartbeat.Config{FlushEvery: time.Millisecond, SweepEvery: time.Hour, KeepFor: time.Hour})
}

func worldWith(t *testing.T, url string, cfg heartbeat.Config) *world {
	t.Helper()
	w := strangerWith(t, url, cfg)
	probe.Eventually(t, "the service has seen the clock", w.service.KnowsTheClock)
	w.service.HasKnownTheClockFor(24 * time.Hour)
	return w
}

// strangerWith is a service that just began, and knows nothing of before.
func strangerWith(t *testing.T, url string, cfg heartbeat.Config) *world {
	t.Helper()
	pool, hints := pgtest.Open(t, url), &hinted{}
	store := heartbeat.NewStore(pool)
	service := heartbeat.New(cfg, store, hints, quiet())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	})
	conn, _ := rpctest.Serve(t, service.Register)
	return &world{Querier: pool, url: url, store: store, service: service, client: heartbeatv1.NewHeartbeatServiceClient(conn), hints: hints}
}

func (w *world) tryRegister(t *testing.T, name string, kind heartbeatv1.Kind) (string, error) {
	t.Helper()
	answer, err := w.client.Register(t.Context(), &heartbeatv1.RegisterRequest{
		Name: name, Kind: kind, Versions: map[string]string{"core": "3.2"}, Ttl: durationpb.New(10 * time.Second),
	})
	return answer.GetIncarnation(), err
}

// register begins the life of a worker.
func (w *world) register(t *testing.T, name string) string {
	t.Helper()
	incarnation, err := w.tryRegister(t, name, heartbeatv1.Kind_KIND_WORKER)
	if err != nil {
		t.Fatal(err)
	}
	return incarnation
}

// known is what a service believes that has known the clock for long.
func (w *world) known() heartbeat.Belief {
	return heartbeat.Belief{Now: time.Now().Add(time.Minute), Since: time.Now().Add(-24 * time.Hour)}
}

// over lists the notes of lives that are over: "w1 missing", "w2 ended".
func (w *world) over(t *testing.T) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `
		select coalesce(array_agg(what order by what), '{}')
		from (select name || case when missing then ' missing' else ' ended' end as what from app_over join app using (incarnation)) o`)
}

// silence lets time pass for one life.
func (w *world) silence(t *testing.T, incarnation, since string) {
	t.Helper()
	pgtest.Must(t, w, 1, `update app set registered_at = registered_at - $2::text::interval, last_beat_at = last_beat_at - $2::text::interval where incarnation = $1::text::uuid`, incarnation, since)
}

// line is an open stream of beats.
type line struct {
	grpc.BidiStreamingClient[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]
}

func (w *world) open(t *testing.T) line {
	t.Helper()
	stream, err := w.client.Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return line{stream}
}

// beat sends one beat and waits for its confirmation.
func (l line) beat(t *testing.T, incarnation string) error {
	t.Helper()
	if err := l.Send(&heartbeatv1.BeatRequest{Incarnation: incarnation}); err != nil {
		t.Fatal(err)
	}
	_, err := l.Recv()
	return err
}

// all runs functions at the same time.
func all(functions ...func()) {
	var group sync.WaitGroup
	for _, f := range functions {
		group.Go(f)
	}
	group.Wait()
}

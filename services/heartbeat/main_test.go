package heartbeat_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
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
}

// newWorld starts a service that writes beats at once and sweeps only when the test does.
func newWorld(t *testing.T) *world {
	t.Helper()
	return worldWith(t, pgtest.URL(t), heartbeat.Config{FlushEvery: time.Millisecond, SweepEvery: time.Hour, KeepFor: time.Hour})
}

func worldWith(t *testing.T, url string, cfg heartbeat.Config) *world {
	t.Helper()
	pool := pgtest.Open(t, url)
	store := heartbeat.NewStore(pool)
	service := heartbeat.New(cfg, store, quiet())
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
	return &world{Querier: pool, url: url, store: store, service: service, client: heartbeatv1.NewHeartbeatServiceClient(conn)}
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

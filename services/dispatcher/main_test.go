package dispatcher_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const unknownID = "01234567-89ab-7def-8123-456789abcdef"

// leader is a scheduler that does what the test says. The zero value takes every hint and settles nothing.
type leader struct {
	schedulerv1.UnimplementedSchedulerServiceServer

	settle func(ctx context.Context, id string) error
	// heard, if there is one, is called with every hint.
	heard func(*schedulerv1.OfferRequest)

	// live is how many tasks it says are not final.
	live atomic.Int64

	mu    sync.Mutex
	hints int
	// settled are the ids that it was asked to settle, by request.
	settled [][]string
}

// Offer counts hints, and settles.
func (l *leader) Offer(ctx context.Context, r *schedulerv1.OfferRequest) (*schedulerv1.OfferResponse, error) {
	if l.heard != nil {
		l.heard(r)
	}
	if ids := r.GetSettleTaskIds(); len(ids) > 0 {
		l.mu.Lock()
		l.settled = append(l.settled, ids)
		l.mu.Unlock()
	}
	for _, id := range r.GetSettleTaskIds() {
		if l.settle == nil {
			continue
		}
		if err := l.settle(ctx, id); err != nil {
			return nil, err
		}
	}
	if len(r.GetSettleTaskIds()) == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hints++
	}
	return &schedulerv1.OfferResponse{LiveTasks: l.live.Load()}, nil
}

func (l *leader) askedToSettle() [][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.settled)
}

func (l *leader) hinted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hints
}

// world is a dispatcher on a database of the test's own, between a client and a leader, with gRPC on both sides.
type world struct {
	postgres.Querier

	client  dispatcherv1.DispatcherServiceClient
	service *dispatcher.Service
	leader  *leader
	// stopLeader makes the leader unreachable.
	stopLeader func()
}

func newWorld(t *testing.T, l *leader) *world {
	t.Helper()
	url := pgtest.URL(t)
	return worldOn(t, l, url, dispatcher.Config{SettleFor: 20 * time.Second})
}

func worldOn(t *testing.T, l *leader, url string, cfg dispatcher.Config) *world {
	t.Helper()
	pool := pgtest.Open(t, url)
	toLeader, stopLeader := rpctest.Serve(t, func(s grpc.ServiceRegistrar) { schedulerv1.RegisterSchedulerServiceServer(s, l) })
	hinter := dispatcher.NewHinter(schedulerv1.NewSchedulerServiceClient(toLeader), quiet())
	service := dispatcher.NewService(cfg, dispatcher.NewStore(pool), hinter, quiet())
	runFor(t, service.Run)
	conn, _ := rpctest.Serve(t, service.Register)
	return &world{
		Querier: pool, client: dispatcherv1.NewDispatcherServiceClient(conn), service: service, leader: l, stopLeader: stopLeader,
	}
}

// runFor runs a loop until the test ends.
func runFor(t *testing.T, loop func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the loop ended with %v", err)
		}
	})
}

// What the scheduler does to a task, as far as a dispatcher can tell.
const (
	claim = `update task set state = 'running', unblocked_at = coalesce(unblocked_at, now()), started_at = now(), executor = 'e1',
		incarnation = '01234567-89ab-7def-8123-456789abcdef', claim = claim + 1, attempt = attempt + 1, updated_at = now()
		where id = $1::text::uuid and state = 'waiting'`
	complete = `with done as (update task set state = 'completed', result = '[1]', finished_at = now(), updated_at = now()
		where id = $1::text::uuid and state = 'running' returning seq) delete from task_live l using done where l.seq = done.seq`
	fail = `with done as (update task set state = 'failed', error = '{"reason":"r"}', finished_at = now(), updated_at = now()
		where id = $1::text::uuid and state = 'running' returning seq) delete from task_live l using done where l.seq = done.seq`
	requeue = `update task set state = 'waiting', started_at = null, executor = null, incarnation = null, attempt = attempt - 1, updated_at = now()
		where id = $1::text::uuid and state = 'running'`
)

// dispatch stores a waiting task and returns its id.
func (w *world) dispatch(t *testing.T) string {
	t.Helper()
	return w.send(t, newSpec("test.noop")).GetId()
}

// inState stores a task and leads it to a state.
func (w *world) inState(t *testing.T, state task.State) string {
	t.Helper()
	id := w.dispatch(t)
	steps := map[task.State][]string{
		task.Waiting: nil, task.Running: {claim}, task.Completed: {claim, complete}, task.Failed: {claim, fail},
	}
	switch state {
	case task.Waiting, task.Running, task.Completed, task.Failed:
		for _, step := range steps[state] {
			pgtest.Must(t, w, 1, step, id)
		}
	case task.Canceled:
		w.cancel(t, id)
	case task.Canceling:
		pgtest.Must(t, w, 1, claim, id)
		w.cancel(t, id)
	case task.Skipped:
		pgtest.Must(t, w, 1, `with s as (update task set state = 'skipped', finished_at = now() where id = $1::text::uuid returning seq)
			delete from task_live l using s where l.seq = s.seq`, id)
	}
	return id
}

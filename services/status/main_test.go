package status_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/status"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const unknownID = "01234567-89ab-7def-8123-456789abcdef"

// leader is a scheduler that is followed: the first message when somebody follows, then what the test says.
type leader struct {
	schedulerv1.UnimplementedSchedulerServiceServer

	changes   chan string // ids
	latencies atomic.Pointer[[]*schedulerv1.LatencyRow]
	leads     atomic.Bool
	depose    chan struct{}
	load      atomic.Pointer[schedulerv1.GetLoadResponse] // nil: an older one, who can't say
}

func newLeader(leads bool) *leader {
	l := &leader{changes: make(chan string), depose: make(chan struct{})}
	l.leads.Store(leads)
	return l
}

// Follow streams the ids that the test sends.
func (l *leader) Follow(_ *schedulerv1.FollowRequest, stream grpc.ServerStreamingServer[schedulerv1.FollowResponse]) error {
	if !l.leads.Load() {
		return errors.New("another one leads")
	}
	if err := stream.Send(&schedulerv1.FollowResponse{}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-l.depose:
			return errors.New("deposed")
		case id := <-l.changes:
			if err := stream.Send(&schedulerv1.FollowResponse{Changes: []*schedulerv1.Change{{TaskId: id}}}); err != nil {
				return err
			}
		}
	}
}

// counting is a store that counts looks.
type counting struct {
	*status.Store
	looks atomic.Int64
}

// States counts.
func (c *counting) States(ctx context.Context, ids []string) (map[string]task.State, error) {
	found, err := c.Store.States(ctx, ids)
	c.looks.Add(1)
	return found, err
}

// world is a status service on a database of the test's own, between a client and a leader, with gRPC on both sides.
type world struct {
	postgres.Querier

	url     string
	store   *counting
	service *status.Service
	client  statusv1.StatusServiceClient
	leader  *leader
	// stop ends the service's loop, as the process does before it stops its server.
	stop func()
}

// never is longer than any test: what happens in a test did not happen by a periodic look.
const never = time.Hour

// newWorld starts a service that follows a leader and never looks by itself.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := worldWith(t, pgtest.URL(t), status.Config{Version: "v1.2.3", LookEvery: never, LookAlone: never}, newLeader(true))
	probe.Eventually(t, "the leader is followed", w.service.Following)
	return w
}

func worldWith(t *testing.T, url string, cfg status.Config, l *leader) *world {
	t.Helper()
	pool := pgtest.Open(t, url)
	toLeader, _ := rpctest.Serve(t, func(s grpc.ServiceRegistrar) { schedulerv1.RegisterSchedulerServiceServer(s, l) })
	store := &counting{Store: status.NewStore(pool)}
	service := status.New(cfg, store, schedulerv1.NewSchedulerServiceClient(toLeader), quiet())
	conn, _ := rpctest.Serve(t, service.Register)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return &world{
		Querier: pool, url: url, store: store, service: service, client: statusv1.NewStatusServiceClient(conn), leader: l, stop: stop,
	}
}

// row is a task to store; what is empty has a default.
type row struct {
	name, state, correlation, group, parent, result string
	exclusive, shared                               []string
}

const insertRow = `
	with new as (
		insert into task (id, domain_id, name, state, correlation_id, group_id, parent_id, exclusive, shared, result, error,
		                  unblocked_at, started_at, finished_at, executor, incarnation, claim)
		select gen_random_uuid(), '` + task.DefaultDomainID + `', coalesce(nullif($1, ''), 'n'), s.state, $3,
		       nullif($4, '')::uuid, nullif($5, '')::uuid, coalesce($6::text[], '{}'), coalesce($7::text[], '{}'),
		       case when s.state = 'completed' then nullif($8, '')::json end,
		       case when s.state in ('failed', 'canceled') then '{"reason":"r"}'::json end,
		       case when s.state <> 'waiting' then now() end, case when s.state <> 'waiting' then now() end,
		       case when s.final then now() end, case when s.state <> 'waiting' then 'e1' end,
		       case when s.state <> 'waiting' then '` + unknownID + `'::uuid end, case when s.state = 'waiting' then 0 else 1 end
		from (select st as state, st in ('completed', 'failed', 'canceled', 'skipped') as final
		      from coalesce(nullif($2::text, ''), 'waiting') st) s
		returning seq, id, finished_at
	), live as (
		insert into task_live (seq, task_id) select seq, id from new where finished_at is null
	)
	select id::text from new`

func (w *world) add(t *testing.T, r row) string {
	t.Helper()
	return pgtest.One[string](t, w, insertRow, r.name, r.state, r.correlation, r.group, r.parent, r.exclusive, r.shared, r.result)
}

// What the scheduler does to a task.
const (
	claim = `update task set state = 'running', unblocked_at = coalesce(unblocked_at, clock_timestamp()), started_at = clock_timestamp(), executor = 'e1',
		incarnation = '` + unknownID + `', claim = claim + 1, attempt = attempt + 1, updated_at = clock_timestamp()
		where id = $1::text::uuid and state = 'waiting'`
	unblock  = `update task set unblocked_at = clock_timestamp(), updated_at = clock_timestamp() where id = $1::text::uuid and state = 'waiting'`
	complete = `with done as (update task set state = 'completed', result = '[1]', finished_at = clock_timestamp(), updated_at = clock_timestamp()
		where id = $1::text::uuid and state = 'running' returning seq) delete from task_live l using done where l.seq = done.seq`
)

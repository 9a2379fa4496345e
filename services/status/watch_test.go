package status_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/status"
)

// costing is a store that counts what watching and waiting cost.
type costing struct {
	*status.Store
	looks, judged, lived atomic.Int64
	widest               atomic.Int64 // the most filters that were judged at a time
}

// Look counts.
func (c *costing) Look(ctx context.Context, look status.Look) (*status.Sight, error) {
	found, err := c.Store.Look(ctx, look)
	c.looks.Add(1)
	return found, err
}

// Living counts.
func (c *costing) Living(ctx context.Context, seqs []int64) (map[int64]bool, error) {
	found, err := c.Store.Living(ctx, seqs)
	c.lived.Add(1)
	return found, err
}

// Judge counts.
func (c *costing) Judge(ctx context.Context, ids []string, filters []*statusv1.Filter) ([]status.Judged, []string, error) {
	c.judged.Add(1)
	for {
		before := c.widest.Load()
		if int64(len(filters)) <= before || c.widest.CompareAndSwap(before, int64(len(filters))) {
			break
		}
	}
	return c.Store.Judge(ctx, ids, filters)
}

// yard is a status service in which tasks are watched.
type yard struct {
	*world
	costs *costing
}

// often is how often tests look that rely on it.
const often = 10 * time.Millisecond

// newYard starts a service that looks as often as it is told.
func newYard(t *testing.T, every time.Duration, l *leader, adjust ...func(*status.Config, *status.Service)) *yard {
	t.Helper()
	return yardOn(t, pgtest.URL(t), every, l, adjust...)
}

func yardOn(t *testing.T, url string, every time.Duration, l *leader, adjust ...func(*status.Config, *status.Service)) *yard {
	t.Helper()
	pool := pgtest.Open(t, url)
	toLeader, _ := rpctest.Serve(t, func(s grpc.ServiceRegistrar) { schedulerv1.RegisterSchedulerServiceServer(s, l) })
	costs := &costing{Store: status.NewStore(pool)}
	cfg := status.Config{LookEvery: every, LookAlone: every, Watch: status.WatchTimes{Sign: never, Linger: never, Spread: time.Millisecond}}
	for _, f := range adjust {
		f(&cfg, nil)
	}
	service := status.New(cfg, costs, schedulerv1.NewSchedulerServiceClient(toLeader), quiet())
	for _, f := range adjust {
		f(&status.Config{}, service)
	}
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
	w := &world{Querier: pool, url: url, service: service, client: statusv1.NewStatusServiceClient(conn), leader: l, stop: stop}
	if l.leads.Load() {
		probe.Eventually(t, "the leader is followed", service.Following)
	}
	return &yard{world: w, costs: costs}
}

// bounded is an adjustment of a yard.
func bounded(live, changes, bytes int) func(*status.Config, *status.Service) {
	return func(_ *status.Config, s *status.Service) {
		if s != nil {
			s.Bound(live, changes, bytes)
		}
	}
}

// timed is an adjustment of a yard.
func timed(times status.WatchTimes) func(*status.Config, *status.Service) {
	return func(cfg *status.Config, _ *status.Service) { cfg.Watch = times }
}

// watcher is an open watch.
type watcher struct {
	grpc.ServerStreamingClient[statusv1.WatchTasksResponse]
	cancel context.CancelFunc
	first  *statusv1.WatchTasksResponse
}

// begin opens a watch, and returns when it has begun.
func (y *yard) begin(t *testing.T, r *statusv1.WatchTasksRequest) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := y.client.WatchTasks(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{ServerStreamingClient: stream, cancel: cancel}
	w.first = w.next(t)
	return w
}

func (w *watcher) next(t *testing.T) *statusv1.WatchTasksResponse {
	t.Helper()
	answer, err := w.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// sees makes sure that the next change is this one. That a change is told twice is allowed, so what was seen before is passed over.
func (w *watcher) sees(t *testing.T, id string, state taskv1.State) *statusv1.WatchTasksResponse {
	t.Helper()
	for {
		answer := w.next(t)
		switch {
		case answer.GetReset_():
			t.Fatalf("a reset, waiting for %s to be %s", id, state)
		case answer.GetTask().GetId() == id && answer.GetTask().GetState() == state:
			if answer.GetResume() == "" {
				t.Error("a change without a place to go on")
			}
			return answer
		}
	}
}

// Short names of states.
const (
	isWaiting   = taskv1.State_STATE_WAITING
	isRunning   = taskv1.State_STATE_RUNNING
	isCompleted = taskv1.State_STATE_COMPLETED
	isCanceled  = taskv1.State_STATE_CANCELED
)

// cancelWaiting is what the dispatcher does to a task that has not started.
const cancelWaiting = `with hit as (update task set state = 'canceled', error = '{"reason":"r"}', finished_at = clock_timestamp(), updated_at = clock_timestamp()
		where id = $1::text::uuid and state = 'waiting' returning seq, id), gone as (delete from task_live l using hit where l.seq = hit.seq)
	insert into task_cancel (seq, task_id) select seq, id from hit`

func filterOn(field statusv1.TaskField, comparison statusv1.Comparison, values ...string) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{Field: field, Comparison: comparison, Values: values}}}
}

func byName(name string) *statusv1.Filter {
	return filterOn(statusv1.TaskField_TASK_FIELD_NAME, statusv1.Comparison_COMPARISON_EQUAL, name)
}

func byID(ids ...string) *statusv1.Filter {
	return filterOn(statusv1.TaskField_TASK_FIELD_ID, statusv1.Comparison_COMPARISON_IN, ids...)
}

func byState(state string) *statusv1.Filter {
	return filterOn(statusv1.TaskField_TASK_FIELD_STATE, statusv1.Comparison_COMPARISON_EQUAL, state)
}

func TestAWatchTellsWhatTheLeaderTells(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	id := y.add(t, row{})
	w := y.begin(t, &statusv1.WatchTasksRequest{})
	if w.first.GetTask() != nil || w.first.GetReset_() || w.first.GetResume() == "" {
		t.Errorf("it began with %v", w.first)
	}
	pgtest.Must(t, y, 1, claim, id)
	y.leader.changes <- id
	w.sees(t, id, isRunning)
	pgtest.Must(t, y, 1, complete, id)
	y.leader.changes <- id
	if got := w.sees(t, id, isCompleted); got.GetTask().GetResultJson() != "[1]" || got.GetReport() != nil {
		t.Errorf("got %v", got)
	}
	if n := y.costs.looks.Load(); n > 2 { // when it began, and perhaps once more because the leader was found meanwhile
		t.Errorf("%d looks", n)
	}
}

// Dispatches, unblocked tasks and cancels of what the leader has not seen are told by nobody.
func TestAWatchFindsWhatNobodyTells(t *testing.T) {
	for _, leads := range []bool{true, false} {
		t.Run(fmt.Sprintf("a leader is followed: %t", leads), func(t *testing.T) {
			y := newYard(t, often, newLeader(leads))
			old := y.add(t, row{})
			w := y.begin(t, &statusv1.WatchTasksRequest{})
			id := y.add(t, row{})
			w.sees(t, id, isWaiting)
			pgtest.Must(t, y, 1, unblock, id)
			if got := w.sees(t, id, isWaiting); got.GetTask().GetUnblockedAt() == nil {
				t.Error("not told that it is unblocked")
			}
			pgtest.Must(t, y, 1, cancelWaiting, id)
			w.sees(t, id, isCanceled)
			pgtest.Must(t, y, 1, claim, old)
			w.sees(t, old, isRunning)
			pgtest.Must(t, y, 1, complete, old)
			w.sees(t, old, isCompleted)
			// One that comes and goes between two looks.
			w.sees(t, y.add(t, row{state: "failed"}), taskv1.State_STATE_FAILED)
		})
	}
}

// A dispatch takes its number before it is committed, so others with higher ones can be seen before it.
func TestAWatchFindsTasksWhoseNumberIsBelowWhatItHasSeen(t *testing.T) {
	y := newYard(t, often, newLeader(true), bounded(0, 1000, 1<<20)) // no census, which would find it too
	first := y.add(t, row{state: "completed", result: "1"})
	other := pgtest.Begin(t, pgtest.Open(t, y.url))
	late := pgtest.One[string](t, other, insertRow, "late", "", "", "", "", nil, nil, "")
	w := y.begin(t, &statusv1.WatchTasksRequest{Filter: byName("late")})
	all := y.begin(t, &statusv1.WatchTasksRequest{})
	high := y.add(t, row{})
	all.sees(t, high, isWaiting)
	other.Commit(t)
	w.sees(t, late, isWaiting)
	_ = first
}

func TestAWatchGoesOnAcrossATakeover(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	id, ended, canceled := y.add(t, row{}), y.add(t, row{}), y.add(t, row{})
	w := y.begin(t, &statusv1.WatchTasksRequest{})
	y.leader.leads.Store(false)
	y.leader.depose <- struct{}{}
	probe.Eventually(t, "nobody is followed", func() bool { return !y.service.Following() })
	// What happens now is told by nobody, and the next look by itself is in an hour.
	pgtest.Must(t, y, 1, claim, id)
	y.finish(t, ended)
	pgtest.Must(t, y, 1, cancelWaiting, canceled)
	fresh := y.add(t, row{})
	y.leader.leads.Store(true)
	states := map[string]taskv1.State{}
	for len(states) < 4 {
		answer := w.next(t)
		if answer.GetReset_() {
			t.Fatal("a reset")
		}
		if answer.GetTask() != nil {
			states[answer.GetTask().GetId()] = answer.GetTask().GetState()
		}
	}
	if diff := cmp.Diff(map[string]taskv1.State{id: isRunning, ended: isCompleted, canceled: isCanceled, fresh: isWaiting}, states); diff != "" {
		t.Error(diff)
	}
}

// With more tasks than a census compares, nobody can say what changed while no leader was followed.
func TestAWatchBeginsAnewAfterATakeoverWithTooManyTasks(t *testing.T) {
	y := newYard(t, often, newLeader(true), bounded(2, 1000, 1<<20))
	for range 3 {
		y.add(t, row{})
	}
	w := y.begin(t, &statusv1.WatchTasksRequest{Filter: byName("nothing")})
	y.leader.leads.Store(false)
	y.leader.depose <- struct{}{}
	probe.Eventually(t, "nobody is followed", func() bool { return !y.service.Following() })
	y.leader.leads.Store(true)
	if got := w.next(t); !got.GetReset_() || got.GetTask() != nil || got.GetResume() == "" {
		t.Errorf("got %v", got)
	}
	// And from here on it goes on.
	again := y.begin(t, &statusv1.WatchTasksRequest{Filter: byName("it")})
	id := y.add(t, row{name: "it"})
	again.sees(t, id, isWaiting)
}

func TestAWatchThatComesBackMissesNothing(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	ids := make([]string, 5)
	for i := range ids {
		ids[i] = y.add(t, row{})
	}
	w := y.begin(t, &statusv1.WatchTasksRequest{})
	pgtest.Must(t, y, 1, claim, ids[0])
	y.leader.changes <- ids[0]
	place := w.sees(t, ids[0], isRunning).GetResume()
	w.cancel()
	probe.Eventually(t, "nobody watches", func() bool { n, _ := y.service.Watches(); return n == 0 })
	for _, id := range ids[1:] {
		pgtest.Must(t, y, 1, claim, id)
		y.leader.changes <- id
	}
	pgtest.Must(t, y, 1, complete, ids[0])
	y.leader.changes <- ids[0]
	// Also with a filter that nobody had when the changes were read, and asking for what is there, which it has seen.
	probe.Eventually(t, "all is read", func() bool { n, _, _ := y.service.Remembered(); return n == 5 })
	for _, filter := range []*statusv1.Filter{nil, byName("n"), byID(ids...)} {
		w = y.begin(t, &statusv1.WatchTasksRequest{Resume: place, Filter: filter, IncludeCurrent: true})
		if w.first.GetReset_() {
			t.Error("a reset")
		}
		got := map[string]taskv1.State{}
		for len(got) < 5 {
			change := w.next(t).GetTask()
			got[change.GetId()] = change.GetState()
		}
		want := map[string]taskv1.State{ids[0]: isCompleted, ids[1]: isRunning, ids[2]: isRunning, ids[3]: isRunning, ids[4]: isRunning}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestAWatchBeginsAnewWhereItsPlaceIsForgotten(t *testing.T) {
	y := newYard(t, often, newLeader(true), bounded(1000, 10, 1<<20))
	w := y.begin(t, &statusv1.WatchTasksRequest{})
	place := w.sees(t, y.add(t, row{}), isWaiting).GetResume()
	for range 30 {
		w.sees(t, y.add(t, row{}), isWaiting)
	}
	if n, _, places := y.service.Remembered(); n > 10 || places > 21 {
		t.Errorf("%d changes remembered in %d places", n, places)
	}
	for name, token := range map[string]string{
		"forgotten": place, "of another process": "abcdefghijklm.1", "of nobody": "x", "beyond": w.first.GetResume() + "zz", "a point": ".",
	} {
		t.Run(name, func(t *testing.T) {
			again := y.begin(t, &statusv1.WatchTasksRequest{Resume: token, IncludeCurrent: true})
			if !again.first.GetReset_() || again.first.GetResume() != "" {
				t.Errorf("it began with %v", again.first)
			}
			for range 31 {
				if again.next(t).GetTask() == nil {
					t.Fatal("after a reset it tells of what is there, if that was asked for")
				}
			}
			if got := again.next(t); got.GetTask() != nil || got.GetResume() == "" {
				t.Errorf("after it %v", got)
			}
		})
	}
}

func TestAProcessKnowsNothingOfThePlacesOfAnother(t *testing.T) {
	url := pgtest.URL(t)
	a, b := yardOn(t, url, often, newLeader(true)), yardOn(t, url, often, newLeader(true))
	place := a.begin(t, &statusv1.WatchTasksRequest{}).first.GetResume()
	w := b.begin(t, &statusv1.WatchTasksRequest{Resume: place})
	if !w.first.GetReset_() {
		t.Error("no reset")
	}
	w.sees(t, a.add(t, row{}), isWaiting)
}

// Nothing is asked of the database while nobody watches, so nothing is known of that time.
func TestNobodyLooksWhileNobodyWatches(t *testing.T) {
	y := newYard(t, often, newLeader(true), timed(status.WatchTimes{Linger: 50 * time.Millisecond, Sign: never}))
	y.leader.changes <- y.add(t, row{})
	if y.costs.looks.Load() != 0 || y.service.Recording() {
		t.Error("it looked before anybody watched")
	}
	w := y.begin(t, &statusv1.WatchTasksRequest{})
	place := w.sees(t, y.add(t, row{}), isWaiting).GetResume()
	w.cancel()
	probe.Eventually(t, "it looks no more", func() bool { return !y.service.Recording() })
	if n, _, _ := y.service.Remembered(); n != 0 {
		t.Errorf("%d changes remembered", n)
	}
	again := y.begin(t, &statusv1.WatchTasksRequest{Resume: place})
	if !again.first.GetReset_() {
		t.Error("no reset")
	}
	again.sees(t, y.add(t, row{}), isWaiting)
}

// The filter is about a task as it is after a change: of one that no longer matches nothing more is told.
func TestAWatchTellsWhatMatchesNow(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	waiting := y.begin(t, &statusv1.WatchTasksRequest{Filter: byState("waiting")})
	running := y.begin(t, &statusv1.WatchTasksRequest{Filter: byState("running")})
	id, other := y.add(t, row{}), y.add(t, row{name: "other"})
	y.leader.changes <- id
	waiting.sees(t, id, isWaiting)
	pgtest.Must(t, y, 1, claim, id)
	y.leader.changes <- id
	running.sees(t, id, isRunning)
	y.finish(t, other)
	third := y.add(t, row{})
	y.leader.changes <- other
	y.leader.changes <- third
	if got := waiting.next(t).GetTask(); got.GetId() != third {
		t.Errorf("after that one came %v", got)
	}
}

// The first ones are judged for all who have the same filter; the others read for themselves.
func TestWatchesOfManyFiltersAreAllTold(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	const many = status.SharedFilters + 20
	watches := make([]*watcher, many)
	for i := range watches {
		watches[i] = y.begin(t, &statusv1.WatchTasksRequest{Filter: byName(fmt.Sprintf("n%d", i))})
	}
	ids := make([]string, many)
	for i := range ids {
		ids[i] = y.add(t, row{name: fmt.Sprintf("n%d", i)})
		y.leader.changes <- ids[i]
	}
	for i, w := range watches {
		if got := w.next(t); got.GetTask().GetId() != ids[i] {
			t.Errorf("watch %d was told of %v", i, got)
		}
	}
	if widest := y.costs.widest.Load(); widest != status.SharedFilters {
		t.Errorf("%d filters were judged at a time", widest)
	}
}

func TestThereAreOnlySoManyWatches(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	watches := make([]*watcher, status.MaxWatches)
	for i := range watches {
		watches[i] = y.begin(t, &statusv1.WatchTasksRequest{})
	}
	stream, err := y.client.WatchTasks(t.Context(), &statusv1.WatchTasksRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if !errs.Is(err, errs.Overloaded) {
		t.Errorf("one more: %v", err)
	}
	id := y.add(t, row{})
	judged := y.costs.judged.Load()
	y.leader.changes <- id
	for _, w := range watches {
		w.sees(t, id, isWaiting)
	}
	if n := y.costs.judged.Load() - judged; n != 1 {
		t.Errorf("one change was read %d times for all of them", n)
	}
	watches[0].cancel()
	probe.Eventually(t, "there is room", func() bool { n, _ := y.service.Watches(); return n < status.MaxWatches })
	y.begin(t, &statusv1.WatchTasksRequest{})
}

// A watcher that does not read is a place in the log, whatever happens meanwhile.
func TestAWatcherThatDoesNotReadCostsNothingAndSeesTheLatest(t *testing.T) {
	y := newYard(t, never, newLeader(true), bounded(1000, 1000, 1<<20))
	var ids []string
	for range 20 {
		ids = append(ids, y.add(t, row{}))
	}
	slow := y.begin(t, &statusv1.WatchTasksRequest{})
	quick := y.begin(t, &statusv1.WatchTasksRequest{})
	// Forty kibibytes a message fill the window of a stream soon.
	resources := pgtest.One[string](t, y, `select array_agg(i::text || repeat('x', 1000))::text from generate_series(1, 40) i`)
	pgtest.Must(t, y, 20, `update task set exclusive = $1::text[]`, resources)
	const rounds = 10
	for range rounds {
		pgtest.Must(t, y, 20, `update task set updated_at = clock_timestamp()`)
		for _, id := range ids {
			y.leader.changes <- id
			quick.sees(t, id, isWaiting)
		}
	}
	n, bytes, places := y.service.Remembered()
	if n != 20 || bytes > 1<<20 || places > 41 {
		t.Errorf("%d changes remembered, %d bytes, in %d places", n, bytes, places)
	}
	for _, id := range ids {
		y.finish(t, id)
		y.leader.changes <- id
	}
	final, told := map[string]bool{}, 0
	for len(final) < len(ids) {
		change := slow.next(t).GetTask()
		told++
		if change.GetState() == isCompleted {
			final[change.GetId()] = true
		}
	}
	if told >= rounds*20 {
		t.Errorf("the slow one was told of all %d changes", told)
	}
}

func TestAWatchBeginsWithWhatIsThereIfAsked(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	var live []string
	for i := range 250 {
		live = append(live, y.add(t, row{name: []string{"a", "b"}[i%2]}))
		y.add(t, row{name: "a", state: "completed", result: "1"})
	}
	pgtest.Must(t, y, 1, claim, live[7])
	for name, c := range map[string]struct {
		filter *statusv1.Filter
		want   []string
	}{
		"all":            {nil, live},
		"of a name":      {byName("b"), everySecond(live, 1)},
		"of some ids":    {byID(live[3], live[8], unknownID), []string{live[3], live[8]}},
		"of a state":     {byState("running"), []string{live[7]}},
		"nothing":        {byName("c"), nil},
		"of final tasks": {byState("completed"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := y.begin(t, &statusv1.WatchTasksRequest{Filter: c.filter, IncludeCurrent: true})
			if w.first.GetResume() != "" || w.first.GetReset_() {
				t.Errorf("it began with %v", w.first)
			}
			var got []string
			for {
				answer := w.next(t)
				if answer.GetTask() == nil {
					if answer.GetResume() == "" {
						t.Error("no place to go on")
					}
					break
				}
				if answer.GetResume() != "" {
					t.Error("a place to go on before all was told")
				}
				got = append(got, answer.GetTask().GetId())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func everySecond(all []string, from int) (some []string) {
	for i := from; i < len(all); i += 2 {
		some = append(some, all[i])
	}
	return some
}

const report = `insert into task_report (task_id, claim, progress) values ($1::text::uuid, 1, $2::text::json)
	on conflict (task_id) do update set progress = excluded.progress, updated_at = clock_timestamp()`

func TestAWatchTellsOfProgressIfAsked(t *testing.T) {
	y := newYard(t, often, newLeader(true))
	id, other := y.add(t, row{}), y.add(t, row{})
	pgtest.Must(t, y, 2, `update task set state = 'running', unblocked_at = now(), started_at = now(), executor = 'e', incarnation = id, claim = 1, attempt = 1`)
	plain := y.begin(t, &statusv1.WatchTasksRequest{Filter: byID(id)})
	w := y.begin(t, &statusv1.WatchTasksRequest{Filter: byID(id), IncludeReports: true, IncludeCurrent: true})
	if got := w.next(t); got.GetTask().GetId() != id || got.GetReport() != nil {
		t.Errorf("as it is: %v", got)
	}
	w.next(t) // the end of what is there
	pgtest.Must(t, y, 1, report, other, `[{"code":"no","done":1}]`)
	pgtest.Must(t, y, 1, report, id, `[{"code":"p","done":1}]`)
	for done := int64(1); ; {
		got := w.next(t)
		progress := got.GetReport().GetProgress()
		if got.GetTask().GetId() != id || got.GetResume() == "" || len(progress) != 1 || progress[0].GetCode() != "p" {
			t.Fatalf("got %v", got)
		}
		if progress[0].GetDone() < done {
			continue
		}
		if done++; done > 3 {
			break
		}
		pgtest.Must(t, y, 1, report, id, fmt.Sprintf(`[{"code":"p","done":%d}]`, done))
	}
	pgtest.Must(t, y, 1, complete, id)
	if got := w.sees(t, id, isCompleted); len(got.GetReport().GetProgress()) != 1 || got.GetReport().GetProgress()[0].GetState() != isCompleted {
		t.Errorf("got %v", got)
	}
	// Who did not ask is told of the end alone.
	if got := plain.next(t); got.GetTask().GetState() != isCompleted || got.GetReport() != nil {
		t.Errorf("got %v", got)
	}
}

func TestAWatchOfReportsMustNameTheTasks(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprintf("01234567-89ab-7def-8123-%012d", i)
	}
	for _, filter := range []*statusv1.Filter{nil, byName("n"), byID(many...), {Node: &statusv1.Filter_Not{Not: byID(many[0])}}} {
		stream, err := y.client.WatchTasks(t.Context(), &statusv1.WatchTasksRequest{Filter: filter, IncludeReports: true})
		if err == nil {
			_, err = stream.Recv()
		}
		if !errs.Is(err, errs.InvalidInput) {
			t.Errorf("%v: %v", filter, err)
		}
	}
	both := &statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{Filters: []*statusv1.Filter{byName("n"), byID(many[:100]...)}}}}
	y.begin(t, &statusv1.WatchTasksRequest{Filter: both, IncludeReports: true})
}

func TestAWatchGivesSignsOfLife(t *testing.T) {
	y := newYard(t, never, newLeader(true), timed(status.WatchTimes{Sign: time.Millisecond}))
	w := y.begin(t, &statusv1.WatchTasksRequest{})
	for range 3 {
		if got := w.next(t); got.GetTask() != nil || got.GetReset_() || got.GetResume() != w.first.GetResume() {
			t.Errorf("got %v", got)
		}
	}
	// What does not match moves the place, too: who comes back need not go through it again.
	y.leader.changes <- y.add(t, row{})
	other := y.begin(t, &statusv1.WatchTasksRequest{Filter: byName("other")})
	probe.Eventually(t, "the place moves on", func() bool { return other.next(t).GetResume() != w.first.GetResume() })
}

func TestAWatchEndsWithItsCallerAndWithTheService(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	gone := y.begin(t, &statusv1.WatchTasksRequest{})
	stays := y.begin(t, &statusv1.WatchTasksRequest{})
	gone.cancel()
	probe.Eventually(t, "one watch is left", func() bool { n, filters := y.service.Watches(); return n == 1 && filters == 1 })
	y.stop()
	if _, err := stays.Recv(); !errs.Is(err, errs.Stopping) {
		t.Errorf("got %v", err)
	}
}

func TestAWatchOutlivesTheDatabasesAbsence(t *testing.T) {
	y := newYard(t, often, newLeader(true))
	id, ended := y.add(t, row{}), y.add(t, row{})
	w := y.begin(t, &statusv1.WatchTasksRequest{})
	own := y.begin(t, &statusv1.WatchTasksRequest{Filter: byName("n")})
	back := pgtest.Away(t, y.url)
	stream, err := y.client.WatchTasks(t.Context(), &statusv1.WatchTasksRequest{IncludeCurrent: true})
	if err == nil {
		if _, err = stream.Recv(); err == nil {
			_, err = stream.Recv()
		}
	}
	if !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("a watch of what is there: %v", err)
	}
	back()
	y.finish(t, ended)
	pgtest.Must(t, y, 1, claim, id)
	for _, w := range []*watcher{w, own} {
		left := map[string]taskv1.State{ended: isCompleted, id: isRunning}
		for len(left) > 0 {
			if change := w.next(t); change.GetReset_() {
				t.Fatal("a reset")
			} else if left[change.GetTask().GetId()] == change.GetTask().GetState() {
				delete(left, change.GetTask().GetId())
			}
		}
	}
}

// The log against a list of all changes.
func TestTheLogTellsEachTaskOnceOrThatItForgot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 8).Draw(t, "most")
		log := status.NewChangeLog(most, 50)
		type told struct {
			place uint64
			id    string
		}
		var all []told
		versions := map[string]time.Time{}
		clock := time.Unix(0, 0)
		for range rapid.IntRange(0, 60).Draw(t, "changes") {
			id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}).Draw(t, "id")
			before := log.Place()
			if versions[id].IsZero() || rapid.Bool().Draw(t, "another change") {
				clock = clock.Add(time.Second)
				versions[id] = clock
			}
			log.Add(id, versions[id], rapid.IntRange(0, 30).Draw(t, "bytes"))
			if log.Place() != before {
				all = append(all, told{log.Place(), id})
			}
			if log.Bytes() > 50 {
				t.Fatalf("%d bytes", log.Bytes())
			}
			place := rapid.Uint64Range(0, log.Place()).Draw(t, "place")
			var want, got []string
			for i, c := range all {
				again := slices.ContainsFunc(all[i+1:], func(o told) bool { return o.id == c.id })
				if c.place > place && !again {
					want = append(want, c.id)
				}
			}
			var ok bool
			for at := place; ; {
				var some []string
				if some, at, ok = log.After(at, 3); !ok || len(some) == 0 {
					break
				}
				got = append(got, some...)
			}
			if !ok && len(want) <= most && place >= log.Place()-uint64(min(len(all), most)) {
				t.Fatalf("it forgot what is after %d, of %v", place, all)
			}
			if ok && !slices.Equal(want, got) {
				t.Fatalf("after %d of %v: %v, want %v", place, all, got, want)
			}
		}
	})
}

// What was not kept has to be read by each watcher for itself, and takes as much memory then.
func TestOfLargeTasksAFewAreTakenAtATimeAlsoIfTheyAreNotKept(t *testing.T) {
	log := status.NewChangeLog(100, 10)
	for n := range 20 {
		log.Add(fmt.Sprint(n), time.Unix(int64(n), 0), 10)
	}
	if got := log.Bytes(); got > 10 {
		t.Fatalf("%d bytes are kept", got)
	}
	seen := 0
	for at := uint64(0); seen < 20; {
		some, next, ok := log.AfterOf(at, 100, 25)
		if !ok || len(some) == 0 || len(some) > 3 {
			t.Fatalf("after %d: %v, %v", at, some, ok)
		}
		seen, at = seen+len(some), next
	}
}

// Tasks go through their lives while a watcher comes and goes, leaders change and words are lost. It sees each task's end, or is told
// that it may have missed it.
func TestAWatcherThatComesAndGoesSeesEveryEnd(t *testing.T) {
	const tasks = 300
	y := newYard(t, often, newLeader(true), bounded(1000, 25, 64<<10))
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	var started, lived sync.WaitGroup
	ids := make([]string, tasks)
	started.Add(1)
	lived.Go(func() {
		started.Wait()
		for i := range ids {
			ids[i] = y.add(t, row{})
			if i%2 == 0 {
				pgtest.Must(t, y, 1, unblock, ids[i])
			}
			if i >= 10 {
				pgtest.Must(t, y, 1, claim, ids[i-10])
				if i%3 == 0 {
					y.leader.changes <- ids[i-10]
				}
				pgtest.Must(t, y, 1, complete, ids[i-10])
				if i%5 == 0 {
					y.leader.changes <- ids[i-10]
				}
			}
			if i%40 == 39 {
				y.leader.leads.Store(false)
				y.leader.depose <- struct{}{}
				y.leader.leads.Store(true)
			}
			if i%40 == 39 || i%5 == 0 || i%3 == 0 {
				probe.Eventually(t, "a leader is followed", y.service.Following)
			}
		}
		for _, id := range ids[tasks-10:] {
			pgtest.Must(t, y, 1, cancelWaiting, id)
		}
	})
	final, resume, begun := map[string]bool{}, "", false
	resets := 0
	for len(final) < tasks {
		w := y.begin(t, &statusv1.WatchTasksRequest{Resume: resume})
		if !begun {
			begun = true
			started.Done()
		}
		reset := w.first.GetReset_()
		resume = w.first.GetResume()
		for n := random.IntN(60); ; n-- {
			if reset {
				// What a client does: it reads the list again.
				resets++
				for _, id := range pgtest.One[[]string](t, y, `select coalesce(array_agg(id::text), '{}') from task where finished_at is not null`) {
					final[id] = true
				}
			}
			if n <= 0 || len(final) == tasks {
				break
			}
			answer := w.next(t)
			reset, resume = answer.GetReset_(), answer.GetResume()
			if answer.GetTask().GetFinishedAt() != nil {
				final[answer.GetTask().GetId()] = true
			}
		}
		w.cancel()
		if _, err := w.Recv(); err != nil && !errors.Is(err, io.EOF) && grpcstatus.Code(err) != codes.Canceled {
			t.Fatal(err)
		}
	}
	lived.Wait()
	t.Logf("%d resets", resets)
}

var _ postgres.Querier = (*yard)(nil)

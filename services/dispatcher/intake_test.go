package dispatcher_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// gate is a lock that no insert gets past: what is dispatched piles up behind the first.
type gate struct {
	w  *world
	tx pgtest.Tx
}

func (w *world) shut(t *testing.T, url string) *gate {
	t.Helper()
	g := &gate{w: w, tx: pgtest.Begin(t, pgtest.Open(t, url))}
	if _, err := g.tx.Exec(t.Context(), `lock table task in share mode`); err != nil {
		t.Fatal(err)
	}
	return g
}

// shutBehind closes the gate behind a first call: what comes now has to wait for it.
func (w *world) shutBehind(t *testing.T, url string) (g *gate, first *call) {
	t.Helper()
	g = w.shut(t, url)
	first = w.call(t.Context(), newSpec("first"))
	g.reached(t)
	return g, first
}

// reached waits until a transaction waits at the gate.
func (g *gate) reached(t *testing.T) {
	t.Helper()
	probe.Eventually(t, "an insert waits", func() bool { return len(g.waiting(t)) == 1 })
}

// waiting are the server's processes that wait at the gate.
func (g *gate) waiting(t *testing.T) []int {
	t.Helper()
	return pgtest.One[[]int](t, g.w, `select coalesce(array_agg(pid), '{}') from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
}

// queued waits until n calls wait behind that transaction.
func (g *gate) queued(t *testing.T, n int) {
	t.Helper()
	probe.Eventually(t, fmt.Sprint(n, " calls wait"), func() bool { return g.w.service.Waiting() == n })
}

func (g *gate) open(t *testing.T) {
	t.Helper()
	g.tx.Commit(t)
}

// call is a dispatch that is under way.
type call struct {
	tasks []*taskv1.Task
	err   error
	done  chan struct{}
}

// call dispatches in the background: one task by itself, several as a batch.
func (w *world) call(ctx context.Context, specs ...*taskv1.TaskSpec) *call {
	c := &call{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		if len(specs) == 1 {
			var answer *dispatcherv1.DispatchResponse
			answer, c.err = w.client.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: specs[0]})
			c.tasks = []*taskv1.Task{answer.GetTask()}
			return
		}
		c.tasks, c.err = w.tryBatch(ctx, specs...)
	}()
	return c
}

// stored waits for a call that must succeed.
func (c *call) stored(t *testing.T) []*taskv1.Task {
	t.Helper()
	<-c.done
	if c.err != nil {
		t.Fatal(c.err)
	}
	return c.tasks
}

// wait returns how a call ended.
func (c *call) wait() error {
	<-c.done
	return c.err
}

// transactions lists how many tasks each one stored, in their order.
func (w *world) transactions(t *testing.T) []int {
	t.Helper()
	return pgtest.One[[]int](t, w, `select coalesce(array_agg(n order by first), '{}') from (select count(*) as n, min(seq) as first from task_live group by xact) as x`)
}

func TestCallsThatPileUpShareOneTransaction(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	g, first := w.shutBehind(t, url)
	var calls []*call
	for i := range 20 {
		if i%2 == 0 {
			calls = append(calls, w.call(t.Context(), newSpec("alone")))
		} else {
			calls = append(calls, w.call(t.Context(), specs(10)...))
		}
	}
	g.queued(t, len(calls))
	g.open(t)
	first.stored(t)
	for _, c := range calls {
		tasks := c.stored(t)
		for i := 1; i < len(tasks); i++ {
			if tasks[i].GetSeq() <= tasks[i-1].GetSeq() {
				t.Errorf("a batch is out of its order: seq %d after %d", tasks[i].GetSeq(), tasks[i-1].GetSeq())
			}
		}
	}
	if diff := cmp.Diff([]int{1, 110}, w.transactions(t)); diff != "" {
		t.Errorf("tasks by transaction (-want +got):\n%s", diff)
	}
}

func TestACallsMistakeIsNotThatOfTheOthersInItsTransaction(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	g, first := w.shutBehind(t, url)
	good := []*call{w.call(t.Context(), newSpec("a")), w.call(t.Context(), specs(30)...)}
	lostParent, lostGroup := specs(100), newSpec("child")
	lostParent[64].ParentId, lostGroup.GroupId = unknownID, unknownID
	bad := []*call{w.call(t.Context(), lostParent...), w.call(t.Context(), lostGroup)}
	// What nothing but the database refuses.
	refused := make(chan error, 1)
	go func() {
		_, err := w.service.Dispatch(t.Context(), []*dispatcher.New{{Task: task.Task{Name: "n", Deferred: true}, Args: "[", Kwargs: "{}"}})
		refused <- err
	}()
	good = append(good, w.call(t.Context(), newSpec("b")))
	g.queued(t, 6)
	g.open(t)
	first.stored(t)
	for i, want := range []string{"tasks[64].parent_id", "task.group_id"} {
		<-bad[i].done
		if diff := cmp.Diff([]string{want}, broken(t, bad[i].err)); diff != "" {
			t.Error(diff)
		}
	}
	if err := <-refused; err == nil || status.Code(toStatus(err)) != codes.Internal {
		t.Errorf("what the database refuses: %v", err)
	}
	stored := []string{"first"}
	for _, c := range good {
		for _, answer := range c.stored(t) {
			stored = append(stored, answer.GetName())
		}
	}
	names := w.names(t)
	slices.Sort(stored)
	slices.Sort(names)
	if diff := cmp.Diff(stored, names); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestCallThatGivesUpWhileItWaitsIsNotStored(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	g, first := w.shutBehind(t, url)
	ctx, giveUp := context.WithCancel(t.Context())
	gone := []*call{w.call(ctx, newSpec("gone")), w.call(ctx, specs(10)...), w.call(ctx, immediate(false))}
	stays := w.call(t.Context(), newSpec("stays"))
	g.queued(t, 4)
	giveUp()
	for _, c := range gone {
		<-c.done
		if status.Code(c.err) != codes.Canceled {
			t.Errorf("who gave up got %v", c.err)
		}
	}
	g.queued(t, 1)
	g.open(t)
	first.stored(t)
	stays.stored(t)
	if diff := cmp.Diff([]string{"first", "stays"}, w.names(t)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestCallThatGivesUpUnderWayIsStoredOnceAndTakesNoOtherAlong(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	g := w.shut(t, url)
	ctx, giveUp := context.WithCancel(t.Context())
	gone := w.call(ctx, specs(3)...)
	g.reached(t)
	behind := w.call(t.Context(), newSpec("behind"))
	g.queued(t, 1)
	giveUp()
	<-gone.done
	if status.Code(gone.err) != codes.Canceled {
		t.Errorf("who gave up got %v", gone.err)
	}
	g.open(t)
	behind.stored(t) // and so what was before it is decided
	if diff := cmp.Diff([]string{"task 0000", "task 0001", "task 0002", "behind"}, w.names(t)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// Nobody waits for it any more, and it would not wait either: it must not stay behind as a task that does.
func TestImmediateCallThatGivesUpUnderWayIsRejected(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	g := w.shut(t, url)
	ctx, giveUp := context.WithCancel(t.Context())
	gone := w.call(ctx, immediate(true), immediate(false), newSpec("waits"))
	g.reached(t)
	giveUp()
	<-gone.done
	g.open(t)
	probe.Eventually(t, "the one that would not wait is rejected", func() bool {
		return pgtest.One[int](t, w, `select count(*) from task where state = 'canceled' and not deferred`) == 1
	})
	if n := pgtest.One[int](t, w, `select count(*) from task where state = 'waiting' and deferred`); n != 2 {
		t.Errorf("%d of the two others wait", n)
	}
}

func TestCallsTogetherKeepTheBoundsOfATransaction(t *testing.T) {
	large := func() *taskv1.TaskSpec {
		return &taskv1.TaskSpec{Name: "large", ArgsJson: `["` + strings.Repeat("x", 1<<20-4) + `"]`} // the most there can be
	}
	for name, c := range map[string]struct {
		calls [][]*taskv1.TaskSpec
		want  []int
	}{
		// The first waits at the gate, the others behind it.
		"rows":  {[][]*taskv1.TaskSpec{specs(1000), specs(1000), specs(1000), specs(2), specs(998), specs(1)}, []int{1, dispatcher.MaxRows, 1000 + 2 + 998, 1}},
		"bytes": {slices.Repeat([][]*taskv1.TaskSpec{{large(), large(), large()}}, 6), []int{1, dispatcher.MaxBytes>>20 - 1, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.URL(t)
			w := worldOn(t, &leader{}, url, dispatcher.Defaults())
			g, first := w.shutBehind(t, url)
			var calls []*call
			for i, batch := range c.calls {
				calls = append(calls, w.call(t.Context(), batch...))
				g.queued(t, i+1) // so that they stand in this order
			}
			g.open(t)
			first.stored(t)
			for _, call := range calls {
				call.stored(t)
			}
			if diff := cmp.Diff(c.want, w.transactions(t)); diff != "" {
				t.Errorf("tasks by transaction (-want +got):\n%s", diff)
			}
		})
	}
}

// All who share a transaction share its fate when the database goes away, at once: asking again for each would take as many
// times as long.
func TestConnectionLostUnderWayIsSaidToAllThatShareIt(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	g, first := w.shutBehind(t, url)
	var calls []*call
	for range 8 {
		calls = append(calls, w.call(t.Context(), specs(2)...))
	}
	g.queued(t, len(calls))
	end := func() {
		t.Helper()
		g.reached(t)
		if n := pgtest.One[int](t, w, `select count(*) from pg_terminate_backend($1)`, g.waiting(t)[0]); n != 1 {
			t.Fatal("nothing ended")
		}
	}
	end()
	<-first.done
	g.queued(t, 0) // now the others are under way
	end()
	for _, c := range append(calls, first) {
		<-c.done // though the gate is shut
		if !errs.Is(c.err, errs.DatabaseAway) || status.Code(c.err) != codes.Unavailable {
			t.Errorf("got %v", c.err)
		}
	}
	g.open(t)
	w.dispatch(t)
	if n := w.rows(t); n != (rows{Task: 1, Live: 1}) {
		t.Errorf("stored %+v, want only what was dispatched last", n)
	}
}

func TestIntakeOutlivesADatabaseThatIsAway(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	w.dispatch(t)
	back := pgtest.Away(t, url)
	var calls []*call
	for i := range 32 {
		calls = append(calls, w.call(t.Context(), specs(1+i%3)...))
	}
	for _, c := range calls {
		<-c.done
		if !errs.Is(c.err, errs.DatabaseAway) {
			t.Errorf("got %v", c.err)
		}
	}
	back()
	w.batch(t, specs(10)...)
	if n := w.rows(t); n != (rows{Task: 11, Live: 11}) {
		t.Errorf("stored %+v", n)
	}
}

// instant is a database that stores without a moment passing.
type instant struct {
	*dispatcher.Store
	stored atomic.Int64
}

func (d *instant) Insert(_ context.Context, tasks []*dispatcher.New) error {
	d.stored.Add(int64(len(tasks)))
	return nil
}

// In this bubble the clock moves only when everybody waits, and for nothing but the clock: had a dispatch waited for others
// to join it, it would show to the nanosecond.
func TestIdleIntakeAddsNoDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &instant{}
		service := dispatcher.NewService(dispatcher.Defaults(), db, noLeader{}, quiet())
		began := time.Now()
		for range 100 {
			if _, err := service.Dispatch(t.Context(), []*dispatcher.New{{Task: task.Task{Name: "n", Deferred: true}}}); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a hundred dispatches, one after the other, waited %s", waited)
		}
		if n := db.stored.Load(); n != 100 {
			t.Errorf("%d stored", n)
		}
	})
}

// Promise 2 rests on this: of two dispatches, one of which returned before the other was called, the first has the lower
// number, whoever took them.
func TestNumbersKeepTheOrderOfDispatchesAcrossReplicas(t *testing.T) {
	const dispatchers, each = 64, 12
	url := pgtest.URL(t)
	replicas := []*world{worldOn(t, &leader{}, url, dispatcher.Defaults()), worldOn(t, &leader{}, url, dispatcher.Defaults())}
	type span struct {
		called, returned int64 // moments of a clock that ticks with each event
		low, high        int64 // numbers
	}
	var (
		clock atomic.Int64
		mu    sync.Mutex
		spans []span
		ids   = map[string]bool{}
		all   sync.WaitGroup
	)
	for d := range dispatchers {
		all.Go(func() {
			for i := range each {
				w, size := replicas[(d+i)%2], 1
				if (d+i)%3 == 0 {
					size = 1 + i
				}
				s := span{called: clock.Add(1)}
				c := w.call(t.Context(), specs(size)...)
				<-c.done
				s.returned = clock.Add(1)
				if c.err != nil {
					t.Error(c.err)
					return
				}
				s.low, s.high = c.tasks[0].GetSeq(), c.tasks[size-1].GetSeq()
				mu.Lock()
				for _, answer := range c.tasks {
					if ids[answer.GetId()] {
						t.Errorf("the id %s was given twice", answer.GetId())
					}
					ids[answer.GetId()] = true
				}
				spans = append(spans, s)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.SortFunc(spans, func(a, b span) int { return int(a.called - b.called) })
	for _, a := range spans {
		for _, b := range spans {
			if a.returned < b.called && a.high >= b.low {
				t.Fatalf("numbers up to %d were returned before a call that got %d", a.high, b.low)
			}
		}
	}
	w := replicas[0]
	if n := w.rows(t); n != (rows{Task: len(ids), Live: len(ids)}) {
		t.Errorf("stored %+v of %d", n, len(ids))
	}
	for _, id := range pgtest.One[[]string](t, w, `select array_agg(t.id::text) from task t join task_live l on l.seq = t.seq and l.task_id = t.id`) {
		if !ids[id] {
			t.Errorf("%s is stored, and was returned to nobody", id)
		}
	}
}

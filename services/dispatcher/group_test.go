package dispatcher_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

func (w *world) newGroup(t *testing.T) string {
	t.Helper()
	answer, err := w.client.CreateTaskGroup(t.Context(), &dispatcherv1.CreateTaskGroupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetGroupId()
}

func (w *world) tryCancelGroup(ctx context.Context, id string) (counts [2]int64, err error) {
	answer, err := w.client.CancelTaskGroup(ctx, &dispatcherv1.CancelTaskGroupRequest{GroupId: id})
	return [2]int64{answer.GetCanceled(), answer.GetCanceling()}, err
}

// cancelGroup returns how many were canceled and how many are canceling.
func (w *world) cancelGroup(t *testing.T, id string) [2]int64 {
	t.Helper()
	counts, err := w.tryCancelGroup(t.Context(), id)
	if err != nil {
		t.Fatalf("cancel a group: %v", err)
	}
	return counts
}

// member makes a member of a group in a state.
func (w *world) member(t *testing.T, group string, state task.State) string {
	t.Helper()
	id := w.inState(t, state)
	pgtest.Must(t, w, 1, `update task set group_id = $2::text::uuid where id = $1::text::uuid`, id, group)
	return id
}

// members makes many that wait, and returns how many there are.
func (w *world) members(t *testing.T, group string, n int) int64 {
	t.Helper()
	pgtest.Must(t, w, int64(n), `
		with new as (
			insert into task (id, domain_id, name, group_id) select gen_random_uuid(), '`+task.DefaultDomainID+`', 'n', $1::text::uuid
			from generate_series(1, $2::integer) returning seq, id)
		insert into task_live (seq, task_id) select seq, id from new`, group, n)
	return int64(n)
}

// memberStates counts the members of a group by state.
func (w *world) memberStates(t *testing.T, group string) map[string]int64 {
	t.Helper()
	return pgtest.One[map[string]int64](t, w, `select coalesce(json_object_agg(state, count), '{}') from
		(select state, count(*) from task where group_id = $1::text::uuid group by state) c`, group)
}

func TestCancelOfAGroupReachesAllItsMembers(t *testing.T) {
	w := newWorld(t, &leader{})
	group, other := w.newGroup(t), w.newGroup(t)
	ids := map[task.State]string{}
	for _, state := range task.States() {
		ids[state] = w.member(t, group, state)
	}
	second, stranger, single := w.member(t, group, task.Waiting), w.member(t, other, task.Waiting), w.dispatch(t)
	pgtest.One[int](t, w, `with gone as (delete from task_cancel returning 1) select count(*) from gone`)
	ended := map[task.State]*task.Task{}
	for _, state := range []task.State{task.Completed, task.Failed, task.Skipped, task.Canceled, task.Canceling} {
		ended[state] = w.stored(t, ids[state])
	}
	hints := w.leader.hinted()

	if got := w.cancelGroup(t, group); got != [2]int64{2, 2} {
		t.Errorf("canceled and canceling: %v", got)
	}
	for _, id := range []string{ids[task.Waiting], second} {
		stored := w.stored(t, id)
		if stored.State != task.Canceled || !cmp.Equal(stored.Error, &task.Error{Reason: task.ReasonCanceled}) || stored.FinishedAt == nil || w.living(t, id) {
			t.Errorf("a waiting one: %+v, living %v", stored, w.living(t, id))
		}
	}
	if stored := w.stored(t, ids[task.Running]); stored.State != task.Canceling || stored.FinishedAt != nil || !w.living(t, ids[task.Running]) {
		t.Errorf("the running one: %+v", stored)
	}
	for state, before := range ended {
		if diff := cmp.Diff(before, w.stored(t, ids[state])); diff != "" {
			t.Errorf("the %s one changed: %s", state, diff)
		}
	}
	for _, id := range []string{stranger, single} {
		if stored := w.stored(t, id); stored.State != task.Waiting || !w.living(t, id) {
			t.Errorf("who is no member: %+v", stored)
		}
	}
	want := []string{ids[task.Waiting], ids[task.Running], second}
	got := w.wishes(t)
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("wishes: %s", diff)
	}
	probe.Eventually(t, "the leader is hinted", func() bool { return w.leader.hinted() > hints })

	// Again: the two that had stopped already are not counted.
	before := w.stored(t, ids[task.Running])
	if got := w.cancelGroup(t, group); got != [2]int64{0, 2} {
		t.Errorf("again: %v", got)
	}
	if diff := cmp.Diff(before, w.stored(t, ids[task.Running])); diff != "" {
		t.Errorf("again: %s", diff)
	}
	if _, err := w.tryCancelGroup(t.Context(), unknownID); !errs.Is(err, errs.GroupNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
	if got := w.cancelGroup(t, w.newGroup(t)); got != [2]int64{} {
		t.Errorf("an empty one: %v", got)
	}
}

func TestCancelOfALargeGroup(t *testing.T) {
	w := newWorld(t, &leader{})
	group := w.newGroup(t)
	n := w.members(t, group, 12_345)
	running := w.member(t, group, task.Running)
	if got := w.cancelGroup(t, group); got != [2]int64{n, 1} {
		t.Errorf("canceled and canceling: %v", got)
	}
	if diff := cmp.Diff(map[string]int64{"canceled": n, "canceling": 1}, w.memberStates(t, group)); diff != "" {
		t.Error(diff)
	}
	if wishes := pgtest.One[int64](t, w, `select count(*) from task_cancel`); wishes != n+1 {
		t.Errorf("%d wishes", wishes)
	}
	if live := pgtest.One[int64](t, w, `select count(*) from task_live`); live != 1 || !w.living(t, running) {
		t.Errorf("%d are alive", live)
	}
}

// A tick holds rows in an order of its own. Whoever waits for one while it holds others could wait for ever.
func TestCancelOfAGroupDoesNotWaitForATickWhileItHoldsMembers(t *testing.T) {
	for name, c := range map[string]struct {
		change   string
		rollback bool
		want     [2]int64
	}{
		"claimed meanwhile": {change: claim, want: [2]int64{9, 1}},
		"claim undone":      {change: claim, rollback: true, want: [2]int64{10, 0}},
		"canceled meanwhile": {
			change: `with hit as (update task set state = 'canceled', finished_at = now(), error = '{}' where id = $1::text::uuid returning seq)
				delete from task_live l using hit where l.seq = hit.seq`,
			want: [2]int64{9, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.URL(t)
			w := worldOn(t, &leader{}, url, dispatcher.Defaults())
			group := w.newGroup(t)
			w.members(t, group, 10)
			id := pgtest.One[string](t, w, `select id::text from task where group_id = $1::text::uuid order by seq offset 4 limit 1`, group)
			tick := pgtest.Begin(t, pgtest.Open(t, url))
			pgtest.Must(t, tick, 1, c.change, id)

			var got [2]int64
			var err error
			done := make(chan struct{})
			go func() {
				defer close(done)
				got, err = w.tryCancelGroup(t.Context(), group)
			}()
			probe.Eventually(t, "the others are canceled", func() bool { return w.memberStates(t, group)["canceled"] == 9 })
			// The rows of the others are free: what the tick does next waits for nobody.
			if free := pgtest.One[int](t, tick, `select count(*) from (select from task where group_id = $1::text::uuid for update nowait) f`, group); free != 10 {
				t.Errorf("%d members are free", free)
			}
			if c.rollback {
				tick.Rollback(t)
			} else {
				tick.Commit(t)
			}
			<-done
			if err != nil || got != c.want {
				t.Errorf("canceled and canceling: %v, %v; want %v", got, err, c.want)
			}
			if wishes := int64(len(w.wishes(t))); wishes != c.want[0]+c.want[1] {
				t.Errorf("%d wishes", wishes)
			}
		})
	}
}

func TestCancelsOfAGroupAmongTicksNeverDeadlock(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	ticks := pgtest.Open(t, url)
	for range 5 {
		group := w.newGroup(t)
		n := w.members(t, group, 400)
		ids := pgtest.One[[]string](t, w, `select array_agg(id::text) from task where group_id = $1::text::uuid`, group)
		var all sync.WaitGroup
		for range 2 {
			rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			order := slices.Clone(ids)
			all.Go(func() {
				// One statement locks one after the other, as a tick does. There is one leader, so two ticks are never at work.
				if _, err := ticks.Exec(t.Context(), `
					with tick as materialized (select pg_advisory_xact_lock(1))
					update task t set state = 'running', unblocked_at = now(), started_at = now(), executor = 'e1',
						incarnation = gen_random_uuid(), claim = 1, attempt = 1
					from tick, unnest($1::text[]) as o (id)
					where t.id = o.id::uuid and t.state = 'waiting'`, order); err != nil {
					t.Errorf("a tick: %v", err)
				}
			})
			all.Go(func() {
				if _, err := w.tryCancelGroup(t.Context(), group); err != nil {
					t.Errorf("a cancel: %v", err)
				}
			})
		}
		all.Wait()
		if got := w.memberStates(t, group); got["canceled"]+got["canceling"] != n {
			t.Errorf("they are %v", got)
		}
	}
}

// Statements inside functions don't show in plans.
func TestCancelOfAGroupFindsItsMembersWithoutSearchingTheTasks(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	group := w.newGroup(t)
	w.members(t, w.newGroup(t), 8000)
	w.members(t, group, 100)
	for _, sql := range []string{`insert into task_cancel (seq, task_id) select -n, gen_random_uuid() from generate_series(1, 8000) n`, `analyze`} {
		if _, err := w.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	tx := pgtest.Begin(t, pgtest.Open(t, url))
	searches := func() int {
		return pgtest.One[int](t, tx, `select sum(pg_stat_get_xact_numscans(name::regclass)) from unnest(array['task', 'task_live', 'task_cancel']) name`)
	}
	before := searches()
	if n := pgtest.One[int](t, tx, `
		select count(*) from dispatcher_cancel(array(select seq from task where group_id = $1::text::uuid), '{}')`, group); n != 100 {
		t.Errorf("%d are canceled", n)
	}
	if n := searches() - before; n != 0 {
		t.Errorf("it searches a table %d times", n)
	}
	tx.Rollback(t)
}

package dispatcher_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/wire"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// aged stores tasks that were created and ended so many hours ago; a negative end means that it has none.
func (w *world) aged(t *testing.T, state task.State, created, ended int) string {
	t.Helper()
	id := w.inState(t, state)
	pgtest.Must(t, w, 1, `update task set created_at = now() - $2::integer * interval '1 h',
		finished_at = case when finished_at is not null then now() - $3::integer * interval '1 h' end where id = $1::text::uuid`, id, created, ended)
	return id
}

// purge purges what ended so many hours ago, a page at a time, and returns what was removed.
func (w *world) purge(t *testing.T, hours, page int, states ...taskv1.State) map[task.State]int64 {
	t.Helper()
	gone := map[task.State]int64{}
	request := &dispatcherv1.PurgeTasksRequest{
		FinishedBefore: timestamppb.New(time.Now().Add(-time.Duration(hours) * time.Hour)), States: states, PageSize: int32(page),
	}
	for {
		answer, err := w.client.PurgeTasks(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range answer.GetDeleted() {
			gone[wire.FromState(n.GetState())] += n.GetCount()
		}
		if request.PageToken = answer.GetNextPageToken(); request.GetPageToken() == "" {
			return gone
		}
	}
}

// left lists the tasks that are there, in the order of dispatch.
func (w *world) left(t *testing.T) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `select coalesce(array_agg(id::text order by seq), '{}') from task`)
}

func TestPurgeRemovesWhatEndedBeforeTheTimeAndNothingElse(t *testing.T) {
	for _, page := range []int{1, 2, 3, 0} {
		t.Run(fmt.Sprint("pages of ", page), func(t *testing.T) {
			w := newWorld(t, &leader{})
			var stays []string
			keep := func(id string) { stays = append(stays, id) }
			for _, state := range []task.State{task.Waiting, task.Running, task.Canceling} {
				keep(w.aged(t, state, 100, -1)) // however old
			}
			w.aged(t, task.Completed, 100, 90)
			w.aged(t, task.Failed, 100, 90)
			keep(w.aged(t, task.Completed, 100, 10)) // it ran for long
			w.aged(t, task.Canceled, 60, 55)
			w.aged(t, task.Skipped, 60, 55)
			w.aged(t, task.Completed, 51, 51)
			keep(w.aged(t, task.Completed, 49, 49))
			keep(w.aged(t, task.Failed, 1, 0))
			gone := w.purge(t, 50, page)
			want := map[task.State]int64{task.Completed: 2, task.Failed: 1, task.Canceled: 1, task.Skipped: 1}
			if diff := cmp.Diff(want, gone); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(stays, w.left(t)); diff != "" {
				t.Errorf("what stays (-want +got):\n%s", diff)
			}
			if gone := w.purge(t, 50, page); len(gone) != 0 {
				t.Errorf("the second time %v were removed", gone)
			}
			if gone := w.purge(t, 0, page, taskv1.State_STATE_FAILED); len(gone) != 1 || gone[task.Failed] != 1 {
				t.Errorf("of the failed ones %v were removed", gone)
			}
		})
	}
}

// What was dispatched after the time can't have ended before it: the purge of a small past does not read the whole present.
func TestPurgeEndsWhereTasksAreYoungerThanItsTime(t *testing.T) {
	w := newWorld(t, &leader{})
	w.aged(t, task.Completed, 10, 9)
	for range 5 {
		w.aged(t, task.Completed, 1, 0)
	}
	request := &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.New(time.Now().Add(-5 * time.Hour)), PageSize: 2}
	answer, err := w.client.PurgeTasks(t.Context(), request)
	if err != nil || len(answer.GetDeleted()) != 1 || answer.GetNextPageToken() != "" {
		t.Errorf("got %v, %v", answer, err)
	}
}

func TestPurgeTakesLogsReportsAttemptsAndFilesAlong(t *testing.T) {
	w := newWorld(t, &leader{})
	file, err := w.tryPut(t.Context(), "f", []byte("x"), 1)
	if err != nil {
		t.Fatal(err)
	}
	spec := newSpec("n")
	spec.FileIds, spec.RequestId = []string{file.GetId()}, "id"
	id := w.send(t, spec).GetId()
	w.cancel(t, id)
	for _, sql := range []string{
		`insert into task_log (task_id, claim, text) values ($1::text::uuid, 1, 'l')`,
		`insert into task_report (task_id, claim) values ($1::text::uuid, 1)`,
		`insert into task_attempt (task_id, attempt, claim, executor, started_at, error) values ($1::text::uuid, 1, 1, 'e', now(), '{}')`,
		`update task set finished_at = now() - interval '2 h', created_at = now() - interval '3 h' where id = $1::text::uuid`,
	} {
		pgtest.Must(t, w, 1, sql, id)
	}
	if gone := w.purge(t, 1, 0); gone[task.Canceled] != 1 {
		t.Errorf("removed %v", gone)
	}
	for _, table := range []string{"task", "task_log", "task_report", "task_attempt", "task_file", "task_not_completed"} {
		if n := pgtest.One[int](t, w, `select count(*) from `+table); n != 0 {
			t.Errorf("%d rows are left in %s", n, table)
		}
	}
	if got := w.send(t, requested("other", "id")); got.GetId() == id {
		t.Error("the request id is still known")
	}
}

func TestPurgeLeavesParentsOfLiveTasksAndCutsTheLinkToTheOthers(t *testing.T) {
	w := newWorld(t, &leader{})
	child := func(parent string) string {
		spec := newSpec("child")
		spec.ParentId = parent
		return w.send(t, spec).GetId()
	}
	busy, done := w.dispatch(t), w.dispatch(t)
	live, ended := child(busy), child(done)
	for _, id := range []string{busy, done, ended} {
		w.cancel(t, id)
	}
	pgtest.Must(t, w, 4, `update task set created_at = now() - interval '9 h'`)
	pgtest.Must(t, w, 2, `update task set finished_at = now() - interval '5 h' where id in ($1::text::uuid, $2::text::uuid)`, busy, done)
	if gone := w.purge(t, 2, 0); gone[task.Canceled] != 1 {
		t.Errorf("removed %v", gone)
	}
	if diff := cmp.Diff([]string{busy, live, ended}, w.left(t)); diff != "" {
		t.Errorf("what stays (-want +got):\n%s", diff)
	}
	if got := w.stored(t, ended).ParentID; got != "" {
		t.Errorf("the parent that is gone is named %q", got)
	}
}

// A child that is being dispatched can't be seen yet. Its parent must not vanish below it, nor may the purge wait for it: it is
// passed over.
func TestPurgePassesOverAParentThatIsJustGettingAChild(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	parent, other := w.aged(t, task.Completed, 9, 8), w.aged(t, task.Completed, 9, 8)
	tx := pgtest.Begin(t, pgtest.Open(t, url))
	if _, err := tx.Exec(t.Context(), `insert into task (id, domain_id, name, parent_id) values (gen_random_uuid(), '`+task.DefaultDomainID+`', 'child', $1::text::uuid)`, parent); err != nil {
		t.Fatal(err)
	}
	if gone := w.purge(t, 1, 0); gone[task.Completed] != 1 {
		t.Errorf("removed %v", gone)
	}
	if left := w.left(t); !slices.Equal(left, []string{parent}) {
		t.Errorf("%v are left, want the parent; the other was %s", left, other)
	}
	tx.Commit(t)
	if gone := w.purge(t, 1, 0); len(gone) != 0 {
		t.Errorf("with its child not finished %v were removed", gone)
	}
}

// Of those that purge at the same time each removes a part, and none waits for another, or is in the way of dispatches.
func TestDispatchersThatPurgeAtTheSameTimeShareTheWork(t *testing.T) {
	const tasks = 3000
	url := pgtest.URL(t)
	one, other := worldOn(t, &leader{}, url, dispatcher.Defaults()), worldOn(t, &leader{}, url, dispatcher.Defaults())
	history(t, one, tasks)
	var all sync.WaitGroup
	counts := make([]map[task.State]int64, 4)
	for i := range counts {
		all.Go(func() { counts[i] = []*world{one, other}[i%2].purge(t, 1, 50) })
	}
	all.Go(func() {
		for range 20 {
			if _, err := one.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: newSpec("meanwhile")}); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	var sum int64
	for _, gone := range counts {
		sum += gone[task.Completed]
	}
	if left := int64(one.rows(t).Task - 20); sum+left != tasks {
		t.Errorf("%d were counted as removed of %d, and %d are left", sum, tasks, left)
	}
	// What was locked by one and not removed by the other goes the next time.
	one.purge(t, 1, 50)
	if n := one.rows(t); n != (rows{Task: 20, Live: 20}) {
		t.Errorf("in the end there are %+v", n)
	}
	if n := pgtest.One[int](t, one, `select deadlocks from pg_stat_database where datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// A task, its child and its grandchild: who deletes changes the generation below, and another one who deletes that may wait for
// something here. PostgreSQL undoes one of the two, and nobody is to notice.
func TestPurgeThatMeetsAnotherDeletionOfAFamilyIsTriedAgain(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	family := make([]string, 3)
	for i := range family {
		family[i] = w.aged(t, task.Completed, 9, 8)
	}
	for i, parent := range family[:2] {
		pgtest.Must(t, w, 1, `update task set parent_id = $2::text::uuid where id = $1::text::uuid`, family[i+1], parent)
	}
	stranger := pgtest.Begin(t, pgtest.Open(t, url))
	for _, sql := range []string{
		`set local deadlock_timeout = '1min'`, // so that the other one is undone, but
		`set local statement_timeout = '3s'`,  // not as often as it tries
		`select from task where id = '` + family[2] + `' for update`,
	} {
		if _, err := stranger.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	request := &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.New(time.Now().Add(-time.Hour))}
	ended := make(chan error, 1)
	go func() {
		_, err := w.client.PurgeTasks(t.Context(), request)
		ended <- err
	}()
	probe.Eventually(t, "the purge waits for the grandchild", func() bool {
		return pgtest.One[int](t, w, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1
	})
	_, _ = stranger.Exec(t.Context(), `select from task where id = '`+family[0]+`' for update`) // it gets it, or the purge is quicker again
	stranger.Rollback(t)
	if err := <-ended; err != nil {
		t.Errorf("the purge returned %v", err)
	}
	w.purge(t, 1, 0) // what was passed over meanwhile
	if left := w.left(t); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
	if n := pgtest.One[int](t, w, `select deadlocks from pg_stat_database where datname = current_database()`); n == 0 {
		t.Error("no deadlock: this proves nothing")
	}
}

// history stores completed tasks that ended some hours ago, some with a log.
func history(t *testing.T, db postgres.Querier, n int) {
	t.Helper()
	pgtest.Must(t, db, int64(n), `insert into task (id, domain_id, name, state, created_at, started_at, unblocked_at, finished_at, claim, attempt, result)
		select gen_random_uuid(), '`+task.DefaultDomainID+`', 'n', 'completed', now() - interval '5 h', now() - interval '4 h', now() - interval '4 h', now() - interval '3 h', 1, 1, '1'
		from generate_series(1, $1::integer)`, n)
	if _, err := db.Exec(t.Context(), `insert into task_log (task_id, claim, text) select id, 1, repeat('l', 200) from task where seq % 3 = 0 on conflict do nothing`); err != nil {
		t.Fatal(err)
	}
}

func TestPurgeRefusesWhatIsNoPageOfIt(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, token := range []string{"x", "-1", "1.5", "99999999999999999999"} {
		_, err := w.client.PurgeTasks(t.Context(), &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.Now(), PageToken: token})
		if diff := cmp.Diff([]string{"page_token"}, broken(t, err)); diff != "" {
			t.Errorf("%q: %s", token, diff)
		}
	}
	_, err := w.client.PurgeTasks(t.Context(), &dispatcherv1.PurgeTasksRequest{
		States: []taskv1.State{taskv1.State_STATE_COMPLETED, taskv1.State_STATE_RUNNING}, PageSize: 10_001,
	})
	if diff := cmp.Diff([]string{"finished_before", "states[1]", "page_size"}, broken(t, err)); diff != "" {
		t.Error(diff)
	}
	answer, err := w.client.PurgeTasks(t.Context(), &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.Now(), PageToken: fmt.Sprint(math.MaxInt64)})
	if err != nil || answer.GetNextPageToken() != "" {
		t.Errorf("at the end: %v, %v", answer, err)
	}
}

func TestDispatcherRemovesTasksThatAreKeptLongEnough(t *testing.T) {
	w := worldOn(t, &leader{}, pgtest.URL(t), dispatcher.Config{KeepTasks: time.Hour})
	history(t, w, 1700)
	stays := []string{w.aged(t, task.Waiting, 100, -1), w.aged(t, task.Completed, 100, 0)}
	removed, err := w.service.Retain(t.Context())
	if err != nil || removed != 1700 {
		t.Errorf("removed %d, %v", removed, err)
	}
	if diff := cmp.Diff(stays, w.left(t)); diff != "" {
		t.Errorf("what stays (-want +got):\n%s", diff)
	}
}

func TestDispatcherGoesOnRemovingAfterTheDatabaseWasAway(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Config{KeepTasks: time.Hour})
	history(t, w, 600)
	back := pgtest.Away(t, url)
	if removed, err := w.service.Retain(t.Context()); !errs.Is(err, errs.DatabaseAway) || removed != 0 {
		t.Errorf("removed %d, %v", removed, err)
	}
	back()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := w.service.Retain(ctx); err == nil {
		t.Error("it goes on though it is to stop")
	}
	if removed, err := w.service.Retain(t.Context()); err != nil || removed != 600 {
		t.Errorf("removed %d, %v", removed, err)
	}
}

// Sizes settle: however many tasks came and went, tables and indexes are as large as what is kept, and some room to breathe.
// Vacuum is called where autovacuum would come by.
func TestSizesReachASteadyStateUnderDispatchFinishAndPurge(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of tasks")
	}
	const cycle, cycles = 1500, 12
	w := newWorld(t, &leader{})
	sizes := func() map[string]int64 {
		all := map[string]int64{}
		rows, err := w.Query(t.Context(), `select relname::text, pg_relation_size(oid) from pg_class where relname ~ '^task' and relkind in ('r', 'i')`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var size int64
			if err := rows.Scan(&name, &size); err != nil {
				t.Fatal(err)
			}
			all[name] = size
		}
		return all
	}
	early, late := map[string]int64{}, map[string]int64{} // the largest of the first cycles, and of the last
	for n := range cycles {
		for range cycle / 500 {
			tasks := specs(500)
			for i, spec := range tasks {
				spec.RequestId = fmt.Sprintf("%d %d %d", n, i, time.Now().UnixNano())
			}
			w.batch(t, tasks...)
		}
		// Each goes through its life, in batches as ticks make them; what came before the last cycle is purged.
		seqs := pgtest.One[[]int64](t, w, `select array_agg(seq order by seq) from task_live`)
		for group := range slices.Chunk(seqs, 100) {
			for _, step := range life {
				pgtest.Must(t, w, int64(len(group)), step.sql, group)
			}
			pgtest.Must(t, w, int64(len(group)), `delete from task_live where seq = any($1::bigint[])`, group)
		}
		if _, err := w.Exec(t.Context(), `insert into task_log (task_id, claim, text) select id, 1, repeat('l', 500) from task where seq % 5 = 0 on conflict do nothing`); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Exec(t.Context(), `update task set created_at = created_at - interval '1 h', finished_at = finished_at - interval '1 h'`); err != nil {
			t.Fatal(err)
		}
		w.purge(t, 2, 500)
		for _, table := range []string{"task", "task_live", "task_log", "task_report", "task_cancel"} {
			if _, err := w.Exec(t.Context(), `vacuum `+table); err != nil {
				t.Fatal(err)
			}
		}
		half := early
		if n >= cycles/2 {
			half = late
		}
		for name, size := range sizes() {
			half[name] = max(half[name], size)
		}
	}
	if n := w.rows(t).Task; n > 2*cycle {
		t.Errorf("%d tasks are left", n)
	}
	for name, size := range late {
		// Two pages are noise.
		if before := early[name]; size > before+before/10+2*8192 {
			t.Errorf("%s grew from %d to %d bytes from %d cycles to the next", name, before, size, cycles/2)
		}
	}
	t.Logf("sizes: %v", late)
}

// The loop begins by itself, and not where tasks are kept for ever.
func TestTasksAreKeptForEverUnlessItIsSaid(t *testing.T) {
	if keep := dispatcher.Defaults().KeepTasks; keep != 0 {
		t.Errorf("tasks are kept for %s", keep)
	}
	url := pgtest.URL(t)
	history(t, pgtest.Open(t, url), 10)
	w := worldOn(t, &leader{}, url, dispatcher.Config{KeepTasks: time.Hour, RetainEvery: time.Millisecond})
	probe.Eventually(t, "old tasks are gone", func() bool { return w.rows(t).Task == 0 })
}

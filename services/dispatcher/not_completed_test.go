package dispatcher_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// inStep says how task_not_completed differs from the tasks that ended otherwise than completed.
func (w *world) inStep(t *testing.T) string {
	t.Helper()
	const all = `select coalesce(array_agg(state || ' ' || created_at || ' ' || seq || ' ' || name order by seq), '{}') from `
	want := pgtest.One[[]string](t, w, all+`task where state in ('failed', 'canceled', 'skipped')`)
	return cmp.Diff(want, pgtest.One[[]string](t, w, all+`task_not_completed`))
}

// Lists of the failed begin in a table of their own: whatever ends a task, and by which statement, it must be there, and when the
// task is gone, it must not.
func TestTasksThatEndOtherwiseThanCompletedAreKeptTrackOf(t *testing.T) {
	w := newWorld(t, &leader{})
	one := func(t *testing.T, sql string, args ...any) { t.Helper(); pgtest.Must(t, w, 1, sql, args...) }
	running := func(t *testing.T) string { t.Helper(); return w.inState(t, task.Running) }
	const seq = `(select seq from task where id = $1::text::uuid)`
	finish := `select from scheduler_finish(array[` + seq + `], array[1::bigint], array[$2], array[null], array[$3], '{"reason":"c"}')`
	for way, end := range map[string]func(t *testing.T) (id string, ended task.State){
		"completed": func(t *testing.T) (string, task.State) {
			id := running(t)
			one(t, finish, id, "completed", nil)
			return id, ""
		},
		"failed": func(t *testing.T) (string, task.State) {
			id := running(t)
			one(t, finish, id, "failed", `{"reason":"r"}`)
			return id, task.Failed
		},
		"canceled while it ran": func(t *testing.T) (string, task.State) {
			id := w.inState(t, task.Canceling)
			one(t, finish, id, "completed", nil)
			return id, task.Canceled
		},
		"canceled before it began": func(t *testing.T) (string, task.State) {
			id := w.inState(t, task.Canceling)
			one(t, `select from scheduler_requeue(array[`+seq+`], array[1::bigint], '{"reason":"c"}')`, id)
			return id, task.Canceled
		},
		"canceled while it waited": func(t *testing.T) (string, task.State) {
			return w.inState(t, task.Canceled), task.Canceled
		},
		"would not wait": func(t *testing.T) (string, task.State) {
			id := w.dispatch(t)
			if rejected, err := dispatcher.NewStore(w.Querier.(*pgxpool.Pool)).Reject(t.Context(), id); err != nil || !rejected {
				t.Fatal(rejected, err)
			}
			return id, task.Canceled
		},
		"skipped": func(t *testing.T) (string, task.State) { return w.inState(t, task.Skipped), task.Skipped },
		"given back": func(t *testing.T) (string, task.State) {
			id := running(t)
			one(t, `select from scheduler_requeue(array[`+seq+`], array[1::bigint], '{"reason":"c"}')`, id)
			return id, ""
		},
	} {
		t.Run(way, func(t *testing.T) {
			id, ended := end(t)
			got := pgtest.One[string](t, w, `select coalesce((select n.state from task_not_completed n join task t using (seq) where t.id = $1::text::uuid), '')`, id)
			if got != string(ended) {
				t.Errorf("it is kept as %q, want %q", got, ended)
			}
			if diff := w.inStep(t); diff != "" {
				t.Error(diff)
			}
		})
	}
	gone := w.inState(t, task.Failed)
	if _, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: gone}); err != nil {
		t.Fatal(err)
	}
	if diff := w.inStep(t); diff != "" {
		t.Errorf("after a deletion: %s", diff)
	}
	if _, err := w.Exec(t.Context(), `select from dispatcher_purge(now() + interval '1 h', array['completed', 'failed', 'canceled', 'skipped'], 0, 1000)`); err != nil {
		t.Fatal(err)
	}
	if left := pgtest.One[int](t, w, `select count(*) from task_not_completed`); left != 0 {
		t.Errorf("after a purge %d are left", left)
	}
}

// Nobody writes like this, but who repairs a database by hand does.
func TestWhatIsKeptTrackOfFollowsAnyChange(t *testing.T) {
	w := newWorld(t, &leader{})
	for n := range 60 {
		state := task.States()[n%len(task.States())]
		w.inState(t, state)
	}
	for range 200 {
		sql := fmt.Sprintf([]string{
			`update task set state = 'failed', error = '{}', started_at = now(), result = null where state in ('completed', 'canceled') and seq %% 7 = %d`,
			`update task set state = 'completed', error = null, started_at = now() where state in ('failed', 'canceled', 'skipped') and seq %% 7 = %d`,
			`update task set state = 'canceled', error = '{}', result = null where state in ('completed', 'failed', 'skipped') and seq %% 7 = %d`,
			`update task set created_at = created_at - interval '1 s' where seq %% 7 = %d`,
			`update task set updated_at = now() where seq %% 7 = %d`,
			`update task set name = name || 'x' where seq %% 7 = %d`,
			`delete from task where seq %% 50 = %d`,
		}[rand.IntN(7)], rand.IntN(7))
		if _, err := w.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if diff := w.inStep(t); diff != "" {
			t.Fatalf("after %s: %s", sql, diff)
		}
	}
}

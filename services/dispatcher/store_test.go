package dispatcher_test

import (
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// fill stores many tasks: a long history and a few thousand that are not final.
func fill(t *testing.T, db postgres.Querier) {
	t.Helper()
	for _, sql := range []string{
		`insert into task (id, domain_id, name, state, started_at, finished_at, result)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', 'completed', now(), now(), '1' from generate_series(1, 20000)`,
		`insert into task (id, domain_id, name) select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n' from generate_series(1, 3000)`,
		`insert into task_live (seq, task_id) select seq, id from task where state = 'waiting'`,
		`insert into temporary_file (id, name, state, size, sha256) select gen_random_uuid(), 'n', 'complete', 1, '' from generate_series(1, 5000)`,
		`insert into temporary_file_part (file_id, part, data) select id, 0, 'x' from temporary_file`,
		`insert into task_file (file_id, task_id) select f.id, t.id from (select id, row_number() over () from temporary_file) f
		 join (select id, row_number() over () from task) t using (row_number)`,
		`analyze task`, `analyze task_live`, `analyze task_cancel`,
		`analyze temporary_file`, `analyze temporary_file_part`, `analyze task_file`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func TestNoStatementSearchesATable(t *testing.T) {
	url := pgtest.URL(t)
	pool, r := pgtest.Record(t, url)
	db := pgtest.Open(t, url)
	fill(t, db)
	id := pgtest.One[string](t, db, `select id::text from task where state = 'waiting' order by seq limit 1 offset 1500`)
	ended := pgtest.One[string](t, db, `select id::text from task where state = 'completed' order by seq limit 1 offset 1500`)
	parent := pgtest.One[string](t, db, `select id::text from task where state = 'waiting' order by seq limit 1`)
	file := pgtest.One[string](t, db, `select id::text from temporary_file limit 1 offset 1500`)
	store := dispatcher.NewStore(pool)
	r.Take()
	fresh := func() []*dispatcher.New {
		return []*dispatcher.New{{
			Task:     task.Task{ID: unknownID, Name: "n", Deferred: true, ParentID: parent, Reserved: task.Reserve(nil, nil, task.DefaultDomainID)},
			DomainID: task.DefaultDomainID, Args: "[]", Kwargs: "{}",
		}}
	}
	statements := map[string]int{"missing": 2, "drop a file": 2} // one otherwise
	for name, call := range map[string]func() error{
		"insert": func() error { return store.Insert(t.Context(), fresh()) },
		"missing": func() error {
			tasks := fresh()
			tasks[0].GroupID = parent // which is no group
			parents, groups, err := store.Missing(t.Context(), tasks)
			if len(parents) != 0 || !groups[0] {
				t.Errorf("missing: %v and %v", parents, groups)
			}
			return err
		},
		"cancel": func() error { _, _, err := store.Cancel(t.Context(), id); return err },
		"reject": func() error { _, err := store.Reject(t.Context(), parent); return err },
		"get":    func() error { _, err := store.Get(t.Context(), id); return err },
		"delete": func() error { _, err := store.Delete(t.Context(), ended); return err },
		"missing files": func() error {
			tasks := fresh()
			tasks[0].Options.Files = []string{file, unknownID}
			missing, err := store.MissingFiles(t.Context(), tasks)
			if len(missing[0]) != 1 {
				t.Errorf("missing files: %v", missing)
			}
			return err
		},
		"use a file":      func() error { _, err := store.UseFile(t.Context(), file); return err },
		"read a part":     func() error { _, err := store.Part(t.Context(), file, 0); return err },
		"add a part":      func() error { _, err := store.AddPart(t.Context(), file, 1, nil); return err },
		"complete a file": func() error { _, err := store.CompleteFile(t.Context(), &dispatcher.File{ID: file}, 1); return err },
		"drop a file":     func() error { return store.DropFile(t.Context(), file) },
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sent := r.Take()
		if want := max(statements[name], 1); len(sent) != want {
			t.Errorf("%s sends %d statements, want %d", name, len(sent), want)
		}
		for _, s := range sent {
			reads := pgtest.Plan(t, db, s)
			t.Logf("%s: %v", name, reads)
			if len(reads) == 0 && name != "insert" {
				t.Errorf("%s reads nothing: the plan was not understood", name)
			}
			for _, read := range reads {
				if strings.HasPrefix(read, "Seq Scan") {
					t.Errorf("%s: %v", name, reads)
				}
			}
		}
	}
}

// Deleting a task looks for its children and its log by foreign key: those lookups are not in the plan, but in its triggers.
func TestForeignKeysToATaskHaveAnIndex(t *testing.T) {
	db := pgtest.New(t)
	missing := pgtest.One[[]string](t, db, `
		select coalesce(array_agg(c.conname), '{}') from pg_constraint c
		where c.contype = 'f' and c.confrelid in ('task'::regclass, 'task_group'::regclass)
		  and not exists (select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1])`)
	if len(missing) != 0 {
		t.Errorf("no index for %v", missing)
	}
}

func TestDispatcherSaysThatTheDatabaseIsAwayAndGoesOnWhenItIsBack(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	id := w.dispatch(t)
	back := pgtest.Away(t, url)
	for name, call := range map[string]func() error{
		"dispatch": func() error {
			_, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: newSpec("n")})
			return err
		},
		"cancel": func() error { _, err := w.tryCancel(t.Context(), id); return err },
		"delete": func() error {
			_, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: id})
			return err
		},
		"group": func() error {
			_, err := w.client.CreateTaskGroup(t.Context(), &dispatcherv1.CreateTaskGroupRequest{})
			return err
		},
		"cancel a group": func() error { _, err := w.tryCancelGroup(t.Context(), id); return err },
		"put a file":     func() error { _, err := w.tryPut(t.Context(), "n", []byte("x"), 1); return err },
		"get a file":     func() error { _, _, err := w.tryGet(t.Context(), id); return err },
		"delete a file": func() error {
			_, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: id})
			return err
		},
	} {
		err := call()
		if !errs.Is(err, errs.DatabaseAway) {
			t.Errorf("%s: %v", name, err)
		} else if got := err.Error(); got != "the database can't be reached" {
			t.Errorf("%s: the client sees %q", name, got)
		}
	}
	back()
	w.cancel(t, id)
	w.dispatch(t)
}

// A file that many have had is looked for among its tasks, with its row locked, and not among all there are. Statements inside
// functions don't show in the plans above.
func TestUsesOfAFileAreFoundWithoutSearchingTheTasks(t *testing.T) {
	db := pgtest.New(t)
	for _, sql := range []string{
		`insert into temporary_file (id, name, state, size, sha256, used_at)
		 select gen_random_uuid(), 'f', 'complete', 1, 'x', now() - interval '1 day' from generate_series(1, 20)`,
		`insert into task (id, domain_id, name, state, unblocked_at, started_at, finished_at, executor, incarnation, claim, attempt, result)
		 select gen_random_uuid(), gen_random_uuid(), 'n', 'completed', now(), now(), now(), 'e', gen_random_uuid(), 1, 1, 'null' from generate_series(1, 8000)`,
		`insert into task_file (file_id, task_id) select f.id, t.id from task t join (select id, row_number() over () - 1 n from temporary_file) f on f.n = t.seq % 20`,
		`analyze`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for name, call := range map[string]string{
		"remove": `select count(dispatcher_remove_file(id::text)) from (select id from temporary_file limit 3) f`,
		"sweep":  `select count(*) from dispatcher_sweep_files(interval '1 h', interval '1 h', 10)`,
	} {
		tx := pgtest.Begin(t, db)
		searches := func() int {
			return pgtest.One[int](t, tx, `select sum(pg_stat_get_xact_numscans(name::regclass)) from unnest(array['task', 'task_file']) name`)
		}
		before := searches()
		if n := pgtest.One[int](t, tx, call); n == 0 {
			t.Errorf("%s: no file is removed", name)
		}
		if n := searches() - before; n != 0 {
			t.Errorf("%s searches a table %d times", name, n)
		}
		tx.Rollback(t)
	}
}

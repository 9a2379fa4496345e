package dispatcher_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// columns of a row as SQL.
type columns map[string]string

// with is the row changed.
func (c columns) with(change columns) columns {
	changed := maps.Clone(c)
	maps.Copy(changed, change)
	return changed
}

// insert stores a row.
func (c columns) insert(t *testing.T, db postgres.Querier, table string) error {
	t.Helper()
	names := slices.Sorted(maps.Keys(c))
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = c[name]
	}
	_, err := db.Exec(t.Context(), fmt.Sprintf(`insert into %s (%s) values (%s)`,
		table, strings.Join(names, ", "), strings.Join(values, ", ")))
	return err
}

// legal is a row in each state as the services write it.
func legal() map[task.State]columns {
	waiting := columns{"id": "gen_random_uuid()", "domain_id": "'" + task.DefaultDomainID + "'", "name": "'n'"}
	running := waiting.with(columns{
		"state": "'running'", "executor": "'e'", "incarnation": "gen_random_uuid()", "unblocked_at": "now()", "started_at": "now()",
		"claim": "1", "attempt": "1",
	})
	end := func(state, result, cause string) columns {
		return running.with(columns{"state": state, "finished_at": "now()", "result": result, "error": cause})
	}
	return map[task.State]columns{
		task.Waiting:   waiting,
		task.Running:   running,
		task.Canceling: running.with(columns{"state": "'canceling'"}),
		task.Completed: end("'completed'", "'null'", "null"),
		task.Failed:    end("'failed'", "null", "'{}'"),
		task.Canceled:  end("'canceled'", "null", "'{}'"),
		task.Skipped:   end("'skipped'", "null", "null"),
	}
}

func TestLegalRowsOfEveryStateAreStorable(t *testing.T) {
	db := pgtest.New(t)
	for state, row := range legal() {
		if err := row.insert(t, db, "task"); err != nil {
			t.Errorf("%s: %v", state, err)
		}
	}
	for name, row := range map[string]columns{
		"unblocked":               legal()[task.Waiting].with(columns{"unblocked_at": "now()"}),
		"put back":                legal()[task.Waiting].with(columns{"unblocked_at": "now()", "claim": "4"}),
		"canceled, never started": legal()[task.Waiting].with(columns{"state": "'canceled'", "finished_at": "now()", "error": "'{}'"}),
		"immediate only":          legal()[task.Waiting].with(columns{"immediate": "true", "deferred": "false"}),
		"completed with nothing":  legal()[task.Completed].with(columns{"result": "null"}),
	} {
		if err := row.insert(t, db, "task"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIllegalRowsAreRefusedByTheConstraintMeantForThem(t *testing.T) {
	db := pgtest.New(t)
	app := columns{"incarnation": "gen_random_uuid()", "name": "'w'", "kind": "'worker'", "ttl": "interval '10 s'"}
	if err := app.insert(t, db, "app"); err != nil {
		t.Fatal(err)
	}
	rows := legal()
	if err := rows[task.Waiting].with(columns{"id": "'" + unknownID + "'"}).insert(t, db, "task"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		table      string
		row        columns
		constraint string
	}{
		{"an eighth state", "task", rows[task.Waiting].with(columns{"state": "'paused'"}), "task_fits"},
		{"no name", "task", rows[task.Waiting].with(columns{"name": "''"}), "task_fits"},
		{"an empty request id", "task", rows[task.Waiting].with(columns{"request_id": "''"}), "task_fits"},
		{"skipped, with a result", "task", rows[task.Skipped].with(columns{"result": "'1'"}), "task_fits"},
		{"skipped, with an error", "task", rows[task.Skipped].with(columns{"error": "'{}'"}), "task_fits"},
		{"neither immediate nor deferred", "task", rows[task.Waiting].with(columns{"deferred": "false"}), "task_fits"},
		{"same id twice", "task", rows[task.Waiting].with(columns{"id": "'" + unknownID + "'"}), "task_pkey"},
		{"parent that is not there", "task", rows[task.Waiting].with(columns{"parent_id": "gen_random_uuid()"}), "task_parent_id_fkey"},
		{"group that is not there", "task", rows[task.Waiting].with(columns{"group_id": "gen_random_uuid()"}), "task_group_id_fkey"},

		{"waiting, with an end", "task", rows[task.Waiting].with(columns{"finished_at": "now()"}), "task_fits"},
		{"running, with an end", "task", rows[task.Running].with(columns{"finished_at": "now()"}), "task_fits"},
		{"canceling, with an end", "task", rows[task.Canceling].with(columns{"finished_at": "now()"}), "task_fits"},
		{"completed, without an end", "task", rows[task.Completed].with(columns{"finished_at": "null"}), "task_fits"},
		{"failed, without an end", "task", rows[task.Failed].with(columns{"finished_at": "null"}), "task_fits"},
		{"canceled, without an end", "task", rows[task.Canceled].with(columns{"finished_at": "null"}), "task_fits"},
		{"skipped, without an end", "task", rows[task.Skipped].with(columns{"finished_at": "null"}), "task_fits"},

		{"running, by nobody", "task", rows[task.Running].with(columns{"executor": "null"}), "task_fits"},
		{"running, in no life", "task", rows[task.Running].with(columns{"incarnation": "null"}), "task_fits"},
		{"running, not started", "task", rows[task.Running].with(columns{"started_at": "null"}), "task_fits"},
		{"running, blocked", "task", rows[task.Running].with(columns{"unblocked_at": "null"}), "task_fits"},
		{"running, without a claim", "task", rows[task.Running].with(columns{"claim": "0"}), "task_fits"},
		{"canceling, by nobody", "task", rows[task.Canceling].with(columns{"executor": "null"}), "task_fits"},
		{"canceling, without a claim", "task", rows[task.Canceling].with(columns{"claim": "0"}), "task_fits"},

		{"waiting, started", "task", rows[task.Waiting].with(columns{"started_at": "now()"}), "task_fits"},
		{"waiting, with an executor", "task", rows[task.Waiting].with(columns{"executor": "'e'"}), "task_fits"},
		{"waiting, with a life", "task", rows[task.Waiting].with(columns{"incarnation": "gen_random_uuid()"}), "task_fits"},
		{"waiting, with an error", "task", rows[task.Waiting].with(columns{"error": "'{}'"}), "task_fits"},
		{"waiting, with a result", "task", rows[task.Waiting].with(columns{"result": "'1'"}), "task_fits"},

		{"running, with a result", "task", rows[task.Running].with(columns{"result": "'1'"}), "task_fits"},
		{"failed, with a result", "task", rows[task.Failed].with(columns{"result": "'1'"}), "task_fits"},
		{"canceled, with a result", "task", rows[task.Canceled].with(columns{"result": "'1'"}), "task_fits"},
		{"running, with an error", "task", rows[task.Running].with(columns{"error": "'{}'"}), "task_fits"},
		{"completed, with an error", "task", rows[task.Completed].with(columns{"error": "'{}'"}), "task_fits"},
		{"failed, without an error", "task", rows[task.Failed].with(columns{"error": "null"}), "task_fits"},
		{"canceled, without an error", "task", rows[task.Canceled].with(columns{"error": "null"}), "task_fits"},

		{"completed, never started", "task", rows[task.Completed].with(columns{"started_at": "null"}), "task_fits"},
		{"failed, never started", "task", rows[task.Failed].with(columns{"started_at": "null"}), "task_fits"},
		{"a claim below none", "task", rows[task.Completed].with(columns{"claim": "-1"}), "task_fits"},
		{"an attempt below none", "task", rows[task.Completed].with(columns{"attempt": "-1"}), "task_fits"},

		{"log of no task", "task_log", columns{"task_id": "gen_random_uuid()", "claim": "1", "text": "''"}, "task_log_task_id_fkey"},
		{"group of no domain", "task_group", columns{"id": "gen_random_uuid()", "domain_id": "gen_random_uuid()"}, "task_group_domain_id_fkey"},
		{"app without a name", "app", app.with(columns{"name": "''"}), "app_name_check"},
		{"app of another kind", "app", app.with(columns{"name": "'x'", "kind": "'cook'"}), "app_kind_check"},
		{"app that may not be silent at all", "app", app.with(columns{"name": "'x'", "ttl": "interval '0'"}), "app_ttl_check"},
		{"second life of a living app", "app", app, "app_living"},
		{"domain without a name", "domain", columns{"id": "gen_random_uuid()", "name": "''"}, "domain_name_check"},
		{"second domain of a name", "domain", columns{"id": "gen_random_uuid()", "name": "'default'"}, "domain_name_key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.row.insert(t, db, c.table)
			if got := postgres.Constraint(err); got == "" || !slices.Contains(strings.Fields(c.constraint), got) {
				t.Errorf("got %v, want a violation of %s", err, c.constraint)
			}
		})
	}
}

// An update that changes a column of an index writes to every index of the table, and can't reuse the room of a dead row.
func TestNoIndexOfTaskNamesAColumnThatATransitionChanges(t *testing.T) {
	db := pgtest.New(t)
	// Keys, included columns, and those in expressions and predicates.
	named := pgtest.One[[]string](t, db, `
		select coalesce(array_agg(distinct a.attname::text order by a.attname::text), '{}')
		from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum > 0
		where i.indrelid = 'task'::regclass
		  and (a.attnum = any(i.indkey)
		       or exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
		                  and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid and d.refobjsubid = a.attnum))`)
	if diff := cmp.Diff([]string{"correlation_id", "created_at", "domain_id", "group_id", "id", "name", "parent_id", "request_id", "seq"}, named); diff != "" {
		t.Errorf("indexes of task name other columns than those that never change: %s", diff)
	}
}

// The life of a task, as the services write it: each step in a transaction of its own.
var life = []struct{ name, sql string }{
	{"unblock", `update task set unblocked_at = now(), updated_at = now() where seq = any($1::bigint[]) and state = 'waiting'`},
	{"claim", `update task set state = 'running', started_at = now(), executor = 'executor-1', incarnation = '` + unknownID + `',
		claim = claim + 1, attempt = attempt + 1, updated_at = now() where seq = any($1::bigint[]) and state = 'waiting'`},
	{"finish", `update task set state = 'completed', result = '{"exit_code": 0}', finished_at = now(), updated_at = now()
		where seq = any($1::bigint[]) and state = 'running'`},
}

// hot runs the life of tasks in batches and returns which share of the updates was HOT.
func hot(t *testing.T, url string, tasks, batch int) float64 {
	t.Helper()
	db := pgtest.Open(t, url)
	seqs := pgtest.One[[]int64](t, db, `
		with new as (
			insert into task (id, domain_id, name, args, kwargs, exclusive, shared, correlation_id)
			select gen_random_uuid(), '`+task.DefaultDomainID+`', 'command.run', '[]', '{"argv":["true"]}',
			       array['prn:file.repository:' || gen_random_uuid()], array['`+domain+`'], gen_random_uuid()::text
			from generate_series(1, $1) returning seq
		) select array_agg(seq order by seq) from new`, tasks)
	var updates, hots int64
	for group := range slices.Chunk(seqs, batch) {
		for _, step := range life {
			tx := pgtest.Begin(t, db)
			all, hot := counted(t, tx)
			pgtest.Must(t, tx, int64(len(group)), step.sql, group)
			allAfter, hotAfter := counted(t, tx)
			updates, hots = updates+allAfter-all, hots+hotAfter-hot
			tx.Commit(t)
		}
	}
	if want := int64(tasks * len(life)); updates != want {
		t.Fatalf("%d updates, want %d", updates, want)
	}
	return float64(hots) / float64(updates)
}

// counted reads what this session has counted and not yet published, which it does between transactions. The statistics of
// the whole table come later.
func counted(t *testing.T, tx pgtest.Tx) (updates, hot int64) {
	t.Helper()
	err := tx.QueryRow(t.Context(), `select n_tup_upd, n_tup_hot_upd from pg_stat_xact_user_tables where relname = 'task'`).Scan(&updates, &hot)
	if err != nil {
		t.Fatal(err)
	}
	return updates, hot
}

func TestUpdatesOfTheLifeCycleAreHOT(t *testing.T) {
	// As in a system that keeps up: every page has room for some new versions, and dead ones are pruned on the way.
	for batch, least := range map[int]float64{1: 0.95, 10: 0.8} {
		share := hot(t, pgtest.URL(t), 300, batch)
		t.Logf("batches of %d neighbours: %.1f %%", batch, 100*share)
		if share < least {
			t.Errorf("batches of %d neighbours: %.0f %% of the updates are HOT", batch, 100*share)
		}
	}
}

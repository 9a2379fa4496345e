package dispatcher_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// transaction is one of another process, for a test to end when it likes.
type transaction struct{ pgx.Tx }

func begin(t *testing.T, url string) transaction {
	t.Helper()
	return beginOn(t, pgtest.Open(t, url))
}

func beginOn(t *testing.T, db postgres.Beginner) transaction {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), pgx.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Also when the test fails before it ends: the pool could not be closed.
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return transaction{tx}
}

func (x transaction) commit(t *testing.T) {
	t.Helper()
	if err := x.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (x transaction) rollback(t *testing.T) {
	t.Helper()
	if err := x.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// recorder keeps the statements that a store sends.
type recorder struct {
	mu         sync.Mutex
	statements []statement
}

type statement struct {
	sql  string
	args []any
}

// TraceQueryStart keeps a statement.
func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statements = append(r.statements, statement{d.SQL, d.Args})
	return ctx
}

// TraceQueryEnd has nothing to do.
func (*recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns what was sent since the last take.
func (r *recorder) take() []statement {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.statements
	r.statements = nil
	return taken
}

// plan is what EXPLAIN says: the nodes of a plan that read tables, as "Index Scan using task_pkey on task".
func plan(t *testing.T, db postgres.Querier, s statement) (reads []string) {
	t.Helper()
	var text []byte
	if err := db.QueryRow(t.Context(), "explain (format json) "+s.sql, s.args...).Scan(&text); err != nil {
		t.Fatalf("explain %s: %v", s.sql, err)
	}
	type node struct {
		Type  string `json:"Node Type"`
		Table string `json:"Relation Name"`
		Index string `json:"Index Name"`
		Plans []node
	}
	var plans []struct{ Plan node }
	if err := json.Unmarshal(text, &plans); err != nil {
		t.Fatal(err)
	}
	var walk func(n node)
	walk = func(n node) {
		if strings.Contains(n.Type, "Scan") && (n.Table != "" || n.Index != "") {
			reads = append(reads, strings.TrimSpace(n.Type+" "+n.Index))
		}
		for _, below := range n.Plans {
			walk(below)
		}
	}
	walk(plans[0].Plan)
	return reads
}

// fill stores many tasks: a long history and a few thousand that are not final.
func fill(t *testing.T, db postgres.Querier) {
	t.Helper()
	for _, sql := range []string{
		`insert into task (id, domain_id, name, state, started_at, finished_at, result)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', 'completed', now(), now(), '1' from generate_series(1, 20000)`,
		`insert into task (id, domain_id, name) select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n' from generate_series(1, 3000)`,
		`insert into task_live (seq, task_id) select seq, id from task where state = 'waiting'`,
		`analyze task`, `analyze task_live`, `analyze task_cancel`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func TestNoStatementSearchesATable(t *testing.T) {
	url := pgtest.URL(t)
	r := &recorder{}
	pool, err := postgres.Open(t.Context(), url, postgres.Options{Tracer: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := pgtest.Open(t, url)
	fill(t, db)
	id := one[string](t, db, `select id::text from task where state = 'waiting' order by seq limit 1 offset 1500`)
	ended := one[string](t, db, `select id::text from task where state = 'completed' order by seq limit 1 offset 1500`)
	parent := one[string](t, db, `select id::text from task where state = 'waiting' order by seq limit 1`)
	store := dispatcher.NewStore(pool)
	r.take()
	for name, call := range map[string]func() error{
		"insert": func() error {
			return store.Insert(t.Context(), &dispatcher.New{
				Task:     task.Task{ID: unknownID, Name: "n", Deferred: true, ParentID: parent, Reserved: task.Reserve(nil, nil, task.DefaultDomainID)},
				DomainID: task.DefaultDomainID, Args: "[]", Kwargs: "{}",
			})
		},
		"cancel": func() error { _, _, err := store.Cancel(t.Context(), id); return err },
		"reject": func() error { _, err := store.Reject(t.Context(), parent); return err },
		"get":    func() error { _, err := store.Get(t.Context(), id); return err },
		"delete": func() error { _, err := store.Delete(t.Context(), ended); return err },
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sent := r.take()
		if len(sent) != 1 {
			t.Errorf("%s sends %d statements, want one", name, len(sent))
		}
		for _, s := range sent {
			reads := plan(t, db, s)
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
	missing := one[[]string](t, db, `
		select coalesce(array_agg(c.conname), '{}') from pg_constraint c
		where c.contype = 'f' and c.confrelid in ('task'::regclass, 'task_group'::regclass)
		  and not exists (select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1])`)
	if len(missing) != 0 {
		t.Errorf("no index for %v", missing)
	}
}

// away makes a database unreachable, as if it were gone, until back is called.
func away(t *testing.T, url string) (back func()) {
	t.Helper()
	name := one[string](t, pgtest.Open(t, url), `select current_database()`)
	elsewhere := pgtest.Open(t, pgtest.EmptyURL(t))
	rename := func(from, to string) {
		eventually(t, "nobody is connected to "+from, func() bool {
			_, err := elsewhere.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, from)
			if err != nil {
				t.Fatal(err)
			}
			_, err = elsewhere.Exec(context.Background(), "alter database "+from+" rename to "+to)
			return err == nil
		})
	}
	rename(name, name+"_away")
	return sync.OnceFunc(func() { rename(name+"_away", name) })
}

func TestDispatcherSaysThatTheDatabaseIsAwayAndGoesOnWhenItIsBack(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	id := w.dispatch(t)
	back := away(t, url)
	t.Cleanup(back)
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

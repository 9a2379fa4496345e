package status_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// transaction is one of another process, for a test to end when it likes.
type transaction struct{ pgx.Tx }

func begin(t *testing.T, url string) transaction {
	t.Helper()
	tx, err := pgtest.Open(t, url).Begin(t.Context())
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

// TraceBatchStart has nothing to do.
func (*recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery keeps a statement.
func (r *recorder) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, d pgx.TraceBatchQueryData) {
	r.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{SQL: d.SQL, Args: d.Args})
}

// TraceBatchEnd has nothing to do.
func (*recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

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
			reads = append(reads, strings.Join(strings.Fields(n.Type+" "+n.Index+" of "+n.Table), " "))
		}
		for _, below := range n.Plans {
			walk(below)
		}
	}
	walk(plans[0].Plan)
	return reads
}

func TestNoOrdinaryQuestionSearchesTheHistory(t *testing.T) {
	url := pgtest.URL(t)
	r := &recorder{}
	pool, err := postgres.Open(t.Context(), url, postgres.Options{Tracer: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := pgtest.Open(t, url)
	group := one[string](t, db, `insert into task_group (id, domain_id) values (gen_random_uuid(), '`+task.DefaultDomainID+`') returning id::text`)
	parent := one[string](t, db, insertRow, "parent", "completed", "", "", "", nil, nil, "")
	for _, sql := range []string{
		`insert into task (id, domain_id, name, state, started_at, finished_at, result)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', 'completed', now(), now(), '1' from generate_series(1, 20000)`,
		`insert into task (id, domain_id, name, group_id, parent_id)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', '` + group + `', '` + parent + `' from generate_series(1, 50)`,
		`insert into task_live (seq, task_id) select seq, id from task where state = 'waiting'`,
		`insert into task_log (task_id, claim, text) select id, 1, 'x' from task`,
		`analyze task`, `analyze task_live`, `analyze task_log`, `analyze task_group`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	id := one[string](t, db, `select id::text from task order by seq limit 1 offset 10000`)
	store := status.NewStore(pool)
	list := func(f status.Filter, before int64) func() error {
		return func() error { _, _, err := store.List(t.Context(), f, before, 100, 0); return err }
	}
	r.take()
	for name, call := range map[string]func() error{
		"get":                func() error { _, err := store.Get(t.Context(), id); return err },
		"get many":           func() error { _, err := store.GetMany(t.Context(), []string{id, parent, unknownID}); return err },
		"children":           func() error { _, err := store.Children(t.Context(), parent); return err },
		"no children":        func() error { _, err := store.Children(t.Context(), id); return err },
		"group":              func() error { _, err := store.Group(t.Context(), group); return err },
		"log":                func() error { _, err := store.Log(t.Context(), id); return err },
		"put log":            func() error { return store.PutLog(t.Context(), id, 2, status.Log{Text: "x"}) },
		"first page":         list(status.Filter{}, 0),
		"later page":         list(status.Filter{}, 9000),
		"page of the ended":  list(status.Filter{States: []string{"completed"}}, 9000),
		"page of the living": list(status.Filter{States: []string{"waiting", "running"}}, 0),
		"page of a group":    list(status.Filter{GroupID: group}, 0),
		"page of children":   list(status.Filter{ParentID: parent}, 0),
		"count of the living": func() error {
			_, err := store.Count(t.Context(), status.Filter{States: []string{"waiting"}})
			return err
		},
		"count of a group": func() error { _, err := store.Count(t.Context(), status.Filter{GroupID: group}); return err },
		"system":           func() error { _, err := store.System(t.Context()); return err },
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sent := r.take()
		if len(sent) == 0 {
			t.Errorf("%s sent nothing that was recorded", name)
		}
		for _, s := range sent {
			reads := plan(t, db, s)
			t.Logf("%s: %v", name, reads)
			for _, read := range reads {
				if read == "Seq Scan of task" || read == "Seq Scan of task_log" {
					t.Errorf("%s: %v", name, reads)
				}
			}
		}
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

func TestStatusWhileTheDatabaseIsAway(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	waiting := w.wait(t, id)
	back := away(t, w.url)
	t.Cleanup(back)

	answer, err := w.client.GetSystemStatus(t.Context(), &statusv1.GetSystemStatusRequest{})
	if err != nil || answer.GetDatabaseConnected() || answer.GetSchedulerLeads() || answer.GetVersion() != "v1.2.3" {
		t.Errorf("system status: %v, %v", answer, err)
	}
	// The fetches are repeated by the client, a second each: at the same time.
	var all sync.WaitGroup
	for name, call := range map[string]func() error{
		"get": func() error {
			_, err := w.client.GetTask(t.Context(), &statusv1.GetTaskRequest{TaskId: id})
			return err
		},
		"list": func() error { _, err := w.client.ListTasks(t.Context(), &statusv1.ListTasksRequest{}); return err },
		"wait": func() error {
			_, err := w.client.WaitTasks(t.Context(), &statusv1.WaitTasksRequest{TaskIds: []string{id}})
			return err
		},
		"watch": func() error { _, err := w.watch(t, id).Recv(); return err },
		"log": func() error {
			_, err := w.client.GetTaskLog(t.Context(), &statusv1.GetTaskLogRequest{TaskId: id})
			return err
		},
		"put log": func() error {
			_, err := w.client.PutTaskLog(t.Context(), &statusv1.PutTaskLogRequest{TaskId: id, Claim: 1})
			return err
		},
		"stats": func() error { _, err := w.client.GetStats(t.Context(), &statusv1.GetStatsRequest{}); return err },
		"group": func() error {
			_, err := w.client.GetTaskGroup(t.Context(), &statusv1.GetTaskGroupRequest{GroupId: id})
			return err
		},
	} {
		all.Go(func() {
			if err := call(); !errs.Is(err, errs.DatabaseAway) || err.Error() != "the database can't be reached" {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	back()
	if answer, err := w.client.GetSystemStatus(t.Context(), &statusv1.GetSystemStatusRequest{}); err != nil || !answer.GetDatabaseConnected() {
		t.Errorf("when it is back: %v, %v", answer, err)
	}
	// Who waited through all this and was not woken gets its answer.
	w.finish(t, id)
	w.leader.changes <- id
	waiting.returns(t, id)
}

package pgtest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// Statement is one that was sent, alone or in a batch.
type Statement struct {
	SQL  string
	Args []any
}

// Recorder keeps the statements that a pool sends. It may be used from several goroutines.
type Recorder struct {
	mu         sync.Mutex
	statements []Statement
}

// Record returns a pool on url, closed when the test has ended, and the recorder of what is sent through it.
func Record(t testing.TB, url string) (*pgxpool.Pool, *Recorder) {
	t.Helper()
	r := &Recorder{}
	pool, err := postgres.Open(t.Context(), url, postgres.Options{ApplicationName: "test", Tracer: r})
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool, r
}

// Take returns what was sent since the last Take.
func (r *Recorder) Take() []Statement {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.statements
	r.statements = nil
	return taken
}

// TraceQueryStart keeps a statement.
func (r *Recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	r.keep(d.SQL, d.Args)
	return ctx
}

// TraceQueryEnd has nothing to do.
func (*Recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart has nothing to do: a batch's statements come one by one.
func (*Recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery keeps a statement.
func (r *Recorder) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	r.keep(d.SQL, d.Args)
}

// TraceBatchEnd has nothing to do.
func (*Recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (r *Recorder) keep(sql string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statements = append(r.statements, Statement{sql, args})
}

// Plan asks PostgreSQL how it would run a statement, and returns the steps that read tables: "Index Scan task_pkey of
// task", "Seq Scan of task_log". Lookups by foreign key are not among them: they are in triggers. A plan depends on how
// full the tables are, and on whether they were analyzed.
func Plan(t testing.TB, db postgres.Querier, s Statement) (reads []string) {
	t.Helper()
	type node struct {
		Type  string `json:"Node Type"`
		Table string `json:"Relation Name"`
		Index string `json:"Index Name"`
		Plans []node
	}
	var plans []struct{ Plan node }
	if err := json.Unmarshal(One[[]byte](t, db, "explain (format json) "+s.SQL, s.Args...), &plans); err != nil {
		t.Fatalf("explain %s: %v", s.SQL, err)
	}
	var walk func(n node)
	walk = func(n node) {
		if strings.Contains(n.Type, "Scan") && (n.Table != "" || n.Index != "") {
			words := []string{n.Type}
			if n.Index != "" {
				words = append(words, n.Index)
			}
			if n.Table != "" { // a bitmap's index has none; the scan of its heap does
				words = append(words, "of", n.Table)
			}
			reads = append(reads, strings.Join(words, " "))
		}
		for _, below := range n.Plans {
			walk(below)
		}
	}
	walk(plans[0].Plan)
	return reads
}

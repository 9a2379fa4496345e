package heartbeat_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

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

func (x transaction) rollback(t *testing.T) {
	t.Helper()
	if err := x.Rollback(t.Context()); err != nil {
		t.Fatal(err)
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

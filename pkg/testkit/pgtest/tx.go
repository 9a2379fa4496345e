package pgtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// Tx is a transaction that stands for another process: the test holds it open as long as it likes.
type Tx struct {
	postgres.Querier

	tx pgx.Tx
}

// Begin opens a transaction that does not outlive the test. It occupies one connection of db; with Open(t, url) as db it
// takes none from the pool under test.
func Begin(t testing.TB, db postgres.Beginner) Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), pgx.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Also when the test fails before it ends: the pool could not be closed. An error says that it has ended.
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return Tx{tx, tx}
}

// Commit ends the transaction.
func (x Tx) Commit(t testing.TB) {
	t.Helper()
	if err := x.tx.Commit(t.Context()); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// Rollback ends the transaction as if it had not been.
func (x Tx) Rollback(t testing.TB) {
	t.Helper()
	if err := x.tx.Rollback(t.Context()); err != nil {
		t.Fatalf("roll back: %v", err)
	}
}

package pgtest

import (
	"testing"

	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// Must runs a statement that changes exactly n rows, and fails the test when it changes more or fewer.
func Must(t testing.TB, db postgres.Querier, n int64, sql string, args ...any) {
	t.Helper()
	tag, err := db.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if tag.RowsAffected() != n {
		t.Fatalf("%s: %d rows, want %d", sql, tag.RowsAffected(), n)
	}
}

// One reads one value: the first column of the first row.
func One[T any](t testing.TB, db postgres.Querier, sql string, args ...any) (value T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

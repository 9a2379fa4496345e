package pgtest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestEveryTestSeesOnlyItsOwnRows(t *testing.T) {
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			if err := postgres.CheckSchema(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if _, err := pool.Exec(t.Context(), "create table mine (n int)"); err != nil {
				t.Fatal(err) // exists already if two tests share a database
			}
		})
	}
}

func TestDatabaseIsDroppedThoughAConnectionIsLeft(t *testing.T) {
	var name string
	t.Run("inner", func(t *testing.T) {
		conn, err := pgx.Connect(t.Context(), pgtest.URL(t))
		if err != nil {
			t.Fatal(err)
		}
		name = conn.Config().Database
	})
	var left int
	if err := pgtest.New(t).QueryRow(t.Context(), "select count(*) from pg_database where datname = $1", name).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Errorf("database %s is still there", name)
	}
}

func TestEmptyURLHasNoSchema(t *testing.T) {
	pool := pgtest.Open(t, pgtest.EmptyURL(t))
	version, err := postgres.SchemaVersion(t.Context(), pool)
	if err != nil || version != 0 {
		t.Errorf("version %d, error %v; want 0, nil", version, err)
	}
}

func TestLogStatementsListsOnlyThisDatabase(t *testing.T) {
	url := pgtest.URL(t)
	statements := pgtest.LogStatements(t, url)
	mine, other := pgtest.Open(t, url), pgtest.New(t)
	if _, err := mine.Exec(t.Context(), "select $1::int\n+ 1", 41); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), "select 'elsewhere'"); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(statements(), "\n")
	if want := "execute <unnamed>: select $1::int\n+ 1"; !strings.Contains(got, want) {
		t.Errorf("statements = %q, want %q among them", got, want)
	}
	if strings.Contains(got, "elsewhere") {
		t.Errorf("statements = %q, with one of another database", got)
	}
}

func BenchmarkClone(b *testing.B) {
	pgtest.URL(b)
	for b.Loop() {
		pgtest.URL(b)
	}
}

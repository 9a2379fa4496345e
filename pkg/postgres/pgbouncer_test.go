package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/bouncer"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestEveryKindOfStatementWorksThroughAPooler(t *testing.T) {
	pool := pgtest.Open(t, bouncer.Start(t, pgtest.URL(t), 2))
	if _, err := pool.Exec(t.Context(), "create table entry (n int)"); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for range postgres.DefaultMaxConns {
		go func() { errs <- someStatements(t.Context(), pool, 25) }()
	}
	for range postgres.DefaultMaxConns {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	var n int
	if err := pool.QueryRow(t.Context(), "select count(*) from entry").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if want := postgres.DefaultMaxConns * 25 * 4; n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
}

// someStatements inserts four rows per round: alone, in a transaction, in a batch, by copy.
func someStatements(ctx context.Context, pool interface {
	postgres.Querier
	postgres.Beginner
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
}, rounds int,
) error {
	for i := range rounds {
		if _, err := pool.Exec(ctx, "insert into entry values ($1)", i); err != nil {
			return fmt.Errorf("alone: %w", err)
		}
		if err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into entry values ($1)", i)
			return err
		}); err != nil {
			return fmt.Errorf("transaction: %w", err)
		}
		var batch pgx.Batch
		batch.Queue("insert into entry values ($1)", i)
		batch.Queue("select $1::text", "beside it")
		if err := pool.SendBatch(ctx, &batch).Close(); err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		rows := pgx.CopyFromRows([][]any{{i}})
		if _, err := pool.CopyFrom(ctx, pgx.Identifier{"entry"}, []string{"n"}, rows); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	return nil
}

func TestMigratorsAtTheSameTimeWorkThroughAPooler(t *testing.T) {
	steps := files("create table one (n int); select pg_sleep(0.05);", "insert into one values (1);", "insert into one values (2);")
	// With one server connection a migrator that needed a second one would wait for itself for ever.
	for _, servers := range []int{1, 4} {
		t.Run(fmt.Sprint(servers, " server connections"), func(t *testing.T) {
			target := pgtest.EmptyURL(t)
			migrateAtOnce(t, bouncer.Start(t, target, servers), steps, 6)
			assertAppliedOnce(t, target)
		})
	}
}

func TestRefusalOfThePoolerIsUnavailable(t *testing.T) {
	nowhere, err := url.Parse(bouncer.Start(t, pgtest.URL(t), 1))
	if err != nil {
		t.Fatal(err)
	}
	nowhere.Path = "/other"
	_, err = postgres.Open(t.Context(), nowhere.String(), postgres.Options{PingTimeout: 10 * time.Second})
	if !postgres.IsUnavailable(err) {
		t.Errorf("IsUnavailable(%v) = false", err)
	}
}

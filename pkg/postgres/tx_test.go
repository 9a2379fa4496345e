package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

var (
	_ postgres.Querier  = (*pgxpool.Pool)(nil)
	_ postgres.Querier  = pgx.Tx(nil)
	_ postgres.Beginner = (*pgxpool.Pool)(nil)
)

func raise(ctx context.Context, tx pgx.Tx, code string) error {
	_, err := tx.Exec(ctx, "do $$ begin raise exception 'on purpose' using errcode = '"+code+"'; end $$")
	return err
}

func TestInTxRepeatsOnlyWhatTheDatabaseAsksToRepeat(t *testing.T) {
	pool := pgtest.New(t)
	for _, tc := range []struct {
		code string
		want int // calls
	}{
		{"40001", 5}, {"40P01", 5}, {"23505", 1}, {"57014", 1}, {"55P03", 1},
	} {
		calls := 0
		err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			calls++
			return raise(t.Context(), tx, tc.code)
		})
		if err == nil || calls != tc.want {
			t.Errorf("%s: %d calls, error %v; want %d and an error", tc.code, calls, err, tc.want)
		}
	}
}

func TestInTxSucceedsWhenARepetitionDoes(t *testing.T) {
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), "create table entry (n int)"); err != nil {
		t.Fatal(err)
	}
	calls := 0
	err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		calls++
		if _, err := tx.Exec(t.Context(), "insert into entry values ($1)", calls); err != nil {
			return err
		}
		if calls < 3 {
			return raise(t.Context(), tx, "40001")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := pool.QueryRow(t.Context(), "select n from entry").Scan(&n); err != nil || n != 3 {
		t.Errorf("n = %d, %v; want the row of the third call alone", n, err)
	}
}

func TestInTxGetsBothSidesThroughARealDeadlock(t *testing.T) {
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), "create table pair (id int primary key, n int); insert into pair values (1, 0), (2, 0)"); err != nil {
		t.Fatal(err)
	}
	// Each holds its first row before either asks for the other's, the first time round.
	var held [2]chan struct{}
	held[0], held[1] = make(chan struct{}), make(chan struct{})
	side := func(me int) error {
		first := true
		return postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "update pair set n = n + 1 where id = $1", me+1); err != nil {
				return err
			}
			if first {
				first = false
				close(held[me])
				<-held[1-me]
			}
			_, err := tx.Exec(t.Context(), "update pair set n = n + 1 where id = $1", 2-me)
			return err
		})
	}
	errs := make(chan error)
	for me := range 2 {
		go func() { errs <- side(me) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	var low, high int
	if err := pool.QueryRow(t.Context(), "select min(n), max(n) from pair").Scan(&low, &high); err != nil || low != 2 || high != 2 {
		t.Errorf("counts between %d and %d, %v; want 2 and 2", low, high, err)
	}
}

func TestInTxRollsBackAndReturnsTheErrorOfItsFunction(t *testing.T) {
	pool := pgtest.New(t)
	mine := errors.New("mine")
	err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "create table gone (n int)"); err != nil {
			return err
		}
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("error = %v, want mine", err)
	}
	assertAbsent(t, pool, "gone")
}

func TestInTxReturnsItsConnectionWhenItsFunctionPanics(t *testing.T) {
	pool := pgtest.New(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "create table gone (n int)"); err != nil {
				return err
			}
			panic("on purpose")
		})
	}()
	if got := pool.Stat().AcquiredConns(); got != 0 {
		t.Errorf("%d connections are still out", got)
	}
	assertAbsent(t, pool, "gone")
}

func TestInTxStopsRepeatingWhenItsContextEnds(t *testing.T) {
	pool := pgtest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		calls++
		err := raise(ctx, tx, "40001")
		cancel()
		return err
	})
	if !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("%d calls, error %v; want 1 and context.Canceled", calls, err)
	}
	if got := pool.Stat().AcquiredConns(); got != 0 {
		t.Errorf("%d connections are still out", got)
	}
}

func TestInTxSaysSoWhenTheCommitDidNotHappen(t *testing.T) {
	pool := pgtest.New(t)
	err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_ = raise(t.Context(), tx, "23505") // swallowed: the transaction is dead, and its commit rolls back
		return nil
	})
	if !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Errorf("error = %v, want ErrTxCommitRollback", err)
	}
}

func assertAbsent(t *testing.T, db postgres.Querier, table string) {
	t.Helper()
	var absent bool
	if err := db.QueryRow(t.Context(), "select to_regclass($1) is null", table).Scan(&absent); err != nil {
		t.Fatal(err)
	}
	if !absent {
		t.Errorf("table %s is there", table)
	}
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is what a statement needs. A pool and a transaction both are one, so a store method takes a Querier and its
// caller decides whether it runs alone or with others.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Beginner starts a transaction. A pool and a connection are one; a pgx.Tx is not, on purpose: after a serialization
// failure only the outermost transaction can be repeated.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

const (
	maxAttempts     = 5
	backoffBase     = 10 * time.Millisecond
	backoffCap      = 500 * time.Millisecond
	rollbackTimeout = 5 * time.Second
)

// InTx runs fn in a transaction and commits it if fn returned nil, otherwise rolls back and returns fn's error.
//
// A transaction that PostgreSQL refused as a serialization failure or a deadlock (see IsRetryable) is repeated, at most
// five times in all, with full jitter up to 0.5 s; so fn must have no effect outside its transaction. Nothing else is
// repeated: when a connection breaks during the commit nobody knows whether it happened, and only the caller can find
// out. The isolation level is the database's default, read committed unless configured otherwise.
func InTx(ctx context.Context, db Beginner, fn func(tx pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := once(ctx, db, fn)
		if err == nil || !IsRetryable(err) {
			return err
		}
		if attempt == maxAttempts {
			return fmt.Errorf("give up after %d attempts: %w", maxAttempts, err)
		}
		if waitErr := wait(ctx, jitter(attempt)); waitErr != nil {
			return errors.Join(waitErr, err)
		}
	}
}

func once(ctx context.Context, db Beginner, fn func(tx pgx.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	done := false
	defer func() {
		if done {
			return
		}
		// Also reached when fn panics: the connection must not go back to the pool inside a transaction.
		if rbErr := rollback(ctx, tx); rbErr != nil {
			err = errors.Join(err, rbErr)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	done = true
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// rollback uses a context of its own, because the usual reason to roll back is that the caller's has ended.
func rollback(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	err := tx.Rollback(ctx)
	// A closed transaction or connection has no effect left to undo: the server rolls back what it lost.
	if err == nil || errors.Is(err, pgx.ErrTxClosed) || errors.Is(err, pgconn.ErrConnClosed) {
		return nil
	}
	return fmt.Errorf("roll back transaction: %w", err)
}

// jitter is uniform between zero and the exponential bound. With half jitter the two sides of a deadlock come back
// together; with full jitter one of them is usually through before the other begins.
func jitter(attempt int) time.Duration {
	bound := min(backoffCap, backoffBase<<attempt)
	return rand.N(bound)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// statementLimit bounds a statement, with the wait for a connection: callers should rather be told that the database is away.
const statementLimit = 5 * time.Second

// Store is the SQL of the access service.
type Store struct {
	pool *pgxpool.Pool
	// places are one for each call that may use a connection at the same time: however many tokens are tried, dispatches on the same
	// pool find connections.
	places chan struct{}
}

// NewStore makes a store. A quarter of the pool's connections are for it.
func NewStore(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool, places: make(chan struct{}, max(1, int(pool.Config().MaxConns)/4))}
}

// do runs what with a connection's place, within the limit. what says in words what it was, if it fails.
func (s *Store) do(ctx context.Context, what string, statement func(ctx context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	leave, err := enter(limited, s.places)
	if err == nil {
		err = statement(limited)
		leave()
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, err)
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return errs.Away(errs.DatabaseAway, err, "the database does not answer")
	}
	return postgres.Away(err)
}

// maybe runs a statement that returns one row or none.
func (s *Store) maybe(ctx context.Context, what string, statement func(ctx context.Context) error) (found bool, err error) {
	err = s.do(ctx, what, func(ctx context.Context) error {
		err := statement(ctx)
		found = err == nil
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return found, err
}

// ByName returns an account.
func (s *Store) ByName(ctx context.Context, username string) (a Account, found bool, err error) {
	found, err = s.maybe(ctx, "read an account", func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `select id, username, created_at, well_known, password from account where username = $1`, username).
			Scan(&a.ID, &a.Username, &a.CreatedAt, &a.WellKnown, &a.Secret)
	})
	return a, found, err
}

// ByToken returns whose token it is, and writes that it was used.
func (s *Store) ByToken(ctx context.Context, digest [sha256.Size]byte, life, every time.Duration) (u User, found bool, err error) {
	found, err = s.maybe(ctx, "read a token", func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `
			with used as (
				update account_token set used_at = now()
				where digest = $1 and used_at > now() - $2::interval and used_at < now() - $3::interval
			)
			select a.id, a.username, a.created_at, a.well_known
			from account_token t join account a on a.id = t.account_id
			where t.digest = $1 and t.used_at > now() - $2::interval`, digest[:], life, every).
			Scan(&u.ID, &u.Username, &u.CreatedAt, &u.WellKnown)
	})
	return u, found, err
}

// Users returns all users, by name.
func (s *Store) Users(ctx context.Context) (users []User, err error) {
	err = s.do(ctx, "list users", func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, `select id, username, created_at, well_known from account order by username collate "C"`)
		if err != nil {
			return err
		}
		users, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (u User, err error) {
			return u, row.Scan(&u.ID, &u.Username, &u.CreatedAt, &u.WellKnown)
		})
		return err
	})
	return users, err
}

// Create makes an account. Of a name that is taken no number is used up.
func (s *Store) Create(ctx context.Context, a Account, alone bool) (u User, made bool, err error) {
	made, err = s.maybe(ctx, "make an account", func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `
			insert into account (username, password, well_known)
			select $1, $2, $3
			where not exists (select from account where $4 or username = $1)
			on conflict (username) do nothing
			returning id, username, created_at, well_known`, a.Username, a.Secret, a.WellKnown, alone).
			Scan(&u.ID, &u.Username, &u.CreatedAt, &u.WellKnown)
	})
	return u, made, err
}

// Replace changes how a password is kept, if it is still the one of before.
func (s *Store) Replace(ctx context.Context, id int64, before, after string) error {
	return s.do(ctx, "replace how a password is kept", func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, `update account set password = $3 where id = $1 and password = $2`, id, before, after)
		return err
	})
}

// SetSecret changes a password and ends the tokens of the user.
func (s *Store) SetSecret(ctx context.Context, username, secret string, wellKnown bool) (found bool, err error) {
	// One transaction of two statements, not one: the second also sees the token that the first waited for.
	batch := &pgx.Batch{}
	batch.Queue(`update account set password = $2, well_known = $3 where username = $1`, username, secret, wellKnown)
	batch.Queue(`delete from account_token where account_id = (select id from account where username = $1)`, username)
	err = s.do(ctx, "change a password", func(ctx context.Context) error {
		results := s.pool.SendBatch(ctx, batch)
		changed, err := results.Exec()
		found = changed.RowsAffected() > 0
		return errors.Join(err, results.Close())
	})
	return found, err
}

// Delete removes an account with its tokens.
func (s *Store) Delete(ctx context.Context, username string) (found bool, err error) {
	err = s.do(ctx, "delete an account", func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, `delete from account where username = $1`, username)
		found = tag.RowsAffected() > 0
		return err
	})
	return found, err
}

// AddToken gives a user a token and removes what is over or too many.
func (s *Store) AddToken(ctx context.Context, user int64, digest [sha256.Size]byte, keep int, life time.Duration) (expires time.Time, found bool, err error) {
	batch := &pgx.Batch{} // which is one transaction
	// Tokens of one user are made one after another, so that each sees those of before.
	batch.Queue(`select from account where id = $1 for update`, user)
	batch.Queue(`
		insert into account_token (digest, account_id) select $2, id from account where id = $1
		returning used_at + $3::interval`, user, digest[:], life)
	batch.Queue(`
		delete from account_token where account_id = $1 and (used_at <= now() - $3::interval or digest in (
			select digest from account_token where account_id = $1 order by created_at desc, digest offset $2))`, user, keep, life)
	found, err = s.maybe(ctx, "make a token", func(ctx context.Context) error {
		results := s.pool.SendBatch(ctx, batch)
		_, lockErr := results.Exec()
		err := results.QueryRow().Scan(&expires)
		_, deleteErr := results.Exec()
		closeErr := results.Close()
		if errors.Is(err, pgx.ErrNoRows) {
			err = errors.Join(lockErr, deleteErr, closeErr)
			if err == nil {
				err = pgx.ErrNoRows
			}
			return err
		}
		return errors.Join(lockErr, err, deleteErr, closeErr)
	})
	return expires, found, err
}

// DeleteToken ends a token. One that is not known is no error.
func (s *Store) DeleteToken(ctx context.Context, digest [sha256.Size]byte) error {
	return s.do(ctx, "delete a token", func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, `delete from account_token where digest = $1`, digest[:])
		return err
	})
}

package heartbeat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// Store is the SQL of the heartbeat service.
type Store struct{ pool *pgxpool.Pool }

// NewStore makes a store.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Insert begins a life. A predecessor of the name that is silent for longer than its time to live is declared missing on the
// way, so that a restart need not wait for the next sweep.
func (s *Store) Insert(ctx context.Context, a App) error {
	versions, err := json.Marshal(a.Versions)
	if err != nil {
		return fmt.Errorf("encode versions of %s %q: %w", a.Kind, a.Name, err)
	}
	batch := &pgx.Batch{}
	batch.Queue(`
		update app set missing_at = now()
		where name = $1 and kind = $2 and missing_at is null and ended_at is null and last_beat_at < now() - ttl`, a.Name, a.Kind)
	batch.Queue(`
		insert into app (incarnation, name, kind, versions, ttl) values ($1::text::uuid, $2, $3, $4::text::jsonb, $5::interval)`,
		a.Incarnation, a.Name, a.Kind, string(versions), a.TTL)
	err = s.pool.SendBatch(ctx, batch).Close()
	switch {
	case postgres.IsUnique(err):
		return errs.Exists(errs.NameTaken, "a living %s is registered as %q: stop it, choose another name, or wait until it is declared missing", a.Kind, a.Name)
	case err != nil:
		return away(fmt.Errorf("register %s %q: %w", a.Kind, a.Name, err))
	}
	return nil
}

// Beat writes the beats of many lives and returns those that were alive to take them.
func (s *Store) Beat(ctx context.Context, incarnations []string) (alive []string, err error) {
	rows, err := s.pool.Query(ctx, `
		with living as (
			-- In one order, so that two services that write beats can't wait for each other.
			select incarnation from app
			where incarnation = any($1::text[]::uuid[]) and missing_at is null and ended_at is null
			order by incarnation for no key update
		)
		update app a set last_beat_at = now() from living l
		where a.incarnation = l.incarnation and a.missing_at is null and a.ended_at is null
		returning a.incarnation::text`, incarnations)
	if err != nil {
		return nil, away(fmt.Errorf("write beats: %w", err))
	}
	alive, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, away(fmt.Errorf("write beats: %w", err))
	}
	return alive, nil
}

// End ends a life in good order. It is no error if it is over already.
func (s *Store) End(ctx context.Context, incarnation string) error {
	_, err := s.pool.Exec(ctx, `
		update app set ended_at = now() where incarnation = $1::text::uuid and missing_at is null and ended_at is null`, incarnation)
	if err != nil {
		return away(fmt.Errorf("deregister %s: %w", incarnation, err))
	}
	return nil
}

// Sweep declares the silent missing and names them.
func (s *Store) Sweep(ctx context.Context) (missing []string, err error) {
	rows, err := s.pool.Query(ctx, `
		with silent as (
			-- Who is locked is just being written a beat for.
			select incarnation from app
			where missing_at is null and ended_at is null and last_beat_at < now() - ttl
			for no key update skip locked
		)
		update app a set missing_at = now() from silent s
		where a.incarnation = s.incarnation and a.missing_at is null and a.ended_at is null and a.last_beat_at < now() - a.ttl
		returning kind || ' ' || name`)
	if err != nil {
		return nil, away(fmt.Errorf("declare the silent missing: %w", err))
	}
	missing, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, away(fmt.Errorf("declare the silent missing: %w", err))
	}
	return missing, nil
}

// Forget removes lives that were over for longer than keep and ran nothing that is not final.
func (s *Store) Forget(ctx context.Context, keep time.Duration) error {
	_, err := s.pool.Exec(ctx, `
		delete from app a
		where coalesce(a.missing_at, a.ended_at) < now() - $1::interval
		  and not exists (select from task_live l join task t on t.id = l.task_id where t.incarnation = a.incarnation)`, keep)
	if err != nil {
		return away(fmt.Errorf("forget past lives: %w", err))
	}
	return nil
}

// List returns lives by name, the latest of a name first, each with the tasks that it runs.
func (s *Store) List(ctx context.Context, kind string, gone bool) ([]App, error) {
	rows, err := s.pool.Query(ctx, `
		select a.incarnation::text, a.name, a.kind, a.versions, a.ttl, a.registered_at, a.last_beat_at,
		       a.missing_at is null and a.ended_at is null, a.missing_at is not null,
		       coalesce(r.ids, '{}')
		from app a
		-- The living tasks are read once for all apps, not once for each.
		left join (
		    select t.incarnation, (array_agg(t.id::text order by t.seq))[1:100] as ids
		    from task_live l join task t on t.id = l.task_id
		    where t.incarnation is not null
		    group by t.incarnation) r on r.incarnation = a.incarnation
		where ($1 = '' or a.kind = $1)
		  and ((a.missing_at is null and a.ended_at is null) or ($2 and coalesce(a.missing_at, a.ended_at) > now() - interval '1 day'))
		order by a.name, a.registered_at desc`, kind, gone)
	if err != nil {
		return nil, away(fmt.Errorf("list apps: %w", err))
	}
	apps, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a App, err error) {
		err = row.Scan(&a.Incarnation, &a.Name, &a.Kind, &a.Versions, &a.TTL, &a.RegisteredAt, &a.LastBeatAt, &a.Online, &a.Missing, &a.Running)
		return a, err
	})
	if err != nil {
		return nil, away(fmt.Errorf("list apps: %w", err))
	}
	return apps, nil
}

func away(err error) error {
	// The service's own time limits: a database that hangs is away as well.
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.Away(errs.DatabaseAway, err, "the database does not answer")
	}
	return postgres.Away(err)
}

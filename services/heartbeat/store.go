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
type Store struct {
	pool *pgxpool.Pool
	// changes and lists hold a place for each call that may use a connection at the same time. Beats and the look for the silent
	// need none: they always find a connection, however many register or ask who is there.
	changes, lists chan struct{}
}

// NewStore makes a store. Half of the pool's connections are for calls that change something, a quarter for lists.
func NewStore(pool *pgxpool.Pool) *Store {
	most := int(pool.Config().MaxConns)
	return &Store{pool: pool, changes: make(chan struct{}, max(1, most/2)), lists: make(chan struct{}, max(1, most/4))}
}

// enter takes one of the places, and leave gives it back.
func enter(ctx context.Context, places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Insert begins a life. A predecessor of the name that is replaced, or silent for longer than its time to live, is declared missing
// on the way.
func (s *Store) Insert(ctx context.Context, a App, replaces string, belief Belief) (made Registered, err error) {
	failed := func(err error) (Registered, error) {
		return Registered{}, away(fmt.Errorf("register %s %q: %w", a.Kind, a.Name, err))
	}
	versions, err := json.Marshal(a.Versions)
	if err != nil {
		return Registered{}, fmt.Errorf("encode versions of %s %q: %w", a.Kind, a.Name, err)
	}
	leave, err := enter(ctx, s.changes)
	if err != nil {
		return failed(err)
	}
	defer leave()
	batch := &pgx.Batch{} // which is one transaction
	batch.Queue(`
		with over as (
			update app set missing_at = now()
			where name = $1 and kind = $2 and missing_at is null and ended_at is null
			  and (incarnation = nullif($3, '')::uuid
			       or greatest(last_beat_at, coalesce($5::timestamptz, now())) + ttl < least(now(), $4::timestamptz, clock_timestamp()))
			returning incarnation
		), noted as (
			insert into app_over (incarnation, missing) select incarnation, true from over where $2 = 'worker'
			on conflict do nothing
		)
		select now(), exists (select from over)`, a.Name, a.Kind, replaces, orNull(belief.Now), orNull(belief.Since))
	batch.Queue(`
		insert into app (incarnation, name, kind, versions, ttl) values ($1::text::uuid, $2, $3, $4::text::jsonb, $5::interval)
		on conflict (kind, name) where missing_at is null and ended_at is null do nothing`,
		a.Incarnation, a.Name, a.Kind, string(versions), a.TTL)
	results := s.pool.SendBatch(ctx, batch)
	err = results.QueryRow().Scan(&made.At, &made.Ended)
	tag, insertErr := results.Exec()
	if err := errors.Join(err, insertErr, results.Close()); err != nil {
		return failed(err)
	}
	made.Taken = tag.RowsAffected() == 0
	return made, nil
}

// Beat writes the beats of many lives, which are in order.
func (s *Store) Beat(ctx context.Context, beats []Beat) (Beaten, error) {
	incarnations, hearing := make([]string, len(beats)), make([]int64, len(beats))
	for i, b := range beats {
		incarnations[i], hearing[i] = b.Incarnation.String(), int64(b.Hearing)
	}
	beaten := Beaten{TTLs: make([]time.Duration, len(beats))}
	var living, ttls []int64
	err := s.pool.QueryRow(ctx, `select clock, living, ttls from heartbeat_beat($1::uuid[], $2::integer[])`,
		postgres.Texts(incarnations), postgres.Bigints(hearing)).Scan(&beaten.At, &living, &ttls)
	if err != nil {
		return Beaten{}, away(fmt.Errorf("write beats: %w", err))
	}
	for i, place := range living {
		beaten.TTLs[place-1] = time.Duration(ttls[i]) * time.Millisecond
	}
	return beaten, nil
}

// End ends a life in good order, or as missing if it is dead. It is no error if it is over already.
func (s *Store) End(ctx context.Context, incarnation string, dead bool) (ended bool, err error) {
	leave, err := enter(ctx, s.changes)
	if err != nil {
		return false, away(fmt.Errorf("deregister %s: %w", incarnation, err))
	}
	defer leave()
	tag, err := s.pool.Exec(ctx, `
		with over as (
			update app set missing_at = case when $2 then now() end, ended_at = case when not $2 then now() end
			where incarnation = $1::text::uuid and missing_at is null and ended_at is null
			returning incarnation, kind
		)
		insert into app_over (incarnation, missing) select incarnation, $2 from over where kind = 'worker'
		on conflict do nothing`, incarnation, dead)
	if err != nil {
		return false, away(fmt.Errorf("deregister %s: %w", incarnation, err))
	}
	return tag.RowsAffected() > 0, nil
}

// Sweep declares the silent missing and names them.
func (s *Store) Sweep(ctx context.Context, belief Belief) (swept Swept, err error) {
	var next *int64
	err = s.pool.QueryRow(ctx, `select clock, next_in, missing from heartbeat_sweep($1::timestamptz, $2::timestamptz)`,
		orNull(belief.Now), orNull(belief.Since)).Scan(&swept.At, &next, &swept.Missing)
	if err != nil {
		return Swept{}, away(fmt.Errorf("declare the silent missing: %w", err))
	}
	if next != nil {
		swept.Alive, swept.Next = true, time.Duration(*next)*time.Millisecond
	}
	return swept, nil
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
	leave, err := enter(ctx, s.lists)
	if err != nil {
		return nil, away(fmt.Errorf("list apps: %w", err))
	}
	defer leave()
	rows, err := s.pool.Query(ctx, `
		select a.incarnation::text, a.name, a.kind, a.versions, a.ttl, a.registered_at, a.last_beat_at,
		       case when a.missing_at is null and a.ended_at is null then a.deaf_since end,
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
		err = row.Scan(&a.Incarnation, &a.Name, &a.Kind, &a.Versions, &a.TTL, &a.RegisteredAt, &a.LastBeatAt, &a.DeafSince,
			&a.Online, &a.Missing, &a.Running)
		return a, err
	})
	if err != nil {
		return nil, away(fmt.Errorf("list apps: %w", err))
	}
	return apps, nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func away(err error) error {
	// The service's own time limits: a database that hangs is away as well.
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.Away(errs.DatabaseAway, err, "the database does not answer")
	}
	return postgres.Away(err)
}

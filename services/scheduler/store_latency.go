package scheduler

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// latencyColumns are what latencyRows reads.
const latencyColumns = `(extract(epoch from begins) * 1000000)::bigint, name, domain, completed, failed, canceled, unblock, start, run`

// latest are the latest rows: at most a thousand and one of the last minute, and what else has room.
const latest = `
	select ` + latencyColumns + ` from task_latency_minute
	where begins > now() - interval '3 hours' or begins = (select max(begins) from task_latency_minute)
	order by begins desc limit 2000`

// summed is until when hours have been added up.
const summed = `select max(begins) + interval '1 hour' from task_latency_hour`

// saveLatencies stores rows, in place of what is stored of them. The lock on the lease is one that lets ticks renew it and share it,
// so that neither waits for the other, but no other scheduler take it: who does so sees what a leader before it has stored. No row is
// written, and none is counted, if it is another's.
const saveLatencies = `
	with fence as materialized (select from lease where name = 'scheduler' and epoch = $1 for key share)
	insert into %s (begins, name, domain, completed, failed, canceled, unblock, start, run)
	select 'epoch'::timestamptz + r.begins * interval '1 microsecond', r.name, r.domain, r.completed, r.failed, r.canceled,
	       decode(r.unblock, 'hex'), decode(r.start, 'hex'), decode(r.run, 'hex')
	from fence, unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[])
	     as r (begins, name, domain, completed, failed, canceled, unblock, start, run)
	on conflict (begins, name, domain) do update set
		completed = excluded.completed, failed = excluded.failed, canceled = excluded.canceled,
		unblock = excluded.unblock, start = excluded.start, run = excluded.run`

// LatestLatencies reads with what a leadership goes on.
func (s *Store) LatestLatencies(ctx context.Context) (Measured, error) {
	var m Measured
	batch := &pgx.Batch{}
	batch.Queue(latest).Query(latencyRows(&m.Rows))
	batch.Queue(`select coalesce((extract(epoch from (` + summed + `)) * 1000000)::bigint, 0)`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&m.Summed)
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return Measured{}, postgres.Away(fmt.Errorf("read the latest latencies: %w", err))
	}
	return m, nil
}

// SaveMinutes stores minutes, in place of what is stored of them. ErrDeposed: another scheduler leads, and nothing was stored.
func (s *Store) SaveMinutes(ctx context.Context, epoch int64, rows []LatencyRow) error {
	return s.saveLatencies(ctx, "task_latency_minute", epoch, rows)
}

// SaveHour stores an hour that is over, all of it in one statement: who reads hours relies on it that one is stored whole, or not at
// all. ErrDeposed: another scheduler leads, and nothing was stored.
func (s *Store) SaveHour(ctx context.Context, epoch int64, rows []LatencyRow) error {
	return s.saveLatencies(ctx, "task_latency_hour", epoch, rows)
}

func (s *Store) saveLatencies(ctx context.Context, table string, epoch int64, rows []LatencyRow) error {
	n := len(rows)
	if n == 0 {
		return nil
	}
	begins, completed, failed, canceled := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	names, domains, unblocks, starts, runs := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, r := range rows {
		begins[i], completed[i], failed[i], canceled[i] = r.Begins, r.Completed, r.Failed, r.Canceled
		names[i], domains[i] = r.Name, r.Domain
		unblocks[i], starts[i], runs[i] = hex.EncodeToString(r.Unblock), hex.EncodeToString(r.Start), hex.EncodeToString(r.Run)
	}
	done, err := s.pool.Exec(ctx, fmt.Sprintf(saveLatencies, table), epoch,
		postgres.Bigints(begins), postgres.Texts(names), postgres.Texts(domains),
		postgres.Bigints(completed), postgres.Bigints(failed), postgres.Bigints(canceled),
		postgres.Texts(unblocks), postgres.Texts(starts), postgres.Texts(runs))
	switch {
	case err != nil:
		return postgres.Away(fmt.Errorf("store latencies: %w", err))
	case done.RowsAffected() == 0:
		return fmt.Errorf("store latencies: %w", ErrDeposed)
	default:
		return nil
	}
}

// EarliestUnsummed is the first minute that is not in an hour yet, 0 if there is none, and the database's clock: both in microseconds
// since 1970.
func (s *Store) EarliestUnsummed(ctx context.Context) (minute, now int64, err error) {
	err = s.pool.QueryRow(ctx, `
		select coalesce((extract(epoch from min(begins)) * 1000000)::bigint, 0), `+clock+`
		from task_latency_minute where begins >= coalesce((`+summed+`), '-infinity')`).Scan(&minute, &now)
	if err != nil {
		return 0, 0, postgres.Away(fmt.Errorf("look for an hour to add up: %w", err))
	}
	return minute, now, nil
}

// Minutes reads the rows of the minutes that begin at from or later, and before to; both in microseconds since 1970.
func (s *Store) Minutes(ctx context.Context, from, to int64) (found []LatencyRow, err error) {
	//nolint:rowserrcheck // CollectRows does, in latencyRows
	rows, err := s.pool.Query(ctx, `
		select `+latencyColumns+` from task_latency_minute
		where begins >= 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
		  and begins < 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'`, from, to)
	if err == nil {
		err = latencyRows(&found)(rows)
	}
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read the minutes of an hour: %w", err))
	}
	return found, nil
}

// ForgetLatencies removes minutes of hours that have been added up, and no window of minutes reaches, and hours that no window reaches;
// see the status service.
func (s *Store) ForgetLatencies(ctx context.Context) error {
	batch := &pgx.Batch{}
	batch.Queue(`delete from task_latency_minute where begins < now() - interval '3 hours 5 minutes' and begins < (` + summed + `)`)
	batch.Queue(`delete from task_latency_hour where begins < now() - interval '31 days'`)
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return postgres.Away(fmt.Errorf("remove old latencies: %w", err))
	}
	return nil
}

// latencyRows reads rows of latencyColumns.
func latencyRows(into *[]LatencyRow) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*into, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r LatencyRow, err error) {
			err = row.Scan(&r.Begins, &r.Name, &r.Domain, &r.Completed, &r.Failed, &r.Canceled, &r.Unblock, &r.Start, &r.Run)
			return r, err
		})
		return err
	}
}

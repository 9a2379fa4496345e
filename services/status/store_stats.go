package status

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
)

const (
	// summedUntil is until when hours have been added up from their minutes.
	summedUntil = `(select max(begins) + interval '1 hour' from task_latency_hour)`
	faredRows   = `
		select begins, name, domain, completed, failed, canceled, unblock, start, run from %s
		where begins >= %s and ($2 = '' or name = $2) and ($3 = '' or domain = $3)`
)

// windowBegin is when a window begins, in whole units of so many seconds since 1970: however the session's time zone is set.
func windowBegin(seconds int) string {
	return fmt.Sprintf(`to_timestamp(floor(extract(epoch from now() - $1::interval) / %[1]d) * %[1]d)`, seconds)
}

// Fared reads how tasks fared. Hours and the minutes that are in none yet are read by one statement, so that nothing is in both. It
// reads a row for each minute or hour, name and domain, whatever the number of tasks.
func (s *Store) Fared(ctx context.Context, w Window, add func(Fared)) (from, summed time.Time, err error) {
	begin := windowBegin(60)
	rows := fmt.Sprintf(faredRows, "task_latency_minute", begin)
	if w.hourly() {
		begin = windowBegin(3600)
		rows = fmt.Sprintf(faredRows, "task_latency_hour", begin) + ` union all ` +
			fmt.Sprintf(faredRows, "task_latency_minute", `greatest(`+begin+`, `+summedUntil+`)`)
	}
	batch := &pgx.Batch{}
	batch.Queue(`select `+begin+`, coalesce(`+summedUntil+`, 'epoch')`, w.Since).QueryRow(func(row pgx.Row) error {
		return row.Scan(&from, &summed)
	})
	batch.Queue(rows, w.Since, w.Name, w.Domain).Query(func(rows pgx.Rows) error {
		defer rows.Close()
		for rows.Next() {
			var r Fared
			if err := rows.Scan(&r.Begins, &r.Name, &r.Domain, &r.Completed, &r.Failed, &r.Canceled, &r.Unblock, &r.Start, &r.Run); err != nil {
				return err
			}
			add(r)
		}
		return rows.Err()
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return from, summed, postgres.Away(fmt.Errorf("read how tasks fared: %w", err))
	}
	return from, summed, nil
}

package status

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
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Store is the SQL of the status service.
type Store struct {
	pool *pgxpool.Pool

	listPatience, countPatience time.Duration
}

// resultRows is what a statement returns, for those files of the store that need not know the driver.
type resultRows = pgx.Rows

// NewStore makes a store.
func NewStore(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool, listPatience: listPatience, countPatience: countPatience}
}

// childrenShown is how many child tasks are listed with a task.
const childrenShown = 1000

// Get reads one task.
func (s *Store) Get(ctx context.Context, id string) (*task.Task, error) {
	t, err := postgres.ScanTask(s.pool.QueryRow(ctx, `select `+postgres.TaskColumns+` from task where id = $1::text::uuid`, id))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errs.NotFound(errs.TaskNotFound, "no task %s", id)
	case err != nil:
		return nil, postgres.Away(fmt.Errorf("read task %s: %w", id, err))
	}
	return t, nil
}

// States reads where tasks are; those that do not exist are left out. Who waits asks this again and again, so it reads nothing
// else.
func (s *Store) States(ctx context.Context, ids []string) (map[string]task.State, error) {
	rows, err := s.pool.Query(ctx, `select id::text, state from task where id = any($1::text[]::uuid[])`, ids)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read the states of %d tasks: %w", len(ids), err))
	}
	type at struct {
		ID    string
		State task.State
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[at])
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read the states of %d tasks: %w", len(ids), err))
	}
	states := make(map[string]task.State, len(found))
	for _, t := range found {
		states[t.ID] = t.State
	}
	return states, nil
}

// GetMany reads tasks; those that do not exist are left out.
func (s *Store) GetMany(ctx context.Context, ids []string) (map[string]*task.Task, error) {
	rows, err := s.pool.Query(ctx, `select `+postgres.TaskColumns+` from task where id = any($1::text[]::uuid[])`, ids)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d tasks: %w", len(ids), err))
	}
	list, err := collect(rows)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d tasks: %w", len(ids), err))
	}
	found := make(map[string]*task.Task, len(list))
	for _, t := range list {
		found[t.ID] = t
	}
	return found, nil
}

// Details reads what there is beside a task's row. Nothing at all is no error.
func (s *Store) Details(ctx context.Context, id string) (*Details, error) {
	d := &Details{}
	batch := &pgx.Batch{}
	batch.Queue(`select id::text from task where parent_id = $1::text::uuid order by created_at, seq limit $2`, id, childrenShown).Query(func(rows pgx.Rows) (err error) {
		d.Children, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	batch.Queue(`select `+reportColumns+` from task_report where task_id = $1::text::uuid`, id).Query(func(rows pgx.Rows) error {
		reports, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Report, error) { return scanReport(row) })
		if len(reports) > 0 {
			d.Report = reports[0]
		}
		return err
	})
	batch.Queue(`select attempt, claim, executor, started_at, ended_at, error::text from task_attempt where task_id = $1::text::uuid order by attempt`,
		id).Query(func(rows pgx.Rows) (err error) {
		d.Attempts, err = pgx.CollectRows(rows, scanAttempt)
		return err
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, postgres.Away(fmt.Errorf("read the details of task %s: %w", id, err))
	}
	return d, nil
}

func scanAttempt(row pgx.CollectableRow) (a Attempt, err error) {
	var cause string
	if err := row.Scan(&a.Number, &a.Claim, &a.Executor, &a.StartedAt, &a.EndedAt, &cause); err != nil {
		return a, err
	}
	if err := json.Unmarshal([]byte(cause), &a.Error); err != nil {
		return a, fmt.Errorf("decode the error of attempt %d: %w", a.Number, err)
	}
	return a, nil
}

// weight is about what a task takes in a message, in bytes.
func weight(t *task.Task) int {
	bytes := 1024 + len(t.Result)
	if t.Error != nil {
		bytes += len(t.Error.Description) + len(t.Error.Traceback) + len(t.Error.Reason)
	}
	lists := [][]string{t.Reserved.Exclusive, t.Reserved.Shared, t.Options.Profile, t.Options.Files}
	if t.Options.Retry != nil {
		lists = append(lists, t.Options.Retry.On)
	}
	for _, texts := range lists {
		for _, text := range texts {
			bytes += len(text) + 4
		}
	}
	for component, version := range t.Versions {
		bytes += len(component) + len(version) + 8
	}
	return bytes
}

// Log is what a task's process wrote.
type Log struct {
	Text      string
	Truncated bool
}

// Log reads a task's log. A task that wrote nothing has an empty one.
func (s *Store) Log(ctx context.Context, id string) (Log, error) {
	var l Log
	err := s.pool.QueryRow(ctx, `
		select coalesce(l.text, ''), coalesce(l.truncated, false)
		from task t left join task_log l on l.task_id = t.id where t.id = $1::text::uuid`, id).Scan(&l.Text, &l.Truncated)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return l, errs.NotFound(errs.TaskNotFound, "no task %s", id)
	case err != nil:
		return l, postgres.Away(fmt.Errorf("read the log of task %s: %w", id, err))
	}
	return l, nil
}

// PutLog stores the log of one run, unless a later run has stored one.
func (s *Store) PutLog(ctx context.Context, id string, claim int64, l Log) error {
	_, err := s.pool.Exec(ctx, `
		insert into task_log (task_id, claim, text, truncated) values ($1::text::uuid, $2, $3, $4)
		on conflict (task_id) do update set claim = excluded.claim, text = excluded.text, truncated = excluded.truncated, updated_at = now()
		where task_log.claim <= excluded.claim`, id, claim, l.Text, l.Truncated)
	switch {
	case postgres.Constraint(err) == "task_log_task_id_fkey":
		return errs.NotFound(errs.TaskNotFound, "no task %s", id)
	case err != nil:
		return postgres.Away(fmt.Errorf("store the log of task %s: %w", id, err))
	}
	return nil
}

// reportColumns are what scanReport reads.
const reportColumns = `claim, progress::text, created::text`

// scanReport reads a row of reportColumns, with what stands before them.
func scanReport(row pgx.Row, before ...any) (*Report, error) {
	r := &Report{}
	var progress, created string
	if err := row.Scan(append(before, &r.Claim, &progress, &created)...); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(progress), &r.Progress); err != nil {
		return nil, fmt.Errorf("decode progress: %w", err)
	}
	if err := json.Unmarshal([]byte(created), &r.Created); err != nil {
		return nil, fmt.Errorf("decode what was created: %w", err)
	}
	r.bytes = len(progress) + len(created)
	return r, nil
}

// Reports reads what the tasks of a page have told of their work, by id. fit is how many of the tasks have room on the page
// together with that; what the others told is not kept.
func (s *Store) Reports(ctx context.Context, tasks []*task.Task) (reports map[string]*Report, fit int, err error) {
	ids := make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	// offset 0 keeps the planner from reading the whole table as soon as it thinks that a tenth of it is wanted.
	rows, err := s.pool.Query(ctx, `
		select asked.id, `+reportColumns+`
		from unnest($1::text[]) with ordinality as asked (id, place)
		cross join lateral (select * from task_report where task_id = asked.id::uuid offset 0) r
		order by asked.place`, ids)
	if err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("read reports of %d tasks: %w", len(ids), err))
	}
	defer rows.Close()
	reports = map[string]*Report{}
	for bytes := 0; bytes <= pageBytes && rows.Next(); {
		var id string
		r, err := scanReport(rows, &id)
		if err != nil {
			return nil, 0, postgres.Away(fmt.Errorf("read reports of %d tasks: %w", len(ids), err))
		}
		reports[id] = r
		bytes += r.bytes
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("read reports of %d tasks: %w", len(ids), err))
	}
	return reports, room(tasks, reports), nil
}

// NameStats tells how the tasks of one name fared.
type NameStats struct {
	Name                       string
	Finished, Failed, Canceled int64
	// Times of p50, p95, p99 and the longest, in seconds; nil if no task had such a time.
	Unblock, Start, Run []float64
}

// Stats reads how the tasks fared that finished since then. It searches the tasks of that time.
func (s *Store) Stats(ctx context.Context, name string, since time.Duration) ([]NameStats, error) {
	const percentiles = `percentile_disc(array[0.5, 0.95, 0.99, 1.0]) within group (order by extract(epoch from %s)::float8)`
	rows, err := s.pool.Query(ctx, fmt.Sprintf(`
		select name, count(*), count(*) filter (where state = 'failed'), count(*) filter (where state = 'canceled'), %s, %s, %s
		from task
		where finished_at > now() - $1::interval and ($2 = '' or name = $2)
		group by name order by name`,
		fmt.Sprintf(percentiles, "unblocked_at - created_at"),
		fmt.Sprintf(percentiles, "started_at - unblocked_at"),
		fmt.Sprintf(percentiles, "finished_at - started_at")), since, name)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read statistics: %w", err))
	}
	stats, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n NameStats, err error) {
		err = row.Scan(&n.Name, &n.Finished, &n.Failed, &n.Canceled, &n.Unblock, &n.Start, &n.Run)
		return n, err
	})
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read statistics: %w", err))
	}
	return stats, nil
}

// System is how the whole is doing.
type System struct {
	Leads     bool
	Epoch     int64
	Executors int32
	Live      map[task.State]int64
}

// System reads how the whole is doing.
func (s *Store) System(ctx context.Context) (*System, error) {
	sys := &System{}
	batch := &pgx.Batch{}
	batch.Queue(`select expires_at > now(), epoch from lease where name = 'scheduler'`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&sys.Leads, &sys.Epoch)
	})
	batch.Queue(`select count(*) from app where kind = 'worker' and missing_at is null and ended_at is null`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&sys.Executors)
	})
	batch.Queue(`select t.state, count(*) from task_live l join task t on t.id = l.task_id group by t.state`).Query(func(rows pgx.Rows) (err error) {
		sys.Live, err = counts(rows)
		return err
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, postgres.Away(fmt.Errorf("read the system's state: %w", err))
	}
	return sys, nil
}

func collect(rows pgx.Rows) ([]*task.Task, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*task.Task, error) { return postgres.ScanTask(row) })
}

func counts(rows pgx.Rows) (map[task.State]int64, error) {
	found := map[task.State]int64{}
	var state task.State
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error {
		found[state] = n
		return nil
	})
	return found, err
}

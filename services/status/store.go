package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
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

// noRow tells, for the same files, whether a statement found nothing.
func noRow(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

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

// codeCanceled is what the server says when a statement took too long.
const codeCanceled = "57014"

// tooLong tells whether a statement was given up because it took too long, and not because nobody waits for it any more.
func tooLong(ctx context.Context, err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == codeCanceled && ctx.Err() == nil
}

// within reads the rows of a statement that may take only so long. The settings are of the same transaction, which a batch is. No
// compiler and no parallel workers: on a guess of the planner's, what is answered in milliseconds would wait for either.
func (s *Store) within(ctx context.Context, patience time.Duration, sql string, args []any, read func(pgx.Rows) error) (err error) {
	batch := &pgx.Batch{}
	batch.Queue(`select set_config('statement_timeout', $1, true), set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`, strconv.FormatInt(patience.Milliseconds(), 10))
	batch.Queue(sql, args...)
	results := s.pool.SendBatch(ctx, batch)
	defer func() {
		if closing := results.Close(); err == nil {
			err = closing
		}
	}()
	if _, err := results.Exec(); err != nil {
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := read(rows); err != nil {
		return err
	}
	return rows.Err()
}

// backlog is from how many live tasks on a list looks for them among the newest of all: to sort a million takes seconds, and then
// they are not hard to find.
const backlog = 50_000

// fewNamed is up to how many tasks of the names asked for are read and sorted. Of more, a page is soon found among the newest of all.
const fewNamed = 20_000

// selection translates a filter.
func (s *Store) selection(ctx context.Context, f *statusv1.Filter) (selection, error) {
	sel, err := selectionOf(f, false)
	if err != nil {
		return sel, err
	}
	// The index on names is narrow and has no order, and the planner guesses: of a name that it has not counted it thinks that it is as
	// frequent as others, and would look for it from the newest task to the oldest.
	if names := oneNameOf(f); len(names) > 0 && sel.ended == "" && !narrow(f) {
		few, err := s.fewHave(ctx, names)
		if few {
			sel = sel.among(names)
		}
		return sel, err
	}
	if !sel.live {
		return sel, nil
	}
	var live int
	if err := s.pool.QueryRow(ctx, `select count(*) from (select from task_live limit $1) l`, backlog).Scan(&live); err != nil {
		return sel, postgres.Away(fmt.Errorf("count live tasks: %w", err))
	}
	if live < backlog {
		return sel, nil
	}
	return selectionOf(f, true)
}

// fewHave tells whether few tasks have one of these names.
func (s *Store) fewHave(ctx context.Context, names []string) (bool, error) {
	found := fewNamed
	err := s.within(ctx, s.countPatience, `select count(*) from (select from task where name = any($1::text[]) limit $2) n`, []any{names, fewNamed},
		func(rows pgx.Rows) (err error) {
			found, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
			return err
		})
	if err != nil && !tooLong(ctx, err) {
		return false, postgres.Away(fmt.Errorf("count tasks by name: %w", err))
	}
	return err == nil && found < fewNamed, nil
}

// List returns a page. more tells that there are others after it; a page of large tasks is shorter than asked for. A list that takes
// too long is given up: TOO_BROAD.
func (s *Store) List(ctx context.Context, l List) (tasks []*task.Task, more bool, err error) {
	sel, err := s.selection(ctx, l.Filter)
	if err != nil {
		return nil, false, err
	}
	b := &builder{args: sel.args}
	if l.After != nil {
		sel.where += sel.near(" and (task.created_at, task.seq) < (" + b.arg(l.After.CreatedAt) + "::timestamptz, " + b.arg(l.After.Seq) + "::bigint)")
	}
	order := sel.near(b.orderBy(l.Order))
	if b.err != nil {
		return nil, false, b.err
	}
	// First the numbers, then the rows: what is left out by the offset, or sorted only to be left out, is narrow then, and often
	// read from an index alone. One more than asked for tells whether there is a next page.
	sql := `select ` + postgres.TaskColumnsWithout(l.OmitResults, l.OmitErrors) + ` from unnest(array(
			select ` + sel.near("task.seq") + ` from ` + sel.from(order) + ` where ` + sel.where + ` order by ` + order +
		` limit ` + b.arg(l.Size+1) + `::bigint offset ` + b.arg(l.Offset) + `::bigint
		)) with ordinality as page (number, place)
		cross join lateral (select * from task k where k.seq = page.number offset 0) t order by page.place`
	full := false
	err = s.within(ctx, s.listPatience, sql, b.args, func(rows pgx.Rows) error {
		for bytes := 0; !full && rows.Next(); {
			t, err := postgres.ScanTask(rows)
			if err != nil {
				return err
			}
			if full = len(tasks) == l.Size || bytes > pageBytes; !full {
				tasks = append(tasks, t)
				bytes += weight(t)
			}
		}
		rows.Close()
		return rows.Err()
	})
	switch {
	case tooLong(ctx, err) && full: // while the rest was thrown away that has no room on the page
	case tooLong(ctx, err):
		return nil, false, errs.Oversize(errs.TooBroad, "the list took longer than %s, because the history of tasks had to be searched for it: "+
			"add conditions by which tasks are found quickly, such as a state that is not completed, a name, a correlation id, a task group, "+
			"a parent task or a shorter range of times of creation, or order by the time of creation", s.listPatience)
	case err != nil:
		return nil, false, postgres.Away(fmt.Errorf("list tasks: %w", err))
	}
	return tasks, full, nil
}

// Count says how many tasks match: exactly if they are few and soon counted, else what the planner thinks.
func (s *Store) Count(ctx context.Context, f *statusv1.Filter) (n int64, estimated bool, err error) {
	sel, err := s.selection(ctx, f)
	if err != nil {
		return 0, false, err
	}
	err = s.within(ctx, s.countPatience, fmt.Sprintf(`select count(*) from (select from %s where %s limit %d) found`, sel.from(""), sel.where, countMost+1),
		sel.args, func(rows pgx.Rows) (err error) {
			n, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
			return err
		})
	switch {
	case err == nil && n <= countMost:
		return n, false, nil
	case err != nil && !tooLong(ctx, err):
		return 0, false, postgres.Away(fmt.Errorf("count tasks: %w", err))
	}
	guess, err := s.guess(ctx, f)
	return max(n, guess), true, err
}

// guess is how many tasks match by the planner's statistics. It reads none.
func (s *Store) guess(ctx context.Context, f *statusv1.Filter) (int64, error) {
	where, args, err := where(f, nil) // without the tables that help: what is joined is guessed worse
	if err != nil {
		return 0, err
	}
	var text string
	err = s.within(ctx, s.listPatience, `explain (format json) select from task where `+where, args, func(rows pgx.Rows) (err error) {
		text, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return 0, postgres.Away(fmt.Errorf("estimate how many tasks match: %w", err))
	}
	var plans []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal([]byte(text), &plans); err != nil || len(plans) != 1 {
		return 0, fmt.Errorf("read how many tasks match from %.100q: %w", text, errors.Join(err, errors.ErrUnsupported))
	}
	return int64(plans[0].Plan.Rows), nil
}

// Children reads which tasks the tasks of a page dispatched, by id, the oldest first, of each the first ones. fit is how many of the
// tasks have room on the page together with that.
func (s *Store) Children(ctx context.Context, tasks []*task.Task) (children map[string][]string, fit int, err error) {
	ids := make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	// As in Reports, one look for each: the planner would rather read all tasks that have a parent.
	rows, err := s.pool.Query(ctx, `
		select asked.id, array(select c.id::text from task c where c.parent_id = asked.id::uuid order by c.created_at, c.seq limit $2)
		from unnest($1::text[]) with ordinality as asked (id, place) order by asked.place`, ids, childrenListed)
	if err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("read the children of %d tasks: %w", len(ids), err))
	}
	children = map[string][]string{}
	var parent string
	var of []string
	bytes := 0
	_, err = pgx.ForEachRow(rows, []any{&parent, &of}, func() error {
		if bytes > childrenBytes {
			return nil
		}
		fit++
		for _, id := range of {
			bytes += len(id) + 2
		}
		if len(of) > 0 {
			children[parent] = of
		}
		of = nil
		return nil
	})
	if err := cmp.Or(err, rows.Err()); err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("read the children of %d tasks: %w", len(ids), err))
	}
	return children, fit, nil
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

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

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
	return read(rows)
}

// backlog is from how many live tasks on a list looks for them among the newest of all: to sort a million takes seconds, and then
// they are not hard to find.
const backlog = 50_000

// selection translates a filter.
func (s *Store) selection(ctx context.Context, f *statusv1.Filter) (selection, error) {
	sel, err := selectionOf(f, false)
	if err != nil || !sel.live {
		return sel, err
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
	sql := `select ` + postgres.TaskColumns + ` from unnest(array(
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
	if err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("read the children of %d tasks: %w", len(ids), err))
	}
	return children, fit, nil
}

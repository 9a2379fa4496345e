package status

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// What a row of a look is.
const (
	rowNew = iota
	rowLive
	rowCanceled
	rowReport
)

// watchPatience is how long a statement here may take. With a hundred thousand tasks that are not final one takes a second.
const watchPatience = 10 * time.Second

// lookForChanges answers all questions of a look, as rows of one shape. What was not asked for costs nothing: it is planned with the
// arguments, and each part stands behind a condition of its own. The tasks of a census are looked up one by one, or a planner that
// thinks a tenth of all tasks is wanted would read the whole history.
const lookForChanges = `
	(select 0 as part, seq, id::text, updated_at from task where $1::bigint >= 0 and seq > $1::bigint order by seq limit $2::bigint)
	union all
	(select 0, t.seq, t.id::text, t.updated_at
	 from (select max(seq) as high from task where $1::bigint < 0) top
	 cross join lateral (select * from task k where k.seq > top.high - $3::bigint order by k.seq limit $3::bigint) t)
	union all
	(select 0, t.seq, t.id::text, t.updated_at
	 from unnest($4::bigint[]) as missing (seq) cross join lateral (select * from task k where k.seq = missing.seq offset 0) t)
	union all
	(select 1, l.seq, l.task_id::text, t.updated_at
	 from (select seq, task_id from task_live where $5::boolean order by seq limit $6::bigint) l
	 cross join lateral (select k.updated_at from task k where k.seq = l.seq offset 0) t)
	union all
	(select 2, w.seq, w.task_id::text, t.updated_at
	 from (select seq, task_id from task_cancel where $7::boolean and requested_at > now() - interval '10 seconds'
	       order by requested_at limit $2::bigint) w
	 cross join lateral (select k.updated_at from task k where k.id = w.task_id offset 0) t)
	union all
	(select 3, 0, r.task_id::text, r.updated_at
	 from unnest($8::text[]) as asked (id)
	 cross join lateral (select k.task_id, k.updated_at from task_report k where k.task_id = asked.id::uuid offset 0) r)`

// Look finds what changed.
func (s *Store) Look(ctx context.Context, look Look) (*Sight, error) {
	missing := look.Missing
	if missing == nil {
		missing = []int64{}
	}
	args := []any{
		look.After, look.MostNew, look.Before, missing, look.Census, look.MostLive + 1, look.Wishes, postgres.Texts(look.Reports),
	}
	sight := &Sight{Full: true, Reports: map[string]time.Time{}}
	err := s.within(ctx, watchPatience, lookForChanges, args, func(rows resultRows) error {
		for rows.Next() {
			var part int
			var t Sighted
			if err := rows.Scan(&part, &t.Seq, &t.ID, &t.UpdatedAt); err != nil {
				return err
			}
			switch part {
			case rowNew:
				sight.New = append(sight.New, t)
			case rowLive:
				sight.Live = append(sight.Live, t)
			case rowCanceled:
				sight.Canceled = append(sight.Canceled, t)
			case rowReport:
				sight.Reports[t.ID] = t.UpdatedAt
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("look for changes of tasks: %w", err))
	}
	if len(sight.Live) > look.MostLive {
		sight.Live, sight.Full = nil, false
	}
	return sight, nil
}

// beside scans a row of which the first columns are of one thing and the others of another.
type beside struct {
	row  interface{ Scan(...any) error }
	more []any
}

// Scan fills both.
func (b beside) Scan(dest ...any) error { return b.row.Scan(append(dest, b.more...)...) }

// Judge reads tasks and what filters say of them, in one statement: each is as it was when it was judged.
func (s *Store) Judge(ctx context.Context, ids []string, filters []*statusv1.Filter) (judged []Judged, rest []string, err error) {
	args := []any{postgres.Texts(ids)}
	var columns strings.Builder
	for _, f := range filters {
		var sql string
		if sql, args, err = where(f, args); err != nil {
			return nil, nil, err
		}
		fmt.Fprintf(&columns, ", coalesce(%s, false)", sql)
	}
	rows, err := s.pool.Query(ctx, `select `+postgres.TaskColumns+columns.String()+` from task where id = any($1::text[]::uuid[])`, args...)
	if err != nil {
		return nil, nil, postgres.Away(fmt.Errorf("read %d tasks that changed: %w", len(ids), err))
	}
	defer rows.Close()
	bytes := 0
	for bytes <= pageBytes && rows.Next() {
		matches := make([]bool, len(filters))
		more := make([]any, len(filters))
		for i := range matches {
			more[i] = &matches[i]
		}
		t, err := postgres.ScanTask(beside{rows, more})
		if err != nil {
			return nil, nil, postgres.Away(fmt.Errorf("read %d tasks that changed: %w", len(ids), err))
		}
		judged = append(judged, Judged{Task: t, Matches: matches})
		bytes += weight(t)
	}
	cut := bytes > pageBytes
	rows.Close()
	if err := rows.Err(); err != nil {
		return nil, nil, postgres.Away(fmt.Errorf("read %d tasks that changed: %w", len(ids), err))
	}
	if !cut {
		return judged, nil, nil
	}
	read := make(map[string]bool, len(judged))
	for _, j := range judged {
		read[j.Task.ID] = true
	}
	for _, id := range ids {
		if !read[id] {
			rest = append(rest, id)
		}
	}
	return judged, rest, nil
}

// unfinished is where tasks are found that are not final and match, and in which order: a few that are named by their ids, or those in
// the list of the living, one by one. Left to itself, the planner may walk through the history in the order that is asked for.
func unfinished(f *statusv1.Filter, args []any) (from string, all []any, err error) {
	from = `(select l.seq as place, l.task_id from task_live l where l.seq > $1 order by l.seq) l
		cross join lateral (select * from task k where k.id = l.task_id offset 0) task`
	if ids := named(f); ids != nil {
		args = append(args, postgres.Texts(slices.Collect(maps.Keys(ids))))
		from = fmt.Sprintf(`(select k.*, k.seq as place from task k where k.id = any($%d::text[]::uuid[]) and k.seq > $1
			and k.state in ('waiting', 'running', 'canceling') offset 0) task`, len(args))
	}
	condition, all, err := where(f, args)
	return from + ` where ` + condition + ` order by place limit $2`, all, err
}

// unfinishedFault says why tasks could not be found.
func unfinishedFault(ctx context.Context, err error) error {
	if tooLong(ctx, err) {
		return errs.Oversize(errs.TooBroad, "finding the tasks that are not final and match took longer than %s: name them by their ids", watchPatience)
	}
	return postgres.Away(fmt.Errorf("find tasks that are not final: %w", err))
}

// Current reads tasks that are not final.
func (s *Store) Current(ctx context.Context, f *statusv1.Filter, after int64, most int) (tasks []*task.Task, more bool, err error) {
	from, args, err := unfinished(f, []any{after, most + 1})
	if err != nil {
		return nil, false, err
	}
	err = s.within(ctx, watchPatience, `select `+postgres.TaskColumns+` from `+from, args, func(rows resultRows) error {
		for bytes := 0; !more && rows.Next(); {
			t, err := postgres.ScanTask(rows)
			if err != nil {
				return err
			}
			if more = len(tasks) == most || bytes > pageBytes; !more {
				tasks = append(tasks, t)
				bytes += weight(t)
			}
		}
		rows.Close()
		return rows.Err()
	})
	if err != nil {
		return nil, false, unfinishedFault(ctx, err)
	}
	return tasks, more, nil
}

// Unfinished finds tasks that are not final.
func (s *Store) Unfinished(ctx context.Context, f *statusv1.Filter, most int) ([]Unfinished, error) {
	from, args, err := unfinished(f, []any{0, most})
	if err != nil {
		return nil, err
	}
	var found []Unfinished
	err = s.within(ctx, watchPatience, `select place, task.id::text from `+from, args, func(rows resultRows) error {
		for rows.Next() {
			var t Unfinished
			if err := rows.Scan(&t.Seq, &t.ID); err != nil {
				return err
			}
			found = append(found, t)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, unfinishedFault(ctx, err)
	}
	return found, nil
}

// Living tells which tasks are not final.
func (s *Store) Living(ctx context.Context, seqs []int64) (map[int64]bool, error) {
	rows, err := s.pool.Query(ctx, `select seq from task_live where seq = any($1::bigint[])`, seqs)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("look after %d tasks: %w", len(seqs), err))
	}
	defer rows.Close()
	living := make(map[int64]bool, min(len(seqs), limits.MaxPage))
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, postgres.Away(fmt.Errorf("look after %d tasks: %w", len(seqs), err))
		}
		living[seq] = true
	}
	if err := rows.Err(); err != nil {
		return nil, postgres.Away(fmt.Errorf("look after %d tasks: %w", len(seqs), err))
	}
	return living, nil
}

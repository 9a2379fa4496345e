package dispatcher

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Store is the SQL of the dispatcher.
type Store struct{ pool *pgxpool.Pool }

// NewStore makes a store.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// insertTasks is a function of the schema, where PostgreSQL keeps its plan; what it does stands in the migrations.
const insertTasks = `
	select seq, id, created_at from dispatcher_insert_2($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
		$8::boolean[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[])`

// insertWithFiles is the same for tasks of which some have files: few do, and the others are not to pay for it.
const insertWithFiles = `
	select seq, id, created_at from dispatcher_insert_with_files($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
		$7::text[], $8::boolean[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
		$17::text[], $18::text[])`

// Insert stores tasks, all or none. Their places in the order and their times are set in them.
func (s *Store) Insert(ctx context.Context, tasks []*New) error {
	n := len(tasks)
	columns := make([][]string, 14)
	for i := range columns {
		columns[i] = make([]string, n)
	}
	immediate, deferred := make([]bool, n), make([]bool, n)
	byID := make(map[string]*New, n)
	var linked, files []string
	for i, t := range tasks {
		versions := "{}"
		if len(t.Versions) > 0 {
			text, err := json.Marshal(t.Versions)
			if err != nil {
				return fmt.Errorf("encode versions of task %s: %w", t.ID, err)
			}
			versions = string(text)
		}
		options, err := t.Options.Text()
		if err != nil {
			return fmt.Errorf("store task %s: %w", t.ID, err)
		}
		for c, value := range [...]string{
			t.ID, t.DomainID, t.Name, t.Args, t.Kwargs, postgres.Texts(t.Reserved.Exclusive), postgres.Texts(t.Reserved.Shared),
			versions, t.ParentID, t.GroupID, t.CorrelationID, t.Traceparent, t.Tracestate, options,
		} {
			columns[c][i] = value
		}
		immediate[i], deferred[i] = t.Immediate, t.Deferred
		for _, file := range t.Options.Files {
			linked, files = append(linked, t.ID), append(files, file)
		}
		byID[t.ID] = t
	}
	args := make([]any, 0, len(columns)+4)
	for i, column := range columns {
		if i == 7 {
			args = append(args, postgres.Booleans(immediate), postgres.Booleans(deferred))
		}
		args = append(args, postgres.Texts(column))
	}
	insert := insertTasks
	if len(files) > 0 {
		insert, args = insertWithFiles, append(args, postgres.Texts(linked), postgres.Texts(files))
	}
	rows, err := s.pool.Query(ctx, insert, args...)
	if err != nil {
		return inserted(err)
	}
	var seq int64
	var id string
	var created time.Time
	_, err = pgx.ForEachRow(rows, []any{&seq, &id, &created}, func() error {
		t := byID[id]
		t.Seq, t.CreatedAt, t.UpdatedAt = seq, created, created
		return nil
	})
	return inserted(cmp.Or(err, rows.Err()))
}

// namesNothing are the constraints that say that a task names something that does not exist.
var namesNothing = []string{"task_parent_id_fkey", "task_group_id_fkey", "task_file_file_id_fkey"}

// inserted says of an error what it means for the rows.
func inserted(err error) error {
	switch {
	case err == nil:
		return nil
	case slices.Contains(namesNothing, postgres.Constraint(err)):
		return fmt.Errorf("insert tasks: %w: %w", ErrMissing, err)
	case postgres.IsUnavailable(err):
		// Also where it comes as an answer: a pooler says so of a server that it lost after the commit. And what is away for
		// all need not be asked again for each.
		return postgres.Away(fmt.Errorf("insert tasks: %w", err))
	case postgres.Answered(err):
		return fmt.Errorf("insert tasks: %w: %w", ErrRefused, err)
	default:
		return fmt.Errorf("insert tasks: %w", err)
	}
}

// Missing tells which of the tasks name a parent, or a group, that does not exist, by their places in the list.
func (s *Store) Missing(ctx context.Context, tasks []*New) (parents, groups map[int]bool, err error) {
	ids := [2][]string{make([]string, len(tasks)), make([]string, len(tasks))}
	for i, t := range tasks {
		ids[0][i], ids[1][i] = t.ParentID, t.GroupID
	}
	found := [2]map[int]bool{{}, {}}
	for i, table := range []string{"task", "task_group"} {
		rows, err := s.pool.Query(ctx, `
			select place - 1 from unnest($1::text[]) with ordinality as named (id, place)
			where named.id <> '' and not exists (select from `+table+` t where t.id = named.id::uuid)`, postgres.Texts(ids[i]))
		if err != nil {
			return nil, nil, postgres.Away(fmt.Errorf("look for missing rows of %s: %w", table, err))
		}
		var place int
		_, err = pgx.ForEachRow(rows, []any{&place}, func() error { found[i][place] = true; return nil })
		if err := cmp.Or(err, rows.Err()); err != nil {
			return nil, nil, postgres.Away(fmt.Errorf("look for missing rows of %s: %w", table, err))
		}
	}
	return found[0], found[1], nil
}

// MissingFiles tells which of the tasks' files do not exist, or are not complete: by the places of the tasks in the list, the
// places in their lists of files.
func (s *Store) MissingFiles(ctx context.Context, tasks []*New) (map[int][]int, error) {
	var ids []string
	var places [][2]int
	for i, t := range tasks {
		for j, id := range t.Options.Files {
			ids, places = append(ids, id), append(places, [2]int{i, j})
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := s.pool.Query(ctx, `
		select place - 1 from unnest($1::text[]) with ordinality as named (id, place)
		where not exists (select from temporary_file f where f.id = named.id::uuid and f.state = 'complete')
		order by place`, postgres.Texts(ids))
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("look for missing files: %w", err))
	}
	missing := map[int][]int{}
	var place int
	_, err = pgx.ForEachRow(rows, []any{&place}, func() error {
		at := places[place]
		missing[at[0]] = append(missing[at[0]], at[1])
		return nil
	})
	if err := cmp.Or(err, rows.Err()); err != nil {
		return nil, postgres.Away(fmt.Errorf("look for missing files: %w", err))
	}
	return missing, nil
}

// nothing reports whether a query found no row.
func nothing(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// cancelTask is guarded by the state. Its outcome is read from the row: no row changed means that it was final, or is
// canceling already, or is not there.
const cancelTask = `
	with hit as (
		update task set
			state       = case state when 'waiting' then 'canceled' else 'canceling' end,
			finished_at = case state when 'waiting' then now() end,
			error       = case state when 'waiting' then $2::text::json end,
			updated_at  = now()
		where id = $1::text::uuid and state in ('waiting', 'running')
		returning *
	), gone as (
		delete from task_live l using hit where l.seq = hit.seq and hit.state = 'canceled'
	), wish as (
		insert into task_cancel (seq, task_id) select seq, id from hit on conflict do nothing
	)
	select ` + postgres.TaskColumns + ` from hit`

// Cancel asks a task to stop. changed tells whether it was this call that did.
func (s *Store) Cancel(ctx context.Context, id string) (t *task.Task, changed bool, err error) {
	cause, err := json.Marshal(task.Error{Reason: task.ReasonCanceled})
	if err != nil {
		return nil, false, fmt.Errorf("encode the reason: %w", err)
	}
	t, err = postgres.ScanTask(s.pool.QueryRow(ctx, cancelTask, id, string(cause)))
	if err == nil {
		return t, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, false, postgres.Away(fmt.Errorf("cancel task %s: %w", id, err))
	}
	t, err = s.Get(ctx, id)
	return t, false, err
}

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

// GetAll reads tasks by their ids; those that are not there are not in the answer.
func (s *Store) GetAll(ctx context.Context, ids []string) (map[string]*task.Task, error) {
	rows, err := s.pool.Query(ctx, `select `+postgres.TaskColumns+` from task where id = any($1::text[]::uuid[])`, postgres.Texts(ids))
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d tasks: %w", len(ids), err))
	}
	defer rows.Close()
	found := make(map[string]*task.Task, len(ids))
	for rows.Next() {
		t, err := postgres.ScanTask(rows)
		if err != nil {
			return nil, fmt.Errorf("read %d tasks: %w", len(ids), err)
		}
		found[t.ID] = t
	}
	if err := rows.Err(); err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d tasks: %w", len(ids), err))
	}
	return found, nil
}

// Delete removes a finished task. deleted is false if it is not there or not finished, or has children that are not: a delete
// changes the children's rows too, and those of live tasks are the scheduler's, which locks them in an order of its own.
func (s *Store) Delete(ctx context.Context, id string) (deleted bool, err error) {
	tag, err := s.pool.Exec(ctx, `
		delete from task t where id = $1::text::uuid and state in ('completed', 'failed', 'canceled', 'skipped')
		and not exists (select from task c where c.parent_id = t.id and c.state in ('waiting', 'running', 'canceling'))`, id)
	if err != nil {
		return false, postgres.Away(fmt.Errorf("delete task %s: %w", id, err))
	}
	return tag.RowsAffected() == 1, nil
}

// InsertGroup stores an empty group.
func (s *Store) InsertGroup(ctx context.Context, id, domainID, description string) error {
	_, err := s.pool.Exec(ctx, `insert into task_group (id, domain_id, description) values ($1::text::uuid, $2::text::uuid, $3)`, id, domainID, description)
	if err != nil {
		return postgres.Away(fmt.Errorf("insert task group: %w", err))
	}
	return nil
}

// Reject cancels a task that would not wait, if it still does. rejected is false if it started or ended meanwhile.
func (s *Store) Reject(ctx context.Context, id string) (rejected bool, err error) {
	cause, err := json.Marshal(task.Error{Reason: task.ReasonUnavailable})
	if err != nil {
		return false, fmt.Errorf("encode the reason: %w", err)
	}
	tag, err := s.pool.Exec(ctx, `
		with hit as (
			update task set state = 'canceled', finished_at = now(), error = $2::text::json, updated_at = now()
			where id = $1::text::uuid and state = 'waiting'
			returning seq, id
		), gone as (
			delete from task_live l using hit where l.seq = hit.seq
		)
		insert into task_cancel (seq, task_id) select seq, id from hit on conflict do nothing`, id, string(cause))
	if err != nil {
		return false, postgres.Away(fmt.Errorf("reject task %s: %w", id, err))
	}
	return tag.RowsAffected() == 1, nil
}

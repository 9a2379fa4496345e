package dispatcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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

// insertTask reads its transaction id before the row takes its seq: the scheduler relies on it to know, by the ids of the
// transactions that are still open, when a number that it does not see will never come.
const insertTask = `
	with xact as materialized (
		select pg_current_xact_id()
	), new as (
		insert into task (id, domain_id, name, args, kwargs, exclusive, shared, immediate, deferred, versions,
		                  parent_id, group_id, correlation_id, traceparent, tracestate)
		select $1::text::uuid, $2::text::uuid, $3, $4::text::json, $5::text::json, $6::text[], $7::text[], $8, $9, $10::text::jsonb,
		       nullif($11::text, '')::uuid, nullif($12::text, '')::uuid, $13, $14, $15
		from xact
		returning *
	), live as (
		insert into task_live (seq, task_id) select seq, id from new
	)
	select seq, created_at, updated_at from new`

// Insert stores a task. Its place in the order and its times are set in it.
func (s *Store) Insert(ctx context.Context, t *New) error {
	versions, err := json.Marshal(t.Versions)
	if err != nil {
		return fmt.Errorf("encode versions of task %s: %w", t.ID, err)
	}
	err = s.pool.QueryRow(ctx, insertTask,
		t.ID, t.DomainID, t.Name, t.Args, t.Kwargs, t.Reserved.Exclusive, t.Reserved.Shared, t.Immediate, t.Deferred, string(versions),
		t.ParentID, t.GroupID, t.CorrelationID, t.Traceparent, t.Tracestate,
	).Scan(&t.Seq, &t.CreatedAt, &t.UpdatedAt)
	switch postgres.Constraint(err) {
	case "task_parent_id_fkey":
		return errs.Invalid(errs.Violation{Field: "task.parent_id", Rule: "must be the id of a task that exists"})
	case "task_group_id_fkey":
		return errs.Invalid(errs.Violation{Field: "task.group_id", Rule: "must be the id of a task group that exists"})
	}
	if err != nil {
		return postgres.Away(fmt.Errorf("insert task %s: %w", t.ID, err))
	}
	return nil
}

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

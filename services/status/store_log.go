package status

import (
	"context"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// Log reads a task's log. A task that wrote nothing has an empty one.
func (s *Store) Log(ctx context.Context, id string) (Log, error) {
	var l Log
	err := s.pool.QueryRow(ctx, `
		select coalesce(l.text, ''), coalesce(l.truncated, false), coalesce(greatest(l.written, octet_length(l.text)), 0)
		from task t left join task_log l on l.task_id = t.id where t.id = $1::text::uuid`, id).Scan(&l.Text, &l.Truncated, &l.Written)
	return l, logError("read", id, err)
}

// LogSince reads a task's log together with its state, and the text only if there is more than the caller has: its length is known
// without it. An attempt that was retried is known by its claim.
func (s *Store) LogSince(ctx context.Context, id string, claim, written int64) (LogAt, error) {
	var l LogAt
	err := s.pool.QueryRow(ctx, `
		select t.state, coalesce(l.claim, 0), coalesce(greatest(l.written, octet_length(l.text)), 0), coalesce(l.truncated, false),
		       case when l.claim <> $2 or greatest(l.written, octet_length(l.text)) > $3 then l.text else '' end,
		       coalesce((select a.attempt from task_attempt a where a.task_id = t.id and a.claim = l.claim and a.claim <> t.claim), t.attempt)
		from task t left join task_log l on l.task_id = t.id
		where t.id = $1::text::uuid`, id, claim, written).Scan(&l.State, &l.Claim, &l.Written, &l.Truncated, &l.Text, &l.Attempt)
	return l, logError("read", id, err)
}

// PutLog stores the log of one run, unless a later run has stored one.
func (s *Store) PutLog(ctx context.Context, id string, claim int64, l Log) error {
	_, err := s.pool.Exec(ctx, `
		insert into task_log (task_id, claim, text, truncated, written) values ($1::text::uuid, $2, $3, $4, $5)
		on conflict (task_id) do update set claim = excluded.claim, text = excluded.text, truncated = excluded.truncated,
		    written = excluded.written, updated_at = now()
		where task_log.claim <= excluded.claim`, id, claim, l.Text, l.Truncated, l.Written)
	return logError("store", id, err)
}

// logError words what went wrong with the log of a task.
func logError(what, id string, err error) error {
	switch {
	case noRow(err), postgres.Constraint(err) == "task_log_task_id_fkey":
		return errs.NotFound(errs.TaskNotFound, "no task %s", id)
	case err != nil:
		return postgres.Away(fmt.Errorf("%s the log of task %s: %w", what, id, err))
	}
	return nil
}

package postgres

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// TaskColumns are the columns of the task table that ScanTask reads, in its order. Two services show tasks; reading one
// stands here so that they can't differ.
const TaskColumns = `id::text, seq, name, state, exclusive, shared, immediate, deferred, versions, coalesce(parent_id::text, ''),
	coalesce(group_id::text, ''), correlation_id, created_at, updated_at, unblocked_at, started_at, finished_at,
	coalesce(executor, ''), coalesce(incarnation::text, ''), attempt, claim, coalesce(result::text, ''), error::text,
	coalesce(options::text, ''), case when state = 'waiting' then retry_at end`

// TaskColumnsWithout are TaskColumns of tasks whose results or errors nobody wants: large ones lie apart from their rows, and are not
// even looked for.
func TaskColumnsWithout(results, errors bool) string {
	columns := TaskColumns
	if results {
		columns = strings.Replace(columns, "coalesce(result::text, '')", "''", 1)
	}
	if errors {
		columns = strings.Replace(columns, "error::text", "null::text", 1)
	}
	return columns
}

// ScanTask reads a row of TaskColumns. An error of Scan comes back as it is, pgx.ErrNoRows among them.
func ScanTask(row pgx.Row) (*task.Task, error) {
	t := &task.Task{Domain: task.DefaultDomain}
	var cause *string
	var options string
	err := row.Scan(&t.ID, &t.Seq, &t.Name, &t.State, &t.Reserved.Exclusive, &t.Reserved.Shared, &t.Immediate, &t.Deferred, &t.Versions,
		&t.ParentID, &t.GroupID, &t.CorrelationID, &t.CreatedAt, &t.UpdatedAt, &t.UnblockedAt, &t.StartedAt, &t.FinishedAt,
		&t.Executor, &t.Incarnation, &t.Attempt, &t.Claim, &t.Result, &cause, &options, &t.RetryAt)
	if err != nil {
		return nil, err
	}
	if cause != nil {
		t.Error = &task.Error{}
		if err := json.Unmarshal([]byte(*cause), t.Error); err != nil {
			return nil, fmt.Errorf("decode the error of task %s: %w", t.ID, err)
		}
	}
	if t.Options, err = task.ParseOptions(options); err != nil {
		return nil, fmt.Errorf("read task %s: %w", t.ID, err)
	}
	return t, nil
}

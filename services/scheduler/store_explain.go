package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Particulars is what the tables know of a task, for an explanation.
type Particulars struct {
	State                           task.State
	Name, Executor                  string
	Attempt                         int32
	CreatedAt                       time.Time
	UnblockedAt, StartedAt, EndedAt *time.Time
	Error                           *task.Error // nil unless it failed or was canceled
	// LastBeatAt is when its executor was last heard of; nil unless it runs.
	LastBeatAt *time.Time
	// Progress is what its run has told, ProgressAt when it last did; nil if it never has.
	Progress   []part
	ProgressAt *time.Time
}

// part is how far one part of a task's work is, as it is stored.
type part struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	State   task.State `json:"state"`
	Total   *int64     `json:"total"`
	Done    int64      `json:"done"`
	Suffix  string     `json:"suffix"`
}

// readParticulars takes the progress of the run that has the task now: that of one before says nothing about it.
const readParticulars = `
	select t.state, t.name, coalesce(t.executor, ''), t.attempt, t.created_at, t.unblocked_at, t.started_at, t.finished_at,
	       coalesce(t.error::text, ''), case when t.finished_at is null then a.last_beat_at end,
	       coalesce(r.progress::text, ''), case when r.progress::text <> '[]' then r.updated_at end
	from task t
	left join app a on a.incarnation = t.incarnation
	left join task_report r on r.task_id = t.id and r.claim = t.claim
	where t.id = $1::text::uuid`

// Particulars reads what the tables know of a task; nil if there is none.
func (s *Store) Particulars(ctx context.Context, id string) (*Particulars, error) {
	var p Particulars
	var failure, progress string
	err := s.pool.QueryRow(ctx, readParticulars, id).Scan(&p.State, &p.Name, &p.Executor, &p.Attempt, &p.CreatedAt, &p.UnblockedAt,
		&p.StartedAt, &p.EndedAt, &failure, &p.LastBeatAt, &progress, &p.ProgressAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, postgres.Away(fmt.Errorf("read task %s: %w", id, err))
	}
	if failure != "" {
		p.Error = &task.Error{}
		if err := json.Unmarshal([]byte(failure), p.Error); err != nil {
			return nil, fmt.Errorf("read the error of task %s: %w", id, err)
		}
	}
	if progress != "" {
		if err := json.Unmarshal([]byte(progress), &p.Progress); err != nil {
			return nil, fmt.Errorf("read the progress of task %s: %w", id, err)
		}
	}
	return &p, nil
}

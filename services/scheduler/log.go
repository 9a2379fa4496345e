package scheduler

import (
	"log/slog"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// journal is the witness that logs what nobody else sees: runs that are over because their executor is gone. All other ends are logged
// where the task ran, and not a second time here, where everything waits for it.
type journal struct{ log *slog.Logger }

func (journal) started(*live, *Claimed) {}

func (j journal) failed(t *live, a Again, _ int64) {
	if a.Error != nil && a.Error.Code == task.CodeMissing {
		j.log.Warn("a run's executor has gone missing, another attempt follows", append(t.about(), slog.Int64("claim", a.Claim))...)
	}
}

func (j journal) ended(t *live, end End, state task.State, _ int64) {
	if end.Error != nil && end.Error.Code == task.CodeMissing {
		j.log.Warn("ended: its executor has gone missing", append(t.about(), slog.Int64("claim", end.Claim), slog.String("state", string(state)))...)
	}
}

// about is what a line of the log says of a task. Of one without a sampled trace the leader has not even the correlation id: what it
// holds of a million tasks must be little.
func (t *live) about() []any {
	about := []any{slog.String("task_id", t.id)}
	if t.lane != nil {
		about = append(about, slog.String("name", t.lane.name))
	}
	if t.story != nil && t.story.trace != nil {
		about = append(about, slog.String("correlation_id", t.story.trace.correlationID),
			slog.String("trace_id", t.story.trace.parent.TraceID().String()))
	}
	return about
}

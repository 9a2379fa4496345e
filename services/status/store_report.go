package status

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// putReport is a function of the schema; what it does stands in the migrations.
const putReport = `select status_put_report($1::text::uuid, $2, $3::text::json, $4::text::jsonb, $5::text[], $6::text::jsonb, $7)`

// PutReport stores what one run has told so far, unless a later run has told something. What stands in discarded is gone. What the
// run has added to the progress of its group since the last report is added there.
func (s *Store) PutReport(ctx context.Context, id string, r Report, discarded []string) error {
	parts := make([]string, 3)
	for i, list := range []any{r.Progress, r.Created, r.Group} {
		text, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encode the report of task %s: %w", id, err)
		}
		parts[i] = string(text)
	}
	_, err := s.pool.Exec(ctx, putReport, id, r.Claim, parts[0], parts[1], postgres.Texts(discarded), parts[2], limits.MaxCreated)
	switch {
	case postgres.Constraint(err) == "task_report_task_id_fkey":
		return errs.NotFound(errs.TaskNotFound, "no task %s", id)
	case err != nil:
		return postgres.Away(fmt.Errorf("store the report of task %s: %w", id, err))
	}
	return nil
}

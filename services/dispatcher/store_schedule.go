package dispatcher

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const insertSchedule = `
	select stored, first, at from dispatcher_create_schedule_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::integer, $13::interval,
		$14::timestamptz, $15::bigint, $16::bigint, $17, $18)`

// nameOfSchedule is the index that keeps names unique.
const nameOfSchedule = "task_schedule_domain_id_name_key"

// InsertSchedule stores a schedule, and sets its times in it. stored is false if there are as many as there may be.
func (s *Store) InsertSchedule(ctx context.Context, made *Schedule) (stored bool, err error) {
	t := made.Task
	versions, err := json.Marshal(t.Versions)
	if err != nil {
		return false, fmt.Errorf("encode versions of schedule %s: %w", made.ID, err)
	}
	options, err := t.Options.Text()
	if err != nil {
		return false, fmt.Errorf("store schedule %s: %w", made.ID, err)
	}
	var interval any
	if made.Interval > 0 {
		interval = made.Interval
	}
	err = s.pool.QueryRow(ctx, insertSchedule, made.ID, t.DomainID, made.Name, t.Name, t.Args, t.Kwargs,
		postgres.Texts(t.Reserved.Exclusive), postgres.Texts(t.Reserved.Shared), string(versions), t.CorrelationID, options, made.listed(),
		interval, made.Next, limits.MaxSchedules, maxListed, t.Traceparent, t.Tracestate).Scan(&stored, &made.Next, &made.CreatedAt)
	made.UpdatedAt = made.CreatedAt
	switch {
	case postgres.Constraint(err) == nameOfSchedule:
		return false, errs.Exists(errs.ScheduleExists, "there is a schedule %q already", made.Name)
	case err != nil:
		return false, postgres.Away(fmt.Errorf("store schedule %s: %w", made.ID, err))
	}
	return stored, nil
}

// selectSchedules reads schedules, with the arguments of their tasks if $1 says so, which may be some MiB of each.
const selectSchedules = `
	select s.id::text, s.domain_id::text, s.name, s.task_name, case when $1 then s.args::text else '' end, case when $1 then s.kwargs::text else '' end,
		s.exclusive, s.shared, s.versions, s.correlation_id, coalesce(s.options::text, ''), coalesce(s.dispatch_interval, '0'),
		s.next_dispatch, coalesce(t.id::text, ''), s.created_at, s.updated_at
	from task_schedule s left join task t on t.id = s.last_task_id`

// Schedules reads all schedules, by name, without the arguments of their tasks.
func (s *Store) Schedules(ctx context.Context) ([]*Schedule, error) {
	rows, err := s.pool.Query(ctx, selectSchedules+` order by s.name, s.id`, false)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("list schedules: %w", err))
	}
	defer rows.Close()
	var all []*Schedule
	for rows.Next() {
		found, err := scanSchedule(rows)
		if err != nil {
			return nil, fmt.Errorf("list schedules: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, postgres.Away(fmt.Errorf("list schedules: %w", err))
	}
	return all, nil
}

// Schedule reads one schedule.
func (s *Store) Schedule(ctx context.Context, id string) (*Schedule, error) {
	found, err := scanSchedule(s.pool.QueryRow(ctx, selectSchedules+` where s.id = $2::text::uuid`, true, id))
	switch {
	case nothing(err):
		return nil, noSchedule(id)
	case err != nil:
		return nil, postgres.Away(fmt.Errorf("read schedule %s: %w", id, err))
	}
	return found, nil
}

// scanSchedule reads a row of selectSchedules. An error of Scan comes back as it is.
func scanSchedule(row interface{ Scan(into ...any) error }) (*Schedule, error) {
	t := &New{}
	t.Domain = task.DefaultDomain
	found := &Schedule{Task: t}
	var options string
	err := row.Scan(&found.ID, &t.DomainID, &found.Name, &t.Name, &t.Args, &t.Kwargs, &t.Reserved.Exclusive, &t.Reserved.Shared, &t.Versions,
		&t.CorrelationID, &options, &found.Interval, &found.Next, &found.LastTaskID, &found.CreatedAt, &found.UpdatedAt)
	if err != nil {
		return nil, err
	}
	if t.Options, err = task.ParseOptions(options); err != nil {
		return nil, fmt.Errorf("read schedule %s: %w", found.ID, err)
	}
	return found, nil
}

// DeleteSchedule removes a schedule. deleted is false if it is not there.
func (s *Store) DeleteSchedule(ctx context.Context, id string) (deleted bool, err error) {
	tag, err := s.pool.Exec(ctx, `delete from task_schedule where id = $1::text::uuid`, id)
	if err != nil {
		return false, postgres.Away(fmt.Errorf("delete schedule %s: %w", id, err))
	}
	return tag.RowsAffected() == 1, nil
}

package dispatcher

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// InsertGroup stores an empty group.
func (s *Store) InsertGroup(ctx context.Context, id, domainID, description string) error {
	_, err := s.pool.Exec(ctx, `insert into task_group (id, domain_id, description) values ($1::text::uuid, $2::text::uuid, $3)`, id, domainID, description)
	if err != nil {
		return postgres.Away(fmt.Errorf("insert task group: %w", err))
	}
	return nil
}

// Unfinished lists the members of a group that wait or run, and counts those that are canceling.
func (s *Store) Unfinished(ctx context.Context, id string) (seqs []int64, canceling int64, err error) {
	const look = `
		select coalesce(array_agg(t.seq) filter (where t.state <> 'canceling'), '{}'), count(t.seq) filter (where t.state = 'canceling')
		from task_group g left join task t on t.group_id = g.id and t.state in ('waiting', 'running', 'canceling')
		where g.id = $1::text::uuid
		group by g.id`
	switch err := s.pool.QueryRow(ctx, look, id).Scan(&seqs, &canceling); {
	case nothing(err):
		return nil, 0, errs.NotFound(errs.GroupNotFound, "no task group %s", id)
	case err != nil:
		return nil, 0, postgres.Away(fmt.Errorf("read the members of task group %s: %w", id, err))
	}
	return seqs, canceling, nil
}

// cancelMembers is a function of the schema, which passes over what is locked; what it does stands in the migrations.
const cancelMembers = `
	with done as (select seq, state from dispatcher_cancel($1::bigint[], $2::text::json))
	select coalesce((select array_agg(seq) from done), '{}'), (select count(*) from done where state = 'canceled')`

// stillAlive are those of some tasks that wait or run.
const stillAlive = `
	select coalesce(array_agg(t.seq), '{}') from unnest($1::bigint[]) as asked (seq)
	cross join lateral (select k.seq from task k where k.seq = asked.seq and k.state in ('waiting', 'running') offset 0) t`

// CancelMembers asks tasks to stop.
func (s *Store) CancelMembers(ctx context.Context, seqs []int64) (changed []int64, canceled int64, left []int64, err error) {
	cause, err := json.Marshal(task.Error{Reason: task.ReasonCanceled})
	if err != nil {
		return nil, 0, nil, fmt.Errorf("encode the reason: %w", err)
	}
	if err := s.pool.QueryRow(ctx, cancelMembers, postgres.Bigints(seqs), string(cause)).Scan(&changed, &canceled); err != nil {
		return nil, 0, nil, postgres.Away(fmt.Errorf("cancel %d tasks: %w", len(seqs), err))
	}
	if len(changed) == len(seqs) {
		return changed, canceled, nil, nil
	}
	slices.Sort(changed)
	rest := slices.DeleteFunc(slices.Clone(seqs), func(seq int64) bool { _, hit := slices.BinarySearch(changed, seq); return hit })
	if err := s.pool.QueryRow(ctx, stillAlive, postgres.Bigints(rest)).Scan(&left); err != nil {
		return nil, 0, nil, postgres.Away(fmt.Errorf("read the states of %d tasks: %w", len(rest), err))
	}
	return changed, canceled, left, nil
}

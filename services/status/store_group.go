package status

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// groupColumns are what is read of a group g: the counts of its members and the parts of its progress as JSON. The sums can be larger
// than what JSON's readers take for a number; then the largest such number stands there.
const groupColumns = `
	g.id::text, g.description, g.created_at,
	(select coalesce(json_object_agg(c.state, c.count), '{}')
	 from (select t.state, count(*) from task t where t.group_id = g.id group by t.state) c)::text,
	(select coalesce(json_agg(p order by p.place), '[]')
	 from (select p.code, p.message, p.suffix, least(p.total, 9007199254740992)::bigint as total, least(p.done, 9007199254740992)::bigint as done, p.place
	       from task_group_progress p where p.group_id = g.id order by p.place limit $1) p)::text`

// scan reads groupColumns, with what stands after them.
func (g *Group) scan(scan func(...any) error, after ...any) error {
	var counts, progress string
	if err := scan(append([]any{&g.ID, &g.Description, &g.CreatedAt, &counts, &progress}, after...)...); err != nil {
		return err
	}
	g.Counts = map[task.State]int64{}
	if err := json.Unmarshal([]byte(counts), &g.Counts); err != nil {
		return fmt.Errorf("decode the counts of task group %s: %w", g.ID, err)
	}
	if err := json.Unmarshal([]byte(progress), &g.Progress); err != nil {
		return fmt.Errorf("decode the progress of task group %s: %w", g.ID, err)
	}
	return nil
}

// Group reads one group, in one statement: what it says of members and progress was so at one moment.
func (s *Store) Group(ctx context.Context, id string, parts int) (*Group, error) {
	rows, err := s.pool.Query(ctx, `select `+groupColumns+` from task_group g where g.id = $2::text::uuid`, parts, id)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read task group %s: %w", id, err))
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return nil, postgres.Away(fmt.Errorf("read task group %s: %w", id, err))
		}
		return nil, errs.NotFound(errs.GroupNotFound, "no task group %s", id)
	}
	g := &Group{}
	if err := g.scan(rows.Scan); err != nil {
		return nil, postgres.Away(fmt.Errorf("read task group %s: %w", id, err))
	}
	return g, nil
}

// Groups reads a page of groups, the newest first, with everything about them in one statement.
func (s *Store) Groups(ctx context.Context, size, offset, parts int) (groups []*Group, total int64, err error) {
	rows, err := s.pool.Query(ctx, `
		select `+groupColumns+`
		from (select * from task_group order by created_at desc, id desc limit $2 offset $3) g
		order by g.created_at desc, g.id desc`, parts, size, offset)
	if err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("list task groups: %w", err))
	}
	defer rows.Close()
	for rows.Next() {
		g := &Group{}
		if err := g.scan(rows.Scan); err != nil {
			return nil, 0, postgres.Away(fmt.Errorf("list task groups: %w", err))
		}
		groups = append(groups, g)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("list task groups: %w", err))
	}
	if err := s.pool.QueryRow(ctx, `select count(*) from task_group`).Scan(&total); err != nil {
		return nil, 0, postgres.Away(fmt.Errorf("count task groups: %w", err))
	}
	return groups, total, nil
}

package status

import (
	"context"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// putArtifact counts what there is under other names. One executor has the task and stores one after the other, so the count holds.
const putArtifact = `
	insert into task_artifact as stored (task_id, name, claim, key, content_type, data)
	select $1::text::uuid, $2::text, $3::bigint, $4::text, $5::text, $6::bytea
	where (select count(*) from task_artifact a where a.task_id = $1::text::uuid and a.name <> $2::text) < $7
	on conflict (task_id, name) do update set
		claim = excluded.claim, content_type = excluded.content_type, data = excluded.data, updated_at = now()
	where stored.claim <= excluded.claim
	returning 1`

// PutArtifact stores a diagnostic.
func (s *Store) PutArtifact(ctx context.Context, a *Artifact) error {
	data := a.Data
	if data == nil {
		data = []byte{}
	}
	tag, err := s.pool.Exec(ctx, putArtifact, a.TaskID, a.Name, a.Claim, a.Key, a.ContentType, data, limits.MaxArtifacts)
	switch {
	case postgres.Constraint(err) == "task_artifact_task_id_fkey":
		return errs.NotFound(errs.TaskNotFound, "no task %s", a.TaskID)
	case err != nil:
		return postgres.Away(fmt.Errorf("store %s of task %s: %w", a.Name, a.TaskID, err))
	case tag.RowsAffected() > 0:
		return nil
	}
	// Nothing was stored: a later run's is there, which is as it should be, or there was no room.
	stored, err := s.Artifacts(ctx, a.TaskID)
	if err != nil {
		return err
	}
	for _, other := range stored {
		if other.Name == a.Name {
			return nil
		}
	}
	return ErrManyArtifacts
}

// Artifacts lists the diagnostics of a task, by name, without their content.
func (s *Store) Artifacts(ctx context.Context, id string) ([]*Artifact, error) {
	rows, err := s.pool.Query(ctx, `
		select a.name, a.claim, a.key, a.content_type, length(a.data)
		from task t left join task_artifact a on a.task_id = t.id
		where t.id = $1::text::uuid order by a.name collate "C"`, id)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("list diagnostics of task %s: %w", id, err))
	}
	defer rows.Close()
	var found []*Artifact
	there := false
	for rows.Next() {
		there = true
		var name, key, contentType *string
		var claim, size *int64
		if err := rows.Scan(&name, &claim, &key, &contentType, &size); err != nil {
			return nil, postgres.Away(fmt.Errorf("list diagnostics of task %s: %w", id, err))
		}
		if name != nil {
			found = append(found, &Artifact{TaskID: id, Name: *name, Claim: *claim, Key: *key, ContentType: *contentType, Size: *size})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, postgres.Away(fmt.Errorf("list diagnostics of task %s: %w", id, err))
	}
	if !there {
		return nil, errs.NotFound(errs.TaskNotFound, "no task %s", id)
	}
	return found, nil
}

// Artifact reads a diagnostic. The key is compared by the database: 130 bits of randomness can't be found out by how long that takes.
func (s *Store) Artifact(ctx context.Context, id, name, key string) (a *Artifact, found bool, err error) {
	rows, err := s.pool.Query(ctx, `
		select claim, content_type, data from task_artifact
		where task_id = $1::text::uuid and name = $2 and key = $3`, id, name, key)
	if err != nil {
		return nil, false, postgres.Away(fmt.Errorf("read %s of task %s: %w", name, id, err))
	}
	defer rows.Close()
	a = &Artifact{TaskID: id, Name: name, Key: key}
	if found = rows.Next(); found {
		if err := rows.Scan(&a.Claim, &a.ContentType, &a.Data); err != nil {
			return nil, false, postgres.Away(fmt.Errorf("read %s of task %s: %w", name, id, err))
		}
		a.Size = int64(len(a.Data))
	}
	if err := rows.Err(); err != nil {
		return nil, false, postgres.Away(fmt.Errorf("read %s of task %s: %w", name, id, err))
	}
	return a, found, nil
}

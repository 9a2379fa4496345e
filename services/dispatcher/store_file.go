package dispatcher

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// dropParts is how many parts of a removed file one transaction deletes: each is a hundred rows and more to PostgreSQL.
const dropParts = 64

func noFile(id string) error {
	return errs.NotFound(errs.FileNotFound, "there is no temporary file %s", id)
}

// StartFile stores a file with its first part, which may be empty. With a digest it is complete.
func (s *Store) StartFile(ctx context.Context, f *File, first []byte) error {
	const start = `
		with new as (
			insert into temporary_file (id, name, state, size, sha256)
			select $1::text::uuid, $2::text, case $4::text when '' then 'uploading' else 'complete' end, $3::bigint, nullif($4::text, '')
			returning id
		)
		insert into temporary_file_part (file_id, part, data) select id, 0, $5::bytea from new`
	if _, err := s.pool.Exec(ctx, start, f.ID, f.Name, f.Size, f.SHA256, first); err != nil {
		return postgres.Away(fmt.Errorf("begin file %s: %w", f.ID, err))
	}
	return nil
}

// AddPart stores a further part. added is false when the upload was given up meanwhile.
func (s *Store) AddPart(ctx context.Context, id string, part int, data []byte) (added bool, err error) {
	const add = `
		with touched as (
			update temporary_file set used_at = now()
			where id = $1::text::uuid and state = 'uploading' and used_at < now() - interval '1 minute'
		)
		insert into temporary_file_part (file_id, part, data)
		select id, $2::integer, $3::bytea from temporary_file where id = $1::text::uuid and state = 'uploading'`
	tag, err := s.pool.Exec(ctx, add, id, part, data)
	if err != nil {
		return false, postgres.Away(fmt.Errorf("store part %d of file %s: %w", part, id, err))
	}
	return tag.RowsAffected() == 1, nil
}

// CompleteFile makes a file visible, if all of it is there. completed is false when the upload was given up meanwhile.
func (s *Store) CompleteFile(ctx context.Context, f *File, parts int) (completed bool, err error) {
	const complete = `
		update temporary_file set state = 'complete', size = $2::bigint, sha256 = $3::text, used_at = now()
		where id = $1::text::uuid and state = 'uploading'
		and (select count(*) = $4::bigint and sum(octet_length(data)) = $2::bigint from temporary_file_part where file_id = $1::text::uuid)`
	tag, err := s.pool.Exec(ctx, complete, f.ID, f.Size, f.SHA256, parts)
	if err != nil {
		return false, postgres.Away(fmt.Errorf("complete file %s: %w", f.ID, err))
	}
	return tag.RowsAffected() == 1, nil
}

// AbandonFile gives up an upload. It may be complete, if only the answer that said so was lost: nobody was told its id.
func (s *Store) AbandonFile(ctx context.Context, id string) error {
	if _, err := s.pool.Exec(ctx, `update temporary_file set state = 'removed' where id = $1::text::uuid`, id); err != nil {
		return postgres.Away(fmt.Errorf("give up file %s: %w", id, err))
	}
	return nil
}

// UseFile reads what there is to know of a complete file, and notes that it was used: to the minute, so that many readers of
// one file do not write its row each.
func (s *Store) UseFile(ctx context.Context, id string) (*File, error) {
	const use = `
		with touched as (
			update temporary_file set used_at = now()
			where id = $1::text::uuid and state = 'complete' and used_at < now() - interval '1 minute'
		)
		select name, size, sha256 from temporary_file where id = $1::text::uuid and state = 'complete'`
	f := &File{ID: id}
	err := s.pool.QueryRow(ctx, use, id).Scan(&f.Name, &f.Size, &f.SHA256)
	if nothing(err) {
		return nil, noFile(id)
	}
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("find file %s: %w", id, err))
	}
	return f, nil
}

// Part reads one part of a file.
func (s *Store) Part(ctx context.Context, id string, part int) ([]byte, error) {
	var data []byte
	err := s.pool.QueryRow(ctx, `select data from temporary_file_part where file_id = $1::text::uuid and part = $2::integer`, id, part).Scan(&data)
	if nothing(err) {
		return nil, noFile(id) // any more: it was removed meanwhile
	}
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read part %d of file %s: %w", part, id, err))
	}
	return data, nil
}

// RemoveFile lets a file vanish, unless it is used by a task that is not final. Of one that is not there, neither is true.
func (s *Store) RemoveFile(ctx context.Context, id string) (removed, used bool, err error) {
	var done *bool
	if err := s.pool.QueryRow(ctx, `select dispatcher_remove_file($1)`, id).Scan(&done); err != nil {
		return false, false, postgres.Away(fmt.Errorf("remove file %s: %w", id, err))
	}
	return done != nil && *done, done != nil && !*done, nil
}

// SweepFiles lets files vanish that nobody has used for the protection time and no task has that is not final, and uploads of
// which nothing came for the time of patience: at most so many of each. It returns the ids of as many that have vanished, by
// this or before, and whose parts are to be dropped.
func (s *Store) SweepFiles(ctx context.Context, protection, patience time.Duration, most int) ([]string, error) {
	// A use is noted to the minute.
	protection += time.Minute
	var ids []string
	err := s.pool.QueryRow(ctx, `
		select coalesce(array_agg(id), '{}')
		from dispatcher_sweep_files($1::bigint * interval '1 ms', $2::bigint * interval '1 ms', $3::integer) id`,
		protection.Milliseconds(), patience.Milliseconds(), most).Scan(&ids)
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("look for old files: %w", err))
	}
	return ids, nil
}

// DropFile deletes what is left of a file that has vanished. When others do the same, they share the work.
func (s *Store) DropFile(ctx context.Context, id string) error {
	for {
		tag, err := s.pool.Exec(ctx, `
			delete from temporary_file_part where file_id = $1::text::uuid and part = any (array(
				select p.part from temporary_file_part p join temporary_file f on f.id = p.file_id
				where f.id = $1::text::uuid and f.state = 'removed' order by p.part limit $2::integer for update of p skip locked))`, id, dropParts)
		if err != nil {
			return postgres.Away(fmt.Errorf("delete parts of file %s: %w", id, err))
		}
		if tag.RowsAffected() == 0 {
			break
		}
	}
	if _, err := s.pool.Exec(ctx, `delete from temporary_file where id = $1::text::uuid and state = 'removed'`, id); err != nil {
		return postgres.Away(fmt.Errorf("delete file %s: %w", id, err))
	}
	return nil
}

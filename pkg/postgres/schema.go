package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// SchemaVersion returns the version of the schema in the database; 0 when it was never migrated.
func SchemaVersion(ctx context.Context, db Querier) (int64, error) {
	var version int64
	err := db.QueryRow(ctx, "select coalesce(max(version_id), 0) from "+versionTable).Scan(&version)
	if code(err) == codeUndefinedTable {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	return version, nil
}

// CheckSchema returns nil when the schema in the database is that of this binary or newer, otherwise ErrSchemaOld with both
// versions and what to do. A service calls it before it touches any table. A newer schema is none of its business: in an
// upgrade the database goes first, and an old process that is restarted then must come up.
func CheckSchema(ctx context.Context, db Querier) error {
	head, err := headVersion(migrations())
	if err != nil {
		return err
	}
	return checkSchema(ctx, db, head)
}

func checkSchema(ctx context.Context, db Querier, head int64) error {
	version, err := SchemaVersion(ctx, db)
	if err != nil {
		return err
	}
	if version < head {
		return fmt.Errorf("%w: the database is at version %d, this binary needs %d: run `sluice migrate`", ErrSchemaOld, version, head)
	}
	return nil
}

func schemaNew(version, head int64) error {
	return fmt.Errorf("%w: the database is at version %d, this binary knows %d: run the newer sluice", ErrSchemaNew, version, head)
}

// headVersion is the version of the last migration in files.
func headVersion(files fs.FS) (int64, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return 0, fmt.Errorf("list migrations: %w", err)
	}
	var head int64
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, fmt.Errorf("read the version of migration %s: %w", name, err)
		}
		head = max(head, version)
	}
	if head == 0 {
		return 0, errors.New("list migrations: none are built in")
	}
	return head, nil
}

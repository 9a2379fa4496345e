package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed migrations/*.sql
var embedded embed.FS

// migrationLock is the key of the advisory lock that makes migrators queue. Its value means nothing ("sluice" in
// ASCII); it must only never change, or an old and a new binary would migrate side by side.
const migrationLock int64 = 0x736c75696365

const versionTable = goose.DefaultTablename

// ErrSchemaOld says that the database is older than this binary; ErrSchemaNew that it is newer.
var (
	ErrSchemaOld = errors.New("database schema is older than this binary")
	ErrSchemaNew = errors.New("database schema is newer than this binary")
)

// Migrate brings the database at url to the schema of this binary, all of it or nothing, and returns at once when it is
// there already. There is no way back: an error in a migration is mended by a later one.
//
// Any number of processes may call it at the same time, directly or through a pooler in transaction mode. A database
// that is newer than the binary is left alone and reported as ErrSchemaNew.
func Migrate(ctx context.Context, url string, log *slog.Logger) error {
	return migrate(ctx, url, migrations(), log)
}

// migrations is the embedded folder without its name, as goose wants it.
func migrations() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the name is a constant of a valid form
	}
	return sub
}

func migrate(ctx context.Context, url string, files fs.FS, log *slog.Logger) (err error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return parseError(err)
	}
	poolerSafe(cfg, url, "sluice migrate")
	db := stdlib.OpenDB(*cfg)
	defer func() { err = errors.Join(err, db.Close()) }()

	store, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	head, err := headVersion(files)
	if err != nil {
		return err
	}
	version, err := prepareVersionTable(ctx, db, store)
	if err != nil {
		return err
	}
	if version > head {
		return schemaNew(version, head)
	}
	return runPending(ctx, db, store, files, head, log)
}

// runPending has goose apply everything in one transaction.
//
// Goose offers a session lock, which through a pooler in transaction mode is granted to everybody at once. A
// transaction holds its server session, so the lock is an advisory lock of the transaction, and for the lock to cover
// the work, the work has to be in that same transaction. WithIsolateDDL is what makes goose open none of its own: it
// then runs each statement on the one connection it gave to the session locker, which has begun the transaction. As a
// gift an upgrade over several versions is atomic.
func runPending(ctx context.Context, db *sql.DB, store database.Store, files fs.FS, head int64, log *slog.Logger) error {
	lock := &transactionLock{store: store, head: head}
	provider, err := goose.NewProvider(goose.DialectCustom, db, files,
		goose.WithStore(store),
		goose.WithSessionLocker(lock),
		goose.WithIsolateDDL(true),
		goose.WithDisableGlobalRegistry(true),
	)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	for _, r := range results {
		log.InfoContext(ctx, "migrated database", "version", r.Source.Version, "file", r.Source.Path, "took", r.Duration)
	}
	return nil
}

// transactionLock is a goose session locker whose session is a transaction.
type transactionLock struct {
	store database.Store
	head  int64
}

// SessionLock begins the transaction and waits for the migrators before us. A waiter holds one server connection and
// needs no second one, so that even a pooler with a single connection gets through.
func (l *transactionLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, "begin"); err != nil {
		return fmt.Errorf("begin migration: %w", err)
	}
	if err := lockMigrations(ctx, conn); err != nil {
		_, rbErr := conn.ExecContext(context.WithoutCancel(ctx), "rollback")
		return errors.Join(err, rbErr)
	}
	return nil
}

// SessionUnlock commits if the last migration is recorded and rolls back otherwise. Goose does not tell a locker how
// the run ended. When ctx ended between a migration and the note that it ran, the transaction is healthy and a blind
// commit would keep the one without the other; the note of the last migration is the last statement of a run.
func (l *transactionLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	version, err := l.store.GetLatestVersion(ctx, conn)
	if err == nil && version == l.head {
		if _, err := conn.ExecContext(ctx, "commit"); err != nil {
			return fmt.Errorf("commit migration: %w", err)
		}
		return nil
	}
	_, _ = conn.ExecContext(ctx, "rollback") // with the connection gone, the server does it
	if err != nil && code(err) != codeFailedTransaction {
		return fmt.Errorf("end migration: %w", err) // a run that went well is lost with its connection
	}
	return nil // the run has failed and says why
}

// lockMigrations waits until no other migrator is at work. Limits that a role sets for its ordinary statements do not
// apply to waiting here, nor to the migration: the caller's context does.
func lockMigrations(ctx context.Context, db database.DBTxConn) error {
	const limits = "set local statement_timeout = 0; set local lock_timeout = 0;" +
		" set local idle_in_transaction_session_timeout = 0"
	if _, err := db.ExecContext(ctx, limits); err != nil {
		return fmt.Errorf("lift limits for the migration: %w", err)
	}
	if _, err := db.ExecContext(ctx, "select pg_advisory_xact_lock($1)", migrationLock); err != nil {
		return fmt.Errorf("wait for other migrators: %w", err)
	}
	return nil
}

// prepareVersionTable creates the version table if it is missing and returns the version it holds. Goose would create
// it too, but before it takes the lock and in two steps, and a crash between the two would leave a table that no
// later run accepts.
func prepareVersionTable(ctx context.Context, db *sql.DB, store database.Store) (version int64, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("begin migration: %w", err)
	}
	defer func() {
		if rbErr := tx.Rollback(); !errors.Is(rbErr, sql.ErrTxDone) {
			err = errors.Join(err, rbErr)
		}
	}()
	if err := lockMigrations(ctx, tx); err != nil {
		return 0, err
	}
	var missing bool
	if err := tx.QueryRowContext(ctx, "select to_regclass($1) is null", versionTable).Scan(&missing); err != nil {
		return 0, fmt.Errorf("look for the version table: %w", err)
	}
	if missing {
		if err := store.CreateVersionTable(ctx, tx); err != nil {
			return 0, fmt.Errorf("create the version table: %w", err)
		}
		if err := store.Insert(ctx, tx, database.InsertRequest{Version: 0}); err != nil {
			return 0, fmt.Errorf("fill the version table: %w", err)
		}
	}
	version, err = store.GetLatestVersion(ctx, tx)
	if err != nil {
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("commit the version table: %w", err)
	}
	return version, nil
}

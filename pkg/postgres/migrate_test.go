package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver that goose's types need
	"github.com/pressly/goose/v3/database"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// files are migrations 1, 2, … with these statements.
func files(ups ...string) fs.FS {
	all := fstest.MapFS{}
	for i, up := range ups {
		all[fmt.Sprintf("%05d_step.sql", i+1)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + up + "\n")}
	}
	return all
}

func schemaVersion(t *testing.T, db postgres.Querier) int64 {
	t.Helper()
	version, err := postgres.SchemaVersion(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func TestMigrateBringsAnEmptyDatabaseToThisBinary(t *testing.T) {
	url := pgtest.EmptyURL(t)
	pool := pgtest.Open(t, url)
	if err := postgres.CheckSchema(t.Context(), pool); !errors.Is(err, postgres.ErrSchemaOld) || !strings.Contains(err.Error(), "`sluice migrate`") {
		t.Errorf("before: %v, want ErrSchemaOld and what to run", err)
	}
	for range 2 { // the second time there is nothing to do
		if err := postgres.Migrate(t.Context(), url, quiet()); err != nil {
			t.Fatal(err)
		}
		if err := postgres.CheckSchema(t.Context(), pool); err != nil {
			t.Errorf("after: %v", err)
		}
	}
}

func TestNewerDatabaseIsLeftAlone(t *testing.T) {
	url := pgtest.URL(t)
	pool := pgtest.Open(t, url)
	if _, err := pool.Exec(t.Context(), "insert into goose_db_version (version_id, is_applied) values (99999, true)"); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Migrate(t.Context(), url, quiet()); !errors.Is(err, postgres.ErrSchemaNew) || !strings.Contains(err.Error(), "99999") {
		t.Errorf("Migrate = %v, want ErrSchemaNew with the version", err)
	}
	// In an upgrade the database goes first; an old process that is restarted then must come up.
	if err := postgres.CheckSchema(t.Context(), pool); err != nil {
		t.Errorf("CheckSchema = %v", err)
	}
}

func TestMigrateAppliesOnlyWhatIsNew(t *testing.T) {
	url := pgtest.EmptyURL(t)
	pool := pgtest.Open(t, url)
	steps := []string{"create table one (n int);", "create table two (n int);", "create table three (n int);"}
	for _, upTo := range []int{1, 3} {
		if err := postgres.MigrateFiles(t.Context(), url, files(steps[:upTo]...), quiet()); err != nil {
			t.Fatal(err)
		}
		if got := schemaVersion(t, pool); got != int64(upTo) {
			t.Errorf("version %d, want %d", got, upTo)
		}
	}
	if err := postgres.CheckSchemaAt(t.Context(), pool, 3); err != nil {
		t.Error(err)
	}
}

func TestMigratorsAtTheSameTimeApplyEachStepOnce(t *testing.T) {
	url := pgtest.EmptyURL(t)
	steps := files("create table one (n int); select pg_sleep(0.05);", "insert into one values (1);", "insert into one values (2);")
	migrateAtOnce(t, url, steps, 8)
	assertAppliedOnce(t, url)
}

// migrateAtOnce starts migrators together and fails the test unless all of them succeed.
func migrateAtOnce(t *testing.T, url string, steps fs.FS, migrators int) {
	t.Helper()
	begin, errs := make(chan struct{}), make(chan error)
	for range migrators {
		go func() {
			<-begin
			errs <- postgres.MigrateFiles(t.Context(), url, steps, quiet())
		}()
	}
	close(begin)
	for range migrators {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func assertAppliedOnce(t *testing.T, url string) {
	t.Helper()
	pool := pgtest.Open(t, url)
	var rows string
	if err := pool.QueryRow(t.Context(), "select string_agg(n::text, ' ' order by n) from one").Scan(&rows); err != nil || rows != "1 2" {
		t.Errorf("rows %q, %v; want 1 2", rows, err)
	}
	var versions string
	const q = "select string_agg(version_id::text, ' ' order by id) from goose_db_version"
	if err := pool.QueryRow(t.Context(), q).Scan(&versions); err != nil || versions != "0 1 2 3" {
		t.Errorf("versions %q, %v; want 0 1 2 3", versions, err)
	}
}

func TestMigratorWaitsForTheOneAtWork(t *testing.T) {
	url := pgtest.EmptyURL(t)
	pool := pgtest.Open(t, url)
	hold, err := pool.Begin(t.Context()) // holds up the first migrator in the middle of its work
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hold.Rollback(t.Context()) }() // if something is wrong
	if _, err := hold.Exec(t.Context(), "select pg_advisory_xact_lock(42)"); err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() {
		first <- postgres.MigrateFiles(t.Context(), url, files("create table one (n int); select pg_advisory_xact_lock(42);"), quiet())
	}()
	waiting := func(n int) func() bool {
		return func() bool {
			var got int
			err := pool.QueryRow(t.Context(), `select count(*) from pg_locks l join pg_database d on d.oid = l.database
				where locktype = 'advisory' and not granted and datname = current_database()`).Scan(&got)
			return err == nil && got == n
		}
	}
	probe.Eventually(t, "first migrator waits for us", waiting(1))
	second := make(chan error, 1)
	go func() { second <- postgres.MigrateFiles(t.Context(), url, files("create table one (n int);"), quiet()) }()
	probe.Eventually(t, "second migrator waits for the first", waiting(2))
	if err := hold.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, done := range []chan error{first, second} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	url := pgtest.EmptyURL(t)
	pool := pgtest.Open(t, url)
	err := postgres.MigrateFiles(t.Context(), url, files("create table one (n int);", "create table two (n int); select 1/0;"), quiet())
	if err == nil || !strings.Contains(err.Error(), "division by zero") {
		t.Fatalf("error = %v, want the database's", err)
	}
	assertAbsent(t, pool, "one")
	assertAbsent(t, pool, "two")
	if got := schemaVersion(t, pool); got != 0 {
		t.Errorf("version %d, want 0", got)
	}
	if err := postgres.MigrateFiles(t.Context(), url, files("create table one (n int);", "create table two (n int);"), quiet()); err != nil {
		t.Errorf("mended: %v", err)
	}
}

func TestCanceledMigrationLeavesNothing(t *testing.T) {
	url := pgtest.EmptyURL(t)
	pool := pgtest.Open(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- postgres.MigrateFiles(ctx, url, files("create table one (n int);", "select pg_sleep(600);"), quiet())
	}()
	probe.Eventually(t, "migration sleeps", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").Scan(&n)
		return err == nil && n == 1
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	assertAbsent(t, pool, "one")
	if err := postgres.MigrateFiles(t.Context(), url, files("create table one (n int);"), quiet()); err != nil {
		t.Errorf("next migrator: %v", err)
	}
}

// TestUnfinishedRunIsNotCommitted is about the moment between a migration and the note that it ran, which no test can
// hit from outside.
func TestUnfinishedRunIsNotCommitted(t *testing.T) {
	url := pgtest.EmptyURL(t)
	if err := postgres.MigrateFiles(t.Context(), url, files("create table one (n int);"), quiet()); err != nil {
		t.Fatal(err)
	}
	store, err := database.NewStore(database.DialectPostgres, "goose_db_version")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, recorded := range []bool{false, true} {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lock := postgres.NewTransactionLock(store, 2)
		if err := lock.SessionLock(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.ExecContext(t.Context(), "create table two (n int)"); err != nil {
			t.Fatal(err)
		}
		if recorded {
			if err := store.Insert(t.Context(), conn, database.InsertRequest{Version: 2}); err != nil {
				t.Fatal(err)
			}
		}
		if err := lock.SessionUnlock(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		var there bool
		if err := conn.QueryRowContext(t.Context(), "select to_regclass('two') is not null").Scan(&there); err != nil {
			t.Fatal(err)
		}
		if there != recorded {
			t.Errorf("recorded %t: table is there %t", recorded, there)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRunThatLostItsConnectionIsNotASuccess is about the moment before the commit.
func TestRunThatLostItsConnectionIsNotASuccess(t *testing.T) {
	url := pgtest.EmptyURL(t)
	if err := postgres.MigrateFiles(t.Context(), url, files("create table one (n int);"), quiet()); err != nil {
		t.Fatal(err)
	}
	store, err := database.NewStore(database.DialectPostgres, "goose_db_version")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lock := postgres.NewTransactionLock(store, 2)
	if err := lock.SessionLock(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	var backend int
	if err := conn.QueryRowContext(t.Context(), "select pg_backend_pid()").Scan(&backend); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "select pg_terminate_backend($1)", backend); err != nil {
		t.Fatal(err)
	}
	if err := lock.SessionUnlock(t.Context(), conn); !postgres.IsUnavailable(err) {
		t.Errorf("SessionUnlock = %v, want that the connection was lost", err)
	}
}

func TestMigrationMayTakeLongerThanTheRoleAllows(t *testing.T) {
	url := pgtest.EmptyURL(t)
	pool := pgtest.Open(t, url)
	if _, err := pool.Exec(t.Context(), "do $$ begin execute format('alter database %I set statement_timeout = 50', current_database()); end $$"); err != nil {
		t.Fatal(err)
	}
	if err := postgres.MigrateFiles(t.Context(), url, files("select pg_sleep(0.2);"), quiet()); err != nil {
		t.Error(err)
	}
}

func TestMigrateKeepsNoSessionState(t *testing.T) {
	url := pgtest.EmptyURL(t)
	statements := pgtest.LogStatements(t, url)
	if err := postgres.Migrate(t.Context(), url, quiet()); err != nil {
		t.Fatal(err)
	}
	all := statements()
	if len(all) == 0 {
		t.Fatal("nothing was logged")
	}
	session := regexp.MustCompile(`(?i)^\S+ ?\S*: *(listen|unlisten|set ([^l]|l[^o])|prepare|declare|create temp)|pg_advisory_lock|pg_try_advisory_lock`)
	for _, s := range all {
		if session.MatchString(s) || strings.HasPrefix(s, "execute ") && !strings.HasPrefix(s, "execute <unnamed>") {
			t.Errorf("session state: %s", s)
		}
	}
}

// TestBuiltInMigrationsFitOneTransaction keeps out what cannot run in a transaction; see runPending.
func TestBuiltInMigrationsFitOneTransaction(t *testing.T) {
	names, err := fs.Glob(postgres.BuiltIn(), "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("migrations %v, %v", names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(postgres.BuiltIn(), name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"+goose NO TRANSACTION", "+goose Down"} {
			if strings.Contains(string(text), word) {
				t.Errorf("%s has %q: migrations run in one transaction, and only forward", name, word)
			}
		}
	}
}

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestUniqueViolationNamesItsConstraint(t *testing.T) {
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), "create table taken (id int constraint taken_id primary key); insert into taken values (1)"); err != nil {
		t.Fatal(err)
	}
	_, err := pool.Exec(t.Context(), "insert into taken values (1)")
	err = fmt.Errorf("insert: %w", err)
	if postgres.Constraint(err) != "taken_id" {
		t.Errorf("Constraint = %q for %v", postgres.Constraint(err), err)
	}
	if postgres.IsUnavailable(err) || postgres.IsRetryable(err) {
		t.Errorf("%v is not the database's fault", err)
	}
}

func TestIsUnavailable(t *testing.T) {
	state := func(code string) error { return fmt.Errorf("x: %w", &pgconn.PgError{Code: code}) }
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{state("53300"), true},  // too many connections
		{state("53100"), true},  // disk full
		{state("57P01"), true},  // shut down by the administrator
		{state("57P03"), true},  // starting up
		{state("08P01"), true},  // any refusal of PgBouncer
		{state("25006"), true},  // a standby, after a failover
		{state("28P01"), true},  // our password is wrong
		{state("57014"), false}, // statement canceled
		{state("23505"), false},
		{state("42601"), false},
		{io.ErrUnexpectedEOF, true},
		{net.ErrClosed, true},
		{context.Canceled, false},
		{context.DeadlineExceeded, false},
		{errors.New("other"), false},
	} {
		if got := postgres.IsUnavailable(tc.err); got != tc.want {
			t.Errorf("IsUnavailable(%v) = %t, want %t", tc.err, got, tc.want)
		}
	}
}

func TestWhoeverCallsIsToldWhyTheDatabaseIsAwayInOurWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&pgconn.PgError{Code: "25006", Message: "theirs"}, "the database takes no writes"},
		{&pgconn.PgError{Code: "53100", Message: "theirs"}, "the disk of the database is full"},
		{&pgconn.PgError{Code: "53300", Message: "theirs"}, "the database is short of connections or memory"},
		{&pgconn.PgError{Code: "57P01", Message: "theirs"}, "the database can't be reached"},
		{io.ErrUnexpectedEOF, "the database can't be reached"},
	} {
		away := postgres.Away(fmt.Errorf("insert: %w", c.err))
		var e *errs.Error
		if !errors.As(away, &e) || e.Reason != errs.DatabaseAway || e.Message != c.want || e.RetryAfter == 0 {
			t.Errorf("%v becomes %#v, want %q", c.err, away, c.want)
		}
	}
}

func TestTerminatedConnectionIsUnavailable(t *testing.T) {
	pool := pgtest.New(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := pool.Exec(t.Context(), "select pg_terminate_backend($1)", int32(conn.Conn().PgConn().PID())); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), "select 1")
	if !postgres.IsUnavailable(err) {
		t.Errorf("IsUnavailable(%v) = false", err)
	}
}

func TestRefusedConnectionIsUnavailable(t *testing.T) {
	_, err := postgres.Open(t.Context(), "host=/nowhere user=u", postgres.Options{})
	if !postgres.IsUnavailable(err) {
		t.Errorf("IsUnavailable(%v) = false", err)
	}
}

func TestADatabaseThatIsClosedIsUnavailable(t *testing.T) {
	url := pgtest.URL(t)
	name := pgtest.One[string](t, pgtest.Open(t, url), "select current_database()")
	elsewhere := pgtest.New(t)
	if _, err := elsewhere.Exec(t.Context(), "alter database "+name+" allow_connections false"); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), url, postgres.Options{}); !postgres.IsUnavailable(err) {
		t.Errorf("IsUnavailable(%v) = false", err)
	}
}

func TestClosedPoolIsUnavailable(t *testing.T) {
	pool := pgtest.New(t)
	pool.Close()
	_, err := pool.Exec(t.Context(), "select 1")
	if !postgres.IsUnavailable(err) {
		t.Errorf("IsUnavailable(%v) = false", err)
	}
}

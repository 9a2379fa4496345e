package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

// SQLSTATE codes that mean something to us.
const (
	codeReadOnly             = "25006"
	codeFailedTransaction    = "25P02"
	codeSerializationFailure = "40001"
	codeDeadlock             = "40P01"
	codeUndefinedTable       = "42P01"
	codeDiskFull             = "53100"
)

// Away makes of an error about the database being away one that callers may see, and that tells them to try again. Other errors
// come back as they are.
func Away(err error) error {
	if IsUnavailable(err) {
		return errs.Away(errs.DatabaseAway, err, "%s", whyAway(err))
	}
	return err
}

// whyAway says what whoever calls may want to tell an operator. The server's own text stays in the log.
func whyAway(err error) string {
	switch c := code(err); {
	case c == codeReadOnly:
		return "the database takes no writes"
	case c == codeDiskFull:
		return "the disk of the database is full"
	case strings.HasPrefix(c, "53"):
		return "the database is short of connections or memory"
	default:
		return "the database can't be reached"
	}
}

// Constraint names the constraint or index that err says was violated; "" if it says nothing of the kind.
func Constraint(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	return pg.ConstraintName
}

// Answered reports whether the server itself answered with an error: then it did nothing. After any other error, that of a
// broken connection for one, it may have done everything.
func Answered(err error) bool { return code(err) != "" }

// IsRetryable reports whether PostgreSQL undid the transaction and asks for it to be repeated as a whole:
// serialization failure or deadlock.
func IsRetryable(err error) bool {
	c := code(err)
	return c == codeSerializationFailure || c == codeDeadlock
}

// IsUnavailable reports whether err is about the database being away, starting, stopping, failing over or full, rather
// than about the statement. The same call may succeed later. Whether a statement that failed like this had an effect
// is not known: a connection can break after the commit.
//
// False for a context the caller canceled, which says nothing about the database.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	// Whatever the server says to one who connects, it lets nobody in: a database that is closed says 55000, like many a statement.
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return true
	}
	if c := code(err); c != "" {
		return unavailableCode(c)
	}
	var network net.Error
	if errors.As(err, &network) && !errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	for _, target := range []error{
		errNoAnswer, driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, pgconn.ErrConnClosed, puddle.ErrClosedPool,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func unavailableCode(c string) bool {
	// After a failover the old address may answer as a standby: it is up, and every write fails.
	if c == codeReadOnly {
		return true
	}
	// 08 connection (PgBouncer reports all of its own refusals as 08P01), 53 out of connections, memory or disk,
	// 57P shutting down or starting, 58 I/O error of the server, 28 and 3D refused at login: to a client of ours
	// a wrong password in our configuration is a database that is not there.
	for _, class := range []string{"08", "53", "57P", "58", "28", "3D"} {
		if strings.HasPrefix(c, class) {
			return true
		}
	}
	return false
}

func code(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	return pg.Code
}

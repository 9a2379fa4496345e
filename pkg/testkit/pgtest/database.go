package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
)

const (
	cloneTimeout = time.Minute
	clonePause   = 20 * time.Millisecond
	objectInUse  = "55006"
)

// New returns a pool on a database of the test's own, with the schema of this binary and no rows but the migrations'.
// Both are gone when the test has ended. pool.Config().ConnString() is the URL, for a second pool on the same database.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Open(t, URL(t))
}

// Open returns a pool on url, closed when the test has ended.
func Open(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), url, postgres.Options{ApplicationName: "test"})
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// URL returns the URL of a database of the test's own, as New does.
func URL(t testing.TB) string {
	t.Helper()
	c := running(t)
	return c.database(t, c.template())
}

// EmptyURL returns the URL of a database of the test's own that was never migrated.
func EmptyURL(t testing.TB) string {
	t.Helper()
	return running(t).database(t, "template0") // which nobody can be connected to
}

// database clones template and returns the URL of the clone.
func (c *cluster) database(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("sluice_test_%s_%d", c.run, c.last.Add(1))
	target, err := withDatabase(c.url, name)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), cloneTimeout)
	defer cancel()
	if err := c.clone(ctx, name, template); err != nil {
		t.Fatalf("pgtest: create database from %s: %v", template, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cloneTimeout)
		defer cancel()
		// A test may have left connections, on purpose or not; they do not keep its database alive.
		if _, err := c.admin.Exec(ctx, "drop database "+name+" with (force)"); err != nil {
			t.Errorf("pgtest: drop the database of %s: %v", t.Name(), err)
		}
	})
	return target
}

// clone tries again while somebody is connected to the template: on an external server a monitor may look around.
func (c *cluster) clone(ctx context.Context, name, template string) error {
	for {
		_, err := c.admin.Exec(ctx, "create database "+name+" template "+template)
		var pg *pgconn.PgError
		if err == nil || !errors.As(err, &pg) || pg.Code != objectInUse {
			return err
		}
		timer := time.NewTimer(clonePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		}
	}
}

// withDatabase is the URL of another database on the same server.
func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme == "" {
		return "", errors.New("SLUICE_TEST_DATABASE_URL is not a postgres:// URL") // err may show a password
	}
	u.Path = "/" + name
	query := u.Query()
	query.Del("dbname")
	u.RawQuery = query.Encode()
	return u.String(), nil
}

package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
)

const (
	startTimeout = 2 * time.Minute // a machine under the load of all packages' tests, and perhaps a fetch
	stopTimeout  = 30 * time.Second
)

// process is the one server of this test process. It is a global because tests have no common caller but TestMain, and
// starting a server for each would take a second each.
var process cluster

// cluster is a server with a template database.
type cluster struct {
	start    sync.Once
	startErr error

	url    string // to the maintenance database
	admin  *pgxpool.Pool
	run    string // part of every database's name: an external server is shared with other test processes
	last   atomic.Int64
	server *embedded.Server // nil when external
	dir    string
}

// Main runs the tests, calls after, stops the server and fails the run when a goroutine is left over. It does not return.
func Main(m *testing.M, after ...func()) { goleak.VerifyTestMain(runner{m, after}) }

// runner stops the server between the tests and the search for leaked goroutines, which would find the server's.
type runner struct {
	m     *testing.M
	after []func()
}

// Run runs the tests and returns their exit code.
func (r runner) Run() int {
	code := r.m.Run()
	for _, clean := range r.after {
		clean()
	}
	if err := process.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return max(code, 1)
	}
	return code
}

// running returns the cluster, started if need be.
func running(t testing.TB) *cluster {
	t.Helper()
	process.start.Do(func() { process.startErr = process.open() })
	if process.startErr != nil {
		t.Fatalf("pgtest: %v", process.startErr)
	}
	return &process
}

func (c *cluster) open() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c.run = strings.ToLower(rand.Text()[:8])
	c.url = os.Getenv("SLUICE_TEST_DATABASE_URL")
	if c.url == "" {
		if err := c.startServer(ctx); err != nil {
			return err
		}
		c.url = c.server.URL()
	}
	c.admin, err = postgres.Open(ctx, c.url, postgres.Options{ApplicationName: "pgtest", MaxConns: 4})
	if err != nil {
		return err
	}
	return c.makeTemplate(ctx)
}

func findBinaries(ctx context.Context) (embedded.Binaries, error) {
	cache, err := embedded.CacheDir()
	if err != nil {
		cache = "" // then nothing can be fetched, which matters only if nothing is installed
	}
	return embedded.Find(ctx, embedded.DefaultOptions(cache))
}

func (c *cluster) startServer(ctx context.Context) error {
	binaries, err := findBinaries(ctx)
	if err != nil {
		return err
	}
	if c.dir, err = makeDir(); err != nil {
		return err
	}
	c.server, err = embedded.Start(ctx, embedded.Config{
		Dir:      filepath.Join(c.dir, "pg"),
		Binaries: binaries,
		Log:      slog.New(slog.DiscardHandler),
		Settings: map[string]string{
			// Many tests at a time, a pool each.
			"max_connections": "400",
			// Its workers would get in the way of cloning, and plans would depend on when it ran.
			"autovacuum": "off",
			// The log of changes is kept in memory too, see makeDir.
			"max_wal_size":  "256MB",
			"wal_init_zero": "off",
		},
	})
	return err
}

// makeTemplate makes the database that all others are clones of. Nobody may connect to it afterwards: a single
// connection would make every CREATE DATABASE fail.
func (c *cluster) makeTemplate(ctx context.Context) error {
	name := c.template()
	if _, err := c.admin.Exec(ctx, "create database "+name); err != nil {
		return fmt.Errorf("create the template database: %w", err)
	}
	url, err := withDatabase(c.url, name)
	if err != nil {
		return err
	}
	if err := postgres.Migrate(ctx, url, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if _, err := c.admin.Exec(ctx, "alter database "+name+" allow_connections false"); err != nil {
		return fmt.Errorf("close the template database: %w", err)
	}
	return nil
}

func (c *cluster) template() string { return "sluice_template_" + c.run }

func (c *cluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	if c.admin != nil {
		if c.server == nil {
			_, err := c.admin.Exec(ctx, "drop database if exists "+c.template())
			errs = append(errs, err)
		}
		c.admin.Close()
	}
	if c.server != nil {
		errs = append(errs, c.server.Stop(ctx))
	}
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
)

const (
	startTimeout = 2 * time.Minute // a fetch of the binaries included
	stopTimeout  = 2 * time.Minute // writes back what is dirty
	// Freed blocks are given back to the disk, and statistics are written, for a moment after a database was dropped.
	restTime = 2 * time.Second
	// As much log as the longest runs write, so that their segments are files that exist already, in the first as in the last.
	logToFill = "2GB"
)

// serverSettings are all that the server has beyond PostgreSQL's defaults and durability. A checkpoint that falls into one
// tool's run and not into another's would decide the comparison, so there is none but those between runs.
func serverSettings() map[string]string {
	return map[string]string{
		"max_connections":    "200",
		"max_wal_size":       "16GB",
		"min_wal_size":       logToFill,
		"checkpoint_timeout": "1h",
	}
}

// server is the one PostgreSQL of a go, and connections that belong to no run.
type server struct {
	*embedded.Server

	binaries embedded.Binaries
	dir      string
	admin    *pgx.Conn
	meter    *meter.Meter
}

// startServer starts a server in a new folder below parent.
func startServer(ctx context.Context, parent string) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cache, err := embedded.CacheDir()
	if err != nil {
		cache = "" // then nothing can be fetched, which matters only if nothing is installed
	}
	s := &server{}
	if s.binaries, err = embedded.Find(ctx, embedded.DefaultOptions(cache)); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp(parent, "sluice-bench-"); err != nil {
		return nil, fmt.Errorf("make the server's folder: %w", err)
	}
	// The server may run as another user, who passes through.
	if err := os.Chmod(s.dir, 0o711); err != nil { //nolint:gosec // G302: see above; what is inside is closed
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	s.Server, err = embedded.Start(ctx, embedded.Config{
		Dir:      filepath.Join(s.dir, "pg"),
		Binaries: s.binaries,
		Log:      slog.New(slog.DiscardHandler),
		Durable:  true,
		Settings: serverSettings(),
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if s.admin, err = pgx.Connect(ctx, s.URL()); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the server: %w", err), s.stop(ctx))
	}
	if s.meter, err = meter.Open(ctx, s.URL()); err != nil {
		return nil, errors.Join(err, s.stop(ctx))
	}
	return s, nil
}

// stop ends the server and removes its data. It does so in any case, so it takes no notice of the end of ctx.
func (s *server) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	var closing error
	if s.meter != nil {
		s.meter.Close()
	}
	if s.admin != nil {
		closing = s.admin.Close(ctx)
	}
	return errors.Join(closing, s.Stop(ctx), os.RemoveAll(s.dir))
}

// exec runs SQL outside of all runs.
func (s *server) exec(ctx context.Context, sql string) error {
	if _, err := s.admin.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// fillLog writes log once, so that later runs write into segments that exist already.
func (s *server) fillLog(ctx context.Context, bytes int64) error {
	const rowBytes = 1000
	_, err := s.admin.Exec(ctx, `create table filling as select n, repeat('x', $1::int) from generate_series(1, $2::bigint / $1) n`,
		rowBytes, bytes)
	if err != nil {
		return fmt.Errorf("fill the server's log: %w", err)
	}
	return errors.Join(s.exec(ctx, "drop table filling"), s.exec(ctx, "checkpoint"), s.exec(ctx, "checkpoint"))
}

// database makes an empty database and returns how to connect to it.
func (s *server) database(ctx context.Context, name string) (string, error) {
	if err := s.exec(ctx, "create database "+name+" template template0"); err != nil {
		return "", err
	}
	u, err := url.Parse(s.URL())
	if err != nil {
		return "", fmt.Errorf("read the server's URL: %w", err)
	}
	u.Path = "/" + name
	return u.String(), nil
}

func (s *server) drop(ctx context.Context, name string) error {
	return s.exec(context.WithoutCancel(ctx), "drop database if exists "+name+" with (force)")
}

// settle leaves the next run nothing to pay for.
func (s *server) settle(ctx context.Context) error {
	if err := s.exec(ctx, "checkpoint"); err != nil {
		return err
	}
	rest := time.NewTimer(restTime)
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// note writes a line for whoever watches.
func note(w io.Writer, format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

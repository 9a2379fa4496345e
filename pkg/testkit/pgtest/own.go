package pgtest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

const (
	// owner is an ordinary role, as operators give to a service: what only a superuser may do fails, and the connections that a
	// server keeps for superusers are not there for it.
	owner = "app"
	own   = "app" // its database
)

// Options says how a server of one's own is.
type Options struct {
	// Dir is where its files are; empty means a new folder. Server and test must both be able to reach it.
	Dir string
	// Settings are further settings of the server.
	Settings map[string]string
	// Env is what its processes get in their environment, beside what every server gets.
	Env map[string]string
}

// Server is a PostgreSQL that a test has for itself, so that it may break it. It keeps every committed row when it is killed,
// and its URLs stay the same when it is started again. Its methods are for the test's own goroutine.
type Server struct {
	t      testing.TB
	cfg    embedded.Config
	server *embedded.Server
	url    string // as the superuser, to the maintenance database
}

// Own starts a server with one empty database. It is stopped when the test has ended.
func Own(t testing.TB, options Options) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	binaries, err := findBinaries(ctx)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	if len(options.Env) > 0 {
		binaries = wrapped(t, binaries, options.Env)
	}
	dir := options.Dir
	if dir == "" {
		dir = Dir(t)
	}
	s := &Server{t: t, cfg: embedded.Config{
		Dir: filepath.Join(dir, "pg"), Binaries: binaries, Log: slog.New(slog.DiscardHandler), Durable: true,
		Settings: map[string]string{"max_wal_size": "256MB", "wal_init_zero": "off"},
	}}
	maps.Copy(s.cfg.Settings, options.Settings)
	s.Start()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("postgres wrote at last:\n%s", s.lastWords())
		}
	})
	admin := s.Admin()
	for _, sql := range []string{"create role " + owner + " login", "create database " + own + " owner " + owner} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			t.Fatalf("pgtest: %s: %v", sql, err)
		}
	}
	return s
}

// wrapped is the same PostgreSQL with more in its environment. The server starts its processes by forking, so they inherit it.
func wrapped(t testing.TB, binaries embedded.Binaries, env map[string]string) embedded.Binaries {
	t.Helper()
	dir := Dir(t)
	var script strings.Builder
	script.WriteString("#!/bin/sh\n")
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&script, "export %s='%s'\n", name, strings.ReplaceAll(env[name], "'", `'\''`))
	}
	// exec: whoever starts it wants to know the server by its process id.
	fmt.Fprintf(&script, "exec '%s' \"$@\"\n", filepath.Join(binaries.Dir, "postgres"))
	if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte(script.String()), 0o755); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	if err := os.Symlink(filepath.Join(binaries.Dir, "initdb"), filepath.Join(dir, "initdb")); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	binaries.Dir = dir
	return binaries
}

// URL is the database, as its owner.
func (s *Server) URL() string { return s.as(owner, own) }

// AdminURL is the same database, as the superuser.
func (s *Server) AdminURL() string { return s.as("", own) }

func (s *Server) as(role, database string) string {
	s.t.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatalf("pgtest: %v", err)
	}
	if role != "" {
		u.User = url.User(role)
	}
	u.Path = "/" + database
	return u.String()
}

// Admin is a pool on the maintenance database, as the superuser, until the test ends.
func (s *Server) Admin() *pgxpool.Pool {
	s.t.Helper()
	pool, err := postgres.Open(s.t.Context(), s.url, postgres.Options{ApplicationName: "test", MaxConns: 2})
	if err != nil {
		s.t.Fatalf("pgtest: %v", err)
	}
	s.t.Cleanup(pool.Close)
	return pool
}

// Start starts it again after Kill, Quit or its own end. It returns when it has recovered and accepts connections.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.TryStart(); err != nil {
		s.t.Fatalf("pgtest: %v", err)
	}
}

// TryStart is Start for a server that may be unable to, as on a full disk. It may be called again.
func (s *Server) TryStart() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s.stop()
	server, err := embedded.Start(ctx, s.cfg)
	if err != nil {
		return err
	}
	s.server = server
	if s.url != "" && s.url != server.URL() {
		return fmt.Errorf("the server moved from %s to %s: the path of its folder is too long for a socket", s.url, server.URL())
	}
	s.url = server.URL()
	return nil
}

// stop ends the server, if it still runs, and lets go of its folder.
func (s *Server) stop() {
	if s.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.server.Stop(ctx); err != nil {
		s.t.Errorf("pgtest: %v", err)
	}
	s.server = nil
}

// Kill is kill -9 of every process of the server at the same moment, and returns when none is left.
func (s *Server) Kill() {
	s.t.Helper()
	// The first to die must not have the time to tell the others.
	pids := append([]int{s.server.Pid()}, s.Processes()...)
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range pids {
			_ = syscall.Kill(pid, signal) // a backend may have ended by itself
		}
	}
	<-s.server.Done()
	probe.Eventually(s.t, "no process of the server is left", func() bool {
		return !slices.ContainsFunc(pids, exists)
	})
}

// KillPostmaster is kill -9 of the one process that looks after the others. They notice and end by themselves.
func (s *Server) KillPostmaster() {
	s.t.Helper()
	_ = syscall.Kill(s.server.Pid(), syscall.SIGKILL)
	<-s.server.Done()
}

// Quit is the immediate shutdown: all processes end at once, without a word to their clients and without a checkpoint.
func (s *Server) Quit() { s.end(syscall.SIGQUIT) }

// Shutdown is the fast shutdown: transactions are rolled back, clients are told, a checkpoint is made.
func (s *Server) Shutdown() { s.end(syscall.SIGINT) }

func (s *Server) end(signal syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(s.server.Pid(), signal); err != nil {
		s.t.Fatalf("pgtest: signal postgres: %v", err)
	}
	<-s.server.Done()
}

// Done is closed when the server that was started last has ended.
func (s *Server) Done() <-chan struct{} { return s.server.Done() }

// Log is what the server has written so far.
func (s *Server) Log() string {
	text, err := os.ReadFile(filepath.Join(s.cfg.Dir, "postgres.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

const lastLines = 40

func (s *Server) lastWords() string {
	lines := strings.Split(strings.TrimSpace(s.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-lastLines):], "\n")
}

// Processes are the children of the postmaster: backends and helpers.
func (s *Server) Processes() []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if _, parent := stat(path); parent == s.server.Pid() {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func exists(pid int) bool {
	state, _ := stat(fmt.Sprintf("/proc/%d/stat", pid))
	return state != "" && state != "Z" // nobody may be there to reap what the postmaster has left
}

// stat reads the state of a process and its parent; the state is empty when there is none.
func stat(path string) (state string, parent int) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", 0
	}
	// pid (name) state ppid ...: the name can hold anything, so what counts begins after its last bracket.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

// KillBackend is kill -9 of one process of the server, the one that serves a connection. The postmaster can't know what it did to
// the memory that all share: it ends all the others, and the server recovers as after a crash.
func KillBackend(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("pgtest: kill a backend: %v", err)
	}
}

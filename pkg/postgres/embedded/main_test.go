package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
)

// holderEnv makes the test binary run a server in the named folder instead of tests, as a process that can be killed.
const holderEnv = "SLUICE_TEST_HOLD"

const patience = time.Minute // for anything that must happen; a failing test waits this long, a passing one does not

func TestMain(m *testing.M) {
	if dir := os.Getenv(holderEnv); dir != "" {
		if err := hold(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// hold starts a durable server, says so on standard output, and stops it when standard input ends.
func hold(dir string) error {
	ctx := context.Background()
	binaries, err := embedded.Find(ctx, embedded.DefaultOptions(""))
	if err != nil {
		return err
	}
	s, err := embedded.Start(ctx, embedded.Config{Dir: dir, Binaries: binaries, Log: quiet(), Durable: true})
	if err != nil {
		return err
	}
	fmt.Println("ready", s.Pid(), s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return s.Stop(ctx)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// installed is the PostgreSQL of this machine, looked up once.
var installed = sync.OnceValues(func() (embedded.Binaries, error) {
	cache, err := embedded.CacheDir()
	if err != nil {
		cache = ""
	}
	return embedded.Find(context.Background(), embedded.DefaultOptions(cache))
})

func binaries(t *testing.T) embedded.Binaries {
	t.Helper()
	b, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func config(t *testing.T, dir string) embedded.Config {
	return embedded.Config{Dir: dir, Binaries: binaries(t), Log: quiet()}
}

func start(t *testing.T, cfg embedded.Config) *embedded.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := embedded.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

func stop(t *testing.T, s *embedded.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, url, sql string) {
	t.Helper()
	if _, err := connect(t, url).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// value is the one value that a query returns, as text.
func value(t *testing.T, url, sql string) string {
	t.Helper()
	var v string
	if err := connect(t, url).QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// eventually waits for a fact outside of this process, which can only be looked at.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("still not: %s", what)
		}
	}
}

// entries lists a folder.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

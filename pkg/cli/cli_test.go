package cli

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	// Executors and the benchmark start their own program once more. Without this it would be all tests, again and again.
	if worker.IsChild() || len(os.Args) > 1 && os.Args[1] == "bench" {
		os.Exit(Main(context.Background(), os.Args[1:], Environment{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
	}
	// The parser asks the process for the width of its help; golden files need one width.
	if err := os.Unsetenv("COLUMNS"); err != nil {
		panic(err)
	}
	pgtest.Main(m) // which also looks for leaked goroutines
}

// outcome is what a command line did.
type outcome struct {
	code           int
	stdout, stderr string
}

// now is 90 seconds after the first task, in a zone that is not UTC.
func now() time.Time {
	return clienttest.Epoch.Add(90 * time.Second).In(time.FixedZone("CET", 3600))
}

// sluice runs a command line with variables of its own instead of the process's.
func sluice(t *testing.T, variables map[string]string, args ...string) outcome {
	t.Helper()
	return sluiceWith(t, "", variables, args...)
}

func sluiceWith(t *testing.T, stdin string, variables map[string]string, args ...string) outcome {
	t.Helper()
	var stdout bytes.Buffer
	var stderr shared
	code := Main(t.Context(), args, Environment{
		Stdin:     strings.NewReader(stdin),
		Stdout:    &stdout,
		Stderr:    &stderr,
		LookupEnv: lookup(variables),
		Now:       now,
	})
	return outcome{code: code, stdout: stdout.String(), stderr: stderr.String()}
}

// shared is where several write at the same time, as to the standard error: a command, the services in its process, and its child.
type shared struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write writes all of it together.
func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// String is what was written so far.
func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func lookup(variables map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, set := variables[name]
		return value, set
	}
}

// ask is sluice with --addr given in the environment.
func ask(t *testing.T, server *clienttest.Server, args ...string) outcome {
	t.Helper()
	return sluice(t, map[string]string{"SLUICE_ADDR": server.Addr}, args...)
}

// check fails unless the command line did what it should have.
func check(t *testing.T, want, got outcome) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Error(diff)
	}
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (go test ./pkg/cli -update writes it anew):\n%s", path, diff)
	}
}

// unused is an address where nobody listens.
func unused(t *testing.T) string {
	t.Helper()
	server := clienttest.New(t)
	server.Stop()
	t.Cleanup(server.Start)
	return server.Addr
}

func TestStatusServesWhenGivenAnAddressToListenOn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, variables := range []map[string]string{{"SLUICE_GRPC_ADDR": "127.0.0.1:0"}, {}} {
		args := []string{"status"}
		if len(variables) == 0 {
			args = append(args, "--grpc-addr", "127.0.0.1:0")
		}
		var stdout, stderr bytes.Buffer
		Main(ctx, args, Environment{Stdout: &stdout, Stderr: &stderr, LookupEnv: lookup(variables)})
		if strings.Contains(stderr.String(), "no Sluice answers") {
			t.Errorf("it asked instead: %s", stderr.String())
		}
	}
}

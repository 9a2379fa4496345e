// Package promtool has Prometheus's own checker look at what Sluice gives to Prometheus.
//
// # Owns
//
// The program: the machine's, or the one from Debian's package, which is fetched once and kept, without being installed.
//
// # Failure
//
// A test on a machine without it, and without an archive to fetch it from, is skipped with the reason. Anything that the checker
// objects to fails the test, with its words.
package promtool

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

const fetchTimeout = 3 * time.Minute

// installed is looked for once per test process. It is a global because tests have no common caller but TestMain.
var installed finding

type finding struct {
	once sync.Once
	path string
	err  error
}

func (f *finding) get() (string, error) {
	f.once.Do(func() { f.path, f.err = find() })
	return f.path, f.err
}

func find() (string, error) {
	path, err := exec.LookPath("promtool")
	if err == nil {
		return path, nil
	}
	cache, err := embedded.CacheDir()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	works := func(root string) error { return exec.CommandContext(ctx, below(root), "--version").Run() }
	kept := debian.Cache{Dir: filepath.Join(cache, "promtool"), Tools: os.Getenv("PATH")}
	// It is one Go program: of what the package asks for it needs nothing.
	root, err := kept.Fetch("root", works, func(a *debian.Archive) error { return a.UnpackAlone(ctx, "prometheus") })
	if err != nil {
		return "", err
	}
	return below(root), nil
}

func below(root string) string { return filepath.Join(root, "usr/bin/promtool") }

// Check runs promtool with arguments, and fails the test with what it says unless it is content.
func Check(t testing.TB, stdin io.Reader, args ...string) {
	t.Helper()
	path, err := installed.get()
	if err != nil {
		t.Skipf("there is no promtool: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = stdin
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %q: %v\n%s", args, err, output)
	}
}

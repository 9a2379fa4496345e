package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, programs.remove) }

// programs are built when first needed. They are a global as the tests have no common caller but TestMain, and a build
// for each would take a minute each.
var programs builds

// builds holds programs of this module, each built once per test process into one folder.
type builds struct {
	mu   sync.Mutex
	dir  string
	made map[string]string // package to path
}

// program returns the path of the program under test.
func program(t testing.TB) string { return programs.get(t, "github.com/sluice-tasks/sluice") }

func (b *builds) get(t testing.TB, pkg string) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if path, done := b.made[pkg]; done {
		return path
	}
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "sluice-e2e-")
		if err != nil {
			t.Fatal(err)
		}
		// Other users run it too.
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		b.dir, b.made = dir, map[string]string{}
	}
	path := filepath.Join(b.dir, filepath.Base(pkg))
	args := []string{"build", "-buildvcs=false", "-o", path}
	if os.Getenv("SLUICE_E2E_RACE") != "" {
		args = append(args, "-race") // three times as slow, and finds races in the wiring
	}
	build := exec.Command("go", append(args, pkg)...)
	var output bytes.Buffer
	build.Stdout, build.Stderr = &output, &output
	if err := build.Run(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, &output)
	}
	b.made[pkg] = path
	return path
}

func (b *builds) remove() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := os.RemoveAll(b.dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
}

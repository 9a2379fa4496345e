package languages

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
)

// findTimeout is for a machine that has nothing, on a slow line.
const findTimeout = 8 * time.Minute

// errBroken says that the example itself is at fault, which no other machine would mend.
var errBroken = errors.New("the example does not compile")

// Program is a language that runs here, with an example or what else is written in it.
type Program struct {
	Path    string            // path of the interpreter
	Env     map[string]string // what it needs in its environment
	Example string            // folder with the programs, as the interpreter takes them
}

// found are the languages, each looked for once per test process. They are globals because tests have no common caller but
// TestMain.
var foundPython, foundNode, foundPulpClients finding

type finding struct {
	once    sync.Once
	program Program
	err     error
}

// Python returns a Python, 3.9 or newer, that can run deploy/examples/python.
func Python(t testing.TB) Program {
	t.Helper()
	return foundPython.get(t, "Python", machine.python)
}

// Node returns a Node.js that can run deploy/examples/typescript, which has been compiled.
func Node(t testing.TB) Program {
	t.Helper()
	return foundNode.get(t, "Node.js", machine.typescript)
}

func (f *finding) get(t testing.TB, name string, find func(machine, context.Context) (Program, error)) Program {
	t.Helper()
	setting := os.Getenv("SLUICE_E2E_LANGUAGES")
	f.once.Do(func() {
		root, err := sourceTree()
		if err != nil {
			f.err = err
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
		defer cancel()
		f.program, f.err = find(thisMachine(root, setting == "fetched"), ctx)
	})
	switch {
	case f.err == nil:
	case setting == "required" || setting == "fetched" || errors.Is(f.err, errBroken):
		t.Fatalf("needs %s: %v", name, f.err)
	default:
		t.Skipf("needs %s: %v", name, f.err)
	}
	return f.program
}

// machine is where to look.
type machine struct {
	path  string // list of folders in which languages may be installed
	tools string // the same for apt, dpkg and the shell
	cache string // folder for what is fetched; empty: nothing is
	root  string // of the source tree

	debianRoot string // where Debian's packages are installed
}

func thisMachine(root string, fetchedOnly bool) machine {
	m := machine{path: os.Getenv("PATH"), tools: os.Getenv("PATH"), root: root, debianRoot: "/"}
	if fetchedOnly {
		m.path, m.debianRoot = "", "/nowhere"
	}
	if cache, err := embedded.CacheDir(); err == nil {
		m.cache = filepath.Join(cache, "languages")
	}
	return m
}

// sourceTree is the root of the module, above the folder in which go test runs the tests of a package.
func sourceTree() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("there is no source tree here")
		}
		dir = filepath.Dir(dir)
	}
}

package languages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian/debiantest"
)

// fakeNode makes a Node.js in dir that says it is a version, and runs shell scripts.
func fakeNode(t *testing.T, dir, version string) {
	t.Helper()
	debiantest.Script(t, dir, "node", fmt.Sprintf(`case "$1" in --version) echo %s ;; *) exec sh "$@" ;; esac`, version))
}

func TestTheNodeThatIsNewEnoughIsUsed(t *testing.T) {
	old, good := t.TempDir(), t.TempDir()
	fakeNode(t, old, "v18.10.0")
	fakeNode(t, good, "v18.11.0")
	debiantest.Script(t, old, "npm", "exit 0")
	got, err := machine{path: list(old, good), tools: os.Getenv("PATH"), cache: t.TempDir()}.installedNode(t.Context())
	if err != nil || got.node != filepath.Join(good, "node") || got.npm[0] != filepath.Join(old, "npm") {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAnOldNodesNpmFetchesANewOneOnce(t *testing.T) {
	p, ok := pins(runtime.GOOS + "/" + runtime.GOARCH)
	if !ok {
		t.Skip("there is no build for this machine")
	}
	bin := t.TempDir()
	fakeNode(t, bin, "v12.22.12")
	debiantest.Script(t, bin, "npm", fmt.Sprintf(`
		[ "$1" = ci ] || exit 0
		echo ci >> %[1]s/log
		grep -q %[2]s package-lock.json && grep -q sha512 package-lock.json || exit 1
		mkdir -p node_modules/%[2]s/bin node_modules/npm/bin
		cp %[1]s/new node_modules/%[2]s/bin/node
		echo 'echo 10' > node_modules/npm/bin/npm-cli.js`, bin, p.npmName))
	debiantest.Script(t, bin, "new", `case "$1" in --version) echo v22.1.0 ;; *) exec sh "$@" ;; esac`)
	m := machine{path: bin, tools: os.Getenv("PATH"), cache: t.TempDir()}
	for range 2 {
		var used engine
		if err := m.withNode(t.Context(), func(e engine) error { used = e; return nil }); err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(m.cache, "npm-node-"+npmNode, "node_modules", p.npmName, "bin", "node"); used.node != want || used.npm[0] != want {
			t.Errorf("used %+v, want %s", used, want)
		}
	}
	log, err := os.ReadFile(filepath.Join(bin, "log"))
	if err != nil || strings.Count(string(log), "ci") != 1 {
		t.Errorf("npm was asked %q, %v", log, err)
	}
	debiantest.NothingLeft(t, m.cache)
}

func TestWithoutNodeTheErrorSaysWhatWasTried(t *testing.T) {
	err := machine{cache: t.TempDir()}.withNode(t.Context(), func(engine) error { return nil })
	if err == nil {
		t.Fatal("found something")
	}
	for _, want := range []string{"npm is not installed", "through pip", "python3 is not installed", "apt-get is not installed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q, want %q in it", err, want)
		}
	}
}

// checkout makes a source tree with an example, and an npm that notes what it does.
func checkout(t *testing.T, build string) (m machine, log func() string) {
	t.Helper()
	root, bin := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"deploy/examples/typescript/package.json": "{}", "deploy/examples/typescript/package-lock.json": "{}",
		"deploy/examples/typescript/worker.ts": "1", "deploy/examples/typescript/node_modules/x.ts": "not ours",
		"proto/sluice/task/v1/task.proto": "2",
	} {
		if err := (tree{name: text}).write(root); err != nil {
			t.Fatal(err)
		}
	}
	fakeNode(t, bin, "v20.1.0")
	debiantest.Script(t, bin, "npm", fmt.Sprintf(`
		echo "$1" >> %s/log
		case "$1" in
		ci) mkdir node_modules; echo module > node_modules/module ;;
		run) %s ;;
		esac`, bin, build))
	return machine{path: bin, tools: os.Getenv("PATH"), cache: t.TempDir(), root: root}, func() string {
		text, err := os.ReadFile(filepath.Join(bin, "log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(strings.ReplaceAll(string(text), "--version\n", ""), "\n", " ")
	}
}

func TestTheExampleIsCompiledWhenItChangesAndItsModulesAreNotFetchedAgain(t *testing.T) {
	m, log := checkout(t, "mkdir dist && cat worker.ts node_modules/module ../../../proto/sluice/task/v1/task.proto > dist/worker.js")
	example := filepath.Join(m.root, "deploy", "examples", "typescript")
	for _, text := range []string{"1", "1", "3"} {
		if err := os.WriteFile(filepath.Join(example, "worker.ts"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		program, err := m.typescript(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if made, err := os.ReadFile(filepath.Join(program.Example, "worker.js")); err != nil || string(made) != text+"module\n2" {
			t.Errorf("made %q, %v", made, err)
		}
	}
	if got := log(); got != "ci run run " {
		t.Errorf("npm was asked for %q", got)
	}
	if err := os.WriteFile(filepath.Join(example, "package-lock.json"), []byte("{ }"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.typescript(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := log(); got != "ci run run ci run " {
		t.Errorf("after a change of the lock file npm was asked for %q", got)
	}
	if _, err := os.Stat(filepath.Join(example, "dist")); err == nil {
		t.Error("it was compiled in the source tree")
	}
	debiantest.NothingLeft(t, m.cache)
}

func TestAnExampleThatDoesNotCompileIsNotAMissingLanguage(t *testing.T) {
	m, log := checkout(t, "echo worker.ts: error TS2322; exit 2")
	_, err := m.typescript(t.Context())
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "TS2322") {
		t.Errorf("got %v", err)
	}
	if got := log(); got != "ci run " {
		t.Errorf("npm was asked for %q", got)
	}
	debiantest.NothingLeft(t, m.cache)
}

func TestALanguageThatIsMissingSkipsTheTestUnlessItIsRequired(t *testing.T) {
	none := func(machine, context.Context) (Program, error) { return Program{}, errors.New("nowhere") }
	broken := func(machine, context.Context) (Program, error) { return Program{}, errBroken }
	for name, c := range map[string]struct {
		setting string
		find    func(machine, context.Context) (Program, error)
		want    string
	}{
		"missing":              {"", none, "skip"},
		"missing and required": {"required", none, "fatal"},
		"missing and fetched":  {"fetched", none, "fatal"},
		"broken":               {"", broken, "fatal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SLUICE_E2E_LANGUAGES", c.setting)
			v := &verdict{TB: t}
			new(finding).get(v, "Logo", c.find)
			if v.said != c.want {
				t.Errorf("the test is told %q, want %q", v.said, c.want)
			}
		})
	}
}

// verdict is a test that goes on and notes what was said to it.
type verdict struct {
	testing.TB

	said string
}

func (v *verdict) Skipf(string, ...any)  { v.said = "skip" }
func (v *verdict) Fatalf(string, ...any) { v.said = "fatal" }

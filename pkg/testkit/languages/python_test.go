package languages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian/debiantest"
)

// fakePython makes one in dir that says it is a version, and whose pip writes down what it is asked for.
func fakePython(t *testing.T, dir, version, pip string) string {
	t.Helper()
	debiantest.Script(t, dir, "python3", fmt.Sprintf(`
		case "$*" in
		"-c import"*) ;;
		-c*) echo '{"Executable": "%[1]s/python3", "Version": [%[2]s], "Tag": "abi %[2]s", "Bundled": ""}' ;;
		"-m pip --version") %[3]s ;;
		*install*) echo "$*" >> %[1]s/log ;;
		*) exit 9 ;;
		esac`, dir, version, pip))
	return filepath.Join(dir, "python3")
}

func list(dirs ...string) string { return strings.Join(dirs, string(filepath.ListSeparator)) }

func TestThePythonThatIsNewEnoughIsUsed(t *testing.T) {
	old, broken, good := t.TempDir(), t.TempDir(), t.TempDir()
	fakePython(t, old, "3, 8", "true")
	debiantest.Script(t, broken, "python3", "echo some library is missing >&2; exit 127")
	want := fakePython(t, good, "3, 10", "true")
	var used []string
	err := machine{path: list(old, broken, good)}.withPython(t.Context(), func(in interpreter) error {
		used = append(used, in.Executable)
		return nil
	})
	if err != nil || !slices.Equal(used, []string{want}) {
		t.Errorf("used %q, %v; want %q", used, err, want)
	}
}

func TestAPythonForWhichThereAreNoPackagesIsPassedOver(t *testing.T) {
	one, other := t.TempDir(), t.TempDir()
	fakePython(t, one, "3, 99", "true")
	want := fakePython(t, other, "3, 10", "true")
	// It has many names, and is tried only once.
	if err := os.Symlink(filepath.Join(one, "python3"), filepath.Join(one, "python3.9")); err != nil {
		t.Fatal(err)
	}
	var used []string
	err := machine{path: list(one, other)}.withPython(t.Context(), func(in interpreter) error {
		used = append(used, in.Executable)
		if in.Executable == want {
			return nil
		}
		return errors.New("no packages")
	})
	if err != nil || !slices.Equal(used, []string{filepath.Join(one, "python3"), want}) {
		t.Errorf("used %q, %v", used, err)
	}
}

func TestWithoutPythonTheErrorSaysWhatWasTried(t *testing.T) {
	tools, old := t.TempDir(), t.TempDir()
	debiantest.Script(t, tools, "apt-get", "echo no packages in the world >&2; exit 100")
	debiantest.Script(t, tools, "dpkg-deb", "exit 1")
	fakePython(t, old, "3, 8", "true")
	for name, c := range map[string]struct {
		machine machine
		want    []string
	}{
		"nothing at all": {machine{cache: t.TempDir()}, []string{"python3 is not installed", "apt-get is not installed"}},
		"no cache":       {machine{tools: tools}, []string{"python3 is not installed", "no cache folder"}},
		"no package":     {machine{tools: tools, cache: t.TempDir()}, []string{"python3 is not installed", "no packages in the world"}},
		"too old":        {machine{path: old, cache: t.TempDir()}, []string{"is Python 3.8, older than 3.9", "apt-get is not installed"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.machine.withPython(t.Context(), func(interpreter) error { return nil })
			if err == nil {
				t.Fatal("found something")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %q, want %q in it", err, want)
				}
			}
			debiantest.NothingLeft(t, c.machine.cache)
		})
	}
}

func TestPackagesAreInstalledOnceForEachListOfThem(t *testing.T) {
	bin, root := t.TempDir(), t.TempDir()
	fakePython(t, bin, "3, 10", "true")
	m := machine{path: bin, cache: t.TempDir(), root: root}
	requirements := filepath.Join(root, "deploy", "examples", "python", "requirements.txt")
	if err := os.MkdirAll(filepath.Dir(requirements), 0o755); err != nil {
		t.Fatal(err)
	}
	folders := map[string]bool{}
	for _, text := range []string{"grpcio==1", "grpcio==1", "grpcio==2", "grpcio==1"} {
		if err := os.WriteFile(requirements, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		program, err := m.python(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if program.Path != filepath.Join(bin, "python3") || program.Example != filepath.Dir(requirements) {
			t.Errorf("got %+v", program)
		}
		folders[program.Env["PYTHONPATH"]] = true
	}
	log, err := os.ReadFile(filepath.Join(bin, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "--requirement "+requirements); n != 2 || len(folders) != 2 {
		t.Errorf("pip was called %d times for %d folders, want one for each list:\n%s", n, len(folders), log)
	}
}

func TestPipIsFoundWhereItIs(t *testing.T) {
	own, none, debian := t.TempDir(), t.TempDir(), t.TempDir()
	fakePython(t, own, "3, 10", "true")
	fakePython(t, none, "3, 10", "exit 1")
	wheel := filepath.Join(debian, "usr", "share", "python-wheels", "pip-1-py3-none-any.whl")
	if err := os.MkdirAll(wheel, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		machine machine
		wheel   string
		bundled string
		want    []string
	}{
		"its own":           {machine{path: own, debianRoot: debian}, "a", "b", []string{"-m", "pip"}},
		"fetched with it":   {machine{path: none, debianRoot: debian}, "a", "b", []string{"a/pip"}},
		"bundled":           {machine{path: none, debianRoot: debian}, "", "b", []string{"b/pip"}},
		"Debian's":          {machine{path: none, debianRoot: debian}, "", "", []string{wheel + "/pip"}},
		"nowhere to get it": {machine{path: none, cache: t.TempDir()}, "", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := c.machine.inspect(t.Context(), interpreter{path: filepath.Join(c.machine.path, "python3"), wheel: c.wheel})
			if err != nil {
				t.Fatal(err)
			}
			in.Bundled = c.bundled
			got, err := c.machine.startPip(t.Context(), in)
			if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
				t.Errorf("pip is started by %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestWhatPythonNeedsIsFetchedWithIt(t *testing.T) {
	d := debiantest.New(t, map[string]debiantest.Package{
		"python3": {Depends: "python3.13 (>= 1), libpython3-stdlib, media-types | mime-support", Files: map[string]string{"usr/bin/python3": `
			[ -e "${LD_LIBRARY_PATH%%:*}/libnear.so" ] || { echo no libnear >&2; exit 127; }
			echo '{"Executable": "'$0'", "Version": [3, 13]}'`}},
		"python3-minimal":   {},
		"python3.13":        {Depends: "libhere0, libnear2:any (>= 1) | x, python3"},
		"libpython3-stdlib": {},
		"libnear2":          {Files: map[string]string{"usr/lib/some-linux-gnu/libnear.so": ""}},
		"python-pip-whl":    {Depends: "python3", Files: map[string]string{"usr/share/python-wheels/pip-1-py3-none-any.whl": ""}},
	}, "libhere0", "python3")
	t.Setenv("PATH", d.Tools)
	m := machine{tools: d.Tools, cache: t.TempDir()}
	in, err := m.debianPython(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(m.cache, "debian-python")
	if in.Version != [2]int{3, 13} || in.Executable != filepath.Join(home, "usr/bin/python3") || in.wheel != pipWheel(home) || in.wheel == "" {
		t.Errorf("got %+v", in)
	}
	if _, err := m.debianPython(t.Context()); err != nil {
		t.Error(err)
	}
	want := []string{
		"python3 python3-minimal", "update", "python3 python3-minimal", "libpython3-stdlib python3.13", "libnear2",
		"python3-pip-whl", "python-pip-whl",
	}
	if asked := d.Asked(t); !slices.Equal(want, asked) {
		t.Errorf("apt-get was asked for %q, want %q", asked, want)
	}
	debiantest.NothingLeft(t, m.cache)
}

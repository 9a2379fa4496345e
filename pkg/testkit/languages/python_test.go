package languages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakePython makes one in dir that says it is a version, and whose pip writes down what it is asked for.
func fakePython(t *testing.T, dir, version, pip string) string {
	t.Helper()
	script(t, dir, "python3", fmt.Sprintf(`
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
	script(t, broken, "python3", "echo some library is missing >&2; exit 127")
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
	script(t, tools, "apt-get", "echo no packages in the world >&2; exit 100")
	script(t, tools, "dpkg-deb", "exit 1")
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
			left(t, c.machine)
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

// archive makes the tools of a Debian whose archive has Python, in a machine that never ran apt-get update. Of the libraries
// the machine has one.
func archive(t *testing.T) (tools, log string) {
	t.Helper()
	tools, log = t.TempDir(), filepath.Join(t.TempDir(), "log")
	script(t, tools, "apt-get", fmt.Sprintf(`
		echo "$*" >> %s
		case "$*" in
		*update) ;;
		*python-pip-whl*) exit 100 ;;
		*Dir::State=*download*) while [ "$1" != download ]; do shift; done; shift; for name in "$@"; do echo $name > $name.deb; done ;;
		*) echo unable to locate a package >&2; exit 100 ;;
		esac`, log))
	script(t, tools, "dpkg-deb", `
		case "$1 $(cat $2)" in
		"--extract python3")
			mkdir -p $3/usr/bin $3/usr/lib/some-linux-gnu
			cat > $3/usr/bin/python3 <<-end
				#!/bin/sh
				[ -e "\${LD_LIBRARY_PATH%%:*}/libfar.so" ] || { echo no libfar >&2; exit 127; }
				echo '{"Executable": "$3/usr/bin/python3", "Version": [3, 13]}'
			end
			chmod 755 $3/usr/bin/python3 ;;
		"--extract libfar1") touch $3/usr/lib/some-linux-gnu/libfar.so ;;
		"--extract python3-pip-whl") mkdir -p $3/usr/share/python-wheels/pip-1-py3-none-any.whl ;;
		"--extract "*) ;;
		"--field python3") echo "python3.13 (>= 1), libpython3-stdlib, media-types | mime-support" ;;
		"--field python3.13") echo "libc6 (>= 2.36), libhere0, libnear2:any (>= 1) | x, python3" ;;
		"--field libnear2") echo "libfar1, libnear2" ;;
		esac`)
	script(t, tools, "dpkg-query", `[ "$3" = libhere0 ] && printf installed`)
	for _, name := range []string{"sh", "cat", "mkdir", "chmod", "touch"} {
		path, err := first(os.Getenv("PATH"), name)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(path, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	return tools, log
}

func TestWhatPythonNeedsIsFetchedWithIt(t *testing.T) {
	tools, log := archive(t)
	t.Setenv("PATH", tools)
	m := machine{tools: tools, cache: t.TempDir()}
	in, err := m.debianPython(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if in.Version != [2]int{3, 13} || in.wheel != pipWheel(filepath.Join(m.cache, "debian-python")) || in.wheel == "" {
		t.Errorf("got %+v", in)
	}
	if _, err := m.debianPython(context.Background()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	for line := range strings.Lines(string(text)) {
		if _, names, found := strings.Cut(strings.TrimSpace(line), " download "); found {
			asked = append(asked, names)
		} else {
			asked = append(asked, "update")
		}
	}
	want := []string{
		"python3 python3-minimal", "update", "python3 python3-minimal", "libpython3-stdlib python3.13", "libnear2", "libfar1", "python3-pip-whl",
	}
	if !slices.Equal(want, asked) {
		t.Errorf("apt-get was asked for %q, want %q", asked, want)
	}
	left(t, m)
}

package bouncer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// script makes an executable in dir.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestTheMachinesProgramComesFirst(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "pgbouncer", "echo PgBouncer 1.23.1")
	got, err := places{path: dir}.find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.path != filepath.Join(dir, "pgbouncer") || got.version != [2]int{1, 23} || !got.preparesForClients() {
		t.Errorf("found %+v", got)
	}
}

func TestWithoutTheProgramTheErrorSaysWhatWasTried(t *testing.T) {
	tools, broken := t.TempDir(), t.TempDir()
	script(t, tools, "apt-get", "echo no packages in the world >&2; exit 100")
	script(t, tools, "dpkg-deb", "exit 1")
	script(t, broken, "pgbouncer", "echo some library is missing >&2; exit 127")
	for name, c := range map[string]struct {
		places places
		want   []string
	}{
		"nothing at all":    {places{cache: t.TempDir()}, []string{"pgbouncer is not installed", "apt-get is not installed"}},
		"no cache":          {places{tools: tools}, []string{"pgbouncer is not installed", "no cache folder"}},
		"no package":        {places{tools: tools, cache: t.TempDir()}, []string{"pgbouncer is not installed", "no packages in the world"}},
		"it does not run":   {places{path: broken, cache: t.TempDir()}, []string{"some library is missing", "apt-get is not installed"}},
		"no place to write": {places{tools: tools, cache: "/proc/none/here"}, []string{"pgbouncer is not installed", "/proc/none"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.places.find(t.Context())
			if err == nil {
				t.Fatal("found something")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %q, want %q in it", err, want)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(c.places.cache, "fetch-*")); len(left) > 0 {
				t.Errorf("%s are left", left)
			}
		})
	}
}

// debian has an apt-get without the machine's lists, and packages of which one is a library that the machine lacks.
func debian(t *testing.T) (tools, log string) {
	t.Helper()
	tools, log = t.TempDir(), filepath.Join(t.TempDir(), "log")
	script(t, tools, "apt-get", fmt.Sprintf(`
		echo "$*" >> %s
		case "$*" in
		*update) ;;
		*Dir::State=*download*) while [ "$1" != download ]; do shift; done; shift; for name in "$@"; do echo $name > $name.deb; done ;;
		*) echo unable to locate a package >&2; exit 100 ;;
		esac`, log))
	script(t, tools, "dpkg-deb", `
		case "$1 $(cat $2)" in
		"--extract pgbouncer")
			mkdir -p $3/usr/sbin $3/usr/lib/some-linux-gnu
			cat > $3/usr/sbin/pgbouncer <<-'end'
				#!/bin/sh
				[ -e "${LD_LIBRARY_PATH%%:*}/libfar.so" ] || { echo no libfar >&2; exit 127; }
				echo PgBouncer 1.18.0
			end
			chmod 755 $3/usr/sbin/pgbouncer ;;
		"--extract libfar1") touch $3/usr/lib/some-linux-gnu/libfar.so ;;
		"--extract "*) ;;
		"--field pgbouncer") echo "other (>= 1), libc6 (>= 2.36), libhere0, libnear2:any (>= 1) | x" ;;
		"--field libnear2") echo "libfar1, libnear2" ;;
		esac`)
	script(t, tools, "dpkg-query", `[ "$3" = libhere0 ] && printf installed`)
	for _, name := range []string{"sh", "cat", "mkdir", "chmod", "touch"} {
		path, err := lookIn(os.Getenv("PATH"), name)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(path, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	return tools, log
}

func TestWhatIsMissingIsFetchedWithItsLibrariesOnce(t *testing.T) {
	tools, log := debian(t)
	p := places{tools: tools, cache: filepath.Join(t.TempDir(), "not", "there", "yet")}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if _, err := p.find(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
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
	if want := []string{"pgbouncer", "update", "pgbouncer", "libnear2", "libfar1"}; !slices.Equal(want, asked) {
		t.Errorf("apt-get was asked for %q, want %q", asked, want)
	}
	if left, _ := filepath.Glob(filepath.Join(p.cache, "fetch-*")); len(left) > 0 {
		t.Errorf("%s are left", left)
	}
}

// TestTheArchivesPgBouncerWorks is about the real one, as if none were installed. It is fetched when it is not in the cache.
func TestTheArchivesPgBouncerWorks(t *testing.T) {
	p := machine()
	p.path = ""
	found, err := p.find(t.Context())
	if err != nil {
		t.Skip(err)
	}
	target := pgtest.EmptyURL(t)
	conn := connect(t, found.start(t, target, 1))
	if got := pgtest.One[int](t, conn, "select $1::int", 41); got != 41 {
		t.Errorf("got %d", got)
	}
}

// Package debiantest is a Debian for the tests of what fetches from one.
//
// # Owns
//
// Shell scripts in the place of apt-get, dpkg-deb and dpkg-query, on a machine that never ran apt-get update. Their archive has
// the packages that a test names.
//
// # Failure
//
// What the scripts do not know they refuse as the real programs do, with an exit code other than 0. On a machine without the
// few programs that they are made of, the test is skipped.
package debiantest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

// Package is a package in the archive.
type Package struct {
	Depends string            // as in its control file
	Files   map[string]string // shell scripts by their paths below the root: "usr/bin/python3"
}

// Debian is a machine.
type Debian struct {
	Tools string // folder with its programs, and nothing else in it

	log string // path
}

// New makes a machine and its archive.
func New(t testing.TB, packages map[string]Package, installed ...string) Debian {
	t.Helper()
	archive := t.TempDir()
	d := Debian{Tools: t.TempDir(), log: filepath.Join(archive, "log")}
	for name, p := range packages {
		root := filepath.Join(archive, name)
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+".depends", []byte(p.Depends), 0o600); err != nil {
			t.Fatal(err)
		}
		for file, text := range p.Files {
			Script(t, filepath.Join(root, filepath.Dir(file)), filepath.Base(file), text)
		}
	}
	Script(t, d.Tools, "apt-get", fmt.Sprintf(`
		echo "$*" >> %[1]s/log
		case "$*" in
		*Dir::State=*download* | *update) ;;
		*) echo unable to locate a package >&2; exit 100 ;;
		esac
		while [ $# -gt 0 ] && [ "$1" != download ]; do shift; done
		for name in "$@"; do
			[ "$name" = download ] && continue
			[ -d "%[1]s/$name" ] || { echo unable to locate $name >&2; exit 100; }
			echo $name > $name.deb
		done`, archive))
	Script(t, d.Tools, "dpkg-deb", fmt.Sprintf(`
		name=$(cat $2)
		case "$1" in
		--extract) cp -R "%[1]s/$name/." $3 ;;
		--field) cat "%[1]s/$name.depends" ;;
		*) exit 2 ;;
		esac`, archive))
	Script(t, d.Tools, "dpkg-query", fmt.Sprintf(`case " %s " in *" $3 "*) printf installed ;; *) exit 1 ;; esac`, strings.Join(installed, " ")))
	for _, name := range []string{"sh", "cat", "cp"} {
		path, err := debian.Program(os.Getenv("PATH"), name)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(path, filepath.Join(d.Tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// Asked are the names of the packages that apt-get was asked for, in the order in which it was, or "update".
func (d Debian) Asked(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(d.log)
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
	return asked
}

// Script makes an executable shell script in dir, which may not be there yet.
func Script(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// NothingLeft fails the test when something half made is in a cache.
func NothingLeft(t testing.TB, cache string) {
	t.Helper()
	if found, _ := filepath.Glob(filepath.Join(cache, "fetch-*")); len(found) > 0 {
		t.Errorf("%s are left", found)
	}
}

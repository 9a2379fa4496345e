package debian

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Archive is the Debian archive that the machine's apt is set up for. What it unpacks is below Root.
type Archive struct {
	Root string // path

	apt, dpkg, query string // programs; without query no package counts as installed
	tools            string
	scratch          string   // folder for what is not kept
	private          []string // options that give apt lists of its own, once the machine's turned out to be missing
}

// Fetch is Keep for what fill unpacks from the archive.
func (c Cache) Fetch(name string, works func(root string) error, fill func(*Archive) error) (string, error) {
	return c.Keep(name, works, func(root string) error {
		a := &Archive{Root: root, tools: c.Tools}
		var err error
		if a.apt, err = Program(c.Tools, "apt-get"); err != nil {
			return err
		}
		if a.dpkg, err = Program(c.Tools, "dpkg-deb"); err != nil {
			return err
		}
		a.query, _ = Program(c.Tools, "dpkg-query")
		scratch, remove, err := c.Scratch()
		if err != nil {
			return err
		}
		defer remove()
		a.scratch = scratch
		return fill(a)
	})
}

// LibraryPath is the LD_LIBRARY_PATH for programs that were unpacked below a folder; empty when they came without libraries.
func LibraryPath(root string) string {
	var libraries []string
	for _, pattern := range []string{"usr/lib/*-linux-*", "lib/*-linux-*"} {
		dirs, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are well-formed
		libraries = append(libraries, dirs...)
	}
	return strings.Join(libraries, ":")
}

// Unpack unpacks packages with the libraries that they need and the machine does not have.
func (a *Archive) Unpack(ctx context.Context, names ...string) error {
	done := map[string]bool{}
	for len(names) > 0 {
		needed, err := a.packages(ctx, names)
		if err != nil {
			return err
		}
		for _, name := range names {
			done[name] = true
		}
		names = slices.DeleteFunc(needed, func(name string) bool { return done[name] || a.installed(ctx, name) })
	}
	return nil
}

// UnpackAlone unpacks a package without what it needs.
func (a *Archive) UnpackAlone(ctx context.Context, name string) error {
	_, err := a.packages(ctx, []string{name})
	return err
}

// installed reports whether the machine has a package. Python's own parts are always fetched: they must fit together.
func (a *Archive) installed(ctx context.Context, name string) bool {
	if a.query == "" || strings.Contains(name, "python") {
		return false
	}
	status, err := a.run(ctx, a.Root, a.query, "--show", "--showformat=${db:Status-Status}", name)
	return err == nil && status == "installed"
}

// packages unpacks packages and returns the names of those that they need.
func (a *Archive) packages(ctx context.Context, names []string) (needed []string, err error) {
	dir, err := os.MkdirTemp(a.scratch, "packages-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := a.download(ctx, dir, names); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, file := range files {
		if _, err := a.run(ctx, a.Root, a.dpkg, "--extract", file, a.Root); err != nil {
			return nil, err
		}
		depends, err := a.run(ctx, a.Root, a.dpkg, "--field", file, "Depends")
		if err != nil {
			return nil, err
		}
		for _, name := range libraries(depends) {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// libraries picks them out of what a package depends on, and the parts of Python: "libssl3 (>= 3), media-types | mime-support".
// The C library is left out: it has to fit the loader, which is the machine's.
func libraries(depends string) []string {
	var names []string
	for one := range strings.SplitSeq(depends, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(one), " ")
		name, _, _ = strings.Cut(name, ":")
		if (strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "python") || name == "zlib1g") && name != "libc6" {
			names = append(names, name)
		}
	}
	return names
}

// download puts the archives of packages into dir. A machine that never ran apt-get update, like a fresh container, knows no
// packages; then apt gets lists of its own, as an ordinary user may not write the machine's.
func (a *Archive) download(ctx context.Context, dir string, names []string) error {
	get := func() error {
		_, err := a.run(ctx, dir, a.apt, append(append(a.options(), "download"), names...)...)
		return err
	}
	failed := get()
	if failed == nil || a.private != nil {
		return failed
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.scratch, sub), 0o755); err != nil {
			return err
		}
	}
	a.private = []string{
		"-o", "Dir::State=" + filepath.Join(a.scratch, "state"), "-o", "Dir::Cache=" + filepath.Join(a.scratch, "cache"),
		"-o", "Dir::State::status=/var/lib/dpkg/status",
	}
	if _, err := a.run(ctx, dir, a.apt, append(a.options(), "update")...); err != nil {
		return errors.Join(failed, err)
	}
	return get()
}

func (a *Archive) options() []string {
	return append([]string{
		"-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15",
		"-o", "APT::Sandbox::User=root", // the user whom root's apt changes to may not write here
	}, a.private...)
}

// run runs one of apt's programs. They write beside the cache: on a machine with a full or forbidden /tmp, too, it can be filled.
func (a *Archive) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	env := append(os.Environ(), "PATH="+a.tools, "TMPDIR="+a.scratch, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return Run(ctx, dir, env, program, args...)
}

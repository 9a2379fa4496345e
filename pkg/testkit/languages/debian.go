package languages

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// debianPython returns Debian's Python and pip, unpacked into the cache.
func (m machine) debianPython(ctx context.Context) (interpreter, error) {
	home, err := m.fromDebian("debian-python", func(d *debian) error {
		if err := d.unpack(ctx, "python3", "python3-minimal"); err != nil {
			return err
		}
		if err := d.unpackPip(ctx); err != nil {
			return err
		}
		_, err := m.inspect(ctx, unpacked(d.root))
		return err
	})
	if err != nil {
		return interpreter{}, err
	}
	return m.inspect(ctx, unpacked(home))
}

// unpacked is the interpreter below the folder into which its packages were unpacked.
func unpacked(root string) interpreter {
	var libraries []string
	for _, pattern := range []string{"usr/lib/*-linux-*", "lib/*-linux-*"} {
		dirs, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are well-formed
		libraries = append(libraries, dirs...)
	}
	in := interpreter{path: filepath.Join(root, "usr/bin/python3"), wheel: pipWheel(root), env: map[string]string{}}
	if len(libraries) > 0 {
		in.env["LD_LIBRARY_PATH"] = strings.Join(libraries, ":")
	}
	return in
}

// debianPip returns the path of a pip to run for a Python that has none.
func (m machine) debianPip(ctx context.Context) (string, error) {
	home, err := m.fromDebian("debian-pip", func(d *debian) error { return d.unpackPip(ctx) })
	return pipWheel(home), err
}

func pipWheel(root string) string {
	wheels, _ := filepath.Glob(filepath.Join(root, "usr/share/python-wheels/pip-*.whl")) // the pattern is well-formed
	if len(wheels) == 0 {
		return ""
	}
	return wheels[0]
}

// debian takes packages from the archive that the machine's apt is set up for, which also checks their signatures. It installs
// nothing: what it unpacks is below root, and apt's own state is not changed.
type debian struct {
	machine

	apt, dpkg string
	root      string   // folder into which it unpacks
	lists     string   // folder for apt's lists
	private   []string // options that give apt lists of its own, once the machine's turned out to be missing
}

// fromDebian keeps what fill unpacks.
func (m machine) fromDebian(name string, fill func(*debian) error) (string, error) {
	return m.keep(name, func(dir string) error {
		apt, err := first(m.tools, "apt-get")
		if err != nil {
			return err
		}
		dpkg, err := first(m.tools, "dpkg-deb")
		if err != nil {
			return err
		}
		lists, err := os.MkdirTemp(m.cache, "fetch-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(lists)
		return fill(&debian{machine: m, apt: apt, dpkg: dpkg, root: dir, lists: lists})
	})
}

// unpackPip has the package under its two names: it was another one before Debian 12.
func (d *debian) unpackPip(ctx context.Context) error {
	var errs []error
	for _, name := range []string{"python3-pip-whl", "python-pip-whl"} {
		if _, err := d.packages(ctx, []string{name}); err != nil {
			errs = append(errs, err)
		} else if pipWheel(d.root) != "" {
			return nil
		}
	}
	return errors.Join(append(errs, errors.New("the archive has no pip to be run without installing it"))...)
}

// unpack unpacks packages with what they need and the machine does not have.
func (d *debian) unpack(ctx context.Context, names ...string) error {
	done := map[string]bool{}
	for len(names) > 0 {
		needed, err := d.packages(ctx, names)
		if err != nil {
			return err
		}
		for _, name := range names {
			done[name] = true
		}
		names = slices.DeleteFunc(needed, func(name string) bool { return done[name] || d.installed(ctx, name) })
	}
	return nil
}

// installed reports whether the machine has a package. Python's own parts are always fetched: they must fit together.
func (d *debian) installed(ctx context.Context, name string) bool {
	query, err := first(d.tools, "dpkg-query")
	if err != nil || strings.Contains(name, "python") {
		return false
	}
	status, err := d.run(ctx, d.root, nil, query, "--show", "--showformat=${db:Status-Status}", name)
	return err == nil && status == "installed"
}

// packages unpacks packages and returns the names of those that they need.
func (d *debian) packages(ctx context.Context, names []string) (needed []string, err error) {
	archives, err := os.MkdirTemp(d.cache, "fetch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(archives)
	if err := d.download(ctx, archives, names); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, file := range files {
		if _, err := d.run(ctx, d.root, nil, d.dpkg, "--extract", file, d.root); err != nil {
			return nil, err
		}
		depends, err := d.run(ctx, d.root, nil, d.dpkg, "--field", file, "Depends")
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
func (d *debian) download(ctx context.Context, dir string, names []string) error {
	get := func() error {
		_, err := d.run(ctx, dir, d.aptEnv(), d.apt, append(append(d.options(), "download"), names...)...)
		return err
	}
	failed := get()
	if failed == nil || d.private != nil {
		return failed
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(d.lists, sub), 0o755); err != nil {
			return err
		}
	}
	d.private = []string{
		"-o", "Dir::State=" + filepath.Join(d.lists, "state"), "-o", "Dir::Cache=" + filepath.Join(d.lists, "cache"),
		"-o", "Dir::State::status=/var/lib/dpkg/status",
	}
	if _, err := d.run(ctx, dir, d.aptEnv(), d.apt, append(d.options(), "update")...); err != nil {
		return errors.Join(failed, err)
	}
	return get()
}

func (d *debian) options() []string {
	return append([]string{
		"-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15",
		"-o", "APT::Sandbox::User=root", // the user whom root's apt changes to may not write here
	}, d.private...)
}

func (d *debian) aptEnv() map[string]string {
	return map[string]string{"PATH": d.tools, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
}

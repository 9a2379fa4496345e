package bouncer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rounds is how far below the program a library may be that is not on the machine: its own, theirs, and one to spare.
const rounds = 3

// fetched returns the program from the cache, and fills the cache first if need be.
func (p places) fetched(ctx context.Context) (program, error) {
	if p.cache == "" {
		return program{}, errors.New("there is no cache folder")
	}
	home := filepath.Join(p.cache, "root")
	if found, err := unpacked(home).inspect(ctx); err == nil {
		return found, nil
	}
	apt, err := lookIn(p.tools, "apt-get")
	if err != nil {
		return program{}, err
	}
	dpkg, err := lookIn(p.tools, "dpkg-deb")
	if err != nil {
		return program{}, err
	}
	if err := makeDir(p.cache); err != nil {
		return program{}, err
	}
	unlock, err := lock(filepath.Join(p.cache, "lock"))
	if err != nil {
		return program{}, err
	}
	defer unlock()
	if found, err := unpacked(home).inspect(ctx); err == nil {
		return found, nil // another test process was faster
	}
	f := &fetch{apt: apt, dpkg: dpkg, path: p.tools}
	if f.dir, err = os.MkdirTemp(p.cache, "fetch-"); err != nil {
		return program{}, err
	}
	defer os.RemoveAll(f.dir)
	if err := f.all(ctx); err != nil {
		return program{}, err
	}
	// The rename comes last: a kill in the middle leaves nothing that looks complete.
	if err := os.RemoveAll(home); err != nil {
		return program{}, err
	}
	if err := os.Rename(f.root(), home); err != nil {
		return program{}, err
	}
	return unpacked(home).inspect(ctx)
}

// unpacked is the program below the folder into which its package was unpacked.
func unpacked(root string) program {
	var libraries []string
	for _, pattern := range []string{"usr/lib/*-linux-*", "lib/*-linux-*"} {
		dirs, err := filepath.Glob(filepath.Join(root, pattern))
		if err == nil {
			libraries = append(libraries, dirs...)
		}
	}
	return program{path: filepath.Join(root, "usr/sbin/pgbouncer"), libraries: strings.Join(libraries, ":")}
}

// makeDir makes a folder and what is missing above it, so that everybody may enter, whatever the umask says: root's pooler runs
// as another user.
func makeDir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // another test process was faster
		}
		return err
	}
	return os.Chmod(path, 0o755)
}

// lock waits until no other process fetches. The kernel takes it from one that dies.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

// fetch takes packages from the archive that the machine's apt is set up for, which also checks their signatures. It installs
// nothing: what it unpacks is below dir, and apt's own state is not changed.
type fetch struct {
	apt, dpkg, path string
	dir             string
	private         []string // options that give apt lists of its own, once the machine's turned out to be missing
}

func (f *fetch) root() string { return filepath.Join(f.dir, "root") }

// all fetches the program, and then what it needs and the machine does not have.
func (f *fetch) all(ctx context.Context) error {
	if err := os.Mkdir(f.root(), 0o755); err != nil {
		return err
	}
	// TempDir makes folders for one user; the program runs as another.
	if err := os.Chmod(f.dir, 0o755); err != nil {
		return err
	}
	wanted, done := []string{"pgbouncer"}, map[string]bool{}
	for range rounds {
		needed, err := f.packages(ctx, wanted)
		if err != nil {
			return err
		}
		_, missing := unpacked(f.root()).inspect(ctx)
		if missing == nil {
			return nil
		}
		for _, name := range wanted {
			done[name] = true
		}
		wanted = f.absent(ctx, needed, done)
		if len(wanted) == 0 {
			return missing
		}
	}
	_, err := unpacked(f.root()).inspect(ctx)
	return err
}

// packages unpacks packages and returns the names of those that they depend on.
func (f *fetch) packages(ctx context.Context, names []string) (needed []string, err error) {
	archives, err := os.MkdirTemp(f.dir, "archives-")
	if err != nil {
		return nil, err
	}
	if err := f.download(ctx, archives, names); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, file := range files {
		if _, err := f.run(ctx, f.dir, f.dpkg, "--extract", file, f.root()); err != nil {
			return nil, err
		}
		depends, err := f.run(ctx, f.dir, f.dpkg, "--field", file, "Depends")
		if err != nil {
			return nil, err
		}
		for _, name := range libraries(depends) {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// libraries picks them out of what a package depends on: "libevent-2.1-7 (>= 2.1.8), lsb-base | other". The C library is
// left out: it has to fit the loader, which is the machine's.
func libraries(depends string) []string {
	var names []string
	for one := range strings.SplitSeq(depends, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(one), " ")
		name, _, _ = strings.Cut(name, ":")
		if strings.HasPrefix(name, "lib") && name != "libc6" {
			names = append(names, name)
		}
	}
	return names
}

// absent leaves out what the machine has, or what was fetched.
func (f *fetch) absent(ctx context.Context, names []string, done map[string]bool) []string {
	query, err := lookIn(f.path, "dpkg-query")
	return slices.DeleteFunc(names, func(name string) bool {
		if done[name] {
			return true
		}
		if err != nil {
			return false
		}
		status, err := f.run(ctx, f.dir, query, "--show", "--showformat=${db:Status-Status}", name)
		return err == nil && status == "installed"
	})
}

// download puts the archives of packages into dir. A machine that never ran apt-get update, like a fresh container, knows no
// packages; then apt gets lists of its own, as an ordinary user may not write the machine's.
func (f *fetch) download(ctx context.Context, dir string, names []string) error {
	get := func() error {
		_, err := f.run(ctx, dir, f.apt, append(append(f.options(), "download"), names...)...)
		return err
	}
	first := get()
	if first == nil || f.private != nil {
		return first
	}
	state := filepath.Join(f.dir, "apt")
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, sub), 0o755); err != nil {
			return err
		}
	}
	f.private = []string{
		"-o", "Dir::State=" + filepath.Join(state, "state"), "-o", "Dir::Cache=" + filepath.Join(state, "cache"),
		"-o", "Dir::State::status=/var/lib/dpkg/status",
	}
	if _, err := f.run(ctx, dir, f.apt, append(f.options(), "update")...); err != nil {
		return errors.Join(first, err)
	}
	return get()
}

func (f *fetch) options() []string {
	return append([]string{
		"-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15",
		"-o", "APT::Sandbox::User=root", // the user whom root's apt changes to may not write here
	}, f.private...)
}

// run returns what a program wrote to its standard output.
func (f *fetch) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+f.path, "TMPDIR="+f.dir, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = 5 * time.Second // for what it started
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

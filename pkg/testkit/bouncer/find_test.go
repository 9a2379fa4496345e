package bouncer

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian/debiantest"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestTheMachinesProgramComesFirst(t *testing.T) {
	dir := t.TempDir()
	debiantest.Script(t, dir, "pgbouncer", "echo PgBouncer 1.23.1")
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
	debiantest.Script(t, tools, "apt-get", "echo no packages in the world >&2; exit 100")
	debiantest.Script(t, tools, "dpkg-deb", "exit 1")
	debiantest.Script(t, broken, "pgbouncer", "echo some library is missing >&2; exit 127")
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
			debiantest.NothingLeft(t, c.places.cache)
		})
	}
}

func TestWhatIsMissingIsFetchedWithItsLibrariesOnce(t *testing.T) {
	d := debiantest.New(t, map[string]debiantest.Package{
		"pgbouncer": {Depends: "other (>= 1), libfar1", Files: map[string]string{"usr/sbin/pgbouncer": `
			[ -e "${LD_LIBRARY_PATH%%:*}/libfar.so" ] || { echo no libfar >&2; exit 127; }
			echo PgBouncer 1.18.0`}},
		"libfar1": {Files: map[string]string{"usr/lib/some-linux-gnu/libfar.so": ""}},
	})
	p := places{tools: d.Tools, cache: filepath.Join(t.TempDir(), "not", "there", "yet")}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if _, err := p.find(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if asked, want := d.Asked(t), []string{"pgbouncer", "update", "pgbouncer", "libfar1"}; !slices.Equal(want, asked) {
		t.Errorf("apt-get was asked for %q, want %q", asked, want)
	}
	debiantest.NothingLeft(t, p.cache)
}

func TestWhatWasFetchedAndNoLongerRunsIsFetchedAgain(t *testing.T) {
	d := debiantest.New(t, map[string]debiantest.Package{
		"pgbouncer": {Files: map[string]string{"usr/sbin/pgbouncer": "echo PgBouncer 1.18.0"}},
	})
	p := places{tools: d.Tools, cache: t.TempDir()}
	debiantest.Script(t, filepath.Join(p.cache, "root", "usr", "sbin"), "pgbouncer", "echo some library is missing >&2; exit 127")
	if got, err := p.find(t.Context()); err != nil || got.version != [2]int{1, 18} {
		t.Errorf("found %+v, %v", got, err)
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
	conn := connect(t, found.start(t, target, 1).URL())
	if got := pgtest.One[int](t, conn, "select $1::int", 41); got != 41 {
		t.Errorf("got %d", got)
	}
}

package debian_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
	"github.com/sluice-tasks/sluice/pkg/testkit/debian/debiantest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// farAway is an archive in which the last library is four steps below the program.
var farAway = map[string]debiantest.Package{
	"program":  {Depends: "other (>= 1), libc6 (>= 2.36), libhere0, libnear2:any (>= 1) | x, zlib1g", Files: map[string]string{"bin/program": ""}},
	"libhere0": {Files: map[string]string{"lib/here": ""}},
	"libnear2": {Depends: "libfar1, libnear2, python3", Files: map[string]string{"usr/lib/some-linux-gnu/libnear.so": ""}},
	"libfar1":  {Depends: "libfar2"},
	"libfar2":  {Depends: "libfar3"},
	"libfar3":  {Files: map[string]string{"lib/some-linux-gnu/libfar.so": ""}},
	"zlib1g":   {},
	"python3":  {},
}

func TestAPackageIsUnpackedWithTheLibrariesThatTheMachineLacks(t *testing.T) {
	d := debiantest.New(t, farAway, "libhere0", "python3")
	cache := debian.Cache{Dir: t.TempDir(), Tools: d.Tools}
	home, err := cache.Fetch("thing", nil, func(a *debian.Archive) error { return a.Unpack(t.Context(), "program") })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"program", "update", "program", "libnear2 zlib1g", "libfar1 python3", "libfar2", "libfar3"}
	if asked := d.Asked(t); !slices.Equal(asked, want) {
		t.Errorf("apt-get was asked for %q, want %q", asked, want)
	}
	if _, err := os.Stat(filepath.Join(home, "bin", "program")); err != nil {
		t.Error(err)
	}
	libraries := filepath.Join(home, "usr/lib/some-linux-gnu") + ":" + filepath.Join(home, "lib/some-linux-gnu")
	if got := debian.LibraryPath(home); got != libraries {
		t.Errorf("the libraries are in %q, want %q", got, libraries)
	}
	debiantest.NothingLeft(t, cache.Dir)
}

func TestAPackageAloneComesWithoutItsLibraries(t *testing.T) {
	d := debiantest.New(t, farAway)
	home, err := debian.Cache{Dir: t.TempDir(), Tools: d.Tools}.Fetch("thing", nil, func(a *debian.Archive) error {
		return a.UnpackAlone(t.Context(), "program")
	})
	if err != nil {
		t.Fatal(err)
	}
	if asked := d.Asked(t); !slices.Equal(asked, []string{"program", "update", "program"}) {
		t.Errorf("apt-get was asked for %q", asked)
	}
	if got := debian.LibraryPath(home); got != "" {
		t.Errorf("there are libraries in %q", got)
	}
}

func TestWhatCouldNotBeFetchedSaysWhy(t *testing.T) {
	d, broken, unpacks := debiantest.New(t, farAway), t.TempDir(), t.TempDir()
	debiantest.Script(t, broken, "apt-get", "echo no packages in the world >&2; exit 100")
	debiantest.Script(t, broken, "dpkg-deb", "exit 1")
	debiantest.Script(t, unpacks, "dpkg-deb", "echo no space; exit 2")
	for name, c := range map[string]struct{ tools, program, want string }{
		"nothing at all":     {t.TempDir(), "program", "apt-get is not installed"},
		"no network":         {broken, "program", "no packages in the world"},
		"no such package":    {d.Tools, "unknown", "unable to locate unknown"},
		"it does not unpack": {unpacks + ":" + d.Tools, "program", "no space"},
		"it does not work":   {d.Tools, "libhere0", "it does not work here"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := debian.Cache{Dir: t.TempDir(), Tools: c.tools}
			works := func(string) error { return errors.New("it does not work here") }
			_, err := cache.Fetch("thing", works, func(a *debian.Archive) error { return a.Unpack(t.Context(), c.program) })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q in it", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(cache.Dir, "thing")); err == nil {
				t.Error("it is kept")
			}
			debiantest.NothingLeft(t, cache.Dir)
		})
	}
}

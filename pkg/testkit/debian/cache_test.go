package debian_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
	"github.com/sluice-tasks/sluice/pkg/testkit/debian/debiantest"
)

func write(dir, text string) error {
	return os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600)
}

func read(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestWhatIsKeptIsMadeOnce(t *testing.T) {
	cache := debian.Cache{Dir: filepath.Join(t.TempDir(), "not", "there", "yet")}
	var fills atomic.Int32
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			home, err := cache.Keep("thing", nil, func(dir string) error {
				fills.Add(1)
				return write(dir, "text")
			})
			if err != nil {
				t.Error(err)
			}
			if text := read(t, home); text != "text" {
				t.Errorf("kept %q", text)
			}
		})
	}
	all.Wait()
	if n := fills.Load(); n != 1 {
		t.Errorf("it was made %d times", n)
	}
	debiantest.NothingLeft(t, cache.Dir)
}

func TestEverybodyMayEnterWhatIsKept(t *testing.T) {
	cache := debian.Cache{Dir: filepath.Join(t.TempDir(), "not", "there")}
	home, err := cache.Keep("thing", nil, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{home, cache.Dir, filepath.Dir(cache.Dir)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s is %v, %v", dir, info.Mode(), err)
		}
	}
}

func TestWhatCouldNotBeMadeIsNotKept(t *testing.T) {
	cache := debian.Cache{Dir: t.TempDir()}
	broken := errors.New("no network")
	if _, err := cache.Keep("thing", nil, func(dir string) error {
		_ = write(dir, "half")
		return broken
	}); !errors.Is(err, broken) {
		t.Errorf("got %v, want what was wrong", err)
	}
	debiantest.NothingLeft(t, cache.Dir)
	home, err := cache.Keep("thing", nil, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(home); err != nil || len(entries) > 0 {
		t.Errorf("the second attempt found %v, %v", entries, err)
	}
}

func TestWhatNoLongerWorksIsMadeAnewAndOnlyThen(t *testing.T) {
	cache := debian.Cache{Dir: t.TempDir()}
	machine := "old" // what works on one does not on the other
	works := func(dir string) error {
		if text := read(t, dir); text != machine {
			return errors.New("it is made for " + text)
		}
		return nil
	}
	var fills int
	keep := func(made string) (string, error) {
		return cache.Keep("thing", works, func(dir string) error { fills++; return write(dir, made) })
	}
	for _, now := range []string{"old", "old", "new", "new"} {
		machine = now
		home, err := keep(now)
		if err != nil {
			t.Fatal(err)
		}
		if text := read(t, home); text != now {
			t.Errorf("on the %s machine there is what is made for the %s one", now, text)
		}
	}
	if fills != 2 {
		t.Errorf("it was made %d times, want once for each machine", fills)
	}

	machine = "newest"
	if _, err := keep("old"); err == nil {
		t.Error("what did not work from the start was kept")
	}
	machine = "new"
	if _, err := keep("unused"); err != nil || fills != 3 {
		t.Errorf("after a replacement that did not work the former one is gone: %v", err)
	}
	debiantest.NothingLeft(t, cache.Dir)
}

func TestWithoutACacheNothingIsMade(t *testing.T) {
	for _, cache := range []debian.Cache{{}, {Dir: "/proc/none/here"}} {
		if _, err := cache.Keep("thing", nil, func(string) error { t.Error("it was made"); return nil }); err == nil {
			t.Errorf("%q could be used", cache.Dir)
		}
		if dir, _, err := cache.Scratch(); err == nil {
			t.Errorf("%q has %s in it", cache.Dir, dir)
		}
	}
}

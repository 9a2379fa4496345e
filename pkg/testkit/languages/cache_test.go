package languages

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestWhatIsKeptIsMadeOnce(t *testing.T) {
	m := machine{cache: filepath.Join(t.TempDir(), "not", "there", "yet")}
	var fills atomic.Int32
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			home, err := m.keep("thing", func(dir string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if text, err := os.ReadFile(filepath.Join(home, "file")); err != nil || string(text) != "text" {
				t.Errorf("kept %q, %v", text, err)
			}
		})
	}
	all.Wait()
	if n := fills.Load(); n != 1 {
		t.Errorf("it was made %d times", n)
	}
	left(t, m)
}

func TestWhatCouldNotBeMadeIsNotKept(t *testing.T) {
	m := machine{cache: t.TempDir()}
	broken := errors.New("no network")
	if _, err := m.keep("thing", func(dir string) error {
		_ = os.WriteFile(filepath.Join(dir, "half"), nil, 0o600)
		return broken
	}); !errors.Is(err, broken) {
		t.Errorf("got %v, want what was wrong", err)
	}
	left(t, m)
	home, err := m.keep("thing", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(home); err != nil || len(entries) > 0 {
		t.Errorf("the second attempt found %v, %v", entries, err)
	}
}

func TestWithoutACacheNothingIsMade(t *testing.T) {
	for _, m := range []machine{{}, {cache: "/proc/none/here"}} {
		if _, err := m.keep("thing", func(string) error { t.Error("it was made"); return nil }); err == nil {
			t.Errorf("%q could be used", m.cache)
		}
	}
}

func TestAKeyTellsItsPartsApart(t *testing.T) {
	seen := map[string][]string{}
	for _, parts := range [][]string{{}, {""}, {"ab"}, {"a", "b"}, {"b", "a"}, {"a", "b", ""}} {
		k := key(parts...)
		if other, twice := seen[k]; twice {
			t.Errorf("%q and %q have the same key", parts, other)
		}
		seen[k] = parts
	}
}

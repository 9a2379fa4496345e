package executor

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir, name string) *home {
	t.Helper()
	h, _ := opened(t, dir, name)
	t.Cleanup(h.close)
	return h
}

// opened takes a directory, as soon as nobody has it, and clears it.
func opened(t testing.TB, dir, name string) (h *home, dead []string) {
	t.Helper()
	for {
		h, err := takeHome(dir, name, newMark(), slog.New(slog.DiscardHandler))
		if errors.Is(err, errInhabited) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		dead, err := h.clear()
		if err != nil {
			t.Fatal(err)
		}
		return h, dead
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestStartWipesItsOwnDirectoryAndNoOther(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "mine", "old-task", "file"))
	write(t, filepath.Join(dir, "mine2", "task", "file"))
	write(t, filepath.Join(dir, "file"))
	h := open(t, dir, "mine")
	if exists(t, filepath.Join(dir, "mine", "old-task")) {
		t.Error("an earlier life's task is still there")
	}
	if !exists(t, filepath.Join(dir, "mine2", "task", "file")) || !exists(t, filepath.Join(dir, "file")) {
		t.Error("something outside was wiped")
	}
	if info, err := os.Stat(h.path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("own directory: %v, %v", info, err)
	}
}

func TestSymbolicLinksAreNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "file"))
	if err := os.Symlink(outside, filepath.Join(dir, "mine")); err != nil {
		t.Fatal(err)
	}
	h := open(t, dir, "mine") // replaces the link
	task, err := h.makeTaskDir("task")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(task, "link")); err != nil {
		t.Fatal(err)
	}
	if err := h.removeTaskDir("task"); err != nil {
		t.Fatal(err)
	}
	// Even a task's directory itself may have been replaced by the task.
	if _, err := h.makeTaskDir("other"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(h.path, "other")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(h.path, "other")); err != nil {
		t.Fatal(err)
	}
	if err := h.removeTaskDir("other"); err != nil {
		t.Fatal(err)
	}
	if !exists(t, filepath.Join(outside, "file")) {
		t.Error("a file outside is gone")
	}
	if exists(t, filepath.Join(h.path, "task")) || exists(t, filepath.Join(h.path, "other")) {
		t.Error("a task's directory is still there")
	}
}

func TestADirectoryThatOthersCanChangeIsRefused(t *testing.T) {
	for mode, ok := range map[os.FileMode]bool{0o755: true, 0o700: true, 0o777 | os.ModeSticky: true, 0o777: false, 0o775: false} {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		h, err := takeHome(dir, "mine", newMark(), slog.New(slog.DiscardHandler))
		if (err == nil) != ok {
			t.Errorf("mode %s: %v", mode, err)
		}
		if err == nil {
			h.close()
		}
	}
	if os.Getuid() != 0 {
		return
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := takeHome(dir, "mine", newMark(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("another user's directory: %v", err)
	}
}

func TestTaskDirectoriesStayInside(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "victim", "file"))
	h := open(t, dir, "mine")
	for _, name := range []string{"../victim", "/etc", "..", "."} {
		if path, err := h.makeTaskDir(name); err == nil {
			t.Errorf("made %s", path)
		}
	}
	if !exists(t, filepath.Join(dir, "victim", "file")) {
		t.Error("a file outside is gone")
	}
}

func TestTaskDirectoryIsEmptyAgain(t *testing.T) {
	h := open(t, t.TempDir(), "mine")
	for range 2 {
		path, err := h.makeTaskDir("task")
		if err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(path); err != nil || len(entries) != 0 {
			t.Errorf("entries %v, %v", entries, err)
		}
		write(t, filepath.Join(path, "deep", "down", "file")) // and nobody removes it
	}
}

func TestTaskDirectoryIsMadeOnceAndNotAfterItsEnd(t *testing.T) {
	h := open(t, t.TempDir(), "mine")
	asked := &taskDir{home: h, task: "asked"}
	path, err := asked.make()
	if err != nil || !exists(t, path) {
		t.Fatalf("made %q: %v", path, err)
	}
	write(t, filepath.Join(path, "file"))
	if again, err := asked.make(); again != path || err != nil || !exists(t, filepath.Join(path, "file")) {
		t.Errorf("the second time: %q, %v", again, err)
	}
	for range 2 {
		if err := asked.remove(); err != nil || exists(t, path) {
			t.Errorf("removed: %v", err)
		}
		if late, err := asked.make(); err == nil {
			t.Errorf("made %q after the end", late)
		}
	}
	// Who never asked has nothing removed: by then the name may be that of another run.
	write(t, filepath.Join(h.path, "other", "file"))
	if err := (&taskDir{home: h, task: "other"}).remove(); err != nil || !exists(t, filepath.Join(h.path, "other", "file")) {
		t.Errorf("a directory that was not made was removed: %v", err)
	}
}

// A directory is kept for the next task of its child only if nobody can tell that there was another one before.
func TestADirectoryIsKeptOnlyIfItIsAsItWasMade(t *testing.T) {
	for _, c := range []struct {
		says  string
		after func(path string) error // what the task did
		keeps bool
	}{
		{"it was not touched", func(string) error { return nil }, true},
		{"what was in it was removed", func(path string) error {
			return errors.Join(os.Mkdir(filepath.Join(path, "a"), 0o700), os.Remove(filepath.Join(path, "a")))
		}, true},
		{"a file is in it", func(path string) error { return os.WriteFile(filepath.Join(path, "file"), nil, 0o600) }, false},
		{"a hidden directory is in it", func(path string) error { return os.Mkdir(filepath.Join(path, ".a"), 0o700) }, false},
		{"others may look into it", func(path string) error { return os.Chmod(path, 0o755) }, false},
		{"it has a bit that what is made in it inherits", func(path string) error { return os.Chmod(path, 0o700|os.ModeSetgid) }, false},
		{"it is gone", os.Remove, false},
		{"a link is in its place", func(path string) error { return errors.Join(os.Remove(path), os.Symlink(os.TempDir(), path)) }, false},
	} {
		t.Run(c.says, func(t *testing.T) {
			h := open(t, t.TempDir(), "mine")
			d := &taskDir{home: h, task: "task"}
			path, err := d.make()
			if err := errors.Join(err, c.after(path)); err != nil {
				t.Fatal(err)
			}
			kept := d.keep(sparePrefix + "1")
			if (kept != nil) != c.keeps {
				t.Errorf("kept: %v", kept != nil)
			}
			if err := d.remove(); err != nil || exists(t, path) {
				t.Errorf("at the end of the task its directory is there: %v", err)
			}
			if late, err := d.make(); err == nil {
				t.Errorf("made %q after the end", late)
			}

			next := &taskDir{home: h, task: "next"}
			if taken := next.makeOf(kept); taken != c.keeps {
				t.Errorf("taken for the next task: %v", taken)
			}
			path, err = next.make()
			if entries, errRead := os.ReadDir(path); err != nil || errRead != nil || len(entries) != 0 || path != filepath.Join(h.path, "next") {
				t.Errorf("the next task has %q with %v: %v, %v", path, entries, err, errRead)
			}
			if kept = next.keep(sparePrefix + "1"); kept == nil {
				t.Error("it was not kept a second time")
			}
			kept.remove()
			if entries, err := os.ReadDir(h.path); err != nil || len(entries) != 1 || entries[0].Name() != markName {
				t.Errorf("left: %v, %v", entries, err)
			}
		})
	}
}

func TestASpareThatCannotBeTakenHarmsNobody(t *testing.T) {
	h := open(t, t.TempDir(), "mine")
	d := &taskDir{home: h, task: "task"}
	if d.keep("spare") != nil || d.makeOf(nil) || d.makeOf(&spare{home: h, name: "nowhere"}) {
		t.Error("something was kept or taken, and there was nothing")
	}
	write(t, filepath.Join(h.path, "task", "file")) // left by nobody knows whom
	if err := h.root.Mkdir("spare", 0o700); err != nil {
		t.Fatal(err)
	}
	if d.makeOf(&spare{home: h, name: "spare"}) {
		t.Error("it took the place of a directory with something in it")
	}
	if path, err := d.make(); err != nil || exists(t, filepath.Join(path, "file")) {
		t.Errorf("made %q: %v", path, err)
	}
	if d.makeOf(&spare{home: h, name: "spare"}) {
		t.Error("a second one was taken")
	}
}

// Tasks of other children, and what a task leaves running in its own, can reach a spare.
func TestASpareIsTakenOnlyIfNobodyWasInIt(t *testing.T) {
	for what, between := range map[string]func(path string) error{
		"a file is in it":                func(path string) error { return os.WriteFile(filepath.Join(path, "file"), nil, 0o600) },
		"others may look into it":        func(path string) error { return os.Chmod(path, 0o755) },
		"a link is in its place":         func(path string) error { return errors.Join(os.Remove(path), os.Symlink(os.TempDir(), path)) },
		"a file is in its place":         func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) },
		"it was removed":                 os.Remove,
		"nobody may, not even its owner": func(path string) error { return os.Chmod(path, 0) },
	} {
		h := open(t, t.TempDir(), "mine")
		d := &taskDir{home: h, task: "task"}
		_, err := d.make()
		kept := d.keep(sparePrefix + "1")
		if err := errors.Join(err, between(filepath.Join(h.path, sparePrefix+"1"))); err != nil || kept == nil {
			t.Fatalf("%s: %v, %v", what, kept, err)
		}
		next := &taskDir{home: h, task: "next"}
		if next.makeOf(kept) {
			t.Errorf("%s: taken", what)
		}
		kept.remove()
		path, err := next.make()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeDir|0o700 || !h.asMade("next") {
			t.Errorf("%s: the next task has %v, %v", what, info.Mode(), err)
		}
		if entries, err := os.ReadDir(h.path); err != nil || len(entries) != 2 {
			t.Errorf("%s: left beside it: %v, %v", what, entries, err)
		}
	}
}

func TestDirectoriesWithoutPermissionsAreRemoved(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("no permission stops root")
	}
	h := open(t, t.TempDir(), "mine")
	path, err := h.makeTaskDir("task")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "a", "b", "file"))
	for _, closed := range []string{"a/b", "a", "."} {
		if err := os.Chmod(filepath.Join(path, closed), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.removeTaskDir("task"); err != nil {
		t.Error(err)
	}
}

func TestDirectoryNamesAreDifferentAndHarmless(t *testing.T) {
	names := []string{
		"1234@host", "host", "Host", ".", "..", ".hidden", "hidden", "a/b", "a_b", "a\\b", "a b", "../../etc/passwd", "ä", "ö", "_",
		"a~b", directoryName("a/b") + "x", strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("x", 255), strings.Repeat("ä", 127),
	}
	seen := map[string]string{}
	for _, name := range names {
		dir := directoryName(name)
		if other, taken := seen[dir]; taken {
			t.Errorf("%q and %q share %q", name, other, dir)
		}
		seen[dir] = name
		if dir == "" || dir != filepath.Base(filepath.Clean(dir)) || strings.HasPrefix(dir, ".") || len(dir) > 200 {
			t.Errorf("%q became %q", name, dir)
		}
	}
	for _, plain := range []string{"1234@host", "host.example.org", "executor-1_a"} {
		if got := directoryName(plain); got != plain {
			t.Errorf("%q became %q for no reason", plain, got)
		}
	}
}

// What each task of a child pays for its directory, on the disk that holds the temporary folder.
func BenchmarkTaskDirectory(b *testing.B) {
	h, _ := opened(b, b.TempDir(), "mine")
	defer h.close()
	for b.Loop() {
		dir := &taskDir{home: h, task: "task"}
		if _, err := dir.make(); err != nil {
			b.Fatal(err)
		}
		if err := dir.remove(); err != nil {
			b.Fatal(err)
		}
	}
}

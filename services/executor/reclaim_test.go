package executor

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// leftBy leaves behind what an executor leaves that was killed: its directory, with a mark that nobody holds.
func leftBy(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	write(t, filepath.Join(path, "task", "file"))
	write(t, filepath.Join(path, markName))
	return path
}

func TestDirectoriesOfDeadExecutorsAreReclaimed(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	dead := leftBy(t, dir, "dead")
	living := open(t, dir, "living")
	write(t, filepath.Join(living.path, "task", "file"))
	write(t, filepath.Join(dir, "stranger", "file")) // no mark
	elsewhere := leftBy(t, outside, "elsewhere")
	if err := os.Symlink(elsewhere, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	// A mark that leads elsewhere is none.
	write(t, filepath.Join(dir, "fraud", "file"))
	if err := os.Symlink(filepath.Join(elsewhere, markName), filepath.Join(dir, "fraud", markName)); err != nil {
		t.Fatal(err)
	}
	check := func(when string, gone ...string) {
		t.Helper()
		for _, path := range gone {
			if exists(t, path) {
				t.Errorf("%s: %s is still there", when, path)
			}
		}
		for _, path := range []string{
			filepath.Join(living.path, "task", "file"), filepath.Join(dir, "stranger", "file"), filepath.Join(elsewhere, "task", "file"),
			filepath.Join(dir, "link"), filepath.Join(dir, "fraud", "file"),
		} {
			if !exists(t, path) {
				t.Errorf("%s: %s is gone", when, path)
			}
		}
	}
	mine := open(t, dir, "mine")
	check("at the start", dead)
	later := leftBy(t, dir, "later")
	mine.reclaim()
	check("later", later)
	if !exists(t, mine.path) {
		t.Error("its own directory is gone")
	}
}

// The lock of a mark goes with the process that holds it, however it ends: here it is only let go of.
func TestADirectoryIsReclaimedWhenItsExecutorIsGone(t *testing.T) {
	dir := t.TempDir()
	other := open(t, dir, "other")
	write(t, filepath.Join(other.path, "task", "file"))
	mine := open(t, dir, "mine")
	if mine.reclaim(); !exists(t, other.path) {
		t.Fatal("the directory of a living executor is gone")
	}
	if err := unix.Flock(int(other.lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if mine.reclaim(); exists(t, other.path) {
		t.Error("the directory of a dead executor is still there")
	}
}

func TestManyExecutorsStartAndStopBesideEachOther(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		leftBy(t, dir, fmt.Sprint("dead-", i))
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for round := range 10 {
				h, _ := opened(t, dir, fmt.Sprint("executor-", i))
				task := &taskDir{home: h, task: "task"}
				path, err := task.make()
				if err != nil {
					t.Error(err)
				}
				h.reclaim()
				if _, err := os.Stat(path); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
				if err := task.remove(); err != nil {
					t.Error(err)
				}
				h.close()
			}
		})
	}
	all.Wait()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != lockName {
		t.Errorf("left: %v, %v", left, err)
	}
}

// An executor that ends says goodbye before it removes its directory, so another one of its name may begin meanwhile.
func TestAnExecutorBeginsWhileOneOfItsNameEnds(t *testing.T) {
	dir := t.TempDir()
	before := open(t, dir, "name")
	for range 300 {
		var closing sync.WaitGroup
		closing.Go(before.close)
		after, _ := opened(t, dir, "name")
		closing.Wait()
		if path, err := after.makeTaskDir("task"); err != nil {
			t.Fatalf("its directory is gone: %v", err)
		} else if _, err := os.Stat(path); err != nil {
			t.Fatalf("its directory is gone: %v", err)
		}
		if err := after.removeTaskDir("task"); err != nil {
			t.Fatal(err)
		}
		before = after
	}
	before.close()
}

func TestWhatATaskWasBroughtIsRemovedWithIt(t *testing.T) {
	h := open(t, t.TempDir(), "mine")
	d := &taskDir{home: h, task: "task"}
	path, err := d.makeFiles()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.makeFiles(); again != path || err != nil {
		t.Errorf("the second time: %q, %v", again, err)
	}
	if own, err := d.make(); err != nil {
		t.Error(err)
	} else if entries, err := os.ReadDir(own); err != nil || len(entries) != 0 {
		t.Errorf("its own directory is not empty: %v, %v", entries, err)
	}
	write(t, filepath.Join(path, "id", "file"))
	if err := d.remove(); err != nil {
		t.Error(err)
	}
	if late, err := d.makeFiles(); err == nil {
		t.Errorf("made %q after the end", late)
	}
	entries, err := os.ReadDir(h.path)
	if err != nil || len(entries) != 1 || entries[0].Name() != markName {
		t.Errorf("left: %v, %v", entries, err)
	}
}

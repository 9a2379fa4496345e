package pgtest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSweepRemovesOnlyOldFoldersThatNobodyHolds(t *testing.T) {
	parent := t.TempDir()
	held, err := os.Create(folder(t, parent, "held", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	folder(t, parent, "abandoned", time.Hour)
	folder(t, parent, "young", 0)
	sweep(parent)
	for name, want := range map[string]bool{"held": true, "young": true, "abandoned": false} {
		if _, err := os.Stat(filepath.Join(parent, dirPrefix+name)); (err == nil) != want {
			t.Errorf("%s: there %t, want %t", name, err == nil, want)
		}
	}
}

// folder makes one as a test process of that age would have left it, and returns its lock file.
func folder(t *testing.T, parent, name string, age time.Duration) string {
	t.Helper()
	dir := filepath.Join(parent, dirPrefix+name)
	if err := os.MkdirAll(filepath.Join(dir, "pg"), 0o755); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(dir, "pg", "lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := time.Now().Add(-age)
	if err := os.Chtimes(dir, made, made); err != nil {
		t.Fatal(err)
	}
	return lock
}

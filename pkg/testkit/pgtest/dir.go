package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ramDisk     = "/dev/shm"
	ramNeeded   = 2 << 30 // bytes free; a test process takes about a tenth of that, several run side by side
	dirPrefix   = "sluice-pgtest-"
	sweptAfter  = 10 * time.Minute
	lockInAPart = "*/lock" // embedded.Start's, one folder down
)

// Dir returns a new folder for a PostgreSQL of the test's own, removed when the test has ended. The server's user can
// reach it, its path is short enough for a socket, and it is in memory where possible. (t.TempDir is none of that.)
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := makeDir()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// makeDir prefers the RAM disk: a cluster is a thousand small files and a clone three hundred, and on some file systems
// making a file takes half a millisecond. A TMPDIR in the environment is somebody's wish and wins.
func makeDir() (string, error) {
	parent := os.TempDir()
	if os.Getenv("TMPDIR") == "" && fitsInMemory() {
		parent = ramDisk
		sweep(parent)
	}
	dir, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return "", fmt.Errorf("make a folder for postgres: %w", err)
	}
	// Started by root, the server runs as somebody else and has to get through here.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("open the folder for postgres: %w", err)
	}
	return dir, nil
}

func fitsInMemory() bool {
	var disk unix.Statfs_t
	if err := unix.Statfs(ramDisk, &disk); err != nil {
		return false
	}
	return disk.Bavail*uint64(disk.Bsize) >= ramNeeded && unix.Access(ramDisk, unix.W_OK) == nil
}

// sweep removes what killed test processes left in memory, where no reboot is near to do it. A folder is abandoned when
// nobody holds its lock; a young one may belong to a process that has not come to lock it yet.
func sweep(parent string) {
	dirs, err := filepath.Glob(filepath.Join(parent, dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < sweptAfter || inUse(dir) {
			continue
		}
		_ = os.RemoveAll(dir) // another user's stays
	}
}

func inUse(dir string) bool {
	locks, err := filepath.Glob(filepath.Join(dir, lockInAPart))
	if err != nil {
		return true
	}
	for _, path := range locks {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return true
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		file.Close() // gives the lock back
		if err != nil {
			return true
		}
	}
	return false
}

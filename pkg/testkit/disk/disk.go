package disk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk is a file system of the test's own.
type Disk struct {
	// Dir is where it is mounted. Everybody may write there.
	Dir string

	t testing.TB
}

// filler is the file that takes what is free.
func (d *Disk) filler() string { return filepath.Join(d.Dir, "filler") }

// Available is how many bytes are free.
func (d *Disk) Available() int64 {
	d.t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(d.Dir, &stat); err != nil {
		d.t.Fatalf("disk: %v", err)
	}
	return int64(stat.Bavail) * int64(stat.Bsize) //nolint:unconvert // it has another type on other systems
}

// Fill takes everything that is free now.
func (d *Disk) Fill() {
	d.t.Helper()
	file, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		d.t.Fatalf("disk: %v", err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for block := make([]byte, size); err == nil; {
			_, err = file.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatalf("disk: fill it: %v", err)
		}
		err = nil
	}
}

// names is the folder of the files that FillNames makes.
func (d *Disk) names() string { return filepath.Join(d.Dir, "names") }

// FillNames makes empty files until there is no room for another, of which a disk has only so many.
func (d *Disk) FillNames() {
	d.t.Helper()
	if err := os.MkdirAll(d.names(), 0o700); err != nil {
		d.t.Fatalf("disk: %v", err)
	}
	for {
		file, err := os.CreateTemp(d.names(), "")
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		if err != nil {
			d.t.Fatalf("disk: fill it: %v", err)
		}
		file.Close()
	}
}

// FreeNames gives back what FillNames took.
func (d *Disk) FreeNames() {
	d.t.Helper()
	if err := os.RemoveAll(d.names()); err != nil {
		d.t.Fatalf("disk: %v", err)
	}
}

// Free gives back what Fill took.
func (d *Disk) Free() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatalf("disk: %v", err)
	}
}

package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/disk"
)

const size = 4 << 20

func TestADiskIsFullWhenItIsFilledAndNotBeforeOrAfter(t *testing.T) {
	d, here := disk.Within(t, size)
	if !here {
		return
	}
	write := func() error { return os.WriteFile(filepath.Join(d.Dir, "more"), make([]byte, 64<<10), 0o600) }
	if free := d.Available(); free != size {
		t.Errorf("%d bytes are free, want %d", free, size)
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	d.Fill()
	if err := os.WriteFile(filepath.Join(d.Dir, "another"), []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk there is %v", err)
	}
	d.Fill() // again changes nothing
	d.Free()
	if err := write(); err != nil {
		t.Error(err)
	}
}

func TestADiskWithoutNamesTakesNoFolder(t *testing.T) {
	d, here := disk.Within(t, size)
	if !here {
		return
	}
	folder := filepath.Join(d.Dir, "folder")
	d.FillNames()
	if err := os.Mkdir(folder, 0o700); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk there is %v", err)
	}
	d.FreeNames()
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Error(err)
	}
}

func TestNobodyElseSeesTheDisk(t *testing.T) {
	d, here := disk.Within(t, size)
	if here {
		t.Log("it is", d.Dir)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Skip(err)
	}
	if seen := strings.Contains(string(mounts), "/sluice-disk-"); seen != here {
		t.Errorf("the disk is mounted: %t; with the test in its own process: %t", seen, here)
	}
}

package clock

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What time.Now begins with, and what it begins with here.
const (
	asked  = "\tsec, nsec, mono := runtimeNow()\n"
	shifts = asked + "\tsec += shift()\n"
)

// shift is a file of package time. The offset is in memory that is shared with the test: to ask for the time stays cheap, and
// nothing that is asked for it waits.
const shift = `package time

import (
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

var shifted struct {
	once sync.Once
	by   *int64
}

func shift() int64 {
	shifted.once.Do(func() {
		path, found := syscall.Getenv("` + variable + `")
		if !found {
			return
		}
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			panic("open " + path + ": " + err.Error())
		}
		page, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
		if err != nil {
			panic("map " + path + ": " + err.Error())
		}
		_ = syscall.Close(fd)
		shifted.by = (*int64)(unsafe.Pointer(&page[0]))
	})
	if shifted.by == nil {
		return 0
	}
	return atomic.LoadInt64(shifted.by)
}
`

// Build builds a program whose wall clock is a Clock's, if one is in its environment. The first build on a machine takes a
// minute, as everything has to be compiled again.
func Build(t testing.TB, pkg, output string) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("clock: where is Go: %v", err)
	}
	folder := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(folder, "time.go"))
	if err != nil {
		t.Fatalf("clock: %v", err)
	}
	if strings.Count(string(source), asked) != 1 {
		t.Fatalf("clock: time.Now of this Go does not begin with %q", asked)
	}
	dir := t.TempDir()
	overlay := map[string]map[string]string{"Replace": {}}
	for name, text := range map[string]string{"time.go": strings.Replace(string(source), asked, shifts, 1), "shift.go": shift} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatalf("clock: %v", err)
		}
		overlay["Replace"][filepath.Join(folder, name)] = path
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatalf("clock: %v", err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatalf("clock: %v", err)
	}
	// The compiled packages are kept by their sources, not by the overlay's paths: the next build is quick.
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", list, "-o", output, pkg)
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("clock: build %s: %v\n%s", pkg, err, said)
	}
}

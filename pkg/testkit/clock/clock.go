package clock

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// variable names the file with the offset to Go programs.
const variable = "SLUICE_TEST_CLOCK"

// Clock is a wall clock that some processes have. It is right until it is set.
type Clock struct {
	t    testing.TB
	dir  string
	goes *os.File // what Go programs map into their memory: seconds, 8 bytes in the machine's order
}

// New makes a clock. It is gone with the test.
func New(t testing.TB) *Clock {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-clock-") // not the test's, which other users may not enter
	if err != nil {
		t.Fatalf("clock: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatalf("clock: %v", err)
	}
	c := &Clock{t: t, dir: dir}
	if c.goes, err = os.Create(filepath.Join(dir, "go")); err != nil {
		t.Fatalf("clock: %v", err)
	}
	t.Cleanup(func() { _ = c.goes.Close() })
	c.Set(0)
	return c
}

// Set sets the clock ahead of the machine's by an offset of whole seconds, or behind, from one moment to the next.
func (c *Clock) Set(ahead time.Duration) {
	c.t.Helper()
	seconds := int64(ahead / time.Second)
	if _, err := c.goes.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(seconds)), 0); err != nil {
		c.t.Fatalf("clock: %v", err)
	}
	// Renamed, so that nobody reads half of it.
	next := filepath.Join(c.dir, "next")
	if err := os.WriteFile(next, []byte(withSign(seconds)+"\n"), 0o644); err != nil {
		c.t.Fatalf("clock: %v", err)
	}
	if err := os.Rename(next, c.libc()); err != nil {
		c.t.Fatalf("clock: %v", err)
	}
}

func (c *Clock) libc() string { return filepath.Join(c.dir, "libc") }

// withSign is how libfaketime tells an offset from a date.
func withSign(seconds int64) string {
	if seconds < 0 {
		return strconv.FormatInt(seconds, 10)
	}
	return "+" + strconv.FormatInt(seconds, 10)
}

// Go is the environment with which a program from Build has this clock.
func (c *Clock) Go() map[string]string { return map[string]string{variable: c.goes.Name()} }

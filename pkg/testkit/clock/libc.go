package clock

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

const fetchTimeout = 3 * time.Minute

// library is looked for once per test process. It is a global because tests have no common caller but TestMain.
var library finding

type finding struct {
	once sync.Once
	path string
	err  error
}

func (f *finding) get() (string, error) {
	f.once.Do(func() { f.path, f.err = find() })
	return f.path, f.err
}

// where the package has its library, below whatever it is unpacked in.
const where = "usr/lib/*/faketime/libfaketime.so.1"

func find() (string, error) {
	if found, _ := filepath.Glob("/" + where); len(found) > 0 {
		return found[0], nil
	}
	cache, err := embedded.CacheDir()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	works := func(root string) error {
		_, err := unpacked(root)
		return err
	}
	kept := debian.Cache{Dir: filepath.Join(cache, "faketime"), Tools: os.Getenv("PATH")}
	root, err := kept.Fetch("root", works, func(a *debian.Archive) error { return a.UnpackAlone(ctx, "libfaketime") })
	if err != nil {
		return "", err
	}
	return unpacked(root)
}

func unpacked(root string) (string, error) {
	found, err := filepath.Glob(filepath.Join(root, where))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s is not in the package", where)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// Libc is the environment with which programs that use the C library have this clock, and all programs that they start.
func (c *Clock) Libc() map[string]string {
	c.t.Helper()
	path, err := library.get()
	if err != nil {
		c.t.Skip("needs libfaketime:", err)
	}
	return map[string]string{
		"LD_PRELOAD":              path,
		"FAKETIME_TIMESTAMP_FILE": c.libc(),
		"FAKETIME_NO_CACHE":       "1", // it would look at the file every ten seconds
		// What waits, waits by the monotonic clock, which nobody can set.
		"FAKETIME_DONT_FAKE_MONOTONIC": "1",
	}
}

package languages

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keep returns the folder of a name in the cache, and has fill make its content if it is not there yet. fill gets a folder
// beside it, which is renamed when it is complete: a kill in the middle leaves nothing that looks complete. Of several
// processes one fills, and the others wait.
func (m machine) keep(name string, fill func(dir string) error) (string, error) {
	if m.cache == "" {
		return "", errors.New("there is no cache folder")
	}
	home := filepath.Join(m.cache, name)
	if _, err := os.Stat(home); err == nil {
		return home, nil
	}
	if err := makeDir(m.cache); err != nil {
		return "", err
	}
	unlock, err := lock(home + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(home); err == nil {
		return home, nil // another test process was faster
	}
	stage, err := os.MkdirTemp(m.cache, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	// TempDir makes folders for one user; root's tests run programs as others.
	if err := os.Chmod(stage, 0o755); err != nil {
		return "", err
	}
	if err := fill(stage); err != nil {
		return "", err
	}
	return home, os.Rename(stage, home)
}

// makeDir makes a folder and what is missing above it, so that everybody may enter, whatever the umask says.
func makeDir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // another test process was faster
		}
		return err
	}
	return os.Chmod(path, 0o755)
}

// lock waits until no other process has it. The kernel takes it from one that dies.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

// key names content: the same parts have the same key, on every machine.
func key(parts ...string) string {
	hash := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(hash, "%d %s", len(part), part)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16]
}

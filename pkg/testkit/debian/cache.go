package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

var errNoCache = errors.New("there is no cache folder")

// Cache is where fetched folders are kept, and with what they are fetched.
type Cache struct {
	Dir   string // made when it is needed; empty: nothing can be kept
	Tools string // PATH-like list of the folders that have apt-get, dpkg-deb, dpkg-query and the shell
}

// Keep returns the path of the folder with a name, and has fill make its content if it is not there yet or works says what is
// wrong with it. works is nil for what cannot break. fill gets a folder beside it, which is renamed when it is complete and
// works: a kill in the middle leaves nothing that looks complete.
func (c Cache) Keep(name string, works, fill func(dir string) error) (string, error) {
	if c.Dir == "" {
		return "", errNoCache
	}
	home := filepath.Join(c.Dir, name)
	if usable(home, works) {
		return home, nil
	}
	if err := makeDir(c.Dir); err != nil {
		return "", err
	}
	unlock, err := lock(home + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if usable(home, works) {
		return home, nil // another test process was faster
	}
	stage, remove, err := c.Scratch()
	if err != nil {
		return "", err
	}
	defer remove()
	// MkdirTemp makes folders for one user; root's tests run programs as others.
	if err := os.Chmod(stage, 0o755); err != nil {
		return "", err
	}
	if err := fill(stage); err != nil {
		return "", err
	}
	if works != nil {
		if err := works(stage); err != nil {
			return "", err
		}
	}
	if err := os.RemoveAll(home); err != nil {
		return "", err
	}
	return home, os.Rename(stage, home)
}

func usable(home string, works func(dir string) error) bool {
	_, err := os.Stat(home)
	return err == nil && (works == nil || works(home) == nil)
}

// Scratch makes a folder for what is not kept. The caller removes it.
func (c Cache) Scratch() (dir string, remove func(), err error) {
	if c.Dir == "" {
		return "", nil, errNoCache
	}
	if err := makeDir(c.Dir); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(c.Dir, "fetch-"); err != nil {
		return "", nil, err
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
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

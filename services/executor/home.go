package executor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// home is the executor's own directory, with one directory in it for each task that runs. All access goes through os.Root,
// so whatever a name or a task's symbolic link says, nothing outside of it is touched.
type home struct {
	path string
	root *os.Root
}

// openHome makes the directory <workDir>/<name>, mode 0700. What an earlier life left there is removed.
func openHome(workDir, name string) (*home, error) {
	path, err := filepath.Abs(workDir)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", workDir, err)
	}
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // shared with the executors of other users
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	parent, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = parent.Close() }()
	if err := trusted(parent); err != nil {
		return nil, fmt.Errorf("use %s: %w", path, err)
	}
	own := directoryName(name)
	path = filepath.Join(path, own)
	if err := removeTree(parent, own); err != nil {
		return nil, fmt.Errorf("wipe %s: %w", path, err)
	}
	if err := parent.Mkdir(own, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	root, err := parent.OpenRoot(own)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &home{path: path, root: root}, nil
}

// trusted makes sure that nobody else can put something in the place of what is made in a directory: a default below the
// temporary directory could have been made by another user before us.
func trusted(dir *os.Root) error {
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("it belongs to another user (uid %d)", owner.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others may replace what is in it (mode %s)", info.Mode())
	}
	return nil
}

// close removes the directory if no task left anything in it.
func (h *home) close() {
	_ = h.root.Close()
	_ = os.Remove(h.path)
}

// makeTaskDir makes the empty working directory of a task, mode 0700.
func (h *home) makeTaskDir(task string) (string, error) {
	if err := removeTree(h.root, task); err != nil {
		return "", err
	}
	if err := h.root.Mkdir(task, 0o700); err != nil {
		return "", err
	}
	return filepath.Join(h.path, task), nil
}

func (h *home) removeTaskDir(task string) error { return removeTree(h.root, task) }

// taskDir is the working directory of one run, made when it is first asked for: most handlers in the executor's own process
// never do, and a directory costs more than they.
type taskDir struct {
	home *home
	task string

	mu   sync.Mutex
	path string
	over bool
}

// make makes the directory, once, and returns its path.
func (d *taskDir) make() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return "", errors.New("the task has ended")
	}
	if d.path != "" {
		return d.path, nil
	}
	path, err := d.home.makeTaskDir(d.task)
	if err != nil {
		return "", err
	}
	d.path = path
	return path, nil
}

// remove removes the directory, if it was made. From then on there is none to be had.
func (d *taskDir) remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	if d.path == "" {
		return nil
	}
	return d.home.removeTaskDir(d.task)
}

// removeTree removes a directory with all that is in it. A task may have taken permissions away, from itself as much as
// from us: directories get them back when the first attempt fails.
func removeTree(root *os.Root, name string) error {
	first := root.RemoveAll(name)
	if !errors.Is(first, fs.ErrPermission) {
		return first
	}
	walk := fs.WalkDir(root.FS(), name, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			return root.Chmod(path, 0o700)
		}
		return err
	})
	if err := root.RemoveAll(name); err != nil {
		return errors.Join(err, walk)
	}
	return nil
}

// directoryName makes of an executor's name one path element, different for different names: names of harmless characters
// stay as they are, others are cleaned and marked with a digest after a character that no harmless name has.
func directoryName(name string) string {
	const (
		harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@._-"
		longest  = 100
	)
	cleaned := strings.Map(func(r rune) rune {
		if strings.ContainsRune(harmless, r) {
			return r
		}
		return '_'
	}, name)
	cleaned = strings.TrimLeft(cleaned, ".") // no "..", nothing hidden
	if cleaned == name && len(name) <= longest {
		return name
	}
	digest := sha256.Sum256([]byte(name))
	return cleaned[:min(len(cleaned), longest)] + "~" + hex.EncodeToString(digest[:8])
}

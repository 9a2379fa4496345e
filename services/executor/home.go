package executor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// home is the executor's own directory, with one directory in it for each task that runs. All access goes through os.Root,
// so whatever a name or a task's symbolic link says, nothing outside of it is touched.
//
// It is taken before the name is asked for, and cleared only when the name is ours: an executor of that name may live on another
// machine that shares the directory, where locks may not reach.
type home struct {
	path   string
	root   *os.Root
	dir    *os.File // the same
	parent string
	own    string
	log    *slog.Logger
	// lock is a file in it that is locked for as long as the executor lives. The kernel lets go of it when the process ends,
	// however it does.
	lock *os.File
	// tree is the mark of the processes that the executor starts.
	tree string
	// predecessor is the life of an executor of this name that ended without a goodbye, and of which nothing is left; "" if there
	// is none, or if that can't be known.
	predecessor string
}

const (
	// markName is the file by which a directory is known to be that of an executor. No task has such a name.
	markName = ".executor"
	// lockName is the file in the common directory that is locked by who makes or removes directories of executors.
	lockName = ".lock"
)

// errInhabited: a living executor has the directory.
var errInhabited = errors.New("another living executor works there")

// takeHome makes the directory <workDir>/<name>, mode 0700, or takes it over from an executor that is dead, and ends what is left
// of that. What is in it stays. tree is the mark that the processes of the executor will have. While a living executor has the
// directory it returns errInhabited.
func takeHome(workDir, name, tree string, log *slog.Logger) (*home, error) {
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
	unlock, err := lockAll(parent)
	if err != nil {
		return nil, fmt.Errorf("use %s: %w", path, err)
	}
	defer unlock()
	own := directoryName(name)
	h := &home{path: filepath.Join(path, own), parent: path, own: own, log: log, tree: tree}
	if err := h.take(parent); err != nil {
		return nil, errors.Join(err, h.letGo())
	}
	return h, nil
}

func (h *home) take(parent *os.Root) error {
	info, err := parent.Lstat(h.own)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("make %s: %w", h.path, err)
	case info.IsDir() && owned(info):
		if err := parent.Chmod(h.own, 0o700); err != nil { // whatever became of it
			return fmt.Errorf("open %s: %w", h.path, err)
		}
	default:
		if err := evict(parent, h.own); err != nil {
			return fmt.Errorf("wipe %s: %w", h.path, err)
		}
	}
	if err := parent.Mkdir(h.own, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", h.path, err)
	}
	if h.root, err = parent.OpenRoot(h.own); err != nil {
		return fmt.Errorf("open %s: %w", h.path, err)
	}
	if h.dir, err = h.root.Open("."); err != nil {
		return fmt.Errorf("open %s: %w", h.path, err)
	}
	if info, err := h.root.Lstat(markName); err == nil && !info.Mode().IsRegular() {
		if err := removeTree(h.root, markName); err != nil { // a task's doing: nobody has locked that
			return fmt.Errorf("lock %s: %w", h.path, err)
		}
	}
	if h.lock, err = lockMark(h.root, os.O_CREATE); err != nil {
		return fmt.Errorf("lock %s: %w", h.path, err)
	}
	if h.predecessor, err = buried(h.root); err != nil {
		h.log.Warn("could not make sure that nothing is left of the executor that had the name before; its tasks fail when its lease has run out",
			slog.Any("error", err))
	}
	return nil
}

// owned reports whether something belongs to our own user.
func owned(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// evict removes what has the name of our directory and can't be it: a link, a file, a directory of another user, in which he could
// put something in the place of what we make. Root can, others get an error.
func evict(parent *os.Root, name string) error {
	if dir, err := parent.OpenRoot(name); err == nil {
		defer func() { _ = dir.Close() }()
		mark, err := lockMark(dir, 0)
		if errors.Is(err, errInhabited) {
			return err
		}
		if err == nil {
			defer func() { _ = mark.Close() }()
		}
	}
	return removeTree(parent, name)
}

// lockMark locks the mark of an executor's directory. While another process has it locked it returns errInhabited.
func lockMark(dir *os.Root, flags int) (*os.File, error) {
	if info, err := dir.Lstat(markName); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", markName)
	}
	mark, err := dir.OpenFile(markName, flags|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(mark.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInhabited
		}
		return nil, errors.Join(err, mark.Close())
	}
	return mark, nil
}

// clear removes what an earlier life left in the directory, and what executors left beside it that are dead. It returns the
// lives of those of which nothing is left.
func (h *home) clear() (dead []string, err error) {
	entries, err := fs.ReadDir(h.root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("wipe %s: %w", h.path, err)
	}
	for _, entry := range entries {
		if entry.Name() == markName || entry.Name() == lifeName {
			continue
		}
		if err := removeTree(h.root, entry.Name()); err != nil {
			return nil, fmt.Errorf("wipe %s: %w", h.path, err)
		}
	}
	return h.reclaim(), nil
}

// lockAll keeps other executors from making and removing directories beside us meanwhile.
func lockAll(parent *os.Root) (unlock func(), err error) {
	// To lock a file, reading it is enough: it may be another user's.
	file, err := parent.OpenFile(lockName, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil // which gives the lock up
}

// reclaim removes the directories of executors beside us that are dead: those with a mark that nobody holds. Anything without a mark
// is none of ours. What is left of their processes is ended first; it returns the lives of those of which nothing is left.
func (h *home) reclaim() (dead []string) {
	parent, err := os.OpenRoot(h.parent)
	if err != nil {
		h.log.Warn("could not look for what dead executors left", slog.Any("error", err))
		return nil
	}
	defer func() { _ = parent.Close() }()
	unlock, err := lockAll(parent)
	if err != nil {
		h.log.Warn("could not look for what dead executors left", slog.Any("error", err))
		return nil
	}
	defer unlock()
	entries, err := fs.ReadDir(parent.FS(), ".")
	if err != nil {
		h.log.Warn("could not look for what dead executors left", slog.Any("error", err))
		return nil
	}
	for _, entry := range entries {
		if !entry.IsDir() || entry.Name() == h.own {
			continue
		}
		if life := h.reclaimOne(parent, entry.Name()); life != "" {
			dead = append(dead, life)
		}
	}
	return dead
}

func (h *home) reclaimOne(parent *os.Root, name string) (dead string) {
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return "" // another user's
	}
	defer func() { _ = dir.Close() }()
	mark, err := lockMark(dir, 0)
	if err != nil {
		return "" // no executor's, or of one that lives
	}
	defer func() { _ = mark.Close() }()
	log := h.log.With(slog.String("directory", name))
	dead, err = buried(dir)
	if err != nil {
		log.Warn("could not make sure that nothing is left of a dead executor; its tasks fail when its lease has run out", slog.Any("error", err))
	}
	if err := removeTree(parent, name); err != nil {
		log.Warn("could not remove what a dead executor left", slog.Any("error", err))
	} else {
		log.Info("removed what a dead executor left", slog.String("incarnation", dead))
	}
	return dead
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

// close removes the directory if no task left anything in it. Not while somebody makes one of that name, who would find his own
// gone.
func (h *home) close() {
	if parent, err := os.OpenRoot(h.parent); err == nil {
		defer func() { _ = parent.Close() }()
		if unlock, err := lockAll(parent); err == nil {
			defer unlock()
		}
	}
	_ = h.root.Remove(lifeName)
	_ = h.root.Remove(markName)
	_ = h.letGo()
	_ = os.Remove(h.path)
}

// letGo gives up the directory and leaves it as it is.
func (h *home) letGo() error {
	var errs []error
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
	}
	if h.dir != nil {
		errs = append(errs, h.dir.Close())
	}
	if h.root != nil {
		errs = append(errs, h.root.Close())
	}
	return errors.Join(errs...)
}

// makeTaskDir makes the empty working directory of a task, mode 0700.
func (h *home) makeTaskDir(task string) (string, error) {
	err := h.root.Mkdir(task, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if err := removeTree(h.root, task); err != nil {
			return "", err
		}
		err = h.root.Mkdir(task, 0o700)
	}
	if err != nil {
		return "", err
	}
	return filepath.Join(h.path, task), nil
}

// removeTaskDir removes a task's directory. Most are empty, and gone with one system call.
func (h *home) removeTaskDir(task string) error {
	if !strings.ContainsRune(task, '/') && unix.Unlinkat(int(h.dir.Fd()), task, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	return removeTree(h.root, task)
}

// sparePrefix begins the name of a spare.
const sparePrefix = ".spare."

// spare is an empty directory that a child keeps for its next task: to rename one costs a file system with a journal a quarter of
// what it costs to make and to remove it. It stays with its child. What a task can do to it that is not seen (extended attributes,
// say) is less than what it can do to the process.
type spare struct {
	home *home
	name string
}

// remove removes the directory, if there is one. It is empty, unless somebody was in it whom it does not concern.
func (s *spare) remove() {
	if s == nil {
		return
	}
	if err := s.home.removeTaskDir(s.name); err != nil {
		s.home.log.Warn("could not remove a working directory", slog.String("directory", s.name), slog.Any("error", err))
	}
}

// asMade reports whether a task's directory is as it was when it was made: empty, closed to others, and small. One that was large
// once stays so, and takes long to look into.
func (h *home) asMade(task string) bool {
	fd, err := unix.Openat(int(h.dir.Fd()), task, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	const small = 4 << 10
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil || info.Mode != unix.S_IFDIR|0o700 || int(info.Uid) != os.Geteuid() || info.Size > small {
		return false
	}
	var entries [512]byte
	n, err := unix.ReadDirent(fd, entries[:])
	_, others, _ := unix.ParseDirent(entries[:max(0, n)], 1, nil) // than . and ..
	return err == nil && others == 0
}

// taskDir is the working directory of one run, made when it is first asked for: most handlers in the executor's own process
// never do, and a directory costs more than they.
type taskDir struct {
	home *home
	task string

	mu   sync.Mutex
	path string
	// files is where files are that it was brought, "" if there are none.
	files string
	over  bool
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

// makeOf makes the directory, as make does, of one that is there already, and reports whether it took that. If not, make makes
// another.
func (d *taskDir) makeOf(s *spare) (taken bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s == nil || d.over || d.path != "" || unix.Renameat(int(s.home.dir.Fd()), s.name, int(d.home.dir.Fd()), d.task) != nil {
		return false
	}
	if !d.home.asMade(d.task) { // somebody was in it since, a task of another child or what is left of one of this
		return false
	}
	d.path = filepath.Join(d.home.path, d.task)
	return true
}

// keep gives the directory away, if it was made and the task has left it as it was, to be there for another task under a name. From
// then on there is none to be had.
func (d *taskDir) keep(name string) *spare {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || d.path == "" || !d.home.asMade(d.task) {
		return nil
	}
	dir := int(d.home.dir.Fd())
	if err := unix.Renameat(dir, d.task, dir, name); err != nil {
		return nil
	}
	d.path, d.over = "", true
	return &spare{home: d.home, name: name}
}

// makeFiles makes the directory for what the task is brought, beside its own, which is empty at the start.
func (d *taskDir) makeFiles() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return "", errors.New("the task has ended")
	}
	if d.files != "" {
		return d.files, nil
	}
	path, err := d.home.makeTaskDir(d.task + filesSuffix)
	if err != nil {
		return "", err
	}
	d.files = path
	return path, nil
}

const filesSuffix = ".files"

// remove removes the directory, if it was made. From then on there is none to be had.
func (d *taskDir) remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	var errFiles, err error
	if d.files != "" {
		errFiles = d.home.removeTaskDir(d.task + filesSuffix)
	}
	if d.path != "" {
		err = d.home.removeTaskDir(d.task)
	}
	return errors.Join(err, errFiles)
}

// clear removes the directory of a run that has ended.
func (d *taskDir) clear(r *run, log *slog.Logger) {
	if err := d.remove(); err != nil {
		log.Warn("could not remove a working directory", append(r.attrs(), slog.Any("error", err))...)
	}
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

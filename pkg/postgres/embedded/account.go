package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ErrUnreachable says that the user the server runs as may not enter a folder on the way to its data or binaries.
var ErrUnreachable = errors.New("cannot be reached by the user that PostgreSQL runs as")

// account is who the server runs as.
type account struct {
	name     string
	uid, gid uint32
	switched bool // we are root and it is somebody else
}

// serverAccount is ourselves for an ordinary user. Root gets somebody else, because PostgreSQL refuses root: the owner
// of an existing cluster in data (it may have been made by an ordinary user), else the wanted user, else postgres, else
// nobody. The user must exist in the passwd file: initdb looks its own name up.
func serverAccount(data, wanted string) (account, error) {
	if os.Geteuid() != 0 {
		return account{name: "you", uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	if uid, ok := ownerOf(data); ok && uid != 0 {
		u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
		if err != nil {
			return account{}, fmt.Errorf("%s belongs to user id %d, which does not exist on this machine", data, uid)
		}
		return accountOf(u)
	}
	names := []string{"postgres", "nobody"}
	if wanted != "" {
		names = []string{wanted}
	}
	for _, name := range names {
		if u, err := user.Lookup(name); err == nil && u.Uid != "0" {
			return accountOf(u)
		}
	}
	return account{}, fmt.Errorf("PostgreSQL does not run as root, and there is no user %v to run it as", names)
}

func ownerOf(path string) (uint32, bool) {
	if path == "" {
		return 0, false
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Uid, true
}

func accountOf(u *user.User) (account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("read id of user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("read group of user %s: %w", u.Username, err)
	}
	return account{name: u.Username, uid: uint32(uid), gid: uint32(gid), switched: true}, nil
}

// own gives path to the server's user.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// checkReach returns ErrUnreachable, naming the folder, if a may not enter one of the existing folders on the way to
// path. PostgreSQL would only say "Permission denied", after an initdb that has left traces. path is resolved.
//
// It reads mode bits; what an access control list grants in addition, it does not see.
func checkReach(path string, a account) error {
	if !a.switched {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && !mayEnter(info, a) {
			return fmt.Errorf("%s %w: %s may not enter %s (mode %#o); choose another place or open it with chmod o+x",
				path, ErrUnreachable, a.name, dir, info.Mode().Perm())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func mayEnter(info fs.FileInfo, a account) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	switch {
	case stat.Uid == a.uid:
		return info.Mode()&0o100 != 0
	case stat.Gid == a.gid:
		return info.Mode()&0o010 != 0
	}
	return info.Mode()&0o001 != 0
}

// resolve makes path absolute and free of symbolic links as far as it exists, so that the folders on the way are the
// ones that are really entered, and two spellings of one folder are equal.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", path, err)
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("resolve %s: %w", path, err)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}

// makeDir makes path and what is missing above it, with this mode whatever the umask says: under umask 077 root would
// make folders that the server's user cannot enter.
func makeDir(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", path)
		}
		return nil
	}
	if parent := filepath.Dir(path); parent != path {
		if err := makeDir(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // somebody else was faster
		}
		return err
	}
	return os.Chmod(path, mode)
}

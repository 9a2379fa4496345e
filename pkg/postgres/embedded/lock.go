package embedded

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process runs a server in the folder; errors.As with *InUseError tells which.
var ErrInUse = errors.New("is in use")

// InUseError is ErrInUse with the facts.
type InUseError struct {
	Dir string
	Pid int // the process that holds the folder; 0 if it did not say
}

func (e *InUseError) Error() string {
	if e.Pid == 0 {
		return fmt.Sprintf("%s %s by another process", e.Dir, ErrInUse)
	}
	return fmt.Sprintf("%s %s by process %d", e.Dir, ErrInUse, e.Pid)
}

// Is makes errors.Is(err, ErrInUse) true.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// lockDir takes the folder for this process. The kernel drops the lock when we die, however that happens; the file
// stays, removing it would let two processes lock two files of the same name. The file is not inherited by the server,
// so the lock means "somebody looks after this folder", not "a server runs".
func lockDir(dir, path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &InUseError{Dir: dir, Pid: holder(path)}
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := writeHolder(file); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, errors.Join(err, file.Close()))
	}
	return file, nil
}

func writeHolder(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func holder(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

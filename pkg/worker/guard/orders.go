package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// Env is set in the environment of a process that an executor started to be its guard. Its value is the number of the inherited
// file descriptor (a unix socket that keeps the borders of messages) that leads to the executor.
const Env = "SLUICE_GUARD_FD"

// Orders is all that a guard has to know. Each message of the executor is one, as JSON, and replaces the one before.
type Orders struct {
	// Executor is the number of the executor's process, which is the guard's parent.
	Executor int `json:"executor"`
	// Mark is an entry NAME=value that is in the environment of all processes that the executor has started for tasks.
	Mark string `json:"mark"`
	// Incarnation is the life that the executor leads, "" while it has none.
	Incarnation string `json:"incarnation,omitempty"`
	// Until is when the processes are to be killed if there is no other order before, in nanoseconds of CLOCK_BOOTTIME, 0 for never.
	Until int64 `json:"until,omitempty"`
	// Heartbeat is the address of the heartbeat service, "" if it is not to be told anything.
	Heartbeat string `json:"heartbeat,omitempty"`
	// TellFor is for how long after Until telling is worth the trouble: then the heartbeat service knows.
	TellFor time.Duration `json:"tell_for,omitempty"`
	// Goodbye: the executor stops in good order, and has nothing left to be guarded.
	Goodbye bool `json:"goodbye,omitempty"`
}

// Note is what a guard says to its executor. The first is that it is ready.
type Note struct {
	// Killed is how many processes it killed because the lease was over.
	Killed int `json:"killed,omitempty"`
	// Error is what kept it from killing all of them.
	Error string `json:"error,omitempty"`
}

// MaxMessage is the longest message either way, in bytes.
const MaxMessage = 16 << 10

// Encode makes one message of a value.
func Encode(message any) ([]byte, error) {
	b, err := json.Marshal(message)
	if err == nil && len(b) > MaxMessage {
		err = fmt.Errorf("it has %d bytes, more than %d", len(b), MaxMessage)
	}
	if err != nil {
		return nil, fmt.Errorf("encode a message of the guard's line: %w", err)
	}
	return b, nil
}

// Now is the time by the clock that guards go by: nanoseconds of CLOCK_BOOTTIME.
func Now() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // Linux has had it since 2.6.39
	}
	return now.Nano()
}

// Command is how a guard is started from this program, with the environment of the executor's children. It returns the executor's end of
// the line. The caller closes both, that of the guard (the last of its ExtraFiles) as soon as the guard is started.
func Command(env []string) (*exec.Cmd, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "guard"), os.NewFile(uintptr(fds[1]), "executor")
	// The running program itself, even if its file was replaced meanwhile.
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"sluice guard"} // what ps shows
	// It does nothing for hours: one processor and little garbage are enough.
	cmd.Env = append(append([]string{}, env...), Env+"=3", "GOMAXPROCS=1", "GOGC=20", "GOMEMLIMIT=off")
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs}
	// A session of its own: what is meant for the executor's terminal or its process group does not reach it.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	return cmd, ours, nil
}

// receive reads one message, if there is one. ok is false if there is none now; io is over when err is not nil.
func receive(fd int, into any) (ok bool, err error) {
	buffer := make([]byte, MaxMessage)
	for {
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("read from the executor: %w", err)
		case n == 0:
			return false, errClosed
		}
		if err := json.Unmarshal(buffer[:n], into); err != nil {
			return false, fmt.Errorf("read from the executor: %w", err)
		}
		return true, nil
	}
}

var errClosed = errors.New("the executor has closed the line")

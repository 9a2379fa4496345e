// Package procs finds processes by their place in the kernel's tables, for those who must see to it that they end.
//
// # Owns
//
// The reading of /proc, waiting for the end of processes that are not one's children, and how a whole tree of them is ended.
//
// # Failure
//
// Without /proc, or when it can't be read for want of descriptors or memory, there seem to be no processes: what says that something
// has ended (EndMarked, AwaitGroup, Await) does not say so then. What can't be killed (a process that hangs in the kernel) is waited for no
// longer than asked.
package procs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one process at the moment it was looked at.
type Process struct {
	PID    int
	Parent int
	// Group is the number of its process group, which is that of the group's leader.
	Group int
	// Over: it has ended, and only waits for its parent to take notice (a zombie).
	Over bool
	// Began is when it began, in ticks of the clock since the machine did. Numbers of processes are used again; together with
	// this one they mean one process for good.
	Began uint64
}

// Find lists the processes that match. It reads all of /proc: some milliseconds on a busy machine.
func Find(match func(Process) bool) []Process {
	all, _ := look()
	return slices.DeleteFunc(all, func(p Process) bool { return !match(p) })
}

// look lists all processes. With an error there may be others: whoever must know that there is none can't go by what it returned.
func look() (all []Process, err error) {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil, errors.Join(errors.New("/proc does not show the processes of this namespace"), err)
	}
	entries, err := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, notNumber := strconv.Atoi(entry.Name())
		if notNumber != nil {
			continue
		}
		p, exists, unread := read(pid)
		if exists {
			all = append(all, p)
		}
		err = errors.Join(err, unread)
	}
	return all, err
}

// Marked lists the living processes that began with an entry NAME=value in their environment: those that were started with it, and
// what they started, unless they took it away. Of other users' processes it sees nothing.
func Marked(entry string) []Process {
	return Find(func(p Process) bool { return p.marked(entry) })
}

func (p Process) marked(entry string) bool {
	is, _ := p.hasMark(entry)
	return is
}

// hasMark reports whether a living process has the mark, as far as we may see, or an error if that could not be read.
func (p Process) hasMark(entry string) (bool, error) {
	if p.Over {
		return false, nil
	}
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/environ")
	return err == nil && slices.Contains(strings.Split(string(environ), "\x00"), entry), unread(err)
}

// unread is the error of a file of /proc, unless that says that the process has ended or is not ours to look at.
func unread(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// read looks at one process. It reports false if it has ended meanwhile, or, with an error, if that can't be known.
func read(pid int) (p Process, exists bool, err error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, false, unread(err)
	}
	// pid (name) state parent group ...: the name can hold anything, so what counts begins after its last bracket.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return Process{}, false, fmt.Errorf("read process %d: %q", pid, stat)
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return Process{}, false, fmt.Errorf("read process %d: %q", pid, stat)
	}
	group, err := strconv.Atoi(string(fields[2]))
	if err != nil {
		return Process{}, false, fmt.Errorf("read process %d: %q", pid, stat)
	}
	began, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return Process{}, false, fmt.Errorf("read process %d: %q", pid, stat)
	}
	// Of a process whose first thread has ended and whose others go on, the state says the same as of one that is over.
	state, threads := fields[0][0], string(fields[17])
	over := state == 'X' || state == 'Z' && (threads == "0" || threads == "1")
	return Process{PID: pid, Parent: parent, Group: group, Over: over, Began: began}, true, nil
}

// Descendants lists what a living process has started, directly or not, wherever it moved to since. It sees all of them
// only if the process is a reaper for its descendants; otherwise those whose parent has ended are missing.
func Descendants(root int) []Process {
	return descendants(Find(func(Process) bool { return true }), root)
}

func descendants(all []Process, roots ...int) []Process {
	children := map[int][]Process{}
	for _, p := range all {
		children[p.Parent] = append(children[p.Parent], p)
	}
	var found []Process
	next := roots
	for len(next) > 0 {
		parent := next[0]
		next = next[1:]
		for _, p := range children[parent] {
			found = append(found, p)
			next = append(next, p.PID)
		}
		delete(children, parent) // a number that came to mean another process while we read must not lead in circles
	}
	return found
}

// AwaitGroup waits until all members of a process group that was killed have ended, at most for limit. It reports whether
// they have. Usually they have when it is called, and it costs one system call.
func AwaitGroup(group int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		if errors.Is(unix.Kill(-group, 0), unix.ESRCH) {
			return true
		}
		all, err := look()
		alive := slices.DeleteFunc(all, func(p Process) bool { return p.Group != group || p.Over })
		if len(alive) == 0 {
			return err == nil
		}
		if !alive[0].Await(time.Until(deadline)) {
			return false
		}
	}
}

// still reports whether the number still means this process, or an error if that can't be known.
func (p Process) still() (bool, error) {
	now, exists, err := read(p.PID)
	return exists && now.Began == p.Began, err
}

// Signal sends a signal to the process, and to no other that has its number by now. That it has ended is no error.
func (p Process) Signal(signal unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if still, err := p.still(); !still {
		return err
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(signal), p.PID, err)
	}
	return nil
}

// Await waits until the process has ended, at most for limit, and reports whether it has.
func (p Process) Await(limit time.Duration) bool {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer func() { _ = unix.Close(fd) }()
	if still, err := p.still(); !still {
		return err == nil // it ended before, and the descriptor is that of another with the same number
	}
	for deadline := time.Now().Add(limit); ; {
		left := max(0, time.Until(deadline)+time.Millisecond-1) // rounded up, for Poll counts in milliseconds
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		switch {
		case n == 1:
			return true
		case err != nil && !errors.Is(err, unix.EINTR), time.Until(deadline) <= 0:
			return false
		}
	}
}

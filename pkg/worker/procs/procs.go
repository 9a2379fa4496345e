// Package procs finds processes by their place in the kernel's tables, for those who must see to it that they end.
//
// # Owns
//
// The reading of /proc, and waiting for the end of processes that are not one's children.
//
// # Failure
//
// Without /proc there seem to be no processes. What can't be killed (a process that hangs in the kernel) is waited for no
// longer than asked.
package procs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
}

// Find lists the processes that match. It reads all of /proc: some milliseconds on a busy machine.
func Find(match func(Process) bool) []Process {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var found []Process
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if p, exists := read(pid); exists && match(p) {
			found = append(found, p)
		}
	}
	return found
}

// Marked lists the living processes that began with an entry NAME=value in their environment: those that were started with it, and
// what they started, unless they took it away. Of other users' processes it sees nothing.
func Marked(entry string) []Process {
	return Find(func(p Process) bool {
		if p.Over {
			return false
		}
		environ, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/environ")
		return err == nil && slices.Contains(strings.Split(string(environ), "\x00"), entry)
	})
}

func read(pid int) (Process, bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, false // it ended meanwhile
	}
	// pid (name) state parent group ...: the name can hold anything, so what counts begins after its last bracket.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 3 {
		return Process{}, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return Process{}, false
	}
	group, err := strconv.Atoi(string(fields[2]))
	if err != nil {
		return Process{}, false
	}
	state := fields[0][0]
	return Process{PID: pid, Parent: parent, Group: group, Over: state == 'Z' || state == 'X'}, true
}

// Descendants lists what a living process has started, directly or not, wherever it moved to since. It sees all of them
// only if the process is a reaper for its descendants; otherwise those whose parent has ended are missing.
func Descendants(root int) []Process {
	children := map[int][]Process{}
	for _, p := range Find(func(Process) bool { return true }) {
		children[p.Parent] = append(children[p.Parent], p)
	}
	var found []Process
	next := []int{root}
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
		alive := Find(func(p Process) bool { return p.Group == group && !p.Over })
		if len(alive) == 0 {
			return true
		}
		if !alive[0].Await(time.Until(deadline)) {
			return false
		}
	}
}

// Await waits until the process has ended, at most for limit, and reports whether it has.
func (p Process) Await(limit time.Duration) bool {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer func() { _ = unix.Close(fd) }()
	if now, exists := read(p.PID); !exists || now.Group != p.Group {
		return true // it ended before, and the descriptor is that of another with the same number
	}
	for deadline := time.Now().Add(limit); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n == 1 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

package procs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxLooks is how often EndMarked looks for more before it kills those that it has: they start others faster than it stops them.
const maxLooks = 100

// EndMarked ends the living processes that began with an entry NAME=value in their environment, and all that descends from them: so
// what has taken the mark out of its environment is found too, as long as its ancestors live. First all are stopped, so that
// nobody starts another, or ends and leaves orphans, between being found and being killed; then all are killed; then it waits
// for their end, and looks again until there are none.
//
// It returns how many it killed, and an error if after limit some are still there, or may be, because not all could be looked at, or if
// this process is one of them. wanted is asked after each look, before anything is done to what was found; if it says no, what was
// stopped goes on, and there is no error.
func EndMarked(entry string, limit time.Duration, wanted func() bool) (killed int, err error) {
	deadline := time.Now().Add(limit)
	// What was stopped is ours to end, also if it can't be found any more: it may have just become another program without a mark.
	stopped := map[identity]Process{}
	for looks, nobody := 1, 0; ; looks++ {
		found, unseen := tree(entry)
		if !wanted() {
			for _, p := range stopped {
				_ = p.Signal(unix.SIGCONT)
			}
			return killed, nil
		}
		if slices.ContainsFunc(found, func(p Process) bool { return p.PID == os.Getpid() }) {
			return killed, fmt.Errorf("end the processes of %s: this process is one of them", entry)
		}
		if len(found) == 0 && len(stopped) == 0 && unseen != nil {
			return killed, fmt.Errorf("look for the processes of %s: %w", entry, unseen)
		}
		if len(found) == 0 && len(stopped) == 0 {
			// One that is just being replaced by another program has no environment for a moment.
			if nobody++; nobody == 2 {
				return killed, nil
			}
			continue
		}
		nobody = 0
		known := len(stopped)
		for _, p := range found {
			if _, is := stopped[p.identity()]; !is {
				_ = p.Signal(unix.SIGSTOP) // who may not be stopped may not be killed either, and that is told below
				stopped[p.identity()] = p
			}
		}
		if len(stopped) > known && looks < maxLooks {
			continue
		}
		var refused error
		for _, p := range stopped {
			if err := p.Signal(unix.SIGKILL); err != nil {
				refused = err
			}
		}
		for _, p := range stopped {
			switch {
			case p.Await(time.Until(deadline)):
				killed++
			case refused != nil:
				return killed, fmt.Errorf("end the processes of %s: %w", entry, refused)
			default:
				return killed, fmt.Errorf("end the processes of %s: process %d was killed and is still there", entry, p.PID)
			}
		}
		clear(stopped)
		if looks = 0; time.Until(deadline) <= 0 {
			return killed, fmt.Errorf("end the processes of %s: others may have been started meanwhile", entry)
		}
	}
}

// identity is what stays the same of a process for as long as it lives.
type identity struct {
	pid   int
	began uint64
}

func (p Process) identity() identity { return identity{p.PID, p.Began} }

// tree lists the living processes with a mark and their living descendants. With an error there may be others.
func tree(entry string) ([]Process, error) {
	all, err := look()
	var found []Process
	known := map[int]bool{}
	var roots []int
	for _, p := range all {
		is, unread := p.hasMark(entry)
		if err = errors.Join(err, unread); is {
			known[p.PID] = true
			found, roots = append(found, p), append(roots, p.PID)
		}
	}
	for _, p := range descendants(all, roots...) {
		if !p.Over && !known[p.PID] {
			known[p.PID] = true
			found = append(found, p)
		}
	}
	return found, err
}

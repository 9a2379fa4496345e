// Command soaker is the executor of the soak test: its tasks do nothing but write down that they run.
//
// # Owns
//
// Two handlers, soak.run in a process of its own and soak.now in the executor's, and the lines that they append to a file: what
// happens, the task, its claim, and the time by the clock that all processes of a machine have in common:
//
//	start 0198… 7 123456789
//	lives 0198… 7 123481789
//	end   0198… 7 123506789
//
// A line says "lives" every 25 ms, also in a process that has left the group of the task: however a task is ended, these lines
// say when it was really over.
//
// # Failure
//
// What can't be written fails the task.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/cli"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

const (
	signsOfLife = 25 * time.Millisecond
	// deafFor is how long a task that does not listen goes on when it is to stop.
	deafFor = 700 * time.Millisecond
	// detachedMode makes this program the process that a task has left behind, instead of an executor.
	detachedMode = "detached"
)

// work is what a task is told to do.
type work struct {
	// File is where it writes.
	File string `json:"file"`
	// Millis is how long it takes.
	Millis int64 `json:"millis"`
	// Kind is "plain", "deaf" (does not stop at once when it is to) or "detached" (has another process do it, in a session of its
	// own).
	Kind string `json:"kind"`
}

func main() {
	if len(os.Args) == 6 && os.Args[1] == detachedMode {
		os.Exit(detached(os.Args[2:])) //nolint:forbidigo // this is a main.go
	}
	mux := worker.NewMux()
	worker.Handle(mux, "soak.run", run)
	worker.Handle(mux, "soak.now", run, worker.Immediate())
	os.Exit(cli.ExecutorMain(mux)) //nolint:forbidigo // the same
}

// run is both handlers.
func run(ctx context.Context, w work) (none worker.None, err error) {
	task := worker.Current(ctx)
	d, err := open(w.File, task.ID, strconv.FormatInt(task.Claim, 10))
	if err != nil {
		return none, err
	}
	defer d.file.Close()
	if err := d.write("start"); err != nil {
		return none, err
	}
	if w.Kind == detachedMode {
		err = d.elsewhere(ctx, w)
	} else {
		err = d.live(ctx, time.Duration(w.Millis)*time.Millisecond, w.Kind == "deaf")
	}
	if err != nil {
		return none, err
	}
	return none, d.write("end")
}

// diary is what one run writes.
type diary struct {
	file        *os.File
	task, claim string
}

func open(path, task, claim string) (diary, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return diary{}, fmt.Errorf("open the history: %w", err)
	}
	return diary{file: file, task: task, claim: claim}, nil
}

// write appends one line, in one call: so no two lines mix.
func (d diary) write(what string) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("ask for the time: %w", err)
	}
	_, err := fmt.Fprintf(d.file, "%s %s %s %d\n", what, d.task, d.claim, now.Nano())
	return err
}

// live takes its time and says all the while that it lives.
func (d diary) live(ctx context.Context, takes time.Duration, deaf bool) error {
	over := time.NewTimer(takes)
	defer over.Stop()
	beat := time.NewTicker(signsOfLife)
	defer beat.Stop()
	stop := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case <-over.C:
			return nil
		case <-beat.C:
			if err := d.write("lives"); err != nil {
				return err
			}
		case <-stop:
			if !deaf {
				return ctx.Err()
			}
			stop, late = nil, time.After(deafFor)
		case <-late:
			return ctx.Err()
		}
	}
}

// elsewhere has a process in a session of its own live for the task, and waits for it.
func (d diary) elsewhere(ctx context.Context, w work) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	other := exec.CommandContext(ctx, self, detachedMode, w.File, d.task, d.claim, strconv.FormatInt(w.Millis, 10))
	other.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := other.Run(); err != nil {
		return fmt.Errorf("run elsewhere: %w", err)
	}
	return nil
}

// detached is what that process does. It listens to nobody.
func detached(args []string) int {
	millis, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return 2
	}
	d, err := open(args[0], args[1], args[2])
	if err != nil {
		return 1
	}
	defer d.file.Close()
	//nolint:forbidigo // this is where a program begins
	if err := d.live(context.Background(), time.Duration(millis)*time.Millisecond, true); err != nil {
		return 1
	}
	return 0
}

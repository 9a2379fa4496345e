package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"go.opentelemetry.io/otel"
	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker/guard"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// ChildEnv is set in the environment of a process that an executor started as a worker. Its value is the number of the
// inherited file descriptor (a connected unix stream socket) that leads to the executor.
const ChildEnv = "SLUICE_CHILD_FD"

// maxLooks is how often killAll looks whether a process is being started that it can't prevent, before it gives up on that.
const maxLooks = 100

// IsChild reports whether this process was started by an executor: to be a worker, or to be the executor's guard (see package
// guard). A program that is an executor, which starts it again for its guard and, by default, for each worker, asks this first,
// before it opens, locks or prints anything.
func IsChild() bool { return os.Getenv(ChildEnv) != "" || guard.Asked() }

// ChildMain makes this process what the executor wants it to be.
//
// A worker it is until its executor ends it; it only returns if that could not even begin, with the exit code for main. When
// the executor is gone, all that descends from this process dies at once by SIGKILL, together with its process group and itself.
//
// A guard, which has nothing to do with mux, ends after its executor.
func ChildMain(mux *Mux) int {
	if guard.Asked() {
		return guard.Main()
	}
	conn, err := executorLine()
	if err != nil {
		fmt.Fprintf(os.Stderr, "sluice worker: %v\n", err)
		return 1
	}
	// Orphans of the task come to us instead of to process 1, so that killLeftovers and killAll find all of them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "sluice worker: become the reaper of the task's processes: %v\n", err)
		return 1
	}
	c := newChild(mux, conn)
	c.settle = killLeftovers
	c.traces.everywhere = otel.SetTracerProvider
	go c.watchSignals(os.Getppid())

	if err := c.serve(context.Background()); err != nil { //nolint:forbidigo // the process is this function: it has no caller
		fmt.Fprintf(os.Stderr, "sluice worker: %v\n", err)
	}
	killAll()
	return 1
}

// executorLine takes over the inherited socket.
func executorLine() (net.Conn, error) {
	value := os.Getenv(ChildEnv)
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q: must be the number of an inherited socket", ChildEnv, value)
	}
	// What a task starts is no worker, even if it is this very program.
	if err := os.Unsetenv(ChildEnv); err != nil {
		return nil, fmt.Errorf("unset %s: %w", ChildEnv, err)
	}
	file := os.NewFile(uintptr(fd), "executor")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file) // a duplicate, closed on exec: the task's processes must not keep the line open
	if err != nil {
		return nil, fmt.Errorf("%s=%s: open the line to the executor: %w", ChildEnv, value, err)
	}
	return conn, nil
}

// watchSignals turns SIGTERM into a stop of what runs, for handlers whose own processes got it too, and into the death of
// everything when it announces the executor's: SIGTERM is what the kernel was told to send us then. SIGKILL would be
// surer for this process, and leave the task's other processes behind: it gives no time to kill them, and it comes before
// the end of the line is seen.
//
// SIGPIPE is caught so that writing to standard output after the executor's death is an error and not ours, for the same
// reason. Signals are caught, not ignored: what a task starts begins with the default again.
func (c *child) watchSignals(executor int) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGPIPE)
	if os.Getppid() != executor {
		killAll() // it died before we listened
	}
	for s := range signals {
		if os.Getppid() != executor {
			killAll()
		}
		if s == unix.SIGTERM {
			c.stopAny()
		}
	}
}

// killAll kills all descendants of this process, then its process group (the executor made us the leader) and itself with
// it. The descendants come first: one that had left the group (setsid, as daemons do) would live on without an owner, and
// might still write to what the task's successor on another executor writes to.
func killAll() {
	killed := map[int]bool{}
	held := false
	for look := 1; ; look++ {
		// Whatever starts processes in Go takes this lock: the handler shall start none after the last look.
		held = held || syscall.ForkLock.TryLock()
		// Who has been sent SIGKILL starts no process any more, so once nobody is new all are dead or about to be.
		strangers := slices.DeleteFunc(procs.Descendants(os.Getpid()), func(p procs.Process) bool { return p.Over || killed[p.PID] })
		for _, p := range strangers {
			_ = unix.Kill(p.PID, unix.SIGKILL)
			killed[p.PID] = true
		}
		if len(strangers) == 0 && (held || look >= maxLooks) {
			break
		}
	}
	_ = unix.Kill(0, unix.SIGKILL)
}

// killLeftovers kills and reaps all that is left of the processes that a task started, also those that left the process
// group or lost their parent. When it returns this process has no children, so the next task begins alone.
func killLeftovers() {
	for {
		reaped, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR), reaped > 0:
			continue
		case err != nil: // ECHILD: none is left
			return
		}
		children := procs.Find(func(p procs.Process) bool { return p.Parent == os.Getpid() })
		if len(children) == 0 {
			return // there is one, but /proc does not show it: nothing we could do
		}
		for _, child := range children {
			_ = unix.Kill(child.PID, unix.SIGKILL)
		}
		// One has ended by now or is about to. Its own children become ours, so look again.
		_, _ = unix.Wait4(-1, nil, 0, nil)
	}
}

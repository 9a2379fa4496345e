package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

const (
	// killFor is how long killed processes are waited for before the line is looked at again.
	killFor = time.Second
	// clearFor is how long a guard without orders for a lease tries to end what its dead executor left.
	clearFor = time.Minute
	// clearPause is between two attempts: one that fails because nothing can be looked at fails at once.
	clearPause = 50 * time.Millisecond
)

// Asked reports whether this process was started to be a guard.
func Asked() bool { return os.Getenv(Env) != "" }

// Main makes this process the guard of the executor that started it, until that is gone or says goodbye. It returns the exit code for
// main.
func Main() int {
	// Its standard streams are /dev/null, and who waits for the end of the executor's must not wait for the guard.
	terminated := make(chan os.Signal, 1)
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	signal.Notify(terminated, unix.SIGTERM) // see tell
	w, err := watchExecutor()
	if err != nil {
		return 1 // the executor sees that the line is closed
	}
	debug.FreeOSMemory() // of the start, which is all that was needed until now
	if !w.watch() {
		return 0
	}
	if !w.clear() || w.orders.Incarnation == "" || w.orders.Heartbeat == "" {
		return 0
	}
	//nolint:forbidigo // the process is this function: it has no caller
	tell(context.Background(), w.orders, terminated)
	return 0
}

// watcher is what a guard has of its executor.
type watcher struct {
	line     int // -1 when it is closed
	executor int // a descriptor of the executor's process
	alarm    int // a timer on CLOCK_BOOTTIME
	orders   Orders
	// acted is the Until that was acted upon: everything was killed.
	acted int64
}

// watchExecutor takes over the line and takes the first orders.
func watchExecutor() (*watcher, error) {
	value := os.Getenv(Env)
	line, err := strconv.Atoi(value)
	if err != nil || line < 3 {
		return nil, fmt.Errorf("%s=%q: must be the number of an inherited socket", Env, value)
	}
	if err := unix.SetNonblock(line, true); err != nil {
		return nil, fmt.Errorf("%s=%s: %w", Env, value, err)
	}
	closeInherited(line)
	w := &watcher{line: line}
	for w.orders.Executor == 0 {
		if err := poll(w.line); err != nil {
			return nil, err
		}
		if _, err := receive(w.line, &w.orders); err != nil {
			return nil, err
		}
	}
	if w.executor, err = unix.PidfdOpen(w.orders.Executor, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("open process %d: %w", w.orders.Executor, err)
	}
	if err != nil || os.Getppid() != w.orders.Executor {
		w.executor = -1 // it is gone, and the number nobody's, or another's
	}
	if w.alarm, err = unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	w.say(Note{})
	return w, nil
}

// closeInherited closes what the executor had inherited itself and passed on without wanting to: a pipe whose other end somebody
// reads until it is closed. Our own are closed on exec, and so can be told apart.
func closeInherited(line int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= 2 || fd == line {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

// poll waits until something can be read from one of them; negative ones are left out.
func poll(descriptors ...int) error {
	waiting := make([]unix.PollFd, len(descriptors))
	for i, fd := range descriptors {
		waiting[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for {
		_, err := unix.Poll(waiting, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the executor: %w", err)
		}
		return nil
	}
}

// watch does its duty while the executor lives. It reports true if that ended without a goodbye.
func (w *watcher) watch() bool {
	for !w.gone() {
		w.hear()
		switch {
		case w.orders.Goodbye:
			return false
		case w.over():
			w.leaseOver()
			if w.orders.Goodbye { // heard meanwhile: nothing would wake us again
				return false
			}
		default:
			w.setAlarm(w.due())
		}
		if err := poll(w.line, w.executor, w.alarm); err != nil {
			return false // not to be expected; the executor starts another guard
		}
	}
	w.hear() // its last words
	return !w.orders.Goodbye
}

// gone reports whether the executor's process has ended: not a thread of it runs any more.
func (w *watcher) gone() bool {
	if w.executor < 0 {
		return true
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.executor), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// hear takes all orders that have arrived; the last one counts.
func (w *watcher) hear() {
	for w.line >= 0 {
		var orders Orders
		ok, err := receive(w.line, &orders)
		switch {
		case err != nil:
			_ = unix.Close(w.line)
			w.line = -1
		case !ok:
			return
		default:
			w.orders = orders
		}
	}
}

// due is when there is something to do, 0 for never.
func (w *watcher) due() int64 {
	if w.orders.Until == w.acted {
		return 0
	}
	return w.orders.Until
}

func (w *watcher) over() bool { return w.due() != 0 && Now() >= w.due() }

// leaseOver ends what the executor has started. Until that has been seen to, and each second again, orders count that came
// meanwhile: when the executor has begun a new life, nothing of the old one is left, and what is found belongs to the new one.
func (w *watcher) leaseOver() {
	until := w.orders.Until
	killed, err := procs.EndMarked(w.orders.Mark, killFor, func() bool {
		w.hear()
		return w.over() && !w.orders.Goodbye
	})
	if note := (Note{Killed: killed}); err != nil {
		note.Error = err.Error()
		w.say(note)
		w.setAlarm(Now() + int64(killFor))
	} else {
		w.acted = until
		w.setAlarm(w.due())
		if killed > 0 {
			w.say(note)
		}
	}
}

// setAlarm makes the alarm readable at a time of CLOCK_BOOTTIME, 0 for never.
func (w *watcher) setAlarm(at int64) {
	_ = unix.TimerfdSettime(w.alarm, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{Value: unix.NsecToTimespec(at)}, nil)
}

// say tells the executor something, if it has room for it: it may be stopped.
func (w *watcher) say(note Note) {
	if b, err := Encode(note); err == nil {
		_ = unix.Sendto(w.line, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	}
}

// clear ends what a dead executor left and reports whether nothing of it is left.
func (w *watcher) clear() bool {
	deadline := w.tellUntil()
	if w.orders.Until == 0 {
		deadline = Now() + int64(clearFor)
	}
	for {
		_, err := procs.EndMarked(w.orders.Mark, killFor, func() bool { return true })
		if err == nil {
			return true
		}
		if Now() >= deadline {
			return false
		}
		<-time.After(clearPause)
	}
}

func (w *watcher) tellUntil() int64 { return w.orders.Until + int64(w.orders.TellFor) }

package guard

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// newWatcher makes a watcher of an executor, whose end of the line it returns.
func newWatcher(t *testing.T, executor *process, orders Orders) (w *watcher, line int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	alarm, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w = &watcher{line: fds[0], executor: -1, alarm: alarm, orders: orders}
	if executor != nil {
		if w.executor, err = unix.PidfdOpen(executor.Pid, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, fd := range []int{w.line, w.executor, alarm} {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	})
	return w, fds[1]
}

// process is one that ends when it is killed.
type process struct {
	*os.Process

	ended chan struct{}
}

func start(t *testing.T, mark string) *process {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = append(os.Environ(), mark)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Process: cmd.Process, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.Kill()
		<-p.ended
	})
	return p
}

// Between the guard's waking and its finding the processes, the executor can begin another life: what is found then belongs to that.
func TestOrdersThatComeWhileProcessesAreLookedForCount(t *testing.T) {
	old := Orders{Mark: "GUARD_TEST_MARK=" + t.Name(), Incarnation: "old", Until: 1}
	task := start(t, old.Mark)
	w, line := newWatcher(t, nil, old)
	begun := old
	begun.Incarnation, begun.Until = "new", Now()+int64(time.Hour)
	message, err := Encode(begun)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(line, message); err != nil {
		t.Fatal(err)
	}
	w.leaseOver()
	if len(procs.Marked(old.Mark)) != 1 {
		t.Error("a process of the new life was killed")
	}
	if w.orders.Incarnation != "new" || w.due() != begun.Until {
		t.Errorf("orders %+v, due %d", w.orders, w.due())
	}
	if err := unix.Close(line); err != nil {
		t.Fatal(err)
	}
	for w.orders.Until = 2; w.over(); { // and when that is over too, it is
		w.leaseOver()
	}
	<-task.ended
}

// Handlers in the executor's own process live as long as that, whatever became of the line.
func TestAClosedLineIsNotTheEndOfTheExecutor(t *testing.T) {
	mark := "GUARD_TEST_MARK=" + t.Name()
	executor, task := start(t, ""), start(t, mark)
	w, line := newWatcher(t, executor, Orders{Mark: mark, Until: Now() + int64(100*time.Millisecond)})
	if err := unix.Close(line); err != nil {
		t.Fatal(err)
	}
	gone := make(chan bool, 1)
	go func() { gone <- w.watch() }()
	select {
	case <-task.ended: // by the end of the lease, which counts as long as the executor lives
	case <-gone:
		t.Fatal("the executor is taken for dead")
	}
	if err := executor.Kill(); err != nil {
		t.Fatal(err)
	}
	if !<-gone {
		t.Error("the executor is said to have said goodbye")
	}
}

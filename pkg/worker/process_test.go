package worker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// ownerEnv makes this program the owner of a child.
const ownerEnv = "SLUICE_TEST_OWNER"

// family starts processes and writes their numbers: a member of the group; a parent and its child that left it together; and
// one that left it and whose parents are gone.
const family = `
sleep 1000 & echo $!
setsid sh -c 'sleep 1000 & echo $!; echo $$; wait' &
(setsid sh -c '(setsid sleep 1000 & echo $!)' &)
wait`

const familySize = 4

// stubborn is what the task says to a request to stop.
const stubborn = "I will not"

// familyMux has a task that starts a family, tells its members' numbers, and does not stop when it is asked to.
func familyMux() *worker.Mux {
	mux := worker.NewMux()
	worker.Handle(mux, "family", func(ctx context.Context, _ struct{}) (worker.None, error) {
		cmd := exec.Command("sh", "-c", family)
		stdout, err := cmd.StdoutPipe()
		if err := errors.Join(err, cmd.Start()); err != nil {
			return worker.None{}, err
		}
		var members []string
		lines := bufio.NewScanner(stdout)
		for len(members) < familySize && lines.Scan() {
			members = append(members, lines.Text())
		}
		go func() {
			<-ctx.Done()
			_, _ = worker.NewGroup(context.WithoutCancel(ctx), stubborn)
		}()
		_, err = worker.NewGroup(context.WithoutCancel(ctx), strings.Join(members, " ")) // nobody answers
		return worker.None{}, err
	})
	return mux
}

// childCommand starts this program as a worker with this line, as an executor does.
func childCommand(line *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), worker.ChildEnv+"=3", ownerEnv+"=")
	cmd.ExtraFiles = []*os.File{line}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// own starts a child with the inherited line and lives as long as it does, unless it is killed.
func own() int {
	runtime.LockOSThread() // the child is told of the death of the thread that started it
	if err := childCommand(os.NewFile(3, "line")).Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// startFamily starts a child, by itself or with an owner, runs the family in it and returns all of its processes. The child
// comes first.
func startFamily(t *testing.T, cmd func(line *os.File) *exec.Cmd) (*exec.Cmd, *executor, []procs.Process) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "executor")
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	started := cmd(theirs)
	if err := errors.Join(started.Start(), theirs.Close()); err != nil {
		t.Fatal(err)
	}
	e := &executor{t: t, conn: conn, reader: bufio.NewReader(conn)}
	child := int(e.receive().GetHello().GetPid())
	pids := []int{child}
	t.Cleanup(func() {
		for _, pid := range append(pids, started.Process.Pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = started.Wait()
	})
	e.run(1, "family")
	for text := range strings.FieldsSeq(e.receive().GetCall().GetNewGroup().GetDescription()) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	members := make([]procs.Process, 0, len(pids))
	strays := 0
	for _, pid := range pids {
		found := procs.Find(func(p procs.Process) bool { return p.PID == pid && !p.Over })
		members = append(members, found...)
		if len(found) == 1 && found[0].Group != child {
			strays++
		}
	}
	if len(members) != 1+familySize || strays != 3 {
		t.Fatalf("%d strays in the family %+v of %d", strays, members, child)
	}
	return started, e, members
}

// mustEnd waits until all of them have ended.
func mustEnd(t *testing.T, family []procs.Process) {
	t.Helper()
	for _, p := range family {
		if !p.Await(10 * time.Second) {
			t.Errorf("still there: %+v", p)
		}
	}
}

func TestFamilyDiesWhenTheExecutorClosesTheLine(t *testing.T) {
	child, e, members := startFamily(t, childCommand)
	if err := e.conn.Close(); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, members)
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the child itself: %v", err)
	}
}

// The line stays open, as it would if another process had inherited the executor's end.
func TestFamilyDiesWithTheExecutor(t *testing.T) {
	owner, _, members := startFamily(t, func(line *os.File) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), ownerEnv+"=1")
		cmd.ExtraFiles = []*os.File{line}
		cmd.Stderr = os.Stderr
		return cmd
	})
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, members)
}

// SIGTERM from anybody else is a request to the task, not the end of its processes.
func TestFamilySurvivesARequestToStop(t *testing.T) {
	child, e, members := startFamily(t, childCommand)
	if err := child.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := e.receive().GetCall().GetNewGroup().GetDescription(); got != stubborn {
		t.Errorf("the task says %q", got)
	}
	for _, member := range members {
		if len(procs.Find(func(p procs.Process) bool { return p.PID == member.PID && !p.Over })) == 0 {
			t.Errorf("the signal killed %+v", member)
		}
	}
}

package procs_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// group starts a process group of a shell and two sleeps, with a name that could be taken for other fields.
func group(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "sleep 1000 & sleep 1000 & echo; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	})
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestFindSeesParentsGroupsAndZombies(t *testing.T) {
	cmd := group(t)
	leader := cmd.Process.Pid
	if descendants := procs.Descendants(leader); len(descendants) != 2 {
		t.Errorf("descendants: %+v", descendants)
	}
	members := procs.Find(func(p procs.Process) bool { return p.Group == leader })
	if len(members) != 3 {
		t.Fatalf("members: %+v", members)
	}
	for _, p := range members {
		if p.Over || p.PID == leader && p.Parent != os.Getpid() || p.PID != leader && p.Parent != leader {
			t.Errorf("member: %+v of leader %d of %d", p, leader, os.Getpid())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, leader, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	dead := procs.Find(func(p procs.Process) bool { return p.PID == leader })
	if len(dead) != 1 || !dead[0].Over {
		t.Errorf("a process that ended and was not waited for: %+v", dead)
	}
}

func TestAwaitGroup(t *testing.T) {
	cmd := group(t)
	leader := cmd.Process.Pid
	if procs.AwaitGroup(leader, 10*time.Millisecond) {
		t.Error("a living group is over")
	}
	if err := unix.Kill(-leader, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !procs.AwaitGroup(leader, time.Minute) {
		t.Error("a killed group does not end")
	}
	if alive := procs.Find(func(p procs.Process) bool { return p.Group == leader && !p.Over }); len(alive) != 0 {
		t.Errorf("alive: %+v", alive)
	}
	_ = cmd.Wait()
	if !procs.AwaitGroup(leader, time.Minute) {
		t.Error("a group that is gone is not over")
	}
}

func TestMarkedProcessesAreFoundWhereverTheyMovedTo(t *testing.T) {
	const mark = "PROCS_TEST_MARK=here"
	cmd := exec.Command("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
	cmd.Env = append(os.Environ(), mark)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	found := procs.Marked(mark)
	if len(found) != 1 || found[0].PID != pid {
		t.Fatalf("found %v, expected process %d, whose parent has ended", found, pid)
	}
	if other := procs.Marked(mark + "x"); len(other) != 0 {
		t.Errorf("found %v by another mark", other)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !found[0].Await(time.Minute) {
		t.Fatal("it does not end")
	}
	if left := procs.Marked(mark); len(left) != 0 {
		t.Errorf("found %v after its end", left)
	}
}

package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// holder is another process that runs a server.
type holder struct {
	cmd    *osexec.Cmd
	stdin  io.Closer
	server int // process id of the server
	url    string
}

func startHolder(t *testing.T, dir string) *holder {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderEnv+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &holder{cmd: cmd, stdin: stdin}
	t.Cleanup(h.kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("holder: %v", err)
	}
	if _, err := fmt.Sscanf(line, "ready %d %s", &h.server, &h.url); err != nil {
		t.Fatalf("holder says %q", line)
	}
	return h
}

// kill is kill -9: the holder gets no chance to stop its server.
func (h *holder) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

// adoptOrphans makes the server of a killed holder our child instead of process 1's. We do not reap it until the test
// has ended, so it stays as a zombie, as in a container whose process 1 reaps nobody.
func adoptOrphans(t *testing.T) {
	t.Helper()
	set := func(on uintptr) error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, on, 0, 0, 0) }
	if err := set(1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = set(0)
		for { // the servers of this process are all stopped by now, so whatever is left is adopted
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				return
			}
		}
	})
}

// state is the letter in /proc/PID/stat: Z for a zombie; "" when there is no such process.
func state(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// serversIn lists the living processes whose working directory is the cluster.
func serversIn(dir string) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	var found []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == filepath.Join(dir, "data") {
			found = append(found, link)
		}
	}
	return found
}

func TestKillOfTheParentEndsTheServerAndLosesNoRow(t *testing.T) {
	adoptOrphans(t)
	dir := pgtest.Dir(t)
	h := startHolder(t, dir)
	exec(t, h.url, "create table kept (n int); insert into kept values (7)")
	h.kill()
	eventually(t, "no postgres left behind", func() bool { return len(serversIn(dir)) == 0 })
	cfg := config(t, dir)
	cfg.Durable = true
	s := start(t, cfg)
	if got := value(t, s.URL(), "select n::text from kept"); got != "7" {
		t.Errorf("n = %s, want 7", got)
	}
}

func TestStartDoesNotWaitToBeAskedTwiceAfterAKill(t *testing.T) {
	adoptOrphans(t)
	dir := pgtest.Dir(t)
	h := startHolder(t, dir)
	exec(t, h.url, "create table kept (n int); insert into kept values (7)")
	h.kill()
	s := start(t, config(t, dir)) // at once, while the old server is still going down
	if got := value(t, s.URL(), "select n::text from kept"); got != "7" {
		t.Errorf("n = %s, want 7", got)
	}
}

func TestZombiePostmasterAndItsLocksDoNotKeepItFromStarting(t *testing.T) {
	adoptOrphans(t)
	dir := pgtest.Dir(t)
	h := startHolder(t, dir)
	exec(t, h.url, "create table kept (n int); insert into kept values (7)")
	// Killed itself, the server removes neither postmaster.pid nor the lock of its socket.
	if err := syscall.Kill(h.server, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.kill()
	if err := syscall.Kill(h.server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "server is a zombie", func() bool { return state(h.server) == "Z" })
	if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); err != nil {
		t.Fatal("nothing stale to test with:", err)
	}
	s := start(t, config(t, dir))
	if got := value(t, s.URL(), "select n::text from kept"); got != "7" {
		t.Errorf("n = %s, want 7", got)
	}
	if got := state(h.server); got != "Z" {
		t.Errorf("the old server's state is %q; the test wanted a zombie all along", got)
	}
}

func TestBusyBackendOfAKilledServerIsEnded(t *testing.T) {
	adoptOrphans(t)
	dir := pgtest.Dir(t)
	h := startHolder(t, dir)
	conn := connect(t, h.url)
	var backend int
	if err := conn.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&backend); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		// Busy in the processor for years: it never comes to the place where it would see that its server has died.
		_, err := conn.Exec(ctx, "select count(*) from generate_series(1, 1e15::bigint) a, generate_series(1, 1000) b")
		ended <- err
	}()
	t.Cleanup(func() { cancel(); <-ended })
	eventually(t, "query runs", func() bool {
		return value(t, h.url, "select count(*)::text from pg_stat_activity where query like '%1e15%' and state = 'active' and pid = "+fmt.Sprint(backend)) == "1"
	})
	if err := syscall.Kill(h.server, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.kill()
	if err := syscall.Kill(h.server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := state(backend); got == "" || got == "Z" {
		t.Fatalf("backend is in state %q already, nothing to test with", got)
	}
	exec(t, start(t, config(t, dir)).URL(), "select 1")
	if got := state(backend); got != "" && got != "Z" {
		t.Errorf("the old backend still runs, state %s", got)
	}
}

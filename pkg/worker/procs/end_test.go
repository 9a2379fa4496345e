package procs_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// leaderless makes this program a process whose first thread ends before the others, which tell when they see it and wait.
const leaderless = "PROCS_TEST_LEADERLESS"

func TestMain(m *testing.M) {
	if os.Getenv(leaderless) != "" {
		loseLeader()
	}
	os.Exit(m.Run())
}

func loseLeader() {
	runtime.GOMAXPROCS(4) // one goes with the thread
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			go func() { _, _ = unix.Read(0, make([]byte, 1)) }() // which keeps another thread
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
		}
		_, _ = unix.Read(0, make([]byte, 1))
		os.Exit(1)
	}()
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	_, _ = unix.Read(0, make([]byte, 1))
	os.Exit(1)
}

// marked starts a shell with a mark, which starts what the script says and prints the number of each process that matters; so
// many are read.
func marked(t *testing.T, mark, script string, count int) []procs.Process {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), mark)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	family := []procs.Process{find(t, cmd.Process.Pid)}
	t.Cleanup(func() {
		for _, p := range family {
			_ = p.Signal(unix.SIGKILL)
		}
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(out); count > 0 && lines.Scan(); count-- {
		pid, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
		if err != nil {
			t.Fatal(err)
		}
		family = append(family, find(t, pid))
	}
	if count > 0 {
		t.Fatalf("%d of the processes did not tell their number", count)
	}
	return family
}

func find(t *testing.T, pid int) procs.Process {
	t.Helper()
	found := procs.Find(func(p procs.Process) bool { return p.PID == pid })
	if len(found) != 1 || found[0].Over {
		t.Fatalf("process %d: %+v", pid, found)
	}
	return found[0]
}

func alive(p procs.Process) bool { return !p.Await(0) }

func always() bool { return true }

func TestEndMarkedEndsThemAllAndNobodyElse(t *testing.T) {
	const mark = "PROCS_TEST_MARK=all"
	// One that left the session, one that left its parents too, and one without any environment below one that has it.
	family := marked(t, mark, `
		setsid sh -c 'echo $$; sleep 1000; true' &
		(setsid sh -c '(setsid sleep 1000 & echo $!)' &)
		env -i sh -c 'echo $$; sleep 1000; true' &
		wait`, 3)
	other := marked(t, mark+"x", "sleep 1000 & echo $!; wait", 1)
	below := procs.Descendants(family[0].PID)
	killed, err := procs.EndMarked(mark, time.Minute, always)
	if err != nil || killed < len(family) {
		t.Errorf("killed %d: %v", killed, err)
	}
	for _, p := range slices.Concat(family, below) {
		if alive(p) {
			t.Errorf("alive: %+v", p)
		}
	}
	for _, p := range other {
		if !alive(p) {
			t.Errorf("not marked, and dead: %+v", p)
		}
	}
	if killed, err := procs.EndMarked(mark, time.Minute, always); killed != 0 || err != nil {
		t.Errorf("a second time: killed %d: %v", killed, err)
	}
}

func TestEndMarkedEndsThoseThatStartOthersAllTheTime(t *testing.T) {
	const mark = "PROCS_TEST_MARK=spreads"
	marked(t, mark, `
		spread() { while :; do (setsid sleep 1000 &); setsid sleep 1000 & done; }
		spread & spread & spread & echo $!; wait`, 1)
	if _, err := procs.EndMarked(mark, time.Minute, always); err != nil {
		t.Error(err)
	}
	if left := procs.Marked(mark); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

func TestEndMarkedLetsThemGoOnIfItIsNotWanted(t *testing.T) {
	const mark = "PROCS_TEST_MARK=unwanted"
	family := marked(t, mark, "sleep 1000 & echo $!; wait", 1)
	looks := 0
	killed, err := procs.EndMarked(mark, time.Minute, func() bool { looks++; return looks < 2 })
	if killed != 0 || err != nil {
		t.Errorf("killed %d: %v", killed, err)
	}
	for _, p := range family {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
		if err != nil || !alive(p) || strings.Contains(string(state), ") T ") {
			t.Errorf("state %s: %v", state, err)
		}
	}
}

func TestEndMarkedSparesWhoCallsIt(t *testing.T) {
	const mark = "PROCS_TEST_MARK=self"
	if !slices.Contains(os.Environ(), mark) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), mark)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS: "+t.Name()) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if _, err := procs.EndMarked(mark, time.Minute, always); err == nil || !strings.Contains(err.Error(), "this process is one of them") {
		t.Errorf("error: %v", err)
	}
}

func TestAProcessWhoseFirstThreadHasEndedIsNotOver(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), leaderless+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := find(t, cmd.Process.Pid)
	for deadline := time.Now().Add(time.Minute); ; {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("state %s: %v", state, err)
		}
		if strings.Contains(string(state), ") Z ") {
			break
		}
	}
	if now := find(t, p.PID); now.Over {
		t.Errorf("%+v", now)
	}
	if p.Await(0) {
		t.Error("it is said to have ended")
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if !p.Await(time.Minute) {
		t.Error("it does not end")
	}
	_ = stdin.Close()
	_ = cmd.Wait()
}

func TestSignalIsForTheProcessAndNotForItsNumber(t *testing.T) {
	family := marked(t, "PROCS_TEST_MARK=signal", "sleep 1000 & echo $!; wait", 1)
	another := family[1]
	another.Began-- // an earlier one had the number
	if err := another.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if !another.Await(0) || !alive(family[1]) || pending(t, family[1]) {
		t.Error("the number was taken for the process")
	}
	if err := family[1].Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if !family[1].Await(time.Minute) {
		t.Error("it does not end")
	}
	if err := family[1].Signal(unix.SIGKILL); err != nil {
		t.Errorf("a signal to one that has ended: %v", err)
	}
}

// pending reports whether a process has been sent a signal that it has not taken.
func pending(t *testing.T, p procs.Process) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if name, set, _ := strings.Cut(strings.TrimSpace(line), ":\t"); (name == "SigPnd" || name == "ShdPnd") && strings.Trim(set, "0") != "" {
			return true
		}
	}
	return false
}

func TestWhatCannotBeReadIsNotProvenToBeOver(t *testing.T) {
	const mark = "PROCS_TEST_MARK=unseen"
	family := marked(t, mark, "sleep 1000 & echo $!; wait", 1)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// As when the machine has no more descriptors to give.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	killed, err := procs.EndMarked(mark, time.Minute, always)
	group := procs.AwaitGroup(family[0].Group, 0)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if killed != 0 || err == nil {
		t.Errorf("killed %d: %v", killed, err)
	}
	if group {
		t.Error("the group of a living process has ended")
	}
	for _, p := range family {
		if !alive(p) {
			t.Errorf("dead: %+v", p)
		}
	}
}

func TestWhatWasStoppedIsEndedThoughItLostItsMark(t *testing.T) {
	const mark = "PROCS_TEST_MARK=shed"
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	family := marked(t, mark, `(setsid sh -c 'echo $$; read line < `+fifo+`; exec env -i sleep 1000' &); sleep 1000`, 1)
	looks := 0
	killed, err := procs.EndMarked(mark, time.Minute, func() bool {
		if looks++; looks == 1 { // it was seen, and not stopped yet
			if err := os.WriteFile(fifo, []byte("\n"), 0o600); err != nil {
				t.Error(err)
			}
			for slices.ContainsFunc(procs.Marked(mark), func(p procs.Process) bool { return p.PID == family[1].PID }) {
				runtime.Gosched()
			}
		}
		return true
	})
	if err != nil {
		t.Errorf("killed %d: %v", killed, err)
	}
	if p := family[1]; alive(p) {
		t.Errorf("alive: %+v", p)
	}
}

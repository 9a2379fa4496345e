package executor_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/guard"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
	"github.com/sluice-tasks/sluice/services/executor"
)

// remote is an executor in a process of its own.
type remote struct {
	process

	cmd *exec.Cmd
	log *heard
	// over is closed when its process has ended and was waited for.
	over chan struct{}
}

// remote starts an executor in a process of its own, whose environment says how: NAME=value for TEST_EXECUTOR_NAME=value.
func (f *fakes) remote(settings ...string) *remote {
	f.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), remoteExecutor+"="+f.addr, "TEST_EXECUTOR_DIR="+f.t.TempDir())
	for _, setting := range settings {
		cmd.Env = append(cmd.Env, "TEST_EXECUTOR_"+setting)
	}
	log := &heard{to: f.t.Output()}
	cmd.Stderr = log
	r := f.launch(cmd)
	r.log = log
	return r
}

// heard is what a process has said.
type heard struct {
	to   io.Writer
	mu   sync.Mutex
	text []byte
}

func (h *heard) Write(text []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, text...)
	return h.to.Write(text)
}

// says waits until the process has said something.
func (r *remote) says(what string) {
	r.t.Helper()
	probe.Eventually(r.t, "it says: "+what, func() bool {
		r.log.mu.Lock()
		defer r.log.mu.Unlock()
		return bytes.Contains(r.log.text, []byte(what))
	})
}

func (f *fakes) launch(cmd *exec.Cmd) *remote {
	f.t.Helper()
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	r := &remote{process: watch(f.t, cmd.Process.Pid), cmd: cmd, over: make(chan struct{})}
	go func() {
		defer close(r.over)
		_ = cmd.Wait()
	}()
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		receive(f.t, r.over, "the end of an executor")
	})
	return r
}

// guardOf finds the guard of an executor, which is another than those given.
func guardOf(t *testing.T, executor int, others ...int) process {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		for _, p := range procs.Find(func(p procs.Process) bool { return p.Parent == executor && !p.Over }) {
			name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "cmdline"))
			if err == nil && strings.HasPrefix(string(name), "sluice guard") && !slices.Contains(others, p.PID) {
				return watch(t, p.PID)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("executor %d has no guard", executor)
		}
	}
}

func (p process) signal(signals ...unix.Signal) {
	p.t.Helper()
	for _, signal := range signals {
		if err := unix.PidfdSendSignal(p.fd, signal, nil, 0); err != nil {
			p.t.Fatalf("send %s to process %d: %v", signal, p.pid, err)
		}
	}
}

// freezes stops the process and waits until the process is, of all its threads.
func (p process) freezes() {
	p.t.Helper()
	p.signal(unix.SIGSTOP)
	for deadline := time.Now().Add(patience); ; {
		threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(p.pid), "task", "*", "stat"))
		if err != nil || len(threads) == 0 {
			p.t.Fatalf("process %d: %v", p.pid, err)
		}
		running := 0
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			if err == nil && !strings.Contains(string(stat[strings.LastIndexByte(string(stat), ')'):]), " T ") {
				running++
			}
		}
		if running == 0 {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("process %d does not stop", p.pid)
		}
	}
}

// killTogether kills processes in one moment: none of them sees the others die.
func killTogether(together ...process) {
	for _, p := range together {
		p.freezes()
	}
	for _, p := range together {
		p.signal(unix.SIGKILL)
	}
}

// stickies starts a task that ends by nothing but SIGKILL, and returns its child, its shell, and its shell in another session.
func stickies(f *fakes, l *fakeLine) (child, shell, apart process) {
	f.t.Helper()
	_, pids := start(f, l, "sticky")
	return watch(f.t, pids[0]), watch(f.t, pids[1]), watch(f.t, pids[2])
}

func TestWhatLeftItsGroupDiesWhenExecutorAndChildAreKilledTogether(t *testing.T) {
	f := newFakes(t)
	r := f.remote("HEARTBEAT=" + f.addr)
	l := f.line()
	l.welcome()
	child, shell, apart := stickies(f, l)
	killTogether(r.process, child)
	if dead := receive(t, f.deaths, "the guard's word"); dead != l.hello.GetIncarnation() {
		t.Errorf("said to be dead: %s, not %s", dead, l.hello.GetIncarnation())
	}
	for who, p := range map[string]process{"the executor": r.process, "the child": child, "its shell": shell, "its shell apart": apart} {
		if !p.over(0) {
			t.Errorf("%s lived when it was said to be dead", who)
		}
	}
}

func TestStoppedExecutorsTasksDieWithItsLease(t *testing.T) {
	f := newFakes(t)
	r := f.remote("HEARTBEAT="+f.addr, "TTL=1s")
	l := f.line()
	l.welcome()
	child, shell, apart := stickies(f, l)
	r.freezes()
	child.ends("the child")
	shell.ends("its shell")
	apart.ends("its shell apart")
	r.lives("the stopped executor")
	select {
	case <-f.deaths:
		t.Error("said to be dead, while what runs in its own process could go on")
	default:
	}
	first := receive(t, f.registers, "the first registration")
	r.signal(unix.SIGCONT)
	second := receive(t, f.registers, "another registration")
	if first.GetReplaces() != "" || second.GetReplaces() != l.hello.GetIncarnation() {
		t.Errorf("replaces %q, then %q, not %q", first.GetReplaces(), second.GetReplaces(), l.hello.GetIncarnation())
	}
	again := f.line()
	again.welcome()
	again.do(order("test.noop", ""))
	l = again
	// It is under guard as before.
	child, _, apart = stickies(f, l)
	killTogether(r.process, child)
	if dead := receive(t, f.deaths, "the guard's word"); dead != l.hello.GetIncarnation() || !apart.over(0) {
		t.Errorf("said to be dead: %s, not %s; its shell apart: %v", dead, l.hello.GetIncarnation(), apart.over(0))
	}
}

func TestLostGuardIsReplaced(t *testing.T) {
	f := newFakes(t)
	r := f.remote("HEARTBEAT=" + f.addr)
	l := f.line()
	l.welcome()
	child, _, apart := stickies(f, l)
	first := guardOf(t, r.pid)
	first.signal(unix.SIGKILL)
	second := guardOf(t, r.pid, first.pid)
	r.says("a guard again") // before, it knows nothing of the life
	killTogether(r.process, child)
	if dead := receive(t, f.deaths, "the second guard's word"); dead != l.hello.GetIncarnation() {
		t.Errorf("said to be dead: %s", dead)
	}
	apart.ends("the shell apart")
	second.ends("the second guard")
}

func TestGuardIsDeafToSignalsWhileItsExecutorLives(t *testing.T) {
	f := newFakes(t)
	r := f.remote("HEARTBEAT=" + f.addr)
	l := f.line()
	l.welcome()
	child, _, _ := stickies(f, l)
	guard := guardOf(t, r.pid)
	if session, err := unix.Getsid(guard.pid); err != nil || session != guard.pid {
		t.Errorf("session %d: %v", session, err)
	}
	r.freezes() // it starts no other
	guard.signal(unix.SIGINT, unix.SIGHUP, unix.SIGTERM, unix.SIGQUIT)
	killTogether(r.process, child)
	receive(t, f.deaths, "the guard's word")
}

func TestNoGuardOutlivesAnExecutorThatStops(t *testing.T) {
	_, s, l := connect(t, executor.Config{})
	l.do(order("test.noop", ""))
	guard := guardOf(t, os.Getpid())
	s.end()
	if !guard.over(0) {
		t.Error("the guard lives")
	}
	if err := unix.Kill(guard.pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("nobody took notice of its end: %v", err)
	}
}

// Who reads what an executor writes, or waits for a pipe that it had inherited, must not wait for its guard.
func TestGuardKeepsNothingOfItsExecutorOpen(t *testing.T) {
	f := newFakes(t)
	mute := newFakes(t)
	mute.mute.Store(true)
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), remoteExecutor+"="+f.addr, "TEST_EXECUTOR_DIR="+t.TempDir(), "TEST_EXECUTOR_HEARTBEAT="+mute.addr)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = theirs, theirs, []*os.File{theirs, theirs}
	r := f.launch(cmd)
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	f.line().welcome()
	guard := guardOf(t, r.pid)
	r.signal(unix.SIGKILL)
	receive(t, mute.deaths, "the guard's word")
	if err := ours.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, ours); err != nil {
		t.Errorf("wait for the end of what the executor writes: %v", err)
	}
	guard.lives("the guard, which waits for an answer,")
	guard.signal(unix.SIGTERM) // only the telling is left: it may go
}

func TestProgramThatDoesNotAskWhatItIsIsToldSo(t *testing.T) {
	for _, name := range []string{worker.ChildEnv, guard.Env} {
		t.Setenv(name, "3")
		if _, err := executor.New(executor.Config{WorkDir: t.TempDir()}, executor.Peers{}, testMux(), nil); err == nil || !strings.Contains(err.Error(), "worker.IsChild") {
			t.Errorf("with %s: %v", name, err)
		}
	}
}

func TestRestartedExecutorProvesItsPredecessorDead(t *testing.T) {
	for _, same := range []bool{true, false} {
		t.Run(map[bool]string{true: "same name", false: "another name"}[same], func(t *testing.T) {
			f, dir, name := newFakes(t), t.TempDir(), "again"
			r := f.remote("NAME="+name, "DIR="+dir)
			l := f.line()
			l.welcome()
			receive(t, f.registers, "the first registration")
			child, shell, apart := stickies(f, l)
			killTogether(guardOf(t, r.pid), r.process, child)
			r.ends("the executor")
			apart.lives("the shell apart, which nobody killed,")
			if !same {
				name = "another"
			}
			f.begin(executor.Config{Name: name, WorkDir: dir})
			replaces := receive(t, f.registers, "the successor's registration").GetReplaces()
			if same {
				if replaces != l.hello.GetIncarnation() {
					t.Errorf("replaces %q, not %q", replaces, l.hello.GetIncarnation())
				}
			} else if dead := receive(t, f.deaths, "word of the neighbour's death"); dead != l.hello.GetIncarnation() || replaces != "" {
				t.Errorf("said to be dead: %s, not %s; replaces %q", dead, l.hello.GetIncarnation(), replaces)
			}
			if !apart.over(0) || !shell.over(0) {
				t.Error("it was said to be dead while a process of it lived")
			}
			f.line().welcome()
		})
	}
}

func TestNobodyIsReplacedAfterAGoodbye(t *testing.T) {
	f, dir := newFakes(t), t.TempDir()
	for range 2 {
		s := f.begin(executor.Config{Name: "again", WorkDir: dir})
		l := f.line()
		l.welcome()
		l.do(order("test.noop", ""))
		if r := receive(t, f.registers, "a registration"); r.GetReplaces() != "" {
			t.Errorf("replaces %q", r.GetReplaces())
		}
		s.end()
	}
}

// Both are given the same directory, and heartbeat would let the second begin.
func TestTheDirectoryOfALivingNamesakeIsNotTouched(t *testing.T) {
	f, dir := newFakes(t), t.TempDir()
	first := f.begin(executor.Config{Name: "twin", WorkDir: dir})
	l := f.line()
	l.welcome()
	receive(t, f.registers, "the first registration")
	var seen sight
	a := order("look", "")
	l.result(a, &seen)
	_, pids := start(f, l, "wait")
	child := watch(t, pids[0])
	second := f.begin(executor.Config{Name: "twin", WorkDir: dir})
	for deadline := time.Now().Add(patience); ; {
		if err := second.Ready(t.Context()); err != nil && strings.Contains(err.Error(), "another living executor works there") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the second: %v", err)
		}
	}
	select {
	case r := <-f.registers:
		t.Errorf("registered: %v", r)
	default:
	}
	child.lives("the first one's child")
	l.result(order("look", ""), &seen)
	first.end()
	if r := receive(t, f.registers, "the second registration"); r.GetReplaces() != "" {
		t.Errorf("replaces %q", r.GetReplaces())
	}
	f.line().welcome()
}

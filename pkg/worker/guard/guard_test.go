package guard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/worker/guard"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

const (
	// patience is how long a test waits for what must happen.
	patience = time.Minute
	// masterEnv makes this program an executor that has a guard and does nothing.
	masterEnv = "GUARD_TEST_MASTER"
	// life is what the executor leads.
	life = "01234567-89ab-7def-8123-456789abcdef"
)

func TestMain(m *testing.M) {
	switch {
	case guard.Asked():
		os.Exit(guard.Main())
	case os.Getenv(masterEnv) != "":
		os.Exit(master())
	}
	goleak.VerifyTestMain(m)
}

// master starts a guard, writes its number, sends each line of its input to it, and closes the line at an empty one. It writes one
// line for each that it has read and heeded.
func master() int {
	cmd, ours, err := guard.Command(nil)
	if err != nil {
		panic(err)
	}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Println(cmd.Process.Pid)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if lines.Text() == "" {
			_ = ours.Close()
			fmt.Println("closed")
			continue
		}
		var orders guard.Orders
		if err := json.Unmarshal(lines.Bytes(), &orders); err != nil {
			panic(err)
		}
		orders.Executor = os.Getpid()
		message, err := guard.Encode(orders)
		if err != nil {
			panic(err)
		}
		if _, err := ours.Write(message); err != nil {
			panic(err)
		}
		fmt.Println("said")
	}
	return 0
}

// watched is an executor in a process of its own, with its guard.
type watched struct {
	t     *testing.T
	input io.WriteCloser
	lines *bufio.Scanner
	cmd   *exec.Cmd
	self  procs.Process
	guard procs.Process
	// mark is in the environment of its processes.
	mark string
}

func watchedExecutor(t *testing.T) *watched {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), masterEnv+"=1")
	cmd.Stderr = t.Output()
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, input: input, lines: bufio.NewScanner(output), cmd: cmd, mark: "GUARD_TEST_MARK=" + t.Name()}
	t.Cleanup(func() {
		w.kill()
		if w.guard.PID != 0 {
			_ = w.guard.Signal(unix.SIGKILL)
		}
	})
	pid, err := strconv.Atoi(w.line())
	if err != nil {
		t.Fatal(err)
	}
	w.self, w.guard = find(t, cmd.Process.Pid), find(t, pid)
	return w
}

// kill kills the executor, and takes notice.
func (w *watched) kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

func (w *watched) order(orders guard.Orders) {
	w.t.Helper()
	orders.Mark = w.mark
	line, err := json.Marshal(orders)
	if err != nil {
		w.t.Fatal(err)
	}
	w.say(string(line))
}

func (w *watched) say(line string) {
	w.t.Helper()
	if _, err := fmt.Fprintln(w.input, line); err != nil {
		w.t.Fatal(err)
	}
	w.line()
}

// line reads what the executor writes.
func (w *watched) line() string {
	w.t.Helper()
	if !w.lines.Scan() {
		w.t.Fatalf("the executor says nothing more: %v", w.lines.Err())
	}
	return w.lines.Text()
}

// starts starts a process for a task, and waits until it has the mark.
func (w *watched) starts() procs.Process {
	w.t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = append(os.Environ(), w.mark)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		_ = cmd.Wait()
	}()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-waited
	})
	return find(w.t, cmd.Process.Pid)
}

func find(t *testing.T, pid int) procs.Process {
	t.Helper()
	found := procs.Find(func(p procs.Process) bool { return p.PID == pid })
	if len(found) != 1 {
		t.Fatalf("no process %d", pid)
	}
	return found[0]
}

func ends(t *testing.T, what string, p procs.Process) {
	t.Helper()
	if !p.Await(patience) {
		t.Errorf("%s lives: %+v", what, p)
	}
}

func lives(t *testing.T, what string, p procs.Process) {
	t.Helper()
	if p.Await(0) {
		t.Errorf("%s has ended: %+v", what, p)
	}
}

// until waits until something is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func newLife() string { return uuid.Must(uuid.NewV7()).String() }

func in(d time.Duration) int64 { return guard.Now() + int64(d) }

// heartbeat is a heartbeat service that does what the test says.
type heartbeat struct {
	heartbeatv1.UnimplementedHeartbeatServiceServer

	addr  string
	heard chan *heartbeatv1.DeregisterRequest
	// refusals are what the next calls are answered with.
	refusals chan error
	// check is called with each call.
	check atomic.Pointer[func()]
}

func (h *heartbeat) Deregister(_ context.Context, r *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
	if check := h.check.Load(); check != nil {
		(*check)()
	}
	h.heard <- r
	select {
	case err := <-h.refusals:
		return nil, err
	default:
		return &heartbeatv1.DeregisterResponse{}, nil
	}
}

func newHeartbeat(t *testing.T) *heartbeat {
	t.Helper()
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveHeartbeat(t, listener)
}

func serveHeartbeat(t *testing.T, listener net.Listener) *heartbeat {
	t.Helper()
	h := &heartbeat{addr: listener.Addr().String(), heard: make(chan *heartbeatv1.DeregisterRequest, 100), refusals: make(chan error, 100)}
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	heartbeatv1.RegisterHeartbeatServiceServer(server, h)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return h
}

// hears expects word of a death.
func (h *heartbeat) hears(t *testing.T) {
	t.Helper()
	select {
	case r := <-h.heard:
		if r.GetIncarnation() != life || !r.GetDead() {
			t.Errorf("heard %v", r)
		}
	case <-time.After(patience):
		t.Error("heard nothing")
	}
}

func (h *heartbeat) heardNothing(t *testing.T) {
	t.Helper()
	select {
	case r := <-h.heard:
		t.Errorf("heard %v", r)
	default:
	}
}

func TestGoodbyeEndsTheGuardAndNobodyElse(t *testing.T) {
	h, w := newHeartbeat(t), watchedExecutor(t)
	task := w.starts()
	w.order(guard.Orders{Incarnation: life, Until: in(time.Hour), Heartbeat: h.addr})
	w.order(guard.Orders{Goodbye: true, Incarnation: life, Until: in(0), Heartbeat: h.addr})
	ends(t, "the guard", w.guard)
	lives(t, "the task", task)
	w.kill()
	h.heardNothing(t)
}

func TestOverLeaseEndsTheTasks(t *testing.T) {
	w := watchedExecutor(t)
	for range 3 {
		life := newLife()
		w.order(guard.Orders{Incarnation: life, Until: in(time.Hour)})
		task := w.starts() // in the new life: what comes of the lease before does not concern it
		w.order(guard.Orders{Incarnation: life, Until: in(50 * time.Millisecond)})
		ends(t, "the task", task)
	}
	lives(t, "the guard", w.guard)
	lives(t, "the executor", w.self)
}

// The guard is not woken before the lease is over, by which time the executor has long extended it, or begun another life.
func TestOrdersThatHaveArrivedCountBeforeTheTime(t *testing.T) {
	w := watchedExecutor(t)
	task := w.starts()
	w.order(guard.Orders{Incarnation: life, Until: in(time.Hour)})
	until(t, "a guard that has its first orders", func() bool { return descriptor(w.guard, "[timerfd]") })
	if err := w.guard.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	over := in(0)
	w.order(guard.Orders{Incarnation: life, Until: over})
	w.order(guard.Orders{Incarnation: newLife(), Until: in(time.Hour)})
	w.order(guard.Orders{Goodbye: true})
	if err := w.guard.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ends(t, "the guard", w.guard)
	lives(t, "the task", task)
}

// descriptor reports whether a process has a descriptor of something.
func descriptor(p procs.Process, of string) bool {
	links, _ := filepath.Glob("/proc/" + strconv.Itoa(p.PID) + "/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.Contains(target, of) {
			return true
		}
	}
	return false
}

// Handlers in the executor's own process live as long as that, whatever became of the line.
func TestDeathIsNotToldBeforeTheExecutorIsDead(t *testing.T) {
	h, w := newHeartbeat(t), watchedExecutor(t)
	task := w.starts()
	check := func() {
		if !w.self.Await(0) || !task.Await(0) {
			t.Error("said to be dead while it, or its task, lived")
		}
	}
	h.check.Store(&check)
	w.order(guard.Orders{Incarnation: life, Until: in(time.Hour), Heartbeat: h.addr})
	until(t, "a guard that has its first orders", func() bool { return descriptor(w.guard, "[timerfd]") })
	w.say("") // close it
	until(t, "a guard that knows that the line is closed", func() bool {
		_, err := os.Lstat("/proc/" + strconv.Itoa(w.guard.PID) + "/fd/3")
		return errors.Is(err, os.ErrNotExist)
	})
	lives(t, "the task", task)
	w.kill()
	h.hears(t)
	ends(t, "the guard", w.guard)
	h.heardNothing(t)
}

func TestDeathIsToldUntilSomebodyHearsIt(t *testing.T) {
	h, w := newHeartbeat(t), watchedExecutor(t)
	for range 3 {
		h.refusals <- errs.Late(errs.DatabaseAway, "not now")
	}
	w.order(guard.Orders{Incarnation: life, Until: in(time.Hour), Heartbeat: h.addr})
	w.kill()
	for range 4 {
		h.hears(t)
	}
	ends(t, "the guard", w.guard)
}

// Who was declared missing already, or never existed, is not insisted on.
func TestDeathThatIsNotWantedIsNotToldAgain(t *testing.T) {
	h, w := newHeartbeat(t), watchedExecutor(t)
	h.refusals <- errs.Precondition(errs.Fenced, "it is over")
	w.order(guard.Orders{Incarnation: life, Until: in(time.Hour), Heartbeat: h.addr})
	w.kill()
	h.hears(t)
	ends(t, "the guard", w.guard)
	h.heardNothing(t)
}

func TestDeathIsNotToldWhenTheLeaseIsLongOver(t *testing.T) {
	w := watchedExecutor(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	w.order(guard.Orders{Incarnation: life, Until: in(0), TellFor: time.Millisecond, Heartbeat: nobody})
	w.kill()
	ends(t, "the guard", w.guard)
}

// The executor can die before its guard has begun, and its number be another's by then.
func TestAnExecutorThatIsGoneAlreadyIsSeen(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for name, executor := range map[string]int{"nobody has its number": gone.Process.Pid, "another has its number": os.Getppid()} {
		t.Run(name, func(t *testing.T) {
			h, w := newHeartbeat(t), &watched{t: t, mark: "GUARD_TEST_MARK=" + t.Name()}
			task := w.starts()
			cmd, ours, err := guard.Command(nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ours.Close() }()
			if err := errors.Join(cmd.Start(), cmd.ExtraFiles[0].Close()); err != nil {
				t.Fatal(err)
			}
			message, err := guard.Encode(guard.Orders{Executor: executor, Mark: w.mark, Incarnation: life, Until: in(time.Hour), Heartbeat: h.addr})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ours.Write(message); err != nil {
				t.Fatal(err)
			}
			h.hears(t)
			ends(t, "the task", task)
			if t.Failed() {
				_ = cmd.Process.Kill()
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who stops all that belongs to an executor, a service manager, waits for the guard too.
func TestSIGTERMEndsTheTellingAndNothingElse(t *testing.T) {
	w := watchedExecutor(t)
	task := w.starts()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	w.order(guard.Orders{Incarnation: life, Until: in(time.Hour), TellFor: time.Hour, Heartbeat: nobody})
	until(t, "a guard that has its first orders", func() bool { return descriptor(w.guard, "[timerfd]") })
	if err := w.guard.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.kill()
	ends(t, "the task", task)
	ends(t, "the guard", w.guard)
}

package cli

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// terminal is a pseudo terminal: what is written to its far end arrives here.
type terminal struct {
	near, far *os.File
	seen      bytes.Buffer
}

func newTerminal(t *testing.T, columns uint16) *terminal {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %s", err)
	}
	t.Cleanup(func() { _ = near.Close() })
	if err := unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	far, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	if err := unix.IoctlSetWinsize(int(far.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return &terminal{near: near, far: far}
}

// await reads until the terminal was sent the text.
func (term *terminal) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	buffer := make([]byte, 4096)
	for !strings.Contains(term.seen.String(), text) {
		if time.Now().After(deadline) {
			t.Fatalf("%q did not appear in %q", text, term.seen.String())
		}
		n, err := term.near.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		term.seen.Write(buffer[:n])
	}
}

// end marks the end of what was written.
func (term *terminal) end(t *testing.T) {
	t.Helper()
	if _, err := term.far.WriteString("END"); err != nil {
		t.Fatal(err)
	}
	term.await(t, "END")
}

// onTerminal runs a command line whose standard error is the terminal.
func onTerminal(t *testing.T, term *terminal, variables map[string]string, args ...string) <-chan outcome {
	t.Helper()
	done := make(chan outcome, 1)
	ctx := t.Context()
	go func() {
		var stdout bytes.Buffer
		code := Main(ctx, args, Environment{Stdout: &stdout, Stderr: term.far, LookupEnv: lookup(variables), Now: now})
		done <- outcome{code: code, stdout: stdout.String()}
	}()
	return done
}

func TestAWaitOnATerminalShowsHowItGoesAndWipesIt(t *testing.T) {
	server := clienttest.New(t)
	term := newTerminal(t, 200)
	done := onTerminal(t, term, map[string]string{"SLUICE_ADDR": server.Addr}, "dispatch", "test.sleep", "--wait")
	term.await(t, "test.sleep "+clienttest.ID(1)+": waiting")
	server.Change(clienttest.ID(1), clienttest.Run)
	term.await(t, ": running on worker-1")
	server.Change(clienttest.ID(1), clienttest.Complete("7"))
	check(t, outcome{stdout: "7\n"}, <-done)
	term.end(t)
	if got := term.seen.String(); !strings.HasSuffix(got, clearLine+"END") {
		t.Errorf("the line was not wiped: %q", got)
	}
	for frame := range strings.SplitSeq(strings.TrimSuffix(term.seen.String(), "END"), clearLine) {
		if strings.ContainsAny(frame, "\x1b\r\n") {
			t.Errorf("colour, or more than a line: %q", frame)
		}
	}
}

func TestTheReasonOfAFailureStaysOnTheTerminal(t *testing.T) {
	server := clienttest.New(t)
	server.Put(&taskv1.Task{Name: "a"})
	term := newTerminal(t, 80)
	done := onTerminal(t, term, map[string]string{"SLUICE_ADDR": server.Addr}, "task", "wait", clienttest.ID(1))
	term.await(t, "waiting")
	server.Change(clienttest.ID(1), clienttest.End(taskv1.State_STATE_FAILED, &taskv1.TaskError{Description: "no paper"}))
	if got := <-done; got.code != exitNo {
		t.Errorf("exit code %d", got.code)
	}
	term.await(t, clearLine+"sluice: task "+clienttest.ID(1)+" failed: no paper\r\n")
}

func TestANarrowTerminalGetsACutLine(t *testing.T) {
	server := clienttest.New(t)
	server.Put(&taskv1.Task{Name: strings.Repeat("é", 100)})
	term := newTerminal(t, 30)
	done := onTerminal(t, term, map[string]string{"SLUICE_ADDR": server.Addr}, "task", "wait", clienttest.ID(1))
	term.await(t, "éé...")
	server.Change(clienttest.ID(1), clienttest.Complete("1"))
	<-done
	for frame := range strings.SplitSeq(term.seen.String(), clearLine) {
		if n := len([]rune(frame)); n > 29 {
			t.Errorf("%d columns: %q", n, frame)
		}
	}
}

func TestWaitingForAllCountsByState(t *testing.T) {
	server := busy(t)
	term := newTerminal(t, 80)
	done := onTerminal(t, term, map[string]string{"SLUICE_ADDR": server.Addr}, "task", "wait", "--all")
	term.await(t, "12 waiting, 1 running")
	server.Change(runningID, clienttest.Complete("1"))
	server.Change(waitingID, clienttest.Complete("1"))
	check(t, outcome{stdout: "no task is waiting or running\n"}, <-done)
}

func TestADumbTerminalGetsNoProgressLine(t *testing.T) {
	server := clienttest.New(t)
	server.OnDispatch = clienttest.Complete("7")
	term := newTerminal(t, 80)
	done := onTerminal(t, term, map[string]string{"SLUICE_ADDR": server.Addr, "TERM": "dumb"}, "dispatch", "x", "--wait")
	check(t, outcome{stdout: "7\n"}, <-done)
	term.end(t)
	if got := term.seen.String(); got != "END" {
		t.Errorf("got %q", got)
	}
}

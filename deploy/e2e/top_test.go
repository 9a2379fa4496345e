package e2e

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/screen"
)

// watched is a `sluice top` on a terminal.
type watched struct {
	t      *testing.T
	keys   io.Writer
	screen *screen.Screen
	resize func(width, height int)
	// ended gets what became of the process.
	ended chan error
}

// top starts `sluice top` on a terminal of its own.
func (s *system) top(width, height int, env map[string]string) *watched {
	s.t.Helper()
	cmd := exec.CommandContext(s.soon(), program(s.t), "top")
	set := map[string]string{"SLUICE_ADDR": s.grpc, "TERM": "xterm-256color", "NO_COLOR": "", "COLORTERM": ""}
	for name, value := range env {
		set[name] = value
	}
	cmd.Env = cleanEnv(set)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: uint16(height), Cols: uint16(width)})
	if err != nil {
		s.t.Skipf("no pseudo terminals here: %v", err)
	}
	w := &watched{t: s.t, keys: terminal, screen: screen.New(width, height), ended: make(chan error, 1)}
	w.resize = func(width, height int) {
		w.screen.Resize(width, height)
		if err := pty.Setsize(terminal, &pty.Winsize{Rows: uint16(height), Cols: uint16(width)}); err != nil {
			s.t.Fatal(err)
		}
	}
	go func() {
		_, _ = io.Copy(w.screen, terminal) // until nobody has the other end any more
		w.ended <- cmd.Wait()
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = terminal.Close()
	})
	return w
}

func (w *watched) press(keys string) {
	w.t.Helper()
	if _, err := io.WriteString(w.keys, keys); err != nil {
		w.t.Fatal(err)
	}
}

// shows waits until all the words are to be seen.
func (w *watched) shows(words ...string) {
	w.t.Helper()
	eventually(w.t, "it is to be seen", func() error {
		text := w.screen.Text()
		for _, word := range words {
			if !strings.Contains(text, word) {
				return errors.New(word + " is not there:\n" + text)
			}
		}
		return nil
	})
}

// tail is how an id is shown on a narrow terminal.
func tail(id string) string { return "…" + id[len(id)-12:] }

// TestTop looks at a Sluice through the terminal: one task runs, one waits for it, and nobody does what the third wants.
func TestTop(t *testing.T) {
	t.Parallel()
	s := newDev(t, pgtest.Dir(t), nil).start(t).under(t)
	resource := fresh("top")
	g := s.gate()
	running := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	blocked := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	unknown := s.dispatch(client.Spec{Name: "no.such.task"})

	w := s.top(80, 24, nil)
	w.shows("Sluice ", "2 waiting: 1 blocked, 1 ready   1 running", "RUNNING 1", tail(running.ID), "WAITING 2", tail(blocked.ID), "WORKERS 1")
	if w.screen.Colors() == 0 {
		t.Error("it has no colours")
	}
	w.press("2/" + blocked.ID + "\r")
	w.shows("WAITING 1 of 2", ">"+tail(blocked.ID))
	w.press("e")
	w.shows("Task "+blocked.ID, "wants exclusive "+resource, running.ID)
	w.press("\x1b") // escape, and nothing with it
	w.shows("RESOURCES", "WAITING 1 of 2")
	w.press("\x1b") // drops the filter
	w.shows("WAITING 2")
	w.press("3/" + resource + "\r")
	w.shows(">"+resource, `only what has "`+resource+`" in it`)
	w.press("\r")
	w.shows(resource+": 1 task holds it, 1 waits", "holds", "waits")
	w.resize(130, 40)
	w.shows(">"+running.ID, blocked.ID)
	w.press("\x1b[B") // down
	w.shows(">" + blocked.ID)
	w.press("c")
	w.shows("Cancel task " + blocked.ID + "?")
	w.press("y")
	w.shows(blocked.ID+" is canceled", resource+": 1 task holds it, 0 wait")
	if one := s.get(blocked.ID); one.State != task.Canceled {
		t.Errorf("the task is %s", one.State)
	}
	g.open()
	if one := s.end(running.ID)[0]; one.State != task.Completed {
		t.Errorf("the other task is %s: %v", one.State, one.Error)
	}
	w.press("q")
	if err := <-w.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}

	plain := s.top(80, 24, map[string]string{"NO_COLOR": "1"})
	plain.shows("RUNNING 0", "WAITING 1", tail(unknown.ID), "completed")
	if n := plain.screen.Colors(); n > 0 {
		t.Errorf("with NO_COLOR it has %d colours", n)
	}
	plain.press("\x03") // control and c
	if err := <-plain.ended; err != nil {
		t.Errorf("after an interrupt it ended with %v", err)
	}
	once := s.cli("top", "--once")
	if once.code != 0 || !strings.Contains(once.stdout, tail(unknown.ID)) || strings.Contains(once.stdout, "\x1b") {
		t.Errorf("once: %+v", once)
	}
}

// TestTaskLogsFollow follows what a task prints from its wait to its end.
func TestTaskLogsFollow(t *testing.T) {
	t.Parallel()
	s := newDev(t, pgtest.Dir(t), nil).start(t).under(t)
	g := s.gate()
	one := s.dispatch(shell("echo first; cat %s; echo läst >&2", g.path))
	var text strings.Builder
	var last client.LogPart
	for part, err := range s.FollowLog(s.soon(), one.ID) {
		if err != nil {
			t.Fatal(err)
		}
		before := text.String()
		text.WriteString(part.Text)
		if !strings.Contains(before, "first") && strings.Contains(text.String(), "first") {
			if part.State != task.Running {
				t.Errorf("what it prints while it runs comes when it is %s", part.State)
			}
			g.reached()
			g.open()
		}
		last = part
	}
	if got := text.String(); !strings.HasPrefix(got, "first\n") || !strings.HasSuffix(got, "läst\n") || strings.Count(got, "first") != 1 ||
		last.State != task.Completed || last.Attempt != 1 {
		t.Errorf("it printed %q, and the last piece is %+v", got, last)
	}
	got := s.cli("task", "logs", "--follow", one.ID)
	if got.code != 0 || got.stdout != text.String() || got.stderr != "" {
		t.Errorf("of one that has ended: %+v", got)
	}
}

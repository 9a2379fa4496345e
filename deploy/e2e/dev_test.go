package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// TestDev tells the life of one data directory, for whoever runs the tests and, if that is root, for an ordinary user.
func TestDev(t *testing.T) {
	t.Run("as whoever runs the tests", func(t *testing.T) {
		t.Parallel()
		devLife(t, nil)
	})
	t.Run("as an ordinary user", func(t *testing.T) {
		t.Parallel()
		devLife(t, unprivileged(t))
	})
}

func devLife(t *testing.T, user *account) {
	d := newDev(t, pgtest.Dir(t), user)
	s := d.start(t)
	steps := []struct {
		says string
		tell func(*dev, *system) *system // returns the system that the next one uses
	}{
		{"the command that it prints works", devPrintedCommand},
		{"a second one on the same directory gets a plain error", devTwice},
		{"after kill -9 it starts again and has lost nothing", devKilled},
		{"SIGTERM lets running tasks end and leaves no process", devTerminated},
		{"SIGINT aborts what does not end and leaves no process", devInterrupted},
	}
	for _, step := range steps {
		t.Run(step.says, func(t *testing.T) {
			s = step.tell(d, s.under(t))
		})
	}
}

func devPrintedCommand(d *dev, s *system) *system {
	_, printed, found := strings.Cut(d.process.stdout(), "\nTry, ")
	line, _, _ := strings.Cut(printed, "\n")
	_, command, _ := strings.Cut(line, ": ")
	command = strings.TrimSpace(command)
	if !found || !strings.HasPrefix(command, "bin/sluice ") {
		s.t.Fatalf("it printed %q, want the command to type", d.process.stdout())
	}
	cmd := exec.Command("sh", "-c", program(s.t)+strings.TrimPrefix(command, "bin/sluice"))
	cmd.Env = cleanEnv(nil)
	if output, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(output), `"exit_code"`) {
		s.t.Errorf("%s: %v\n%s", command, err, output)
	}
	return s
}

func devTwice(d *dev, s *system) *system {
	second := launch(s.t, s.t.TempDir(), d.command())
	code := second.wait(s.t)
	said := second.stderr()
	if code == 0 || !strings.Contains(said, d.dataDir()) || strings.Contains(said, "panic") || strings.Count(said, "\n") > 3 {
		s.t.Errorf("the second ended with %d and wrote\n%s", code, said)
	}
	s.t.Logf("the second wrote: %s", said)
	if one := s.run(client.Spec{Name: "test.noop"}); one.State != task.Completed {
		s.t.Errorf("on the first, a task is %s: %v", one.State, one.Error)
	}
	return s
}

// gone waits until no process is left.
func (d *dev) gone(t *testing.T) {
	t.Helper()
	eventually(t, "no process is left", func() error {
		if left := d.left(); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
}

func devKilled(d *dev, s *system) *system {
	f := s.flow()
	f.goesOn()
	d.process.kill()
	d.gone(s.t)
	again := d.start(s.t).under(s.t)
	f.settle(again, true)
	return again
}

// devTerminated has one task running, which ends only after the signal, and one waiting for it.
func devTerminated(d *dev, s *system) *system {
	resource := fresh("r")
	g := s.gate()
	running := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	waiting := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	d.process.signal(syscall.SIGTERM)
	g.open()
	d.stopped(s, d.process.wait(s.t))
	again := d.start(s.t).under(s.t)
	for _, one := range again.end(running.ID, waiting.ID) {
		if one.State != task.Completed {
			s.t.Errorf("task %s is %s: %v", one.Name, one.State, one.Error)
		}
	}
	return again
}

// devInterrupted has one task that does not end, and one waiting for it, which must not be lost.
func devInterrupted(d *dev, s *system) *system {
	resource := fresh("r")
	g := s.gate()
	running := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	waiting := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	d.stopped(s, d.process.stop(s.t, syscall.SIGINT))
	again := d.start(s.t).under(s.t)
	if one := again.end(running.ID)[0]; one.State != task.Failed || one.Error.String() != "Aborted during worker shutdown." {
		s.t.Errorf("the running task is %s: %v", one.State, one.Error)
	}
	if one := again.end(waiting.ID)[0]; one.State != task.Completed {
		s.t.Errorf("the waiting task is %s: %v", one.State, one.Error)
	}
	return again
}

// stopped checks what a stop in good order leaves behind: nothing. The process has been reaped, so there is nothing to wait
// for.
func (d *dev) stopped(s *system, code int) {
	s.t.Helper()
	if code != 0 {
		s.t.Errorf("it ended with code %d\n%s", code, d.process.stderr())
	}
	if left := d.left(); len(left) > 0 {
		s.t.Errorf("there are still\n%s", strings.Join(left, "\n"))
	}
	var found []string
	_ = filepath.WalkDir(s.work, func(path string, _ os.DirEntry, _ error) error {
		// The lock stays: whoever removed it could take it from somebody who has just opened it.
		if path != s.work && path != filepath.Join(s.work, ".lock") {
			found = append(found, path)
		}
		return nil
	})
	if len(found) > 0 {
		s.t.Errorf("the working directories are still there: %s", found)
	}
}

func TestDevSaysWhenPostgreSQLCanNotReachItsDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root's PostgreSQL runs as another user")
	}
	dir := filepath.Join(pgtest.Dir(t), "closed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := launch(t, t.TempDir(), newDev(t, dir, nil).command())
	code := p.wait(t)
	if said := p.stderr(); code == 0 || !strings.Contains(said, dir) || strings.Count(said, "\n") > 3 {
		t.Errorf("it ended with %d and wrote\n%s", code, said)
	}
}

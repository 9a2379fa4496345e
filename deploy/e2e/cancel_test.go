package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// cancelByREST is what REST clients do, and the task as the answer shows it.
func cancelByREST(s *system, id string) taskREST {
	s.t.Helper()
	got := s.call(http.MethodPatch, href(id), map[string]string{"state": "canceled"})
	if got.code != http.StatusOK {
		s.t.Fatalf("cancel task %s: %d %s", id, got.code, got.body)
	}
	var made taskREST
	got.decode(s.t, &made)
	return made
}

// refusesDelete checks that a task that is not final can't be deleted, through each face.
func refusesDelete(s *system, id string) {
	s.t.Helper()
	if got := s.call(http.MethodDelete, href(id), nil); got.code != http.StatusConflict {
		s.t.Errorf("DELETE answered %d %s, want 409", got.code, got.body)
	}
	if got := s.cli("task", "delete", id); got.code != 1 || got.stderr == "" {
		s.t.Errorf("task delete ended with %d %q, want 1", got.code, got.stderr)
	}
	if err := s.Delete(s.soon(), id); !errs.Is(err, errs.TaskNotFinal) {
		s.t.Errorf("Delete returned %v, want that the task is not final", err)
	}
}

func cancelWaiting(s *system) {
	resource := fresh("r")
	g := s.gate()
	holder := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	waiting := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	behind := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	refusesDelete(s, waiting.ID)

	canceled := cancelByREST(s, waiting.ID)
	if canceled.State != "canceled" || canceled.StartedAt != nil || canceled.FinishedAt == nil {
		s.t.Errorf("the canceled task is %+v, want canceled at once, never started", canceled)
	}
	if canceled.Error == nil || canceled.Error.Reason != task.ReasonCanceled {
		s.t.Errorf("the canceled task has the error %+v", canceled.Error)
	}
	if got := cancelByREST(s, waiting.ID); got.State != "canceled" {
		s.t.Errorf("canceled again it is %s", got.State)
	}
	if now := s.get(holder.ID); now.State != task.Running {
		s.t.Errorf("the holder is %s", now.State)
	}
	g.open()
	for _, one := range s.end(holder.ID, behind.ID) {
		if one.State != task.Completed {
			s.t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		}
	}
	if now := s.get(waiting.ID); now.State != task.Canceled || now.StartedAt != nil {
		s.t.Errorf("in the end it is %s, started at %v", now.State, now.StartedAt)
	}
}

// cancelRunning has a task that starts a process, which starts another one; one of them leaves the process group.
func cancelRunning(s *system) {
	apart := ""
	if _, err := exec.LookPath("setsid"); err == nil {
		apart = "setsid "
	}
	pids := s.file("pids")
	g := s.gate()
	resource := fresh("r")
	spec := shell(`%ssh -c 'echo $$ >> %s; exec cat /dev/zero' > /dev/null & echo $$ >> %s; cat %s; wait`, apart, pids, pids, g.path)
	spec.Exclusive = []string{resource}
	running := s.dispatch(spec)
	g.reached()
	var processes []int
	eventually(s.t, "both processes run", func() error {
		text, err := os.ReadFile(pids)
		if err != nil {
			return err
		}
		processes = nil
		for line := range strings.Lines(string(text)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || !alive(pid) {
				return fmt.Errorf("%q: %v", line, err)
			}
			processes = append(processes, pid)
		}
		if len(processes) != 2 {
			return fmt.Errorf("%d processes", len(processes))
		}
		return nil
	})
	refusesDelete(s, running.ID)
	next := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})

	if got := cancelByREST(s, running.ID); got.State != "canceling" && got.State != "canceled" {
		s.t.Errorf("the canceled task is %s", got.State)
	}
	ended := s.end(running.ID)[0]
	if ended.State != task.Canceled || ended.StartedAt == nil || ended.FinishedAt == nil || ended.Error.String() != task.ReasonCanceled {
		s.t.Errorf("the canceled task is %+v", ended)
	}
	for _, pid := range processes {
		if alive(pid) {
			s.t.Errorf("process %d of the task is alive after the task has ended", pid)
		}
	}
	if one := s.end(next.ID)[0]; one.State != task.Completed || one.StartedAt.Before(*ended.FinishedAt) {
		s.t.Errorf("the next task is %s and started at %v, the canceled one ended at %v", one.State, one.StartedAt, ended.FinishedAt)
	}
}

func deleteFinished(s *system) {
	for name, remove := range map[string]func(id string) error{
		"REST": func(id string) error {
			if got := s.call(http.MethodDelete, href(id), nil); got.code != http.StatusNoContent || got.body != "" {
				return fmt.Errorf("%d %s", got.code, got.body)
			}
			return nil
		},
		"the command line": func(id string) error {
			if got := s.cli("task", "delete", id); got.code != 0 {
				return errors.New(got.stderr)
			}
			return nil
		},
		"gRPC": func(id string) error { return s.Delete(s.soon(), id) },
	} {
		done := s.run(client.Spec{Name: "test.noop"})
		if got := s.call(http.MethodPatch, href(done.ID), map[string]string{"state": "canceled"}); got.code != http.StatusConflict {
			s.t.Errorf("cancelling a completed task by REST: %d %s, want 409", got.code, got.body)
		}
		if got := s.cli("task", "cancel", done.ID); got.code != 1 {
			s.t.Errorf("cancelling a completed task by the command line: %d %s, want 1", got.code, got.stderr)
		}
		if _, err := s.Cancel(s.soon(), done.ID); !errs.Is(err, errs.TaskFinal) {
			s.t.Errorf("cancelling a completed task by gRPC: %v, want that it is final", err)
		}
		if now := s.get(done.ID); now.State != task.Completed {
			s.t.Errorf("the completed task became %s", now.State)
		}
		if err := remove(done.ID); err != nil {
			s.t.Errorf("delete by %s: %v", name, err)
		}
		if _, err := s.Get(s.soon(), done.ID); !errs.Is(err, errs.TaskNotFound) {
			s.t.Errorf("after the delete by %s: %v, want not found", name, err)
		}
	}
}

func cancelNonexistent(s *system) {
	const id = "01890000-0000-7000-8000-000000000000"
	for method, body := range map[string]any{http.MethodGet: nil, http.MethodDelete: nil, http.MethodPatch: map[string]string{"state": "canceled"}} {
		if got := s.call(method, href(id), body); got.code != http.StatusNotFound {
			s.t.Errorf("%s answered %d %s, want 404", method, got.code, got.body)
		}
	}
	for _, verb := range []string{"show", "cancel", "delete", "wait", "logs"} {
		if got := s.cli("task", verb, id); got.code != 1 || !strings.Contains(got.stderr, id) {
			s.t.Errorf("task %s ended with %d %q, want 1 and the id", verb, got.code, got.stderr)
		}
	}
}

func cancelGooey(s *system) {
	resource := fresh("r")
	sticky := s.dispatch(client.Spec{Name: "test.gooey", Args: []int{1000}, Exclusive: []string{resource}})
	eventually(s.t, "it runs", func() error {
		if now := s.get(sticky.ID); now.State != task.Running {
			return errors.New(string(now.State))
		}
		return nil
	})
	var answered []taskJSON
	s.cliJSON(0, &answered, "task", "cancel", sticky.ID)
	if len(answered) != 1 || answered[0].State != "canceling" {
		s.t.Errorf("task cancel: %+v, want one task, canceling", answered)
	}
	if ended := s.end(sticky.ID)[0]; ended.State != task.Canceled {
		s.t.Errorf("in the end it is %s: %v", ended.State, ended.Error)
	}
	if next := s.run(client.Spec{Name: "test.noop", Exclusive: []string{resource}}); next.State != task.Completed {
		s.t.Errorf("the next task on the resource is %s", next.State)
	}
}

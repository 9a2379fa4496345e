package e2e

import (
	"net/http"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

func immediate(s *system) {
	done := s.dispatch(client.Spec{
		Name: "test.asleep", Args: []int{0}, Immediate: true, NoDefer: true, Exclusive: []string{fresh("a")}, Shared: []string{fresh("b")},
	})
	if done.State != task.Completed || done.Error != nil || done.FinishedAt == nil {
		s.t.Errorf("when the dispatch returns, the task is %s: %v", done.State, done.Error)
	}
	failed := s.dispatch(client.Spec{Name: "test.afail", Args: []string{"out of order"}, Immediate: true})
	if failed.State != task.Failed || failed.Error.String() != "out of order" {
		s.t.Errorf("when the dispatch returns, the task is %s: %q", failed.State, failed.Error)
	}
	var byCLI taskJSON
	s.cliJSON(0, &byCLI, "dispatch", "test.echo", "--args", `["hi"]`, "--immediate")
	if byCLI.State != "completed" {
		s.t.Errorf("when the command returns, the task is %s", byCLI.State)
	}
	made := s.call(http.MethodPost, "tasks/", map[string]any{"name": "test.asleep", "args": []int{0}, "immediate": true})
	if made.code != http.StatusAccepted {
		s.t.Fatalf("POST answered %d %s", made.code, made.body)
	}
	var link struct{ Task string }
	made.decode(s.t, &link)
	var read taskREST
	s.call(http.MethodGet, link.Task, nil).decode(s.t, &read)
	if read.State != "completed" {
		s.t.Errorf("when the POST returns, the task is %s", read.State)
	}
}

func immediateUnfit(s *system) {
	got := s.dispatch(client.Spec{Name: "test.sleep", Args: []int{0}, Immediate: true})
	if got.State != task.Failed || !strings.Contains(got.Error.String(), "Immediate tasks must be async functions") {
		s.t.Errorf("the task is %s: %q", got.State, got.Error)
	}
}

func immediateTimesOut(s *system) {
	got := s.dispatch(client.Spec{Name: "test.asleep", Args: []int{100}, Immediate: true})
	if got.State != task.Failed || !strings.Contains(got.Error.String(), "timed out after") {
		s.t.Errorf("the task is %s: %q", got.State, got.Error)
	}
}

func immediateBlocked(s *system) {
	resource := fresh("r")
	g := s.gate()
	holder := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	waits := s.dispatch(client.Spec{Name: "test.asleep", Args: []int{0}, Exclusive: []string{resource}, Immediate: true})
	if waits.State != task.Waiting {
		s.t.Errorf("a blocked immediate task that may wait is %s", waits.State)
	}
	long := s.dispatch(client.Spec{Name: "test.asleep", Args: []int{100}, Exclusive: []string{resource}, Immediate: true})
	not := s.dispatch(client.Spec{Name: "test.asleep", Args: []int{0}, Exclusive: []string{resource}, Immediate: true, NoDefer: true})
	if not.State != task.Canceled || not.Error == nil || not.Error.Reason != "Resources temporarily unavailable." {
		s.t.Errorf("a blocked immediate task that may not wait is %s: %q", not.State, not.Error)
	}
	if got := s.cli("dispatch", "test.asleep", "--args", "[0]", "--shared", resource, "--immediate", "--no-defer"); got.code != 1 || !strings.Contains(got.stderr, "temporarily unavailable") {
		s.t.Errorf("the command line ended with %d: %s", got.code, got.stderr)
	}
	g.open()
	s.end(holder.ID)
	if ended := s.end(waits.ID)[0]; ended.State != task.Completed {
		s.t.Errorf("in the end the one that waited is %s: %v", ended.State, ended.Error)
	}
	if ended := s.end(long.ID)[0]; ended.State != task.Failed || !strings.Contains(ended.Error.String(), "timed out after") {
		s.t.Errorf("in the end the one that takes too long is %s: %v", ended.State, ended.Error)
	}
}

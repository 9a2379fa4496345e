package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
)

func waitAll(s *system) {
	g := s.gate()
	held := s.dispatch(g.task(nil, nil))
	g.reached()
	var ids []string
	resource := fresh("r")
	for range 5 {
		ids = append(ids, s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}}).ID)
	}
	if got := s.cli("task", "wait", "--all", "--timeout", "100ms"); got.code != 1 || !strings.Contains(got.stderr, "100ms") {
		s.t.Errorf("task wait --all ended with %d %q while a task ran, want 1", got.code, got.stderr)
	}
	g.open()
	var left []taskJSON
	s.cliJSON(0, &left, "task", "wait", "--all")
	for _, id := range append(ids, held.ID) {
		if now := s.get(id); !now.Final() {
			s.t.Errorf("task %s is %s after task wait --all", id, now.State)
		}
	}
}

func exitCodes(s *system) {
	for _, c := range []struct {
		code int
		args []string
	}{
		{0, []string{"dispatch", "test.noop", "--wait"}},
		{0, []string{"dispatch", "test.fail"}}, // handed in, which is all that was asked for
		{1, []string{"dispatch", "test.fail", "--wait"}},
		{1, []string{"dispatch", "test.asleep", "--args", "[100]", "--immediate"}},
		{2, []string{"dispatch", "test.noop", "--wait", "--bogus"}},
		{2, []string{"task", "wait"}},
		{0, []string{"--help"}},
		{0, []string{"version"}},
		{1, []string{"task", "list", "--addr", "127.0.0.1:1"}},
	} {
		if got := s.cli(c.args...); got.code != c.code {
			s.t.Errorf("sluice %q ended with %d %q, want %d", c.args, got.code, got.stderr, c.code)
		}
	}
	good, bad := s.run(client.Spec{Name: "test.noop"}), s.run(client.Spec{Name: "test.fail", Args: []string{"no paper"}})
	if got := s.cli("task", "wait", good.ID); got.code != 0 {
		s.t.Errorf("task wait for a completed task ended with %d %q", got.code, got.stderr)
	}
	var shown []taskJSON
	s.cliJSON(1, &shown, "task", "wait", good.ID, bad.ID)
	if len(shown) != 2 || shown[0].State != "completed" || shown[1].State != "failed" {
		s.t.Errorf("task wait printed %+v", shown)
	}
	if got := s.cli("task", "wait", bad.ID); !strings.Contains(got.stderr, "no paper") {
		s.t.Errorf("task wait does not say why the task failed: %q", got.stderr)
	}
	s.end(s.all("test.fail")...)
}

// all lists the ids of the tasks of a name.
func (s *system) all(name string) []string {
	s.t.Helper()
	var ids []string
	for one, err := range s.List(s.soon(), client.Filter{Name: name}) {
		if err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, one.ID)
	}
	return ids
}

func wholeSystem(s *system) {
	g := s.gate()
	running := s.dispatch(g.task([]string{fresh("r")}, nil))
	g.reached()

	type worker struct {
		Name    string
		Online  bool
		Running []string `json:"running_task_ids"`
	}
	// The executor asks for the task's process after it was given the task, so by now all know of it.
	var workers []worker
	s.cliJSON(0, &workers, "worker", "list")
	if len(workers) != 1 || !workers[0].Online || !slices.Contains(workers[0].Running, running.ID) {
		s.t.Errorf("worker list: %+v, want one that is online and runs %s", workers, running.ID)
	}
	var page struct {
		Count   int
		Results []struct {
			Name        string
			CurrentTask *string `json:"current_task"`
		}
	}
	s.call(http.MethodGet, "workers/?online=true", nil).decode(s.t, &page)
	if page.Count != 1 || page.Results[0].Name != workers[0].Name || page.Results[0].CurrentTask == nil || *page.Results[0].CurrentTask != href(running.ID) {
		s.t.Errorf("GET workers/: %+v, want %s with the task", page, workers[0].Name)
	}
	if now := s.get(running.ID); now.Executor != workers[0].Name {
		s.t.Errorf("the task runs on %q, the worker is %q", now.Executor, workers[0].Name)
	}

	var status struct {
		DatabaseConnected bool `json:"database_connected"`
		SchedulerLeads    bool `json:"scheduler_leads"`
		Executors         int
		Tasks             struct{ Waiting, Running, Canceling int }
	}
	eventually(s.t, "status counts the running task", func() error {
		s.cliJSON(0, &status, "status")
		if !status.DatabaseConnected || !status.SchedulerLeads || status.Executors != 1 || status.Tasks.Running != 1 {
			return fmt.Errorf("%+v", status)
		}
		return nil
	})
	var byREST struct {
		Database struct{ Connected bool } `json:"database_connection"`
		Workers  []struct{ Name string }  `json:"online_workers"`
		Apps     []struct{ Name string }  `json:"online_api_apps"`
		Versions []struct{ Component string }
	}
	eventually(s.t, "the REST face shows its own gateway", func() error {
		s.call(http.MethodGet, "status/", nil).decode(s.t, &byREST)
		if !byREST.Database.Connected || len(byREST.Workers) != 1 || len(byREST.Apps) != 1 || len(byREST.Versions) == 0 {
			return fmt.Errorf("%+v", byREST)
		}
		return nil
	})
	g.open()
	s.end(running.ID)

	name := fresh("unknown")
	for range 3 {
		id := s.dispatch(client.Spec{Name: name}).ID
		eventually(s.t, "the scheduler sees the task", func() error { // what is canceled before that is not counted
			if why, err := s.Explain(s.soon(), id); err != nil || !why.Live {
				return fmt.Errorf("%+v, %v", why, err)
			}
			return nil
		})
		if _, err := s.Cancel(s.soon(), id); err != nil {
			s.t.Error(err)
		}
	}
	var stats []struct {
		Name                       string
		Finished, Failed, Canceled int
		Run                        json.RawMessage `json:"run_seconds"`
	}
	eventually(s.t, "stats count what ended", func() error {
		s.cliJSON(0, &stats, "stats", "--name", name)
		if len(stats) != 1 || stats[0].Name != name || stats[0].Finished != 3 || stats[0].Canceled != 3 || stats[0].Failed != 0 {
			return fmt.Errorf("%+v", stats)
		}
		return nil
	})
	s.cliJSON(0, &stats, "stats")
	if len(stats) < 2 {
		s.t.Error(errors.New("stats has no row for each name"))
	}
}

package e2e

import (
	"regexp"
	"slices"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// group makes a task group.
func (s *system) group() string {
	s.t.Helper()
	id, err := s.CreateGroup(s.soon(), s.t.Name())
	if err != nil {
		s.t.Fatalf("make a group: %v", err)
	}
	return id
}

func cancelGroup(s *system) {
	group, resource := s.group(), fresh("r")
	g := s.gate()
	in := func(spec client.Spec) client.Task {
		spec.GroupID = group
		return s.dispatch(spec)
	}
	running := in(g.task([]string{resource}, nil))
	g.reached()
	next := client.Spec{Name: "test.noop", Exclusive: []string{resource}}
	waiting := []client.Task{in(next), in(next)}
	outside := s.dispatch(next)
	ended := in(client.Spec{Name: "test.noop"})
	s.end(ended.ID)

	if got := s.cli("group", "cancel", group); got.code != 0 || got.stdout != group+" 2 canceled, 1 canceling\n" {
		s.t.Errorf("the command line ended with %d and said %q%q", got.code, got.stdout, got.stderr)
	}
	for i, one := range s.end(running.ID, waiting[0].ID, waiting[1].ID) {
		if one.State != task.Canceled || one.Error == nil || one.Error.Reason != task.ReasonCanceled || (one.StartedAt != nil) != (i == 0) {
			s.t.Errorf("member %d is %s with the error %+v, started at %v", i, one.State, one.Error, one.StartedAt)
		}
	}
	for _, one := range s.end(outside.ID, ended.ID) {
		if one.State != task.Completed {
			s.t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		}
	}
	canceled, canceling, err := s.CancelGroup(s.soon(), group)
	if err != nil || canceled != 0 || canceling != 0 {
		s.t.Errorf("again: %d canceled, %d canceling, %v", canceled, canceling, err)
	}
	if got, err := s.Group(s.soon(), group); err != nil || got.Counts[task.Canceled] != 3 || got.Counts[task.Completed] != 1 {
		s.t.Errorf("the members are %v, %v", got.Counts, err)
	}
	if _, _, err := s.CancelGroup(s.soon(), fresh("")); !errs.Is(err, errs.InvalidInput) {
		s.t.Errorf("what is no id: %v", err)
	}
}

func groupProgress(s *system) {
	group := s.group()
	var ids []string
	for range 2 {
		member := s.dispatch(client.Spec{Name: "test.dummy_group", GroupID: group, Kwargs: map[string]any{"inbetween": 0, "intervals": []int{0, 0, 0}}})
		ids = append(ids, member.ID)
	}
	s.end(ids...)
	sees := func(when string) {
		s.t.Helper()
		got, err := s.Group(s.soon(), group)
		want := []client.GroupProgress{{Code: "test.dummy_group", Message: "Dispatching members", Total: 6, Done: 6, Suffix: "tasks"}}
		if err != nil || !slices.Equal(got.Progress, want) {
			s.t.Errorf("%s the progress is %+v, %v", when, got.Progress, err)
		}
	}
	sees("when they have ended")
	for one, err := range s.List(s.soon(), client.Filter{GroupID: group}) {
		if err != nil {
			s.t.Fatal(err)
		}
		s.end(one.ID)
		if err := s.Delete(s.soon(), one.ID); err != nil {
			s.t.Errorf("delete a member: %v", err)
		}
	}
	sees("when they are deleted")
	var listed []struct{ ID string }
	if s.cliJSON(0, &listed, "group", "list", "--limit", "1"); len(listed) != 1 || listed[0].ID != group {
		s.t.Errorf("the newest group is %v, want %s", listed, group)
	}
}

func diagnostics(s *system) {
	spec := shell("echo hello")
	spec.ProfileOptions = []string{"memory", "logs", "memray"}
	ended := s.run(spec)
	found, err := s.Artifacts(s.soon(), ended.ID)
	if err != nil || len(found) != 2 || found[0].Name != "memory_profile" || found[1].Name != "task_logs" {
		s.t.Fatalf("the diagnostics are %+v, %v", found, err)
	}
	profile, kind, err := s.ReadArtifact(s.soon(), ended.ID, found[0])
	if err != nil || !strings.HasPrefix(kind, "text/plain") || !regexp.MustCompile(`^(\d+\.\d\t\d+\.\d\n)+$`).Match(profile) {
		s.t.Errorf("the profile is %q, %s, %v", profile, kind, err)
	}
	log, _, logErr := s.Log(s.soon(), ended.ID)
	kept, _, err := s.ReadArtifact(s.soon(), ended.ID, found[1])
	if err != nil || logErr != nil || string(kept) != log || !strings.Contains(log, "not available for this task: memray") {
		s.t.Errorf("kept %q, %v; the log is %q, %v", kept, err, log, logErr)
	}
	if _, _, err := s.ReadArtifact(s.soon(), ended.ID, client.Artifact{Name: "task_logs", Key: found[0].Key}); !errs.Is(err, errs.ArtifactNotFound) {
		s.t.Errorf("with another key: %v", err)
	}
	plain := s.run(shell("echo hello"))
	if found, err := s.Artifacts(s.soon(), plain.ID); err != nil || len(found) > 0 {
		s.t.Errorf("of a task that asked for nothing there are %+v, %v", found, err)
	}
}

package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// TaskShowCmd shows one task.
type TaskShowCmd struct {
	ID string `arg:"" help:"Id of the task."`
	Connection
}

// Help is the longer explanation.
func (*TaskShowCmd) Help() string {
	return `Times are local, with the time that passed since the line above. With --output json: one task.

    sluice task show 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60
    sluice task show -o json 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run prints the task.
func (c *TaskShowCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		t, children, err := s.GetWithChildren(ctx, c.ID)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewTaskWithChildren(t, children))
		}
		s.printTask(t, children)
		return nil
	})
}

func (s *session) printTask(t client.Task, children []string) {
	rows := [][]string{{"Task", t.ID}, {"Name", t.Name}, {"State", string(t.State)}}
	add := func(label string, values ...string) {
		for i, value := range values {
			if i > 0 {
				label = ""
			}
			if value != "" {
				rows = append(rows, []string{label, value})
			}
		}
	}
	if t.Immediate {
		add("Runs", map[bool]string{true: "at once if it can, else it waits", false: "at once or not at all"}[t.Deferred])
	}
	add("Executor", t.Executor)
	if t.Attempt > 1 {
		add("Attempt", fmt.Sprint(t.Attempt))
	}
	add("Exclusive", t.Exclusive...)
	add("Shared", t.Shared...)
	var needs []string
	for _, component := range slices.Sorted(maps.Keys(t.Versions)) {
		needs = append(needs, component+" "+t.Versions[component]+" or newer")
	}
	add("Needs", needs...)
	add("Parent", t.ParentID)
	add("Group", t.GroupID)
	add("Correlation", t.CorrelationID)
	add("Children", children...)
	rows = append(rows, s.times(t)...)
	s.printTable(rows)

	if t.State == task.Completed {
		s.printf("\nResult\n%s\n", indent(pretty(t.Result)))
	}
	if e := t.Error; e != nil {
		s.printf("\nError\n%s\n", indent(printable(e.String())))
		// String prefers the description; a reason beside it says who ended the task.
		if e.Description != "" && e.Reason != "" {
			s.printf("%s\n", indent(printable(e.Reason)))
		}
		if e.Traceback != "" {
			s.printf("\nTraceback\n%s\n", indent(printable(strings.TrimRight(e.Traceback, "\n"))))
		}
	}
}

// times are the stages that the task has passed, each with the time since the one before.
func (s *session) times(t client.Task) [][]string {
	rows := [][]string{{"Dispatched", s.moment(t.CreatedAt)}}
	last := t.CreatedAt
	for _, stage := range []struct {
		label string
		at    *time.Time
	}{{"Unblocked", t.UnblockedAt}, {"Started", t.StartedAt}, {"Finished", t.FinishedAt}} {
		if stage.at == nil {
			continue
		}
		rows = append(rows, []string{stage.label, s.moment(*stage.at) + "  +" + span(stage.at.Sub(last))})
		last = *stage.at
	}
	if !t.Final() {
		rows = append(rows, []string{"Now", s.moment(s.Now()) + "  +" + span(s.Now().Sub(last))})
	}
	return rows
}

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
	add("Attempt", s.attempts(t)...)
	add("Exclusive", t.Exclusive...)
	add("Shared", t.Shared...)
	var needs []string
	for _, component := range slices.Sorted(maps.Keys(t.Versions)) {
		needs = append(needs, component+" "+t.Versions[component]+" or newer")
	}
	add("Needs", needs...)
	if t.Timeout > 0 {
		add("Timeout", t.Timeout.String())
	}
	add("Retry", retryWords(t.Retry))
	add("Diagnostics", t.ProfileOptions...)
	add("Files", t.Files...)
	add("Parent", t.ParentID)
	add("Group", t.GroupID)
	add("Correlation", t.CorrelationID)
	add("Children", children...)
	rows = append(rows, s.times(t)...)
	for _, p := range t.Progress {
		add("Progress", progressWords(p))
	}
	for _, c := range t.Created {
		add("Created", createdWords(c))
	}
	once(rows)
	s.printTable(rows)

	if t.State == task.Completed {
		s.printf("\nResult\n%s\n", indent(pretty(t.Result)))
	}
	if e := t.Error; e != nil {
		heading := "Error"
		if e.Code != "" {
			heading += " " + printable(e.Code)
		}
		s.printf("\n%s\n%s\n", heading, indent(printable(e.String())))
		// String prefers the description; a reason beside it says who ended the task.
		if e.Description != "" && e.Reason != "" {
			s.printf("%s\n", indent(printable(e.Reason)))
		}
		if e.Traceback != "" {
			s.printf("\nTraceback\n%s\n", indent(printable(strings.TrimRight(e.Traceback, "\n"))))
		}
	}
}

// once leaves out a label that stands in the row above already.
func once(rows [][]string) {
	for i := len(rows) - 1; i > 0; i-- {
		if rows[i][0] == rows[i-1][0] {
			rows[i][0] = ""
		}
	}
}

// attempts says which attempt it is, if there was or can be more than one, and why the others failed.
func (s *session) attempts(t client.Task) []string {
	if t.Attempt <= 1 && t.Retry == nil {
		return nil
	}
	now := fmt.Sprint(t.Attempt)
	if t.Retry != nil {
		now = fmt.Sprintf("%d of %d", t.Attempt, t.Retry.MaxAttempts)
	}
	if t.RetryAt != nil {
		now += ", next at " + s.moment(*t.RetryAt)
	}
	lines := []string{now}
	for _, a := range t.Attempts {
		lines = append(lines, fmt.Sprintf("%d failed after %s on %s: %s", a.Number, span(a.EndedAt.Sub(a.StartedAt)), a.Executor, failureWords(a.Error)))
	}
	return lines
}

// failureWords is the first line of why something failed, with its code.
func failureWords(e *task.Error) string {
	why, _, _ := strings.Cut(e.String(), "\n")
	switch {
	case e == nil || e.Code == "":
		return why
	case why == "":
		return e.Code
	default:
		return why + " (" + e.Code + ")"
	}
}

func retryWords(r *client.Retry) string {
	if r == nil {
		return ""
	}
	words := fmt.Sprintf("pause %s, at most %s", max(0, r.Backoff), max(0, r.MaxBackoff))
	if len(r.On) > 0 {
		words += ", only on " + strings.Join(r.On, ", ")
	}
	return words
}

// progressWords is a part of a task's work in one line.
func progressWords(p client.Progress) string {
	words := p.Message
	if words == "" {
		words = p.Code
	}
	words += ": " + string(p.State)
	switch counted := strings.TrimRight(" "+p.Suffix, " "); {
	case p.Total != nil:
		words += fmt.Sprintf(", %d of %d%s", p.Done, *p.Total, counted)
	case p.Done > 0:
		words += fmt.Sprintf(", %d%s", p.Done, counted)
	}
	return words
}

func createdWords(c client.Created) string {
	if c.Incomplete {
		return c.Resource + " (incomplete)"
	}
	return c.Resource
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

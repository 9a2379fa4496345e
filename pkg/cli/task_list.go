package cli

import (
	"context"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// TaskListCmd lists tasks.
type TaskListCmd struct {
	State         []string `placeholder:"STATE" help:"Only tasks in this state: waiting, running, canceling, completed, failed, canceled or skipped. Give the flag again, or a comma, for another."`
	Name          string   `placeholder:"NAME" env:"-" help:"Only tasks of exactly this name."`
	CorrelationID string   `placeholder:"TEXT" help:"Only tasks with this correlation id."`
	Group         string   `placeholder:"ID" help:"Only members of this task group."`
	Parent        string   `placeholder:"ID" help:"Only tasks that this task dispatched."`
	Resource      []string `sep:"none" placeholder:"RESOURCE" help:"Only tasks that reserve this resource, exclusively or shared. Give the flag again for another: all must match."`
	Limit         int      `default:"50" placeholder:"N" help:"At most this many (${default})."`

	Connection
}

// Help is the longer explanation.
func (*TaskListCmd) Help() string {
	return `AGE is the time since the dispatch, WAITED the time until an executor was given the task, RAN the time from there to the end, both up to now while they last. With --output json: an array of tasks.

    sluice task list --state waiting,running
    sluice task list --resource reports/2026 --limit 5`
}

// Run prints the list.
func (c *TaskListCmd) Run(ctx context.Context, env *Environment) error {
	filter := client.Filter{
		Name: c.Name, CorrelationID: c.CorrelationID, GroupID: c.Group, ParentID: c.Parent, Resources: c.Resource, Limit: c.Limit,
	}
	if c.Limit < 1 {
		return usage("--limit: must be at least 1, is %d", c.Limit)
	}
	for _, word := range c.State {
		state := task.State(word)
		if !state.Valid() {
			return usage("--state: must be one of %s, is %q", stateWords(), word)
		}
		filter.States = append(filter.States, state)
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		var tasks []client.Task
		for t, err := range s.List(ctx, filter) {
			if err != nil {
				return err
			}
			tasks = append(tasks, t)
		}
		if s.json {
			return s.printJSON(viewTasks(tasks))
		}
		s.printTasks(tasks)
		if len(tasks) == c.Limit {
			s.note("there may be more; --limit asks for them")
		}
		return nil
	})
}

func stateWords() string {
	words := make([]string, 0, len(task.States()))
	for _, s := range task.States() {
		words = append(words, string(s))
	}
	return strings.Join(words, ", ")
}

func (s *session) printTasks(tasks []client.Task) {
	if len(tasks) == 0 {
		s.note("no task matches")
		return
	}
	rows := [][]string{{"ID", "NAME", "STATE", "AGE", "WAITED", "RAN"}}
	for _, t := range tasks {
		rows = append(rows, []string{t.ID, t.Name, string(t.State), s.since(t.CreatedAt), s.waited(t), s.ran(t)})
	}
	s.printTable(rows)
}

package cli

import (
	"context"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// TaskLogsCmd prints a task's output.
type TaskLogsCmd struct {
	ID     string `arg:"" help:"Id of the task."`
	Follow bool   `short:"f" env:"-" help:"Go on with what it prints until it has ended."`
	Connection
}

// Help is the longer explanation.
func (*TaskLogsCmd) Help() string {
	return `Prints standard output and standard error of the task's process as they were written, at most the last 256 KiB. While a task runs, what it wrote is stored every two seconds. With --follow, the log of a further attempt follows that of the one before; the exit code says whether the following went well, not the task. With --follow and --output json, each line is a piece of the log, with the state of the task.

    sluice task logs 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60
    sluice task logs --follow 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run prints the log.
func (c *TaskLogsCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		if c.Follow {
			return s.followLog(ctx, c.ID)
		}
		text, truncated, err := s.Log(ctx, c.ID)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(logView{ID: c.ID, Text: text, Truncated: truncated})
		case truncated:
			s.note("the beginning was cut off")
		}
		s.printf("%s", text)
		return nil
	})
}

// logPartView is a line of what `task logs --follow` prints.
type logPartView struct {
	ID      string     `json:"id"`
	Text    string     `json:"text"`
	Skipped bool       `json:"skipped"`
	Attempt int        `json:"attempt"`
	State   task.State `json:"state"`
}

// followLog prints pieces as they come. What is not the task's own words goes to standard error.
func (s *session) followLog(ctx context.Context, id string) error {
	var last client.LogPart
	for part, err := range s.FollowLog(ctx, id) {
		switch {
		case err != nil:
			return err
		case s.json:
			view := logPartView{ID: id, Text: part.Text, Skipped: part.Skipped, Attempt: part.Attempt, State: part.State}
			if err := printLine(s.Environment, view); err != nil {
				return err
			}
			continue
		case part.Skipped:
			s.note("something was left out here")
		}
		if part.Text != "" {
			if part.Attempt > 1 && part.Attempt != last.Attempt {
				s.note("attempt %d:", part.Attempt)
			}
			last = part
		}
		s.printf("%s", part.Text)
	}
	return nil
}

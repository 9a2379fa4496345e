package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// TaskWaitCmd waits for tasks.
type TaskWaitCmd struct {
	ID      []string      `arg:"" optional:"" help:"Ids of the tasks."`
	All     bool          `help:"Wait until no task at all is waiting, running or canceling."`
	Timeout time.Duration `placeholder:"DURATION" help:"Stop waiting after this long, for example 90s or 5m, and exit with 1."`
	Connection
}

// Help is the longer explanation.
func (*TaskWaitCmd) Help() string {
	return `Exits with 0 when all the tasks completed, with 1 when one of them failed or was canceled. With --all the exit code says only that nothing is left to wait for: which tasks ended in between is not known. With --output json: an array of the tasks, empty for --all.

    sluice task wait 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60 --timeout 10m
    sluice task wait --all`
}

// Run waits.
func (c *TaskWaitCmd) Run(ctx context.Context, env *Environment) error {
	switch {
	case c.All && len(c.ID) > 0:
		return usage("give ids or --all, not both")
	case !c.All && len(c.ID) == 0:
		return usage("give the ids of tasks, or --all")
	case c.Timeout < 0:
		return usage("--timeout: must not be negative, is %s", c.Timeout)
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		waiting, cancel := within(ctx, c.Timeout)
		defer cancel()
		line := s.progress()
		defer line.stop()
		if c.All {
			return c.late(waiting, s.waitAll(waiting, line))
		}
		tasks, err := s.Follow(waiting, line.interval(), func(now []client.Task) { line.say(counted(now)) }, c.ID...)
		line.stop()
		// What was seen last is worth showing, unless nothing was.
		if err != nil && len(tasks) == 0 {
			return c.late(waiting, err)
		}
		if s.json {
			if err := s.printJSON(viewTasks(tasks)); err != nil {
				return err
			}
		} else {
			s.printTasks(tasks)
		}
		if err != nil {
			return c.late(waiting, err)
		}
		return ends(tasks)
	})
}

// ends is an error with a line for each task that failed or was canceled.
func ends(tasks []client.Task) error {
	var lines []string
	for _, t := range tasks {
		if err := t.Err(); err != nil {
			lines = append(lines, err.Error())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return &failure{code: exitNo, lines: lines}
}

// late words the end of a wait by its own time limit.
func (c *TaskWaitCmd) late(waiting context.Context, err error) error {
	if expired(waiting, err) {
		return refuse("not all have ended after %s", c.Timeout)
	}
	return err
}

// waitAll waits for what is live until nothing is. Tasks that are dispatched meanwhile count too.
func (s *session) waitAll(ctx context.Context, line *progress) error {
	for {
		live, err := s.live(ctx)
		if err != nil {
			return err
		}
		if len(live) == 0 {
			line.stop()
			if s.json {
				return s.printJSON([]taskView{})
			}
			s.printf("no task is waiting or running\n")
			return nil
		}
		_, err = s.Follow(ctx, line.interval(), func([]client.Task) { s.sayLive(ctx, line) }, live...)
		// A task that somebody deleted has ended as well.
		if err != nil && !errs.Is(err, errs.TaskNotFound) {
			return err
		}
	}
}

// live returns ids of tasks that are not final, as many as one call can wait for.
func (s *session) live(ctx context.Context) ([]string, error) {
	var ids []string
	filter := client.Filter{States: []task.State{task.Waiting, task.Running, task.Canceling}, Limit: limits.MaxPage}
	for t, err := range s.List(ctx, filter) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, t.ID)
	}
	return ids, nil
}

// sayLive asks only when somebody looks. What it can't learn, the next look will tell.
func (s *session) sayLive(ctx context.Context, line *progress) {
	if !line.shown() {
		return
	}
	if now, err := s.Status(ctx); err == nil {
		line.say(counts(now.Live))
	}
}

// counted is what the progress line says about tasks.
func counted(tasks []client.Task) string {
	if len(tasks) == 1 {
		return oneLine(tasks[0])
	}
	byState := map[task.State]int64{}
	for _, t := range tasks {
		if t.ID != "" {
			byState[t.State]++
		}
	}
	return fmt.Sprintf("%d tasks: %s", len(tasks), counts(byState))
}

// counts lists numbers by state, in the order of a task's life.
func counts(byState map[task.State]int64) string {
	var parts []string
	for _, state := range task.States() {
		if n := byState[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

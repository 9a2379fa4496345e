package cli

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TaskCmd holds what can be done with tasks that were dispatched.
type TaskCmd struct {
	List    TaskListCmd    `cmd:"" help:"List tasks, the newest first."`
	Show    TaskShowCmd    `cmd:"" help:"Show all about one task."`
	Wait    TaskWaitCmd    `cmd:"" help:"Wait until tasks have ended."`
	Watch   TaskWatchCmd   `cmd:"" help:"Follow one task, a line for each change."`
	Explain TaskExplainCmd `cmd:"" help:"Say why a task waits, where it runs, or how it ended."`
	Logs    TaskLogsCmd    `cmd:"" help:"Print what a task wrote."`
	Cancel  TaskCancelCmd  `cmd:"" help:"Stop tasks."`
	Delete  TaskDeleteCmd  `cmd:"" help:"Delete tasks that have ended."`
	Purge   TaskPurgeCmd   `cmd:"" help:"Delete all tasks that ended long ago."`
}

// TaskCancelCmd stops tasks.
type TaskCancelCmd struct {
	ID []string `arg:"" help:"Ids of the tasks."`
	Connection
}

// Help is the longer explanation.
func (*TaskCancelCmd) Help() string {
	return `A task that never started is canceled at once. One that runs is asked to stop and is "canceling" until it has; it keeps its resources until then. A task that has ended can't be canceled.

    sluice task cancel 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run cancels one after the other; a failure does not spare the others.
func (c *TaskCancelCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		return each(ctx, s, c.Addr, c.ID, func(id string) (taskView, string, error) {
			t, err := s.Cancel(ctx, id)
			if err != nil {
				return taskView{}, "", err
			}
			return viewTask(t), fmt.Sprintf("%s %s", t.ID, t.State), nil
		})
	})
}

// TaskDeleteCmd removes finished tasks.
type TaskDeleteCmd struct {
	ID []string `arg:"" help:"Ids of the tasks."`
	Connection
}

// Help is the longer explanation.
func (*TaskDeleteCmd) Help() string {
	return `Only a task that has ended can be deleted; cancel it first.

    sluice task delete 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run deletes one after the other; a failure does not spare the others.
func (c *TaskDeleteCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		return deleteEach(ctx, s, c.Addr, c.ID, s.Delete)
	})
}

// each does something to every id, and reports what came of it, as a line or in an array of views, and failures as they come.
// It ends with the worst exit code of them.
func each[V any](ctx context.Context, s *session, addr string, ids []string, do func(id string) (view V, line string, err error)) error {
	views, worst := make([]V, 0, len(ids)), exitOK
	for _, id := range ids {
		view, line, err := do(id)
		if err == nil {
			views = append(views, view)
			if !s.json {
				s.printf("%s\n", line)
			}
			continue
		}
		f := explain(&callError{addr: addr, err: err})
		if len(ids) > 1 && f.code == exitUsage {
			f = &failure{code: f.code, lines: prefixed(id+": ", f.lines)}
		}
		worst = max(worst, s.report(f))
		// Nobody wants the same sentence for each of a hundred ids.
		if ctx.Err() != nil || status.Code(err) == codes.Unavailable {
			break
		}
	}
	if s.json {
		if err := s.printJSON(views); err != nil {
			return err
		}
	}
	if worst == exitOK {
		return nil
	}
	return &failure{code: worst}
}

// deleteEach deletes tasks, or files, by their ids.
func deleteEach(ctx context.Context, s *session, addr string, ids []string, remove func(ctx context.Context, id string) error) error {
	return each(ctx, s, addr, ids, func(id string) (deletedView, string, error) {
		return deletedView{ID: id, Deleted: true}, id + " deleted", remove(ctx, id)
	})
}

func prefixed(prefix string, lines []string) []string {
	made := make([]string, len(lines))
	for i, line := range lines {
		made[i] = prefix + line
	}
	return made
}

// TaskExplainCmd says why a task waits, where it runs, or how it ended.
type TaskExplainCmd struct {
	ID string `arg:"" help:"Id of the task."`
	Connection
}

// Help is the longer explanation.
func (*TaskExplainCmd) Help() string {
	return `Of a task that waits for resources: each one that it lacks, who holds it since when, how many tasks must go first, and who those wait for themselves. Of one that has all its resources: what it needs of a worker. Of one that runs: where, since when, how far it is, and when its worker was last heard of.

    sluice task explain 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run prints the explanation.
func (c *TaskExplainCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error { return s.explainTask(ctx, c.ID) })
}

func (s *session) explainTask(ctx context.Context, id string) error {
	e, err := s.Explain(ctx, id)
	if err != nil {
		return err
	}
	if s.json {
		return s.printJSON(viewExplanation(id, e))
	}
	s.printExplanation(e)
	return nil
}

package cli

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// TaskWatchCmd follows a task.
type TaskWatchCmd struct {
	ID string `arg:"" help:"Id of the task."`
	Connection
}

// Help is the longer explanation.
func (*TaskWatchCmd) Help() string {
	return `Prints the task as it is now, then a line for each change of its state, and ends with the task. What the task tells of its work while it runs is looked at each second. The exit code says whether the watching went well, not the task. With --output json, each line is one task as in "sluice task show".

    sluice task watch 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run prints a line for each state, and for each part of the task's work that went on.
func (c *TaskWatchCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		type change struct {
			task client.Task
			err  error
		}
		ctx, cancel := context.WithCancel(ctx)
		changes := make(chan change)
		go func() {
			defer close(changes)
			for t, err := range s.Watch(ctx, c.ID) {
				changes <- change{t, err}
			}
		}()
		defer func() {
			cancel()
			for range changes { // until nobody sends any more
			}
		}()
		ticker := time.NewTicker(s.look)
		defer ticker.Stop()
		w := &watch{session: s, shown: map[string]string{}}
		for {
			select {
			case now, open := <-changes:
				if !open {
					return nil
				}
				if now.err != nil {
					return now.err
				}
				if err := w.changed(ctx, now.task); err != nil {
					return err
				}
			case <-ticker.C:
				if err := w.goesOn(ctx); err != nil {
					return err
				}
			}
		}
	})
}

// watch prints how one task goes on. The stream tells its states, what it tells of its work is asked for.
type watch struct {
	*session
	last     client.Task
	children []string
	// shown is the line printed last for each part and for each created resource.
	shown map[string]string
}

// changed prints a state. What the run before told last belongs before its end.
func (w *watch) changed(ctx context.Context, t client.Task) error {
	ran := running(w.last)
	report := w.last.Report
	w.last = t
	w.last.Report = report
	w.ask(ctx)
	if w.json {
		return w.printLine()
	}
	if ran || t.Final() {
		w.printWork()
	}
	line := fmt.Sprintf("%s  %-9s  %s", w.clock(t.UpdatedAt), t.State, w.remark(t))
	w.printf("%s\n", strings.TrimRight(line, " "))
	if running(t) {
		w.printWork()
	}
	return nil
}

// goesOn prints what the task has told since the last look.
func (w *watch) goesOn(ctx context.Context) error {
	if !running(w.last) {
		return nil
	}
	before := w.last.Report
	w.ask(ctx)
	switch {
	case !w.json:
		w.printWork()
	case !reflect.DeepEqual(before, w.last.Report):
		return w.printLine()
	}
	return nil
}

func running(t client.Task) bool { return t.State == task.Running || t.State == task.Canceling }

// ask completes the task. What can't be learned now will be at the next look; the stream tells of everything that is serious.
func (w *watch) ask(ctx context.Context) {
	// Meanwhile nobody reads the stream.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if now, children, err := w.GetWithChildren(ctx, w.last.ID); err == nil {
		w.last.Report, w.last.Attempts, w.children = now.Report, now.Attempts, children
	}
}

func (w *watch) printLine() error {
	return printLine(w.Environment, viewTaskWithChildren(w.last, w.children))
}

// printWork prints a line for each thing of which something else was said before.
func (w *watch) printWork() {
	for _, p := range w.last.Progress {
		w.printOnce("part "+p.Code, progressWords(p))
	}
	for _, c := range w.last.Created {
		w.printOnce("created "+c.Resource, "created "+createdWords(c))
	}
}

func (w *watch) printOnce(thing, line string) {
	if w.shown[thing] == line {
		return
	}
	w.shown[thing] = line
	w.printf("%s  %-9s  %s\n", w.clock(w.Now()), "", strings.ReplaceAll(printable(line), "\n", " "))
}

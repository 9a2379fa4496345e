package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// index hands in all tasks, and follows them until the index is published.
func index(ctx context.Context, o options) error {
	dirs, err := packageDirs(o.source)
	if err != nil {
		return err
	}
	if len(dirs) == 0 {
		return fmt.Errorf("there are no Go files in %s", o.source)
	}
	if o.limit > 0 && o.limit < len(dirs) {
		dirs = dirs[:o.limit]
	}
	sluice, err := client.Dial(o.addr)
	if err != nil {
		return err
	}
	defer sluice.Close()
	w := work{options: o, sluice: sluice, dirs: dirs}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := w.dispatch(ctx); err != nil {
		return w.giveUp(ctx, err)
	}
	fmt.Printf("handed in %d tasks in %s; the last one publishes: sluice task explain %s\n",
		len(w.ids), time.Since(start).Round(time.Millisecond), w.ids[len(w.ids)-1])
	tasks, err := w.follow(ctx)
	if err != nil {
		return w.giveUp(ctx, err)
	}
	if err := failures(tasks); err != nil {
		return err
	}
	fmt.Printf("%s after %s\n", w.indexPath(), time.Since(start).Round(time.Millisecond))
	if o.verify {
		return w.verify()
	}
	return nil
}

// work is one run.
type work struct {
	options

	sluice  *client.Client
	dirs    []string
	program string // what the tasks run
	group   string
	ids     []string // the publishing task is the last
}

func (w *work) entries() string   { return filepath.Join(w.output, "entries") }
func (w *work) indexPath() string { return filepath.Join(w.output, "index.json") }

// prepare makes the output folder with a copy of this program in it: `go run` removes its own when we end, and tasks may go
// on after that.
func (w *work) prepare(ctx context.Context) error {
	if err := os.MkdirAll(w.entries(), 0o750); err != nil {
		return fmt.Errorf("make the output folder: %w", err)
	}
	own, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	w.program = filepath.Join(w.output, "index-source")
	if err := copyProgram(own, w.program); err != nil {
		return err
	}
	w.group, err = w.sluice.CreateGroup(ctx, "index "+w.source)
	if status.Code(err) == codes.Unavailable {
		return fmt.Errorf("no Sluice answers at %s: start one with make run, or give --addr", w.addr)
	}
	return err
}

// copyProgram replaces a program in one step: an older copy may be running, and must not be written to.
func copyProgram(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	defer source.Close()
	file, err := os.CreateTemp(filepath.Dir(to), ".new-*")
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	_, err = io.Copy(file, source)
	if err = errors.Join(err, file.Chmod(0o755), file.Close()); err == nil {
		err = os.Rename(file.Name(), to)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("copy this program to %s: %w", to, err)
	}
	return nil
}

// dispatch hands in all tasks. Those that hash share the tree, so any number of them runs at the same time; each has its own
// entry for itself, so that two runs of this program never write one entry at once. The last one takes the tree for itself:
// it waits for all that share it, and whoever shares it later waits for the index.
func (w *work) dispatch(ctx context.Context) error {
	tree := "tree:" + w.output
	progress := newLine()
	defer progress.end()
	for i, dir := range w.dirs {
		progress.say("handing in %d of %d", i+1, len(w.dirs)+1)
		err := w.add(ctx, client.Spec{
			Kwargs: map[string]any{
				"argv": []string{w.program, "hash", filepath.Join(w.source, filepath.FromSlash(dir)), entryPath(w.entries(), dir)},
			},
			Shared:    []string{tree},
			Exclusive: []string{"entry:" + entryPath(w.entries(), dir)},
		})
		if err != nil {
			return fmt.Errorf("hand in the task for %s: %w", dir, err)
		}
	}
	what, err := json.Marshal(job{Source: w.source, Dirs: w.dirs, Entries: w.entries()})
	if err != nil {
		return fmt.Errorf("encode the publishing task: %w", err)
	}
	err = w.add(ctx, client.Spec{
		Kwargs:    map[string]any{"argv": []string{w.program, "publish", w.indexPath()}, "stdin": string(what)},
		Exclusive: []string{tree},
	})
	if err != nil {
		return fmt.Errorf("hand in the publishing task: %w", err)
	}
	return nil
}

func (w *work) add(ctx context.Context, spec client.Spec) error {
	spec.Name, spec.GroupID = "command.run", w.group
	made, err := w.sluice.Dispatch(ctx, spec)
	if err != nil {
		return err
	}
	w.ids = append(w.ids, made.ID)
	return nil
}

// follow shows how the tasks get on until all of them have ended.
func (w *work) follow(ctx context.Context) ([]client.Task, error) {
	progress := newLine()
	defer progress.end()
	return w.sluice.Follow(ctx, 200*time.Millisecond, func(tasks []client.Task) {
		counts := map[task.State]int{}
		for _, t := range tasks {
			counts[t.State]++
		}
		const width = 40
		done := len(tasks) - counts[task.Waiting] - counts[task.Running] - counts[task.Canceling]
		bar := strings.Repeat("#", done*width/len(tasks))
		progress.say("[%-*s] %d of %d done, %d running", width, bar, done, len(tasks), counts[task.Running])
	}, w.ids...)
}

// giveUp cancels what was handed in, the publishing task first, and returns what is to be said about err. ctx has ended, if
// that is why.
func (w *work) giveUp(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	canceled := 0
	for i := len(w.ids) - 1; i >= 0; i-- {
		_, failed := w.sluice.Cancel(ctx, w.ids[i])
		if failed != nil && !errs.Is(failed, errs.TaskFinal) { // it may have ended
			return errors.Join(err, fmt.Errorf("cancel the tasks that are left: %w", failed))
		}
		if failed == nil {
			canceled++
		}
	}
	return fmt.Errorf("%w; %d tasks were canceled", err, canceled)
}

// failures says what went wrong, if anything did. Then the index is not to be trusted: the publishing task runs in any case.
func failures(tasks []client.Task) error {
	var failed []error
	for _, t := range tasks {
		failed = append(failed, t.Err())
	}
	return errors.Join(failed...)
}

// verify computes the index here, without any task, and compares.
func (w *work) verify() error {
	want, err := merge(w.source, w.dirs, func(dir string) (entry, error) {
		return describe(filepath.Join(w.source, filepath.FromSlash(dir)))
	})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(w.indexPath())
	if err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	var got report
	if err := json.Unmarshal(text, &got); err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Errorf("the index is wrong: it has %+v, computed here it is %+v", got.Total, want.Total)
	}
	fmt.Println("the index is the same when it is computed here")
	return nil
}

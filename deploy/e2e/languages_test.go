package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/languages"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// examples are the workers and clients in other languages. All have the same tasks, each under a prefix of its own.
var examples = map[string]struct {
	prefix, worker, client string
	program                func(testing.TB) languages.Program
}{
	"Python":     {"py", "worker.py", "client.py", languages.Python},
	"TypeScript": {"ts", "worker.js", "client.js", languages.Node},
}

// hosts are the shapes of Sluice with the address at which workers connect: everybody's, or that of one executor.
var hosts = map[string]func(*testing.T) (s *system, addr string, restart func(*testing.T)){
	"dev": func(t *testing.T) (*system, string, func(*testing.T)) {
		s := newDev(t, pgtest.Dir(t), nil).start(t)
		return s, s.grpc, nil
	},
	"services": func(t *testing.T) (*system, string, func(*testing.T)) {
		v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
		s, addr := v.start(t), freeAddrs(t, 1)[0]
		start := func(t *testing.T) {
			t.Helper()
			flags := map[string]string{"name": "host", "grpc-addr": addr, "work-dir": filepath.Join(v.dir, "host")}
			v.launch(t, "host", "executor", flags).ready(t, "sluice executor is ready")
		}
		start(t)
		return s, addr, func(t *testing.T) {
			t.Helper()
			if code := s.processes["host"].stop(t, syscall.SIGTERM); code != 0 {
				t.Errorf("the executor ended with code %d", code)
			}
			start(t)
		}
	},
}

// languageStories are told about each example in their order, with one worker that is connected. The last one ends it.
var languageStories = []struct {
	says string
	tell func(*foreign)
}{
	{"its client dispatches, watches and waits", (*foreign).clientSees},
	{"its client says why a task failed, as its handler put it", (*foreign).fails},
	{"what a task says of its progress is seen while it runs, and a cancel stops it", (*foreign).progresses},
	{"a task that was dispatched by a task is its child", (*foreign).dispatches},
	{"what tasks add to the progress of their group is the sum of it", (*foreign).addsUp},
	{"a worker comes back to an executor that was restarted", (*foreign).comesBack},
	{"a worker that is killed fails its task at once, and frees what it had reserved", (*foreign).killed},
}

func TestOtherLanguages(t *testing.T) {
	for shape, start := range hosts {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			s, addr, restart := start(t)
			for language, example := range examples {
				t.Run(language, func(t *testing.T) {
					program := example.program(t)
					f := &foreign{
						prefix: example.prefix, program: program, client: filepath.Join(program.Example, example.client), restart: restart,
					}
					f.worker = f.launch(t, filepath.Join(program.Example, example.worker), "--addr", addr, "--name", example.prefix, "--slots", "2")
					f.ready(t, 1)
					for _, story := range languageStories {
						t.Run(story.says, func(t *testing.T) {
							mine := *f
							mine.system = s.under(t)
							story.tell(&mine)
						})
					}
				})
			}
		})
	}
}

// foreign is a system with a worker and a client in another language, as a story sees them.
type foreign struct {
	*system

	prefix  string // of the names of its tasks
	program languages.Program
	client  string // path
	worker  *process
	name    string           // of the worker, as others see it
	restart func(*testing.T) // the executor to which the worker is connected; nil: not in this shape
}

// launch starts a program of the example, until the test ends.
func (f *foreign) launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := launch(t, t.TempDir(), command{name: f.prefix, path: f.program.Path, args: args, env: f.program.Env})
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s%s", strings.Join(args, " "), p.stdout(), p.stderr())
		}
	})
	return p
}

// ready waits until the worker has been welcomed as often as this, and learns its name.
func (f *foreign) ready(t *testing.T, welcomes int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the worker is welcomed %d times", welcomes), func() error {
		lines := strings.Split(f.worker.stdout(), "\n")
		if len(lines) <= welcomes {
			if f.worker.ended() {
				t.Fatalf("the worker ended: %v", f.worker.cmd.ProcessState)
			}
			return errors.New("it wrote " + f.worker.stdout() + f.worker.stderr())
		}
		if _, err := fmt.Sscanf(lines[welcomes-1], "worker %s is ready", &f.name); err != nil {
			t.Fatalf("the worker says %q: %v", lines[welcomes-1], err)
		}
		return nil
	})
}

// typed runs the example's client.
func (f *foreign) typed(args ...string) typed {
	f.t.Helper()
	cmd := exec.CommandContext(f.soon(), f.program.Path, append([]string{f.client, "--addr", f.grpc}, args...)...)
	cmd.Env = cleanEnv(f.program.Env)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatalf("run the client %q: %v", args, err)
	}
	return typed{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// says runs the example's client, which must succeed, and returns the lines that it printed.
func (f *foreign) says(args ...string) []string {
	f.t.Helper()
	got := f.typed(args...)
	if got.code != 0 {
		f.t.Fatalf("the client %q ended with %d: %s", args, got.code, got.stderr)
	}
	return strings.Split(strings.TrimSpace(got.stdout), "\n")
}

func (f *foreign) clientSees() {
	id := f.says("dispatch", f.prefix+".count", `{"n": 3}`)[0]
	if states := f.says("watch", id); states[len(states)-1] != "completed" {
		f.t.Errorf("the last of the states that the client saw is not completed: %q", states)
	}
	waited := f.says("wait", id)
	if len(waited) != 2 || waited[0] != "Counting: 3 of 3" || strings.ReplaceAll(waited[1], " ", "") != `{"counted":3}` {
		f.t.Errorf("the client printed %q", waited)
	}
	got := f.get(id)
	if got.State != task.Completed || got.Executor != f.name || got.Attempt != 1 {
		f.t.Errorf("the task is %s by %q in attempt %d, want completed by %s in the first", got.State, got.Executor, got.Attempt, f.name)
	}
	if text, _, err := f.Log(f.soon(), id); err != nil || text != "counting to 3\n" {
		f.t.Errorf("the log is %q, %v", text, err)
	}
}

func (f *foreign) fails() {
	id := f.says("dispatch", f.prefix+".fail")[0]
	if got := f.typed("wait", id); got.code != 1 || !strings.Contains(got.stderr, "There is no paper.") {
		f.t.Errorf("the client ended with %d and said %q", got.code, got.stderr)
	}
	got := f.get(id)
	if got.State != task.Failed || got.Error == nil || got.Error.Description != "There is no paper." || got.Error.Code != "NO_PAPER" {
		f.t.Errorf("the task is %s with the error %+v", got.State, got.Error)
	}
}

// counting dispatches a task that counts for a long time, and returns its id when it has said how far it is.
func (f *foreign) counting(exclusive ...string) string {
	f.t.Helper()
	kwargs := map[string]any{"n": 1_000_000, "pause": 0.01}
	id := f.dispatch(client.Spec{Name: f.prefix + ".count", Kwargs: kwargs, Exclusive: exclusive}).ID
	eventually(f.t, "progress is seen", func() error {
		got := f.get(id)
		if got.State == task.Running && len(got.Progress) == 1 && got.Progress[0].Done > 1 {
			return nil
		}
		return fmt.Errorf("the task is %s, its report is %+v", got.State, got.Report)
	})
	return id
}

func (f *foreign) progresses() {
	id := f.counting()
	if said := f.says("cancel", id); !slices.Contains([]string{"canceling", "canceled"}, said[0]) {
		f.t.Errorf("after the cancel the client sees %q", said)
	}
	got := f.end(id)[0]
	if got.State != task.Canceled || got.Error == nil || got.Error.Reason != task.ReasonCanceled {
		f.t.Errorf("the task is %s with the error %+v, want canceled", got.State, got.Error)
	}
	if now := f.get(id); len(now.Progress) != 1 || now.Progress[0].State != task.Canceled {
		f.t.Errorf("the progress of the canceled task is %+v", now.Progress)
	}
}

func (f *foreign) addsUp() {
	group, err := f.CreateGroup(f.soon(), "")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, n := range []int{3, 4} {
		f.run(client.Spec{Name: f.prefix + ".count", Kwargs: map[string]any{"n": n}, GroupID: group})
	}
	got, err := f.Group(f.soon(), group)
	want := []client.GroupProgress{{Code: "count", Message: "Counting together", Total: 7, Done: 7}}
	if err != nil || !slices.Equal(got.Progress, want) {
		f.t.Errorf("the progress of the group is %+v, %v", got.Progress, err)
	}
}

func (f *foreign) dispatches() {
	parent := f.run(client.Spec{Name: f.prefix + ".parent", Kwargs: map[string]any{"n": 2}, CorrelationID: fresh("request")})
	var made struct{ Child string }
	if err := json.Unmarshal(parent.Result, &made); err != nil {
		f.t.Fatalf("the parent is %s with %s: %v", parent.State, parent.Result, err)
	}
	child := f.end(made.Child)[0]
	if child.ParentID != parent.ID || child.CorrelationID != parent.CorrelationID || child.State != task.Completed {
		f.t.Errorf("the child of %s is %+v", parent.ID, child)
	}
}

func (f *foreign) comesBack() {
	if f.restart == nil {
		f.t.Skip("the whole system would have to be restarted")
	}
	welcomes := strings.Count(f.worker.stdout(), "\n")
	f.restart(f.t)
	f.ready(f.t, welcomes+1)
	if got := f.run(client.Spec{Name: f.prefix + ".count"}); got.State != task.Completed {
		f.t.Errorf("the task is %s: %v", got.State, got.Error)
	}
}

func (f *foreign) killed() {
	resource := fresh("r")
	id := f.counting(resource)
	next := f.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}}).ID
	f.worker.kill()
	ended := f.end(id, next)
	if got := ended[0]; got.State != task.Failed || got.Error.Code != "DISCONNECTED" || !strings.Contains(got.Error.String(), "worker") {
		f.t.Errorf("the task is %s with the error %+v", got.State, got.Error)
	}
	if ended[1].State != task.Completed {
		f.t.Errorf("the task after it is %s: %v", ended[1].State, ended[1].Error)
	}
	eventually(f.t, "the worker is no longer online", func() error {
		workers, err := f.Workers(f.soon(), false)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(workers, func(w client.Worker) bool { return w.Name == f.name }) {
			return fmt.Errorf("%+v", workers)
		}
		return nil
	})
}

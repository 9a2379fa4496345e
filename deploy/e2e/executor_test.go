package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// executorStories are told at the same time, on the same services: each brings executors of its own.
var executorStories = []struct {
	says string
	tell func(*crew)
}{
	{"a task that fails is tried again, and each face shows the attempts", retried},
	{"between two attempts a task keeps its place", keepsItsPlace},
	{"a task that is canceled between two attempts is canceled at once", canceledBetweenAttempts},
	{"only those failures are retried that the dispatch names, and no mistake is", retriedOn},
	{"what a killed executor ran is run again by another one, if it may be", retriedElsewhere},
	{"what a stopped executor aborted is run again by another one, if it may be", retriedAfterShutdown},
	{"what an attempt left incomplete is deleted before the next one begins", retriedFromTheBeginning},

	{"whatever becomes of tasks and executors, those that conflict keep their order", mixed},

	{"a task that takes longer than it may fails", timedOut},
	{"a task that ignores that its time is over is killed", timedOutGooey},

	{"a canceled command ends with all that it started, whatever that ignores and wherever it went", cancelsDescendants},
	{"a task can be canceled while its executor waits for it to end", cancelsWhileDraining},
	{"what a task left incomplete is deleted, what it completed stays", deletesIncomplete},

	{"SIGTERM lets running tasks end and takes no others", drainsOn(syscall.SIGTERM)},
	{"SIGHUP lets running tasks end and takes no others", drainsOn(syscall.SIGHUP)},
	{"SIGINT aborts what is not over in the grace interval", aborts("200ms", syscall.SIGINT)},
	{"a second SIGINT aborts at once", aborts("1h", syscall.SIGINT, syscall.SIGINT)},
	{"SIGTERM after SIGINT aborts at once", aborts("1h", syscall.SIGINT, syscall.SIGTERM)},
	{"SIGINT after SIGTERM ends the patience", aborts("200ms", syscall.SIGTERM, syscall.SIGINT)},
	{"--burst runs all that there is, and what comes of it, then stops", bursts},
	{"an executor that was drained takes nothing, and lives on", drained},
	{"nothing is given to an executor beyond its slots", noPrefetch},

	{"what a task writes can be read while it runs", logsOfTheRunning},
	{"of a long log the end is kept", longLogs},
	{"a file that was stored reaches the task, and stays as long as that has it", files},
	{"a text that was not declared safe is shown to nobody, and stands in the executor's log", redacts},
	{"with --no-redact-errors all texts are shown", redactsNot},

	{"a working directory is empty, closed to others, and gone when the task is", directories},
	{"a process is used for as many tasks as it may be", recycles},
	{"a task that takes more memory than it may fails, and nothing else does", limitsMemory},
	{"what a killed executor left is removed by the next one on the same folder", leftovers},
	{"an executor that has nothing to do has no children and speaks with the gateway alone", idle},
}

func TestExecutor(t *testing.T) {
	t.Parallel()
	v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
	s := v.start(t, slices.DeleteFunc(slices.Clone(serviceNames), func(name string) bool { return name == "executor" })...)
	for _, story := range executorStories {
		t.Run(story.says, func(t *testing.T) {
			t.Parallel()
			story.tell(newCrew(t, v, s))
		})
	}
}

// crew is a system with executors that a story starts itself. They have a component that nobody else has, and the story's tasks
// ask for it: other stories on the same services neither take them nor see them in the way.
type crew struct {
	*system
	services  *services
	component string
	made      int
}

func newCrew(t *testing.T, v *services, s *system) *crew {
	t.Helper()
	own := *s
	own.processes = maps.Clone(s.processes)
	c := &crew{system: own.under(t), services: v, component: fresh("crew")}
	c.work = c.file("work")
	return c
}

// executor starts one and waits until it is ready. Flags are in addition to those of all services, or instead of them.
func (c *crew) executor(flags map[string]string, extra ...string) *process {
	c.t.Helper()
	p := c.launch(flags, extra...)
	p.ready(c.t, "sluice executor is ready")
	return p
}

func (c *crew) launch(flags map[string]string, extra ...string) *process {
	c.t.Helper()
	c.made++
	all := map[string]string{"name": c.name(c.made), "have": c.component + "=1", "work-dir": c.work}
	maps.Copy(all, flags)
	how := c.services.command("executor", all)
	how.name = all["name"]
	how.args = append(how.args, extra...)
	p := launch(c.t, c.services.dir, how)
	c.processes[how.name] = p
	c.t.Cleanup(func() {
		switch {
		case p.ended():
		case c.t.Failed():
			p.kill() // it may wait for a task that nobody will end
		default:
			if code := p.stop(c.t, syscall.SIGTERM); code != 0 {
				c.t.Errorf("%s ended with code %d\n%s", p.name, code, p.stderr())
			}
		}
	})
	return p
}

// name is that of the n-th executor, from 1.
func (c *crew) name(n int) string { return fmt.Sprintf("%s.%d", c.component, n) }

// stops sends a signal and waits for an end in good order.
func (c *crew) stops(p *process, signal syscall.Signal) {
	c.t.Helper()
	if code := p.stop(c.t, signal); code != 0 {
		c.t.Errorf("%s ended with code %d\n%s", p.name, code, p.stderr())
	}
}

// stopping waits until an executor has been told to stop.
func (c *crew) stopping(p *process) {
	c.t.Helper()
	c.logged(p, `"msg":"stopping"`)
}

// logged waits until an executor has logged something.
func (c *crew) logged(p *process, text string) {
	c.t.Helper()
	eventually(c.t, p.name+" logs "+text, func() error {
		if !strings.Contains(p.stderr(), text) {
			return errors.New("not yet")
		}
		return nil
	})
}

// spec is one for this crew only.
func (c *crew) spec(spec client.Spec) client.Spec {
	spec.Versions = map[string]string{c.component: "1"}
	return spec
}

func (c *crew) dispatch(spec client.Spec) client.Task {
	c.t.Helper()
	return c.system.dispatch(c.spec(spec))
}

func (c *crew) run(spec client.Spec) client.Task {
	c.t.Helper()
	return c.end(c.dispatch(spec).ID)[0]
}

// typed hands in a task by the command line.
func (c *crew) typed(args ...string) typed {
	c.t.Helper()
	return c.cli(append([]string{"dispatch", "--need", c.component + "=1"}, args...)...)
}

// correlated finds the only task of a correlation id.
func (c *crew) correlated(id string) client.Task {
	c.t.Helper()
	var found []taskJSON
	c.cliJSON(0, &found, "task", "list", "--correlation-id", id)
	if len(found) != 1 {
		c.t.Fatalf("there are %d tasks of the correlation id %s", len(found), id)
	}
	return c.get(found[0].ID)
}

// held is a task that stands at a gate.
func (c *crew) held(exclusive ...string) (*gate, client.Task) {
	c.t.Helper()
	g := c.gate()
	held := c.dispatch(g.task(exclusive, nil))
	return g.reached(), held
}

// running waits until a task runs in an attempt.
func (c *crew) running(id string, attempt int) client.Task {
	c.t.Helper()
	var now client.Task
	eventually(c.t, fmt.Sprintf("attempt %d of the task runs", attempt), func() error {
		if now = c.get(id); now.State != task.Running || now.Attempt != attempt {
			return fmt.Errorf("it is %s in attempt %d: %v", now.State, now.Attempt, now.Error)
		}
		return nil
	})
	return now
}

// is checks how tasks ended, or where they stand.
func (c *crew) is(want task.State, tasks ...client.Task) {
	c.t.Helper()
	for _, one := range tasks {
		if one.State != want {
			c.t.Errorf("%s is %s, %v; want %s", one.Name, one.State, one.Error, want)
		}
	}
}

// failed checks that a task failed for a reason.
func (c *crew) failed(one client.Task, code, words string) {
	c.t.Helper()
	if one.State != task.Failed || one.Error == nil || one.Error.Code != code || one.Error.String() != words {
		c.t.Errorf("%s is %s with %+v; want failed, %s: %s", one.Name, one.State, one.Error, code, words)
	}
}

// after checks that a task started after another one had ended.
func (c *crew) after(first, second client.Task) {
	c.t.Helper()
	if first.FinishedAt == nil || second.StartedAt == nil || second.StartedAt.Before(*first.FinishedAt) {
		c.t.Errorf("%s started at %v, want after the end of %s at %v", second.Name, second.StartedAt, first.Name, first.FinishedAt)
	}
}

// gone checks that there is nothing at some paths, now.
func (c *crew) gone(paths ...string) {
	c.t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			c.t.Errorf("%s is still there (%v)", path, err)
		}
	}
}

// directory is where a task of the n-th executor works.
func (c *crew) directory(n int, id string) string { return filepath.Join(c.work, c.name(n), id) }

// children lists the living processes that a process has started.
func children(pid int) (found []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone
		}
		// pid (name) state parent ...
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(pid) && fields[0] != "Z" && !isGuard(child) {
			found = append(found, child)
		}
	}
	return found
}

// isGuard tells an executor's guard from its children.
func isGuard(pid int) bool {
	name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.HasPrefix(string(name), "sluice guard")
}

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// cancelsDescendants has a command start processes that all ignore SIGTERM: one in its group, one that left it, and one that left
// it and whose parent is gone.
func cancelsDescendants(c *crew) {
	executor := c.executor(map[string]string{"cancel-grace": "500ms"})
	pids, never := c.file("pids"), c.gate().path
	// What ignores a signal passes that on to what it starts, and to what it becomes.
	deaf := fmt.Sprintf(`trap "" TERM; echo $$ >> %s; exec cat <> %s`, pids, never)
	spec := shell(`sh -c '%s' & setsid sh -c '%[1]s' & (setsid sh -c '%[1]s' &); %[1]s`, deaf)
	one := c.dispatch(spec)
	var processes []int
	eventually(c.t, "all processes run", func() error {
		text, err := os.ReadFile(pids)
		processes = nil
		for line := range strings.Lines(string(text)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && alive(pid) {
				processes = append(processes, pid)
			}
		}
		if len(processes) != 4 {
			return fmt.Errorf("%d of 4: %v", len(processes), err)
		}
		return nil
	})
	next := c.dispatch(client.Spec{Name: "test.noop"})
	c.is(task.Completed, c.end(next.ID)...)

	if _, err := c.Cancel(c.soon(), one.ID); err != nil {
		c.t.Fatal(err)
	}
	ended := c.end(one.ID)[0]
	c.is(task.Canceled, ended)
	for _, pid := range processes {
		if alive(pid) {
			c.t.Errorf("process %d of the task is alive after the task has ended", pid)
		}
	}
	c.gone(c.directory(1, one.ID))
	c.stops(executor, syscall.SIGTERM)
}

func cancelsWhileDraining(c *crew) {
	executor := c.executor(map[string]string{"cancel-grace": "300ms"})
	_, polite := c.held()
	gooey := c.dispatch(client.Spec{Name: "test.gooey", Args: []int{3600}})
	c.running(gooey.ID, 1)
	executor.signal(syscall.SIGTERM)
	c.stopping(executor)
	for _, one := range []client.Task{polite, gooey} {
		if got, err := c.Cancel(c.soon(), one.ID); err != nil || got.State != task.Canceling {
			c.t.Errorf("the cancel of %s returns %s, %v; want canceling", one.Name, got.State, err)
		}
	}
	c.is(task.Canceled, c.end(polite.ID, gooey.ID)...)
	if code := executor.wait(c.t); code != 0 {
		c.t.Errorf("the executor ended with code %d", code)
	}
}

// deletesIncomplete has a task make two things, of which it completes one, and end in every way that is not well.
func deletesIncomplete(c *crew) {
	executor := c.executor(nil)
	for _, story := range []struct {
		says   string
		kwargs map[string]any
		end    func(client.Task)
		state  task.State
	}{
		{"canceled", map[string]any{"seconds": 3600}, func(one client.Task) {
			if _, err := c.Cancel(c.soon(), one.ID); err != nil {
				c.t.Fatal(err)
			}
		}, task.Canceled},
		{"failed", map[string]any{"message": "no paper"}, nil, task.Failed},
		{"killed", map[string]any{"seconds": 3600}, func(one client.Task) {
			workers := left(c.directory(1, one.ID))
			if len(workers) != 1 {
				c.t.Fatalf("in the directory of the task are %q, want its process", workers)
			}
			text, _, _ := strings.Cut(workers[0], " ")
			pid, err := strconv.Atoi(text)
			if err == nil {
				err = syscall.Kill(pid, syscall.SIGKILL)
			}
			if err != nil {
				c.t.Fatal(err)
			}
		}, task.Failed},
		{"completed", nil, nil, task.Completed},
	} {
		complete, incomplete := c.file("complete"), c.file("incomplete")
		kwargs := map[string]any{"resources": []string{complete}, "incomplete": []string{incomplete}}
		for name, value := range story.kwargs {
			kwargs[name] = value
		}
		one := c.dispatch(client.Spec{Name: "test.create", Kwargs: kwargs})
		if story.end != nil {
			eventually(c.t, "it has made both, and says so", func() error {
				want := []client.Created{{Resource: incomplete, Incomplete: true}, {Resource: complete}}
				if now := c.get(one.ID); !slices.Equal(now.Created, want) {
					return fmt.Errorf("it is %s and made %+v", now.State, now.Created)
				}
				return nil
			})
			story.end(one)
		}
		c.is(story.state, c.end(one.ID)...)
		if text, err := os.ReadFile(complete); err != nil || string(text) != one.ID {
			c.t.Errorf("%s: what was completed holds %q, %v", story.says, text, err)
		}
		want := []client.Created{{Resource: complete}}
		if story.state == task.Completed {
			want = slices.Insert(want, 0, client.Created{Resource: incomplete, Incomplete: true}) // its handler knows why
		} else {
			c.gone(incomplete)
		}
		if now := c.get(one.ID); !slices.Equal(now.Created, want) {
			c.t.Errorf("%s: it shows %+v, want %+v", story.says, now.Created, want)
		}
	}
	if executor.ended() {
		c.t.Error(errors.New("the executor is gone"))
	}
}

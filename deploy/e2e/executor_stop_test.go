package e2e

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/client"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// drainsOn has one task run when the signal comes, one that waits for that, and one that could run at once.
func drainsOn(signal syscall.Signal) func(*crew) {
	return func(c *crew) {
		executor := c.executor(nil)
		resource := fresh("r")
		g, running := c.held(resource)
		executor.signal(signal)
		c.stopping(executor)
		behind := c.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
		beside := c.dispatch(client.Spec{Name: "test.noop"})
		g.open()
		if code := executor.wait(c.t); code != 0 {
			c.t.Errorf("the executor ended with code %d", code)
		}
		// It has reported the end before it went, and all that it would have taken.
		now := c.get(running.ID)
		c.is(task.Completed, now)
		c.is(task.Waiting, c.get(behind.ID), c.get(beside.ID))

		c.executor(nil)
		for _, one := range c.end(behind.ID, beside.ID) {
			c.is(task.Completed, one)
			c.after(now, one)
			if one.Executor != c.name(2) {
				c.t.Errorf("%s ran on %s, want %s", one.Name, one.Executor, c.name(2))
			}
		}
	}
}

// aborts has one task run when the signals come, and one that waits for it and must not be lost.
func aborts(grace string, signals ...syscall.Signal) func(*crew) {
	return func(c *crew) {
		executor := c.executor(map[string]string{"task-grace-interval": grace, "cancel-grace": "1h"})
		resource := fresh("r")
		_, running := c.held(resource)
		behind := c.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
		for _, signal := range signals {
			executor.signal(signal)
			c.stopping(executor)
		}
		if code := executor.wait(c.t); code != 0 {
			c.t.Errorf("the executor ended with code %d", code)
		}
		now := c.get(running.ID)
		c.failed(now, task.CodeShutdown, task.ReasonShutdown)
		if left := left(c.work); len(left) > 0 {
			c.t.Errorf("of the executor there is still %q", left)
		}
		c.gone(c.directory(1, running.ID))

		c.executor(nil)
		next := c.end(behind.ID)[0]
		c.is(task.Completed, next)
		c.after(now, next)
	}
}

// bursts hands in more than there are slots before there is an executor: tasks that wait for each other, one that rests after
// its first attempt, and one that waits for what nobody runs.
func bursts(c *crew) {
	stuck := fresh("r")
	other := c.executor(map[string]string{"slots": "1"})
	g, held := c.held(stuck)
	waiting := c.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{stuck}})

	var ids []string
	for range 3 {
		resource := fresh("r")
		for range 4 {
			ids = append(ids, c.dispatch(client.Spec{Name: "test.echo", Exclusive: []string{resource}}).ID)
		}
	}
	ids = append(ids,
		c.dispatch(client.Spec{Name: "test.flaky", Args: []int{1}, Retry: &client.Retry{MaxAttempts: 2, Backoff: 300 * time.Millisecond}}).ID,
		c.dispatch(client.Spec{Name: "test.fail"}).ID)

	burst := c.launch(map[string]string{"slots": "2", "burst": "true"})
	burst.expected.Store(true)
	if code := burst.wait(c.t); code != 0 {
		c.t.Errorf("the executor ended with code %d\n%s", code, burst.stderr())
	}
	for i, id := range ids {
		one := c.get(id)
		if one.Executor != c.name(2) {
			c.t.Errorf("%s ran on %q, want %s", one.Name, one.Executor, c.name(2))
		}
		if i == len(ids)-1 {
			c.failed(one, task.CodeError, "failed on request")
		} else {
			c.is(task.Completed, one)
		}
	}
	c.is(task.Running, c.get(held.ID))
	c.is(task.Waiting, c.get(waiting.ID))

	// With nothing to do it does nothing.
	burst = c.launch(nil, "--burst")
	burst.expected.Store(true)
	if code := burst.wait(c.t); code != 0 {
		c.t.Errorf("an executor with nothing to do ended with code %d", code)
	}
	g.open()
	c.is(task.Completed, c.end(held.ID, waiting.ID)...)
	c.stops(other, syscall.SIGTERM)
}

// asks is a client of an executor's own address.
func (c *crew) asks(addr string) executorv1.ExecutorServiceClient {
	c.t.Helper()
	var conn *grpc.ClientConn
	conn, err := rpc.Dial(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return executorv1.NewExecutorServiceClient(conn)
}

func drained(c *crew) {
	addr := freeAddrs(c.t, 1)[0]
	first := c.executor(map[string]string{"grpc-addr": addr})
	g, running := c.held()
	asks := c.asks(addr)
	all, err := asks.ListRunning(c.soon(), &executorv1.ListRunningRequest{})
	if err != nil || len(all.GetRuns()) != 1 || all.GetRuns()[0].GetTaskId() != running.ID || !slices.Contains(children(first.cmd.Process.Pid), int(all.GetRuns()[0].GetPid())) {
		c.t.Errorf("it runs %v, %v; want %s in a child of %d", all.GetRuns(), err, running.ID, first.cmd.Process.Pid)
	}
	for range 2 {
		if got, err := asks.Drain(c.soon(), &executorv1.DrainRequest{}); err != nil || got.GetRunning() != 1 {
			c.t.Errorf("Drain returns %d running, %v; want 1", got.GetRunning(), err)
		}
	}
	beside := c.dispatch(client.Spec{Name: "test.noop"})
	eventually(c.t, "nobody is there for the next task", func() error {
		if why, err := c.Explain(c.soon(), beside.ID); err != nil || why.ExecutorsWithVersions != 0 {
			return fmt.Errorf("explained by %+v, %v", why, err)
		}
		return nil
	})
	// It has fewer free slots, but is the one that takes tasks.
	c.executor(map[string]string{"slots": "1"})
	if one := c.end(beside.ID)[0]; one.State != task.Completed || one.Executor != c.name(2) {
		c.t.Errorf("the next task is %s on %q, want completed on %s", one.State, one.Executor, c.name(2))
	}
	g.open()
	c.is(task.Completed, c.end(running.ID)...)
	if first.ended() {
		c.t.Error(errors.New("the drained executor has ended"))
	}
	if got, err := asks.Drain(c.soon(), &executorv1.DrainRequest{}); err != nil || got.GetRunning() != 0 {
		c.t.Errorf("in the end Drain returns %d running, %v", got.GetRunning(), err)
	}
}

// noPrefetch has a task wait for a slot. Had it been given away in advance, it would have to wait on.
func noPrefetch(c *crew) {
	c.executor(map[string]string{"slots": "1"})
	g, running := c.held()
	waiting := c.dispatch(client.Spec{Name: "test.echo"})
	instantly := c.dispatch(client.Spec{Name: "test.echo", Immediate: true, NoDefer: true})
	if instantly.State != task.Completed {
		c.t.Errorf("an immediate task, which has slots of its own, is %s", instantly.State)
	}
	none := c.dispatch(client.Spec{Name: "test.noop"})
	c.is(task.Waiting, c.get(waiting.ID), none)
	c.executor(map[string]string{"slots": "1"})
	for _, one := range c.end(waiting.ID, none.ID) {
		if one.State != task.Completed || one.Executor != c.name(2) {
			c.t.Errorf("%s is %s on %q, want completed on %s", one.Name, one.State, one.Executor, c.name(2))
		}
	}
	c.is(task.Running, c.get(running.ID))
	g.open()
	c.is(task.Completed, c.end(running.ID)...)

	c.executor(map[string]string{"slots": "0", "immediate-slots": "1"})
	c.stops(c.processes[c.name(1)], syscall.SIGTERM)
	c.stops(c.processes[c.name(2)], syscall.SIGTERM)
	if one := c.dispatch(client.Spec{Name: "test.echo", Immediate: true}); one.State != task.Completed {
		c.t.Errorf("with immediate slots alone, an immediate task is %s", one.State)
	}
	later := c.dispatch(client.Spec{Name: "test.noop"})
	if why, err := c.Explain(c.soon(), later.ID); err != nil || why.FreeSlots != 0 {
		c.t.Errorf("explained by %+v, %v; want no free slots", why, err)
	}
	if _, err := c.Cancel(c.soon(), later.ID); err != nil {
		c.t.Error(err)
	}
}

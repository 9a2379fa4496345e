package e2e

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// TestEachTimeIsDispatchedOnceThoughItsLeaderIsKilledOrAsleep has a schedule due every tenth of a second, once each, and one that is due
// every second, while one leader is killed and the next one sleeps until another has taken over.
func TestEachTimeIsDispatchedOnceThoughItsLeaderIsKilledOrAsleep(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2*time.Second)
	const once = 60
	begin := time.Now().Add(time.Second).Truncate(time.Microsecond)
	plan := func(name string, next time.Time, every time.Duration) client.Schedule {
		made, err := f.CreateSchedule(t.Context(), client.Schedule{
			Name: name, Next: &next, Interval: every, Task: client.Spec{Name: "test.noop", CorrelationID: name},
		})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	again := plan("again", begin, time.Second)
	for n := range once {
		plan(fmt.Sprint("once ", n), begin.Add(time.Duration(n)*100*time.Millisecond), 0)
	}

	leader := f.latest()
	f.processes[leader.by].kill()
	leader = f.next(leader)
	asleep := f.processes[leader.by]
	asleep.signal(syscall.SIGSTOP)
	awake := func() { _ = asleep.cmd.Process.Signal(syscall.SIGCONT) }
	t.Cleanup(awake)
	f.next(leader)
	awake()

	eventually(t, "all are dispatched", func() error {
		all, err := f.Schedules(t.Context())
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(all, func(s client.Schedule) bool { return s.Next == nil || s.Interval > 0 })
		if len(left) > 0 {
			return fmt.Errorf("%d are left, the next at %s", len(left), left[0].Next)
		}
		return nil
	})
	for n := range once {
		name := fmt.Sprint("once ", n)
		tasks := f.dispatchedFor(t, name)
		if len(tasks) != 1 {
			t.Errorf("%s: %d tasks", name, len(tasks))
			continue
		}
		if early := begin.Add(time.Duration(n) * 100 * time.Millisecond).Sub(tasks[0].CreatedAt); early > 0 {
			t.Errorf("%s: dispatched %s before its time", name, early)
		}
		if ended := f.end(tasks[0].ID)[0]; ended.State != task.Completed {
			t.Errorf("%s: %s, %v", name, ended.State, ended.Error)
		}
	}
	// Two tasks of the same second would be two for one time.
	if err := f.DeleteSchedule(t.Context(), again.ID); err != nil {
		t.Fatal(err)
	}
	seconds := map[time.Duration]string{}
	for _, one := range f.dispatchedFor(t, "again") {
		second := one.CreatedAt.Sub(begin) / time.Second
		if other := seconds[second]; other != "" {
			t.Errorf("second %d has the tasks %s and %s", second, one.ID, other)
		}
		seconds[second] = one.ID
	}
	t.Logf("of the one that is due each second %d times were dispatched", len(seconds))
	if len(seconds) < 2 {
		t.Error("it was not dispatched again")
	}
}

// dispatchedFor lists the tasks with a correlation id.
func (s *system) dispatchedFor(t *testing.T, correlation string) (tasks []client.Task) {
	t.Helper()
	for one, err := range s.List(t.Context(), client.Filter{CorrelationID: correlation}) {
		if err != nil {
			t.Fatal(err)
		}
		tasks = append(tasks, one)
	}
	return tasks
}

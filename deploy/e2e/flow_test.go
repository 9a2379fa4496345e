package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// flow hands in tasks on a few resources, one after the other on each, while something happens to the system. Every task
// writes down when it starts and ends.
type flow struct {
	s         *system
	history   *history
	resources []string
	stop      func()

	mu           sync.Mutex
	acknowledged map[string][]string // ids by resource, in the order of their dispatch
}

// flow begins one. It ends with halt, or with the test.
func (s *system) flow() *flow {
	s.t.Helper()
	f := &flow{s: s, history: s.history(), acknowledged: map[string][]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	var lanes sync.WaitGroup
	f.stop = func() {
		cancel()
		lanes.Wait()
	}
	s.t.Cleanup(f.stop)
	for range 3 {
		resource := fresh("flow")
		f.resources = append(f.resources, resource)
		lanes.Go(func() { f.lane(ctx, resource) })
	}
	return f
}

// lane hands in tasks as fast as they can be run, more or less. What is refused is not handed in again.
func (f *flow) lane(ctx context.Context, resource string) {
	pace := time.NewTicker(2 * look)
	defer pace.Stop()
	for {
		made, err := f.s.Dispatch(ctx, f.history.task(resource, false))
		if err == nil {
			f.mu.Lock()
			f.acknowledged[resource] = append(f.acknowledged[resource], made.ID)
			f.mu.Unlock()
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
	}
}

// count is how many tasks were acknowledged, and how many lines they wrote.
func (f *flow) count() (acknowledged, lines int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ids := range f.acknowledged {
		acknowledged += len(ids)
	}
	return acknowledged, len(f.history.read())
}

// goesOn waits until more tasks were acknowledged and more of them ran.
func (f *flow) goesOn() {
	f.s.t.Helper()
	acknowledged, lines := f.count()
	eventually(f.s.t, "tasks flow", func() error {
		a, l := f.count()
		if a < acknowledged+10 || l < lines+10 {
			return fmt.Errorf("%d tasks were acknowledged and %d lines written", a-acknowledged, l-lines)
		}
		return nil
	})
}

// settle ends the flow and checks on a system, which may be another life of the one that it began on, that nothing which
// was acknowledged is lost and that order was kept. Tasks may have failed for the loss of their executor only if mayLose.
func (f *flow) settle(s *system, mayLose bool) {
	s.t.Helper()
	f.stop()
	var all []client.Task
	for _, resource := range f.resources {
		var ids []string
		for one, err := range s.List(s.soon(), client.Filter{Resources: []string{resource}}) {
			if err != nil {
				s.t.Fatal(err)
			}
			ids = append(ids, one.ID)
		}
		all = append(all, s.end(ids...)...)
	}
	slices.SortFunc(all, func(a, b client.Task) int { return int(a.Seq - b.Seq) })
	var order []string
	lost := map[string]bool{}
	for _, one := range all {
		order = append(order, one.ID)
		if one.State == task.Completed {
			continue
		}
		lost[one.ID] = true
		if !mayLose || one.State != task.Failed || one.Error == nil || one.Error.Reason != task.ReasonWorkerMissing {
			s.t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		}
	}
	acknowledged := 0
	for resource, ids := range f.acknowledged {
		last := -1
		for _, id := range ids {
			place := slices.Index(order, id)
			switch {
			case place < 0:
				s.t.Errorf("task %s on %s was acknowledged and is gone", id, resource)
			case place < last:
				s.t.Errorf("task %s on %s has its place before one that was dispatched before it", id, resource)
			}
			last = max(last, place)
		}
		acknowledged += len(ids)
	}
	f.history.check(order, lost)
	s.t.Logf("%d tasks acknowledged, %d stored, %d failed with their executor", acknowledged, len(all), len(lost))
}

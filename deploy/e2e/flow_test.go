package e2e

import (
	"context"
	"fmt"
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

// lane hands in tasks as fast as they can be run, more or less. What is refused is not handed in again. When the flow ends,
// the last call is not cut off: it would be stored, and nobody would know when.
func (f *flow) lane(ctx context.Context, resource string) {
	pace := time.NewTicker(2 * look)
	defer pace.Stop()
	for {
		made, err := f.s.Dispatch(f.s.soon(), f.history.task(resource, false))
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
	seqs := map[string]int64{}
	lost := map[string]bool{}
	for _, one := range all {
		seqs[one.ID] = one.Seq
		if one.State == task.Completed {
			continue
		}
		lost[one.ID] = true
		if !mayLose || one.State != task.Failed || one.Error == nil || one.Error.Reason != task.ReasonWorkerMissing {
			s.t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		}
	}
	// Only what was acknowledged has a place that anybody can rely on.
	var order []string
	for resource, ids := range f.acknowledged {
		order = append(order, ids...)
		for i, id := range ids {
			switch {
			case seqs[id] == 0:
				s.t.Errorf("task %s on %s was acknowledged and is gone", id, resource)
			case i > 0 && seqs[id] < seqs[ids[i-1]]:
				s.t.Errorf("task %s on %s has its place before %s, which was dispatched before it", id, resource, ids[i-1])
			}
		}
	}
	f.history.check(order, lost)
	s.t.Logf("%d tasks acknowledged, %d stored, %d failed with their executor", len(order), len(all), len(lost))
}

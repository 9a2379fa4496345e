package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// mixed hands in tasks that come to all kinds of ends, most of them in several attempts, some of them canceled at some moment,
// while one of two executors is killed. Whatever becomes of each: those that conflict run one after the other, from the first
// attempt to the end, in the order in which they were handed in.
func mixed(c *crew) {
	const lanes, each = 4, 25
	short := map[string]string{"worker-ttl": "2s", "cancel-grace": "300ms"}
	first := c.executor(short)
	c.executor(short)

	resources, ids := make([]string, lanes), make([][]string, lanes)
	var handing sync.WaitGroup
	for lane := range lanes {
		resources[lane] = fresh("r")
		handing.Go(func() {
			for range each {
				made, err := c.Dispatch(c.soon(), c.spec(c.anything(resources[lane])))
				if err != nil {
					c.t.Errorf("dispatch: %v", err)
					return
				}
				ids[lane] = append(ids[lane], made.ID)
				if rand.N(5) == 0 {
					_, _ = c.Cancel(c.soon(), ids[lane][rand.N(len(ids[lane]))]) // it may be over
				}
			}
		})
	}
	handing.Wait()
	first.kill()
	for lane := range lanes {
		ended := c.end(ids[lane]...)
		for i := range ended {
			ended[i] = c.get(ended[i].ID)
			c.sound(ended[i])
		}
		slices.SortFunc(ended, func(a, b client.Task) int { return int(a.Seq - b.Seq) })
		var before client.Task // the last one that began
		for _, one := range ended {
			began := one.StartedAt
			if len(one.Attempts) > 0 {
				began = &one.Attempts[0].StartedAt
			}
			if began == nil {
				continue
			}
			if before.ID != "" && began.Before(*before.FinishedAt) {
				c.t.Errorf("task %d (%s) began at %v, task %d (%s), which was handed in before it, ended at %v",
					one.Seq, one.Name, began, before.Seq, before.Name, before.FinishedAt)
			}
			before = one
		}
	}
}

// anything is one of many kinds of tasks.
func (c *crew) anything(resource string) client.Spec {
	retry := &client.Retry{MaxAttempts: 1 + rand.N(3), Backoff: 20 * time.Millisecond}
	kinds := []client.Spec{
		{Name: "test.noop"},
		{Name: "test.sleep", Args: []float64{0.01}},
		{Name: "test.flaky", Args: []int{rand.N(4)}},
		{Name: "test.sleep", Args: []int{3600}, Timeout: 50 * time.Millisecond},
		{Name: "test.exit", Args: []int{1}},
		{Name: "test.create", Kwargs: map[string]any{"incomplete": []string{c.file("made")}, "message": "no paper"}},
		{Name: "test.fail"},
	}
	spec := kinds[rand.N(len(kinds))]
	spec.Exclusive, spec.Retry = []string{resource}, retry
	return spec
}

// sound checks that what is known of a task fits together.
func (c *crew) sound(one client.Task) {
	c.t.Helper()
	wrong := func(format string, args ...any) {
		c.t.Helper()
		c.t.Errorf("task %d (%s, %s in attempt %d of %d): %s", one.Seq, one.Name, one.State, one.Attempt, one.MaxAttempts(), fmt.Sprintf(format, args...))
	}
	// One that was canceled between two attempts has only failed ones.
	failed := one.Attempt - 1
	if one.StartedAt == nil {
		failed = one.Attempt
	}
	if one.Attempt > one.MaxAttempts() || len(one.Attempts) != failed {
		wrong("%d of its attempts have failed", len(one.Attempts))
	}
	claim, ended := int64(0), one.CreatedAt
	for i, a := range one.Attempts {
		if a.Number != i+1 || a.Claim <= claim || a.StartedAt.Before(ended) || a.EndedAt.Before(a.StartedAt) || a.Error == nil || a.Error.Code == "" {
			wrong("attempt %d is %+v, %+v", i+1, a, a.Error)
		}
		claim, ended = a.Claim, a.EndedAt
	}
	switch {
	case one.FinishedAt == nil || one.FinishedAt.Before(ended):
		wrong("it ended at %v, its last failed attempt at %v", one.FinishedAt, ended)
	case one.StartedAt != nil && (one.StartedAt.Before(ended) || one.FinishedAt.Before(*one.StartedAt) || one.Claim <= claim):
		wrong("its last run began at %v with claim %d, after %v with claim %d", one.StartedAt, one.Claim, ended, claim)
	case one.State == task.Failed && (one.Error == nil || one.Error.Code == ""):
		wrong("it failed with %+v", one.Error)
	case one.State == task.Failed && one.Attempt < one.MaxAttempts():
		wrong("it was not tried as often as it could be: %+v", one.Error)
	}
}

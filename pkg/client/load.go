package client

import (
	"context"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

// Load is how much there is to do.
type Load struct {
	// Blocked lack a resource, Ready wait for a slot, Given were given to an executor, Resting wait for the pause between two attempts to
	// end. Each unfinished task that the leader knows is one of these.
	Blocked, Ready, Given, Resting int64
	// Runnable could run now beside each other, if there were slots for all.
	Runnable int64
	// Slots are those of connected executors, FreeSlots those of them that are free.
	Slots, FreeSlots, Executors int64
	// LongestBlocked is how long the task has waited that has waited longest for resources, LongestReady for a slot; 0 if none waits.
	LongestBlocked, LongestReady time.Duration
}

// Load asks the leader how much there is to do. It has that in memory, so it may be asked often.
func (c *Client) Load(ctx context.Context) (Load, error) {
	answer, err := c.scheduler.GetLoad(ctx, &schedulerv1.GetLoadRequest{})
	if err != nil {
		return Load{}, err
	}
	return *fromLoad(answer), nil
}

// fromLoad is nil for nil: nobody answered.
func fromLoad(l *schedulerv1.GetLoadResponse) *Load {
	if l == nil {
		return nil
	}
	return &Load{
		Blocked: l.GetBlocked(), Ready: l.GetReady(), Given: l.GetGiven(), Resting: l.GetResting(), Runnable: l.GetRunnable(),
		Slots: l.GetSlots(), FreeSlots: l.GetFreeSlots(), Executors: l.GetExecutors(),
		LongestBlocked: l.GetLongestBlocked().AsDuration(), LongestReady: l.GetLongestReady().AsDuration(),
	}
}

package client

import (
	"context"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Explanation says what stands between a task and its start.
type Explanation struct {
	// Live: the task is not final.
	Live bool
	// Summary is one sentence that says it all.
	Summary string
	// Waits are the resources that it still lacks; empty once it is unblocked.
	Waits []ResourceWait
	// Unblocked: it has all its resources.
	Unblocked bool
	// ExecutorsWithName counts the connected executors that know the task's name, ExecutorsWithVersions those of them whose
	// component versions suffice, FreeSlots the free slots on those.
	ExecutorsWithName, ExecutorsWithVersions, FreeSlots int
	// RetryAt is when its next attempt begins at the earliest; nil unless it waits for that.
	RetryAt *time.Time
}

// ResourceWait is one resource that a task lacks.
type ResourceWait struct {
	Resource string
	// Exclusive: the task wants it for itself.
	Exclusive bool
	// Holders are the oldest ten of HolderCount.
	Holders     []ResourceUse
	HolderCount int64
	// Ahead is how many tasks must go first, those that hold the resource among them.
	Ahead int64
}

// ResourceUse is one task that holds a resource (Granted) or waits for it.
type ResourceUse struct {
	TaskID, Name       string
	Exclusive, Granted bool
	CreatedAt          time.Time
}

// Resource is one resource that somebody holds or waits for.
type Resource struct {
	Name string
	// Exclusive: held by one task for itself.
	Exclusive        bool
	Holders, Waiting int64
}

// Explain says why a task waits.
func (c *Client) Explain(ctx context.Context, id string) (Explanation, error) {
	answer, err := c.scheduler.Explain(ctx, &schedulerv1.ExplainRequest{TaskId: id})
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{
		Live:                  answer.GetLive(),
		Summary:               answer.GetSummary(),
		Unblocked:             answer.GetUnblocked(),
		ExecutorsWithName:     int(answer.GetExecutorsWithName()),
		ExecutorsWithVersions: int(answer.GetExecutorsWithVersions()),
		FreeSlots:             int(answer.GetFreeSlots()),
		RetryAt:               wire.FromTime(answer.GetRetryAt()),
	}
	for _, w := range answer.GetWaits() {
		e.Waits = append(e.Waits, ResourceWait{
			Resource:    w.GetResource(),
			Exclusive:   w.GetExclusive(),
			Holders:     fromUses(w.GetHolders()),
			HolderCount: w.GetHolderCount(),
			Ahead:       w.GetAhead(),
		})
	}
	return e, nil
}

// Resources returns up to limit resources (0 means 100, at most 1,000), those with the longest queues first, and how many
// there are in all.
func (c *Client) Resources(ctx context.Context, limit int32) ([]Resource, int64, error) {
	answer, err := c.scheduler.ListResources(ctx, &schedulerv1.ListResourcesRequest{PageSize: limit})
	if err != nil {
		return nil, 0, err
	}
	made := make([]Resource, len(answer.GetResources()))
	for i, r := range answer.GetResources() {
		made[i] = fromResource(r)
	}
	return made, answer.GetTotal(), nil
}

// Resource returns one resource with up to limit tasks (0 means 100, at most 1,000) of its queue: its holders first, then
// those that wait, in order. One that nobody names is an error with reason errs.ResourceUnknown.
func (c *Client) Resource(ctx context.Context, name string, limit int32) (Resource, []ResourceUse, error) {
	answer, err := c.scheduler.GetResource(ctx, &schedulerv1.GetResourceRequest{Name: name, PageSize: limit})
	if err != nil {
		return Resource{}, nil, err
	}
	return fromResource(answer.GetResource()), fromUses(answer.GetQueue()), nil
}

func fromResource(r *schedulerv1.Resource) Resource {
	return Resource{Name: r.GetName(), Exclusive: r.GetExclusive(), Holders: r.GetHolders(), Waiting: r.GetWaiting()}
}

func fromUses(uses []*schedulerv1.ResourceUse) []ResourceUse {
	made := make([]ResourceUse, len(uses))
	for i, u := range uses {
		made[i] = ResourceUse{
			TaskID: u.GetTaskId(), Name: u.GetName(), Exclusive: u.GetExclusive(), Granted: u.GetGranted(), CreatedAt: u.GetCreatedAt().AsTime(),
		}
	}
	return made
}

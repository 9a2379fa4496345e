package client

import (
	"context"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Explanation says what stands between a task and its start, where it runs, or how it ended.
type Explanation struct {
	// Live: the scheduler knows it, so it is not final.
	Live bool
	// Summary says the most important of it in a sentence or two.
	Summary string
	State   task.State
	Name    string
	// CreatedAt is when it was dispatched, UnblockedAt when it had all its resources, StartedAt when an executor was given it, FinishedAt
	// when it became final; nil for what has not happened.
	CreatedAt                          time.Time
	UnblockedAt, StartedAt, FinishedAt *time.Time
	// Attempt is which one it is at, 0 before the first.
	Attempt int

	// Waits are the resources that it still lacks; empty once it is unblocked.
	Waits []ResourceWait
	// Chain is who waits for whom: the first holds up the task, the second the first, down to one that lacks no resource. Where several
	// do, it is the one that has for longest. At most 20.
	Chain []BlockerLink
	// Unblocked: it has all its resources.
	Unblocked bool

	// ExecutorsWithName counts the connected executors that know the task's name, ExecutorsWithVersions those of them whose
	// component versions suffice, FreeSlots the free slots on those.
	ExecutorsWithName, ExecutorsWithVersions, FreeSlots int
	// Nearest are executors that know the name and lack a version, at most 5, those that lack least first; empty if one has all.
	Nearest []NearExecutor
	// ReadyAhead is how many tasks get a free slot before it does.
	ReadyAhead int64
	// Estimate is in about how long a slot is free for it; nil if there is nothing to go by, or one is free.
	Estimate *time.Duration
	// RetryAt is when its next attempt begins at the earliest; nil unless it waits for that.
	RetryAt *time.Time

	// Executor runs the task, or ran it last; empty if none does. LastBeatAt is when that one was last heard of; nil unless it runs.
	Executor   string
	LastBeatAt *time.Time
	// Progress is how far the run is, ProgressAt when it last said so; nil if it never has.
	Progress   []Progress
	ProgressAt *time.Time
}

// ResourceWait is one resource that a task lacks.
type ResourceWait struct {
	Resource string
	// Exclusive: the task wants it for itself.
	Exclusive bool
	// Holders are the oldest ten of HolderCount.
	Holders     []ResourceUse
	HolderCount int64
	// Ahead is how many tasks must go first, those that hold the resource among them; there may be more if AheadAtLeast.
	Ahead        int64
	AheadAtLeast bool
	// WaitingAhead are the first ten of them that wait, the next one first.
	WaitingAhead []ResourceUse
}

// BlockerLink is a task that is in the way of another, at a resource that the other waits for.
type BlockerLink struct {
	Resource string
	Task     ResourceUse
	// Standing is how that one stands, in a few words: "runs on worker-1".
	Standing string
}

// NearExecutor could run a task if it had other versions of components.
type NearExecutor struct {
	Executor string
	Gaps     []VersionGap
}

// VersionGap is a component of which at least Wanted is needed. Has is empty if it is not there at all.
type VersionGap struct{ Component, Wanted, Has string }

// ResourceUse is one task that holds a resource (Granted) or waits for it.
type ResourceUse struct {
	TaskID, Name       string
	Exclusive, Granted bool
	CreatedAt          time.Time
	// Since is when it was granted the resource; of one that waits, since when.
	Since time.Time
	State task.State
	// Executor runs the task; empty if none does.
	Executor string
}

// Resource is one resource that somebody holds or waits for.
type Resource struct {
	Name string
	// Exclusive: held by one task for itself.
	Exclusive        bool
	Holders, Waiting int64
	// HeldSince is when the oldest of the holders was granted it, WaitingSince since when the first in the queue waits; nil if nobody.
	HeldSince, WaitingSince *time.Time
}

// Explain says why a task waits, where it runs, or how it ended. A task that is not there is an error with reason errs.TaskNotFound.
func (c *Client) Explain(ctx context.Context, id string) (Explanation, error) {
	answer, err := c.scheduler.Explain(ctx, &schedulerv1.ExplainRequest{TaskId: id})
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{
		Live: answer.GetLive(), Summary: answer.GetSummary(), State: wire.FromState(answer.GetState()), Name: answer.GetName(),
		CreatedAt: answer.GetCreatedAt().AsTime(), UnblockedAt: wire.FromTime(answer.GetUnblockedAt()),
		StartedAt: wire.FromTime(answer.GetStartedAt()), FinishedAt: wire.FromTime(answer.GetFinishedAt()), Attempt: int(answer.GetAttempt()),
		Unblocked:             answer.GetUnblocked(),
		ExecutorsWithName:     int(answer.GetExecutorsWithName()),
		ExecutorsWithVersions: int(answer.GetExecutorsWithVersions()),
		FreeSlots:             int(answer.GetFreeSlots()),
		ReadyAhead:            answer.GetReadyAhead(),
		RetryAt:               wire.FromTime(answer.GetRetryAt()),
		Executor:              answer.GetExecutor(), LastBeatAt: wire.FromTime(answer.GetLastBeatAt()),
		Progress: fromProgress(answer.GetProgress()), ProgressAt: wire.FromTime(answer.GetProgressAt()),
	}
	for _, w := range answer.GetWaits() {
		e.Waits = append(e.Waits, ResourceWait{
			Resource: w.GetResource(), Exclusive: w.GetExclusive(), Holders: fromUses(w.GetHolders()), HolderCount: w.GetHolderCount(),
			Ahead: w.GetAhead(), AheadAtLeast: w.GetAheadAtLeast(), WaitingAhead: fromUses(w.GetWaitingAhead()),
		})
	}
	for _, link := range answer.GetChain() {
		e.Chain = append(e.Chain, BlockerLink{Resource: link.GetResource(), Task: fromUse(link.GetTask()), Standing: link.GetStanding()})
	}
	for _, near := range answer.GetNearest() {
		n := NearExecutor{Executor: near.GetExecutor()}
		for _, gap := range near.GetGaps() {
			n.Gaps = append(n.Gaps, VersionGap{Component: gap.GetComponent(), Wanted: gap.GetWanted(), Has: gap.GetHas()})
		}
		e.Nearest = append(e.Nearest, n)
	}
	if answer.GetEstimate() != nil {
		left := answer.GetEstimate().AsDuration()
		e.Estimate = &left
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
	return Resource{
		Name: r.GetName(), Exclusive: r.GetExclusive(), Holders: r.GetHolders(), Waiting: r.GetWaiting(),
		HeldSince: wire.FromTime(r.GetHeldSince()), WaitingSince: wire.FromTime(r.GetWaitingSince()),
	}
}

func fromUses(uses []*schedulerv1.ResourceUse) []ResourceUse {
	made := make([]ResourceUse, len(uses))
	for i, u := range uses {
		made[i] = fromUse(u)
	}
	return made
}

func fromUse(u *schedulerv1.ResourceUse) ResourceUse {
	return ResourceUse{
		TaskID: u.GetTaskId(), Name: u.GetName(), Exclusive: u.GetExclusive(), Granted: u.GetGranted(), CreatedAt: u.GetCreatedAt().AsTime(),
		Since: u.GetSince().AsTime(), State: wire.FromState(u.GetState()), Executor: u.GetExecutor(),
	}
}

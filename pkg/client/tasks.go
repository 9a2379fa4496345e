package client

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Dispatch stores a task. When it returns without an error, the task is committed and keeps its place on all its resources;
// an immediate one that nothing blocked has run. When no server answers, the connection breaks or the server has no room for more, it
// is handed in again under the same request id, some times, while ctx lasts (see Attempts): it is stored once, whatever got lost.
// An error for which errs.Is(err, errs.Overloaded) holds means that it is not stored; after one that the server was not
// available it may be, unless it is handed in again with the same Spec.RequestID.
func (c *Client) Dispatch(ctx context.Context, spec Spec) (Task, error) {
	asked, err := spec.wire()
	if err != nil {
		return Task{}, err
	}
	made, err := sendTask(ctx, c.dispatcher, asked, c.attempts, worthAnother)
	if err != nil {
		return Task{}, err
	}
	return fromTask(made), nil
}

// DispatchBatch stores up to 1,000 tasks in one call, all of them or none, in their order, and returns them in the same.
// It promises of each what Dispatch does; only the results of immediate ones are left out. A mistake in a spec is named by its
// place: "tasks[3].name".
func (c *Client) DispatchBatch(ctx context.Context, specs []Spec) ([]Task, error) {
	asked := make([]*taskv1.TaskSpec, len(specs))
	for i, spec := range specs {
		var err error
		if asked[i], err = spec.wire(); err != nil {
			return nil, fmt.Errorf("task %d of the batch: %w", i, err)
		}
	}
	made, err := sendTasks(ctx, c.dispatcher, asked, c.attempts, worthAnother)
	if err != nil {
		return nil, err
	}
	return fromTasks(made), nil
}

// Cancel asks a task to stop. One that never started is canceled when Cancel returns, a running one is canceling.
func (c *Client) Cancel(ctx context.Context, id string) (Task, error) {
	answer, err := c.dispatcher.Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: id})
	if err != nil {
		return Task{}, err
	}
	return fromTask(answer.GetTask()), nil
}

// Delete removes a task that is in a final state.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.dispatcher.Delete(ctx, &dispatcherv1.DeleteRequest{TaskId: id})
	return err
}

// PurgeFilter says which tasks to purge.
type PurgeFilter struct {
	// FinishedBefore: only those that ended before this time. Required.
	FinishedBefore time.Time
	// States: only those in these final states; none means all final ones.
	States []task.State
}

// Purge removes tasks that ended before a time, with their logs and reports, and returns how many by state. It goes through them a
// page at a time, the oldest first; seen, if not nil, is told after each how many are gone so far. An error ends it, and
// what was removed before stays removed. Tasks that are not final stay, and those with child tasks that are not.
// Groups that were made before the time and have no members left are removed, too.
func (c *Client) Purge(ctx context.Context, filter PurgeFilter, seen func(map[task.State]int64)) (map[task.State]int64, error) {
	request := &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.New(filter.FinishedBefore), States: toStates(filter.States)}
	gone := map[task.State]int64{}
	for {
		var page *dispatcherv1.PurgeTasksResponse
		// A page that was removed and not counted is not there the next time: safe to ask for again.
		err := again(ctx, c.attempts, worthAnother, func() (err error) {
			page, err = c.dispatcher.PurgeTasks(ctx, request)
			return err
		})
		if err != nil {
			return gone, err
		}
		for _, n := range page.GetDeleted() {
			gone[wire.FromState(n.GetState())] += n.GetCount()
		}
		if seen != nil {
			seen(maps.Clone(gone))
		}
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			return gone, nil
		}
	}
}

// Get returns a task as it is now.
func (c *Client) Get(ctx context.Context, id string) (Task, error) {
	t, _, err := c.GetWithChildren(ctx, id)
	return t, err
}

// GetWithChildren also returns the ids of the tasks that it dispatched, the oldest first, at most 1,000.
func (c *Client) GetWithChildren(ctx context.Context, id string) (Task, []string, error) {
	answer, err := c.status.GetTask(ctx, &statusv1.GetTaskRequest{TaskId: id})
	if err != nil {
		return Task{}, nil, err
	}
	t := fromTask(answer.GetTask())
	t.Report, t.Attempts = fromReport(answer.GetReport()), fromAttempts(answer.GetAttempts())
	return t, answer.GetChildIds(), nil
}

// Filter selects tasks. All that is set must match; the zero value selects every task.
type Filter struct {
	// States: any of these.
	States []task.State
	// Name, CorrelationID, GroupID and ParentID: exactly this.
	Name, CorrelationID, GroupID, ParentID string
	// Resources: all of these, exclusively or shared.
	Resources []string
	// IDs: any of these, at most 1,000. None means all.
	IDs []string
	// Limit is how many tasks are wanted at most. 0 means all there are.
	Limit int
	// Reports: also what the tasks have told of their work.
	Reports bool
}

// List yields the selected tasks, the newest first, asking for further pages as the loop goes on. An error ends it.
func (c *Client) List(ctx context.Context, filter Filter) iter.Seq2[Task, error] {
	return func(yield func(Task, error) bool) {
		request := &statusv1.ListTasksRequest{
			States:        toStates(filter.States),
			Name:          filter.Name,
			CorrelationId: filter.CorrelationID,
			GroupId:       filter.GroupID,
			ParentId:      filter.ParentID,
			Resources:     filter.Resources,

			IncludeReports: filter.Reports,
		}
		if len(filter.IDs) > 0 {
			request.Filter = &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{
				Field: statusv1.TaskField_TASK_FIELD_ID, Comparison: statusv1.Comparison_COMPARISON_IN, Values: filter.IDs,
			}}}
		}
		for left := filter.Limit; ; {
			request.PageSize = limits.MaxPage
			if filter.Limit > 0 {
				request.PageSize = int32(min(left, limits.MaxPage))
			}
			page, err := c.status.ListTasks(ctx, request)
			if err != nil {
				yield(Task{}, err)
				return
			}
			for _, t := range page.GetTasks() {
				made := fromTask(t)
				made.Report = fromReport(page.GetReports()[t.GetId()])
				if !yield(made, nil) {
					return
				}
			}
			left -= len(page.GetTasks())
			request.PageToken = page.GetNextPageToken()
			if request.GetPageToken() == "" || (filter.Limit > 0 && left <= 0) {
				return
			}
		}
	}
}

func toStates(states []task.State) []taskv1.State {
	made := make([]taskv1.State, len(states))
	for i, s := range states {
		made[i] = wire.State(s)
	}
	return made
}

func fromCounts(counts []*statusv1.StateCount) map[task.State]int64 {
	made := make(map[task.State]int64, len(counts))
	for _, c := range counts {
		made[wire.FromState(c.GetState())] = c.GetCount()
	}
	return made
}

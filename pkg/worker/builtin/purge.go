package builtin

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// PurgeTask is the name of the task that deletes finished tasks.
const PurgeTask = "sluice.purge_tasks"

// The parts of its progress, under the codes that Pulp's clients know.
const (
	purgeTotal  = "purge.tasks.total"
	purgeTasks  = "purge.tasks.key.core.Task"
	purgeGroups = "purge.tasks.key.core.TaskGroup"
)

const (
	// purgeAfter is how long ago tasks ended that are deleted unless the task says otherwise.
	purgeAfter = 30 * 24 * time.Hour
	// purgePage is how many tasks are looked at in one call, which is one short transaction.
	purgePage = 1000
	// purgeTries is how often a page is asked for while the dispatcher can't be reached; the pause before the second try is
	// purgePause, and doubles. What a page that got lost has deleted is not counted.
	purgeTries = 7
	purgePause = 500 * time.Millisecond
)

// Purger deletes finished tasks, a page at a time: a client of the dispatcher.
type Purger interface {
	PurgeTasks(ctx context.Context, request *dispatcherv1.PurgeTasksRequest, options ...grpc.CallOption) (*dispatcherv1.PurgeTasksResponse, error)
}

// RegisterPurge adds sluice.purge_tasks, which runs in the executor's process: children have no way to a dispatcher, and need not know
// it.
func RegisterPurge(mux *worker.Mux, purger Purger) {
	worker.Handle(mux, PurgeTask, purge{purger: purger, pause: purgePause}.run, worker.InProcess())
}

type purge struct {
	purger Purger
	pause  time.Duration
}

type purgeIn struct {
	// FinishedBefore is a time by RFC 3339; if it is missing, 30 days before the run.
	FinishedBefore *string `json:"finished_before"`
	// States are those that are deleted; only completed if there are none.
	States []string `json:"states,omitempty"`
}

type purgeOut struct {
	// Deleted tasks, by state.
	Deleted map[task.State]int64 `json:"deleted"`
	// DeletedGroups had been made before the time, and had no members left.
	DeletedGroups int64 `json:"deleted_groups"`
}

func (p purge) run(ctx context.Context, in purgeIn) (purgeOut, error) {
	request, err := in.request(time.Now())
	if err != nil {
		return purgeOut{}, worker.Permanent(worker.Safe(err))
	}
	out := purgeOut{Deleted: map[task.State]int64{}}
	for _, state := range request.GetStates() {
		out.Deleted[wire.FromState(state)] = 0
	}
	total, err := worker.NewProgress(ctx, worker.Part{Code: purgeTotal, Message: "Purged tasks"})
	if err != nil {
		return out, err
	}
	tasks, err := worker.NewProgress(ctx, worker.Part{Code: purgeTasks, Message: "Purged task objects"})
	if err != nil {
		return out, err
	}
	var groups *worker.Progress // there are none in most installations
	for more := true; more; more = request.GetPageToken() != "" {
		page, err := p.page(ctx, request)
		if err != nil {
			return out, err
		}
		for _, deleted := range page.GetDeleted() {
			out.Deleted[wire.FromState(deleted.GetState())] += deleted.GetCount()
			total.Add(deleted.GetCount())
			tasks.Add(deleted.GetCount())
		}
		if n := page.GetDeletedGroups(); n > 0 {
			if groups == nil {
				if groups, err = worker.NewProgress(ctx, worker.Part{Code: purgeGroups, Message: "Purged empty task groups"}); err != nil {
					return out, err
				}
			}
			out.DeletedGroups += n
			groups.Add(n)
		}
		request.PageToken = page.GetNextPageToken()
	}
	var all int64
	for _, n := range out.Deleted {
		all += n
	}
	for _, p := range []*worker.Progress{total, tasks} {
		p.SetTotal(all)
		p.Done()
	}
	groups.SetTotal(out.DeletedGroups)
	groups.Done()
	return out, nil
}

// request reads the arguments.
func (in purgeIn) request(now time.Time) (*dispatcherv1.PurgeTasksRequest, error) {
	before := timestamppb.New(now.Add(-purgeAfter))
	if in.FinishedBefore != nil {
		at, err := time.Parse(time.RFC3339, *in.FinishedBefore)
		if before = timestamppb.New(at); err != nil || !before.IsValid() {
			return nil, fmt.Errorf("%s() argument %q must be a time such as 2026-01-31T12:00:00Z, is %q", PurgeTask, "finished_before", *in.FinishedBefore)
		}
	}
	request := &dispatcherv1.PurgeTasksRequest{FinishedBefore: before, PageSize: purgePage}
	for _, word := range in.States {
		state := task.State(word)
		if !state.Final() {
			return nil, fmt.Errorf("%s() argument %q must name final states: completed, failed, canceled or skipped; has %q", PurgeTask, "states", word)
		}
		request.States = append(request.GetStates(), wire.State(state))
	}
	if len(request.GetStates()) == 0 {
		request.States = []taskv1.State{taskv1.State_STATE_COMPLETED}
	}
	return request, nil
}

// page asks for one page, again if the dispatcher is away for a while: it is started anew, say, in the middle of a long purge.
func (p purge) page(ctx context.Context, request *dispatcherv1.PurgeTasksRequest) (*dispatcherv1.PurgeTasksResponse, error) {
	pause := p.pause
	for try := 1; ; try++ {
		page, err := p.purger.PurgeTasks(ctx, request)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			return page, nil
		case status.Code(err) != codes.Unavailable || try == purgeTries:
			return nil, fmt.Errorf("purge tasks: %w", err)
		}
		worker.Logger(ctx).WarnContext(ctx, "can't purge tasks; it will be tried again", slog.Any("error", err))
		if !run.Pause(ctx, pause) {
			return nil, ctx.Err()
		}
		pause *= 2
	}
}

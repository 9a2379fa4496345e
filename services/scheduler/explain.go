package scheduler

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/lock"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

// holdersShown is how many holders of a resource an explanation names.
const holdersShown = 10

// explain says what stands between a task and its start.
func (l *leader) explain(id string) *schedulerv1.ExplainResponse {
	t := l.tasks[l.seqs[id]]
	if t == nil {
		return &schedulerv1.ExplainResponse{Summary: "It is final, or the scheduler has not seen it yet."}
	}
	answer := &schedulerv1.ExplainResponse{Live: true, Unblocked: t.phase != blocked}
	for _, e := range l.executors {
		if e.line == nil || !e.names[t.lane.name] {
			continue
		}
		answer.ExecutorsWithName++
		if e.able(t.lane, t.kind()) {
			answer.ExecutorsWithVersions++
			answer.FreeSlots += int32(e.free(t.kind()))
		}
	}
	for _, wait := range l.locks.Explain(t.seq, holdersShown) {
		out := &schedulerv1.ResourceWait{
			Resource: wait.Resource, Exclusive: wait.Mode == lock.Exclusive,
			HolderCount: int64(wait.HolderCount), Ahead: int64(wait.Ahead),
		}
		for _, seq := range wait.Holders {
			out.Holders = append(out.Holders, l.use(seq, wait.Held == lock.Exclusive, true))
		}
		answer.Waits = append(answer.Waits, out)
	}
	if t.phase == resting {
		answer.RetryAt = timestamppb.New(time.UnixMicro(t.attempts.due + l.clock))
	}
	answer.Summary = l.summary(t, answer)
	return answer
}

// summary is the one sentence for people. The first thing that stands in the way decides.
func (l *leader) summary(t *live, e *schedulerv1.ExplainResponse) string {
	switch {
	case t.phase == claimed && t.owner != nil && !l.hasBegun(t):
		return fmt.Sprintf("It was given to %s, which has not acknowledged it yet.", t.owner.name)
	case t.phase == claimed && t.canceling:
		return fmt.Sprintf("It runs on %s and was asked to stop.", ownerName(t))
	case t.phase == claimed:
		return fmt.Sprintf("It runs on %s.", ownerName(t))
	case t.phase == resting:
		return l.restSummary(t)
	case len(e.GetWaits()) > 0:
		first := e.GetWaits()[0]
		holder := "another task"
		if len(first.GetHolders()) > 0 {
			h := first.GetHolders()[0]
			holder = fmt.Sprintf("task %s (%s)", h.GetTaskId(), h.GetName())
		}
		more := ""
		if n := len(e.GetWaits()) - 1; n > 0 {
			more = fmt.Sprintf(", and for %d more", n)
		}
		return fmt.Sprintf("It waits for %s, held by %s; %s must go first%s.", first.GetResource(), holder, tasks(first.GetAhead()), more)
	case e.GetExecutorsWithName() == 0:
		return fmt.Sprintf("It has all its resources, but no connected executor knows %q.", t.lane.name)
	case e.GetExecutorsWithVersions() == 0:
		return fmt.Sprintf("It has all its resources, but none of the %d executors that know %q has the versions it needs.", e.GetExecutorsWithName(), t.lane.name)
	case e.GetFreeSlots() == 0:
		return "It has all its resources and waits for a free slot: all are busy."
	default:
		return "It has all its resources and starts now."
	}
}

// hasBegun reports whether the executor of a task may have begun it.
func (l *leader) hasBegun(t *live) bool {
	l.heard(t.owner)
	return t.known
}

func tasks(n int64) string {
	if n == 1 {
		return "1 task"
	}
	return fmt.Sprintf("%d tasks", n)
}

func ownerName(t *live) string {
	if t.owner == nil {
		return "an executor"
	}
	return t.owner.name
}

func (l *leader) use(seq int64, exclusive, granted bool) *schedulerv1.ResourceUse {
	u := &schedulerv1.ResourceUse{Exclusive: exclusive, Granted: granted}
	if t := l.tasks[seq]; t != nil {
		u.TaskId, u.Name, u.CreatedAt = t.id, t.lane.name, timestamppb.New(time.UnixMicro(t.created))
	}
	return u
}

// resources lists the longest queues.
func (l *leader) resources(limit int) *schedulerv1.ListResourcesResponse {
	answer := &schedulerv1.ListResourcesResponse{Total: int64(l.locks.Resources())}
	for _, r := range l.locks.Busiest(limit) {
		answer.Resources = append(answer.Resources, resource(r))
	}
	return answer
}

// resource shows one queue; nil if nobody is in it.
func (l *leader) resource(name string, limit int) *schedulerv1.GetResourceResponse {
	r, ok := l.locks.Resource(name, limit)
	if !ok {
		return nil
	}
	answer := &schedulerv1.GetResourceResponse{Resource: resource(r)}
	for _, seq := range r.Holders {
		answer.Queue = append(answer.Queue, l.use(seq, r.Held == lock.Exclusive, true))
	}
	for _, waiter := range r.Waiters {
		if len(answer.GetQueue()) == limit {
			break
		}
		answer.Queue = append(answer.Queue, l.use(waiter.Seq, waiter.Mode == lock.Exclusive, false))
	}
	return answer
}

func resource(r lock.Resource) *schedulerv1.Resource {
	return &schedulerv1.Resource{Name: r.Name, Exclusive: r.Held == lock.Exclusive, Holders: int64(r.HolderCount), Waiting: int64(r.WaiterCount)}
}

func pageSize(asked int32) int {
	if asked == 0 {
		return limits.DefaultPage
	}
	return int(asked)
}

package scheduler

import (
	"container/heap"
	"fmt"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// attempts is what the leader keeps of a task whose failures are retried. It stands apart because of a million live tasks most
// have no use for it.
type attempts struct {
	policy *task.Retry
	// made counts those that began, the present one included.
	made int32
	// While the task rests: its index in leader.resting, and when the rest ends, in microseconds since 1970 by this process's
	// clock.
	at  int
	due int64
}

// again reports whether a run that failed is to be followed by another. Who wants the task canceled does not want that.
func (t *live) again(failure *task.Error) bool {
	return t.attempts != nil && !t.canceling && t.attempts.policy.Again(t.attempts.made, failure)
}

// retry ends a run but not its task. The slot is free at once; what the task holds it keeps, and with that its place: whatever
// was dispatched after it and conflicts waits until it is final.
func (l *leader) retry(t *live, failure *task.Error) {
	l.next.plan.Retry = append(l.next.plan.Retry, Again{
		Seq: t.seq, Claim: t.claim, Pause: l.pause(t.attempts.policy, t.attempts.made).Microseconds(), Error: failure,
	})
	l.next.plan.retried = append(l.next.plan.retried, t)
	l.disown(t)
}

// retried begins the rests of what was written. The pause counts from the answer and not from when the tick was sent: the
// database counts from the moment between the two, and no attempt must begin before the time in its row.
func (l *leader) retried(plan *Plan, report *Report) (changes []*schedulerv1.Change) {
	for i, t := range plan.retried {
		state := report.Retried[t.seq]
		changes = append(changes, change(t, state))
		if state == task.Canceled {
			l.drop(t)
			l.sawEnd(t, End{Seq: t.seq, Claim: t.claim, State: task.Failed, Error: plan.Retry[i].Error}, state, report.Now)
			continue
		}
		l.sawFailure(t, plan.Retry[i], report.Now)
		l.rest(t, l.now().UnixMicro()+plan.Retry[i].Pause)
	}
	return changes
}

// rest puts a task aside until it is due, which may be at once.
func (l *leader) rest(t *live, due int64) {
	t.phase, t.attempts.due = resting, due
	heap.Push(&l.resting, t)
}

// wake makes ready what has rested long enough.
func (l *leader) wake() {
	for l.rested() {
		l.makeReady(heap.Pop(&l.resting).(*live))
	}
}

// rested reports whether there is something to wake.
func (l *leader) rested() bool {
	left, some := l.restLeft()
	return some && left <= 0
}

// restLeft is how long the next task that is due still rests; false if none rests.
func (l *leader) restLeft() (left time.Duration, some bool) {
	if len(l.resting) == 0 {
		return 0, false
	}
	return time.Duration(l.resting[0].attempts.due-l.now().UnixMicro()) * time.Microsecond, true
}

// restSummary is the sentence for people about a task that rests.
func (l *leader) restSummary(t *live) string {
	return fmt.Sprintf("Attempt %d of %d failed; the next one begins %s.", t.attempts.made, t.attempts.policy.Attempts, l.restEnds(t))
}

// restEnds is when a task that rests goes on, for people.
func (l *leader) restEnds(t *live) string {
	if left := time.Duration(t.attempts.due-l.now().UnixMicro()) * time.Microsecond; left > 0 {
		return fmt.Sprintf("in %s", (left + time.Second - 1).Truncate(time.Second))
	}
	return "now"
}

// restHeap orders tasks by when their rest ends, and knows where each stands: one that is canceled leaves at once, or the heap
// would hold what is over for as long as the longest pause, a day.
type restHeap []*live

func (h restHeap) Len() int           { return len(h) }
func (h restHeap) Less(i, j int) bool { return h[i].attempts.due < h[j].attempts.due }

func (h restHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].attempts.at, h[j].attempts.at = i, j
}

// Push and Pop are for container/heap.
func (h *restHeap) Push(item any) {
	t := item.(*live)
	t.attempts.at = len(*h)
	*h = append(*h, t)
}

// Pop removes the last element.
func (h *restHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

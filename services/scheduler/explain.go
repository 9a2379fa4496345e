package scheduler

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/lock"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

const (
	// usesShown is how many holders of a resource an explanation names, and how many who wait for it.
	usesShown = 10
	// chainShown is how long a chain of tasks that wait for each other is shown.
	chainShown = 20
)

// explain says what stands between a task and its start, as far as the leader's memory goes. It costs the number of executors, and of
// what is waiting so much as a bounded walk sees.
func (l *leader) explain(id string) *schedulerv1.ExplainResponse {
	t := l.tasks[l.seqs[id]]
	if t == nil {
		return &schedulerv1.ExplainResponse{}
	}
	answer := &schedulerv1.ExplainResponse{
		Live: true, Unblocked: t.phase != blocked, State: wire.State(t.state()), Name: t.lane.name,
		CreatedAt: moment(t.created), UnblockedAt: moment(t.unblockedSince(l.clock)), Attempt: t.attempt(),
	}
	switch t.phase {
	case blocked:
		l.explainBlocked(t, answer)
	case ready:
		l.explainReady(t, answer)
	case resting:
		answer.RetryAt = moment(t.attempts.due + l.clock)
	case claimed:
		if t.owner != nil {
			answer.Executor, answer.StartedAt = t.owner.name, moment(t.begun())
		}
	}
	l.countExecutors(t, answer)
	answer.Summary = l.summary(t, answer)
	return answer
}

// explainBlocked names what the task lacks, and who is in the way.
func (l *leader) explainBlocked(t *live, answer *schedulerv1.ExplainResponse) {
	for _, wait := range l.locks.Explain(t.seq, usesShown) {
		answer.Waits = append(answer.Waits, &schedulerv1.ResourceWait{
			Resource: wait.Resource, Exclusive: wait.Mode == lock.Exclusive,
			Holders: l.uses(wait.Holders, true), HolderCount: int64(wait.HolderCount),
			Ahead: int64(wait.Ahead), AheadAtLeast: wait.AtLeast, WaitingAhead: l.uses(wait.Waiters, false),
		})
	}
	for _, link := range l.locks.Chain(t.seq, chainShown) {
		answer.Chain = append(answer.Chain, &schedulerv1.BlockerLink{
			Resource: link.Resource, Task: l.use(link.Request, link.Granted), Standing: l.standing(l.tasks[link.Seq]),
		})
	}
}

// countExecutors counts those that could run the task.
func (l *leader) countExecutors(t *live, answer *schedulerv1.ExplainResponse) {
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
}

// summary is the one sentence for people. The first thing that stands in the way decides.
func (l *leader) summary(t *live, e *schedulerv1.ExplainResponse) string {
	switch t.phase {
	case claimed:
		return l.runSummary(t)
	case resting:
		return l.restSummary(t)
	case blocked:
		return l.blockedSummary(e)
	case ready:
	}
	switch name := t.lane.name; {
	case e.GetExecutorsWithName() == 0:
		return fmt.Sprintf("It has all its resources, but no connected executor knows %q.", name)
	case e.GetExecutorsWithVersions() == 0 && len(e.GetNearest()) > 0:
		nearest := e.GetNearest()[0]
		lacks := gaps(nearest.GetGaps())
		if e.GetExecutorsWithName() == 1 {
			return fmt.Sprintf("It has all its resources, but %s, the only executor that knows %q, has not the versions it needs: %s.", nearest.GetExecutor(), name, lacks)
		}
		return fmt.Sprintf("It has all its resources, but none of the %d executors that know %q has the versions it needs: on %s, %s.",
			e.GetExecutorsWithName(), name, nearest.GetExecutor(), lacks)
	case e.GetExecutorsWithVersions() == 0:
		return fmt.Sprintf("It has all its resources, but of the executors that know %q and have the versions it needs none takes new tasks: they stop, or have no slots for it.", name)
	case e.GetFreeSlots() > 0:
		return "It has all its resources and starts now."
	}
	text := "It has all its resources and waits for a free slot: all are busy"
	if n := e.GetReadyAhead(); n > 0 {
		text += fmt.Sprintf(", and %s first", count(n, "task gets one", "tasks get one"))
	}
	if e.GetEstimate() != nil {
		text += fmt.Sprintf("; by how long such tasks took lately, that is about %s", lasting(e.GetEstimate().AsDuration()))
	}
	return text + "."
}

// blockedSummary says who is in the way, and how that one stands.
func (l *leader) blockedSummary(e *schedulerv1.ExplainResponse) string {
	chain := e.GetChain()
	if len(chain) == 0 {
		return "It waits for its resources." // it can't be: who is blocked is so by somebody
	}
	first := chain[0]
	use := first.GetTask()
	var text strings.Builder
	fmt.Fprintf(&text, "It waits for %s", first.GetResource())
	who := fmt.Sprintf("task %s (%s)", use.GetTaskId(), use.GetName())
	since := lasting(time.Duration(l.time()-use.GetSince().AsTime().UnixMicro()) * time.Microsecond)
	switch {
	case !use.GetGranted():
		fmt.Fprintf(&text, ", where %s comes first, which wants it alone and has waited for %s", who, since)
	case use.GetExclusive():
		fmt.Fprintf(&text, ", which %s has held alone for %s", who, since)
	default:
		fmt.Fprintf(&text, ", which %s has held for %s", who, since)
	}
	fmt.Fprintf(&text, ": it %s", first.GetStanding())
	if last := chain[len(chain)-1]; len(chain) > 1 && len(chain) < chainShown {
		fmt.Fprintf(&text, ", and so on down to task %s (%s), which %s", last.GetTask().GetTaskId(), last.GetTask().GetName(), last.GetStanding())
	}
	text.WriteString(".")
	for _, wait := range e.GetWaits() {
		switch {
		case wait.GetResource() != first.GetResource() || wait.GetAhead() < 2:
		case wait.GetAheadAtLeast():
			fmt.Fprintf(&text, " At least %s must go first there.", tasks(wait.GetAhead()))
		default:
			fmt.Fprintf(&text, " %s must go first there.", tasks(wait.GetAhead()))
		}
	}
	if n := int64(len(e.GetWaits()) - 1); n > 0 {
		fmt.Fprintf(&text, " It lacks %s, too.", count(n, "other resource", "other resources"))
	}
	return text.String()
}

// runSummary says where a task is that was given away.
func (l *leader) runSummary(t *live) string {
	switch {
	case t.owner == nil:
		return "It was given to an executor that did not take it, and waits for a slot again."
	case !l.hasBegun(t):
		return fmt.Sprintf("It was given to %s, which has not acknowledged it yet.", t.owner.name)
	}
	text := "It runs on " + t.owner.name
	if begun := t.begun(); begun > 0 {
		text += " and has for " + lasting(time.Duration(l.time()-begun)*time.Microsecond)
	}
	if t.canceling {
		text += ", and was asked to stop"
	}
	if t.owner.line == nil {
		text += ". That executor is not connected now: if it does not come back, nor beats any more, it will be declared missing, and the run ends"
	}
	return text + "."
}

// standing is how a task stands, for the chain of who waits for whom: it goes on a sentence about the task.
func (l *leader) standing(t *live) string {
	switch {
	case t == nil:
		return "is not known"
	case t.phase == blocked:
		return "waits itself"
	case t.phase == resting:
		return fmt.Sprintf("rests after attempt %d, the next one begins %s", t.attempts.made, l.restEnds(t))
	case t.phase == ready && t.lane.able(t.kind()):
		return "waits for a free slot"
	case t.phase == ready && l.knowsName(t.lane.name):
		return fmt.Sprintf("waits for an executor that takes %q in its versions", t.lane.name)
	case t.phase == ready:
		return fmt.Sprintf("waits for an executor that knows %q", t.lane.name)
	case t.owner == nil:
		return "was given back, and waits for a slot again"
	case !l.hasBegun(t):
		return "is about to begin on " + t.owner.name
	case t.canceling:
		return "was asked to stop on " + t.owner.name
	case t.owner.line == nil:
		return fmt.Sprintf("runs on %s, which is not connected", t.owner.name)
	default:
		return "runs on " + t.owner.name
	}
}

// hasBegun reports whether the executor of a task may have begun it.
func (l *leader) hasBegun(t *live) bool {
	l.heard(t.owner)
	return t.known
}

// state is that of the task's row, or what it is about to be.
func (t *live) state() task.State {
	switch {
	case t.phase != claimed || t.owner == nil:
		return task.Waiting
	case t.canceling:
		return task.Canceling
	default:
		return task.Running
	}
}

// begun is when the task was given away last, 0 if that is not known.
func (t *live) begun() int64 {
	if t.story == nil {
		return 0
	}
	return t.story.begun
}

// unblockedSince is when the task was unblocked, by the database's clock, 0 if it was not.
func (t *live) unblockedSince(clock int64) int64 {
	switch {
	case t.story != nil && t.story.unblocked > 0:
		return t.story.unblocked
	case t.ready > 0:
		return t.ready
	case t.unblocked > 0:
		return t.unblocked + clock
	default:
		return 0
	}
}

// attempt is which one the task is at, 0 before the first.
func (t *live) attempt() int32 {
	switch {
	case t.attempts != nil:
		return t.attempts.made
	case t.phase == claimed && t.owner != nil:
		return 1
	default:
		return 0
	}
}

// moment is a time in microseconds since 1970; nil for 0.
func moment(at int64) *timestamppb.Timestamp {
	if at == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMicro(at))
}

func (l *leader) uses(requests []lock.Request, granted bool) []*schedulerv1.ResourceUse {
	uses := make([]*schedulerv1.ResourceUse, len(requests))
	for i, r := range requests {
		uses[i] = l.use(r, granted)
	}
	return uses
}

func (l *leader) use(r lock.Request, granted bool) *schedulerv1.ResourceUse {
	u := &schedulerv1.ResourceUse{Exclusive: r.Mode == lock.Exclusive, Granted: granted, Since: moment(r.Since)}
	if t := l.tasks[r.Seq]; t != nil {
		u.TaskId, u.Name, u.CreatedAt, u.State = t.id, t.lane.name, moment(t.created), wire.State(t.state())
		if t.owner != nil {
			u.Executor = t.owner.name
		}
	}
	return u
}

// busiest keeps the list of the longest queues, for as long as making it took, twenty times over: with a million resources it takes
// some tenths of a second, in which the leader does nothing else.
type busiest struct {
	list  []lock.Resource
	until time.Time
}

// longestQueues returns the longest queues, as they are or were a moment ago.
func (l *leader) longestQueues(limit int) []lock.Resource {
	if now := l.now(); now.After(l.busiest.until) {
		l.busiest.list = l.locks.Busiest(limits.MaxPage)
		done := l.now()
		l.busiest.until = done.Add(20 * done.Sub(now))
	}
	return l.busiest.list[:min(limit, len(l.busiest.list))]
}

// resources lists the longest queues.
func (l *leader) resources(limit int) *schedulerv1.ListResourcesResponse {
	answer := &schedulerv1.ListResourcesResponse{Total: int64(l.locks.Resources())}
	for _, r := range l.longestQueues(limit) {
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
	queue := append(l.uses(r.Holders, true), l.uses(r.Waiters, false)...)
	return &schedulerv1.GetResourceResponse{Resource: resource(r), Queue: queue[:min(limit, len(queue))]}
}

func resource(r lock.Resource) *schedulerv1.Resource {
	return &schedulerv1.Resource{
		Name: r.Name, Exclusive: r.Held == lock.Exclusive, Holders: int64(r.HolderCount), Waiting: int64(r.WaiterCount),
		HeldSince: moment(r.HeldSince), WaitingSince: moment(r.WaitingSince),
	}
}

// load is the survey for those who ask.
func (s *Survey) load() *schedulerv1.GetLoadResponse {
	answer := &schedulerv1.GetLoadResponse{
		Blocked: int64(s.Blocked), Ready: int64(s.Ready), Given: int64(s.Given), Resting: int64(s.Resting), Runnable: int64(s.Runnable()),
		Slots: int64(s.Slots), FreeSlots: int64(s.Free), Executors: int64(s.Executors),
	}
	if s.Blocked > 0 {
		answer.LongestBlocked = durationpb.New(s.LongestBlocked)
	}
	if s.Ready > 0 {
		answer.LongestReady = durationpb.New(s.LongestReady)
	}
	return answer
}

func tasks(n int64) string { return count(n, "task", "tasks") }

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// lasting is how long something took, for people: about two digits of it are worth reading.
func lasting(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

func pageSize(asked int32) int {
	if asked == 0 {
		return limits.DefaultPage
	}
	return int(asked)
}

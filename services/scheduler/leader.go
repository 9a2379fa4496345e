package scheduler

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/lock"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// defaultLookLimit bounds what one look admits, so that a tick under a flood stays short. A full look is followed by another
// at once.
const defaultLookLimit = 2000

// phase is where a live task is in the leader's memory.
type phase uint8

const (
	blocked phase = iota // lacks a resource
	ready                // unblocked, waits for a slot
	claimed              // an executor has it, or is about to be given it
)

// live is a task that is not final.
type live struct {
	seq       int64
	id        string
	name      string
	createdAt time.Time
	lane      *lane
	owner     *executor
	claim     int64
	phase     phase
	immediate bool
	deferred  bool
	canceling bool
}

// store is what the leader needs of the database.
type store interface {
	Load(ctx context.Context, epoch int64, admit func(Row)) (snapshot string, err error)
	Tick(ctx context.Context, epoch int64, plan *Plan) (*Report, error)
}

// leader is the memory of one leadership. One goroutine owns it.
type leader struct {
	epoch int64
	store store
	log   *slog.Logger
	now   func() time.Time
	// publish tells the followers what was committed.
	publish func([]*schedulerv1.Change)

	tasks     map[int64]*live
	seqs      map[string]int64 // by task id
	locks     *lock.Table
	lanes     map[string]*lane
	executors map[string]*executor // by incarnation

	high  int64   // highest seq seen
	gaps  []Gap   // lower ones not seen, which may still come
	late  *Window // what the load could not see, until that can't come any more
	fresh []int64 // unblocked, and not yet stamped so

	plan    *Plan // what the next tick writes
	giving  []*live
	answers []answer
	settles []*settle

	lookLimit int
	hinted    bool // somebody said that there is something to find
	lookedAt  time.Time
}

// answer is a message to an executor that must wait for the commit.
type answer struct {
	line    *line
	message *schedulerv1.AcquireResponse
}

// settle is a caller that waits for the fate of immediate tasks.
type settle struct {
	ids  []string
	done chan struct{}
	// looked is set once a look after the call has seen all there was: before, an unknown task may just not have been seen.
	looked bool
}

func newLeader(epoch int64, s store, log *slog.Logger, now func() time.Time, publish func([]*schedulerv1.Change)) *leader {
	return &leader{
		epoch: epoch, store: s, log: log, now: now, publish: publish,
		tasks: map[int64]*live{}, seqs: map[string]int64{}, locks: lock.New(), lanes: map[string]*lane{},
		executors: map[string]*executor{}, plan: &Plan{}, lookLimit: defaultLookLimit,
	}
}

// load fills the memory with what is not final.
func (l *leader) load(ctx context.Context) error {
	start := l.now()
	snapshot, err := l.store.Load(ctx, l.epoch, l.admit)
	if err != nil {
		return err
	}
	// Which of the numbers below the highest are yet to come can't be told from those that have ended; the snapshot can.
	l.late = &Window{High: l.high, Snapshot: snapshot}
	l.hinted = true
	l.log.InfoContext(ctx, "leading", slog.Int64("epoch", l.epoch), slog.Int("live_tasks", len(l.tasks)), slog.Duration("load", l.now().Sub(start)))
	return nil
}

// tick does one round: decide, write, look, let effects out. It reports whether there is more to do at once.
func (l *leader) tick(ctx context.Context, events []event, lookEvery time.Duration) (more bool, err error) {
	for _, e := range events {
		e.apply(l)
	}
	l.match()
	l.plan.Unblock = l.stamps()
	l.planLook(lookEvery)
	// An answer alone is reason enough: it must not leave without a fence that says who leads.
	if !l.plan.writes() && !l.plan.Look && len(l.answers) == 0 {
		return false, nil
	}

	plan, giving := l.plan, l.giving
	l.plan, l.giving = &Plan{}, nil
	report, err := l.store.Tick(ctx, l.epoch, plan)
	if err != nil {
		return false, err
	}
	if err := l.verify(plan, report); err != nil {
		return false, err
	}

	// Everything from here on is committed.
	l.reply()
	l.bound(report.Xact)
	changes := l.given(giving, report)
	changes = append(changes, l.ended(plan, report)...)
	if plan.Look {
		l.found(report)
	}
	// After what was found: a cancel can be committed between the two statements of a look, and its task is in both answers.
	changes = append(changes, l.canceled(report.Cancels)...)
	for _, gone := range report.Gone {
		l.gone(gone)
	}
	if len(changes) > 0 {
		l.publish(changes)
	}
	full := l.high > plan.After && len(report.New) >= plan.LookLimit
	if full || len(report.Cancels) == plan.LookLimit {
		l.hinted = true
	}
	l.settle(plan.Look && !full)
	return l.hinted || l.plan.writes() || len(l.fresh) > 0, nil
}

// reply lets the answers out that waited for the commit.
func (l *leader) reply() {
	for _, a := range l.answers {
		a.line.put(a.message)
	}
	l.answers = nil
}

// verify makes sure that what had to change did. Anything else means that memory and database have parted, and the memory
// must go.
func (l *leader) verify(plan *Plan, report *Report) error {
	if got, want := len(report.Finished), len(plan.Finish); got != want {
		return fmt.Errorf("finish runs: %d of %d changed", got, want)
	}
	if got, want := len(report.Requeued), len(plan.Requeue); got != want {
		return fmt.Errorf("take back assignments: %d of %d changed", got, want)
	}
	return nil
}

// planLook decides whether this tick looks around.
func (l *leader) planLook(every time.Duration) {
	now := l.now()
	if !l.hinted && now.Sub(l.lookedAt) < every {
		return
	}
	l.plan.Look, l.plan.LookLimit, l.plan.After = true, l.lookLimit, l.high
	l.plan.Gaps, l.plan.Late = l.gaps, l.late
	for incarnation := range l.executors {
		l.plan.Owners = append(l.plan.Owners, incarnation)
	}
	l.hinted, l.lookedAt = false, now
}

// bound says of gaps that were noticed before this transaction began until when they may fill: who holds one of their numbers
// had his transaction id before he took the number, and so before this one.
func (l *leader) bound(xact uint64) {
	for i := range l.gaps {
		if l.gaps[i].until == 0 {
			l.gaps[i].until = xact
		}
	}
	if l.late != nil && l.late.until == 0 {
		l.late.until = xact
	}
}

// found admits what a look found, in the order of seq, and keeps account of the numbers that it did not find.
//
// What is visible is admitted together, so order holds: if the dispatch of A had returned before that of B was called, A was
// committed before B took its number, and whichever look sees B sees A.
func (l *leader) found(report *Report) {
	over := func(until uint64) bool { return until > 0 && report.OldestOpen >= until }
	if l.late != nil && over(l.late.until) {
		l.late = nil
	}
	// Every transaction that could have had these numbers had ended before the look.
	gaps := slices.DeleteFunc(slices.Clone(l.gaps), func(g Gap) bool { return over(g.until) })
	for _, row := range report.New {
		if row.Seq > l.high+1 {
			gaps = append(gaps, Gap{From: l.high + 1, To: row.Seq - 1})
		}
		gaps = fill(gaps, row.Seq)
		l.admit(row)
	}
	l.gaps = gaps
}

// fill takes a number out of the gap that it lies in.
func fill(gaps []Gap, seq int64) []Gap {
	i := slices.IndexFunc(gaps, func(g Gap) bool { return g.From <= seq && seq <= g.To })
	if i < 0 {
		return gaps
	}
	g := gaps[i]
	var left []Gap
	if g.From < seq {
		left = append(left, Gap{From: g.From, To: seq - 1, until: g.until})
	}
	if seq < g.To {
		left = append(left, Gap{From: seq + 1, To: g.To, until: g.until})
	}
	return slices.Replace(gaps, i, i+1, left...)
}

// admit takes a task into the memory, at the end of the queues of all its resources.
func (l *leader) admit(row Row) {
	l.high = max(l.high, row.Seq)
	if l.tasks[row.Seq] != nil {
		return
	}
	key := laneKey(row.Name, row.Versions)
	where := l.lanes[key]
	if where == nil {
		where = &lane{name: row.Name, versions: row.Versions}
		l.lanes[key] = where
	}
	t := &live{
		seq: row.Seq, id: row.ID, name: where.name, createdAt: row.CreatedAt, lane: where,
		immediate: row.Immediate, deferred: row.Deferred, claim: row.Claim,
	}
	l.tasks[t.seq], l.seqs[t.id] = t, t.seq
	unblocked := l.locks.Admit(t.seq, row.Exclusive, row.Shared)

	switch {
	case row.State != task.Waiting:
		// Only after a takeover: somebody runs it, or did when he was last heard of.
		t.phase, t.canceling = claimed, row.State == task.Canceling
		l.own(l.life(row.Executor, row.Incarnation), t)
	case unblocked:
		l.makeReady(t)
		if !row.Unblocked {
			l.fresh = append(l.fresh, t.seq)
		}
	case row.Unblocked:
		// The row says that nothing conflicts, the table disagrees. Waiting is the safe side.
		l.log.Error("a task was unblocked beside a conflicting one; it waits again", slog.String("task_id", t.id))
	case !t.deferred:
		l.reject(t)
	}
}

// life finds or makes the record of one life of an executor.
func (l *leader) life(name, incarnation string) *executor {
	e := l.executors[incarnation]
	if e == nil {
		e = &executor{name: name, incarnation: incarnation, claims: map[int64]*live{}}
		l.executors[incarnation] = e
	}
	return e
}

func (l *leader) own(e *executor, t *live) {
	t.owner = e
	e.claims[t.seq] = t
	if t.immediate {
		e.immediateRunning++
	}
}

func (l *leader) disown(t *live) {
	if t.owner == nil {
		return
	}
	delete(t.owner.claims, t.seq)
	if t.immediate {
		t.owner.immediateRunning--
	}
	if t.owner.line == nil && len(t.owner.claims) == 0 {
		delete(l.executors, t.owner.incarnation)
	}
	t.owner = nil
}

func (l *leader) makeReady(t *live) {
	t.phase = ready
	t.lane.push(t)
}

// drop removes a task that is final, and lets those go on that waited for it.
func (l *leader) drop(t *live) {
	l.disown(t)
	delete(l.tasks, t.seq)
	delete(l.seqs, t.id)
	t.phase = claimed // what is left of it in a lane is not ready
	for _, seq := range l.locks.Release(t.seq) {
		next := l.tasks[seq]
		if next.phase == blocked {
			l.makeReady(next)
			l.fresh = append(l.fresh, seq)
		}
	}
}

// reject ends an immediate task that can't run at once and would not wait.
func (l *leader) reject(t *live) {
	l.plan.Reject = append(l.plan.Reject, t.seq)
	l.plan.rejected = append(l.plan.rejected, t)
	l.drop(t)
}

// finish ends a run, in memory now and in the database with the next tick.
func (l *leader) finish(t *live, end End) {
	end.Seq, end.Claim = t.seq, t.claim
	l.plan.Finish = append(l.plan.Finish, end)
	l.plan.ended = append(l.plan.ended, t)
	l.drop(t)
}

// requeue takes back an assignment that did not reach its executor.
func (l *leader) requeue(t *live) {
	l.plan.Requeue = append(l.plan.Requeue, Back{Seq: t.seq, Claim: t.claim})
	l.plan.returned = append(l.plan.returned, t)
	l.disown(t)
}

// gone settles what is left of a life that is over. A missing executor's lease has ended, so it has stopped by itself: what it
// ran has failed. One that ended in order has nothing left but assignments that it did not take.
func (l *leader) gone(g Gone) {
	e := l.executors[g.Incarnation]
	if e == nil {
		return
	}
	if !g.InOrder {
		l.log.Warn("executor has gone missing", slog.String("executor", e.name), slog.String("incarnation", e.incarnation), slog.Int("running", len(e.claims)))
	}
	if e.line != nil {
		e.line.close(errFenced)
		e.line = nil
	}
	for _, t := range bySeq(e.claims) {
		if g.InOrder {
			l.requeue(t)
		} else {
			l.finish(t, End{State: task.Failed, Error: &task.Error{Reason: task.ReasonWorkerMissing}})
		}
	}
	delete(l.executors, g.Incarnation)
}

// match gives ready tasks to free slots: immediate ones first, then by seq, each to the executor with the most free slots.
func (l *leader) match() {
	for _, immediate := range []bool{true, false} {
		l.matchKind(immediate)
	}
}

func (l *leader) matchKind(immediate bool) {
	type candidate struct {
		lane  *lane
		tasks *readyHeap
		execs []*executor
	}
	var open []*candidate
	for key, where := range l.lanes {
		c := &candidate{lane: where, tasks: &where.ordinary}
		if immediate {
			c.tasks = &where.immediate
		}
		if c.tasks.head() == nil {
			if where.immediate.Len()+where.ordinary.Len() == 0 && len(l.lanes) > maxIdleLanes {
				delete(l.lanes, key)
			}
			continue
		}
		able := false
		for _, e := range l.executors {
			if e.able(where, immediate) {
				able = true
				if e.free(immediate) > 0 {
					c.execs = append(c.execs, e)
				}
			}
		}
		switch {
		case len(c.execs) > 0:
			open = append(open, c)
		case immediate && !able:
			l.rejectUnable(c.tasks)
		}
	}
	for len(open) > 0 {
		best := slices.MinFunc(open, func(a, b *candidate) int { return int(a.tasks.head().seq - b.tasks.head().seq) })
		e := slices.MaxFunc(best.execs, func(a, b *executor) int { return a.free(immediate) - b.free(immediate) })
		if e.free(immediate) == 0 || best.tasks.head() == nil {
			open = slices.DeleteFunc(open, func(c *candidate) bool { return c == best })
			continue
		}
		t := heap.Pop(best.tasks).(*live)
		t.phase = claimed
		l.own(e, t)
		l.plan.Claim = append(l.plan.Claim, Give{Seq: t.seq, Executor: e.name, Incarnation: e.incarnation})
		l.giving = append(l.giving, t)
		if best.tasks.head() == nil {
			open = slices.DeleteFunc(open, func(c *candidate) bool { return c == best })
		}
	}
}

// maxIdleLanes is how many empty lanes are kept: names come back, but somebody may also make them up.
const maxIdleLanes = 1000

// rejectUnable ends immediate tasks that nobody connected can run, if they would not wait.
func (l *leader) rejectUnable(tasks *readyHeap) {
	for _, t := range slices.Clone(*tasks) {
		if t.phase == ready && !t.deferred {
			l.reject(t)
		}
	}
}

// stamps lists what became unblocked without being claimed in the same tick. The end of an exclusive domain task can unblock a
// million tasks: they are stamped by and by, and meanwhile the slots are filled all the same.
func (l *leader) stamps() []int64 {
	var seqs []int64
	for len(l.fresh) > 0 && len(seqs) < l.lookLimit {
		seq := l.fresh[0]
		l.fresh = l.fresh[1:]
		if t := l.tasks[seq]; t != nil && t.phase == ready {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// given sends out what was claimed. What the database did not give was canceled in the same moment.
func (l *leader) given(giving []*live, report *Report) (changes []*schedulerv1.Change) {
	bySeq := make(map[int64]*Claimed, len(report.Claimed))
	for i := range report.Claimed {
		bySeq[report.Claimed[i].Seq] = &report.Claimed[i]
	}
	for _, t := range giving {
		c := bySeq[t.seq]
		if c == nil {
			l.drop(t)
			changes = append(changes, change(t, task.Canceled))
			continue
		}
		t.claim = c.Claim
		changes = append(changes, change(t, task.Running))
		assign := &taskv1.Assignment{
			TaskId: t.id, Claim: c.Claim, Attempt: c.Attempt, Name: t.name, ArgsJson: c.Args, KwargsJson: c.Kwargs,
			Domain: task.DefaultDomain, CorrelationId: c.CorrelationID, Traceparent: c.Traceparent, GroupId: c.GroupID,
			Immediate: t.immediate,
		}
		sent := t.owner.line != nil &&
			t.owner.line.put(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Assign{Assign: assign}})
		if !sent {
			// The line broke during the commit, so the executor never heard of it.
			l.requeue(t)
		}
	}
	return changes
}

// ended lets out what became of runs, returned assignments and rejected tasks.
func (l *leader) ended(plan *Plan, report *Report) (changes []*schedulerv1.Change) {
	for _, t := range plan.ended {
		changes = append(changes, change(t, report.Finished[t.seq]))
	}
	for _, t := range plan.returned {
		state := report.Requeued[t.seq]
		changes = append(changes, change(t, state))
		if state == task.Canceled {
			l.drop(t)
			continue
		}
		t.canceling = false
		l.makeReady(t)
	}
	for _, t := range plan.rejected {
		// By this statement or by a cancel that came before it.
		changes = append(changes, change(t, task.Canceled))
	}
	return changes
}

// canceled acts on wishes: a task that was not claimed is final already, a running one is told to stop.
func (l *leader) canceled(seqs []int64) (changes []*schedulerv1.Change) {
	for _, seq := range seqs {
		l.plan.ForgetCancels = append(l.plan.ForgetCancels, seq)
		t := l.tasks[seq]
		switch {
		case t == nil || t.canceling:
		case t.owner == nil && t.phase != claimed:
			l.drop(t)
			changes = append(changes, change(t, task.Canceled))
		default:
			t.canceling = true
			l.tellCancel(t)
			changes = append(changes, change(t, task.Canceling))
		}
	}
	return changes
}

// tellCancel passes a cancel on. Without a line it is told when the executor says hello.
func (l *leader) tellCancel(t *live) {
	if t.owner != nil && t.owner.line != nil {
		t.owner.line.put(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Cancel{
			Cancel: &schedulerv1.CancelRun{Claim: &schedulerv1.Claim{TaskId: t.id, Claim: t.claim}},
		}})
	}
}

// settle answers those who wait for immediate tasks: when each is final, or will not run now but may wait.
func (l *leader) settle(looked bool) {
	l.settles = slices.DeleteFunc(l.settles, func(s *settle) bool {
		if s.looked = s.looked || looked; !s.looked {
			return false
		}
		for _, id := range s.ids {
			if slices.ContainsFunc(l.plan.rejected, func(t *live) bool { return t.id == id }) {
				return false // its end is not written yet
			}
			t := l.tasks[l.seqs[id]]
			if t != nil && (t.phase != blocked && l.canStart(t) || !t.deferred) {
				return false
			}
		}
		close(s.done)
		return true
	})
}

// canStart reports whether somebody connected can run the task.
func (l *leader) canStart(t *live) bool {
	if t.phase == claimed {
		return true
	}
	for _, e := range l.executors {
		if e.able(t.lane, t.immediate) {
			return true
		}
	}
	return false
}

func change(t *live, state task.State) *schedulerv1.Change {
	return &schedulerv1.Change{TaskId: t.id, State: wire.State(state)}
}

func bySeq(tasks map[int64]*live) []*live {
	sorted := make([]*live, 0, len(tasks))
	for _, t := range tasks {
		sorted = append(sorted, t)
	}
	slices.SortFunc(sorted, func(a, b *live) int { return int(a.seq - b.seq) })
	return sorted
}

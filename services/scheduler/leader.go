package scheduler

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"maps"
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
	resting              // an attempt failed, and the pause before the next one is not over; it keeps what it holds
)

// live is a task that is not final.
type live struct {
	seq   int64
	id    string
	lane  *lane
	owner *executor
	claim int64
	// attempts is nil unless failures are retried.
	attempts *attempts
	// Times in microseconds since 1970, 0 for none: created and ready by the database's clock, unblocked by this process's. A
	// task that was unblocked has no ready until it is known when the transaction began that unblocked it.
	created, ready, unblocked int64
	// story is what only the witnesses need to know; nil as long as there is nothing to tell.
	story     *story
	phase     phase
	immediate bool
	deferred  bool
	canceling bool
	stamped   bool // the row says that it is unblocked
	// known says that its executor has acknowledged it, or may have, under an earlier leadership: it may have begun.
	known bool
	// dating says that the answer to a tick in flight will tell when it was unblocked.
	dating bool
}

func (t *live) kind() kind {
	if t.immediate {
		return immediately
	}
	return ordinarily
}

// store is what the leader needs of the database.
type store interface {
	Load(ctx context.Context, epoch int64, admit func(Row)) (Loaded, error)
	Tick(ctx context.Context, epoch int64, plan *Plan) (*Report, error)
	Glance(ctx context.Context, epoch, high int64, owners []string) (Glimpse, error)
	Fire(ctx context.Context, epoch int64, fresh []Fresh) (Firing, error)
}

// leader is the memory of one leadership. One goroutine owns it.
type leader struct {
	epoch int64
	store store
	log   *slog.Logger
	now   func() time.Time
	// publish tells the followers what was committed.
	publish func([]*schedulerv1.Change)
	// surveyed is told what a look counted; nil if nobody wants to know.
	surveyed func(*Survey)
	// fired is told what became of each schedule that was due; nil if nobody wants to know.
	fired func(Fired)
	// witnesses are told what became of tasks. spans is one of them, nil unless there is tracing.
	witnesses []witness
	// metrics are told of ticks; nil if nobody wants to know.
	metrics *metrics
	spans   *spans
	// latencies is the one that measures how long tasks wait and run; nil if nobody does.
	latencies *latencies
	// pulseEvery is the pause between two pulses, for those who are welcomed.
	pulseEvery time.Duration
	// pause is how long a task rests after so many attempts, which is left to chance.
	pause func(policy *task.Retry, made int32) time.Duration

	tasks     map[int64]*live
	seqs      map[string]int64 // by task id
	locks     *lock.Table
	lanes     map[string]*lane
	crews     map[string]*crew
	executors map[string]*executor // by incarnation
	over      map[string]time.Time // incarnations that have ended, for a hello that is still on its way

	high    int64         // highest seq seen
	gaps    []Gap         // lower ones not seen, which may still come
	late    *Window       // what the load could not see, until that can't come any more
	offered map[int64]Row // told by dispatchers, and not admitted yet
	fresh   []*live       // unblocked, and not yet stamped so, the oldest first
	resting restHeap      // between two attempts
	// lacking and unserved are who waits for resources and who for a slot, for the question who has for longest.
	lacking, unserved waits
	busiest           busiest
	// clock is what must be added to this process's time, in microseconds, to have the database's. It is too much by the way of a
	// message, so a time that was made with it is rather too late than before what led to it.
	clock int64

	next    *flight    // the tick that is being made
	flights []*flight  // what was sent and is not answered, in the order in which it was sent
	broken  []breach   // lines that broke while something was in flight
	sent    []delivery // assignments to be acknowledged in time, in the order in which they were sent
	settles []*settle
	bursts  map[*executor]struct{} // connected ones that are yet to be told that nothing is left for them
	// uncertain is set when there may be immediate tasks that nobody can run; doubtful names the lanes to look at if that is
	// all that changed.
	uncertain bool
	doubtful  []*lane

	lookLimit int
	hinted    bool // somebody said that there is something to find
	lookedAt  time.Time
	// thoroughAt is when a look was thorough.
	thoroughAt, countedAt time.Time
	// due is when the next schedule is due, zero if none is soon; dueAskedAt is when that was last asked.
	due, dueAskedAt time.Time
}

// settle is a caller that waits for the fate of immediate tasks.
type settle struct {
	ids  []string
	done chan struct{}
	// left is closed when the caller has gone away; nil if he never does.
	left <-chan struct{}
	// looked is set once the tasks were known, or a look after the call has seen all there was: before, an unknown task may just
	// not have been seen.
	looked bool
}

func newLeader(epoch int64, s store, log *slog.Logger, now func() time.Time, publish func([]*schedulerv1.Change)) *leader {
	return &leader{
		epoch: epoch, store: s, log: log, now: now, publish: publish, pause: (*task.Retry).Pause,
		tasks: map[int64]*live{}, seqs: map[string]int64{}, locks: lock.New(), lanes: map[string]*lane{},
		crews: map[string]*crew{}, executors: map[string]*executor{}, over: map[string]time.Time{}, offered: map[int64]Row{},
		next: newFlight(), bursts: map[*executor]struct{}{}, lookLimit: defaultLookLimit,
		lacking: waits{phase: blocked}, unserved: waits{phase: ready},
	}
}

// load fills the memory with what is not final.
func (l *leader) load(ctx context.Context) error {
	start := l.now()
	loaded, err := l.store.Load(ctx, l.epoch, l.admit)
	if err != nil {
		return err
	}
	// Also what has ended counts as seen: a dispatcher may still be about to tell of it.
	l.high = max(l.high, loaded.High)
	l.clock = loaded.Now - start.UnixMicro()
	l.date(l.next.dated(), loaded.Now)
	// While it loaded the leader did not know how the clocks differ: rests were noted by the database's. That may have been put
	// back since they began, and none need last longer than any.
	for _, t := range l.resting {
		longest := t.attempts.policy.LongestPause(t.attempts.made)
		t.attempts.due = min(t.attempts.due-l.clock, l.now().Add(longest).UnixMicro())
	}
	heap.Init(&l.resting)
	l.unserved.sort()
	// Which of the numbers below the highest are yet to come can't be told from those that have ended; the snapshot can.
	l.late = &Window{High: l.high, Snapshot: loaded.Snapshot}
	l.hinted = true
	l.log.InfoContext(ctx, "leading", slog.Int64("epoch", l.epoch), slog.Int("live_tasks", len(l.tasks)), slog.Duration("load", l.now().Sub(start)))
	return nil
}

// tick does one round alone: decide, write, look, let effects out. It reports whether there is more to do at once.
func (l *leader) tick(ctx context.Context, events []event, lookEvery time.Duration) (more bool, err error) {
	f, err := l.begin(ctx, events, lookEvery)
	if err != nil {
		return false, err
	}
	if f == nil {
		return l.glance(ctx, lookEvery)
	}
	report, err := l.store.Tick(ctx, l.epoch, f.plan)
	if err != nil {
		return false, err
	}
	return l.land(f, report, lookEvery)
}

// begin decides what a tick does that is sent when nothing is in flight; nil if there is nothing to write, to look for or to say.
func (l *leader) begin(ctx context.Context, events []event, lookEvery time.Duration) (*flight, error) {
	if err := l.fire(ctx); err != nil {
		return nil, err
	}
	l.mend()
	for _, e := range events {
		e.apply(l)
	}
	l.hurry()
	l.admitOffered()
	l.wake()
	l.lookForAwaited()
	l.rejectUnable()
	l.match()
	l.nothingLeft()
	l.next.plan.Unblock = l.stamps()
	l.planLook(lookEvery)
	// An answer alone is reason enough: it must not leave without a fence that says who leads.
	if !l.next.plan.writes() && !l.next.plan.Look && len(l.next.outbox) == 0 {
		l.date(l.next.dated(), l.now().UnixMicro()+l.clock)
		l.settle(false)
		return nil, nil
	}
	return l.send(), nil
}

// land applies the answer to the flight that was sent before all others that are not answered. All of it is committed.
func (l *leader) land(f *flight, report *Report, lookEvery time.Duration) (more bool, err error) {
	plan := f.plan
	if err := l.verify(plan, report); err != nil {
		return false, err
	}
	l.flights = slices.Delete(l.flights, 0, 1)
	l.metrics.ticked(plan, l.now().Sub(f.sent))
	l.clock = report.Now - f.sent.UnixMicro()
	l.date(f.dated(), report.Now)
	defer func() { l.date(l.next.dated(), l.now().UnixMicro()+l.clock) }() // what becomes ready by what was found
	l.bound(report.Xact)
	changes := l.given(f, report)
	changes = append(changes, l.ended(plan, report)...)
	l.flush(f)
	if plan.Look {
		l.found(report)
	}
	if plan.Due {
		l.expect(report.Due, report.Now)
	}
	// After what was found: a cancel can be committed between the two statements of a look, and its task is in both answers.
	changes = append(changes, l.canceled(report.Cancels, report.Now)...)
	for _, gone := range report.Gone {
		l.gone(gone)
	}
	if plan.Look {
		l.takeStock(lookEvery)
	}
	if len(changes) > 0 {
		l.publish(changes)
	}
	full := plan.Look && l.high > plan.After && len(report.New) >= plan.LookLimit
	if full || plan.Look && (len(report.Cancels) == plan.LookLimit || len(report.Gone) >= plan.LookLimit) {
		l.hinted = true
	}
	if plan.Thorough && len(report.Cancels) == plan.LookLimit {
		l.thoroughAt = time.Time{} // so must the next one be
	}
	l.settle(plan.Look && !full)
	if plan.Look && !full {
		l.searched(plan.searching)
	}
	stamping := len(plan.Unblock) == l.lookLimit
	return stamping || l.pressed() || l.startable(), nil
}

// tell puts an order into the box of what leaves after the commit.
func (l *leader) tell(to *line, o order) { l.next.tell(to, o) }

// flush lets out what waited for the commit.
func (l *leader) flush(f *flight) {
	for to, orders := range f.outbox {
		if to.put(orders...) {
			continue
		}
		// The line broke during the commit. Who was given something on it never heard of it, and would be given it again, until
		// the inbox says the same.
		for _, o := range orders {
			if o.task != nil && o.task.owner != nil && o.task.owner.line == to {
				l.broken = append(l.broken, breach{x: o.task.owner, line: to})
			}
		}
	}
	if len(l.flights) == 0 {
		l.mend()
	}
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
	if got, want := len(report.Retried), len(plan.Retry); got != want {
		return fmt.Errorf("retry tasks: %d of %d changed", got, want)
	}
	return nil
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
		delete(l.offered, row.Seq)
		l.admit(row)
	}
	l.gaps = gaps
	// What was offered was committed before the look, so it was found, has ended, or comes with the next part of a full look.
	maps.DeleteFunc(l.offered, func(seq int64, _ Row) bool { return seq <= l.high })
}

// offer takes the word of a dispatcher for what it has committed. It is kept until everything before it was seen.
func (l *leader) offer(row Row) {
	switch {
	case row.Seq > l.high || slices.ContainsFunc(l.gaps, func(g Gap) bool { return g.From <= row.Seq && row.Seq <= g.To }):
		if len(l.offered) < maxOffered {
			l.offered[row.Seq] = row
		} else {
			l.hinted = true
		}
	case l.late != nil && l.tasks[row.Seq] == nil:
		l.hinted = true // the load may have missed it
	}
}

// maxOffered bounds what is kept for a tick; what is above is found by looks.
const maxOffered = 100_000

// admitOffered admits what was offered, without reading it again, as far as nothing is missing before it. Anything else could
// overtake a task that has been dispatched before, and that nobody has told of yet: a look decides.
func (l *leader) admitOffered() {
	for len(l.offered) > 0 {
		first := l.high + 1 // of the numbers that were not seen
		if len(l.gaps) > 0 {
			first = l.gaps[0].From
		}
		row, told := l.offered[first]
		if !told || l.late != nil {
			l.hinted = true
			return
		}
		delete(l.offered, first)
		l.gaps = fill(l.gaps, first)
		l.admit(row)
	}
}

// sighted notes a number that was seen, of a task that is over.
func (l *leader) sighted(seq int64) {
	delete(l.offered, seq)
	if seq <= l.high {
		l.gaps = fill(l.gaps, seq)
		return
	}
	if seq > l.high+1 {
		l.gaps = append(l.gaps, Gap{From: l.high + 1, To: seq - 1})
	}
	l.high = seq
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
	t := &live{
		seq: row.Seq, id: row.ID, lane: l.laneOf(row.Name, row.Versions), created: row.CreatedAt.UnixMicro(),
		immediate: row.Immediate, deferred: row.Deferred, claim: row.Claim, stamped: row.Unblocked, ready: row.UnblockedAt,
	}
	if row.Retry != nil && !row.Immediate { // the client of an immediate task waits: nobody may ask for both
		t.attempts = &attempts{policy: row.Retry, made: row.Attempt}
	}
	t.lane.live++
	l.tasks[t.seq], l.seqs[t.id] = t, t.seq
	unblocked := l.locks.At(row.since()).Admit(t.seq, row.Exclusive, row.Shared)

	switch {
	case row.State != task.Waiting:
		// Only after a takeover: somebody runs it, or did when he was last heard of. What he had acknowledged died with the
		// leadership before.
		t.phase, t.canceling = claimed, row.State == task.Canceling
		t.story = &story{unblocked: row.UnblockedAt, begun: row.StartedAt}
		l.own(l.life(row.Executor, row.Incarnation), t)
		t.known = true
		l.spans.recall(t, row)
	case unblocked && t.attempts != nil && row.RetryAt != nil:
		l.rest(t, row.RetryAt.UnixMicro()-l.clock)
	case unblocked:
		l.makeReady(t)
	case row.Unblocked:
		// The row says that nothing conflicts, the table disagrees. Waiting is the safe side.
		l.log.Error("a task was unblocked beside a conflicting one; it waits again", t.about()...)
	case !t.deferred:
		l.reject(t)
	}
	if t.phase == blocked {
		l.lacking.add(t, t.created)
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
	t.owner, t.known = e, false
	e.claims[t.seq] = t
	e.counted(t.kind(), 1)
}

func (l *leader) disown(t *live) {
	e := t.owner
	if e == nil {
		return
	}
	t.owner = nil
	delete(e.claims, t.seq)
	e.counted(t.kind(), -1)
	if e.line == nil && len(e.claims) == 0 {
		delete(l.executors, e.incarnation)
	}
}

// makeReady puts a task that has all its resources where free slots look.
func (l *leader) makeReady(t *live) {
	t.phase = ready
	t.lane.waiting[t.kind()]++
	if !t.stamped && t.unblocked == 0 {
		t.unblocked = l.now().UnixMicro()
		l.fresh = append(l.fresh, t)
		l.next.undated = append(l.next.undated, t)
	}
	t.lane.push(t)
	l.unserved.add(t, l.readySince(t))
	if t.immediate && !t.deferred {
		l.doubtful = append(l.doubtful, t.lane)
	}
}

// unready takes a task out of what free slots look at, or will when its rest is over. Its entry in the lane stays until it comes to the front.
func (l *leader) unready(t *live) {
	was := t.phase
	t.phase = claimed
	switch was {
	case ready:
		t.lane.fewer(t.kind())
	case resting:
		heap.Remove(&l.resting, t.attempts.at)
	case blocked, claimed:
	}
}

// drop removes a task that is final, and lets those go on that waited for it.
func (l *leader) drop(t *live) {
	if l.tasks[t.seq] != t {
		return
	}
	l.disown(t)
	delete(l.tasks, t.seq)
	delete(l.seqs, t.id)
	l.unready(t)
	l.left(t.lane)
	for _, seq := range l.locks.At(l.time()).Release(t.seq, t.id) {
		if next := l.tasks[seq]; next.phase == blocked {
			l.makeReady(next)
		}
	}
}

// reject ends an immediate task that can't run at once and would not wait.
func (l *leader) reject(t *live) {
	l.next.plan.Reject = append(l.next.plan.Reject, t.seq)
	l.next.plan.rejected = append(l.next.plan.rejected, t)
	l.drop(t)
}

// finish ends a run, in memory now and in the database with the next tick. A failure may not be the end of its task.
func (l *leader) finish(t *live, end End) {
	if end.State == task.Failed && t.again(end.Error) {
		l.retry(t, end.Error)
		return
	}
	end.Seq, end.Claim = t.seq, t.claim
	l.next.plan.Finish = append(l.next.plan.Finish, end)
	l.next.plan.ended = append(l.next.plan.ended, t)
	l.next.release(l.locks, t)
	l.drop(t)
}

// requeue takes back an assignment that did not begin and never will.
func (l *leader) requeue(t *live) {
	l.next.plan.Requeue = append(l.next.plan.Requeue, Back{Seq: t.seq, Claim: t.claim})
	l.next.plan.returned = append(l.next.plan.returned, t)
	l.disown(t)
}

// rememberOver is how long an incarnation that has ended is remembered. A hello asks the database first whether its sender lives,
// and is applied at most some ticks later.
const rememberOver = time.Minute

// gone settles what is left of a life that is over. A missing executor has stopped what it ran: that has failed, and what it had
// not acknowledged did not begin. One that ended in order has nothing left but assignments that it did not take.
func (l *leader) gone(g Gone) {
	if g.Noted {
		l.next.plan.ForgetLives = append(l.next.plan.ForgetLives, g.Incarnation) // with what is settled here, in one transaction
	}
	l.over[g.Incarnation] = l.now() // its hello may be on its way
	e := l.executors[g.Incarnation]
	if e == nil {
		return
	}
	if !g.InOrder {
		l.log.Warn("executor has gone missing", slog.String("executor", e.name), slog.String("incarnation", e.incarnation), slog.Int("running", len(e.claims)))
	}
	l.dismiss(e)
	l.cut(e, errFenced)
	for _, t := range bySeq(e.claims) {
		if g.InOrder || !t.known {
			l.requeue(t)
		} else {
			l.finish(t, End{State: task.Failed, Error: &task.Error{Reason: task.ReasonWorkerMissing, Code: task.CodeMissing}})
		}
	}
	delete(l.executors, g.Incarnation)
}

// match gives ready tasks to free slots, immediate ones first, the oldest first, each to the executor with the most free slots.
func (l *leader) match() {
	for k := range kinds {
		for len(l.next.plan.Claim) < maxClaims {
			c, w := l.nextFor(k)
			if c == nil || l.unsure(w.head(k)) {
				break
			}
			x, t := c.idle(k), w.pop(k)
			l.unready(t)
			l.own(x, t)
			t.number()
			l.next.plan.Claim = append(l.next.plan.Claim, Give{
				Seq: t.seq, Executor: x.name, Incarnation: x.incarnation, Unblocked: l.unblockedAt(t),
			})
			l.next.giving = append(l.next.giving, t)
		}
	}
}

// maxClaims is how many tasks one tick gives away: their arguments, at most 2 MiB each, come back with the claims.
const maxClaims = 1000

// startable reports whether the last match stopped before everything was given away that could be.
func (l *leader) startable() bool {
	for k := range kinds {
		if c, _ := l.nextFor(k); c != nil {
			return true
		}
	}
	return false
}

// nextFor finds the oldest ready task for which there is a free slot, by its lane, and a crew that has one; nil if there is
// none. Of several crews it takes the one with the freest executor.
func (l *leader) nextFor(k kind) (best *crew, where *lane) {
	for _, c := range l.crews {
		x := c.idle(k)
		if x == nil {
			continue
		}
		w := c.oldest(k)
		if w == nil {
			continue
		}
		if best == nil || w.head(k).seq < where.head(k).seq || w == where && x.before(best.idle(k), k) {
			best, where = c, w
		}
	}
	return best, where
}

// rejectUnable ends immediate tasks that nobody connected can run, if they would not wait.
func (l *leader) rejectUnable() {
	doubtful := l.doubtful
	if l.uncertain {
		doubtful = slices.Collect(maps.Values(l.lanes))
	}
	l.uncertain, l.doubtful = false, nil
	for _, w := range doubtful {
		if len(w.ready[immediately]) == 0 || w.able(immediately) {
			continue
		}
		for _, t := range slices.Clone(w.ready[immediately]) {
			if t.phase == ready && !t.deferred {
				l.reject(t)
			}
		}
	}
}

// stampAfter is how long a task waits for a slot, in microseconds, before its row says that it is unblocked. Under load most
// are claimed before, and the claim says it too: an update saved for each.
const stampAfter = 1_000_000

// stamps lists what has been unblocked for a while without being claimed. The end of an exclusive domain task can unblock a
// million tasks: they are stamped by and by, and meanwhile the slots are filled all the same.
func (l *leader) stamps() (stamps []Stamp) {
	until := l.now().UnixMicro() - stampAfter
	for len(l.fresh) > 0 && len(stamps) < l.lookLimit {
		t := l.fresh[0]
		if t.phase == ready && (t.unblocked > until || t.ready == 0) {
			break
		}
		l.fresh[0], l.fresh = nil, l.fresh[1:]
		if t.phase == ready && !t.stamped {
			stamps = append(stamps, Stamp{Seq: t.seq, At: l.unblockedAt(t)})
			t.stamped = true
		}
	}
	return stamps
}

// unblockedAt is when a task was unblocked, in microseconds by the database's clock; 0 if its row says it already, or if it is
// unblocked by the very transaction that is to say so.
func (l *leader) unblockedAt(t *live) int64 {
	switch {
	case t.stamped:
		return 0
	case t.dating:
		return t.unblocked + l.clock // rather too late than too early
	default:
		return t.ready
	}
}

// date notes when tasks were unblocked. If a finish did it, that is when the transaction began that wrote the finish: both have
// the same time.
func (l *leader) date(tasks []*live, at int64) {
	for _, t := range tasks {
		t.ready, t.dating = at, false
	}
}

// given prepares the assignments of what a flight has claimed. What the database did not give was canceled in the same moment.
func (l *leader) given(f *flight, report *Report) (changes []*schedulerv1.Change) {
	now := l.now()
	for _, t := range f.giving {
		c := report.Claimed[t.seq]
		if c == nil {
			l.withdraw(t)
			l.drop(t)
			l.sawEnd(t, End{}, task.Canceled, report.Now)
			changes = append(changes, change(t, task.Canceled))
			continue
		}
		t.claim, t.stamped = c.Claim, true
		l.sawStart(t, c, report.Now)
		if t.attempts != nil {
			t.attempts.made = c.Attempt
		}
		changes = append(changes, change(t, task.Running))
		if t.owner.line == nil {
			l.requeue(t) // it broke before the commit: the executor never heard of it
			continue
		}
		if t.owner.burst {
			l.ask(t.owner)
		}
		l.sent = append(l.sent, delivery{seq: t.seq, claim: t.claim, at: now})
		f.tell(t.owner.line, order{task: t, assign: &taskv1.Assignment{
			TaskId: t.id, Claim: c.Claim, Attempt: c.Attempt, Name: t.lane.name, ArgsJson: c.Args, KwargsJson: c.Kwargs,
			Domain: task.DefaultDomain, CorrelationId: c.CorrelationID, Traceparent: c.Traceparent, GroupId: c.GroupID,
			Immediate: t.immediate, Tracestate: c.Tracestate,
			Timeout: wire.Duration(c.Options.Timeout), ProfileOptions: c.Options.Profile, FileIds: c.Options.Files,
			MaxAttempts: c.Options.Attempts(), CreatedBy: c.Options.CreatedBy,
		}})
	}
	return changes
}

// ended lets out what became of runs, returned assignments, retried and rejected tasks.
func (l *leader) ended(plan *Plan, report *Report) (changes []*schedulerv1.Change) {
	for i, t := range plan.ended {
		l.sawEnd(t, plan.Finish[i], report.Finished[t.seq], report.Now)
		changes = append(changes, change(t, report.Finished[t.seq]))
	}
	for _, t := range plan.returned {
		state := report.Requeued[t.seq]
		changes = append(changes, change(t, state))
		if state == task.Canceled {
			l.drop(t)
			t.canceling = true // it was, whether that was known here or not
			l.sawEnd(t, End{}, task.Canceled, report.Now)
			continue
		}
		t.canceling = false
		if t.attempts != nil {
			t.attempts.made-- // it did not begin
		}
		l.makeReady(t)
	}
	changes = append(changes, l.retried(plan, report)...)
	for _, t := range plan.rejected {
		// By this statement or by a cancel that came before it.
		l.sawEnd(t, End{}, task.Canceled, report.Now)
		changes = append(changes, change(t, task.Canceled))
	}
	return changes
}

// canceled acts on wishes: a task that was not claimed is final already, a running one is told to stop.
func (l *leader) canceled(seqs []int64, at int64) (changes []*schedulerv1.Change) {
	for _, seq := range seqs {
		l.next.plan.ForgetCancels = append(l.next.plan.ForgetCancels, seq)
		t := l.tasks[seq]
		switch {
		case t == nil:
			// It ended before it was seen. A dispatcher's word of it may still be on its way, and must not bring it back.
			l.sighted(seq)
		case t.canceling:
		case t.owner == nil && t.phase != claimed:
			l.drop(t)
			l.sawEnd(t, End{}, task.Canceled, at)
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
		t.owner.line.put(order{cancel: &schedulerv1.Claim{TaskId: t.id, Claim: t.claim}})
	}
}

// lookForAwaited makes the tick look if somebody waits for a task that is not in the memory: it has ended, perhaps in this very
// tick, or was never seen, and only a look can tell.
func (l *leader) lookForAwaited() {
	for _, s := range l.settles {
		if s.looked = s.looked || l.knows(s.ids); !s.looked {
			l.hinted = true
		}
	}
}

// settle answers those who wait for immediate tasks: when each is final, or will not run now but may wait.
func (l *leader) settle(looked bool) {
	if len(l.settles) == 0 {
		return
	}
	ending := make(map[string]bool, len(l.next.plan.rejected)) // and not written yet
	for _, t := range l.next.plan.rejected {
		ending[t.id] = true
	}
	l.settles = slices.DeleteFunc(l.settles, func(s *settle) bool {
		select {
		case <-s.left:
			return true
		default:
		}
		if s.looked = s.looked || looked; !s.looked {
			return false
		}
		for _, id := range s.ids {
			if ending[id] {
				return false
			}
			t := l.tasks[l.seqs[id]]
			if t != nil && (l.canStart(t) || !t.deferred) {
				return false
			}
		}
		close(s.done)
		return true
	})
}

// knows reports whether all of some tasks are in the memory.
func (l *leader) knows(ids []string) bool {
	return !slices.ContainsFunc(ids, func(id string) bool { return l.tasks[l.seqs[id]] == nil })
}

// canStart reports whether a task runs, or somebody connected can run it now, or when a slot gets free.
func (l *leader) canStart(t *live) bool {
	switch t.phase {
	case claimed:
		return true
	case ready:
		return t.lane.able(t.kind())
	case blocked, resting:
		return false
	default:
		return false
	}
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

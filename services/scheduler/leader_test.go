package scheduler

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// stage is a leader on a model database, with one executor that runs tasks "t" on ten slots.
type stage struct {
	t      *testing.T
	db     *modelDatabase
	leader *leader
	now    time.Time
	x      *line
	// heard is all that x was told by the last tick, changes what the followers were.
	heard   []order
	changes []*schedulerv1.Change
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, db: newModel(), now: time.Unix(1000, 0)}
	s.db.now = func() int64 { return s.now.UnixMicro() }
	s.takeOver()
	s.tick()
	return s
}

// takeOver starts a new leadership, which x joins.
func (s *stage) takeOver() {
	s.t.Helper()
	s.lead()
	s.x = join(s.leader, "x", 10, "t")
}

// lead starts a new leadership.
func (s *stage) lead() {
	s.t.Helper()
	s.db.epoch++
	s.leader = newLeader(s.db.epoch, s.db, slog.New(slog.DiscardHandler), func() time.Time { return s.now },
		func(changes []*schedulerv1.Change) { s.changes = append(s.changes, changes...) })
	s.leader.pause = func(policy *task.Retry, _ int32) time.Duration { return policy.Backoff }
	if err := s.leader.load(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// farApart are looks that nobody hints at.
const farApart = time.Hour

// tick ticks until there is nothing more to do at once, and returns the numbers of the tasks that x was given, and acknowledges.
func (s *stage) tick(events ...event) (given []int64) {
	s.t.Helper()
	s.changes = nil
	for more := true; more; events = nil {
		var err error
		if more, err = s.leader.tick(context.Background(), events, farApart); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := check(s.leader); err != nil {
		s.t.Fatal(err)
	}
	s.heard, _, _ = s.x.take()
	report := &schedulerv1.Report{}
	for _, o := range s.heard {
		if o.task != nil {
			given = append(given, o.task.seq)
			report.Acknowledged = append(report.Acknowledged, &schedulerv1.Claim{TaskId: o.assign.GetTaskId(), Claim: o.assign.GetClaim()})
		}
	}
	s.x.hear(report)
	begins, _, _ := s.x.take()
	s.heard = append(s.heard, begins...)
	return given
}

func tRow(exclusive ...string) Row {
	return Row{Name: "t", Exclusive: exclusive, Deferred: true}
}

// offers is what a dispatcher says of rows.
func offers(rows ...*modelRow) offerEvent {
	var e offerEvent
	for _, r := range rows {
		row := r.Row
		row.State, row.Executor, row.Incarnation, row.Claim, row.Unblocked, row.Attempt, row.RetryAt = task.Waiting, "", "", 0, false, 0, nil
		e.rows = append(e.rows, row)
	}
	return e
}

func TestWhatFollowsOnWhatWasSeenIsAdmittedWithoutALook(t *testing.T) {
	s := newStage(t)
	first, second := s.db.add(tRow()), s.db.add(tRow())
	s.db.planned = func(p *Plan) {
		if p.Look {
			t.Error("the leader looked for what it had been told")
		}
	}
	if given := s.tick(offers(second, first)); !slices.Equal(given, []int64{1, 2}) {
		t.Errorf("given: %v", given)
	}
}

// The number before it was taken by a dispatch that may have returned, though nobody has told of it.
func TestWhatWasOfferedAboveAMissingNumberWaitsForALook(t *testing.T) {
	s := newStage(t)
	s.db.add(tRow("a"))
	second := s.db.add(tRow("a"))
	if given := s.tick(offers(second)); !slices.Equal(given, []int64{1}) {
		t.Errorf("given: %v, want what was dispatched first", given)
	}
}

// Below what was seen a number can be missing, too: of a transaction that has ended since.
func TestWhatIsOfferedWhileANumberIsMissingFurtherBelowWaitsForALook(t *testing.T) {
	s := newStage(t)
	late := s.db.begin()
	s.db.insert(late, tRow("a"))
	s.db.add(tRow())
	s.tick(offerEvent{})
	s.db.commit(late) // and nobody tells
	after := s.db.add(tRow("a"))
	if given := s.tick(offers(after)); !slices.Equal(given, []int64{1}) {
		t.Errorf("given: %v, want what was dispatched first", given)
	}
}

func TestWhatFillsAGapIsNotAdmittedBeforeWhatIsMissingInFrontOfIt(t *testing.T) {
	s := newStage(t)
	one, two := s.db.begin(), s.db.begin()
	s.db.insert(one, tRow("a"))
	second := s.db.insert(two, tRow("a"))
	s.db.add(tRow())
	s.tick(offerEvent{})
	s.db.commit(one) // and nobody tells
	s.db.commit(two)
	if given := s.tick(offers(second)); !slices.Equal(given, []int64{1}) {
		t.Errorf("given: %v, want what was dispatched first", given)
	}
}

// After a takeover it is the snapshot of the load that says what may be missing.
func TestWhatIsOfferedAfterATakeoverWaitsForWhatTheLoadCouldNotSee(t *testing.T) {
	s := newStage(t)
	late := s.db.begin()
	s.db.insert(late, tRow("a"))
	s.db.add(tRow())
	s.takeOver()
	s.tick()
	s.db.commit(late) // and nobody tells
	after := s.db.add(tRow("a"))
	if given := s.tick(offers(after)); !slices.Contains(given, 1) || slices.Contains(given, after.Seq) {
		t.Errorf("given: %v, want what was dispatched first", given)
	}
}

// Whatever the order of the wish, the hint and the offer, a task that is over does not come back.
func TestATaskThatWasCanceledBeforeItWasSeenDoesNotComeBack(t *testing.T) {
	s := newStage(t)
	ghost := Row{Name: "unknown", Exclusive: []string{"a"}, Deferred: true}
	row := s.db.add(ghost)
	word := offers(row)
	s.db.cancel(row.Seq)
	s.tick(offerEvent{}) // the wish is seen, and forgotten
	if len(s.db.cancels) != 0 {
		t.Fatal("the wish is still there")
	}
	s.tick(word)
	if len(s.leader.tasks) != 0 {
		t.Error("the task is back")
	}
	// Nor does a leader believe it that has just loaded.
	s.takeOver()
	s.tick(word)
	if len(s.leader.tasks) != 0 {
		t.Error("the task is back after a takeover")
	}
}

// A row that somebody changed by hand, or a restored database: memory and database have parted, so the memory must go.
func TestATickThatChangesLessThanItShouldEndsTheLeadership(t *testing.T) {
	for _, what := range []string{"finish", "requeue", "retry"} {
		s := newStage(t)
		row := s.db.add(retriedRow())
		s.tick(offers(row))
		row.Claim++ // by a foreign hand
		live := s.leader.tasks[row.Seq]
		switch what {
		case "finish":
			s.leader.finish(live, End{State: task.Completed})
		case "requeue":
			s.leader.requeue(live)
		case "retry":
			s.leader.finish(live, End{State: task.Failed, Error: &task.Error{Reason: "broken"}})
		}
		if _, err := s.leader.tick(t.Context(), nil, time.Hour); err == nil {
			t.Errorf("%s: the leader goes on", what)
		}
	}
}

// Whoever waits for an immediate task must not wait for the next periodic look.
func TestWhoWaitsForAnImmediateTaskIsAnsweredAtOnce(t *testing.T) {
	s := newStage(t)
	s.tick(offers(s.db.add(tRow("a"))))
	ask := func(row *modelRow, e offerEvent) bool {
		t.Helper()
		e.settle = &settle{ids: []string{row.ID}, done: make(chan struct{})}
		s.tick(e)
		select {
		case <-e.settle.done:
			return true
		default:
			return false
		}
	}
	blocked := s.db.add(Row{Name: "t", Exclusive: []string{"a"}, Immediate: true})
	if !ask(blocked, offers(blocked)) || blocked.State != task.Canceled {
		t.Errorf("blocked, and would not wait: %s, and nobody is told", blocked.State)
	}
	unable := s.db.add(Row{Name: "unknown", Immediate: true})
	if !ask(unable, offers(unable)) || unable.State != task.Canceled {
		t.Errorf("nobody can run it, and it would not wait: %s, and nobody is told", unable.State)
	}
	found := s.db.add(Row{Name: "unknown", Immediate: true})
	if !ask(found, offerEvent{}) || found.State != task.Canceled {
		t.Errorf("found by a look, nobody can run it, and it would not wait: %s, and nobody is told", found.State)
	}
	over := s.db.add(Row{Name: "t", Immediate: true, Deferred: true})
	s.db.cancel(over.Seq)
	if !ask(over, offers(over)) {
		t.Error("canceled before it was seen: nobody is told")
	}
	if runs := s.db.add(Row{Name: "t", Immediate: true}); ask(runs, offers(runs)) || runs.State != task.Running {
		t.Errorf("it is %s, and counts as settled", runs.State)
	}
}

// A task that waits for a slot is stamped when it has waited for a second, with the time at which its wait began.
func TestWhatWaitsForASlotIsStampedOnceWithTheTimeAtWhichItWasUnblocked(t *testing.T) {
	s := newStage(t)
	s.db.now = func() int64 { return s.now.Add(time.Hour).UnixMicro() } // the clocks need not agree
	row := s.db.add(Row{Name: "unknown", Deferred: true})
	s.tick(offers(row))
	at := s.db.now()
	s.now = s.now.Add(stampAfter*time.Microsecond - time.Microsecond)
	s.tick(offerEvent{})
	if row.Unblocked {
		t.Error("stamped before it was worth it")
	}
	s.now = s.now.Add(time.Microsecond)
	s.tick(offerEvent{})
	if !row.Unblocked || row.unblockedAt != at {
		t.Errorf("stamped %v with %d, want %d", row.Unblocked, row.unblockedAt, at)
	}
	s.db.planned = func(p *Plan) {
		if len(p.Unblock) > 0 {
			t.Error("stamped again")
		}
	}
	s.now = s.now.Add(time.Minute)
	s.tick(offerEvent{})
}

// Whoever hangs up while the claim is written never hears of it, and need not come back for the task to go on.
func TestATaskWhoseExecutorHungUpDuringTheCommitGoesBack(t *testing.T) {
	s := newStage(t)
	row := s.db.add(tRow())
	s.db.between = func() { s.x.close(nil) }
	s.tick(offers(row))
	if row.Attempt != 0 || row.startAt != 0 || row.Claim == 0 {
		t.Errorf("it is %s after claim %d, attempt %d", row.State, row.Claim, row.Attempt)
	}
}

// A late word of what the load could not see makes the leader look: it must not take another for it.
func TestWordOfWhatTheLoadCouldNotSeeIsLookedAfter(t *testing.T) {
	s := newStage(t)
	late := s.db.begin()
	row := s.db.insert(late, tRow())
	s.takeOver()
	s.tick()
	s.db.commit(late)
	if given := s.tick(offers(row)); !slices.Equal(given, []int64{row.Seq}) {
		t.Errorf("given: %v", given)
	}
}

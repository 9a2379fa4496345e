package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// modelRow is a row of the model database.
type modelRow struct {
	Row
	final bool
	xact  uint64
}

// modelDatabase behaves like the statements in store.go, in memory: same guards, same order, all or nothing. Rows are hidden
// until their transaction commits, which may be later than that of a higher seq.
type modelDatabase struct {
	rows    map[int64]*modelRow
	hidden  map[int64]*modelRow
	cancels map[int64]bool
	gone    map[string]Gone
	epoch   int64
	next    int64
	xact    uint64 // the next transaction id
	// begun are transactions that have an id and no number yet.
	begun []uint64
	// snapshots remembers what was visible, by the text that stands for it.
	snapshots map[string]map[int64]bool
	// between happens once, after the next tick has taken its transaction id and before it looks.
	between func()
	// within happens once, between the two statements of the next look: new tasks, then wishes to cancel.
	within func()
	// fail is consumed by the next tick: it says whether the transaction has an effect although it reports an error.
	fail *bool
}

var errModel = errors.New("connection reset")

func newModel() *modelDatabase {
	return &modelDatabase{
		rows: map[int64]*modelRow{}, hidden: map[int64]*modelRow{}, cancels: map[int64]bool{},
		gone: map[string]Gone{}, snapshots: map[string]map[int64]bool{}, xact: 1,
	}
}

func (m *modelDatabase) seqs() []int64 { return slices.Sorted(maps.Keys(m.rows)) }

// oldestOpen is the oldest transaction that has not ended, the asking one among them.
func (m *modelDatabase) oldestOpen(own uint64) uint64 {
	oldest := own
	for _, r := range m.hidden {
		oldest = min(oldest, r.xact)
	}
	for _, xact := range m.begun {
		oldest = min(oldest, xact)
	}
	return oldest
}

// begin gives out a transaction id.
func (m *modelDatabase) begin() uint64 {
	m.xact++
	return m.xact - 1
}

func (m *modelDatabase) Load(_ context.Context, epoch int64, admit func(Row)) (string, error) {
	if epoch != m.epoch {
		return "", ErrDeposed
	}
	snapshot := fmt.Sprint(len(m.snapshots))
	m.snapshots[snapshot] = map[int64]bool{}
	for seq := range m.rows {
		m.snapshots[snapshot][seq] = true
	}
	for _, unblocked := range []bool{true, false} {
		for _, seq := range m.seqs() {
			if r := m.rows[seq]; !r.final && r.Unblocked == unblocked {
				admit(r.Row)
			}
		}
	}
	return snapshot, nil
}

func (m *modelDatabase) Tick(_ context.Context, epoch int64, plan *Plan) (*Report, error) {
	if epoch != m.epoch {
		return nil, ErrDeposed
	}
	fail := m.fail
	m.fail = nil
	if fail != nil && !*fail {
		return nil, errModel
	}
	report := m.apply(plan)
	if fail != nil {
		return nil, errModel
	}
	return report, nil
}

func (m *modelDatabase) apply(plan *Plan) *Report {
	own := m.begin()
	if between := m.between; between != nil {
		m.between = nil
		between()
	}
	report := &Report{Xact: own, Finished: map[int64]task.State{}, Requeued: map[int64]task.State{}}
	for _, end := range plan.Finish {
		if r := m.rows[end.Seq]; r.Claim == end.Claim && (r.State == task.Running || r.State == task.Canceling) {
			if r.State == task.Canceling {
				end.State = task.Canceled
			}
			r.State, r.final = end.State, true
			report.Finished[end.Seq] = end.State
		}
	}
	for _, back := range plan.Requeue {
		if r := m.rows[back.Seq]; r.Claim == back.Claim && (r.State == task.Running || r.State == task.Canceling) {
			if r.State == task.Canceling {
				r.State, r.final = task.Canceled, true
			} else {
				r.State, r.Executor, r.Incarnation = task.Waiting, "", ""
			}
			report.Requeued[back.Seq] = r.State
		}
	}
	for _, seq := range plan.Reject {
		if r := m.rows[seq]; r.State == task.Waiting {
			r.State, r.final = task.Canceled, true
			report.Rejected = append(report.Rejected, seq)
		}
	}
	for _, seq := range plan.Unblock {
		if r := m.rows[seq]; r.State == task.Waiting {
			r.Unblocked = true
		}
	}
	for _, give := range plan.Claim {
		if r := m.rows[give.Seq]; r.State == task.Waiting {
			r.State, r.Unblocked, r.Executor, r.Incarnation = task.Running, true, give.Executor, give.Incarnation
			r.Claim++
			report.Claimed = append(report.Claimed, Claimed{Seq: give.Seq, Claim: r.Claim, Attempt: 1, Args: "[]", Kwargs: "{}"})
		}
	}
	for _, seq := range plan.ForgetCancels {
		delete(m.cancels, seq)
	}
	if plan.Look {
		report.OldestOpen = m.oldestOpen(own)
		after := 0
		for _, seq := range m.seqs() {
			r := m.rows[seq]
			wanted := slices.ContainsFunc(plan.Gaps, func(g Gap) bool { return g.From <= seq && seq <= g.To }) ||
				plan.Late != nil && seq <= plan.Late.High && !m.snapshots[plan.Late.Snapshot][seq]
			if !r.final && seq > plan.After && after < plan.LookLimit {
				after++
				wanted = true
			}
			if !r.final && wanted {
				report.New = append(report.New, r.Row)
			}
		}
		if within := m.within; within != nil {
			m.within = nil
			within()
		}
		report.Cancels = slices.Sorted(maps.Keys(m.cancels))
		report.Cancels = report.Cancels[:min(len(report.Cancels), plan.LookLimit)]
		for _, owner := range plan.Owners {
			if gone, over := m.gone[owner]; over {
				report.Gone = append(report.Gone, gone)
			}
		}
	}
	return report
}

// simExecutor is an executor of the simulation: it keeps what it was given and ends it when told to.
type simExecutor struct {
	name, incarnation string
	line              *line
	held              map[string]int64 // task id to claim
	canceling         map[string]bool
	unconfirmed       map[string]int64
	slots             int
}

// simulation drives one leader after the other against the model database, with everything that can come in between.
type simulation struct {
	t         *rapid.T
	db        *modelDatabase
	leader    *leader
	executors []*simExecutor
	events    []event
	clock     time.Time
	lives     int
	startedAt map[int64]int
	step      int
	lookLimit int
	slow      bool          // what was sent is read later
	returned  map[int64]int // when the dispatch of a task returned
	called    map[int64]int // when it was called
}

func (s *simulation) takeOver() {
	s.db.epoch++
	if s.leader != nil {
		for _, e := range s.executors {
			s.hangUp(e)
		}
	}
	s.events = nil
	s.leader = newLeader(s.db.epoch, s.db, slog.New(slog.DiscardHandler), func() time.Time { return s.clock }, func([]*schedulerv1.Change) {})
	s.leader.lookLimit = s.lookLimit
	if err := s.leader.load(context.Background()); err != nil {
		s.t.Fatalf("load: %v", err)
	}
}

func (s *simulation) hangUp(e *simExecutor) {
	if e.line != nil {
		s.drain(e)
		e.line.close(nil)
		s.events = append(s.events, hangupEvent{line: e.line, from: e.incarnation})
		e.line = nil
	}
}

func (s *simulation) hello(e *simExecutor) {
	if _, over := s.db.gone[e.incarnation]; over {
		return
	}
	e.line = newQueue[*schedulerv1.AcquireResponse]()
	hello := &schedulerv1.Hello{Executor: e.name, Incarnation: e.incarnation, Slots: int32(e.slots), ImmediateSlots: 1, TaskNames: []string{"t"}}
	for id, claim := range e.held {
		hello.Held = append(hello.Held, &schedulerv1.Claim{TaskId: id, Claim: claim})
	}
	for id, claim := range e.unconfirmed {
		hello.Held = append(hello.Held, &schedulerv1.Claim{TaskId: id, Claim: claim})
	}
	s.events = append(s.events, helloEvent{line: e.line, hello: hello})
	for id, claim := range e.unconfirmed {
		s.events = append(s.events, finishEvent{line: e.line, from: e.incarnation, finish: finishMessage(id, claim)})
	}
}

func finishMessage(id string, claim int64) *schedulerv1.Finish {
	return &schedulerv1.Finish{
		Claim:   &schedulerv1.Claim{TaskId: id, Claim: claim},
		Outcome: &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: "null"},
	}
}

// tick runs one tick; after an error the next leader takes over, as the service does it.
func (s *simulation) tick() {
	events := s.events
	s.events = nil
	s.clock = s.clock.Add(time.Second)
	if _, err := s.leader.tick(context.Background(), events, time.Second); err != nil {
		s.takeOver()
	}
	if !s.slow {
		for _, e := range s.executors {
			s.drain(e)
		}
	}
	s.check()
}

// drain lets an executor read its line. What it reads after the line broke never reached it.
func (s *simulation) drain(e *simExecutor) {
	if e.line == nil {
		return
	}
	messages, closed, _ := e.line.take()
	for _, message := range messages {
		switch m := message.GetMessage().(type) {
		case *schedulerv1.AcquireResponse_Assign:
			id := m.Assign.GetTaskId()
			if _, twice := e.held[id]; twice {
				s.t.Fatalf("task %s was given to %s twice", id, e.name)
			}
			e.held[id] = m.Assign.GetClaim()
			s.start(s.seq(id))
		case *schedulerv1.AcquireResponse_Cancel:
			e.canceling[m.Cancel.GetClaim().GetTaskId()] = true
		case *schedulerv1.AcquireResponse_Finished:
			delete(e.unconfirmed, m.Finished.GetClaim().GetTaskId())
		case *schedulerv1.AcquireResponse_Refused:
			id := m.Refused.GetClaim().GetTaskId()
			if claim, running := e.held[id]; running && claim == m.Refused.GetClaim().GetClaim() {
				s.t.Fatalf("claim %d on task %s was refused while %s runs it", claim, id, e.name)
			}
			delete(e.unconfirmed, id)
		}
	}
	if closed {
		e.line = nil
	}
}

func (s *simulation) seq(id string) int64 {
	var seq int64
	if _, err := fmt.Sscanf(id, "task-%d", &seq); err != nil {
		s.t.Fatalf("id %q: %v", id, err)
	}
	return seq
}

// start checks that a task may run now: nothing that conflicts runs, and nothing that conflicts was dispatched before it
// (its dispatch had returned when this one's was called) and is not final.
func (s *simulation) start(seq int64) {
	mine := s.db.rows[seq]
	s.step++
	if _, before := s.startedAt[seq]; before {
		s.t.Fatalf("task %d runs twice", seq)
	}
	s.startedAt[seq] = s.step
	for _, e := range s.executors {
		for id := range e.held {
			if other := s.seq(id); other != seq && conflict(mine, s.db.rows[other]) {
				s.t.Fatalf("tasks %d and %d conflict and run at the same time", other, seq)
			}
		}
	}
	for other, row := range s.db.rows {
		if other != seq && !row.final && s.returned[other] > 0 && s.returned[other] < s.called[seq] && conflict(mine, row) {
			s.t.Fatalf("task %d overtakes %d, which conflicts and was dispatched before", seq, other)
		}
	}
}

func conflict(a, b *modelRow) bool {
	touches := func(exclusive []string, r *modelRow) bool {
		for _, name := range exclusive {
			if slices.Contains(r.Exclusive, name) || slices.Contains(r.Shared, name) {
				return true
			}
		}
		return false
	}
	return touches(a.Exclusive, b) || touches(b.Exclusive, a)
}

// check compares what holds at every moment.
func (s *simulation) check() {
	for seq, t := range s.leader.tasks {
		row := s.db.rows[seq]
		if t.phase == ready && !row.Unblocked && row.State == task.Waiting && !slices.Contains(s.leader.fresh, seq) {
			s.t.Fatalf("task %d is ready, and neither stamped unblocked nor about to be", seq)
		}
		if row.final && !s.db.cancels[seq] {
			s.t.Fatalf("task %d is %s, and the leader, which keeps its place for it, will never hear of it", seq, row.State)
		}
		if t.phase == blocked && !t.deferred && row.State == task.Waiting {
			s.t.Fatalf("task %d is blocked and would not wait, but waits", seq)
		}
	}
	for _, e := range s.executors {
		for id := range e.held {
			seq := s.seq(id)
			if t := s.leader.tasks[seq]; !s.slow && t != nil && t.canceling && e.line != nil && t.owner.line == e.line && !e.canceling[id] {
				s.t.Fatalf("%s was not told that task %d is to be canceled", e.name, seq)
			}
		}
	}
	for seq, row := range s.db.rows {
		for other, with := range s.db.rows {
			if seq < other && !row.final && !with.final && row.State != task.Waiting && with.State != task.Waiting && conflict(row, with) {
				s.t.Fatalf("tasks %d and %d conflict and both are %s and %s", seq, other, row.State, with.State)
			}
		}
	}
}

func (s *simulation) dispatch(immediate, deferred, late bool, exclusive, shared []string) {
	s.db.next++
	seq := s.db.next
	s.step++
	s.called[seq] = s.step
	xact := s.db.begin()
	if n := len(s.db.begun); n > 0 && late {
		xact, s.db.begun = s.db.begun[n-1], s.db.begun[:n-1]
	}
	row := &modelRow{xact: xact, Row: Row{
		Seq: seq, ID: fmt.Sprintf("task-%d", seq), Name: "t", State: task.Waiting, Exclusive: exclusive, Shared: shared,
		Immediate: immediate, Deferred: deferred,
	}}
	if late {
		s.db.hidden[seq] = row
		return
	}
	s.commit(seq, row)
}

func (s *simulation) commit(seq int64, row *modelRow) {
	s.db.rows[seq] = row
	s.step++
	s.returned[seq] = s.step
}

// cancel does what the dispatcher's statement does.
func (s *simulation) cancel(seq int64) {
	row := s.db.rows[seq]
	switch row.State {
	case task.Waiting:
		row.State, row.final = task.Canceled, true
		s.db.cancels[seq] = true
	case task.Running:
		row.State = task.Canceling
		s.db.cancels[seq] = true
	case task.Skipped, task.Completed, task.Failed, task.Canceled, task.Canceling:
	}
}

func (s *simulation) endRun(e *simExecutor, id string) {
	claim := e.held[id]
	delete(e.held, id)
	delete(e.canceling, id)
	e.unconfirmed[id] = claim
	if e.line != nil {
		s.events = append(s.events, finishEvent{line: e.line, from: e.incarnation, finish: finishMessage(id, claim)})
	}
}

func (s *simulation) newExecutor() *simExecutor {
	s.lives++
	e := &simExecutor{
		name: fmt.Sprintf("executor-%d", s.lives), incarnation: fmt.Sprintf("life-%d", s.lives), slots: 1 + s.lives%3,
		held: map[string]int64{}, canceling: map[string]bool{}, unconfirmed: map[string]int64{},
	}
	s.executors = append(s.executors, e)
	return e
}

// die is an executor whose lease ended: it has stopped what it ran, then it is declared missing.
func (s *simulation) die(e *simExecutor) {
	s.hangUp(e)
	clear(e.held)
	clear(e.unconfirmed)
	s.over(e, false)
}

func (s *simulation) over(e *simExecutor, inOrder bool) {
	s.db.gone[e.incarnation] = Gone{Incarnation: e.incarnation, InOrder: inOrder}
	s.executors = slices.DeleteFunc(s.executors, func(x *simExecutor) bool { return x == e })
}

// stop is an executor that ends in order: all that it took over was accepted. What is on its line by now, it does not take.
func (s *simulation) stop(e *simExecutor) {
	if len(e.held)+len(e.unconfirmed) > 0 {
		return
	}
	if e.line != nil {
		e.line.close(nil)
		s.events = append(s.events, hangupEvent{line: e.line, from: e.incarnation})
	}
	s.over(e, true)
}

// Any order of dispatches (late commits among them), cancels, ends, broken lines, deaths, takeovers and database errors
// before and after the commit: conflicting tasks never overlap, none is overtaken, none runs twice, none is lost.
func TestNothingOverlapsOvertakesOrIsLostWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &simulation{
			// Small, so that a look is often not enough.
			lookLimit: rapid.IntRange(1, 5).Draw(t, "look limit"),
			t:         t, db: newModel(), clock: time.Unix(0, 0),
			startedAt: map[int64]int{}, returned: map[int64]int{}, called: map[int64]int{},
		}
		s.takeOver()
		s.hello(s.newExecutor())
		names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 3, rapid.ID)
		t.Repeat(map[string]func(*rapid.T){
			"dispatch": func(t *rapid.T) {
				exclusive := names.Draw(t, "exclusive")
				shared := slices.DeleteFunc(names.Draw(t, "shared"), func(n string) bool { return slices.Contains(exclusive, n) })
				immediate := rapid.IntRange(0, 4).Draw(t, "immediate") == 0
				deferred := !immediate || rapid.Bool().Draw(t, "deferred")
				s.dispatch(immediate, deferred, rapid.IntRange(0, 3).Draw(t, "late") == 0, exclusive, append(shared, "domain"))
			},
			"begin a transaction": func(*rapid.T) { s.db.begun = append(s.db.begun, s.db.begin()) },
			"commit a late one": func(t *rapid.T) {
				if len(s.db.hidden) == 0 {
					t.Skip("none")
				}
				seq := rapid.SampledFrom(slices.Sorted(maps.Keys(s.db.hidden))).Draw(t, "seq")
				s.commit(seq, s.db.hidden[seq])
				delete(s.db.hidden, seq)
			},
			"roll back a late one": func(t *rapid.T) {
				if len(s.db.hidden) == 0 {
					t.Skip("none")
				}
				delete(s.db.hidden, rapid.SampledFrom(slices.Sorted(maps.Keys(s.db.hidden))).Draw(t, "seq"))
			},
			"cancel": func(t *rapid.T) {
				if len(s.db.rows) == 0 {
					t.Skip("none")
				}
				s.cancel(rapid.SampledFrom(s.db.seqs()).Draw(t, "seq"))
			},
			"end a run": func(t *rapid.T) {
				for _, e := range s.executors {
					if len(e.held) > 0 {
						s.endRun(e, slices.Sorted(maps.Keys(e.held))[0])
						return
					}
				}
				t.Skip("none")
			},
			"a late one and its follower begin within a tick": func(t *rapid.T) {
				name := []string{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "exclusive")}
				s.db.between = func() {
					s.dispatch(false, true, true, name, nil)
					s.dispatch(false, true, false, nil, nil)
				}
				s.events = append(s.events, offerEvent{})
				s.tick()
			},
			"a cancel is committed within a look": func(*rapid.T) {
				s.dispatch(false, true, false, []string{"a"}, nil)
				seq := s.db.next
				s.db.within = func() { s.cancel(seq) }
				s.events = append(s.events, offerEvent{})
				s.tick()
			},
			"hint": func(*rapid.T) { s.events = append(s.events, offerEvent{}) },
			"tick": func(*rapid.T) { s.tick() },
			"tick, and what it sent is under way": func(*rapid.T) {
				s.slow = true
				s.tick()
				s.slow = false
			},
			"a line breaks and loses what is on it": func(t *rapid.T) {
				s.each(t, func(e *simExecutor) {
					if e.line != nil {
						_, _, _ = e.line.take() // nobody reads it
					}
					s.hangUp(e)
				})
			},
			"take over":        func(*rapid.T) { s.takeOver() },
			"error before":     func(*rapid.T) { effect := false; s.db.fail = &effect },
			"error after":      func(*rapid.T) { effect := true; s.db.fail = &effect },
			"another one":      func(t *rapid.T) { s.hello(s.newExecutor()) },
			"a line breaks":    func(t *rapid.T) { s.each(t, s.hangUp) },
			"one says hello":   func(t *rapid.T) { s.each(t, func(e *simExecutor) { s.hangUp(e); s.hello(e) }) },
			"an executor dies": func(t *rapid.T) { s.each(t, s.die) },
			"an executor ends": func(t *rapid.T) { s.each(t, s.stop) },
		})
		s.settle()
	})
}

func (s *simulation) each(t *rapid.T, do func(*simExecutor)) {
	if len(s.executors) == 0 {
		t.Skip("none")
	}
	do(s.executors[rapid.IntRange(0, len(s.executors)-1).Draw(t, "which")])
}

// settle lets everything end: then every task must be final.
func (s *simulation) settle() {
	for seq, row := range s.db.hidden {
		s.commit(seq, row)
	}
	clear(s.db.hidden)
	s.db.begun, s.db.fail = nil, nil
	s.hello(s.newExecutor())
	for round := 0; ; round++ {
		for _, e := range s.executors {
			if e.line == nil {
				s.hello(e)
			}
			for _, id := range slices.Sorted(maps.Keys(e.held)) {
				s.endRun(e, id)
			}
		}
		s.tick()
		open := 0
		for _, row := range s.db.rows {
			if !row.final {
				open++
			}
		}
		if open == 0 {
			break
		}
		if round > 10*len(s.db.rows)+20 {
			for seq, row := range s.db.rows {
				if !row.final {
					s.t.Errorf("task %d is still %s: %+v", seq, row.State, row.Row)
				}
			}
			s.t.Fatalf("%d tasks never ended", open)
		}
	}
	for range 3 + 2*len(s.db.rows) {
		s.tick()
	}
	if n := len(s.leader.tasks) + s.leader.locks.Len() + s.leader.locks.Resources(); n != 0 {
		s.t.Fatalf("the memory is not empty when everything has ended: %d tasks, %d in the lock table, %d resources",
			len(s.leader.tasks), s.leader.locks.Len(), s.leader.locks.Resources())
	}
	if len(s.db.cancels) != 0 {
		s.t.Fatalf("wishes to cancel were left over: %v", s.db.cancels)
	}
}

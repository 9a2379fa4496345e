package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// simExecutor is an executor of the simulation: it acknowledges what it is given, begins it when it may, and ends it when told to.
type simExecutor struct {
	name, incarnation string
	names             []string
	versions          map[string]string
	slots             [kinds]int
	line              *line
	epoch             int64              // of the leadership that the line goes to
	held              map[string]*simRun // by task id
	canceling         map[string]bool
	unconfirmed       map[claimKey]*taskv1.Outcome // ended, and the leader has not said that it noted it
	draining          bool
	burst             bool              // it wants to know when nothing is left
	leftAlone         bool              // it was told so, and was given nothing since
	idleSince         int               // step at which it said hello or last ended a run
	slow              bool              // what it says arrives later
	deaf              bool              // it reads nothing
	mute              bool              // it acknowledges nothing
	silent            bool              // it had a time, on this line, in which it acknowledged nothing
	announced         map[claimKey]bool // on this line
}

// simRun is what an executor was given.
type simRun struct {
	assign *taskv1.Assignment
	begun  bool
}

func (r *simRun) claim() claimKey { return claimKey{r.assign.GetTaskId(), r.assign.GetClaim()} }

// begun lists the ids of what an executor runs.
func (e *simExecutor) begun() (ids []string) {
	for _, id := range slices.Sorted(maps.Keys(e.held)) {
		if e.held[id].begun {
			ids = append(ids, id)
		}
	}
	return ids
}

// saying is what an executor has said on a line and the scheduler has not read. On one line they arrive in order or not at all.
type saying struct {
	line   *line
	epoch  int64
	from   string
	report *schedulerv1.Report
}

func (k claimKey) wire() *schedulerv1.Claim { return &schedulerv1.Claim{TaskId: k.id, Claim: k.number} }

func (e *simExecutor) ended() []claimKey {
	return slices.SortedFunc(maps.Keys(e.unconfirmed), func(a, b claimKey) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.number, b.number)) })
}

// letter is what a dispatcher has to say of a transaction that it committed. It can be late, cut, doubled or lost.
type letter struct{ rows []Row }

// waiter is a caller that waits for immediate tasks.
type waiter struct {
	seqs   []int64
	settle *settle
}

// simulation drives one leader after the other against the model database, with everything that can come in between.
type simulation struct {
	t         *rapid.T
	db        *modelDatabase
	leader    *leader
	executors []*simExecutor
	events    []event
	letters   []letter
	words     []saying
	waiters   []waiter
	clock     time.Time     // of the leaders
	skew      time.Duration // how far the database's clock is ahead of it
	lives     int
	row       func(*rapid.T) Row // draws a task
	lookLimit int
	step      int
	slow      bool               // what was sent is read later
	quick     bool               // what was announced is read before the tick is written
	started   map[claimKey]int32 // attempts that began, by claim
	given     map[claimKey]int64 // which leadership made a claim
	promised  map[claimKey]bool  // claims that were acknowledged in time, or named in a hello: they may begin
	failed    map[claimKey]bool  // runs that were reported as failed
	returned  map[int64]int      // when the dispatch of a task returned
	called    map[int64]int      // when it was called
	readyAt   map[int64]int64    // when this leadership found that a task was unblocked
	stamped   map[int64]bool     // the time in the row was compared, or can't be
	noted     map[claimKey]bool  // claims whose end was confirmed
	air       []*simFlight       // ticks that are under way, in the order in which they were sent
	flew      bool               // some were left under way for a while
	overlaps  int                // how many ticks were sent beside others
}

// simFlight is a tick under way. The database does it at some moment, and its answer comes at a later one.
type simFlight struct {
	flight         *flight
	done, returned bool
	report         *Report
	err            error
}

func newSimulation(t *rapid.T) *simulation {
	s := &simulation{
		// Small, so that a look is often not enough.
		lookLimit: rapid.IntRange(1, 5).Draw(t, "look limit"),
		quick:     rapid.Bool().Draw(t, "quick"),
		skew:      rapid.SampledFrom([]time.Duration{0, time.Hour, -time.Hour}).Draw(t, "skew"),
		t:         t, db: newModel(), row: drawRow, clock: time.Unix(1_000_000, 0), started: map[claimKey]int32{}, given: map[claimKey]int64{}, promised: map[claimKey]bool{}, failed: map[claimKey]bool{},
		returned: map[int64]int{}, called: map[int64]int{}, stamped: map[int64]bool{}, noted: map[claimKey]bool{},
	}
	s.db.now = func() int64 { return s.clock.Add(s.skew).UnixMicro() }
	s.db.planned = func(plan *Plan) {
		if !slices.ContainsFunc(s.air, func(f *simFlight) bool { return f.flight.plan == plan }) { // or it was checked when it was sent
			s.planned(plan)
		}
	}
	s.db.fired = func(r *modelRow) {
		s.step++
		s.called[r.Seq], s.returned[r.Seq] = s.step, s.step
	}
	return s
}

func (s *simulation) takeOver() {
	if s.leader != nil {
		s.crash()
		s.leader.disband(s.events)
		for _, e := range s.executors {
			s.hangUp(e)
		}
	}
	s.depose()
}

// depose lets another leader take over. The lines to the one before stay, and it does not know.
func (s *simulation) depose() {
	s.crash()
	s.db.epoch++
	s.events, s.waiters = nil, nil
	// Of what was written by a tick whose answer was lost, nobody knows when it was decided.
	for seq, row := range s.db.rows {
		s.stamped[seq] = s.stamped[seq] || row.unblockedAt != 0
	}
	s.leader, s.readyAt = s.fresh(), map[int64]int64{}
	s.leader.lookLimit = s.lookLimit
	s.check()
}

// fresh is a leader that has loaded what the database has.
func (s *simulation) fresh() *leader {
	l := newLeader(s.db.epoch, s.db, slog.New(slog.DiscardHandler), func() time.Time { return s.clock }, func([]*schedulerv1.Change) {})
	l.pause = func(policy *task.Retry, _ int32) time.Duration { return policy.Backoff }
	if err := l.load(context.Background()); err != nil {
		s.t.Fatalf("load: %v", err)
	}
	return l
}

// hangUp breaks a line. What was on it had arrived.
func (s *simulation) hangUp(e *simExecutor) {
	s.read(e)
	s.cut(e)
}

// cut breaks a line and loses what is on it.
func (s *simulation) cut(e *simExecutor) {
	if e.line == nil {
		return
	}
	e.line.close(nil)
	_, _, _ = e.line.take() // nobody reads it
	s.post(e.epoch, hangupEvent{line: e.line, from: e.incarnation})
	e.line = nil
}

// post puts an event into the inbox of a leadership, if that still is one.
func (s *simulation) post(epoch int64, e event) {
	if epoch == s.db.epoch {
		s.events = append(s.events, e)
	}
}

func (s *simulation) hello(e *simExecutor) {
	if _, over := s.db.gone[e.incarnation]; over {
		return
	}
	e.line, e.epoch, e.silent, e.announced = newLine(), s.db.epoch, e.deaf || e.mute || e.slow, map[claimKey]bool{}
	hello := &schedulerv1.Hello{
		Executor: e.name, Incarnation: e.incarnation, Slots: int32(e.slots[ordinarily]), ImmediateSlots: int32(e.slots[immediately]),
		TaskNames: e.names, Versions: e.versions, Draining: e.draining, Burst: e.burst,
	}
	e.leftAlone, e.idleSince = false, s.step
	report := &schedulerv1.Report{}
	for _, id := range slices.Sorted(maps.Keys(e.held)) {
		claim := e.held[id].claim()
		hello.Held = append(hello.Held, claim.wire())
		s.promised[claim] = true
	}
	for _, claim := range e.ended() {
		hello.Held = append(hello.Held, claim.wire())
		report.Finished = append(report.Finished, &schedulerv1.Finish{Claim: claim.wire(), Outcome: e.unconfirmed[claim]})
	}
	s.events = append(s.events, helloEvent{line: e.line, hello: hello})
	if len(report.GetFinished()) > 0 {
		s.say(e, report)
	}
}

// say has an executor say something on its line.
func (s *simulation) say(e *simExecutor, report *schedulerv1.Report) {
	s.words = append(s.words, saying{line: e.line, epoch: e.epoch, from: e.incarnation, report: report})
	if !e.slow {
		s.arrive(e.line)
	}
}

// arrive brings the scheduler all that was said on a line.
func (s *simulation) arrive(on *line) {
	s.words = slices.DeleteFunc(s.words, func(w saying) bool {
		if w.line != on {
			return false
		}
		for _, claim := range w.report.GetAcknowledged() {
			s.promised[keyOf(claim)] = s.promised[keyOf(claim)] || !on.closed
		}
		for _, finish := range w.report.GetFinished() {
			s.promised[keyOf(finish.GetClaim())] = true
		}
		on.hear(w.report)
		if len(w.report.GetFinished()) > 0 {
			s.post(w.epoch, reportEvent{line: on, from: w.from, report: w.report})
		}
		return true
	})
}

func success() *taskv1.Outcome {
	return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: "null"}
}

func failing(code string) *taskv1.Outcome {
	return &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: "broken", Code: code}}
}

// send sends a tick, beside those that are under way if that may be, and leaves it under way if it may be.
func (s *simulation) send() {
	events := s.events
	s.clock = s.clock.Add(time.Millisecond)
	var f *flight
	switch {
	case len(s.air) == 0:
		s.events = nil
		var err error
		if f, err = s.leader.begin(context.Background(), events, time.Second); err != nil {
			s.takeOver()
			return
		}
		if f == nil {
			s.look()
			return // a glance would be next, which is a tick's
		}
	case s.leader.mayJoin(events, time.Second):
		s.events = nil
		if f = s.leader.join(events); f == nil {
			s.look()
			return
		}
		s.overlaps++
	default:
		return
	}
	s.planned(f.plan)
	s.air = append(s.air, &simFlight{flight: f})
	if s.flew = s.flew || f.light(); !f.light() {
		s.landAll()
	}
	s.look()
}

// look takes note of who was answered, lets the executors read what was sent, and checks what holds then.
func (s *simulation) look() {
	s.waiters = slices.DeleteFunc(s.waiters, s.answered)
	if !s.slow {
		for _, e := range s.executors {
			s.read(e)
		}
	}
	s.check()
}

// do lets the database do a tick that is under way.
func (s *simulation) do(f *simFlight) {
	if !f.done {
		f.done = true
		f.report, f.err = s.db.Tick(context.Background(), s.db.epoch, f.flight.plan)
	}
}

// back brings the answer to a tick. Answers are applied in the order in which the ticks were sent, and the first error ends all.
func (s *simulation) back(f *simFlight) {
	s.do(f)
	f.returned = true
	if f.err != nil {
		s.takeOver()
		return
	}
	for len(s.air) > 0 && s.air[0].returned {
		first := s.air[0]
		s.air = s.air[1:]
		if _, err := s.leader.land(first.flight, first.report, time.Second); err != nil {
			s.t.Fatalf("land: %v", err)
		}
	}
	s.look()
}

// landAll ends all that is under way.
func (s *simulation) landAll() {
	for len(s.air) > 0 {
		s.back(s.air[0])
	}
}

// crash forgets what is under way. Some of it the database does nevertheless: all that it does before the next epoch begins.
func (s *simulation) crash() {
	for _, f := range s.air {
		if rapid.Bool().Draw(s.t, "the database does it nevertheless") {
			s.do(f)
		}
	}
	s.air = nil
}

// aloft are the steps of ticks that overlap.
func (s *simulation) aloft() map[string]func(*rapid.T) {
	flying := func(t *rapid.T) *simFlight { return pick(t, "flight", s.air) }
	undone := func(t *rapid.T) *simFlight {
		return pick(t, "flight", slices.DeleteFunc(slices.Clone(s.air), func(f *simFlight) bool { return f.done }))
	}
	steps := map[string]func(*rapid.T){
		"a tick is done": func(t *rapid.T) { s.do(undone(t)) },
		"a tick fails": func(t *rapid.T) {
			f := undone(t)
			after := rapid.Bool().Draw(t, "after the commit")
			s.db.fail = &after
			s.do(f)
		},
		"an answer comes":      func(t *rapid.T) { s.back(flying(t)) },
		"a tick is sent":       func(*rapid.T) { s.send() },
		"all answers come ":    func(*rapid.T) { s.landAll() },
		"time passes a little": func(*rapid.T) { s.clock = s.clock.Add(time.Millisecond) },
	}
	// Left to chance alone, few histories would come to a follower that is free beside the end of the one before it.
	steps["a run ends, its follower comes beside it, and something fails"] = func(t *rapid.T) {
		s.idle()
		busy := slices.DeleteFunc(slices.Clone(s.executors), func(e *simExecutor) bool { return len(e.begun()) == 0 })
		e := pick(t, "busy executor", busy)
		id := pick(t, "run", e.begun())
		before := s.db.rows[s.seq(id)]
		s.endRun(e, success(), id)
		s.send()
		s.dispatch(Row{Name: before.Name, Exclusive: before.Exclusive, Shared: before.Shared, Versions: before.Versions, Deferred: true})
		s.tellLast()
		s.send()
		if rapid.Bool().Draw(t, "fails") {
			s.takeOver()
		}
	}
	for i := range 3 {
		steps["runs end, tasks come, and a tick is sent"+strings.Repeat(" ", i)] = func(t *rapid.T) {
			if rapid.Bool().Draw(t, "tasks come") {
				x := s.db.begin()
				for range rapid.IntRange(1, 2).Draw(t, "tasks") {
					s.insert(x, s.row(t))
				}
				s.commit(x)
				s.tellLast()
			}
			for _, e := range s.executors {
				if runs := e.begun(); len(runs) > 0 {
					how := rapid.SampledFrom([]*taskv1.Outcome{success(), success(), failing("A")}).Draw(t, "outcome")
					s.endRun(e, how, pick(t, "run", runs))
				}
			}
			s.send()
		}
	}
	return steps
}

// tick runs one tick; after an error the next leader takes over, as the service does it.
func (s *simulation) tick() (more bool) {
	s.landAll()
	events := s.events
	s.events = nil
	s.clock = s.clock.Add(time.Millisecond)
	more, err := s.leader.tick(context.Background(), events, time.Second)
	if err != nil {
		s.takeOver()
		more = true
	}
	s.look()
	return more
}

// idle ticks until there is nothing more to do at once.
func (s *simulation) idle() {
	for n := 0; s.tick() || len(s.events) > 0; n++ {
		if n > 100+20*len(s.db.rows) {
			s.t.Fatalf("the leader is never idle: %+v, %d events", s.leader.next.plan, len(s.events))
		}
	}
	for seq, t := range s.leader.tasks {
		waited := s.clock.UnixMicro() - t.unblocked
		if t.phase == ready && t.unblocked != 0 && waited > stampAfter && !s.db.rows[seq].Unblocked && !s.db.rows[seq].final {
			s.t.Fatalf("task %d has been unblocked for %d µs, and its row does not say so", seq, waited)
		}
		if t.phase == ready && !t.deferred && !s.able(t) {
			s.t.Fatalf("task %d would not wait, nobody can run it, and it waits", seq)
		}
	}
	for _, t := range s.leader.resting {
		if t.attempts.due <= s.clock.UnixMicro() {
			s.t.Fatalf("task %d has rested enough, and rests", t.seq)
		}
	}
	s.checkBursts()
	if sent := s.leader.sent; len(sent) > 0 && s.clock.Sub(sent[0].at) > acknowledgeWithin+time.Second {
		s.t.Fatalf("task %d was given %s ago, and nobody asks whether that was heard", sent[0].seq, s.clock.Sub(sent[0].at))
	}
	for _, w := range s.waiters {
		if len(s.undecided(w)) == 0 {
			s.t.Fatalf("nobody was told that %v are settled", w.seqs)
		}
	}
}

// undecided lists the immediate tasks of a caller that run, can run at once, or are yet to be rejected.
func (s *simulation) undecided(w waiter) (seqs []int64) {
	for _, seq := range w.seqs {
		t, row := s.leader.tasks[seq], s.db.rows[seq]
		if t != nil && !row.final && (t.phase == claimed || t.phase == ready && s.able(t) || !row.Deferred) {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// answered forgets callers that were answered, which must not be while their tasks can still run.
func (s *simulation) answered(w waiter) bool {
	select {
	case <-w.settle.done:
		if seqs := s.undecided(w); len(seqs) > 0 {
			s.t.Fatalf("settled while %v can still run", seqs)
		}
		return true
	default:
		return false
	}
}

// able reports whether somebody the leader knows of could run a task.
func (s *simulation) able(t *live) bool {
	row := s.db.rows[t.seq]
	return slices.ContainsFunc(s.executors, func(e *simExecutor) bool {
		x := s.leader.executors[e.incarnation]
		return x != nil && x.line != nil && !x.draining && e.slots[t.kind()] > 0 && e.can(row)
	})
}

// can reports whether an executor has what a task needs.
func (e *simExecutor) can(row *modelRow) bool {
	return slices.Contains(e.names, row.Name) && task.Satisfies(e.versions, row.Versions)
}

// read lets an executor read its line.
func (s *simulation) read(e *simExecutor) {
	if e.line == nil || e.deaf {
		return
	}
	orders, closed, err := e.line.take()
	if errors.Is(err, errDeaf) && !e.silent {
		s.t.Fatalf("the line of %s was cut, which acknowledged everything", e.name)
	}
	var acknowledged []*schedulerv1.Claim
	err = pack(orders, func(message *schedulerv1.AcquireResponse) error {
		said := message.GetOrders()
		for _, claim := range said.GetAnnounced() {
			acknowledged = append(acknowledged, claim)
			e.announced[keyOf(claim)] = !e.mute
		}
		for _, assign := range said.GetAssign() {
			acknowledged = append(acknowledged, s.assigned(e, assign))
		}
		for _, assign := range said.GetRun() {
			if claim := keyOf(s.assigned(e, assign)); !e.announced[claim] {
				s.t.Fatalf("%v comes to be run, and was not announced or acknowledged", claim)
			}
		}
		for _, claim := range said.GetCancel() {
			s.canceled(e, keyOf(claim))
		}
		for _, confirmed := range said.GetFinished() {
			claim := keyOf(confirmed)
			delete(e.unconfirmed, claim)
			if s.noted[claim] {
				s.t.Fatalf("the end of %v was confirmed twice", claim)
			}
			s.noted[claim] = true
			row := s.db.rows[s.seq(claim.id)]
			recorded := slices.ContainsFunc(row.failures, func(f failure) bool { return f.claim == claim.number })
			if !recorded && (!row.final || row.Claim != claim.number) {
				s.t.Fatalf("the end of %v was confirmed, and is not written", claim)
			}
		}
		for _, refused := range said.GetRefused() {
			id, claim := refused.GetClaim().GetTaskId(), refused.GetClaim().GetClaim()
			if run := e.held[id]; run != nil && run.claim().number == claim {
				if run.begun {
					s.t.Fatalf("claim %d on task %s was refused while %s runs it", claim, id, e.name)
				}
				delete(e.held, id)
			}
			delete(e.unconfirmed, keyOf(refused.GetClaim()))
		}
		if said.GetNothingLeft() {
			if !e.burst || e.leftAlone || len(e.held) > 0 {
				s.t.Fatalf("%s is told that nothing is left: asked %v, told before %v, runs %v", e.name, e.burst, e.leftAlone, e.held)
			}
			e.leftAlone = true
		}
		for _, claim := range said.GetBegin() {
			if run := e.held[claim.GetTaskId()]; run != nil && run.claim() == keyOf(claim) && !run.begun {
				s.start(e, run)
			}
		}
		for _, assign := range said.GetRun() {
			if run := e.held[assign.GetTaskId()]; run != nil && run.assign == assign {
				s.start(e, run)
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatalf("pack: %v", err)
	}
	if len(acknowledged) > 0 && !e.mute {
		s.say(e, &schedulerv1.Report{Acknowledged: acknowledged})
	}
	switch {
	case closed:
		e.line = nil
	case e.line.length() > 0:
		s.read(e) // what it has acknowledged may begin
	}
}

func (s *simulation) seq(id string) int64 {
	var seq int64
	if _, err := fmt.Sscanf(id, "task-%d", &seq); err != nil {
		s.t.Fatalf("id %q: %v", id, err)
	}
	return seq
}

// assigned takes in what an executor is given.
func (s *simulation) assigned(e *simExecutor, assign *taskv1.Assignment) *schedulerv1.Claim {
	run := &simRun{assign: assign}
	if before := e.held[assign.GetTaskId()]; before != nil && before.begun {
		s.t.Fatalf("%s is given %v while it runs %v", e.name, run.claim(), before.claim())
	}
	e.held[assign.GetTaskId()], e.leftAlone = run, false
	return run.claim().wire()
}

// canceled has an executor cancel what it was given. What has not begun ends at once.
func (s *simulation) canceled(e *simExecutor, claim claimKey) {
	e.canceling[claim.id] = true
	if run := e.held[claim.id]; run != nil && run.claim() == claim && !run.begun {
		s.endRun(e, &taskv1.Outcome{State: taskv1.State_STATE_CANCELED, Error: &taskv1.TaskError{Description: "canceled"}}, claim.id)
	}
}

// start checks that a task may run now: the scheduler knows that it may, nothing that conflicts runs, and nothing that conflicts
// was dispatched before it (its dispatch had returned when this one's was called) and is not final.
func (s *simulation) start(e *simExecutor, run *simRun) {
	assign, claim := run.assign, run.claim()
	seq := s.seq(claim.id)
	mine := s.db.rows[seq]
	s.step++
	for before, attempt := range s.started {
		if before.id == claim.id && attempt >= assign.GetAttempt() {
			s.t.Fatalf("task %d runs twice: attempt %d starts after attempt %d", seq, assign.GetAttempt(), attempt)
		}
	}
	if failed := len(mine.failures); assign.GetAttempt() != int32(failed)+1 || claim.number != mine.Claim {
		s.t.Fatalf("task %d begins as attempt %d, claim %d, after %d failures, and its claim is %d", seq, assign.GetAttempt(), claim.number, failed, mine.Claim)
	}
	if mine.State != task.Running && mine.State != task.Canceling || slices.Contains(s.leader.next.plan.Requeue, Back{Seq: seq, Claim: claim.number}) {
		s.t.Fatalf("task %d begins, and is %s, or about to be taken back", seq, mine.State)
	}
	if !s.promised[claim] {
		s.t.Fatalf("%v begins, and nobody has acknowledged it", claim)
	}
	s.started[claim] = assign.GetAttempt()
	for _, e := range s.executors {
		for _, id := range e.begun() {
			if other := s.seq(id); other == seq || conflict(mine, s.db.rows[other]) {
				s.t.Fatalf("tasks %d and %d conflict and run at the same time", other, seq)
			}
		}
	}
	for other, row := range s.db.rows {
		if other != seq && !row.final && row.Attempt > 0 && conflict(mine, row) {
			s.t.Fatalf("task %d starts, and %d, which conflicts, has begun and is not final: it is %s after %d attempts", seq, other, row.State, row.Attempt)
		}
		if other != seq && !row.final && s.returned[other] < s.called[seq] && conflict(mine, row) {
			s.t.Fatalf("task %d overtakes %d, which conflicts and was dispatched before", seq, other)
		}
	}
	run.begun = true
	var running [kinds]int
	for _, id := range e.begun() {
		running[s.kind(s.db.rows[s.seq(id)])]++
	}
	if !e.can(mine) || running[immediately] > e.slots[immediately] || running[ordinarily] > e.slots[ordinarily] {
		s.t.Fatalf("%s can't run task %d: it runs %v of %v", e.name, seq, running, e.slots)
	}
}

func (s *simulation) kind(row *modelRow) kind {
	if row.Immediate {
		return immediately
	}
	return ordinarily
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

// planned checks what is about to be written, when all that was said before is known to the leader.
func (s *simulation) planned(plan *Plan) {
	for to, orders := range s.leader.flights[len(s.leader.flights)-1].outbox {
		if !slices.ContainsFunc(orders, func(o order) bool { return o.nothingLeft }) {
			continue
		}
		// One that has no such line any more hung up, which the leader can't know yet.
		if i := slices.IndexFunc(s.executors, func(e *simExecutor) bool { return e.line == to }); i >= 0 {
			s.checkNothingLeft(s.executors[i], plan.Reject)
		}
	}
	for _, back := range plan.Requeue {
		if claim := (claimKey{s.db.rows[back.Seq].ID, back.Claim}); s.started[claim] > 0 {
			s.t.Fatalf("%v has begun, and is taken back", claim)
		}
	}
	for _, give := range plan.Claim {
		s.given[claimKey{s.db.rows[give.Seq].ID, s.db.rows[give.Seq].Claim + 1}] = s.db.epoch
		i := slices.IndexFunc(s.executors, func(e *simExecutor) bool { return e.incarnation == give.Incarnation })
		if i < 0 {
			continue // it died, and the leader could not know
		}
		if at := s.db.rows[give.Seq].RetryAt; at != nil && at.UnixMicro() > s.db.now() {
			s.t.Fatalf("task %d is to rest until %v", give.Seq, at)
		}
		if e, row := s.executors[i], s.db.rows[give.Seq]; e.line == nil || e.draining || !e.can(row) {
			s.t.Fatalf("task %d is given to %s: connected %v, draining %v, able %v", give.Seq, e.name, e.line != nil, e.draining, e.can(row))
		}
	}
	if s.quick && !s.slow {
		for _, e := range s.executors {
			s.read(e)
		}
	}
}

// checkNothingLeft checks what an executor is about to be told: nothing that was there when it became idle may be left for it.
func (s *simulation) checkNothingLeft(e *simExecutor, rejected []int64) {
	if e.draining || len(e.held) > 0 {
		s.t.Fatalf("%s has %v, drains %v, and is told that nothing is left", e.name, e.held, e.draining)
	}
	for seq, row := range s.db.rows {
		if row.final || s.returned[seq] > e.idleSince {
			continue
		}
		t := s.leader.tasks[seq]
		switch {
		case t == nil && row.State == task.Waiting && !slices.Contains(rejected, seq):
			s.t.Fatalf("%s is told that nothing is left, and task %d was not even looked at", e.name, seq)
		case t != nil && e.mayRun(t, row) && (t.phase == ready || t.phase == resting || t.phase == claimed && t.owner == nil):
			s.t.Fatalf("%s is told that nothing is left, and could run task %d, which is in phase %d", e.name, seq, t.phase)
		}
	}
}

func (e *simExecutor) mayRun(t *live, row *modelRow) bool { return e.can(row) && e.slots[t.kind()] > 0 }

// checkBursts checks, when the leader is idle, that nobody waits in vain to be told that nothing is left.
func (s *simulation) checkBursts() {
	for _, e := range s.executors {
		x := s.leader.executors[e.incarnation]
		if !e.burst || e.leftAlone || e.deaf || e.draining || e.line == nil || x == nil || x.line != e.line || len(x.claims) > 0 {
			continue
		}
		if !slices.ContainsFunc(s.leader.resting, func(t *live) bool { return e.mayRun(t, s.db.rows[t.seq]) }) {
			s.t.Fatalf("nothing is left for %s, and it was not told", e.name)
		}
	}
}

// check compares what holds at every moment.
func (s *simulation) check() {
	if err := check(s.leader); err != nil {
		s.t.Fatal(err)
	}
	for seq, t := range s.leader.tasks {
		row := s.db.rows[seq]
		if _, wished := s.db.cancels[seq]; row.final && !wished {
			s.t.Fatalf("task %d is %s, and the leader, which keeps its place for it, will never hear of it", seq, row.State)
		}
		if t.phase == blocked && !t.deferred && row.State == task.Waiting {
			s.t.Fatalf("task %d is blocked and would not wait, but waits", seq)
		}
		if a := t.attempts; (a != nil) != (row.Retry != nil) || a != nil && t.phase != claimed && a.made != row.Attempt {
			s.t.Fatalf("task %d has made %d attempts, the leader believes in %+v", seq, row.Attempt, a)
		}
		if t.stamped && !row.Unblocked && !row.final {
			s.t.Fatalf("task %d counts as stamped, and is not", seq)
		}
		s.checkTimes(t, row)
	}
	for _, e := range s.executors {
		for id := range e.held {
			seq := s.seq(id)
			if t := s.leader.tasks[seq]; !s.slow && !e.deaf && t != nil && t.canceling && e.line != nil && t.owner.line == e.line && !e.canceling[id] {
				s.t.Fatalf("%s was not told that task %d is to be canceled", e.name, seq)
			}
		}
	}
	s.checkRunning()
}

// checkTimes checks that a row says when its task was unblocked.
func (s *simulation) checkTimes(t *live, row *modelRow) {
	if t.phase == blocked {
		return
	}
	if s.readyAt[t.seq] == 0 {
		s.readyAt[t.seq] = s.clock.UnixMicro()
	}
	if row.unblockedAt == 0 || s.stamped[t.seq] {
		return
	}
	s.stamped[t.seq] = true
	// The clocks are compared by a tick's answer, so the comparison is wrong by the time until the database did the tick. That is none
	// unless it was left under way.
	want := s.readyAt[t.seq] + s.skew.Microseconds()
	if row.unblockedAt < want || row.unblockedAt > want && !s.flew {
		s.t.Fatalf("task %d was unblocked at %d, its row says %d", t.seq, want, row.unblockedAt)
	}
}

// checkRunning checks that what runs by the database may run.
func (s *simulation) checkRunning() {
	running := map[string][kinds]int{}
	var active []*modelRow
	for _, seq := range s.db.seqs() {
		row := s.db.rows[seq]
		if row.startAt != 0 && (row.unblockedAt == 0 || row.unblockedAt > row.startAt || row.unblockedAt < row.createdAt) {
			s.t.Fatalf("task %d was dispatched at %d, unblocked at %d and started at %d", seq, row.createdAt, row.unblockedAt, row.startAt)
		}
		s.checkFailures(row)
		if row.final || row.Attempt == 0 {
			continue
		}
		// It runs, or rests between two attempts, or is ready for the next one.
		for _, other := range active {
			if conflict(row, other) {
				s.t.Fatalf("tasks %d and %d conflict and both are %s and %s", other.Seq, seq, other.State, row.State)
			}
		}
		active = append(active, row)
		if row.State == task.Waiting {
			continue
		}
		if ended := (claimKey{row.ID, row.Claim}); slices.ContainsFunc(s.executors, func(e *simExecutor) bool { return e.unconfirmed[ended] != nil }) {
			continue // the slot is free, whether or not that was written
		}
		n := running[row.Incarnation]
		n[s.kind(row)]++
		running[row.Incarnation] = n
	}
	for _, e := range s.executors {
		if n := running[e.incarnation]; n[immediately] > e.slots[immediately] || n[ordinarily] > e.slots[ordinarily] {
			s.t.Fatalf("%s runs %v on %v slots", e.name, n, e.slots)
		}
	}
}

// checkFailures checks that what failed did, and was tried again as long as its policy says so, and no longer.
func (s *simulation) checkFailures(row *modelRow) {
	if row.State == task.Failed {
		gone := s.db.gone[row.Incarnation]
		lost := gone.Incarnation != "" && !gone.InOrder
		claim := claimKey{row.ID, row.Claim}
		if !s.failed[claim] && (!lost || row.failure.Code != task.CodeMissing) {
			s.t.Fatalf("task %d failed with %s, its executor is lost %v", row.Seq, row.failure.Code, lost)
		}
		s.checkLost(claim, row.failure.Code)
		if row.Retry.Again(row.Attempt, row.failure) {
			s.t.Fatalf("task %d failed for good with %s in attempt %d under %+v", row.Seq, row.failure.Code, row.Attempt, row.Retry)
		}
	}
	for i, f := range row.failures {
		if f.attempt != int32(i)+1 || !row.Retry.Again(f.attempt, &task.Error{Code: f.code}) {
			s.t.Fatalf("task %d was tried again after %+v under %+v", row.Seq, f, row.Retry)
		}
		s.checkLost(claimKey{row.ID, f.claim}, f.code)
		if f.code != task.CodeMissing && !s.failed[claimKey{row.ID, f.claim}] {
			s.t.Fatalf("task %d is said to have failed under claim %d", row.Seq, f.claim)
		}
	}
	if missing := row.Attempt - int32(len(row.failures)); missing < 0 || missing > 1 || row.State == task.Waiting && missing > 0 {
		s.t.Fatalf("task %d is %s after %d attempts, of which %d are recorded", row.Seq, row.State, row.Attempt, len(row.failures))
	}
}

// checkLost checks that what failed with its executor had been acknowledged. Only of what an earlier leadership gave nobody knows.
func (s *simulation) checkLost(claim claimKey, code string) {
	if code == task.CodeMissing && !s.promised[claim] && s.given[claim] == s.db.epoch {
		s.t.Fatalf("%v failed with its executor, and had not even been acknowledged", claim)
	}
}

// compare makes the leader look until it has seen all there is, and compares its memory with that of a leader which has just
// loaded: who lives, and who is blocked.
func (s *simulation) compare() {
	s.leader.thoroughAt = time.Time{}
	s.events = append(s.events, offerEvent{})
	s.idle()
	mine, other := s.leader, s.fresh()
	// Behind what became visible late and has a lower number, an immediate task may not be free any more.
	for _, seq := range other.next.plan.Reject {
		if t := mine.tasks[seq]; t == nil || t.phase != ready || t.deferred || !s.overtook(mine, seq) {
			s.t.Fatalf("task %d would be rejected by a takeover", seq)
		}
	}
	got, want := slices.Sorted(maps.Keys(mine.tasks)), slices.Collect(maps.Keys(other.tasks))
	want = append(want, other.next.plan.Reject...)
	if slices.Sort(want); !slices.Equal(got, want) {
		s.t.Fatalf("the leader knows %v, the database has %v, and wishes to cancel %v", got, want, s.db.cancels)
	}
	for _, l := range []*leader{mine, other} {
		for _, t := range l.resting {
			if due := s.db.rows[t.seq].RetryAt.Add(-s.skew).UnixMicro(); t.attempts.due < due || t.attempts.due > due && !s.flew {
				s.t.Fatalf("task %d is to rest until %d, and does until %d", t.seq, due, t.attempts.due)
			}
		}
		queue := admitted(l)
		for i, seq := range queue {
			older := slices.IndexFunc(queue[:i], func(o int64) bool { return conflict(s.db.rows[o], s.db.rows[seq]) })
			if blocks := l.tasks[seq].phase == blocked; blocks != (older >= 0) {
				s.t.Fatalf("in the queue %v task %d is blocked %v", queue, seq, blocks)
			}
		}
	}
	if slices.Equal(admitted(mine), admitted(other)) {
		return
	}
	// Tasks that became visible late stand behind in the one and in front in the other. What runs, or could, still does.
	for seq, t := range mine.tasks {
		if o := other.tasks[seq]; t.phase != blocked && s.db.rows[seq].Unblocked && (o == nil || o.phase == blocked) {
			s.t.Fatalf("task %d is unblocked, and would not be after a takeover", seq)
		}
	}
}

// overtook reports whether a task was admitted before a conflicting one with a lower number.
func (s *simulation) overtook(l *leader, seq int64) bool {
	queue := admitted(l)
	return slices.ContainsFunc(queue[slices.Index(queue, seq):], func(other int64) bool {
		return other < seq && conflict(s.db.rows[other], s.db.rows[seq])
	})
}

// admitted lists the tasks of a leader in the order of admission: all of them name the domain.
func admitted(l *leader) (seqs []int64) {
	queue, _ := l.locks.Resource("domain", len(l.tasks))
	for _, request := range slices.Concat(queue.Holders, queue.Waiters) {
		seqs = append(seqs, request.Seq)
	}
	return seqs
}

// insert takes a number for a task, in a transaction that is open.
func (s *simulation) insert(x *transaction, row Row) {
	r := s.db.insert(x, row)
	s.step++
	s.called[r.Seq] = s.step
}

// commit ends a transaction; its dispatches have returned, and a letter to the leader is on its way.
func (s *simulation) commit(x *transaction) {
	s.db.commit(x)
	s.step++
	var rows []Row
	for _, r := range x.rows {
		s.returned[r.Seq] = s.step
		rows = append(rows, r.Row)
	}
	if len(rows) > 0 {
		s.letters = append(s.letters, letter{rows: rows})
	}
}

// dispatch stores one task, committed at once.
func (s *simulation) dispatch(row Row) int64 {
	x := s.db.begin()
	s.insert(x, row)
	s.commit(x)
	return x.rows[0].Seq
}

// deliver hands rows to the leader. Who dispatched the immediate ones of them may wait for their fate.
func (s *simulation) deliver(rows []Row, wait bool) {
	e := offerEvent{rows: rows}
	if wait {
		w := waiter{settle: &settle{done: make(chan struct{})}}
		for _, row := range rows {
			if row.Immediate {
				w.seqs, w.settle.ids = append(w.seqs, row.Seq), append(w.settle.ids, row.ID)
			}
		}
		if len(w.seqs) > 0 {
			e.settle, s.waiters = w.settle, append(s.waiters, w)
		}
	}
	s.events = append(s.events, e)
}

func (s *simulation) endRun(e *simExecutor, outcome *taskv1.Outcome, ids ...string) {
	report := &schedulerv1.Report{}
	for _, id := range ids {
		claim := e.held[id].claim()
		delete(e.held, id)
		delete(e.canceling, id)
		e.unconfirmed[claim], e.idleSince = outcome, s.step
		s.failed[claim] = outcome.GetState() == taskv1.State_STATE_FAILED
		report.Finished = append(report.Finished, &schedulerv1.Finish{Claim: claim.wire(), Outcome: outcome})
	}
	if e.line != nil {
		s.say(e, report)
	}
}

func (s *simulation) newExecutor(names []string, versions map[string]string, slots [kinds]int) *simExecutor {
	s.lives++
	e := &simExecutor{
		name: fmt.Sprintf("executor-%d", s.lives), incarnation: fmt.Sprintf("life-%d", s.lives), names: names, versions: versions,
		slots: slots, held: map[string]*simRun{}, canceling: map[string]bool{}, unconfirmed: map[claimKey]*taskv1.Outcome{},
	}
	s.executors = append(s.executors, e)
	return e
}

// die is an executor whose lease ended: it has stopped what it ran, then it is declared missing.
func (s *simulation) die(e *simExecutor) {
	s.cut(e)
	s.over(e, false)
}

func (s *simulation) over(e *simExecutor, inOrder bool) {
	s.db.end(Gone{Incarnation: e.incarnation, InOrder: inOrder})
	s.executors = slices.DeleteFunc(s.executors, func(x *simExecutor) bool { return x == e })
}

// forget loses what was said on a line, and with that the line.
func (s *simulation) forget(on *line) {
	s.words = slices.DeleteFunc(s.words, func(w saying) bool { return w.line == on })
	for _, e := range s.executors {
		if e.line == on {
			s.cut(e)
		}
	}
}

// stop is an executor that ends in order: all that it took over was accepted. What is on its line by now, it does not take.
func (s *simulation) stop(e *simExecutor) {
	if len(e.held)+len(e.unconfirmed) == 0 {
		s.cut(e)
		s.over(e, true)
	}
}

// drawRow draws a task.
func drawRow(t *rapid.T) Row {
	few := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2, rapid.ID)
	row := Row{Exclusive: few.Draw(t, "exclusive"), Name: rapid.SampledFrom([]string{"t", "t", "t", "u", "v"}).Draw(t, "name")}
	row.Shared = slices.DeleteFunc(few.Draw(t, "shared"), func(n string) bool { return slices.Contains(row.Exclusive, n) })
	if rapid.IntRange(0, 9).Draw(t, "whole domain") == 0 {
		row.Exclusive = append(row.Exclusive, "domain")
	} else {
		row.Shared = append(row.Shared, "domain")
	}
	if needs := rapid.SampledFrom([]string{"", "", "", "1", "2"}).Draw(t, "needs"); needs != "" {
		row.Versions = map[string]string{"core": needs}
	}
	row.Immediate = rapid.IntRange(0, 3).Draw(t, "immediate") == 0
	row.Deferred = !row.Immediate || rapid.Bool().Draw(t, "deferred")
	if !row.Immediate && rapid.Bool().Draw(t, "retried") {
		row.Retry = drawRetry(t)
	}
	return row
}

func drawRetry(t *rapid.T) *task.Retry {
	pause := rapid.SampledFrom([]time.Duration{0, time.Millisecond, 50 * time.Millisecond, 10 * time.Second}).Draw(t, "pause")
	return &task.Retry{
		Attempts: rapid.Int32Range(2, 4).Draw(t, "attempts"), Backoff: pause, MaxBackoff: pause,
		On: rapid.SampledFrom([][]string{nil, nil, {"A", task.CodeMissing}, {"B"}}).Draw(t, "on"),
	}
}

func (s *simulation) drawExecutor(t *rapid.T) *simExecutor {
	names := rapid.SampledFrom([][]string{{"t"}, {"t"}, {"t", "u"}, {"u", "v"}, {"t", "u", "v"}}).Draw(t, "names")
	versions := rapid.SampledFrom([]map[string]string{nil, {"core": "1"}, {"core": "2"}}).Draw(t, "versions")
	e := s.newExecutor(names, versions, [kinds]int{
		immediately: rapid.IntRange(0, 2).Draw(t, "immediate slots"), ordinarily: rapid.IntRange(0, 3).Draw(t, "slots"),
	})
	e.burst = rapid.Bool().Draw(t, "burst")
	return e
}

// pick draws one of some, and skips the step if there is none.
func pick[T any](t *rapid.T, what string, from []T) T {
	if len(from) == 0 {
		t.Skip("no " + what)
	}
	return from[rapid.IntRange(0, len(from)-1).Draw(t, what)]
}

// dispatchers are the steps that store tasks and tell of them.
func (s *simulation) dispatchers() map[string]func(*rapid.T) {
	whole := func(t *rapid.T) {
		x := s.db.begin()
		for range rapid.IntRange(1, 3).Draw(t, "tasks") {
			s.insert(x, s.row(t))
		}
		s.commit(x)
	}
	told := func(t *rapid.T) {
		whole(t)
		s.deliver(s.letters[len(s.letters)-1].rows, rapid.Bool().Draw(t, "wait"))
	}
	return map[string]func(*rapid.T){
		"dispatch":              whole,
		"dispatch and tell":     told,
		"dispatch, tell, again": func(t *rapid.T) { told(t); told(t) },
		"begin":                 func(*rapid.T) { s.db.begin() },
		"take a number":         func(t *rapid.T) { s.insert(pick(t, "open", s.db.open), s.row(t)) },
		"take a number in a new one": func(t *rapid.T) {
			s.insert(s.db.begin(), s.row(t))
		},
		"commit":          func(t *rapid.T) { s.commit(pick(t, "open", s.db.open)) },
		"commit and tell": func(t *rapid.T) { s.commit(pick(t, "open", s.db.open)); s.tellLast() },
		"roll back":       func(t *rapid.T) { s.db.rollBack(pick(t, "open", s.db.open)) },
		"tell": func(t *rapid.T) {
			s.deliver(pick(t, "letter", s.letters).rows, rapid.Bool().Draw(t, "wait"))
		},
		"tell a part": func(t *rapid.T) {
			rows := pick(t, "letter", s.letters).rows
			from := rapid.IntRange(0, len(rows)-1).Draw(t, "from")
			s.deliver(rows[from:rapid.IntRange(from+1, len(rows)).Draw(t, "to")], rapid.Bool().Draw(t, "wait"))
		},
		"lose a letter": func(t *rapid.T) {
			lost := pick(t, "letter", s.letters)
			s.letters = slices.DeleteFunc(s.letters, func(l letter) bool { return &l.rows[0] == &lost.rows[0] })
		},
		"hint": func(*rapid.T) { s.events = append(s.events, offerEvent{}) },
		"cancel": func(t *rapid.T) {
			s.db.cancel(pick(t, "task", slices.DeleteFunc(s.db.seqs(), func(seq int64) bool { return s.db.rows[seq].final })))
		},
		"a cancel takes minutes": func(t *rapid.T) {
			seq := pick(t, "task", slices.DeleteFunc(s.db.seqs(), func(seq int64) bool { return s.db.rows[seq].final }))
			if s.db.cancel(seq); s.db.cancels[seq] != 0 {
				s.db.cancels[seq] -= 2 * time.Minute.Microseconds()
			}
		},
		"dispatch and cancel, and tell of the task": func(t *rapid.T) {
			seq := s.dispatch(s.row(t))
			s.db.cancel(seq)
			s.deliver([]Row{s.letters[len(s.letters)-1].rows[0]}, rapid.Bool().Draw(t, "wait"))
		},
		"a late one and its follower begin within a tick": func(t *rapid.T) {
			late, follower := s.row(t), s.row(t)
			s.db.between = func() {
				x := s.db.begin()
				s.insert(x, late)
				s.dispatch(follower)
			}
			s.events = append(s.events, offerEvent{})
			s.tick()
		},
		"a commit and its follower within a tick": func(t *rapid.T) {
			x, follower := pick(t, "open", s.db.open), s.row(t)
			hook := &s.db.between
			if rapid.Bool().Draw(t, "after the look for new tasks") {
				hook = &s.db.within
			}
			*hook = func() {
				s.commit(x)
				s.dispatch(follower)
				s.tellLast()
			}
			s.tick()
			*hook = nil
		},
		"a cancel is committed within a look": func(t *rapid.T) {
			seq := s.dispatch(s.row(t))
			s.db.within = func() { s.db.cancel(seq) }
			s.events = append(s.events, offerEvent{})
			s.tick()
		},
		"a commit within a load": func(t *rapid.T) {
			x, follower := pick(t, "open", s.db.open), s.row(t)
			s.db.loading = func() {
				s.commit(x)
				s.dispatch(follower)
			}
			s.takeOver()
			s.tellLast()
		},
	}
}

// tellLast delivers the youngest letter.
func (s *simulation) tellLast() {
	if n := len(s.letters); n > 0 {
		s.deliver(s.letters[n-1].rows, false)
	}
}

// connected are the steps of executors.
func (s *simulation) connected() map[string]func(*rapid.T) {
	one := func(t *rapid.T) *simExecutor { return pick(t, "executor", s.executors) }
	outcome := func(t *rapid.T) *taskv1.Outcome {
		return failing(rapid.SampledFrom([]string{"A", "B", task.CodePermanent}).Draw(t, "code"))
	}
	busy := func(t *rapid.T) *simExecutor {
		return pick(t, "busy executor", slices.DeleteFunc(slices.Clone(s.executors), func(e *simExecutor) bool { return len(e.begun()) == 0 }))
	}
	return map[string]func(*rapid.T){
		"end a run": func(t *rapid.T) {
			e := busy(t)
			s.endRun(e, success(), pick(t, "run", e.begun()))
		},
		"end all runs": func(t *rapid.T) {
			e := busy(t)
			s.endRun(e, success(), e.begun()...)
		},
		"a run fails": func(t *rapid.T) {
			e := busy(t)
			s.endRun(e, outcome(t), pick(t, "run", e.begun()))
		},
		"all runs fail": func(t *rapid.T) {
			e := busy(t)
			s.endRun(e, outcome(t), e.begun()...)
		},
		"a cancel is committed when the failure is known and not written": func(t *rapid.T) {
			e := busy(t)
			id := pick(t, "run", e.begun())
			s.endRun(e, outcome(t), id)
			s.db.between = func() { s.db.cancel(s.seq(id)) }
			s.tick()
			s.db.between = nil
		},
		"what rests is canceled": func(t *rapid.T) {
			s.db.cancel(pick(t, "resting", slices.DeleteFunc(s.db.seqs(), func(seq int64) bool {
				return s.db.rows[seq].State != task.Waiting || s.db.rows[seq].RetryAt == nil
			})))
		},
		"an end is reported twice": func(t *rapid.T) {
			e := busy(t)
			s.endRun(e, rapid.SampledFrom([]*taskv1.Outcome{success(), failing("A")}).Draw(t, "outcome"), pick(t, "run", e.begun()))
			s.hangUp(e)
			s.hello(e)
		},
		"another one":              func(t *rapid.T) { s.hello(s.drawExecutor(t)) },
		"a line breaks":            func(t *rapid.T) { s.hangUp(one(t)) },
		"a line breaks, with loss": func(t *rapid.T) { s.cut(one(t)) },
		"a line breaks in a commit": func(t *rapid.T) {
			e := one(t)
			s.db.between = func() { s.cut(e) }
			s.tick()
			s.db.between = nil
		},
		"one says hello": func(t *rapid.T) { e := one(t); s.hangUp(e); s.hello(e) },
		"one says hello on another line": func(t *rapid.T) {
			e := one(t)
			s.read(e)
			s.hello(e)
		},
		"one says hello on another line, with loss": func(t *rapid.T) { s.hello(one(t)) },
		"an executor dies":                          func(t *rapid.T) { s.die(one(t)) },
		"an executor dies, and its line stays":      func(t *rapid.T) { s.over(one(t), false) },
		"an executor dies, and nobody notes it": func(t *rapid.T) {
			e := one(t)
			s.die(e)
			delete(s.db.notes, e.incarnation)
		},
		"one is slow to be heard": func(t *rapid.T) { e := one(t); e.slow, e.silent = true, true },
		"one is quick to be heard again": func(t *rapid.T) {
			e := one(t)
			e.slow = false
			s.arrive(e.line)
		},
		"what was said arrives": func(t *rapid.T) { s.arrive(pick(t, "word", s.words).line) },
		"what was said is lost": func(t *rapid.T) { s.forget(pick(t, "word", s.words).line) },
		"what was given is acknowledged when the line was just cut": func(t *rapid.T) {
			e := one(t)
			s.arrive(e.line)
			e.slow, e.silent = true, true
			s.dispatch(s.row(t))
			s.tellLast()
			s.tick()
			s.clock = s.clock.Add(acknowledgeWithin + time.Second)
			on := e.line
			s.db.between = func() { s.arrive(on) }
			s.tick()
			s.db.between = nil
			e.slow = false
			s.arrive(e.line)
		},
		"what was said arrives in a commit": func(t *rapid.T) {
			word := pick(t, "word", s.words)
			s.db.between = func() { s.arrive(word.line) }
			s.tick()
			s.db.between = nil
		},
		"an executor ends": func(t *rapid.T) { s.stop(one(t)) },
		"an executor drains": func(t *rapid.T) {
			if e := one(t); e.line != nil {
				e.draining = true
				s.events = append(s.events, drainEvent{from: e.incarnation})
			}
		},
		"one goes deaf": func(t *rapid.T) { e := one(t); e.deaf, e.silent = true, true },
		"one goes mute": func(t *rapid.T) { e := one(t); e.mute, e.silent = true, true },
		"one is cured":  func(t *rapid.T) { e := one(t); e.deaf, e.mute = false, false },
	}
}

// leaders are the steps of schedulers, of their database and of time.
func (s *simulation) leaders() map[string]func(*rapid.T) {
	before, after := false, true
	return map[string]func(*rapid.T){
		"tick": func(*rapid.T) { s.tick() },
		"tick, and what it sent is under way": func(*rapid.T) {
			s.slow = true
			s.tick()
			s.slow = false
			for _, e := range s.executors {
				e.silent = true
			}
		},
		"be idle":  func(*rapid.T) { s.idle() },
		"be idle ": func(*rapid.T) { s.idle() }, // twice as often
		"compare with what a takeover would load": func(*rapid.T) { s.compare() },
		"take over":                            func(*rapid.T) { s.takeOver() },
		"take over from one who does not know": func(*rapid.T) { s.depose() },
		"error before": func(*rapid.T) {
			s.db.fail = &before
			s.tick()
		},
		"error after": func(*rapid.T) {
			s.db.fail = &after
			s.tick()
		},
		"the next transaction fails": func(*rapid.T) { s.db.fail = &before },
		"the next answer is lost":    func(*rapid.T) { s.db.fail = &after },
		"time passes": func(t *rapid.T) {
			s.clock = s.clock.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, 50 * time.Millisecond, time.Second - time.Millisecond, time.Second, 11 * time.Second}).Draw(t, "time"))
		},
	}
}

// Any order of dispatches by several dispatchers (late commits and lost, doubled and belated word of them), cancels, ends,
// broken lines, deaf and dying executors, takeovers and database errors before and after the commit: conflicting tasks never
// overlap, none is overtaken, none runs twice, none is lost, and nobody is given what he can't run.
func TestNothingOverlapsOvertakesOrIsLostWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulation(t)
		s.takeOver()
		s.hello(s.newExecutor([]string{"t"}, nil, [kinds]int{1, 2}))
		steps := s.dispatchers()
		maps.Copy(steps, s.schedules())
		maps.Copy(steps, s.connected())
		maps.Copy(steps, s.leaders())
		maps.Copy(steps, s.aloft())
		t.Repeat(steps)
		s.settle()
	})
}

// The same with nothing but what makes ticks overlap: small tasks in each other's way that end and come while others are written,
// answers in any order, transactions that fail beside others that don't, and what can't wait for it.
func TestTicksThatOverlapStandByThemselves(t *testing.T) {
	overlaps := 0
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulation(t)
		s.row = drawRetried
		s.takeOver()
		s.hello(s.newExecutor([]string{"t"}, nil, [kinds]int{1, 2}))
		s.hello(s.newExecutor([]string{"t"}, nil, [kinds]int{1, 2}))
		all := s.dispatchers()
		maps.Copy(all, s.connected())
		maps.Copy(all, s.leaders())
		steps := s.aloft()
		for _, name := range []string{
			"cancel", "a line breaks", "a line breaks, with loss", "one says hello", "an executor dies", "another one", "hint", "be idle",
			"a run fails", "end a run", "dispatch and tell", "take over", "an end is reported twice", "commit and tell", "time passes",
			"take a number in a new one", "compare with what a takeover would load",
		} {
			steps[name] = all[name]
		}
		t.Repeat(steps)
		s.settle()
		overlaps += s.overlaps
	})
	if overlaps == 0 {
		t.Error("no ticks overlapped")
	}
}

// drawRetried draws a task that is likely to stand in another's way, and to be tried again.
func drawRetried(t *rapid.T) Row {
	row := Row{Name: "t", Deferred: true, Shared: []string{"domain"}}
	both := rapid.SampledFrom([][2][]string{{{"a"}, nil}, {{"a"}, nil}, {{"b"}, {"a"}}, {nil, {"a"}}, {{"a", "b"}, nil}, {nil, nil}}).Draw(t, "resources")
	row.Exclusive, row.Shared = both[0], append(row.Shared, both[1]...)
	if rapid.IntRange(0, 3).Draw(t, "retried") > 0 {
		row.Retry = drawRetry(t)
	}
	return row
}

// The same with what matters to tasks that fail: many failures, of tasks in each other's way. One that is tried again keeps its
// place: nothing that conflicts starts before it is final, and it is tried as often as its policy says, after each pause.
func TestARetriedTaskKeepsItsPlaceWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulation(t)
		s.row = drawRetried
		s.takeOver()
		s.hello(s.newExecutor([]string{"t"}, nil, [kinds]int{1, 3}))
		all, steps := s.dispatchers(), map[string]func(*rapid.T){}
		maps.Copy(all, s.connected())
		maps.Copy(all, s.leaders())
		for name, weight := range map[string]int{
			"a run fails": 3, "all runs fail": 1, "a cancel is committed when the failure is known and not written": 1, "what rests is canceled": 1,
			"dispatch and tell": 3, "take a number in a new one": 1, "commit and tell": 1, "cancel": 1, "end a run": 1, "an end is reported twice": 1,
			"another one": 1, "an executor dies": 1, "an executor ends": 1, "a line breaks, with loss": 1, "a line breaks in a commit": 1, "one says hello": 1,
			"tick": 1, "be idle": 4, "time passes": 3, "take over": 1, "error before": 1, "error after": 1, "compare with what a takeover would load": 1,
		} {
			for i := range weight {
				steps[name+strings.Repeat(" ", i)] = all[name]
			}
		}
		// Left to chance alone, few histories would come to a second attempt.
		for i := range 4 {
			steps["tasks come, run and fail"+strings.Repeat(" ", i)] = func(t *rapid.T) {
				all["dispatch and tell"](t)
				s.idle()
				all["all runs fail"](t)
				if rapid.Bool().Draw(t, "what follows is written") {
					s.idle()
				}
			}
			steps["what rested runs and fails"+strings.Repeat(" ", i)] = func(t *rapid.T) {
				s.clock = s.clock.Add(rapid.SampledFrom([]time.Duration{50 * time.Millisecond, 10 * time.Second}).Draw(t, "time"))
				s.idle()
				all["a run fails"](t)
			}
		}
		t.Repeat(steps)
		s.settle()
	})
}

// settle lets everything end: then every task must be final.
func (s *simulation) settle() {
	s.landAll()
	s.db.fail, s.db.between, s.db.within, s.db.loading = nil, nil, nil, nil
	for _, x := range slices.Clone(s.db.open) {
		s.commit(x)
	}
	for _, e := range s.executors {
		e.deaf, e.mute, e.slow = false, false, false
		s.arrive(e.line)
	}
	s.settleSchedules()
	s.compare()
	s.hello(s.newExecutor([]string{"t", "u", "v"}, map[string]string{"core": "3"}, [kinds]int{1, 1}))
	for round := 0; s.unfinished(); round++ {
		if round > 10*len(s.db.rows)+20 {
			s.t.Fatalf("%d tasks never ended: %v", len(s.leader.tasks), slices.Sorted(maps.Keys(s.leader.tasks)))
		}
		for _, e := range s.executors {
			if e.line == nil || e.epoch != s.db.epoch {
				s.hello(e)
			}
			if runs := e.begun(); len(runs) > 0 {
				s.endRun(e, success(), runs...)
			}
		}
		s.clock = s.clock.Add(time.Second)
		s.idle()
	}
	s.quiet()
}

func (s *simulation) unfinished() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(s.db.rows)), func(r *modelRow) bool { return !r.final })
}

// quiet checks what is left when everything has ended.
func (s *simulation) quiet() {
	// What was said of the tasks comes once more, now that all of them are over.
	for _, l := range s.letters {
		s.deliver(l.rows, true)
	}
	s.idle()
	s.clock = s.clock.Add(thoroughEvery)
	s.idle() // one look after the last word
	if n := len(s.waiters); n > 0 {
		s.t.Fatalf("%d callers wait for tasks that are over", n)
	}
	l := s.leader
	if n := len(l.tasks) + l.locks.Len() + l.locks.Resources() + len(l.lanes) + len(l.offered) + len(l.gaps) + len(l.fresh) + len(l.resting) + len(l.bursts); n != 0 || l.late != nil {
		s.t.Fatalf("the memory is not empty when everything has ended: %d tasks, %d in the lock table, %d resources, %d lanes, %d offered, gaps %v, %d fresh, %d resting, %d who wait for the end, late %v",
			len(l.tasks), l.locks.Len(), l.locks.Resources(), len(l.lanes), len(l.offered), l.gaps, len(l.fresh), len(l.resting), len(l.bursts), l.late)
	}
	if len(s.db.cancels)+len(s.db.notes) != 0 {
		s.t.Fatalf("wishes to cancel, or notes of lives, were left over: %v, %v", s.db.cancels, s.db.notes)
	}
	ticks, glances := s.db.ticks, s.db.glances
	if s.tick(); s.db.ticks != ticks || s.db.glances != glances {
		s.t.Fatal("the leader writes or looks when there is nothing to do")
	}
	s.clock = s.clock.Add(time.Second)
	if s.tick(); s.db.ticks != ticks || s.db.glances != glances+1 {
		s.t.Fatalf("after a second of doing nothing it looks %d times and %d times more closely, want a glance", s.db.glances-glances, s.db.ticks-ticks)
	}
	for seq, row := range s.db.rows {
		last, started := s.started[claimKey{row.ID, row.Claim}]
		if row.State == task.Completed && (!started || row.Attempt != last) || started && row.Attempt != last {
			s.t.Fatalf("task %d is %s after %d attempts, the last that started under its claim is %d", seq, row.State, row.Attempt, last)
		}
	}
}

package scheduler

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// begin makes a tick when nothing is under way, which must be one that others may join.
func (s *stage) begin(events ...event) *flight {
	s.t.Helper()
	f, err := s.leader.begin(context.Background(), events, farApart)
	if err != nil || f == nil || !f.light() {
		s.t.Fatalf("made %+v, %v", f, err)
	}
	return f
}

// join makes a tick beside those that are under way.
func (s *stage) join(events ...event) *flight {
	s.t.Helper()
	if !s.leader.mayJoin(events, farApart) {
		s.t.Fatal("it may not join")
	}
	f := s.leader.join(events)
	if f != nil && !f.plan.Beside {
		s.t.Fatal("it may change the lease, as may the one that is under way")
	}
	return f
}

// land lets the database do a tick, and applies the answer.
func (s *stage) land(f *flight) (given []int64) {
	s.t.Helper()
	report, err := s.db.Tick(context.Background(), s.db.epoch, f.plan)
	if err == nil {
		_, err = s.leader.land(f, report, farApart)
	}
	if err == nil {
		err = check(s.leader)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return s.acknowledge()
}

// acknowledge reads what x was told, and acknowledges what it was given.
func (s *stage) acknowledge() (given []int64) {
	s.heard, _, _ = s.x.take()
	report := &schedulerv1.Report{}
	for _, o := range s.heard {
		if o.task != nil {
			given = append(given, o.task.seq)
			report.Acknowledged = append(report.Acknowledged, &schedulerv1.Claim{TaskId: o.assign.GetTaskId(), Claim: o.assign.GetClaim()})
		}
	}
	s.x.hear(report)
	_, _, _ = s.x.take()
	return given
}

// claims lists what a tick gives away.
func claims(f *flight) (seqs []int64) {
	if f == nil {
		return nil
	}
	for _, give := range f.plan.Claim {
		seqs = append(seqs, give.Seq)
	}
	return seqs
}

// narrow is a stage on which x has that many slots.
func narrow(t *testing.T, slots int32) *stage {
	t.Helper()
	s := &stage{t: t, db: newModel(), now: time.Unix(1000, 0)}
	s.db.now = func() int64 { return s.now.UnixMicro() }
	s.lead()
	s.x = join(s.leader, "x", slots, "t")
	s.tick()
	return s
}

// The end of what was in the way may not be committed, and the claim be.
func TestWhatWaitedForAnEndUnderWayIsNotGivenAwayBesideIt(t *testing.T) {
	s := narrow(t, 2)
	first, second := s.db.add(tRow("a")), s.db.add(tRow("b"))
	s.tick(offers(first, second))
	older := s.db.add(tRow()) // takes the slot of the first
	behind := s.db.add(tRow("a"))
	s.tick(offers(older, behind))
	f := s.begin(s.ends(first, success()))
	if got := claims(f); !slices.Equal(got, []int64{older.Seq}) {
		t.Fatalf("given with the first end: %v", got)
	}
	beside := s.join(s.ends(second, success()))
	if got := claims(beside); len(got) > 0 {
		t.Fatalf("given beside it: %v", got)
	}
	s.land(f)
	s.land(beside)
	if given := s.tick(); !slices.Equal(given, []int64{behind.Seq}) {
		t.Errorf("given when both are written: %v", given)
	}
}

// The lock table has forgotten the one that was in the way, the database may not.
func TestWhatComesAfterAnEndUnderWayIsNotGivenAwayBesideIt(t *testing.T) {
	for _, c := range []struct {
		what                            string
		had, shared, wants, alsoAShared []string
		given                           bool
	}{
		{what: "the same", had: []string{"a"}, wants: []string{"a"}},
		{what: "another one", had: []string{"a"}, wants: []string{"b"}, given: true},
		{what: "nothing", had: []string{"a"}, given: true},
		{what: "to share what one had alone", had: []string{"a"}, alsoAShared: []string{"a"}},
		{what: "to have alone what one shared", shared: []string{"a"}, wants: []string{"a"}},
		{what: "to share what one shared", shared: []string{"a"}, alsoAShared: []string{"a"}, given: true},
	} {
		s := newStage(t)
		row := tRow(c.had...)
		row.Shared = c.shared
		first := s.db.add(row)
		s.tick(offers(first))
		f := s.begin(s.ends(first, success()))
		row = tRow(c.wants...)
		row.Shared = c.alsoAShared
		after := s.db.add(row)
		beside := s.join(offers(after))
		if got := claims(beside); slices.Equal(got, []int64{after.Seq}) != c.given {
			t.Errorf("%s: given beside it: %v", c.what, got)
		}
		s.land(f)
		if beside != nil {
			s.land(beside)
		}
		s.tick()
		if after.State != task.Running {
			t.Errorf("%s: it is %s when both are written", c.what, after.State)
		}
	}
}

// Both may run at once, so neither was in the other's way.
func TestWhoSharesWithAnEndUnderWayIsGivenAwayBesideIt(t *testing.T) {
	s := newStage(t)
	shares := Row{Name: "t", Shared: []string{"a"}, Deferred: true}
	first := s.db.add(shares)
	s.tick(offers(first))
	f := s.begin(s.ends(first, success()))
	after := s.db.add(shares)
	if got := claims(s.join(offers(after))); !slices.Equal(got, []int64{after.Seq}) {
		t.Errorf("given beside it: %v", got)
	}
	s.land(f)
}

// Two had been in the way, and the end of each is written by a tick of its own: the one that makes it ready is not the only one that
// has to be committed.
func TestWhatWaitedForTwoEndsWaitsForBoth(t *testing.T) {
	s := newStage(t)
	first, second := s.db.add(tRow("a")), s.db.add(tRow("b"))
	both := s.db.add(tRow("a", "b"))
	s.tick(offers(first, second, both))
	f := s.begin(s.ends(first, success()))
	beside := s.join(s.ends(second, success()))
	if got := claims(beside); len(got) > 0 {
		t.Fatalf("given beside the first end: %v", got)
	}
	s.land(f)
	s.land(beside)
	if given := s.tick(); !slices.Equal(given, []int64{both.Seq}) {
		t.Errorf("given when both are written: %v", given)
	}
}

// The memory does not know the claim because its end is under way. If that is not written the executor must still have it.
func TestARefusalLeavesAfterWhatItRestsOn(t *testing.T) {
	s := newStage(t)
	row := s.db.add(tRow())
	s.tick(offers(row))
	end := s.ends(row, success())
	f := s.begin(end)
	beside := s.join(end)
	if beside == nil || len(beside.outbox) == 0 || beside.plan.writes() {
		t.Fatalf("made %+v", beside)
	}
	if got, _, _ := s.x.take(); len(got) > 0 {
		t.Fatalf("told before anything is written: %v", got)
	}
	s.land(f)
	if len(s.heard) != 1 || s.heard[0].finished == nil {
		t.Errorf("told of the end: %+v", s.heard)
	}
	s.land(beside)
	if len(s.heard) != 1 || s.heard[0].refused == nil {
		t.Errorf("told of its repetition: %+v", s.heard)
	}
}

// Before the database has given the claim its number no executor can name it: not by the number of the claim before.
func TestAClaimUnderWayCannotBeEndedByTheOneBefore(t *testing.T) {
	s := newStage(t)
	retried := tRow()
	retried.Retry = &task.Retry{Attempts: 3}
	row, other := s.db.add(retried), s.db.add(tRow())
	s.tick(offers(row, other))
	again := s.ends(row, success())
	f := s.begin(s.ends(row, failing("A")))
	s.land(f)
	f = s.begin() // its second attempt
	if got := claims(f); !slices.Equal(got, []int64{row.Seq}) {
		t.Fatalf("given: %v", got)
	}
	beside := s.join(again, s.ends(other, success()))
	if got := beside.plan.Finish; len(got) != 1 || got[0].Seq != other.Seq {
		t.Errorf("ended: %v", got)
	}
	s.land(f)
	s.land(beside)
	if row.State != task.Running || row.Attempt != 2 {
		t.Errorf("it is %s in attempt %d", row.State, row.Attempt)
	}
}

// A claim that is under way has no number by which it could be taken back.
func TestALineThatBreaksWhileTwoTicksAreUnderWayIsMendedAfterBoth(t *testing.T) {
	s := newStage(t)
	first := s.db.add(tRow())
	f := s.begin(offers(first))
	second := s.db.add(tRow())
	beside := s.join(offers(second))
	s.x.close(nil)
	s.land(f)
	if got := s.leader.next.plan.Requeue; len(got) > 0 {
		t.Errorf("taken back while a claim is under way: %v", got)
	}
	third := s.db.add(tRow())
	if s.leader.mayJoin([]event{offers(third)}, farApart) {
		t.Error("something more is given to who is gone")
	}
	s.land(beside)
	if got, want := s.leader.next.plan.Requeue, []Back{{first.Seq, 1}, {second.Seq, 1}}; !slices.Equal(got, want) {
		t.Errorf("taken back: %v, want %v", got, want)
	}
}

func TestOnlyEndsAndOffersJoinATickUnderWay(t *testing.T) {
	s := newStage(t)
	row, other := s.db.add(tRow()), s.db.add(tRow())
	s.tick(offers(row))
	light := s.ends(row, success())
	hangup := hangupEvent{line: s.x, from: "life of x"}
	f := s.begin(offers(other))
	for what, events := range map[string][]event{
		"nothing": {}, "a hint": {light, offerEvent{}}, "a hangup": {light, hangup}, "a drain": {light, drainEvent{}},
		"a question": {light, askEvent(func(*leader) {})}, "a hello": {helloEvent{line: newLine()}, light},
		"somebody who waits": {offerEvent{rows: []Row{other.Row}, settle: &settle{}}},
		"one that does not":  {offerEvent{rows: []Row{other.Row, {Immediate: true}}}},
	} {
		if s.leader.mayJoin(events, farApart) {
			t.Errorf("%s: it may join", what)
		}
	}
	for what, l := range map[string]func(){
		"a look is due":        func() { s.now = s.now.Add(time.Hour) },
		"a look was hinted at": func() { s.leader.hinted = true },
		"somebody waits":       func() { s.leader.settles = []*settle{{}} },
		"a schedule is due":    func() { s.leader.due = s.now },
		"executors have come":  func() { s.leader.uncertain = true },
	} {
		now, before := s.now, *s.leader
		if l(); s.leader.mayJoin([]event{light}, farApart) {
			t.Errorf("%s: it may join", what)
		}
		s.now, *s.leader = now, before
	}
	s.join(light)
	third := offers(s.db.add(tRow()))
	if !s.leader.mayJoin([]event{third}, farApart) {
		t.Error("a third may not be beside two small ones")
	}
	s.join(third)
	if s.leader.mayJoin([]event{offers(s.db.add(tRow()))}, farApart) {
		t.Error("there are more under way than may be")
	}
	s.land(f)
}

func TestAThirdTickIsForSmallOnes(t *testing.T) {
	s := newStage(t)
	var rows []*modelRow
	for range 30 {
		rows = append(rows, s.db.add(tRow()))
	}
	s.begin(offers(rows[:5]...))
	s.join(offers(rows[5:10]...))
	if s.leader.mayJoin([]event{offers(rows[10:]...)}, farApart) {
		t.Error("two with ten changes are under way, and a third may be")
	}
}

// Each tick costs a commit: one that is small beside what is under way waits for more.
func TestOneOfManyDoesNotJoin(t *testing.T) {
	s := newStage(t)
	row := s.db.add(tRow())
	s.tick(offers(row))
	var rows []*modelRow
	for range 9 {
		rows = append(rows, s.db.add(tRow()))
	}
	s.begin(offers(rows...))
	if s.leader.mayJoin([]event{s.ends(row, success())}, farApart) {
		t.Error("a tick of one joins one of nine")
	}
	five := offers(rows...).rows[:5]
	if !s.leader.mayJoin([]event{offerEvent{rows: five}}, farApart) {
		t.Error("a tick of five may not join one of nine")
	}
}

// gate is a store whose ticks return when the test says so.
type gate struct {
	*modelDatabase
	asked   chan *Plan
	answers map[*Plan]chan error
}

func (g *gate) Tick(ctx context.Context, epoch int64, plan *Plan) (*Report, error) {
	answer := g.answers[plan]
	g.asked <- plan
	if err := <-answer; err != nil {
		return nil, err
	}
	return g.modelDatabase.Tick(ctx, epoch, plan)
}

// twoUnderWay sends the assignments of two tasks with a tick each.
func twoUnderWay(t *testing.T) (s *stage, sky *air, g *gate, flights [2]*flight) {
	s = newStage(t)
	g = &gate{modelDatabase: s.db, asked: make(chan *Plan, maxFlights), answers: map[*Plan]chan error{}}
	s.leader.store = g
	sky = newAir(time.Hour)
	t.Cleanup(sky.drain)
	flights[0] = s.begin(offers(s.db.add(tRow())))
	flights[1] = s.join(offers(s.db.add(tRow())))
	for _, f := range flights {
		g.answers[f.plan] = make(chan error, 1)
	}
	for _, f := range flights {
		sky.start(t.Context(), s.leader, f)
	}
	<-g.asked
	<-g.asked
	return s, sky, g, flights
}

func TestAnAnswerThatComesFirstWaitsForTheOneBeforeIt(t *testing.T) {
	s, sky, g, flights := twoUnderWay(t)
	g.answers[flights[1].plan] <- nil
	if _, err := sky.land(s.leader, <-sky.returns, farApart); err != nil {
		t.Fatal(err)
	}
	if got := s.acknowledge(); len(got) > 0 {
		t.Errorf("given before what was sent before: %v", got)
	}
	g.answers[flights[0].plan] <- nil
	if _, err := sky.land(s.leader, <-sky.returns, farApart); err != nil {
		t.Fatal(err)
	}
	if got := s.acknowledge(); !slices.Equal(got, []int64{1, 2}) || sky.flying != 0 {
		t.Errorf("given: %v", got)
	}
}

// Whether the later one was committed does not matter: nothing of it leaves.
func TestNothingLeavesAfterATickThatFailed(t *testing.T) {
	for _, failing := range []int{0, 1} {
		s, sky, g, flights := twoUnderWay(t)
		g.answers[flights[failing].plan] <- errModel
		if _, err := sky.land(s.leader, <-sky.returns, farApart); !errors.Is(err, errModel) {
			t.Fatalf("landed with %v", err)
		}
		g.answers[flights[1-failing].plan] <- nil
		sky.drain()
		if got := s.acknowledge(); len(got) > 0 || sky.flying != 0 {
			t.Errorf("given: %v", got)
		}
	}
}

// What is taken out is not counted any more when callers are turned away because too many wait.
func TestWhatCannotBeSentStaysInTheInbox(t *testing.T) {
	s, sky, g, flights := twoUnderWay(t)
	if !sky.room(s.leader, nil) {
		t.Error("two are small, and a third tick may not be made")
	}
	flights[0].plan.Claim = append(flights[0].plan.Claim, make([]Give, smallFlights)...) // pretend
	if sky.room(s.leader, nil) {
		t.Error("a third tick may be made")
	}
	flights[0].plan.Claim = flights[0].plan.Claim[:1]
	for _, f := range flights {
		g.answers[f.plan] <- nil
		if _, err := sky.land(s.leader, <-sky.returns, farApart); err != nil {
			t.Fatal(err)
		}
	}
	if !sky.room(s.leader, make([]event, maxHeld-1)) || sky.room(s.leader, make([]event, maxHeld)) {
		t.Error("not as many are taken out as may be held")
	}
}

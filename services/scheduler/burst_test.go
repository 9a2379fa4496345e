package scheduler

import (
	"slices"
	"testing"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// burst is a hello of x that wants to be told when nothing is left.
func (s *stage) burst(change func(*schedulerv1.Hello)) event {
	hello := &schedulerv1.Hello{Executor: "x", Incarnation: "life of x", Slots: 10, ImmediateSlots: 1, TaskNames: []string{"t"}, Burst: true, Line: 1}
	if change != nil {
		change(hello)
	}
	s.x = newLine()
	return helloEvent{line: s.x, hello: hello}
}

// told counts how often x was told by the last tick that nothing is left.
func (s *stage) told() (times int) {
	for _, o := range s.heard {
		if o.nothingLeft {
			times++
		}
	}
	return times
}

func TestWhoHasNothingLeftIsToldOnceEachTime(t *testing.T) {
	s := newStage(t)
	first := s.db.add(tRow()) // nobody tells of it: only a look can find it
	s.given("after the hello", s.tick(s.burst(nil)), first)
	if s.told() != 0 {
		t.Error("told while it has a task")
	}
	s.tick(s.ends(first, success()))
	if n := s.told(); n != 1 {
		t.Errorf("told %d times when the task has ended", n)
	}
	s.tick(offerEvent{})
	if s.told() != 0 {
		t.Error("told again, and it was given nothing since")
	}

	// Its task has dispatched another, and nobody has told of it.
	next := s.db.add(tRow())
	s.given("later", s.tick(offers(next)), next)
	child := s.db.add(tRow())
	s.given("when that has ended", s.tick(s.ends(next, success())), child)
	if s.told() != 0 {
		t.Error("told while there was something that only a look could find")
	}
	s.tick(s.ends(child, success()))
	if n := s.told(); n != 1 {
		t.Errorf("told %d times when the next ones have ended", n)
	}

	s.tick(s.burst(func(h *schedulerv1.Hello) { h.Line = 2 }))
	if n := s.told(); n != 1 {
		t.Errorf("told %d times on another line, where it can't know", n)
	}
}

func TestOnlyWhoAskedAndWantsTasksIsToldThatNothingIsLeft(t *testing.T) {
	for name, change := range map[string]func(*schedulerv1.Hello){
		"it did not ask":    func(h *schedulerv1.Hello) { h.Burst = false },
		"it wants no tasks": func(h *schedulerv1.Hello) { h.Draining = true },
	} {
		s := newStage(t)
		s.tick(s.burst(change))
		s.tick(offerEvent{})
		if s.told() != 0 {
			t.Errorf("told, though %s", name)
		}
	}
	s := newStage(t)
	row := s.db.add(tRow())
	s.tick(s.burst(nil))
	s.tick(drainEvent{from: "life of x"})
	s.tick(s.ends(row, success()))
	if s.told() != 0 {
		t.Error("told, though it drains")
	}
}

// A look that is full has not found all there was.
func TestAFullLookIsNotEnoughToSayThatNothingIsLeft(t *testing.T) {
	s := newStage(t)
	s.leader.lookLimit = 2
	for range 5 {
		s.db.add(Row{Name: "unknown", Deferred: true})
	}
	last := s.db.add(tRow())
	looks := 0
	s.db.planned = func(p *Plan) {
		if p.Look {
			looks++
		}
		for _, orders := range s.leader.flights[0].outbox {
			if slices.ContainsFunc(orders, func(o order) bool { return o.nothingLeft }) {
				t.Errorf("told after %d looks", looks)
			}
		}
	}
	s.given("after the hello", s.tick(s.burst(nil)), last)
}

func TestARestThatItCouldRunAfterIsLeft(t *testing.T) {
	s := newStage(t)
	ask := retriedRow("a")
	ask.Retry.Attempts = 2
	row := s.db.add(ask)
	s.tick(s.burst(nil))
	s.tick(s.ends(row, failing("A")))
	if s.told() != 0 {
		t.Error("told while its task rests")
	}
	// Who can't run it has nothing left.
	y := newLine()
	s.tick(helloEvent{line: y, hello: &schedulerv1.Hello{Executor: "y", Incarnation: "life of y", Slots: 1, TaskNames: []string{"u"}, Burst: true}})
	if orders, _, _ := y.take(); !slices.ContainsFunc(orders, func(o order) bool { return o.nothingLeft }) {
		t.Error("who can't run it waits for it")
	}
	s.now = s.now.Add(rest)
	s.given("after the rest", s.tick(), row)
	s.tick(s.ends(row, failing("A")))
	if n := s.told(); n != 1 {
		t.Errorf("told %d times after the last attempt", n)
	}
}

func TestARestThatIsCanceledIsNotLeft(t *testing.T) {
	s := newStage(t)
	row := s.db.add(retriedRow())
	s.tick(s.burst(nil))
	s.tick(s.ends(row, failing("A")))
	s.db.cancel(row.Seq)
	s.tick(offerEvent{})
	if n := s.told(); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// Pulp's workers don't wait for the end of what others run either.
func TestWhatWaitsForOthersIsNotLeft(t *testing.T) {
	s := newStage(t)
	y := join(s.leader, "y", 1, "u")
	s.tick(offers(s.db.add(Row{Name: "u", Exclusive: []string{"a"}, Deferred: true})))
	if orders, _, _ := y.take(); !slices.ContainsFunc(orders, func(o order) bool { return o.assign != nil }) {
		t.Fatalf("y heard %v", orders)
	}
	s.tick(offers(s.db.add(tRow("a")), s.db.add(Row{Name: "unknown", Deferred: true})))
	s.tick(s.burst(nil))
	if n := s.told(); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// What others were given and never took comes back: that is left.
func TestWhatComesBackFromOthersIsLeft(t *testing.T) {
	s := newStage(t)
	row := s.db.add(tRow())
	s.tick(offers(row)) // to x, who is no burst; it never took it
	y := newLine()
	old := s.x
	s.tick(hangupEvent{line: old, from: "life of x"})
	s.db.planned = func(p *Plan) {
		for _, o := range s.leader.flights[0].outbox[y] {
			if o.nothingLeft {
				t.Error("told while something was about to come back")
			}
		}
	}
	s.leader.hinted = false
	hello := helloEvent{line: y, hello: &schedulerv1.Hello{Executor: "y", Incarnation: "life of y", Slots: 1, TaskNames: []string{"t"}, Burst: true}}
	// The look is over when x comes back, and the next tick would tell y.
	if _, err := s.leader.tick(t.Context(), []event{hello}, time.Hour); err != nil {
		t.Fatal(err)
	}
	if x := s.leader.executors["life of y"]; !x.searched {
		t.Fatal("nobody has looked")
	}
	s.x = newLine()
	s.tick(helloEvent{line: s.x, hello: &schedulerv1.Hello{Executor: "x", Incarnation: "life of x", Slots: 0, TaskNames: []string{"t"}, Line: 1}})
	if row.Executor != "y" {
		t.Errorf("the task is %s on %q", row.State, row.Executor)
	}
}

// Two commits can become one message, which is read as if all in it were said at once.
func TestAMessageWithATaskDoesNotSayThatNothingIsLeft(t *testing.T) {
	assign := order{assign: &taskv1.Assignment{TaskId: "1"}}
	nothing := order{nothingLeft: true}
	for name, c := range map[string]struct {
		orders []order
		says   bool
	}{
		"given before": {[]order{assign, nothing}, true}, "given after": {[]order{nothing, assign}, false}, "given nothing": {[]order{nothing}, true},
	} {
		messages, says := 0, false
		err := pack(c.orders, func(m *schedulerv1.AcquireResponse) error {
			messages++
			says = m.GetOrders().GetNothingLeft()
			return nil
		})
		if err != nil || messages != 1 || says != c.says {
			t.Errorf("%s: %d messages, nothing left %v, %v", name, messages, says, err)
		}
	}
}

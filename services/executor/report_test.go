package executor_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/limits"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/services/executor"
)

func TestARunThatLastsIsAcknowledgedOnce(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	lasts, _ := start(f, l, "wait.here") // waits for the acknowledgement
	for range 20 {
		l.do(order("test.noop", "")) // of which there is one acknowledgement, before its end
	}
	l.cancel(lasts)
	expectOutcome(t, canceled, l.end(lasts))
	if len(l.in) != 0 {
		t.Errorf("more was said: %v", <-l.in)
	}
}

func TestManyOrdersInOneMessage(t *testing.T) {
	const n = 200
	_, s, l := connect(t, executor.Config{Slots: n})
	orders := &schedulerv1.Orders{}
	byID := map[string]*taskv1.Assignment{}
	for range n {
		a := order("test.echo", `{"a": 1}`)
		orders.Assign = append(orders.Assign, a)
		byID[a.GetTaskId()] = a
	}
	l.order(orders)
	accepted := &schedulerv1.Orders{}
	for len(accepted.GetFinished()) < n {
		m := l.next()
		if m.acknowledged != nil {
			continue
		}
		id := m.finish.GetClaim().GetTaskId()
		if byID[id] == nil || m.finish.GetOutcome().GetState() != taskv1.State_STATE_COMPLETED {
			t.Fatalf("reported %v", m.finish)
		}
		delete(byID, id)
		accepted.Finished = append(accepted.Finished, m.finish.GetClaim())
	}
	l.order(accepted)
	s.end() // which waits until all are accepted
}

// The fields of orders are read in their order: a cancel in the message that brings its task finds it.
func TestCancelBesideItsAssignmentIsHonoured(t *testing.T) {
	f, _, l := connect(t, executor.Config{Slots: 1})
	first, _ := start(f, l, "wait")
	second := order("wait", "") // has no slot
	l.order(&schedulerv1.Orders{
		Assign: []*taskv1.Assignment{second}, Cancel: []*schedulerv1.Claim{claimOf(second), {TaskId: newID(), Claim: 1}},
	})
	expectOutcome(t, canceled, l.end(second))
	// Refused comes after it: it takes back what the same message brought.
	third := order("wait", "")
	l.order(&schedulerv1.Orders{Assign: []*taskv1.Assignment{third}, Refused: []*schedulerv1.Refused{{Claim: claimOf(third)}}})
	l.cancel(first)
	m := l.next()
	if names(m.acknowledged, third) {
		m = l.next() // its acknowledgement was under way, and with the answer it was to begin
	}
	if !names(m.finish.GetClaim(), first) {
		t.Fatalf("expected the end of %v, got %v", first, m)
	}
	l.finished(first)
	l.do(order("test.noop", ""))
	select {
	case spec := <-f.dispatches:
		t.Errorf("a task that was taken back was started: %v", spec)
	case m := <-l.in:
		t.Errorf("said %v", m)
	default:
	}
}

func TestEndsThatWereNotAcceptedComeInMessagesThatFit(t *testing.T) {
	const n = 150 // their errors are more than a server takes in one message
	f, s, l := connect(t, executor.Config{Slots: n})
	orders := &schedulerv1.Orders{}
	for range n {
		orders.Assign = append(orders.Assign, order("fail.large", ""))
	}
	l.order(orders)
	expect := func() *schedulerv1.Orders {
		t.Helper()
		ends := &schedulerv1.Orders{}
		for len(ends.GetFinished()) < n {
			m := l.next()
			if m.acknowledged != nil {
				continue
			}
			if len(m.finish.GetOutcome().GetError().GetDescription()) != limits.MaxErrorText {
				t.Fatalf("reported %v", m.finish.GetClaim())
			}
			ends.Finished = append(ends.Finished, m.finish.GetClaim())
		}
		return ends
	}
	expect()
	l.breakOff() // and not a word about the ends: now there are all to be said at once
	l = f.line()
	l.welcome()
	l.order(expect())
	s.end()
	receive(t, f.deregisters, "the goodbye")
}

// What crosses the drain is given back with one new line, however much it is, and what else the message says still counts.
func TestManyAssignmentsWhileStoppingAreGivenBackAtOnce(t *testing.T) {
	f, s, l := connect(t, executor.Config{ShutdownGrace: time.Hour})
	a, _ := start(f, l, "wait")
	ended := l.assign(order("test.noop", ""))
	l.outcome(ended)
	s.stop()
	if l.next().drain == nil {
		t.Error("the scheduler was not told first")
	}
	orders := &schedulerv1.Orders{Finished: []*schedulerv1.Claim{claimOf(ended)}}
	for range 50 {
		orders.Assign = append(orders.Assign, order("test.noop", ""))
	}
	l.order(orders)
	l = f.line()
	want := []*schedulerv1.Claim{claimOf(a)}
	if held := l.hello.GetHeld(); len(held) != 1 || !names(held[0], a) || !l.hello.GetDraining() {
		t.Errorf("held: %v, want %v", held, want)
	}
	l.welcome()
	if l.next().drain == nil {
		t.Error("the drain was not repeated")
	}
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
	s.end()
	if len(f.lines) != 0 {
		t.Error("the line was opened more than once more")
	}
}

func TestDirectoryOfAnInProcessTaskIsMadeWhenItIsAskedFor(t *testing.T) {
	work := t.TempDir()
	f, _, l := connect(t, executor.Config{Name: "me", WorkDir: work})
	inside := func() []string {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(work, "me"))
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, entry := range entries {
			if entry.Name()[0] != '.' { // the executor's own mark and record
				names = append(names, entry.Name())
			}
		}
		return names
	}
	a, _ := start(f, l, "wait.here")
	if got := inside(); len(got) != 0 {
		t.Errorf("made for a task that did not ask: %v", got)
	}
	b := l.assign(order("nest.here", ""))
	nested := receive(t, nests, "a directory")
	if diff := cmp.Diff([]string{b.GetTaskId()}, inside()); diff != "" {
		t.Errorf("directories while a task has one (-want +got):\n%s", diff)
	}
	if nested.again != nested.dir || nested.dir != filepath.Join(work, "me", b.GetTaskId()) {
		t.Errorf("it got %s, and when it asked again %s", nested.dir, nested.again)
	}
	letGo <- struct{}{}
	if outcome := l.end(b); outcome.GetState() != taskv1.State_STATE_COMPLETED {
		t.Errorf("outcome %v", outcome)
	}
	if got := inside(); len(got) != 0 {
		t.Errorf("left after the end was reported: %v", got)
	}
	// What the handler left running asks again: it must not bring the directory back.
	letGo <- struct{}{}
	if late := receive(t, nests, "an answer"); late.err == nil || late.dir != "" {
		t.Errorf("after the end it got %q", late.dir)
	}
	if got := inside(); len(got) != 0 {
		t.Errorf("made after the end: %v", got)
	}
	l.cancel(a)
	l.end(a)
}

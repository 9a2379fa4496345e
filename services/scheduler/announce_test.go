package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// assignment is the order of a claim's assignment.
func assignment(c claimKey) order {
	return order{
		task:   &live{id: c.id, claim: c.number},
		assign: &taskv1.Assignment{TaskId: c.id, Claim: c.number},
	}
}

// said takes what a line has to say, in short.
func said(w *line) string {
	orders, _, _ := w.take()
	var words []string
	for _, o := range orders {
		switch {
		case o.announced != nil:
			words = append(words, "announced "+o.announced.GetTaskId())
		case o.assign != nil && o.run:
			words = append(words, "run "+o.assign.GetTaskId())
		case o.assign != nil:
			words = append(words, "assign "+o.assign.GetTaskId())
		case o.begin != nil:
			words = append(words, "begin "+o.begin.GetTaskId())
		}
	}
	return strings.Join(words, ", ")
}

// receipts lists what a line knows to be acknowledged, since it was last asked.
func receipts(w *line) (ids []string) {
	for _, r := range w.acknowledged() {
		ids = append(ids, r.task.id)
	}
	return ids
}

func TestAnAcknowledgementOfWhatIsAnnouncedSparesTheWait(t *testing.T) {
	a, b, c := claimKey{"a", 1}, claimKey{"b", 2}, claimKey{"c", 3}
	w := newLine()
	expect := func(when, want string, known ...string) {
		t.Helper()
		if got := said(w); got != want {
			t.Errorf("%s: it says %q, want %q", when, got, want)
		}
		if diff := cmp.Diff(known, receipts(w)); diff != "" {
			t.Errorf("%s: -want +known to be acknowledged\n%s", when, diff)
		}
	}
	w.announce(a, b, c)
	expect("announced", "announced a, announced b, announced c")
	w.hear(acknowledges(a.wire(), claimKey{"a", 2}.wire()))
	expect("acknowledged", "")
	w.withdraw(c)
	w.hear(acknowledges(c.wire()))
	w.put(assignment(a), assignment(b))
	expect("assigned", "run a, assign b", "a")
	w.hear(acknowledges(a.wire(), b.wire(), b.wire()))
	expect("acknowledged later", "begin b", "b")
	w.put(assignment(c))
	expect("not announced", "assign c")
	if len(w.announced) != 0 || len(w.given) != 1 {
		t.Errorf("left: announced %v, given %v", w.announced, w.given)
	}
}

func TestOnALineThatHasEndedNothingIsAnnounced(t *testing.T) {
	w := newLine()
	a := claimKey{"a", 1}
	w.announce(a)
	w.hear(acknowledges(a.wire()))
	w.close(nil)
	w.announce(claimKey{"b", 1})
	if w.put(assignment(a)) || len(receipts(w)) != 0 || said(w) != "announced a" {
		t.Error("it goes on")
	}
}

// A line can last for months.
func TestAnAnnouncementDoesNotOutliveItsTick(t *testing.T) {
	s := newStage(t)
	given, canceled := s.db.add(tRow()), s.db.add(tRow())
	f := s.begin(offers(given, canceled))
	if got := len(s.x.announced); got != 2 {
		t.Fatalf("%d claims are announced", got)
	}
	s.db.cancel(canceled.Seq)
	s.land(f)
	if len(s.x.announced) > 0 {
		t.Errorf("left: %v", s.x.announced)
	}
}

// However an acknowledgement, the assignment and the end of the line fall together: what may begin is known to be acknowledged, and
// nothing else is.
func TestWhatMayBeginIsKnownHoweverItsAcknowledgementFalls(t *testing.T) {
	const lines, tasks = 200, 20
	var all sync.WaitGroup
	for range lines {
		all.Go(func() {
			w := newLine()
			var parts sync.WaitGroup
			parts.Go(func() {
				for i := range tasks {
					w.announce(claimKey{fmt.Sprint(i), 1})
				}
				for i := range tasks {
					w.put(assignment(claimKey{fmt.Sprint(i), 1}))
				}
			})
			parts.Go(func() {
				for range 2 { // the second time it acknowledges assignments
					for i := range tasks {
						w.hear(acknowledges(claimKey{fmt.Sprint(i), 1}.wire()))
					}
				}
				w.close(nil)
			})
			parts.Wait()
			var begin []string
			orders, _, _ := w.take()
			for _, o := range orders {
				switch {
				case o.run:
					begin = append(begin, o.assign.GetTaskId())
				case o.begin != nil:
					begin = append(begin, o.begin.GetTaskId())
				}
			}
			known := receipts(w)
			slices.Sort(begin)
			slices.Sort(known)
			if diff := cmp.Diff(known, begin); diff != "" {
				t.Errorf("-known +may begin\n%s", diff)
			}
		})
	}
	all.Wait()
}

func TestPackTellsWhatMayBeginAsItComesFromTheRest(t *testing.T) {
	w := newLine()
	a, b := claimKey{"a", 1}, claimKey{"b", 1}
	w.announce(a)
	w.hear(acknowledges(a.wire()))
	w.put(assignment(a), assignment(b))
	orders, _, _ := w.take()
	err := pack(orders, func(m *schedulerv1.AcquireResponse) error {
		o := m.GetOrders()
		if len(o.GetAnnounced()) != 1 || len(o.GetRun()) != 1 || o.GetRun()[0].GetTaskId() != "a" || len(o.GetAssign()) != 1 || o.GetAssign()[0].GetTaskId() != "b" {
			t.Errorf("packed as %v", m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

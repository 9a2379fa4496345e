package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// mute gives x a task that it does not acknowledge.
func (s *stage) mute(row Row) (*modelRow, *schedulerv1.Claim) {
	s.t.Helper()
	r := s.db.add(row)
	for more, events := true, []event{offers(r)}; more; events = nil {
		var err error
		if more, err = s.leader.tick(s.t.Context(), events, farApart); err != nil {
			s.t.Fatal(err)
		}
	}
	if r.State != task.Running {
		s.t.Fatalf("the task is %s", r.State)
	}
	return r, &schedulerv1.Claim{TaskId: r.ID, Claim: r.Claim}
}

func acknowledges(claims ...*schedulerv1.Claim) *schedulerv1.Report {
	return &schedulerv1.Report{Acknowledged: claims}
}

// begins lists what a line says may begin.
func begins(orders []order) (claims []claimKey) {
	for _, o := range orders {
		if o.begin != nil {
			claims = append(claims, keyOf(o.begin))
		}
	}
	return claims
}

func TestATaskMayBeginAsSoonAsItIsAcknowledged(t *testing.T) {
	s := newStage(t)
	row, claim := s.mute(tRow())
	if orders, _, _ := s.x.take(); len(begins(orders)) > 0 {
		t.Fatal("it may begin before it is acknowledged")
	}
	s.x.hear(acknowledges(claim, &schedulerv1.Claim{TaskId: row.ID, Claim: 7}, &schedulerv1.Claim{TaskId: "unknown", Claim: 1}))
	s.x.hear(acknowledges(claim))
	orders, _, _ := s.x.take() // and the leader did nothing meanwhile
	if got := begins(orders); !slices.Equal(got, []claimKey{{row.ID, 1}}) {
		t.Errorf("told to begin %v", got)
	}
}

// What the leader has to go by when a line ends is what was acknowledged until then, and nothing else.
func TestWhatWasNotAcknowledgedWhenALineEndsGoesBackAtOnce(t *testing.T) {
	ends := map[string]func(s *stage) event{
		"it hangs up": func(s *stage) event { return hangupEvent{line: s.x, from: "life of x"} },
		"it goes missing": func(s *stage) event {
			s.db.end(Gone{Incarnation: "life of x"})
			return offerEvent{}
		},
		"it is deaf": func(s *stage) event {
			s.now = s.now.Add(acknowledgeWithin + 1)
			return askEvent(func(*leader) {})
		},
		"it says hello anew": func(s *stage) event {
			return helloEvent{line: newLine(), hello: &schedulerv1.Hello{
				Executor: "x", Incarnation: "life of x", Slots: 1, TaskNames: []string{"t"}, Line: 1,
				Held: []*schedulerv1.Claim{{TaskId: "task-1", Claim: 1}},
			}}
		},
	}
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			begun, claim := s.mute(tRow())
			s.x.hear(acknowledges(claim))
			row, late := s.mute(tRow())
			y := join(s.leader, "y", 1, "t")
			old := s.x
			s.tick(ends[name](s))
			orders, closed, _ := old.take()
			if old.hear(acknowledges(late)); !closed || len(begins(orders)) > 0 {
				t.Fatalf("closed %v, and what came too late may begin: %v", closed, begins(orders))
			}
			if row.State != task.Running || row.Executor != "y" || row.Attempt != 1 || row.Claim != 2 {
				t.Errorf("what was not acknowledged: %+v", row)
			}
			if y.length() == 0 {
				t.Error("the other one was told nothing")
			}
			switch {
			case name == "it goes missing":
				if begun.State != task.Failed || begun.failure.Code != task.CodeMissing {
					t.Errorf("what was acknowledged: %+v", begun)
				}
			case begun.State != task.Running || begun.Executor != "x" || begun.Claim != 1:
				t.Errorf("what was acknowledged: %+v", begun)
			}
		})
	}
}

// The executor of a leadership that is over may have acknowledged what it was given, and begun it.
func TestAfterATakeoverEverythingCountsAsAcknowledged(t *testing.T) {
	s := newStage(t)
	row, _ := s.mute(tRow())
	s.lead() // and x does not come back
	s.db.end(Gone{Incarnation: "life of x"})
	s.tick(offerEvent{})
	if row.State != task.Failed {
		t.Errorf("it is %s", row.State)
	}
}

// A claim is acknowledged, or its line ends first: whichever it is, the executor and the leader agree.
func TestAnAcknowledgementAndTheEndOfItsLineNeverBothWin(t *testing.T) {
	const executors, tasks = 200, 20
	var all sync.WaitGroup
	for range executors {
		all.Go(func() {
			w := newLine()
			for i := range tasks {
				id := fmt.Sprint(i)
				w.put(order{task: &live{id: id, claim: 1}, assign: &taskv1.Assignment{TaskId: id, Claim: 1}})
			}
			heard := make(chan struct{})
			go func() {
				defer close(heard)
				for i := range tasks {
					w.hear(acknowledges(&schedulerv1.Claim{TaskId: fmt.Sprint(i), Claim: 1}))
				}
			}()
			w.close(nil)
			var known []string
			for _, r := range w.acknowledged() {
				known = append(known, r.task.id)
			}
			<-heard
			var begin []string
			orders, _, _ := w.take()
			for _, claim := range begins(orders) {
				begin = append(begin, claim.id)
			}
			if diff := cmp.Diff(strings.Join(known, " "), strings.Join(begin, " ")); diff != "" {
				t.Errorf("-known +may begin\n%s", diff)
			}
		})
	}
	all.Wait()
}

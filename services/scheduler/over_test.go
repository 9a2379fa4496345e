package scheduler

import (
	"testing"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

// Its sender lived when the database was asked, and was declared missing before the hello was applied.
func TestAHelloOfAnIncarnationThatIsOverIsFenced(t *testing.T) {
	s := newStage(t)
	first := newLine()
	s.tick(helloEvent{line: first, hello: &schedulerv1.Hello{Executor: "x", Incarnation: "a", Slots: 1, TaskNames: []string{"t"}}})
	s.leader.gone(Gone{Incarnation: "a"})
	second := newLine()
	s.tick(helloEvent{line: second, hello: &schedulerv1.Hello{Executor: "x", Incarnation: "a", Slots: 1, TaskNames: []string{"t"}, Line: 2}})
	if _, closed, err := second.take(); !closed || !errs.Is(err, errs.Fenced) {
		t.Errorf("closed %v with %v", closed, err)
	}
	if s.leader.executors["a"] != nil {
		t.Error("it is there again")
	}
}

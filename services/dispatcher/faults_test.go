package dispatcher_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// What the dispatcher sends. A test whose fault meets nothing fails, so a change is noticed.
var (
	inserts = faults.Committing("dispatcher_insert_4(")
	cancels = faults.Committing("insert into task_cancel")
	deletes = faults.Committing("delete from task t")
)

// brokenWorld is one whose database can be broken; the test looks at it directly.
func brokenWorld(t *testing.T) (w *world, p *faults.Proxy) {
	t.Helper()
	target := pgtest.URL(t)
	p = faults.Start(t, target)
	w = worldOn(t, &leader{}, p.URL(), dispatcher.Defaults())
	w.Querier = pgtest.Open(t, target)
	return w, p
}

// notYet fails the test when a call has returned.
func (c *call) notYet(t *testing.T) {
	t.Helper()
	select {
	case <-c.done:
		t.Errorf("the call returned: %v, %v", c.tasks, c.err)
	default:
	}
}

func TestDispatchWhoseConnectionIsCutIsStoredWholeOrNot(t *testing.T) {
	for fault, stored := range map[faults.Fault]bool{
		faults.CutBefore: false, faults.CutBeforeCommit: false, faults.LoseAnswer: true,
	} {
		for _, n := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d tasks", fault, n), func(t *testing.T) {
				t.Parallel()
				w, p := brokenWorld(t)
				armed := p.Arm(faults.Rule{Fault: fault, Match: inserts})
				c := w.call(t.Context(), specs(n)...)
				<-c.done
				if !errs.Is(c.err, errs.DatabaseAway) {
					t.Errorf("the dispatch returned %v", c.err)
				}
				// To hand it in again is for the caller to decide, who alone knows whether twice is worse than not at all.
				want := rows{}
				if stored {
					want = rows{Task: n, Live: n}
				}
				if diff := cmp.Diff(want, w.rows(t)); diff != "" || armed.Fired() != 1 {
					t.Errorf("rows after %d cuts (-want +got):\n%s", armed.Fired(), diff)
				}
				w.dispatch(t)
			})
		}
	}
}

func TestDispatchReturnsAndHintsOnlyAfterItsCommit(t *testing.T) {
	w, p := brokenWorld(t)
	held := p.Arm(faults.Rule{Fault: faults.HoldCommit, Match: inserts})
	first := w.call(t.Context(), newSpec("first"))
	held.Wait(t, 1)
	behind := w.call(t.Context(), newSpec("behind"))
	probe.Eventually(t, "one call waits behind the first", func() bool { return w.service.Waiting() == 1 })
	first.notYet(t)
	behind.notYet(t)
	if n, hints := w.rows(t), w.leader.hinted(); n.Task != 0 || hints != 0 {
		t.Errorf("before the commit %d tasks are seen and %d hints were given", n.Task, hints)
	}
	held.Release()
	one, other := first.stored(t)[0], behind.stored(t)[0]
	if one.GetSeq() >= other.GetSeq() {
		t.Errorf("the first has the number %d, the one behind it %d", one.GetSeq(), other.GetSeq())
	}
	probe.Eventually(t, "hints are given", func() bool { return w.leader.hinted() > 0 })
}

// Who shares a transaction shares what nobody knows about it.
func TestAllThatShareALateCommitAreToldThatItFailed(t *testing.T) {
	w, p := brokenWorld(t)
	held := p.Arm(faults.Rule{Fault: faults.HoldCommit, Match: inserts})
	first := w.call(t.Context(), newSpec("first"))
	held.Wait(t, 1)
	calls := []*call{w.call(t.Context(), newSpec("alone")), w.call(t.Context(), specs(2)...), w.call(t.Context(), specs(3)...)}
	probe.Eventually(t, "three calls wait", func() bool { return w.service.Waiting() == len(calls) })
	late := p.Arm(faults.Rule{Fault: faults.CommitLate, Match: inserts})
	held.Release()
	first.stored(t)
	for _, c := range calls {
		<-c.done
		if !errs.Is(c.err, errs.DatabaseAway) {
			t.Errorf("a call returned %v", c.err)
		}
	}
	if n := w.rows(t); n.Task != 1 {
		t.Errorf("%d tasks are stored before the commit, want the first", n.Task)
	}
	late.Release()
	late.Over(t, 1)
	if diff := cmp.Diff([]int{1, 6}, w.transactions(t)); diff != "" || late.Fired() != 1 {
		t.Errorf("tasks by transaction (-want +got):\n%s", diff)
	}
}

func TestCancelAndDeleteWhoseAnswerIsLostCanBeAskedForAgain(t *testing.T) {
	w, p := brokenWorld(t)
	id := w.dispatch(t)
	lost := p.Arm(faults.Rule{Fault: faults.LoseAnswer, Match: cancels})
	// Not through gRPC, whose client would ask again by itself.
	if _, err := w.service.Cancel(t.Context(), id); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("the cancel returned %v", err)
	}
	if got, err := w.service.Cancel(t.Context(), id); err != nil || got.State != task.Canceled || lost.Fired() != 1 {
		t.Errorf("canceled again it is %+v, %v", got, err)
	}
	if diff := cmp.Diff([]string{id}, w.wishes(t)); diff != "" {
		t.Errorf("the scheduler is told (-want +got):\n%s", diff)
	}
	lost = p.Arm(faults.Rule{Fault: faults.LoseAnswer, Match: deletes})
	if err := w.service.Delete(t.Context(), id); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("the delete returned %v", err)
	}
	if err := w.service.Delete(t.Context(), id); !errs.Is(err, errs.TaskNotFound) || lost.Fired() != 1 {
		t.Errorf("deleted again: %v", err)
	}
}

func TestDispatcherGoesOnAfterEveryKindOfBreak(t *testing.T) {
	w, p := brokenWorld(t)
	for range 3 {
		w.dispatch(t)
		p.Cut()
		back := p.Refuse()
		if _, err := w.tryBatch(t.Context(), specs(2)...); !errs.Is(err, errs.DatabaseAway) {
			t.Errorf("while the database is away a dispatch returns %v", err)
		}
		back()
	}
	w.dispatch(t)
	if n := w.rows(t); n.Task != 4 {
		t.Errorf("%d tasks are stored, want 4", n.Task)
	}
}

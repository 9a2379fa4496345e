package executor_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/services/executor"
)

// member makes an assignment of a task in a group.
func member(name, kwargs string, attempt int32) *taskv1.Assignment {
	a := order(name, kwargs)
	a.GroupId, a.Attempt, a.Claim = newID(), attempt, int64(attempt)
	return a
}

func TestWhatATaskAddsToItsGroupIsStoredBeforeItsEndIsReported(t *testing.T) {
	for _, name := range []string{"adds", "adds.here"} {
		t.Run(name, func(t *testing.T) {
			f, _, l := connect(t, executor.Config{})
			const steps = 20_000
			a := l.assign(member(name, fmt.Sprintf(`{"Steps": %d}`, steps), 1))
			if outcome := l.outcome(a); outcome.GetState() != taskv1.State_STATE_COMPLETED {
				t.Fatalf("outcome %v", outcome)
			}
			reports := arrived(f.reports)
			if len(reports) == 0 || len(reports) > steps/10 {
				t.Fatalf("%d steps became %d reports", steps, len(reports))
			}
			done := int64(0)
			for _, report := range reports {
				added := report.GetGroupProgress()
				if len(added) != 1 || added[0].GetDone() < done {
					t.Fatalf("after %d came %v", done, added)
				}
				done = added[0].GetDone()
			}
			want := &statusv1.PutTaskReportRequest{
				TaskId: a.GetTaskId(), Claim: 1,
				GroupProgress: []*taskv1.GroupProgress{{Code: "part", Message: "working", Total: steps, Done: steps}},
			}
			if diff := cmp.Diff(want, reports[len(reports)-1], protocmp.Transform()); diff != "" {
				t.Errorf("the last report (-want +got):\n%s", diff)
			}
			l.finished(a)
		})
	}
}

func TestProgressNeverGoesBackOnItsWay(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a := l.assign(order("tells", `{"Steps": 200000}`))
	l.outcome(a)
	done := int64(0)
	for _, report := range arrived(f.reports) {
		for _, p := range report.GetProgress() {
			if p.GetDone() < done {
				t.Errorf("it went back from %d to %d", done, p.GetDone())
			}
			done = p.GetDone()
		}
	}
	if done != 200_000 {
		t.Errorf("in the end %d were done", done)
	}
	l.finished(a)
}

// What an earlier attempt had added counts until a later one has reported: also one that adds nothing must.
func TestAnotherAttemptOfAMemberReportsInAnyCase(t *testing.T) {
	for _, c := range []struct {
		assignment *taskv1.Assignment
		want       int
	}{
		{member("adds", `{"Steps": 0}`, 1), 0},
		{member("adds", `{"Steps": 0}`, 2), 1},
		{member("nobody.knows.it", ``, 2), 1},
		{order("adds", `{"Steps": 0}`), 0},
	} {
		f, _, l := connect(t, executor.Config{})
		l.outcome(l.assign(c.assignment))
		if reports := arrived(f.reports); len(reports) != c.want || c.want > 0 && len(reports[0].GetGroupProgress()) != 0 {
			t.Errorf("%v: reported %v", c.assignment, reports)
		}
		l.finished(c.assignment)
	}
}

func TestWhatAWorkerAddsToAGroupIsStored(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{Slots: 2}, &executorv1.WorkerHello{Name: "py", Slots: 2, Handlers: handlers("py.a")})
	add := func(a *taskv1.Assignment, done int64) {
		g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_GroupProgress{GroupProgress: &executorv1.RunGroupProgress{
			TaskId: a.GetTaskId(), Claim: a.GetClaim(), Progress: &taskv1.GroupProgress{Code: "part", Total: 10, Done: done},
		}}})
	}
	a := l.assign(member("py.a", "", 1))
	g.run(a)
	for i := range int64(10) {
		add(a, i+1)
	}
	g.end(a, done("1"))
	expectOutcome(t, done("1"), l.end(a))
	reports := arrived(f.reports)
	if len(reports) == 0 {
		t.Fatal("nothing was stored")
	}
	want := []*taskv1.GroupProgress{{Code: "part", Total: 10, Done: 10}}
	if diff := cmp.Diff(want, reports[len(reports)-1].GetGroupProgress(), protocmp.Transform()); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}

	alone := l.assign(order("py.a", ""))
	g.run(alone)
	add(alone, 1)
	if refusal := g.next().GetRefusal(); refusal.GetTaskId() != alone.GetTaskId() || !strings.Contains(refusal.GetReason(), "in no group") {
		t.Errorf("refused with %v", refusal)
	}
	g.end(alone, done("2"))
	expectOutcome(t, done("2"), l.end(alone))
}

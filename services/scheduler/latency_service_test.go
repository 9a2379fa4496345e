package scheduler_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

func TestALeaderTellsWhatItHasMeasuredAndStoresItBeforeItGoes(t *testing.T) {
	url := pgtest.URL(t)
	db := pgtest.Open(t, url)
	stored := func() (n int64) {
		return pgtest.One[int64](t, db, `select coalesce(sum(completed), 0)::bigint from task_latency_minute`)
	}
	for round := range int64(2) { // the second one goes on in the minute of the first
		r := start(t, url, config())
		r.awaitLeading(t)
		x := join(t, r, db, "x", 1)
		id, _ := insert(t, db, spec{})
		r.offer(t)
		a := x.assigned(id)
		x.report(&schedulerv1.Report{Finished: []*schedulerv1.Finish{
			{Claim: claimOf(a), Outcome: &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED}},
		}})
		x.next("finished")
		probe.Eventually(t, "it is told, or stored", func() bool {
			answer, err := r.client.ListLatencies(t.Context(), &schedulerv1.ListLatenciesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range answer.GetRows() {
				if row.GetName() == "t" && row.GetCompleted() > 0 && len(row.GetRun()) > 0 {
					return true
				}
			}
			return stored() == round+1
		})
		endLife(t, db, "x", false)
		r.stop()
		if got := stored(); got != round+1 {
			t.Errorf("after round %d %d are stored", round, got)
		}
	}
}

func TestWhoDoesNotLeadHasMeasuredNothing(t *testing.T) {
	url := pgtest.URL(t)
	leader := start(t, url, config())
	leader.awaitLeading(t)
	standby := start(t, url, config())
	if _, err := standby.client.ListLatencies(t.Context(), &schedulerv1.ListLatenciesRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a standby says %v", err)
	}
}

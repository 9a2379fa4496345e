package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

func TestAnOfferIsAnsweredWithTheNumberOfTasksThatAreNotFinal(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	runs, _ := insert(t, db, spec{})
	for range 4 {
		insert(t, db, spec{})
	}
	counted := func(n int64) func() bool {
		return func() bool {
			answer, err := r.client.Offer(t.Context(), &schedulerv1.OfferRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return answer.GetLiveTasks() == n
		}
	}
	probe.Eventually(t, "all are counted", counted(5))
	x.finish(x.assigned(runs), completed("null"))
	x.next("finished")
	probe.Eventually(t, "one has ended", counted(4))
}

// An executor that lives, and whose line does, and that neither answers nor acknowledges, gets nothing that others could run.
func TestWhatADeafExecutorWasGivenGoesToAnother(t *testing.T) {
	db := pgtest.New(t)
	cfg := config()
	cfg.PulseEvery = 50 * time.Millisecond
	r := start(t, db.Config().ConnString(), cfg)
	r.awaitLeading(t)
	deaf := join(t, r, db, deafName, 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	deaf.offered(id)
	if err := deaf.endedWith(); !errs.Is(err, errs.BadProtocol) {
		t.Errorf("its line ended with %v", err)
	}
	other := join(t, r, db, "other", 1)
	if a := other.assigned(id); a.GetAttempt() != 1 || a.GetClaim() != 2 {
		t.Errorf("given as %v", a)
	}
}

func TestAWelcomeSaysHowOftenALineBeats(t *testing.T) {
	r, db := alone(t)
	stream, err := r.client.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hello := &schedulerv1.Hello{Executor: "x", Incarnation: register(t, db, "x"), Slots: 1, TaskNames: []string{uuid.NewString()}}
	if err := stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Hello{Hello: hello}}); err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if every := m.GetWelcome().GetPulseEvery(); err != nil || every.AsDuration() != config().PulseEvery {
		t.Errorf("%v, %v", m, err)
	}
}

func TestExplainSaysThatATaskIsNotAcknowledged(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	a := x.offered(id)
	says := func(want string) {
		t.Helper()
		answer, err := r.client.Explain(t.Context(), &schedulerv1.ExplainRequest{TaskId: id})
		if err != nil || !strings.HasPrefix(answer.GetSummary(), want) {
			t.Errorf("it says %q, %v; want %q", answer.GetSummary(), err, want)
		}
	}
	says("It was given to x, which has not acknowledged it yet.")
	x.report(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{claimOf(a)}})
	x.mayBegin(claimOf(a))
	says("It runs on x and has for ")
}

package scheduler

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// An executor that is connected, alive and deaf holds up all that it was given. What it does not acknowledge in time it will never
// begin: its line is cut, and others get it at once. What it has acknowledged stays its own.
func TestTheLineOfADeafExecutorIsCut(t *testing.T) {
	db := pgtest.New(t)
	store := NewStore(db, time.Hour)
	seat, err := store.Take(t.Context(), Bid{Holder: "x"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l := newLeader(seat.Epoch, store, slog.New(slog.DiscardHandler), func() time.Time { return now }, func([]*schedulerv1.Change) {})
	if err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	tick := func(events ...event) {
		t.Helper()
		for more := true; more; events = nil {
			if more, err = l.tick(t.Context(), events, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if err := check(l); err != nil {
			t.Fatal(err)
		}
	}
	life := func(name string) string {
		t.Helper()
		incarnation := uuid.NewString()
		pgtest.Must(t, db, 1, `insert into app (incarnation, name, kind, ttl) values ($1::text::uuid, $2, 'worker', '1h')`, incarnation, name)
		return incarnation
	}
	hello := func(name, incarnation string, held ...*schedulerv1.Claim) (*line, event) {
		to := newLine()
		return to, helloEvent{line: to, hello: &schedulerv1.Hello{Executor: name, Incarnation: incarnation, Slots: 2, TaskNames: []string{"t"}, Held: held}}
	}
	assigned := func(to *line) (claims []*schedulerv1.Claim, err error) {
		orders, _, err := to.take()
		for _, o := range orders {
			if o.assign != nil {
				claims = append(claims, &schedulerv1.Claim{TaskId: o.assign.GetTaskId(), Claim: o.assign.GetClaim()})
			}
		}
		return claims, err
	}
	for range 3 {
		pgtest.Must(t, db, 1, `
			with new as (insert into task (id, domain_id, name) values ($1::text::uuid, $2::text::uuid, 't') returning seq, id)
			insert into task_live (seq, task_id) select seq, id from new`, uuid.NewString(), task.DefaultDomainID)
	}
	deafLife, otherLife := life("deaf"), life("other")
	deaf, comes := hello("deaf", deafLife)
	tick(comes)
	given, _ := assigned(deaf)
	if len(given) != 2 {
		t.Fatalf("given: %v", given)
	}

	// One is acknowledged, the other is not: in time nothing happens, after it the line ends.
	now = now.Add(acknowledgeWithin)
	deaf.hear(&schedulerv1.Report{Acknowledged: given[:1]})
	tick()
	if orders, closed, _ := deaf.take(); closed || len(orders) != 1 || orders[0].begin.GetTaskId() != given[0].GetTaskId() {
		t.Fatalf("when one is acknowledged, and the time is not over: %v, closed %v", orders, closed)
	}
	now = now.Add(time.Millisecond)
	tick()
	if _, err := assigned(deaf); !errs.Is(err, errs.BadProtocol) {
		t.Fatalf("the line ended with %v", err)
	}
	deaf.hear(&schedulerv1.Report{Acknowledged: given[1:]}) // too late
	if orders, _, _ := deaf.take(); len(orders) != 0 {
		t.Fatalf("after its end the line says %v", orders)
	}

	// What it has not acknowledged is given to whoever else comes, as if it had not been given before; and the third one.
	other, comes := hello("other", otherLife)
	tick(comes)
	others, _ := assigned(other)
	if len(others) != 2 || others[0].GetTaskId() != given[1].GetTaskId() || others[0].GetClaim() != given[1].GetClaim()+1 {
		t.Fatalf("the other one was given %v", others)
	}
	// It comes back with both. One may begin, or has; of the other it is told that it is not its own.
	deaf, comes = hello("deaf", deafLife, given...)
	tick(comes)
	var begin, refused []string
	orders, _, _ := deaf.take()
	for _, o := range orders {
		begin, refused = append(begin, o.begin.GetTaskId()), append(refused, o.refused.GetClaim().GetTaskId())
	}
	if !slices.Contains(begin, given[0].GetTaskId()) || slices.Contains(begin, given[1].GetTaskId()) || !slices.Contains(refused, given[1].GetTaskId()) {
		t.Errorf("it may begin %v and is refused %v of %v", begin, refused, given)
	}
	if n := pgtest.One[int](t, db, `select count(*) from task where state = 'running' and attempt = 1`); n != 3 {
		t.Errorf("%d tasks run in their first attempt, want 3", n)
	}
}

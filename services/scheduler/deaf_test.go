package scheduler

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// An executor that is connected, alive and deaf holds up all that it was given. Only its next hello can say what of that it has;
// so its line is cut, and nothing is given to others before that hello.
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
		to := newQueue[order]()
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

	// One is confirmed, the other is not: in time nothing happens, after it the line ends.
	now = now.Add(acknowledgeWithin * time.Microsecond)
	tick(reportEvent{line: deaf, from: deafLife, report: &schedulerv1.Report{Acknowledged: given[:1]}})
	if _, closed, _ := deaf.take(); closed {
		t.Fatal("the line was cut before the time was over")
	}
	now = now.Add(time.Second)
	tick()
	if _, err := assigned(deaf); !errs.Is(err, errs.BadProtocol) {
		t.Fatalf("the line ended with %v", err)
	}

	// What it was given stays its own: it may run it. The third task is for whoever else comes.
	other, comes := hello("other", otherLife)
	tick(comes)
	if claims, _ := assigned(other); len(claims) != 1 || claims[0].GetTaskId() == given[1].GetTaskId() {
		t.Fatalf("the other one was given %v", claims)
	}
	// It says which one it has, and the one that it never took is given anew, as if it had not been given.
	_, comes = hello("deaf", deafLife, given[0])
	tick(comes)
	claims := pgtest.One[int64](t, db, `select claim from task where id = $1::text::uuid and state = 'running' and attempt = 1`, given[1].GetTaskId())
	if claims != given[1].GetClaim()+1 {
		t.Errorf("claim %d after %d", claims, given[1].GetClaim())
	}
	if n := pgtest.One[int](t, db, `select count(*) from task where state = 'running' and attempt = 1`); n != 3 {
		t.Errorf("%d tasks run, want 3", n)
	}
}

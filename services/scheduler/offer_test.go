package scheduler_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// offered is what a dispatcher says of a task that it committed.
func offered(t *testing.T, db *pgxpool.Pool, id string) *schedulerv1.OfferedTask {
	t.Helper()
	var createdAt time.Time
	o := &schedulerv1.OfferedTask{TaskId: id}
	err := db.QueryRow(t.Context(), `
		select seq, name, exclusive, shared, immediate, deferred, versions, created_at from task where id = $1::text::uuid`, id).
		Scan(&o.Seq, &o.Name, &o.ExclusiveResources, &o.SharedResources, &o.Immediate, &o.Deferred, &o.Versions, &createdAt)
	if err != nil {
		t.Fatal(err)
	}
	o.CreatedAt = timestamppb.New(createdAt)
	return o
}

func (r *running) tell(t *testing.T, tasks []*schedulerv1.OfferedTask, settle ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := r.client.Offer(ctx, &schedulerv1.OfferRequest{Tasks: tasks, SettleTaskIds: settle}); err != nil {
		t.Fatalf("offer: %v", err)
	}
}

func (r *running) knows(t *testing.T, id string) bool {
	t.Helper()
	answer, err := r.client.Explain(t.Context(), &schedulerv1.ExplainRequest{TaskId: id})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetLive()
}

// awaitQuiet waits until the look that follows a load is over: after it nothing but a hint makes this leader look.
func (r *running) awaitQuiet(t *testing.T, db *pgxpool.Pool, x *fake) {
	t.Helper()
	id, _ := insert(t, db, spec{})
	r.offer(t)
	x.finish(x.assigned(id), completed("null"))
	x.next("finished")
}

func TestAnOfferedTaskStartsWithoutBeingReadAgain(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 2)
	r.awaitQuiet(t, db, x)
	// Its row says another name: whoever reads it again can't give it to x.
	id, _ := insert(t, db, spec{name: "nobody knows", exclusive: []string{"a"}})
	task := offered(t, db, id)
	task.Name = "t"
	r.tell(t, []*schedulerv1.OfferedTask{task})
	a := x.assigned(id)
	now := read(t, db, id)
	if now.state != "running" || now.unblocked == nil || now.unblocked.After(*now.started) || now.unblocked.Before(task.GetCreatedAt().AsTime()) {
		t.Errorf("dispatched at %s: %+v", task.GetCreatedAt().AsTime(), now)
	}
	// Once more, while it runs and when it has ended.
	r.tell(t, []*schedulerv1.OfferedTask{task})
	x.finish(a, completed("null"))
	x.next("finished")
	r.tell(t, []*schedulerv1.OfferedTask{task})
	next, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.tell(t, []*schedulerv1.OfferedTask{offered(t, db, next)})
	x.assigned(next)
}

func TestATaskThatWasOfferedAboveAMissingNumberDoesNotOvertake(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 10)
	r.awaitQuiet(t, db, x)
	tx := pgtest.Begin(t, db)
	late, _ := insert(t, tx, spec{exclusive: []string{"a"}})
	other, _ := insert(t, db, spec{exclusive: []string{"b"}})
	r.tell(t, []*schedulerv1.OfferedTask{offered(t, db, other)})
	x.assigned(other) // found by a look, as the one before it can't be seen
	tx.Commit(t)
	// Its dispatch has returned, and the word of it was lost. What follows on what was seen must not overtake it.
	after, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.tell(t, []*schedulerv1.OfferedTask{offered(t, db, after)})
	a := x.assigned(late)
	if state := read(t, db, after).state; state != "waiting" {
		t.Errorf("the later one is %s", state)
	}
	x.finish(a, completed("null"))
	x.next("finished")
	x.assigned(after)
}

func TestWordOfATaskThatWasCanceledMeanwhileLeavesNothingBehind(t *testing.T) {
	for _, wishSeen := range []bool{true, false} {
		t.Run(map[bool]string{true: "wish seen first", false: "offer seen first"}[wishSeen], func(t *testing.T) {
			r, db := alone(t)
			x := join(t, r, db, "x", 10)
			r.awaitQuiet(t, db, x)
			id, _ := insert(t, db, spec{name: "nobody knows", exclusive: []string{"a"}})
			word := []*schedulerv1.OfferedTask{offered(t, db, id)}
			cancelRow(t, db, id)
			forgotten := func() {
				t.Helper()
				r.offer(t)
				probe.Eventually(t, "the wish is forgotten", func() bool { return pgtest.One[int](t, db, `select count(*) from task_cancel`) == 0 })
			}
			if wishSeen {
				forgotten()
			}
			r.tell(t, word)
			if wishSeen && r.knows(t, id) {
				t.Error("a task that is over is back")
			}
			if !wishSeen {
				forgotten()
			}
			next, _ := insert(t, db, spec{exclusive: []string{"a"}})
			r.tell(t, []*schedulerv1.OfferedTask{offered(t, db, next)})
			x.assigned(next)
			if r.knows(t, id) {
				t.Error("a task that is over is still known")
			}
		})
	}
}

// Not even when nothing is left of it, and another leader is told.
func TestWordOfATaskThatWasDeletedLeavesNothingBehind(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Second)
	load := func() int64 {
		t.Helper()
		loaded, err := store.Load(t.Context(), take(t, store, uuid.NewString()).Epoch, func(scheduler.Row) {})
		if err != nil {
			t.Fatal(err)
		}
		expire(t, db, time.Second)
		return loaded.High
	}
	if high := load(); high != 0 {
		t.Errorf("the highest number of none is %d", high)
	}
	id, seq := insert(t, db, spec{})
	cancelRow(t, db, id)
	pgtest.Must(t, db, 1, `delete from task where id = $1::text::uuid`, id)
	if high := load(); high != seq {
		t.Errorf("the highest number is %d, want %d, of the deleted task", high, seq)
	}
}

func TestAnImmediateTaskThatIsOfferedSettlesWithoutALook(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 10)
	r.awaitQuiet(t, db, x)
	holder, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.tell(t, []*schedulerv1.OfferedTask{offered(t, db, holder)})
	x.assigned(holder)
	blocked, _ := insert(t, db, spec{immediate: true, noDefer: true, exclusive: []string{"a"}})
	waits, _ := insert(t, db, spec{immediate: true, exclusive: []string{"a"}})
	r.tell(t, []*schedulerv1.OfferedTask{offered(t, db, blocked), offered(t, db, waits)}, blocked, waits)
	if state := read(t, db, blocked).state; state != "canceled" {
		t.Errorf("the one that would not wait is %s", state)
	}
	if state := read(t, db, waits).state; state != "waiting" {
		t.Errorf("the one that may wait is %s", state)
	}
}

func TestATaskThatWaitsForASlotSaysSinceWhen(t *testing.T) {
	db := pgtest.New(t)
	r := start(t, db.Config().ConnString(), config())
	r.awaitLeading(t)
	x := join(t, r, db, "x", 1)
	first, _ := insert(t, db, spec{exclusive: []string{"a"}})
	runs := x.assigned(first)
	second, _ := insert(t, db, spec{})
	id, _ := insert(t, db, spec{exclusive: []string{"a"}})
	// What its time must not be is that of the dispatch: it is blocked for a while.
	probe.Eventually(t, "a second passes", func() bool {
		return pgtest.One[bool](t, db, `select clock_timestamp() > created_at + interval '1 s' from task where id = $1::text::uuid`, id)
	})
	if now := read(t, db, id); now.unblocked != nil {
		t.Fatalf("while it is blocked: %+v", now)
	}
	x.finish(runs, completed("null"))
	x.next("finished")
	x.assigned(second)
	probe.Eventually(t, "the row says that it is unblocked", func() bool { return read(t, db, id).unblocked != nil })
	if now := read(t, db, id); now.state != "waiting" || now.started != nil {
		t.Errorf("without a slot: %+v", now)
	}
	between := pgtest.One[bool](t, db, `select unblocked_at > created_at and unblocked_at < clock_timestamp() from task where id = $1::text::uuid`, id)
	if !between {
		t.Error("it was not unblocked between its dispatch and now")
	}
}

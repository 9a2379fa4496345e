package scheduler_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// bid tries to take the lease.
func bid(t *testing.T, store *scheduler.Store, holder string) scheduler.Seat {
	t.Helper()
	seat, err := store.Take(context.WithoutCancel(t.Context()), scheduler.Bid{Holder: holder, Address: "at " + holder})
	if err != nil {
		t.Fatal(err)
	}
	return seat
}

// take takes the lease, which must be free.
func take(t *testing.T, store *scheduler.Store, holder string) scheduler.Seat {
	t.Helper()
	seat := bid(t, store, holder)
	if !seat.Taken {
		t.Fatalf("%s did not get the lease: %+v", holder, seat)
	}
	return seat
}

// expire makes the lease have run out that long ago.
func expire(t *testing.T, db *pgxpool.Pool, ago time.Duration) {
	t.Helper()
	if _, err := db.Exec(t.Context(), `update lease set expires_at = now() - $1::interval`, ago); err != nil {
		t.Fatal(err)
	}
}

func TestTheLeaseIsHeldByOneUntilItRunsOut(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Hour)
	first := take(t, store, "one")
	if diff := cmp.Diff(scheduler.Seat{Taken: true, Epoch: 1, Holder: "one", Address: "at one", Left: time.Hour}, first); diff != "" {
		t.Error(diff)
	}
	// Who does not get it learns whom to watch, and for how long.
	seat := bid(t, store, "two")
	if left := seat.Left; left <= 0 || left > time.Hour {
		t.Errorf("the lease lasts %s", left)
	}
	seat.Left = 0
	if diff := cmp.Diff(scheduler.Seat{Epoch: 1, Holder: "one", Address: "at one"}, seat); diff != "" {
		t.Error(diff)
	}

	expire(t, db, time.Millisecond)
	second := take(t, store, "two")
	if second.Epoch != first.Epoch+1 || second.Address != "at two" {
		t.Errorf("the second leadership is %+v", second)
	}
	// The first, which does not know yet, gives up what it has no more.
	if err := store.Yield(t.Context(), first.Epoch); err != nil {
		t.Error(err)
	}
	if err := store.Renew(t.Context(), first.Epoch); !errors.Is(err, scheduler.ErrDeposed) {
		t.Errorf("a deposed leader renews: %v", err)
	}
	if seat := bid(t, store, "three"); seat.Taken || seat.Epoch != second.Epoch {
		t.Errorf("the third found %+v", seat)
	}
	if err := store.Yield(t.Context(), second.Epoch); err != nil {
		t.Error(err)
	}
	if third := take(t, store, "three"); third.Epoch != second.Epoch+1 {
		t.Errorf("the third leadership is %+v", third)
	}
}

func TestOfManyWhoAskAtOnceOneGetsTheLease(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Hour)
	for round := range 20 {
		seats := make(chan scheduler.Seat)
		for range 8 {
			go func() {
				seat, err := store.Take(t.Context(), scheduler.Bid{})
				if err != nil {
					t.Error(err)
				}
				seats <- seat
			}()
		}
		taken := 0
		for range 8 {
			if seat := <-seats; seat.Taken {
				taken++
			}
		}
		if taken != 1 {
			t.Fatalf("round %d: %d schedulers lead", round, taken)
		}
		expire(t, db, time.Second)
	}
}

// A leader that was asleep while another took the lease.
func TestADeposedLeaderWritesNothing(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Second)
	old := take(t, store, "old").Epoch
	young, err := store.Take(t.Context(), scheduler.Bid{Holder: "young", Steal: true})
	if err != nil || !young.Taken || young.Epoch <= old {
		t.Fatalf("steal after epoch %d: %+v, %v", old, young, err)
	}
	id, seq := insert(t, db, spec{})
	plan := &scheduler.Plan{Claim: []scheduler.Give{{Seq: seq, Executor: "x", Incarnation: uuid.NewString()}}}
	if _, err := store.Tick(t.Context(), old, plan); !errors.Is(err, scheduler.ErrDeposed) {
		t.Errorf("the deposed leader's tick: %v", err)
	}
	if now := read(t, db, id); now.state != "waiting" {
		t.Errorf("the deposed leader wrote: %+v", now)
	}
	if _, err := store.Tick(t.Context(), young.Epoch, plan); err != nil {
		t.Errorf("the leader's tick: %v", err)
	}
	awaitState(t, db, id, "running")
	if _, err := store.Load(t.Context(), old, func(scheduler.Row) {}); !errors.Is(err, scheduler.ErrDeposed) {
		t.Errorf("the deposed leader's load: %v", err)
	}
}

// fenceOff begins a transaction of a leader and leaves it past its fence.
func fenceOff(t *testing.T, db *pgxpool.Pool, epoch int64) pgtest.Tx {
	t.Helper()
	tx := pgtest.Begin(t, db)
	if _, err := tx.Exec(t.Context(), `select scheduler_fence($1, '1s')`, epoch); err != nil {
		t.Fatal(err)
	}
	return tx
}

// What it is about to commit would not be in the memory of the one who takes over.
func TestALeaseThatRanOutIsNotTakenFromUnderATransaction(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Second)
	old := take(t, store, "old").Epoch
	expire(t, db, time.Millisecond)
	tx := fenceOff(t, db, old)
	if seat := bid(t, store, "young"); seat.Taken || seat.Left > 0 {
		t.Fatalf("during the transaction: %+v", seat)
	}
	if ended, err := store.Evict(t.Context()); err != nil || ended > 0 {
		t.Errorf("%d sessions were ended, %v: the lease has only just run out", ended, err)
	}
	tx.Commit(t)
	// The fence renewed it: the leader was late, but it lives.
	if seat := bid(t, store, "young"); seat.Taken || seat.Epoch != old {
		t.Fatalf("after the transaction: %+v", seat)
	}
}

// A leader that froze in the middle of a transaction, or whose machine is gone, while PostgreSQL waits for its next word.
func TestALeaderThatIsStuckInATransactionIsEvicted(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Second)
	old := take(t, store, "old").Epoch
	bystander := pgtest.Begin(t, db)
	if _, err := bystander.Exec(t.Context(), `select * from lease`); err != nil {
		t.Fatal(err)
	}
	expire(t, db, 2*time.Second)
	fenceOff(t, db, old)
	if seat := bid(t, store, "young"); seat.Taken {
		t.Fatalf("the row was locked, and is taken: %+v", seat)
	}
	probe.Eventually(t, "the old leader's session is ended", func() bool {
		// It has to have come to wait for its client.
		if _, err := store.Evict(t.Context()); err != nil {
			t.Fatal(err)
		}
		return bid(t, store, "young").Taken
	})
	if err := bystander.QueryRow(t.Context(), `select`).Scan(); err != nil {
		t.Errorf("who only reads the lease was evicted as well: %v", err)
	}
	if ended, err := store.Evict(t.Context()); err != nil || ended > 0 {
		t.Errorf("with a leader at work %d sessions were ended, %v", ended, err)
	}
}

func TestTheLeaseIsRenewedOnlyWhenAThirdOfItIsGone(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Hour)
	epoch := take(t, store, "x").Epoch
	expires := func() time.Time { return pgtest.One[time.Time](t, db, `select expires_at from lease`) }
	before := expires()
	tick := func() {
		if _, err := store.Tick(t.Context(), epoch, &scheduler.Plan{}); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	if !expires().Equal(before) {
		t.Error("a fresh lease was renewed")
	}
	if _, err := db.Exec(t.Context(), `update lease set expires_at = now() + interval '10 min'`); err != nil {
		t.Fatal(err)
	}
	tick()
	if left := time.Until(expires()); left < 50*time.Minute {
		t.Errorf("an ageing lease was not renewed: %s left", left)
	}
}

// Both have the lease's row, and a renewal by each would wait for the other's end: a deadlock, and the end of the leadership.
func TestATickBesideAnotherDoesNotRenewTheLeaseNorWaitForIt(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Hour)
	epoch := take(t, store, "x").Epoch
	expire(t, db, time.Second)
	other := pgtest.Begin(t, db)
	if _, err := other.Exec(t.Context(), `select scheduler_fence($1, null)`, epoch); err != nil {
		t.Fatal(err)
	}
	id, seq := insert(t, db, spec{})
	plan := &scheduler.Plan{Beside: true, Claim: []scheduler.Give{{Seq: seq, Executor: "x", Incarnation: uuid.NewString()}}}
	if _, err := store.Tick(t.Context(), epoch, plan); err != nil {
		t.Fatal(err)
	}
	awaitState(t, db, id, "running")
	// What was committed beside it does not free the row.
	if seat := bid(t, store, "y"); seat.Taken {
		t.Fatalf("taken from under a transaction: %+v", seat)
	}
	other.Rollback(t)
	// The lease ran out long ago, and nobody has renewed it.
	young := take(t, store, "y")
	if _, err := store.Tick(t.Context(), epoch, plan); !errors.Is(err, scheduler.ErrDeposed) || young.Epoch == epoch {
		t.Errorf("a tick of the epoch before: %v", err)
	}
}

// Otherwise a load that takes longer than the lease would be followed by a takeover, and that by another.
func TestALoadKeepsTheLease(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Hour)
	epoch := take(t, store, "x").Epoch
	insert(t, db, spec{})
	during := func(scheduler.Row) {
		expire(t, db, time.Minute)
		// Not locked: it can be renewed beside the load, and is.
		if err := store.Renew(t.Context(), epoch); err != nil {
			t.Error(err)
		}
		if seat := bid(t, store, "y"); seat.Taken {
			t.Errorf("taken over during the load: %+v", seat)
		}
		expire(t, db, time.Minute)
	}
	if _, err := store.Load(t.Context(), epoch, during); err != nil {
		t.Fatal(err)
	}
	if seat := bid(t, store, "y"); seat.Taken {
		t.Errorf("taken over after the load: %+v", seat)
	}
}

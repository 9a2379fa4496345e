package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// The network can hold a hello back, and bring it after a younger one. What was given on the younger line it does not name; if
// that were taken back, it would run twice.
func TestAHelloThatComesAfterAYoungerOneTakesNothingBack(t *testing.T) {
	s := newStage(t)
	hello := func(number int64) (*line, event) {
		to := newLine()
		return to, helloEvent{line: to, hello: &schedulerv1.Hello{
			Executor: "x", Incarnation: "life of x", Slots: 10, ImmediateSlots: 1, TaskNames: []string{"t"}, Line: number,
		}}
	}
	young, comes := hello(2)
	s.x = young
	row := s.db.add(tRow("a"))
	if given := s.tick(comes, offers(row)); len(given) != 1 {
		t.Fatalf("given: %v", given)
	}

	old, comes := hello(1)
	s.tick(comes)
	if _, closed, err := old.take(); !closed || !errs.Is(err, errs.BadProtocol) {
		t.Errorf("the old line: closed %t with %v", closed, err)
	}
	if _, closed, _ := young.take(); closed {
		t.Error("the young line was cut")
	}
	if row.State != task.Running || row.Claim != 1 {
		t.Errorf("the task is %s under claim %d", row.State, row.Claim)
	}
}

// What was canceled behind a task that nobody can run never comes to the front of its lane.
func TestWhatWasCanceledBehindATaskThatNobodyCanRunIsForgotten(t *testing.T) {
	l := emptyLeader()
	admit := func(seq int64) {
		l.admit(Row{Seq: seq, ID: fmt.Sprint(seq), Name: "unknown", State: task.Waiting, Deferred: true})
	}
	admit(1)
	for seq := int64(2); seq < 10_000; seq++ {
		admit(seq)
		l.canceled([]int64{seq}, 0)
	}
	if n := len(l.lanes["unknown"].ready[ordinarily]); n > 200 {
		t.Errorf("%d entries for one task", n)
	}
	if err := check(l); err != nil {
		t.Error(err)
	}
}

// An immediate task that may wait can wait for hours, long after its dispatch has returned.
func TestWhoHasGoneAwayIsNotKeptAsOneWhoWaits(t *testing.T) {
	s := newStage(t)
	left := make(chan struct{})
	row := tRow()
	row.Immediate = true
	busy, waits := s.db.add(row), s.db.add(row) // x has one slot for these
	e := offers(busy, waits)
	e.settle = &settle{ids: []string{waits.ID}, done: make(chan struct{}), left: left}
	s.tick(e)
	if n := len(s.leader.settles); n != 1 {
		t.Fatalf("%d wait", n)
	}
	close(left)
	s.tick(offerEvent{})
	if n := len(s.leader.settles); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// Ten thousand executors are ten thousand questions to the database, and while a number is missing every tick looks.
func TestLooksForMissingNumbersDoNotAskAfterExecutorsEachTime(t *testing.T) {
	s := newStage(t)
	s.tick(offerEvent{})
	asked := 0
	s.db.planned = func(p *Plan) { asked += len(p.Owners) }
	open := s.db.begin()
	s.db.insert(open, tRow())
	for range 5 {
		s.tick(offers(s.db.add(tRow())))
	}
	if asked != 0 {
		t.Errorf("asked %d times", asked)
	}
	s.tick(offerEvent{})
	if asked != 0 {
		t.Errorf("asked %d times at a hint: the end of a life is noted", asked)
	}
	s.now = s.now.Add(thoroughEvery)
	s.tick(offerEvent{})
	s.tick(offerEvent{})
	if asked != 1 {
		t.Errorf("asked after %d lives when it was time to, want 1", asked)
	}
}

// A transaction of a stranger can be open for hours. It has no number of a task, so nothing has to wait for it: each tick would
// look, and after a takeover each look reads all that is alive.
func TestATransactionThatHasNoNumberDoesNotKeepAGapOpen(t *testing.T) {
	db := pgtest.New(t)
	elsewhere := pgtest.Begin(t, pgtest.New(t)) // in another database of the server
	beside := pgtest.Begin(t, pgtest.Open(t, db.Config().ConnString()))
	for _, stranger := range []pgtest.Tx{elsewhere, beside} {
		pgtest.One[string](t, stranger, `select pg_current_xact_id()::text`)
		pgtest.One[int](t, stranger, `select count(*) from task`)
	}
	store := NewStore(db, time.Hour)
	seat, err := store.Take(t.Context(), Bid{Holder: "x"})
	if err != nil {
		t.Fatal(err)
	}
	l := newLeader(seat.Epoch, store, slog.New(slog.DiscardHandler), time.Now, func([]*schedulerv1.Change) {})
	if err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		l.hinted = true
		if _, err := l.tick(context.Background(), nil, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	insert := func(into pgtest.Tx) {
		pgtest.Must(t, into, 1, `
			with new as (insert into task (id, domain_id, name) values ($1::text::uuid, $2::text::uuid, 't') returning seq, id)
			insert into task_live (seq, task_id) select seq, id from new`, uuid.NewString(), task.DefaultDomainID)
	}
	look()
	look()
	if l.late != nil {
		t.Error("two looks after the load it still waits for what the load could not see")
	}

	dispatch, other := pgtest.Begin(t, db), pgtest.Begin(t, db)
	insert(dispatch)
	insert(other)
	other.Commit(t)
	for range 3 {
		look()
	}
	if len(l.gaps) != 1 {
		t.Fatalf("gaps while the dispatch is under way: %v", l.gaps)
	}
	dispatch.Rollback(t)
	look()
	if len(l.gaps) != 0 {
		t.Errorf("gaps after it ended without a task: %v", l.gaps)
	}
}

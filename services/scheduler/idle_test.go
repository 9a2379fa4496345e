package scheduler

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// idle is a leader on a real database, with executors that have nothing to do and a clock that the test sets.
type idle struct {
	t      *testing.T
	db     *pgxpool.Pool
	store  *Store
	sent   *pgtest.Recorder
	leader *leader
	now    time.Time
}

func newIdle(t *testing.T, executors int) *idle {
	t.Helper()
	url := pgtest.URL(t)
	pool, sent := pgtest.Record(t, url)
	i := &idle{t: t, db: pgtest.Open(t, url), store: NewStore(pool, Defaults().Lease), sent: sent, now: time.Now()}
	seat, err := i.store.Take(t.Context(), Bid{Holder: "x"})
	if err != nil || !seat.Taken {
		t.Fatalf("%+v, %v", seat, err)
	}
	i.leader = newLeader(seat.Epoch, i.store, slog.New(slog.DiscardHandler), func() time.Time { return i.now }, func([]*schedulerv1.Change) {})
	if err := i.leader.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range executors {
		i.tick(helloEvent{line: newLine(), hello: &schedulerv1.Hello{Executor: fmt.Sprint(n), Incarnation: i.life(fmt.Sprint(n)), Slots: 1, TaskNames: []string{"t"}}})
	}
	i.tick() // the load left some questions open
	i.sent.Take()
	return i
}

// life stores a living incarnation.
func (i *idle) life(name string) string {
	i.t.Helper()
	incarnation := uuid.NewString()
	pgtest.Must(i.t, i.db, 1, `insert into app (incarnation, name, kind, ttl) values ($1::text::uuid, $2, 'worker', '1h')`, incarnation, name)
	return incarnation
}

// tick ticks until there is nothing more to do at once.
func (i *idle) tick(events ...event) {
	i.t.Helper()
	for more := true; more; events = nil {
		var err error
		if more, err = i.leader.tick(i.t.Context(), events, time.Second); err != nil {
			i.t.Fatal(err)
		}
	}
}

// seconds lets time pass, and returns the statements that it cost.
func (i *idle) seconds(n int) []pgtest.Statement {
	i.t.Helper()
	for range n {
		i.now = i.now.Add(time.Second)
		i.tick()
	}
	return i.sent.Take()
}

func TestAnIdleLeaderSendsOneStatementASecond(t *testing.T) {
	i := newIdle(t, 20)
	i.seconds(1)
	if sent := i.seconds(100); len(sent) > 110 {
		t.Errorf("%d statements in 100 seconds, the last: %s", len(sent), sent[len(sent)-1].SQL)
	}
}

func TestWhatNobodyHintsAtIsFoundByTheNextGlance(t *testing.T) {
	i := newIdle(t, 1)
	for _, what := range []struct {
		name, sql string
		found     func() bool
	}{
		{
			"a task", `
			with new as (insert into task (id, domain_id, name) values ('00000000-0000-7000-8000-000000000009', gen_random_uuid(), 't') returning seq, id)
			insert into task_live (seq, task_id) select seq, id from new`,
			func() bool { return len(i.leader.tasks) == 1 },
		},
		{
			"a wish to cancel", `
			with hit as (update task set state = 'canceling' where state = 'running' returning seq, id)
			insert into task_cancel (seq, task_id) select seq, id from hit`,
			func() bool { return i.leader.tasks[1].canceling },
		},
		{
			"the end of a life", `
			with over as (update app set missing_at = now() returning incarnation)
			insert into app_over (incarnation, missing) select incarnation, true from over`,
			func() bool { return len(i.leader.executors) == 0 },
		},
	} {
		pgtest.Must(t, i.db, 1, what.sql)
		if i.seconds(1); !what.found() {
			t.Errorf("%s was not found", what.name)
		}
		for _, table := range []string{"task_cancel", "app_over"} {
			if n := pgtest.One[int](t, i.db, `select count(*) from `+table); n != 0 {
				t.Errorf("after %s: %d rows in %s", what.name, n, table)
			}
		}
	}
	// It had not acknowledged the task, but that was to be canceled.
	if state := pgtest.One[string](t, i.db, `select state from task`); state != "canceled" {
		t.Errorf("the task is %s", state)
	}
}

// A glance sees only what is above all that was seen. While a number below is missing it is not enough.
func TestWhatIsCommittedLateIsFoundThoughNobodyHints(t *testing.T) {
	i := newIdle(t, 0)
	const insert = `
		with new as (insert into task (id, domain_id, name) values (gen_random_uuid(), gen_random_uuid(), 't') returning seq, id)
		insert into task_live (seq, task_id) select seq, id from new`
	late := pgtest.Begin(t, i.db)
	pgtest.Must(t, late, 1, insert)
	pgtest.Must(t, i.db, 1, insert)
	if i.seconds(2); len(i.leader.tasks) != 1 {
		t.Fatalf("%d tasks are known", len(i.leader.tasks))
	}
	late.Commit(t)
	if i.seconds(1); len(i.leader.tasks) != 2 || len(i.leader.gaps) != 0 {
		t.Errorf("%d tasks are known, gaps %v", len(i.leader.tasks), i.leader.gaps)
	}
	i.seconds(2)
	if sent := i.seconds(10); len(sent) > 11 {
		t.Errorf("%d statements in 10 seconds when nothing is missing any more", len(sent))
	}
}

// After a restore, say, or because somebody changed a row by hand.
func TestTheEndOfALifeThatIsNotNotedIsFoundAllTheSame(t *testing.T) {
	i := newIdle(t, 2)
	i.now = i.now.Add(thoroughEvery)
	i.tick()
	pgtest.Must(t, i.db, 1, `delete from app where name = '0'`)
	if i.seconds(9); len(i.leader.executors) != 2 {
		t.Error("it asks after all executors more often than it should")
	}
	if i.seconds(1); len(i.leader.executors) != 1 {
		t.Error("the executor is still there")
	}
}

// Its transaction was open for minutes, or the clock was put forward.
func TestAWishToCancelThatCameLateIsFound(t *testing.T) {
	i := newIdle(t, 0)
	i.now = i.now.Add(thoroughEvery)
	i.tick()
	pgtest.Must(t, i.db, 1, `insert into task_cancel (seq, task_id, requested_at) values (1, gen_random_uuid(), now() - interval '2 minutes')`)
	left := func() int { return pgtest.One[int](t, i.db, `select count(*) from task_cancel`) }
	if i.seconds(9); left() != 1 {
		t.Error("each look asks for all wishes, and passes over all that were removed")
	}
	if i.seconds(1); left() != 0 {
		t.Error("the wish is still there")
	}
}

// The note of a life is gone when, and only when, what it left is settled: else nobody would ever settle it.
func TestTheNoteOfALifeGoesWithTheTransactionThatSettlesItsTasks(t *testing.T) {
	s := newStage(t)
	row := s.db.add(tRow())
	s.tick(offers(row))
	s.db.end(Gone{Incarnation: "life of x"})
	s.db.planned = func(p *Plan) {
		if len(p.ForgetLives) != len(p.Finish) {
			t.Errorf("forgets %v with %v", p.ForgetLives, p.Finish)
		}
	}
	s.tick(offerEvent{})
	if row.State != task.Failed || len(s.db.notes) != 0 {
		t.Errorf("it is %s, the notes are %v", row.State, s.db.notes)
	}
}

// Its hello can be on its way: the database was asked before it ended.
func TestTheNoteOfALifeThatNobodyKnowsIsRemembered(t *testing.T) {
	s := newStage(t)
	s.db.end(Gone{Incarnation: "life of y"})
	s.tick(offerEvent{})
	if len(s.db.notes) != 0 {
		t.Error("the note is still there")
	}
	if y := join(s.leader, "y", 1, "t"); !y.closed {
		t.Error("it was welcomed")
	}
}

// What is to be done for many lives is done by and by.
func TestALookReadsOnlySoManyNotes(t *testing.T) {
	s := newStage(t)
	s.leader.lookLimit = 3
	for n := range 10 {
		s.db.end(Gone{Incarnation: fmt.Sprint(n)})
	}
	s.db.planned = func(p *Plan) {
		if len(p.ForgetLives) > 3 {
			t.Errorf("%d at once", len(p.ForgetLives))
		}
	}
	if s.tick(offerEvent{}); len(s.db.notes) != 0 {
		t.Errorf("%d are left", len(s.db.notes))
	}
}

func TestAGlanceKeepsTheLeaseAndKnowsWhoLeads(t *testing.T) {
	if every, lease := Defaults().LookEvery, Defaults().Lease; every > lease/3 {
		t.Fatalf("a glance each %s is too rare for a lease of %s", every, lease)
	}
	i := newIdle(t, 0)
	const lease = time.Hour
	i.store.lease = lease
	left := func() time.Duration {
		return pgtest.One[time.Duration](t, i.db, `select expires_at - now() from lease`)
	}
	// Written no more often than it must be: each version of the row stays until no transaction of any kind is older.
	for set, renewed := range map[time.Duration]bool{
		lease * 8 / 10: false, lease * 7 / 10: true, 0: true, -lease: true, // nobody took it
		2 * lease: true, // the database's clock went back
	} {
		pgtest.Must(t, i.db, 1, `update lease set expires_at = now() + $1::interval`, set)
		if i.seconds(1); (left() > lease*9/10 && left() <= lease) != renewed {
			t.Errorf("a lease of %s that lasts %s is one that lasts %s after a glance, renewed %v", lease, set, left(), renewed)
		}
	}
	pgtest.Must(t, i.db, 1, `update lease set epoch = epoch + 1`)
	i.now = i.now.Add(time.Second)
	if _, err := i.leader.tick(t.Context(), nil, time.Second); !errors.Is(err, ErrDeposed) {
		t.Errorf("a deposed leader's glance: %v", err)
	}
}

// Its plans are kept, and made when next to nothing waits.
func TestAGlanceReadsOnlyWhatItIsAskedFor(t *testing.T) {
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1 // plans are kept for each connection
	db, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	pgtest.Must(t, db, 1, `update lease set epoch = 1`)
	lives := make([]string, 5)
	for n := range lives {
		lives[n] = uuid.NewString()
		pgtest.Must(t, db, 1, `insert into app (incarnation, name, kind, ttl) values ($1::text::uuid, $2, 'worker', '1h')`, lives[n], fmt.Sprint(n))
	}
	read := func(high int64) int {
		t.Helper()
		tx := pgtest.Begin(t, db)
		defer tx.Rollback(t)
		const rows = `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_user_tables`
		before := pgtest.One[int](t, tx, rows)
		if stirs := pgtest.One[bool](t, tx, `select stirs from scheduler_glance_2(1, '1h', $1, string_to_array($2, ','))`, high, strings.Join(lives, ",")); stirs {
			t.Fatal("something stirs")
		}
		return pgtest.One[int](t, tx, rows) - before
	}
	const most = 10 // the lives, and the lease three times
	for range 7 {
		if n := read(0); n > most {
			t.Errorf("on a small database it reads %d rows", n)
		}
	}
	pgtest.Must(t, db, 20_000, `insert into task_live (seq, task_id) select n, gen_random_uuid() from generate_series(1, 20000) n`)
	pgtest.Must(t, db, 20_000, `insert into app (incarnation, name, kind, ttl) select gen_random_uuid(), 'n' || n, 'worker', '1h' from generate_series(1, 20000) n`)
	if n := read(20_000); n > most {
		t.Errorf("on a grown database it reads %d rows", n)
	}
}

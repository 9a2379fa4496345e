package scheduler

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// schedule stores a schedule that is due in a while (or was, if that is negative), again and again if it has an interval.
func schedule(t *testing.T, db postgres.Querier, name string, in, every time.Duration) (id string) {
	t.Helper()
	var interval any
	if every > 0 {
		interval = every
	}
	return pgtest.One[string](t, db, `
		insert into task_schedule (id, domain_id, name, task_name, args, kwargs, exclusive, shared, versions, options, dispatch_interval, next_dispatch)
		values (gen_random_uuid(), gen_random_uuid(), $1, 't', '[1.0]', '{"b":1,"a":2}', '{e}', '{s}', '{"core":"1"}', '{"timeout_ms":1000}',
			$3::interval, now() + $2::interval)
		returning id::text`, name, in, interval)
}

// dispatched counts all tasks.
func dispatched(t *testing.T, db postgres.Querier) int {
	t.Helper()
	return pgtest.One[int](t, db, `select count(*) from task`)
}

// complete ends all live tasks, as if they had run.
func complete(t *testing.T, db postgres.Querier, n int64) {
	t.Helper()
	pgtest.Must(t, db, n, `
		with done as (
			update task set state = 'completed', unblocked_at = now(), started_at = now(), finished_at = now(), executor = 'x',
				incarnation = gen_random_uuid(), claim = 1, attempt = 1 where finished_at is null returning seq
		)
		delete from task_live l using done where l.seq = done.seq`)
}

// fired dispatches what is due, under an epoch.
func fired(t *testing.T, store *Store, epoch int64, most int) (Firing, error) {
	t.Helper()
	fresh := make([]Fresh, most)
	for i := range most {
		fresh[i] = Fresh{TaskID: uuid.NewString(), CorrelationID: uuid.NewString()}
	}
	return store.Fire(t.Context(), epoch, fresh)
}

// firing is a store that leads a database.
func firing(t *testing.T) (store *Store, epoch int64, db *pgxpool.Pool) {
	t.Helper()
	db = pgtest.New(t)
	store = NewStore(db, time.Hour)
	seat, err := store.Take(t.Context(), Bid{Holder: "x"})
	if err != nil || !seat.Taken {
		t.Fatalf("%+v, %v", seat, err)
	}
	return store, seat.Epoch, db
}

func TestAScheduledTaskIsDispatchedWithAllThatItsScheduleSays(t *testing.T) {
	store, epoch, db := firing(t)
	id := schedule(t, db, "nightly", -time.Second, time.Hour)
	got, err := fired(t, store, epoch, 3)
	if err != nil || len(got.Fired) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	f := got.Fired[0]
	if f.ScheduleID != id || f.Name != "nightly" || f.TaskName != "t" || f.Problem != "" || f.Next == nil || f.Next.Sub(f.Due) != time.Hour {
		t.Errorf("fired %+v", f)
	}
	if same := pgtest.One[bool](t, db, `
		select t.name = s.task_name and t.domain_id = s.domain_id and t.args::text = '[1.0]' and t.kwargs::text = '{"b":1,"a":2}'
		   and t.exclusive = s.exclusive and t.shared = s.shared and t.versions = s.versions and t.options::text = s.options::text
		   and not t.immediate and t.deferred and t.state = 'waiting' and t.correlation_id <> '' and t.parent_id is null and t.group_id is null
		   and s.last_task_id = t.id and s.last_seq = t.seq and l.task_id = t.id and s.updated_at > s.created_at
		   and t.id::text = $1
		from task t, task_schedule s, task_live l where l.seq = t.seq`, f.TaskID); !same {
		t.Error("the task is not what the schedule says")
	}
	complete(t, db, 1)
	pgtest.Must(t, db, 1, `update task_schedule set correlation_id = 'the same', next_dispatch = now()`)
	if got, err := fired(t, store, epoch, 3); err != nil || len(got.Fired) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if n := pgtest.One[int](t, db, `select count(*) from task where correlation_id = 'the same'`); n != 1 {
		t.Errorf("%d tasks have the correlation id that the schedule has", n)
	}
}

func TestAScheduleWithoutAnIntervalIsDispatchedOnce(t *testing.T) {
	store, epoch, db := firing(t)
	schedule(t, db, "once", -time.Hour, 0)
	for range 3 {
		got, err := fired(t, store, epoch, 3)
		if err != nil || got.Due != nil {
			t.Fatalf("%+v, %v", got, err)
		}
		complete(t, db, int64(len(got.Fired)))
	}
	if n := dispatched(t, db); n != 1 {
		t.Errorf("%d tasks", n)
	}
	if never := pgtest.One[bool](t, db, `select next_dispatch is null from task_schedule`); !never {
		t.Error("it has another time")
	}
}

// No scheduler led for a while, or the database's clock was put forward.
func TestTimesThatPassedAreSkippedAndTheRhythmStays(t *testing.T) {
	store, epoch, db := firing(t)
	for name, c := range map[string]struct{ ago, every time.Duration }{
		"some": {time.Minute + 3*time.Second, 7500 * time.Millisecond}, "none": {time.Second, time.Hour},
		"decades": {50 * 365 * 24 * time.Hour, 1234567 * time.Microsecond}, "a moment": {0, time.Second},
		"a long one": {time.Second, 10 * 365 * 24 * time.Hour},
	} {
		schedule(t, db, name, -c.ago, c.every)
	}
	for _, f := range mustFire(t, store, epoch, 50).Fired {
		every := pgtest.One[time.Duration](t, db, `select dispatch_interval from task_schedule where name = $1`, f.Name)
		now := time.UnixMicro(mustFire(t, store, epoch, 1).Now)
		if f.Next.Sub(f.Due)%every != 0 || f.Next.Sub(now) <= -time.Second || f.Next.Sub(now) > every {
			t.Errorf("%s: due at %s, every %s, next at %s, now %s", f.Name, f.Due, every, f.Next, now)
		}
	}
	if n := dispatched(t, db); n != 5 {
		t.Errorf("%d tasks for five schedules", n)
	}
}

func mustFire(t *testing.T, store *Store, epoch int64, most int) Firing {
	t.Helper()
	got, err := fired(t, store, epoch, most)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatStillRunsPutsTheNextTimeOff(t *testing.T) {
	store, epoch, db := firing(t)
	schedule(t, db, "slow", -time.Hour, time.Second)
	mustFire(t, store, epoch, 3)
	pgtest.Must(t, db, 1, `update task_schedule set next_dispatch = now() - interval '10 s'`)
	for range 3 {
		if got := mustFire(t, store, epoch, 3); len(got.Fired) != 0 || got.Due != nil {
			t.Fatalf("while the last task waits: %+v", got)
		}
	}
	complete(t, db, 1)
	if got := mustFire(t, store, epoch, 3); len(got.Fired) != 1 {
		t.Fatalf("when it has ended: %+v", got)
	}
	if got := mustFire(t, store, epoch, 3); len(got.Fired) != 0 {
		t.Errorf("what was put off piled up: %+v", got)
	}
	// A task that is not there any more holds up nobody.
	complete(t, db, 1)
	pgtest.Must(t, db, 2, `delete from task`)
	pgtest.Must(t, db, 1, `update task_schedule set next_dispatch = now()`)
	if got := mustFire(t, store, epoch, 3); len(got.Fired) != 1 {
		t.Errorf("when it is deleted: %+v", got)
	}
}

func TestADeposedLeaderDispatchesNothing(t *testing.T) {
	store, epoch, db := firing(t)
	schedule(t, db, "n", -time.Second, time.Second)
	pgtest.Must(t, db, 1, `update lease set epoch = epoch + 1`)
	before := pgtest.One[time.Time](t, db, `select next_dispatch from task_schedule`)
	if _, err := fired(t, store, epoch, 3); !errors.Is(err, ErrDeposed) {
		t.Errorf("got %v", err)
	}
	if after := pgtest.One[time.Time](t, db, `select next_dispatch from task_schedule`); dispatched(t, db) != 0 || !after.Equal(before) {
		t.Errorf("%d tasks, next at %s instead of %s", dispatched(t, db), after, before)
	}
}

// Leaders that take the lease from each other all the time, each of which goes on until it hears of it, and one that is killed in the
// middle: each schedule is dispatched once for each of its times.
func TestEachTimeIsDispatchedOnceByLeadersThatDeposeEachOther(t *testing.T) {
	db := pgtest.New(t)
	const schedules, leaders = 300, 4
	for n := range schedules {
		schedule(t, db, fmt.Sprint(n), -time.Minute+time.Duration(n)*time.Millisecond, time.Duration(n%2)*time.Hour)
	}
	// One is in the middle of it, and is killed when the others are at work.
	first, err := NewStore(db, time.Hour).Take(t.Context(), Bid{Holder: "first"})
	if err != nil || !first.Taken {
		t.Fatalf("%+v, %v", first, err)
	}
	dead := pgtest.Begin(t, db)
	if n := pgtest.One[int](t, dead, `select count(*) from scheduler_fire($1, '1 h', array[gen_random_uuid()::text], '{c}')`, first.Epoch); n != 1 {
		t.Fatalf("it dispatched %d", n)
	}
	var all sync.WaitGroup
	for n := range leaders {
		all.Go(func() {
			store := NewStore(db, time.Hour)
			for {
				seat, err := store.Take(t.Context(), Bid{Holder: fmt.Sprint(n), Steal: true})
				if err != nil {
					t.Error(err)
					return
				}
				for seat.Taken {
					got, err := fired(t, store, seat.Epoch, 3)
					if errors.Is(err, ErrDeposed) {
						break
					}
					if err != nil {
						t.Error(err)
						return
					}
					if len(got.Fired) == 0 && (got.Due == nil || *got.Due > got.Now) {
						return
					}
				}
			}
		})
	}
	dead.Rollback(t)
	all.Wait()
	if n := pgtest.One[int](t, db, `select count(*) from task_schedule s join task t on t.id = s.last_task_id and t.seq = s.last_seq`); n != schedules {
		t.Errorf("%d schedules have a task", n)
	}
	if n := dispatched(t, db); n != schedules {
		t.Errorf("%d tasks for %d schedules", n, schedules)
	}
}

// Because of what somebody did to its row, or to the table.
func TestAScheduleThatCantBeDispatchedHoldsUpNobody(t *testing.T) {
	i := newIdle(t, 0)
	var log bytes.Buffer
	i.leader.log = slog.New(slog.NewJSONHandler(&log, nil))
	pgtest.Must(t, i.db, 0, `alter table task add constraint not_this check (correlation_id <> 'bad')`)
	for n, name := range []string{"once bad", "good", "bad", "once good"} {
		schedule(t, i.db, name, -time.Minute+time.Duration(n)*time.Second, map[bool]time.Duration{false: time.Hour}[strings.HasPrefix(name, "once")])
	}
	pgtest.Must(t, i.db, 2, `update task_schedule set correlation_id = 'bad' where name like '%bad'`)
	i.seconds(3)
	if n := len(i.leader.tasks); n != 2 || dispatched(t, i.db) != 2 {
		t.Errorf("the leader knows %d tasks, the database has %d", n, dispatched(t, i.db))
	}
	got := pgtest.One[string](t, i.db, `
		select string_agg(format('%s: %s %s', name, last_task_id is null, case when next_dispatch is null then 'never'
			when next_dispatch between now() + interval '50 s' and now() + interval '1 min' then 'in a minute'
			when next_dispatch between now() + interval '50 min' and now() + interval '1 h' then 'in an hour' else 'now' end), '; ' order by name)
		from task_schedule`)
	if diff := cmp.Diff("bad: t in an hour; good: f in an hour; once bad: t in a minute; once good: f never", got); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(log.String(), `"level":"WARN"`); n != 2 || !strings.Contains(log.String(), "not_this") {
		t.Errorf("%d warnings: %s", n, &log)
	}
}

// A full disk is not the fault of any schedule: no time is skipped for it, and the leader goes on leading.
func TestATroubleOfTheDatabaseSkipsNoTime(t *testing.T) {
	i := newIdle(t, 0)
	pgtest.Must(t, i.db, 0, `create function full_disk() returns trigger language plpgsql as $$ begin raise 'full' using errcode = 'disk_full'; end $$`)
	pgtest.Must(t, i.db, 0, `create trigger full_disk before insert on task for each row execute function full_disk()`)
	schedule(t, i.db, "n", -time.Second, time.Hour)
	before := pgtest.One[time.Time](t, i.db, `select next_dispatch from task_schedule`)
	if sent := i.seconds(10); len(sent) > 60 {
		t.Errorf("%d statements in ten seconds", len(sent))
	}
	if after := pgtest.One[time.Time](t, i.db, `select next_dispatch from task_schedule`); !after.Equal(before) {
		t.Errorf("the time is %s, was %s", after, before)
	}
	pgtest.Must(t, i.db, 0, `drop trigger full_disk on task`)
	if i.seconds(2); len(i.leader.tasks) != 1 {
		t.Errorf("afterwards the leader knows %d tasks", len(i.leader.tasks))
	}
}

func TestAnIdleLeaderKnowsWhenTheNextScheduleIsDue(t *testing.T) {
	i := newIdle(t, 0)
	i.seconds(1)
	if left, some := i.leader.alarm(); some {
		t.Errorf("something is due in %s", left)
	}
	schedule(t, i.db, "n", 20*time.Second, time.Hour)
	i.seconds(1)
	left, some := i.leader.alarm()
	if !some || left > 20*time.Second || left < time.Second {
		t.Fatalf("it is due in %s, known %v", left, some)
	}
	if i.seconds(1); dispatched(t, i.db) != 0 {
		t.Fatal("it was dispatched before its time")
	}
	// The clock of the leader goes on, that of the database only a little: it asks, learns when, and waits for it.
	i.now = i.now.Add(left)
	i.tick()
	if dispatched(t, i.db) != 0 {
		t.Fatal("it was dispatched before its time by the database's clock")
	}
	if left, some := i.leader.alarm(); !some || left <= 0 {
		t.Errorf("it is due in %s, known %v", left, some)
	}
	pgtest.Must(t, i.db, 1, `update task_schedule set next_dispatch = now()`)
	if i.seconds(1); len(i.leader.tasks) != 1 {
		t.Error("it was not dispatched at its time")
	}
	if left, some := i.leader.alarm(); some {
		t.Errorf("something is due in %s", left)
	}
}

// The looks are a second apart and more, and so may times be: who waits for one to find the next time comes too late for every second of
// them.
func TestTheNextTimeOfWhatWasJustDispatchedIsKnown(t *testing.T) {
	i := newIdle(t, 0)
	i.seconds(1)
	schedule(t, i.db, "n", 0, 10*time.Second)
	if i.seconds(1); len(i.leader.tasks) != 1 {
		t.Fatalf("the leader knows %d tasks", len(i.leader.tasks))
	}
	left, some := i.leader.alarm()
	if !some || left <= 0 || left > 10*time.Second {
		t.Fatalf("it is due again in %s, known %v", left, some)
	}
	pgtest.Must(t, i.db, 1, `update task_schedule set next_dispatch = now()`)
	i.sent.Take()
	i.now = i.now.Add(left)
	if i.tick(); len(i.leader.tasks) != 1 {
		t.Error("it was dispatched although its task has not ended")
	}
	if left, some := i.leader.alarm(); some {
		t.Errorf("it is asked about again in %s although its task has not ended", left)
	}
}

func TestABusyLeaderDispatchesToo(t *testing.T) {
	i := newIdle(t, 0)
	// While a number is missing no glance is enough: this leader looks.
	late := pgtest.Begin(t, i.db)
	const insert = `
		with new as (insert into task (id, domain_id, name) values (gen_random_uuid(), gen_random_uuid(), 't') returning seq, id)
		insert into task_live (seq, task_id) select seq, id from new`
	pgtest.Must(t, late, 1, insert)
	pgtest.Must(t, i.db, 1, insert)
	i.seconds(2)
	schedule(t, i.db, "n", 0, time.Hour)
	for range 2 { // with a hint in each tick, looks are many, and never due
		i.now = i.now.Add(time.Second / 2)
		i.tick(offerEvent{})
		for _, s := range i.sent.Take() {
			if strings.Contains(s.SQL, "scheduler_glance") {
				t.Error("it glances")
			}
		}
	}
	if i.tick(offerEvent{}); len(i.leader.tasks) != 2 {
		t.Errorf("the leader knows %d tasks", len(i.leader.tasks))
	}
	late.Rollback(t)
}

// Whoever deletes a schedule may take its time, and nobody waits for him, nor asks all the time.
func TestAScheduleThatIsBeingDeletedHoldsUpNobody(t *testing.T) {
	i := newIdle(t, 0)
	schedule(t, i.db, "goes", -time.Minute, 0)
	schedule(t, i.db, "stays", -time.Second, 0)
	goes := pgtest.Begin(t, i.db)
	pgtest.Must(t, goes, 1, `delete from task_schedule where name = 'goes'`)
	if i.seconds(1); len(i.leader.tasks) != 1 {
		t.Errorf("the leader knows %d tasks", len(i.leader.tasks))
	}
	if sent := i.seconds(10); len(sent) > 60 {
		t.Errorf("%d statements in ten seconds", len(sent))
	}
	goes.Commit(t)
	if i.seconds(3); dispatched(t, i.db) != 1 {
		t.Errorf("%d tasks", dispatched(t, i.db))
	}
}

func TestManyThatAreDueAtOnceAreDispatchedAtOnce(t *testing.T) {
	i := newIdle(t, 0)
	const many = 3*maxFire + 7
	for n := range many {
		schedule(t, i.db, fmt.Sprint(n), -time.Minute+time.Duration(n)*time.Millisecond, time.Hour)
	}
	if i.seconds(1); len(i.leader.tasks) != many {
		t.Errorf("the leader knows %d tasks", len(i.leader.tasks))
	}
	// Those that have been due for longest come first.
	if disorder := pgtest.One[int](t, i.db, `
		select count(*) from task_schedule a join task_schedule b on a.last_seq < b.last_seq where a.name::int > b.name::int`); disorder != 0 {
		t.Errorf("%d pairs are in disorder", disorder)
	}
}

func TestManySchedulesThatAreNotDueCostAGlanceNothing(t *testing.T) {
	i := newIdle(t, 0)
	pgtest.Must(t, i.db, 5000, `
		insert into task_schedule (id, domain_id, name, task_name, next_dispatch, dispatch_interval)
		select gen_random_uuid(), gen_random_uuid(), n, 't', now() + n * interval '1 h', '1 h' from generate_series(1, 5000) n`)
	if sent := i.seconds(20); len(sent) > 23 {
		t.Errorf("%d statements in 20 seconds", len(sent))
	}
	tx := pgtest.Begin(t, i.db)
	defer tx.Rollback(t)
	const rows = `select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int from pg_stat_xact_user_tables where relname = 'task_schedule'`
	for range 7 {
		before := pgtest.One[int](t, tx, rows)
		pgtest.One[time.Time](t, tx, `select scheduler_due()`)
		if read := pgtest.One[int](t, tx, rows) - before; read > 1 {
			t.Errorf("it reads %d schedules", read)
		}
	}
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// TestADatabaseThatTakesNoWritesIsOnlyThat is what services see after a failover, from the side that lost; and what they see when
// there is no connection left for them. Executors that can't confirm their lease kill what they run before it ends, and nobody
// else runs it before that.
func TestADatabaseThatTakesNoWritesIsOnlyThat(t *testing.T) {
	t.Parallel()
	db := pgtest.Own(t, pgtest.Options{Settings: map[string]string{"max_connections": "60"}})
	v := newServices(t, db.URL())
	v.database = db.URL()   // nothing in between: a pooler has words of its own
	v.ttl = 3 * time.Second // a story waits for its end
	s := v.migrate(t).start(t)
	for _, c := range some(1, []struct {
		says, told string
		away       func(*testing.T, *pgtest.Server) (back func())
	}{
		{"it is read-only", "the database takes no writes", readOnly},
		{"it has no connection left", "the database is short of connections or memory", noConnectionLeft},
		{"it lets nobody in", "the database can't be reached", closed},
	}) {
		t.Run(c.says, func(t *testing.T) {
			s := s.under(t)
			l := s.load()
			l.goesOn()
			one := l.lasts("")
			behind := one.behind()

			away := l.befalls("executor-1", task.ReasonWorkerMissing)
			began := time.Now()
			back := c.away(t, db)
			once := s.once(t)
			eventually(t, "a dispatch is refused", func() error {
				_, err := once.Dispatch(s.soon(), client.Spec{Name: "test.noop"})
				var e *errs.Error
				if !errors.As(errs.From(err), &e) || e.Reason != errs.DatabaseAway || e.Message != c.told {
					return fmt.Errorf("it was answered with %w", err)
				}
				return nil
			})
			t.Logf("a dispatch was refused %s after it began", time.Since(began).Round(time.Millisecond))
			t.Logf("the executor killed its task %s after it began; the time to live is %s", l.silent(one.Task).Sub(began).Round(time.Millisecond), v.ttl)

			back()
			again := time.Now()
			if ended := s.end(one.ID)[0]; ended.State != task.Failed || ended.Error.String() != task.ReasonWorkerMissing {
				t.Errorf("the task that was killed is %s: %v", ended.State, ended.Error)
			}
			if ended := s.end(behind.ID)[0]; ended.State != task.Completed {
				t.Errorf("the task behind it is %s: %v", ended.State, ended.Error)
			}
			t.Logf("the task behind it had run %s after the database was back", time.Since(again).Round(time.Millisecond))
			away.past()
			l.goesOn()
			l.settle(s)
		})
	}
}

// once is a client that tries once.
func (s *system) once(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.Dial(s.grpc, client.Attempts(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it only fails when closed twice
	return c
}

// silent waits until a task that lasts has not written for as long as it takes to write several times, and returns when it wrote last.
func (l *load) silent(one client.Task) (since time.Time) {
	l.s.t.Helper()
	since = time.Now()
	written := 0
	eventually(l.s.t, "task "+one.ID+" is silent", func() error {
		if n := strings.Count(l.read(), "alive "+one.ID); n > written {
			written, since = n, time.Now()
		}
		if quiet := time.Since(since); quiet < time.Second { // it writes twenty times a second
			return fmt.Errorf("it has written %d times, the last time %s ago", written, quiet)
		}
		return nil
	})
	return since
}

func operate(t *testing.T, db *pgtest.Server, statements ...string) {
	t.Helper()
	pool := db.Admin()
	defer pool.Close()
	for _, sql := range statements {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// readOnly is a server that became a standby: it is up, and every write fails.
func readOnly(t *testing.T, db *pgtest.Server) (back func()) {
	t.Helper()
	operate(t, db, "alter system set default_transaction_read_only = on", "select pg_reload_conf()")
	return func() {
		operate(t, db, "alter system reset default_transaction_read_only", "select pg_reload_conf()")
	}
}

// noConnectionLeft takes all that an ordinary role may have, those of the services included.
func noConnectionLeft(t *testing.T, db *pgtest.Server) (back func()) {
	t.Helper()
	ctx := context.Background()
	admin := db.Admin()
	var taken []*pgx.Conn
	eventually(t, "all connections are taken", func() error {
		conn, err := pgx.Connect(ctx, db.URL()+"&application_name=greedy")
		if err == nil {
			taken = append(taken, conn)
			return fmt.Errorf("there was one more after %d", len(taken))
		}
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "53300" {
			t.Fatal(err)
		}
		// Who was there before is sent away, and is not as quick as we are to come back.
		if ended := pgtest.One[int](t, admin, `
			select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app' and application_name <> 'greedy'`); ended > 0 {
			return fmt.Errorf("%d sessions were ended", ended)
		}
		return nil
	})
	return func() {
		for _, conn := range taken {
			_ = conn.Close(ctx)
		}
		admin.Close()
	}
}

// closed ends all sessions and allows no new ones.
func closed(t *testing.T, db *pgtest.Server) (back func()) {
	t.Helper()
	operate(t, db, "alter database app allow_connections false",
		"select pg_terminate_backend(pid) from pg_stat_activity where datname = 'app'")
	return func() { operate(t, db, "alter database app allow_connections true") }
}

// TestATableThatIsLockedForAWhileHoldsUpOnlyWhatNeedsIt has somebody lock a table, as an operator does who alters it, for several
// times the lease of the scheduler and twice the executors' time to live.
func TestATableThatIsLockedForAWhileHoldsUpOnlyWhatNeedsIt(t *testing.T) {
	patiently(t)
	t.Parallel()
	db := pgtest.Own(t, pgtest.Options{})
	v := newServices(t, db.URL()).migrate(t)
	v.ttl = 4 * time.Second
	s := v.start(t)
	other := pgtest.Open(t, db.AdminURL())
	t.Run("task", func(t *testing.T) {
		s := s.under(t)
		l := s.load()
		l.goesOn()
		one := l.lasts("")
		before := registered(t, db.URL())
		unlock := lock(t, db, "task")
		// Beats go on, and so does what runs.
		from := pgtest.One[time.Time](t, other, "select clock_timestamp()")
		eventually(t, "beats are confirmed for twice the time to live", func() error {
			if passed := pgtest.One[bool](t, other, `select min(last_beat_at) > $1::timestamptz + interval '8 seconds' from app where kind = 'worker'`, from); !passed {
				return errors.New("not yet")
			}
			return nil
		})
		written := strings.Count(l.read(), "alive "+one.ID)
		eventually(t, "the task lives", func() error {
			if again := strings.Count(l.read(), "alive "+one.ID); again < written+10 {
				return fmt.Errorf("it has written %d times more", again-written)
			}
			return nil
		})
		unlock()
		l.recovers(t, "the table is not locked any more")
		if diff := cmp.Diff(before, registered(t, db.URL())); diff != "" {
			t.Errorf("those who registered, before and after: %s", diff)
		}
		one.end()
		l.goesOn()
		l.settle(s)
	})
	t.Run("app", func(t *testing.T) {
		s := s.under(t)
		l := s.load()
		l.goesOn()
		one := l.lasts("")
		behind := one.behind()
		held := l.befalls("executor-1", task.ReasonWorkerMissing)
		unlock := lock(t, db, "app")
		began := time.Now()
		t.Logf("the executor killed its task %s after the table was locked; the time to live is %s", l.silent(one.Task).Sub(began).Round(time.Millisecond), v.ttl)
		unlock()
		if ended := s.end(one.ID)[0]; ended.State != task.Failed || ended.Error.String() != task.ReasonWorkerMissing {
			t.Errorf("the task that was killed is %s: %v", ended.State, ended.Error)
		}
		if ended := s.end(behind.ID)[0]; ended.State != task.Completed {
			t.Errorf("the task behind it is %s: %v", ended.State, ended.Error)
		}
		held.past()
		l.goesOn()
		l.settle(s)
	})
}

// lock takes a table until unlock, or the end of the test.
func lock(t *testing.T, db *pgtest.Server, table string) (unlock func()) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, db.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	for _, sql := range []string{"begin", "lock table " + table + " in access exclusive mode"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	return func() { _ = conn.Close(ctx) }
}

// TestAnOpenTransactionHoldsUpNobody has a session stay in a transaction that has written and has read the tasks, as somebody's
// who went to lunch: nothing that died since can be removed, and what took a number and was rolled back might still commit, as
// far as anybody can see.
func TestAnOpenTransactionHoldsUpNobody(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	dispatcher, scheduler := faults.Start(t, direct), faults.Start(t, direct)
	v.reaching = map[string]string{"dispatcher": dispatcher.URL(), "scheduler": scheduler.URL()}
	s := v.start(t).under(t)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, direct)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	l := s.load()
	l.goesOn()
	for _, sql := range []string{"begin", "create table mine (n int)", "select count(*) from task", "select count(*) from task_live"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for range 3 {
		// A number that nobody will ever use, while the transaction could be its owner's.
		dispatcher.Arm(faults.Rule{Fault: faults.CutBeforeCommit, Match: inserts}).Over(t, 1)
		l.recovers(t, "with a gap")
	}
	passed := scheduler.Arm(faults.Rule{Fault: faults.Pass, Match: looks, Times: faults.Always})
	passed.Wait(t, 3)
	passed.Disarm()
	l.goesOn()
	s.processes["scheduler"].kill()
	v.restart(t, "scheduler")
	l.recovers(t, "with another leader")
	l.goesOn()
	if _, err := conn.Exec(ctx, "commit"); err != nil {
		t.Fatal(err)
	}
	l.goesOn()
	l.settle(s)
}

package bouncer

import (
	"context"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// connect opens a connection of its own to a database behind a pooler.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func must(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestTheDatabaseIsSeenUnderItsName(t *testing.T) {
	target := pgtest.EmptyURL(t)
	direct := pgtest.Open(t, target)
	pooled := Start(t, target, Servers)
	conn := connect(t, pooled)
	must(t, conn, "create table thing (n int)")
	if there := pgtest.One[bool](t, direct, "select to_regclass('thing') is not null"); !there {
		t.Error("a table that was made through the pooler is not in the database")
	}
	u, err := url.Parse(pooled)
	if err != nil {
		t.Fatal(err)
	}
	if want := pgtest.One[string](t, direct, "select current_database()"); u.Path != "/"+want {
		t.Errorf("the database is %s through the pooler, want /%s", u.Path, want)
	}
}

// What follows is what the pooler is there for: each of these works on a connection of one's own.

func TestASettingOfTheSessionIsSomebodyElsesToo(t *testing.T) {
	pooled := Start(t, pgtest.EmptyURL(t), 1)
	one, other := connect(t, pooled), connect(t, pooled)
	must(t, one, "set work_mem = '7MB'")
	if got := pgtest.One[string](t, other, "show work_mem"); got != "7MB" {
		t.Errorf("work_mem of the other client is %s, want the 7MB that the first has set", got)
	}
}

func TestALockOfTheSessionIsGrantedTwice(t *testing.T) {
	pooled := Start(t, pgtest.EmptyURL(t), 1)
	for range 2 {
		if !pgtest.One[bool](t, connect(t, pooled), "select pg_try_advisory_lock(1)") {
			t.Error("the lock is refused, want that both clients have it")
		}
	}
}

func TestANamedPreparedStatementIsGoneOrInTheWay(t *testing.T) {
	pooled := Start(t, pgtest.EmptyURL(t), 1)
	prepare := func(sql string) error {
		_, err := connect(t, pooled).Prepare(t.Context(), "mine", sql) //nolint:forbidigo // what must fail
		return err
	}
	if err := prepare("select 1"); err != nil {
		t.Fatal(err)
	}
	if err := prepare("select 2"); err == nil {
		t.Error("both clients could prepare a statement under one name")
	}
}

func TestATransactionHasItsSessionToItself(t *testing.T) {
	pooled := Start(t, pgtest.EmptyURL(t), 2)
	one, other := connect(t, pooled), connect(t, pooled)
	must(t, one, "begin")
	must(t, one, "set local work_mem = '7MB'")
	for range 10 {
		if got := pgtest.One[string](t, other, "show work_mem"); got == "7MB" {
			t.Fatal("another client runs in the session of an open transaction")
		}
	}
	if got := pgtest.One[string](t, one, "show work_mem"); got != "7MB" {
		t.Errorf("in its transaction, work_mem is %s, want the 7MB it has set", got)
	}
	must(t, one, "rollback")
}

func TestItEndsWithItsTest(t *testing.T) {
	var pooled string
	t.Run("inner", func(t *testing.T) {
		pooled = Start(t, pgtest.EmptyURL(t), 1)
		connect(t, pooled)
	})
	if conn, err := pgx.Connect(t.Context(), pooled); err == nil {
		_ = conn.Close(t.Context())
		t.Error("it still answers")
	}
}

func TestItCanBeStartedAgain(t *testing.T) {
	b := Run(t, pgtest.EmptyURL(t), Servers)
	for how, end := range map[string]func(){"killed": b.Kill, "stopped": b.Stop} {
		before := connect(t, b.URL())
		must(t, before, "select 1")
		end()
		if conn, err := pgx.Connect(t.Context(), b.URL()); err == nil {
			_ = conn.Close(t.Context())
			t.Errorf("%s: it still answers", how)
		}
		b.Start()
		if _, err := before.Exec(t.Context(), "select 1"); err == nil {
			t.Errorf("%s: a connection survived", how)
		}
		must(t, connect(t, b.URL()), "select 1")
	}
}

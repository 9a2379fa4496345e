package pgtest_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// on runs a statement on a connection of its own: the one before did not survive.
func on(t *testing.T, url, sql string) (value int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestAServerOfOnesOwnKeepsWhatWasCommittedHoweverItEnds(t *testing.T) {
	s := pgtest.Own(t, pgtest.Options{Env: map[string]string{"SLUICE_TEST_SAYS": "it's"}})
	url := s.URL()
	on(t, url, "with made as (select 1) select 0 from made")
	pgtest.Must(t, pgtest.Open(t, url), 0, "create table kept (n int)")
	for n, end := range map[string]func(){
		"killed": s.Kill, "its postmaster killed": s.KillPostmaster, "quit": s.Quit, "shut down": s.Shutdown,
	} {
		before := on(t, url, "select count(*) from kept")
		on(t, url, "insert into kept values (1) returning n")
		end()
		if conn, err := pgx.Connect(t.Context(), url); err == nil {
			conn.Close(t.Context())
			t.Errorf("%s: it still answers", n)
		}
		s.Start()
		if s.URL() != url {
			t.Errorf("%s: it was at %s and is at %s", n, url, s.URL())
		}
		if got := on(t, url, "select count(*) from kept"); got != before+1 {
			t.Errorf("%s: there are %d rows, want %d", n, got, before+1)
		}
	}
}

func TestAServerOfOnesOwnRecoversByItselfWhenABackendIsKilled(t *testing.T) {
	s := pgtest.Own(t, pgtest.Options{})
	conn, err := pgx.Connect(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	pgtest.KillBackend(t, int(conn.PgConn().PID()))
	// Until it has noticed it answers.
	probe.Eventually(t, "it recovers", func() bool {
		return strings.Contains(s.Log(), "all server processes terminated; reinitializing")
	})
	probe.Eventually(t, "it answers again", func() bool {
		again, err := pgx.Connect(t.Context(), s.URL())
		if err != nil {
			return false
		}
		return again.Close(t.Context()) == nil
	})
	if _, err := conn.Exec(t.Context(), "select 1"); err == nil {
		t.Error("the connection survived")
	}
}

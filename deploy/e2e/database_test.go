package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// underWay is how many lines may be written by tasks that are running already: their ends, and what is on its way to the executor.
const underWay = 8

// some are the first n cases of a story, all of them under `make faults`.
func some[T any](n int, cases []T) []T {
	if os.Getenv("SLUICE_E2E_FAULTS") != "" {
		return cases
	}
	return cases[:n]
}

// recovers waits until a task is acknowledged that was not before, and until one runs, and logs how long each took.
func (l *load) recovers(t *testing.T, what string) {
	t.Helper()
	began := time.Now()
	acknowledged, lines := l.count()
	var accepted time.Duration
	eventually(t, what+": tasks are handed in and run again", func() error {
		a, n := l.count()
		if accepted == 0 && a > acknowledged {
			accepted = time.Since(began)
		}
		if a == acknowledged || n <= lines+underWay {
			return fmt.Errorf("%d tasks were acknowledged and %d lines written", a-acknowledged, n-lines)
		}
		return nil
	})
	t.Logf("%s: a task was acknowledged after %s, tasks ran after %s", what, accepted.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// TestNothingAcknowledgedIsLostWhenPostgreSQLDies ends the server in every way there is, under load, and starts it again.
// synchronous_commit is on, as it must be: with "off" this test finds tasks that ran twice.
func TestNothingAcknowledgedIsLostWhenPostgreSQLDies(t *testing.T) {
	t.Parallel()
	db := pgtest.Own(t, pgtest.Options{})
	v := newServices(t, db.URL())
	v.database = db.URL() // nothing in between: it is their own sessions that die
	s := v.migrate(t).start(t)
	for _, c := range some(2, []struct {
		says string
		end  func()
	}{
		{"all of its processes are killed", db.Kill},
		{"its postmaster is killed", db.KillPostmaster},
		{"it shuts down immediately", db.Quit},
		{"it is restarted in good order", db.Shutdown},
	}) {
		t.Run(c.says, func(t *testing.T) {
			s := s.under(t)
			l := s.load()
			for range some(1, make([]int, 2)) {
				l.goesOn()
				c.end()
				db.Start()
				l.recovers(t, c.says)
			}
			l.goesOn()
			l.settle(s)
		})
	}
	t.Run("one of its processes is killed", func(t *testing.T) {
		s := s.under(t)
		l := s.load()
		for _, service := range some(1, []string{"scheduler", "dispatcher", "heartbeat"}) {
			l.goesOn()
			pgtest.KillBackend(t, backend(t, db, service))
			l.recovers(t, "a backend of the "+service+" is killed")
		}
		l.goesOn()
		l.settle(s)
	})
}

// backend is the process that serves a session of a service.
func backend(t *testing.T, db *pgtest.Server, service string) int {
	t.Helper()
	admin := pgtest.Open(t, db.AdminURL())
	defer admin.Close()
	var pid int
	eventually(t, "the "+service+" has a session", func() error {
		return admin.QueryRow(t.Context(), `
			select pid from pg_stat_activity where application_name like '%' || $1 || '%' order by query_start desc limit 1`, service).Scan(&pid)
	})
	return pid
}

// TestACommitThatPostgreSQLDiesInIsWholeOrNothing kills the server when it has executed a transaction and the commit is on its
// way, and when it has committed and the answer is.
func TestACommitThatPostgreSQLDiesInIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Own(t, pgtest.Options{})
	v := newServices(t, db.URL()).migrate(t)
	scheduler, dispatcher := faults.Start(t, db.URL()), faults.Start(t, db.URL())
	v.reaching = map[string]string{"scheduler": scheduler.URL(), "dispatcher": dispatcher.URL()}
	s := v.start(t)
	for _, c := range some(2, []struct {
		says  string
		at    *faults.Proxy
		match faults.Match
	}{
		{"a dispatch", dispatcher, inserts},
		{"a finish", scheduler, finishes},
		{"a claim", scheduler, claims},
	}) {
		for _, fault := range some(1, []faults.Fault{faults.HoldAnswer, faults.HoldCommit}) {
			t.Run(c.says+", "+fault.String(), func(t *testing.T) {
				s := s.under(t)
				l := s.load()
				l.goesOn()
				armed := c.at.Arm(faults.Rule{Fault: fault, Match: c.match})
				armed.Wait(t, 1)
				db.Kill()
				db.Start()
				armed.Release()
				l.recovers(t, c.says)
				l.goesOn()
				l.settle(s)
			})
		}
	}
}

// TestDevEndsWithAClearErrorWhenItsPostgreSQLDies has the server that dev started killed. Nobody else may start it again, and
// dev has nothing to do without it. The next dev finds everything that was acknowledged.
func TestDevEndsWithAClearErrorWhenItsPostgreSQLDies(t *testing.T) {
	t.Parallel()
	d := newDev(t, pgtest.Dir(t), nil)
	s := d.start(t).under(t)
	f := s.flow()
	f.goesOn()
	d.process.expected.Store(true)
	began := time.Now()
	if err := syscall.Kill(d.postmaster(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	code := d.process.wait(t)
	t.Logf("dev ended after %s", time.Since(began).Round(time.Millisecond))
	said := d.process.stderr()
	if code == 0 || !strings.Contains(said, "PostgreSQL stopped by itself") || strings.Contains(said, "panic") || strings.Contains(said, "goroutine ") {
		t.Errorf("it ended with code %d and wrote\n%s", code, said)
	}
	t.Logf("it wrote\n%s", said)
	d.gone(t)
	f.settle(d.start(t).under(t), true)
}

// TestDevGoesOnWhenOneProcessOfItsPostgreSQLDies is the other case: the server recovers by itself.
func TestDevGoesOnWhenOneProcessOfItsPostgreSQLDies(t *testing.T) {
	patiently(t)
	t.Parallel()
	d := newDev(t, pgtest.Dir(t), nil)
	s := d.start(t).under(t)
	f := s.flow()
	f.goesOn()
	pgtest.KillBackend(t, d.backend(t))
	f.goesOn()
	f.goesOn()
	f.settle(s, false)
	if one := s.run(client.Spec{Name: "test.noop"}); one.State != task.Completed {
		t.Errorf("afterwards a task is %s: %v", one.State, one.Error)
	}
}

// postmaster is the process id of dev's own server.
func (d *dev) postmaster(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dataDir(), "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// backend is one of the processes that serve its sessions.
func (d *dev) backend(t *testing.T) (pid int) {
	t.Helper()
	postmaster := d.postmaster(t)
	eventually(t, "a session is found", func() error {
		for _, one := range left(d.dataDir()) {
			number, title, _ := strings.Cut(one, " ")
			if strings.Contains(title, "sluice postgres [local]") || strings.Contains(title, "[local]") {
				found, err := strconv.Atoi(number)
				if err == nil && found != postmaster {
					pid = found
					return nil
				}
			}
		}
		return errors.New("none of its processes has one")
	})
	return pid
}

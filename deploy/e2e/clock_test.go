package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/clock"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// clockSteps are where a clock is set to, ahead of the machine's, one after the other.
var clockSteps = []time.Duration{5 * time.Minute, 0, -5 * time.Minute, 0}

// TestNobodyIsHarmedWhenTheClockOfPostgreSQLIsSet steps it forward and back by minutes, ten times any lease, while tasks flow. No
// executor is declared missing, the scheduler goes on leading, and what rests before its next attempt rests no longer for it.
func TestNobodyIsHarmedWhenTheClockOfPostgreSQLIsSet(t *testing.T) {
	t.Parallel()
	its := clock.New(t)
	db := pgtest.Own(t, pgtest.Options{Env: its.Libc()})
	s := newServices(t, db.URL()).migrate(t).start(t)
	before := registered(t, db.URL())
	for _, ahead := range some(3, clockSteps) {
		t.Run(fmt.Sprintf("to %s", ahead), func(t *testing.T) {
			s := s.under(t)
			l := s.load()
			l.goesOn()
			retried := s.dispatch(failing(2))
			s.rests(retried.ID)
			leading := strings.Count(s.processes["scheduler"].stderr(), `"msg":"leading"`)
			its.Set(ahead)
			set := time.Now()
			l.goesOn()
			l.recovers(t, "the clock is set")
			for range 3 { // beats and looks for the missing, all by the new time
				l.goesOn()
			}
			if diff := cmp.Diff(before, registered(t, db.URL())); diff != "" {
				t.Errorf("those who registered, before and after: %s", diff)
			}
			if again := strings.Count(s.processes["scheduler"].stderr(), `"msg":"leading"`); again != leading {
				t.Errorf("the scheduler led %d times, and then %d", leading, again)
			}
			if one := s.end(retried.ID)[0]; one.State != task.Failed || one.Attempt != 2 {
				t.Errorf("the task with retries is %s in attempt %d: %v", one.State, one.Attempt, one.Error)
			}
			t.Logf("the second attempt was over %s after the clock was set", time.Since(set).Round(time.Millisecond))
			l.settle(s)
		})
	}
}

// TestASchedulerThatDiesIsReplacedThoughTheClockOfPostgreSQLWentBack has the lease of a scheduler end in five minutes, by a clock
// that went back, and the scheduler die. A task rests before its next attempt meanwhile, and must not rest for five minutes.
func TestASchedulerThatDiesIsReplacedThoughTheClockOfPostgreSQLWentBack(t *testing.T) {
	patiently(t)
	t.Parallel()
	its := clock.New(t)
	db := pgtest.Own(t, pgtest.Options{Env: its.Libc()})
	v := newServices(t, db.URL()).migrate(t)
	s := v.start(t).under(t)
	l := s.load()
	l.goesOn()
	retried := s.dispatch(failing(2))
	s.rests(retried.ID)
	its.Set(-5 * time.Minute)
	l.goesOn()
	s.processes["scheduler"].kill()
	v.restart(t, "scheduler")
	l.recovers(t, "the clock went back and the scheduler died")
	if one := s.end(retried.ID)[0]; one.State != task.Failed || one.Attempt != 2 {
		t.Errorf("the task with retries is %s in attempt %d: %v", one.State, one.Attempt, one.Error)
	}
	l.settle(s)
}

// TestOneOfTwoSchedulersLeadsHoweverTheClockOfPostgreSQLIsSet has a standby, to whom a lease seems to be over that is not. That it
// takes it is allowed; that both write, or nobody leads, is not.
func TestOneOfTwoSchedulersLeadsHoweverTheClockOfPostgreSQLIsSet(t *testing.T) {
	patiently(t)
	t.Parallel()
	its := clock.New(t)
	db := pgtest.Own(t, pgtest.Options{Env: its.Libc()})
	v := newServices(t, db.URL()).migrate(t)
	second := freeAddrs(t, 1)[0]
	v.others = []string{second}
	s := v.start(t).under(t)
	v.launch(t, "scheduler-2", "scheduler", map[string]string{"grpc-addr": second}).ready(t, "sluice scheduler is ready")
	l := s.load()
	l.goesOn()
	before := registered(t, db.URL())
	for _, ahead := range clockSteps {
		its.Set(ahead)
		l.recovers(t, fmt.Sprintf("the clock is set to %s", ahead))
		l.goesOn()
	}
	if diff := cmp.Diff(before, registered(t, db.URL())); diff != "" {
		t.Errorf("those who registered, before and after: %s", diff)
	}
	for _, name := range []string{"scheduler", "scheduler-2"} {
		t.Logf("%s led %d times", name, strings.Count(s.processes[name].stderr(), `"msg":"leading"`))
	}
	l.settle(s)
}

// rests waits until a task has failed once and is to be tried again.
func (s *system) rests(id string) {
	s.t.Helper()
	eventually(s.t, "it rests before its second attempt", func() error {
		if one := s.get(id); one.Attempt != 1 || one.State != task.Waiting {
			return fmt.Errorf("it is %s in attempt %d", one.State, one.Attempt)
		}
		return nil
	})
}

// failing is a task that fails in each of its attempts, with a pause of one to two seconds between them.
func failing(attempts int) client.Spec {
	spec := shell("exit 1")
	spec.Retry = &client.Retry{MaxAttempts: attempts, Backoff: 2 * time.Second, MaxBackoff: 2 * time.Second}
	return spec
}

// registered are all that ever registered, and whether they are thought to be alive, as the database has it.
func registered(t *testing.T, database string) map[string]string {
	t.Helper()
	db := pgtest.Open(t, database)
	defer db.Close()
	return pgtest.One[map[string]string](t, db, `
		select coalesce(json_object_agg(incarnation, name || case
			when missing_at is not null then ' is missing' when ended_at is not null then ' has ended' else ' lives' end), '{}')
		from app where kind = 'worker'`)
}

// TestNobodyIsHarmedWhenTheClockOfAServiceIsSet steps the clock of each process in turn while tasks flow, and has each start
// while its clock is wrong.
func TestNobodyIsHarmedWhenTheClockOfAServiceIsSet(t *testing.T) {
	patiently(t)
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sluice")
	clock.Build(t, "github.com/sluice-tasks/sluice", path)
	v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
	clocks := map[string]*clock.Clock{}
	v.system = &system{t: t, dir: v.dir, work: filepath.Join(v.dir, "work"), processes: map[string]*process{}}
	begin := func(service string) {
		c := v.command(service, nil)
		c.path = path
		maps.Copy(c.env, clocks[service].Go())
		p := launch(t, v.dir, c)
		v.system.processes[service] = p
		stopAtTheEnd(t, p)
	}
	for _, service := range serviceNames {
		clocks[service] = clock.New(t)
		begin(service)
	}
	for _, service := range serviceNames {
		v.system.processes[service].ready(t, "sluice "+service+" is ready")
	}
	s := v.system
	s.connect(t, "http://"+v.addrs["rest"], v.addrs["gateway"])
	for _, service := range serviceNames {
		t.Run(service, func(t *testing.T) {
			s := s.under(t)
			l := s.load()
			before := registered(t, v.database)
			for _, ahead := range clockSteps {
				clocks[service].Set(ahead)
				l.goesOn()
			}
			if diff := cmp.Diff(before, registered(t, v.database)); diff != "" {
				t.Errorf("those who registered, before and after: %s", diff)
			}
			if service == "executor" {
				l.settle(s) // what it runs when it is killed is lost, which is another story
				return
			}
			for _, ahead := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
				clocks[service].Set(ahead)
				s.processes[service].kill()
				begin(service)
				s.processes[service].ready(t, "sluice "+service+" is ready")
				l.recovers(t, fmt.Sprintf("the %s was started with its clock ahead by %s", service, ahead))
			}
			clocks[service].Set(0)
			l.goesOn()
			if diff := cmp.Diff(before, registered(t, v.database)); diff != "" {
				t.Errorf("those who registered, before and after: %s", diff)
			}
			l.settle(s)
		})
	}
}

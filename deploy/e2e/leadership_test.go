package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// fleet is the services with three schedulers, two dispatchers and two executors: one that knows all schedulers, and one that
// knows only the gateway.
type fleet struct {
	*system
	services   *services
	lease      time.Duration
	schedulers map[string]string // addresses by name
	second     *client.Client    // of the second dispatcher
}

func newFleet(t *testing.T, lease time.Duration) *fleet {
	t.Helper()
	f := &fleet{services: newServices(t, pgtest.EmptyURL(t)).migrate(t), lease: lease}
	addrs := freeAddrs(t, 3)
	f.services.others = addrs[:2]
	f.schedulers = map[string]string{"scheduler-1": f.services.addrs["scheduler"], "scheduler-2": addrs[0], "scheduler-3": addrs[1]}
	f.system = &system{t: t, dir: f.services.dir, work: f.services.dir, processes: map[string]*process{}}
	f.services.system = f.system
	for _, service := range []string{"dispatcher", "status", "heartbeat", "gateway", "executor"} {
		f.services.launch(t, service, service, nil)
	}
	f.services.launch(t, "dispatcher-2", "dispatcher", map[string]string{"grpc-addr": addrs[2]})
	f.services.launch(t, "executor-2", "executor", map[string]string{"name": "executor-2", "scheduler-addr": f.services.schedulers()})
	for name := range f.schedulers {
		f.scheduler(t, name)
	}
	for _, p := range f.processes {
		p.ready(t, "sluice "+p.args[0]+" is ready")
	}
	f.connect(t, "http://"+f.services.addrs["rest"], f.services.addrs["gateway"])
	var err error
	if f.second, err = client.Dial(addrs[2]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.second.Close() }) // it only fails when closed twice
	return f
}

// scheduler starts one. It names itself to the database.
func (f *fleet) scheduler(t *testing.T, name string) *process {
	t.Helper()
	return f.services.launch(t, name, "scheduler", map[string]string{
		"grpc-addr": f.schedulers[name], "lease": f.lease.String(), "database-url": named(f.services.database, name),
	})
}

// named is a database URL whose sessions say whose they are.
func named(url, who string) string {
	sign := "?"
	if strings.Contains(url, "?") {
		sign = "&"
	}
	return url + sign + "application_name=" + who
}

// reign is what a scheduler wrote when it began to lead.
type reign struct {
	Message string    `json:"msg"`
	Time    time.Time `json:"time"`
	Epoch   int64     `json:"epoch"`
	by      string
}

// latest is the leadership with the highest epoch that any scheduler wrote of.
func (f *fleet) latest() (last reign) {
	f.t.Helper()
	for name := range f.schedulers {
		for line := range strings.Lines(f.processes[name].stderr()) {
			var r reign
			if json.Unmarshal([]byte(line), &r) == nil && r.Message == "leading" && r.Epoch > last.Epoch {
				last, last.by = r, name
			}
		}
	}
	return last
}

// next waits for a leadership after this one.
func (f *fleet) next(before reign) (after reign) {
	f.t.Helper()
	eventually(f.t, "another scheduler leads", func() error {
		if after = f.latest(); after.Epoch <= before.Epoch {
			return fmt.Errorf("the last to lead was %s", before.by)
		}
		return nil
	})
	return after
}

// strain begins a load through both dispatchers that goes on already.
func (f *fleet) strain() *load {
	f.t.Helper()
	l := f.load(f.Client, f.second)
	l.goesOn()
	return l
}

// TestAStandbyLeadsAtOnceWhenTheLeaderIsToldToStop has a lease of a minute. A standby that waited for its end, or happened to
// look (every quarter of it), would be late.
func TestAStandbyLeadsAtOnceWhenTheLeaderIsToldToStop(t *testing.T) {
	t.Parallel()
	f := newFleet(t, time.Minute)
	l := f.strain()
	for range 4 {
		leader := f.latest()
		told := time.Now()
		if code := f.processes[leader.by].stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s ended with code %d", leader.by, code)
		}
		after := f.next(leader)
		took := after.Time.Sub(told)
		t.Logf("%s led %s after %s was told to stop", after.by, took, leader.by)
		// It is a few milliseconds where nothing else runs; what counts is that nobody waited for anything.
		if after.Epoch != leader.Epoch+1 || took > f.lease/8 {
			t.Errorf("after epoch %d of %s epoch %d of %s began %s later", leader.Epoch, leader.by, after.Epoch, after.by, took)
		}
		l.goesOn()
		f.scheduler(t, leader.by).ready(t, "sluice scheduler is ready")
	}
	l.settle(f.system)
}

func TestAStandbyLeadsWhenTheLeaderIsKilled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3*time.Second)
	l := f.strain()
	for range 3 {
		leader := f.latest()
		f.processes[leader.by].kill()
		killed := time.Now()
		after := f.next(leader)
		t.Logf("%s led %s after %s was killed, the lease is %s", after.by, after.Time.Sub(killed), leader.by, f.lease)
		l.goesOn()
		f.scheduler(t, leader.by).ready(t, "sluice scheduler is ready")
	}
	l.settle(f.system)
}

// A process that is stopped knows nothing of it, keeps its connections, and goes on in the middle of whatever it did.
func TestALeaderThatWasAsleepWritesNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2*time.Second)
	db := pgtest.Open(t, f.services.database)
	note(t, db)
	l := f.strain()
	for range 3 {
		leader := f.latest()
		asleep := f.processes[leader.by]
		asleep.signal(syscall.SIGSTOP)
		awake := func() { _ = asleep.cmd.Process.Signal(syscall.SIGCONT) }
		t.Cleanup(awake)
		fell := time.Now()
		after := f.next(leader)
		t.Logf("%s led %s after %s fell asleep, the lease is %s", after.by, after.Time.Sub(fell), leader.by, f.lease)
		// Executors and dispatchers have left it, though it never hung up.
		l.goesOn()

		wrote := pgtest.One[int](t, db, `select count(*) from written where who = $1`, leader.by)
		awake()
		eventually(t, "the one that slept notices", func() error {
			if !strings.Contains(asleep.stderr(), fmt.Sprintf(`"msg":"leadership ended","service":"scheduler","epoch":%d,`, leader.Epoch)) {
				return errors.New(asleep.stderr())
			}
			return nil
		})
		l.goesOn()
		if now := pgtest.One[int](t, db, `select count(*) from written where who = $1`, leader.by); now != wrote && f.latest().by != leader.by {
			t.Errorf("%s wrote %d times after %s had taken over", leader.by, now-wrote, after.by)
		}
	}
	l.settle(f.system)
}

// note has the database note who changes tasks.
func note(t *testing.T, db postgres.Querier) {
	t.Helper()
	for _, sql := range []string{
		`create table written (who text)`,
		`create function note() returns trigger language plpgsql as $$
		 begin insert into written values (current_setting('application_name')); return null; end $$`,
		`create trigger note after insert or update or delete on task for each row execute function note()`,
		`create trigger note after insert or update or delete on task_live for each row execute function note()`,
		`create trigger note after insert or update or delete on task_cancel for each row execute function note()`,
		`create trigger note after update on lease for each row execute function note()`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// Nobody who hands in a task needs a scheduler for it, and the order in which tasks were handed in holds when there is one
// again, whichever dispatcher took them.
func TestDispatchWorksWhileNoSchedulerLeads(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2*time.Second)
	for name := range f.schedulers {
		f.processes[name].kill()
	}

	resource := fresh("r")
	spec := client.Spec{Name: "test.noop", Exclusive: []string{resource}}
	var ids []string
	for range 5 {
		for _, dispatcher := range []*client.Client{f.Client, f.second} {
			made, err := dispatcher.DispatchBatch(f.soon(), []client.Spec{spec, spec})
			if err != nil {
				t.Fatalf("dispatch without a scheduler: %v", err)
			}
			for _, one := range made {
				ids = append(ids, one.ID)
			}
		}
	}
	canceled, ids := ids[len(ids)-1], ids[:len(ids)-1]
	if got, err := f.Cancel(f.soon(), canceled); err != nil || got.State != task.Canceled {
		t.Errorf("cancelling without a scheduler: %s, %v", got.State, err)
	}
	if why, err := f.Explain(f.soon(), ids[0]); err == nil {
		t.Errorf("without a leader somebody explains: %q", why.Summary)
	}
	stillWaiting(f.system, ids)

	f.scheduler(t, "scheduler-2").ready(t, "sluice scheduler is ready")
	var last client.Task
	for i, one := range f.end(ids...) {
		if one.State != task.Completed {
			t.Errorf("task %d is %s: %v", i, one.State, one.Error)
		}
		if i > 0 && one.StartedAt.Before(*last.FinishedAt) {
			t.Errorf("task %d started before the one that was handed in before it had ended", i)
		}
		last = one
	}
}

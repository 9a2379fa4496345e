package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
)

// patient reports whether there is time for stories that take long: under `make faults`.
func patient() bool { return os.Getenv("SLUICE_E2E_FAULTS") != "" }

// patiently skips a story that takes long, or is much like others.
func patiently(t *testing.T) {
	t.Helper()
	if !patient() {
		t.Skip("make faults tells it")
	}
}

// shortly is a time to live whose end stories wait for. Executors and guards must get a processor within a quarter of it.
const shortly = 4 * time.Second

// stand is the services with two executors, one and two, each of which has a component of its own name. Each reaches the scheduler
// and the heartbeat service over wires of its own, and so do scheduler and dispatcher the database.
type stand struct {
	*system

	services *services
	ttl      time.Duration // of the executors
	mark     string        // an entry of the environment of all its processes
	lines    map[string]lines
	database map[string]*wire.Wire // by service
	clock    postgres.Querier
}

// lines are those of one executor.
type lines struct{ scheduler, heartbeat *wire.Wire }

// both are all lines of an executor.
func (l lines) both(do func(*wire.Wire)) {
	do(l.scheduler)
	do(l.heartbeat)
}

// newStand starts one. It ends with the test.
func newStand(t *testing.T, ttl time.Duration) *stand {
	t.Helper()
	if os.Getenv("SLUICE_E2E_RACE") != "" {
		ttl = min(3*ttl, forever) // all is that much slower
	}
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	st := &stand{services: v, ttl: ttl, mark: "E2E_STAND=" + fresh("stand"), lines: map[string]lines{}, database: map[string]*wire.Wire{}, clock: pgtest.Open(t, direct)}
	v.mark, v.reaching = st.mark, map[string]string{}
	for _, service := range []string{"scheduler", "dispatcher"} {
		st.database[service], v.reaching[service] = wire.Database(t, direct)
	}
	v.start(t, slices.DeleteFunc(slices.Clone(serviceNames), func(name string) bool { return name == "executor" })...)
	st.system = v.system
	for _, name := range []string{"one", "two"} {
		st.lines[name] = lines{wire.Start(t, v.addrs["scheduler"]), wire.Start(t, v.addrs["heartbeat"])}
		st.launch(t, name, nil)
	}
	for _, name := range []string{"one", "two"} {
		st.processes[name].ready(t, "sluice executor is ready")
	}
	return st
}

// under is the stand for another test.
func (st *stand) under(t *testing.T) *stand {
	t.Helper()
	mine := *st
	mine.system = st.system.under(t)
	return &mine
}

// launch starts an executor. Flags are in addition to those that it has anyway, or instead of them.
func (st *stand) launch(t *testing.T, name string, flags map[string]string) *process {
	t.Helper()
	all := map[string]string{"name": name, "have": name + "=1", "worker-ttl": st.ttl.String()}
	if over, wired := st.lines[name]; wired {
		all["scheduler-addr"], all["heartbeat-addr"] = over.scheduler.Addr(), over.heartbeat.Addr()
	}
	maps.Copy(all, flags)
	how := st.services.command("executor", all)
	how.name, how.env[executorMark] = name, st.executorMark(name)
	p := launch(t, st.services.dir, how)
	st.processes[name] = p
	stopAtTheEnd(st.services.t, p)
	return p
}

// executorMark is a variable in the environment of all processes of an executor, those of its tasks too.
const executorMark = "E2E_EXECUTOR"

func (st *stand) executorMark(name string) string { return st.services.dir + "/" + name }

// starts starts an executor and waits until it is ready.
func (st *stand) starts(name string) *process {
	st.t.Helper()
	p := st.launch(st.t, name, nil)
	p.ready(st.t, "sluice executor is ready")
	return p
}

// heals makes all wires of an executor good again.
func (st *stand) heals(name string) { st.lines[name].both((*wire.Wire).Pass) }

// lost waits for the end of a task that was lost with its executor, and logs how long that took.
func (st *stand) lost(one *lasting, since time.Time, what string) client.Task {
	st.t.Helper()
	ended := st.end(one.ID)[0]
	if ended.State != task.Failed || ended.Error.String() != task.ReasonWorkerMissing {
		st.t.Errorf("the task is %s: %v; want failed, %s", ended.State, ended.Error, task.ReasonWorkerMissing)
	}
	st.t.Logf("MEASURED %s: its task failed after %s", what, ended.FinishedAt.Sub(since).Round(time.Millisecond))
	return ended
}

// follows waits for the end of a task that had to wait for another one.
func (st *stand) follows(first, second client.Task) {
	st.t.Helper()
	ended := st.end(second.ID)[0]
	if ended.State != task.Completed || ended.StartedAt.Before(*first.FinishedAt) {
		st.t.Errorf("the next task is %s, %v, and started at %v; the one before ended at %v", ended.State, ended.Error, ended.StartedAt, first.FinishedAt)
	}
}

// life is the present life of an executor, as the heartbeat service knows it.
func (st *stand) life(name string) client.Worker {
	st.t.Helper()
	var found client.Worker
	eventually(st.t, name+" is online", func() error {
		workers, err := st.Workers(st.soon(), false)
		if err != nil {
			return err
		}
		for _, w := range workers {
			if w.Name == name && w.Online {
				found = w
				return nil
			}
		}
		return fmt.Errorf("online are %+v", workers)
	})
	return found
}

// lives waits until an executor has another life than before, and returns that.
func (st *stand) lives(name string, before client.Worker) (after client.Worker) {
	st.t.Helper()
	eventually(st.t, name+" has another life", func() error {
		if after = st.life(name); after.Incarnation == before.Incarnation {
			return errors.New("it is the same one")
		}
		return nil
	})
	return after
}

// works checks that an executor runs tasks.
func (st *stand) works(l *load, name string) {
	st.t.Helper()
	one := l.lasts(name)
	one.end()
	if ended := st.end(one.ID)[0]; ended.State != task.Completed || ended.Executor != name {
		st.t.Errorf("a task of %s is %s on %q: %v", name, ended.State, ended.Executor, ended.Error)
	}
}

// idle waits until no process of a task of an executor is left.
func (st *stand) idle(name string) {
	st.t.Helper()
	st.nobody("no process of a task of "+name+" is left", filepath.Join(st.work, name))
}

// pass waits until so much time has passed by the clock that leases are counted by, that of the database.
func (st *stand) pass(d time.Duration) {
	st.t.Helper()
	began := pgtest.One[time.Time](st.t, st.clock, `select clock_timestamp()`)
	eventually(st.t, d.String()+" pass", func() error {
		if passed := pgtest.One[time.Time](st.t, st.clock, `select clock_timestamp()`).Sub(began); passed < d {
			return fmt.Errorf("%s have passed", passed)
		}
		return nil
	})
}

// nobody waits until no process stands in a folder.
func (st *stand) nobody(what, dir string) {
	st.t.Helper()
	eventually(st.t, what, func() error {
		// An executor does not stand in its home, only what it started does.
		if left := left(dir); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
}

// everybody is an entry of the environment of all processes of the stand, of is one of those of an executor.
func (st *stand) everybody() string     { return st.mark }
func (st *stand) of(name string) string { return executorMark + "=" + st.executorMark(name) }

// signals sends a signal to all processes that carry an entry in their environment, until there is none that did not get it, and
// returns how many did.
func (st *stand) signals(signal syscall.Signal, entry string) int {
	st.t.Helper()
	got := map[int]bool{}
	for more := true; more; {
		more = false
		for _, process := range marked(entry) {
			number, _, _ := strings.Cut(process, " ")
			pid, err := strconv.Atoi(number)
			if err != nil {
				st.t.Fatal(err)
			}
			if !got[pid] {
				got[pid], more = true, true
				_ = syscall.Kill(pid, signal) // it may have ended
			}
		}
	}
	return len(got)
}

// dies kills all processes that carry an entry in their environment in the same moment, more or less: they are stopped before, so that none
// of them sees another one die.
func (st *stand) dies(entry string) {
	st.t.Helper()
	st.signals(syscall.SIGSTOP, entry)
	n := st.signals(syscall.SIGKILL, entry)
	eventually(st.t, "nothing is left", func() error {
		if left := marked(entry); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
	st.t.Logf("%d processes were killed", n)
}

// runner is the process in which a task that goes on runs.
func (o *lasting) runner() int {
	o.l.s.t.Helper()
	var pid int
	eventually(o.l.s.t, "the task says who runs it", func() error {
		text, err := os.ReadFile(o.pid)
		if err != nil {
			return err
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	return pid
}

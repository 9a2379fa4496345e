package e2e

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// standstills are told one after the other, on executors with a short lease.
var standstills = []struct {
	says string
	tell func(*stand)
}{
	{"an executor that is stopped for less than its lease goes on as if nothing was", stoppedForAMoment},
	{"while an executor is stopped for longer than its lease its tasks are ended, and it comes back as another", stoppedTooLong},
	{"what is frozen with its executor and its guard ends when it thaws, and reports nothing", thawed},
	{"when the heartbeat service is away for longer than a lease all executors end their tasks, and come back", stoppedHeartbeat},
	{"the others go on while one service after the other is stopped and wakes up", stoppedServices},
}

func TestNothingOverlapsWhateverIsStopped(t *testing.T) {
	t.Parallel()
	st := newStand(t, shortly)
	for _, story := range standstills {
		t.Run(story.says, func(t *testing.T) { story.tell(st.under(t)) })
	}
}

// stops stops a process until go is called, or the test ends.
func (p *process) stops(t *testing.T) (wake func()) {
	t.Helper()
	p.signal(syscall.SIGSTOP)
	wake = func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }
	t.Cleanup(wake)
	return wake
}

func stoppedForAMoment(st *stand) {
	l := st.load()
	l.goesOn()
	one, before := l.lasts("one"), st.life("one")
	wake := st.processes["one"].stops(st.t)
	st.pass(st.ttl / 6)
	wake()
	st.beats("one", 1)
	if now := st.life("one"); now.Incarnation != before.Incarnation {
		st.t.Errorf("it has another life: %+v", now)
	}
	one.end()
	if ended := st.end(one.ID)[0]; ended.State != task.Completed {
		st.t.Errorf("its task is %s: %v", ended.State, ended.Error)
	}
	l.goesOn()
	l.settle(st.system)
}

func stoppedTooLong(st *stand) {
	l := st.load()
	for n := range 2 {
		if n > 0 && !patient() {
			break
		}
		l.goesOn()
		one, before := l.lasts("one"), st.life("one")
		next, runner := one.behind(), one.runner()
		mishap := l.befalls("one", task.ReasonWorkerMissing)
		wake := st.processes["one"].stops(st.t)
		stopped := time.Now()
		eventually(st.t, "the process of its task is killed while it is stopped", func() error {
			if alive(runner) {
				return errors.New("it lives")
			}
			return nil
		})
		st.t.Logf("MEASURED executor stopped (SIGSTOP), lease %s: the process of its task was dead after %s", st.ttl, time.Since(stopped).Round(time.Millisecond))
		lost := st.lost(one, stopped, "executor stopped (SIGSTOP), lease "+st.ttl.String())
		st.follows(lost, next)
		l.goesOn()
		woken := time.Now()
		wake()
		st.lives("one", before)
		st.t.Logf("MEASURED executor stopped (SIGSTOP): it had another life %s after it was woken", time.Since(woken).Round(time.Millisecond))
		mishap.past()
		st.works(l, "one")
		if now := st.get(one.ID); now.State != lost.State || !now.FinishedAt.Equal(*lost.FinishedAt) {
			st.t.Errorf("the task is %s since %v, it was %s since %v", now.State, now.FinishedAt, lost.State, lost.FinishedAt)
		}
	}
	l.goesOn()
	l.settle(st.system)
}

// thawed has nobody awake who could kill anything, as when a container is frozen. All wake at the same moment, and what a task does
// before it is killed then, nobody can prevent: it is measured.
func thawed(st *stand) {
	l := st.quiet()
	one, before := l.lasts("one"), st.life("one")
	next, runner := one.behind(), one.runner()
	// So that the stop of the executor is not taken for its end.
	st.processes["one"].expected.Store(true)
	st.signals(syscall.SIGSTOP, st.of("one"))
	st.t.Cleanup(func() { st.signals(syscall.SIGCONT, st.of("one")) })
	lost := st.lost(one, time.Now(), "executor and all its processes frozen, lease "+st.ttl.String())
	st.follows(lost, next)
	lives := "alive " + one.ID
	frozen := strings.Count(l.read(), lives)
	woken := time.Now()
	st.signals(syscall.SIGCONT, st.of("one"))
	eventually(st.t, "the process of its task is killed", func() error {
		if alive(runner) {
			return errors.New("it lives")
		}
		return nil
	})
	st.t.Logf("MEASURED executor and all its processes frozen: when they thawed the process of its task lived for %s, in which the task wrote %d lines",
		time.Since(woken).Round(time.Millisecond), strings.Count(l.read(), lives)-frozen)
	st.lives("one", before)
	st.works(l, "one")
	if now := st.get(one.ID); now.State != lost.State || !now.FinishedAt.Equal(*lost.FinishedAt) {
		st.t.Errorf("the task is %s since %v, it was %s since %v", now.State, now.FinishedAt, lost.State, lost.FinishedAt)
	}
}

// stoppedServices stops each for longer than the scheduler leads without renewing its lease, and the heartbeat service for less than an
// executor, which gives up when a beat that it sent two thirds of its lease ago is the last that was confirmed, can be without it.
func stoppedServices(st *stand) {
	l := st.load()
	one := l.lasts("one")
	for _, service := range []string{"dispatcher", "scheduler", "status", "gateway", "heartbeat"} {
		l.goesOn()
		wake := st.processes[service].stops(st.t)
		if service == "heartbeat" {
			st.pass(st.ttl / 6)
		} else {
			st.pass(st.ttl / 2)
		}
		wake()
		l.goesOn()
	}
	one.end()
	l.settle(st.system)
}

func stoppedHeartbeat(st *stand) {
	l := st.load()
	l.goesOn()
	var all []*lasting
	var behind []client.Task
	var mishaps []*mishap
	var before []client.Worker
	names := []string{"one", "two"}
	for _, name := range names {
		one := l.lasts(name)
		all, behind, before = append(all, one), append(behind, one.behind()), append(before, st.life(name))
		mishaps = append(mishaps, l.befalls(name, task.ReasonWorkerMissing))
	}
	wake := st.processes["heartbeat"].stops(st.t)
	stopped := time.Now()
	for i, name := range names {
		runner := all[i].runner()
		eventually(st.t, name+" ends its task", func() error {
			if alive(runner) {
				return errors.New("it runs")
			}
			return nil
		})
	}
	st.t.Logf("MEASURED heartbeat service away, lease %s: all executors had ended their tasks after %s", st.ttl, time.Since(stopped).Round(time.Millisecond))
	for _, one := range all {
		if now := st.get(one.ID); now.Final() {
			st.t.Errorf("a task is %s: %v, and nobody can know", now.State, now.Error)
		}
	}
	woken := time.Now()
	wake()
	for i, one := range all {
		st.follows(st.lost(one, woken, "heartbeat service away, from when it was back"), behind[i])
	}
	for i, name := range names {
		st.lives(name, before[i])
		mishaps[i].past()
		st.works(l, name)
	}
	l.goesOn()
	l.settle(st.system)
}

package e2e

import (
	"bytes"
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
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
	"github.com/sluice-tasks/sluice/pkg/worker/guard"
)

// forever is a time to live whose end no test sees: what happens in spite of it does not wait for it.
const forever = time.Hour

// killings are told one after the other, each under a load of its own.
var killings = []struct {
	says string
	tell func(*stand)
}{
	{"when an executor is killed what it ran fails at once, and the next in line runs", killedExecutor},
	{"what a killed executor was given and had not begun runs elsewhere, as if nothing was", killedBeforeItBegan},
	{"when a child is killed its task fails, and nothing else", killedUnderLoad},
	{"when an executor is killed with all its processes what it ran fails when it comes back under its name", killedWithItsGuard},
	{"when a guard is killed nothing happens to tasks, and another one takes its place", killedGuard},
	{"when an executor is killed that is cut off its tasks end at once, and fail when its guard can say so", killedWhileCutOff},
	{"when everything is killed, nothing is lost but what ran", killedMachine},
}

// TestNothingIsLostAndNothingOverlapsWhateverIsKilled has executors whose lease does not end.
func TestNothingIsLostAndNothingOverlapsWhateverIsKilled(t *testing.T) {
	t.Parallel()
	st := newStand(t, forever)
	for _, story := range killings {
		t.Run(story.says, func(t *testing.T) { story.tell(st.under(t)) })
	}
}

func killedExecutor(st *stand) {
	l := st.load()
	for range 2 {
		l.goesOn()
		one := l.lasts("one")
		next := one.behind()
		mishap := l.befalls("one", task.ReasonWorkerMissing)
		killed := time.Now()
		st.processes["one"].kill()
		lost := st.lost(one, killed, "kill -9 of an executor")
		st.follows(lost, next)
		st.idle("one")
		l.goesOn() // on the other one
		st.starts("one")
		mishap.past()
		st.works(l, "one")
	}
	l.goesOn()
	l.settle(st.system)
}

// killedBeforeItBegan has an executor get tasks whose acknowledgement does not reach the scheduler.
func killedBeforeItBegan(st *stand) {
	l := st.load()
	l.goesOn()
	mishap := l.befalls("one", task.ReasonWorkerMissing) // of the load, and not of these
	acks := st.lines["one"].scheduler.ToServer
	acks.Hold()
	st.t.Cleanup(acks.Pass)
	var given []*lasting
	for range 2 {
		given = append(given, l.given("one"))
	}
	eventually(st.t, "they are given to the executor", func() error {
		for _, one := range given {
			if now := st.get(one.ID); now.State != task.Running || now.Executor != "one" {
				return fmt.Errorf("a task is %s on %q", now.State, now.Executor)
			}
		}
		return nil
	})
	st.processes["one"].kill()
	// Not before they wait: an acknowledgement that arrives late is one.
	eventually(st.t, "they wait again", func() error {
		for _, one := range given {
			if now := st.get(one.ID); now.State != task.Waiting {
				return fmt.Errorf("a task is %s on %q: %v", now.State, now.Executor, now.Error)
			}
		}
		return nil
	})
	acks.Pass()
	st.starts("one")
	mishap.past()
	for _, one := range given {
		l.wrote(one.ID, "start", 1)
		one.end()
		if ended := st.end(one.ID)[0]; ended.State != task.Completed || ended.Attempt != 1 {
			st.t.Errorf("a task is %s in attempt %d: %v", ended.State, ended.Attempt, ended.Error)
		}
	}
	l.goesOn()
	l.settle(st.system)
}

func killedUnderLoad(st *stand) {
	l := st.load()
	l.goesOn()
	for range 3 {
		one := l.lasts("one")
		next := one.behind()
		reason := fmt.Sprintf(task.ReasonKilledFormat, syscall.SIGKILL)
		mishap := l.befalls("one", reason)
		if err := syscall.Kill(one.runner(), syscall.SIGKILL); err != nil {
			st.t.Fatal(err)
		}
		killed := time.Now()
		ended := st.end(one.ID)[0]
		mishap.past()
		if ended.State != task.Failed || ended.Error.Reason != reason {
			st.t.Errorf("the task is %s: %v; want failed, %s", ended.State, ended.Error, reason)
		}
		st.t.Logf("MEASURED kill -9 of a child: its task failed after %s", ended.FinishedAt.Sub(killed).Round(time.Millisecond))
		st.follows(ended, next)
	}
	l.goesOn()
	l.settle(st.system)
}

// killedWithItsGuard leaves nobody who could tell that the executor is dead, and no lease that ends.
func killedWithItsGuard(st *stand) {
	l := st.load()
	l.goesOn()
	one := l.lasts("one")
	next := one.behind()
	mishap := l.befalls("one", task.ReasonWorkerMissing)
	st.processes["one"].expected.Store(true)
	st.dies(st.of("one"))
	<-st.processes["one"].done
	st.idle("one")
	st.works(l, "two") // what others wait for, it may have had
	if now := st.get(one.ID); now.Final() {
		st.t.Errorf("the task is %s: %v, and nobody can know", now.State, now.Error)
	}
	back := time.Now()
	st.starts("one")
	lost := st.lost(one, back, "an executor killed with its guard, from its restart")
	mishap.past()
	st.follows(lost, next)
	st.works(l, "one")
	l.goesOn()
	l.settle(st.system)
}

// killedMachine has everything but the database die in the same moment, and start again on the same folders.
func killedMachine(st *stand) {
	l := st.load()
	l.goesOn()
	one, two := l.lasts("one"), l.lasts("two")
	behind := []client.Task{one.behind(), two.behind()}
	mishaps := []*mishap{l.befalls("one", task.ReasonWorkerMissing), l.befalls("two", task.ReasonWorkerMissing)}
	for _, p := range st.processes {
		p.expected.Store(true)
	}
	st.dies(st.everybody())
	back := time.Now()
	for _, service := range serviceNames {
		if service != "executor" {
			st.services.launch(st.t, service, service, nil)
		}
	}
	for _, name := range []string{"one", "two"} {
		st.launch(st.t, name, nil)
	}
	for _, p := range st.processes {
		p.ready(st.t, "sluice "+p.args[0]+" is ready")
	}
	st.t.Logf("MEASURED everything killed: all services are ready %s after they were started again", time.Since(back).Round(time.Millisecond))
	for i, was := range []*lasting{one, two} {
		st.follows(st.lost(was, back, "everything killed, from the restart"), behind[i])
	}
	for _, m := range mishaps {
		m.past()
	}
	l.goesOn()
	st.works(l, "one")
	st.works(l, "two")
	l.settle(st.system)
}

// guards are the processes that guard an executor.
func (st *stand) guards(name string) (pids []int) {
	st.t.Helper()
	for _, process := range marked(st.of(name)) {
		number, _, _ := strings.Cut(process, " ")
		environ, err := os.ReadFile(filepath.Join("/proc", number, "environ"))
		if err != nil || !bytes.Contains(environ, []byte("\x00"+guard.Env+"=")) {
			continue
		}
		pid, err := strconv.Atoi(number)
		if err != nil {
			st.t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func killedGuard(st *stand) {
	l := st.load()
	l.goesOn()
	one, before := l.lasts("one"), st.life("one")
	next := one.behind()
	first := st.guards("one")
	if len(first) != 1 {
		st.t.Fatalf("its guards are %v, want one", first)
	}
	if err := syscall.Kill(first[0], syscall.SIGKILL); err != nil {
		st.t.Fatal(err)
	}
	eventually(st.t, "another guard is there", func() error {
		if now := st.guards("one"); len(now) != 1 || now[0] == first[0] {
			return fmt.Errorf("there are %v", now)
		}
		return nil
	})
	l.goesOn()
	if now := st.life("one"); now.Incarnation != before.Incarnation {
		st.t.Errorf("the executor has another life: %+v", now)
	}
	// The second does what the first would have done.
	mishap := l.befalls("one", task.ReasonWorkerMissing)
	killed := time.Now()
	st.processes["one"].kill()
	st.follows(st.lost(one, killed, "kill -9 of an executor whose first guard was killed before"), next)
	st.starts("one")
	mishap.past()
	st.works(l, "one")
	l.settle(st.system)
}

func killedWhileCutOff(st *stand) {
	l := st.load()
	l.goesOn()
	one := l.lasts("one")
	next := one.behind()
	mishap := l.befalls("one", task.ReasonWorkerMissing)
	st.lines["one"].both((*wire.Wire).Hold)
	st.processes["one"].kill()
	st.idle("one")
	st.works(l, "two") // what others wait for, it may have had
	if now := st.get(one.ID); now.Final() {
		st.t.Errorf("the task is %s: %v, and nobody can know", now.State, now.Error)
	}
	healed := time.Now()
	st.heals("one")
	st.follows(st.lost(one, healed, "kill -9 of an executor that is cut off, from when the network was good again"), next)
	st.starts("one")
	mishap.past()
	st.works(l, "one")
	l.goesOn()
	l.settle(st.system)
}

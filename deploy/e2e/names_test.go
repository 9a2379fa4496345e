package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// namesakes are told one after the other, on executors with a short lease.
var namesakes = []struct {
	says string
	tell func(*stand)
}{
	{"of two executors with one name the second waits until the first has ended", sameNameTwice},
	{"who takes the name of an executor that is cut off waits until that has stopped", sameNameWhileCutOff},
	{"who takes the name of an executor that died on another machine waits until its lease is over", sameNameElsewhere},
}

func TestAName(t *testing.T) {
	t.Parallel()
	st := newStand(t, shortly)
	for _, story := range namesakes {
		t.Run(story.says, func(t *testing.T) { story.tell(st.under(t)) })
	}
}

// namesake starts another executor of the name one, which has the component other, in a folder of its own: on another machine, as far
// as anybody can tell. It reaches everything.
func (st *stand) namesake() *process {
	st.t.Helper()
	return st.launch(st.t, "namesake", map[string]string{
		"name": "one", "have": "other=1", "work-dir": st.file("elsewhere"), "scheduler-addr": st.services.addrs["scheduler"], "heartbeat-addr": st.services.addrs["heartbeat"],
	})
}

// waitsForItsName waits until an executor says that its name is taken.
func (st *stand) waitsForItsName(p *process) {
	st.t.Helper()
	eventually(st.t, p.name+" waits for its name", func() error {
		if said := p.stderr(); !strings.Contains(said, "another living executor is called") {
			return errors.New(said)
		}
		return nil
	})
}

func sameNameTwice(st *stand) {
	l := st.load()
	l.goesOn()
	one, before := l.lasts("one"), st.life("one")
	second := st.namesake()
	st.waitsForItsName(second)
	if strings.Contains(second.stdout(), "is ready") {
		st.t.Error("it says that it is ready")
	}
	st.beats("one", 2)
	if now := st.life("one"); now.Incarnation != before.Incarnation {
		st.t.Errorf("the first has another life: %+v", now)
	}
	l.goesOn()
	one.end()
	if ended := st.end(one.ID)[0]; ended.State != task.Completed {
		st.t.Errorf("the task of the first is %s: %v", ended.State, ended.Error)
	}
	if code := st.processes["one"].stop(st.t, syscall.SIGTERM); code != 0 {
		st.t.Errorf("the first ended with code %d", code)
	}
	second.ready(st.t, "sluice executor is ready")
	st.runsAsOne(l)
	if code := second.stop(st.t, syscall.SIGTERM); code != 0 {
		st.t.Errorf("the second ended with code %d", code)
	}
	st.starts("one")
	st.works(l, "one")
	l.settle(st.system)
}

// runsAsOne checks that the namesake runs tasks.
func (st *stand) runsAsOne(l *load) {
	st.t.Helper()
	one := l.lasts("other")
	one.end()
	if ended := st.end(one.ID)[0]; ended.State != task.Completed || ended.Executor != "one" {
		st.t.Errorf("a task of the second is %s on %q: %v", ended.State, ended.Executor, ended.Error)
	}
}

func sameNameWhileCutOff(st *stand) {
	l := st.load()
	l.goesOn()
	one, before := l.lasts("one"), st.life("one")
	next := one.behind()
	mishap := l.befalls("one", task.ReasonWorkerMissing)
	cut := time.Now()
	for _, c := range cuts[:1] {
		c.cut(st.lines["one"])
	}
	second := st.namesake()
	st.waitsForItsName(second)
	lost := st.lost(one, cut, "executor cut off, another one takes its name, lease "+st.ttl.String())
	second.ready(st.t, "sluice executor is ready")
	mishap.past()
	st.follows(lost, next)
	after := st.lives("one", before)
	st.runsAsOne(l)

	// The first comes back, and finds its name taken.
	st.heals("one")
	st.waitsForItsName(st.processes["one"])
	l.goesOn()
	if now := st.life("one"); now.Incarnation != after.Incarnation {
		st.t.Errorf("the second has another life: %+v", now)
	}
	if code := second.stop(st.t, syscall.SIGTERM); code != 0 {
		st.t.Errorf("the second ended with code %d", code)
	}
	st.lives("one", after)
	st.works(l, "one")
	l.settle(st.system)
}

// sameNameElsewhere leaves no guard that could tell, and no home that could prove anything.
func sameNameElsewhere(st *stand) {
	l := st.load()
	l.goesOn()
	one := l.lasts("one")
	next := one.behind()
	mishap := l.befalls("one", task.ReasonWorkerMissing)
	st.processes["one"].expected.Store(true)
	died := time.Now()
	st.dies(st.of("one"))
	<-st.processes["one"].done
	second := st.namesake()
	st.waitsForItsName(second)
	lost := st.lost(one, died, "machine of an executor dead, lease "+st.ttl.String())
	second.ready(st.t, "sluice executor is ready")
	mishap.past()
	st.follows(lost, next)
	st.runsAsOne(l)
	if code := second.stop(st.t, syscall.SIGTERM); code != 0 {
		st.t.Errorf("the second ended with code %d", code)
	}
	st.starts("one")
	st.works(l, "one")
	if left := left(filepath.Join(st.work, "one", one.ID)); len(left) > 0 {
		st.t.Errorf("there is still %s", left)
	}
	l.settle(st.system)
}

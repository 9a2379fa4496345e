package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
)

// trouble is what a network does for a while.
type trouble struct {
	says  string
	begin func(*wire.Wire) (end func())
	more  bool // there is another one much like it, which is enough where time is short
}

// troubles of a network. Tasks must survive all of them, wherever they happen, if they are over before a lease is.
var troubles = []trouble{
	{says: "its connections are reset", begin: func(w *wire.Wire) func() { w.Cut(); return func() {} }},
	{says: "its connections are ended", begin: func(w *wire.Wire) func() { w.HangUp(); return func() {} }, more: true},
	{says: "it refuses connections", begin: func(w *wire.Wire) func() { return w.Refuse() }},
	{says: "it stands still", begin: func(w *wire.Wire) func() { w.Hold(); return w.Pass }},
	{says: "it stands still in one direction", begin: func(w *wire.Wire) func() { w.ToServer.Hold(); return w.Pass }, more: true},
	{says: "it stands still in the other direction", begin: func(w *wire.Wire) func() { w.ToClient.Hold(); return w.Pass }, more: true},
	{says: "it is slow", begin: func(w *wire.Wire) func() {
		w.ToServer.Delay(latency)
		w.ToClient.Delay(latency)
		return w.Pass
	}},
	{says: "it drips", begin: func(w *wire.Wire) func() {
		w.ToServer.Drip(drip)
		w.ToClient.Drip(drip)
		return w.Pass
	}, more: true},
	{says: "it loses everything", begin: func(w *wire.Wire) func() { w.Drop(); return w.Pass }, more: true},
	{says: "it loses everything in one direction", begin: func(w *wire.Wire) func() { w.ToServer.Drop(); return w.Pass }, more: true},
	{says: "it loses everything in the other direction", begin: func(w *wire.Wire) func() { w.ToClient.Drop(); return w.Pass }, more: true},
}

const (
	latency = 50 * time.Millisecond
	drip    = 20_000 // bytes a second
)

// onEach tells a story of each trouble.
func (st *stand) onEach(t *testing.T, tell func(st *stand, c trouble)) {
	t.Helper()
	for _, c := range troubles {
		t.Run(c.says, func(t *testing.T) {
			if c.more {
				patiently(t)
			}
			tell(st.under(t), c)
		})
	}
}

// beats waits until the heartbeat service has stored so many beats of an executor: a while that is measured in what everybody else
// goes by.
func (st *stand) beats(name string, n int) {
	st.t.Helper()
	last := st.life(name).LastBeatAt
	for range n {
		eventually(st.t, name+" beats", func() error {
			now := st.life(name).LastBeatAt
			if !now.After(last) {
				return fmt.Errorf("its last beat was at %s", last)
			}
			last = now
			return nil
		})
	}
}

// TestATroubledLineToTheSchedulerCostsNoTask has the network between one of two executors and the scheduler fail in every way.
// Its beats arrive, so what it runs is its own.
func TestATroubledLineToTheSchedulerCostsNoTask(t *testing.T) {
	t.Parallel()
	newStand(t, 30*time.Second).onEach(t, func(st *stand, c trouble) {
		l := st.load()
		l.goesOn()
		one, over := l.lasts("one"), l.lasts("one")
		next := over.behind()
		end := c.begin(st.lines["one"].scheduler)
		over.end() // so there is something to report
		for range 2 {
			st.works(l, "two") // meanwhile
		}
		end()
		healed := time.Now()
		ended := st.end(over.ID)[0]
		st.t.Logf("MEASURED executor to scheduler, %s: its task's end was stored %s after the network was good again", c.says, time.Since(healed).Round(time.Millisecond))
		st.follows(ended, next)
		l.goesOn()
		one.end()
		if ended := st.end(one.ID)[0]; ended.State != task.Completed {
			st.t.Errorf("the task that ran all the time is %s: %v", ended.State, ended.Error)
		}
		l.settle(st.system)
	})
}

// TestATroubledLineToTheHeartbeatServiceCostsNoTaskWithinItsLease has the network between one of two executors and the heartbeat
// service fail in every way, for a part of its lease.
func TestATroubledLineToTheHeartbeatServiceCostsNoTaskWithinItsLease(t *testing.T) {
	t.Parallel()
	const ttl = 20 * time.Second
	newStand(t, ttl).onEach(t, func(st *stand, c trouble) {
		l := st.load()
		l.goesOn()
		one, before := l.lasts("one"), st.life("one")
		end := c.begin(st.lines["one"].heartbeat)
		st.pass(ttl / 20)
		end()
		l.goesOn()
		st.beats("one", 1)
		if now := st.life("one"); now.Incarnation != before.Incarnation {
			st.t.Errorf("it has another life: %+v", now)
		}
		one.end()
		if ended := st.end(one.ID)[0]; ended.State != task.Completed {
			st.t.Errorf("the task that ran all the time is %s: %v", ended.State, ended.Error)
		}
		l.settle(st.system)
	})
}

// cuts are the ways in which an executor can be out of reach until its lease is over.
var cuts = []struct {
	says string
	cut  func(lines)
	more bool
}{
	{"it hears and says nothing", func(l lines) { l.both((*wire.Wire).Hold) }, false},
	{"the confirmations of its beats do not arrive", func(l lines) { l.heartbeat.ToClient.Hold() }, false},
	{"its beats do not arrive", func(l lines) { l.heartbeat.ToServer.Hold() }, true},
	{"all that it says is lost", func(l lines) {
		l.heartbeat.ToServer.Drop()
		l.scheduler.ToServer.Drop()
	}, true},
}

// TestAnExecutorThatIsCutOffStopsBeforeItsTasksAreGivenAway has the network fail for longer than a lease.
func TestAnExecutorThatIsCutOffStopsBeforeItsTasksAreGivenAway(t *testing.T) {
	t.Parallel()
	st := newStand(t, shortly)
	for _, c := range cuts {
		t.Run(c.says, func(t *testing.T) {
			if c.more {
				patiently(t)
			}
			st := st.under(t)
			l := st.load()
			l.goesOn()
			one, before := l.lasts("one"), st.life("one")
			next := one.behind()
			mishap := l.befalls("one", task.ReasonWorkerMissing)
			cut := time.Now()
			c.cut(st.lines["one"])
			lost := st.lost(one, cut, fmt.Sprintf("executor cut off (%s), lease %s", c.says, st.ttl))
			st.follows(lost, next)
			l.goesOn()
			healed := time.Now()
			st.heals("one")
			st.lives("one", before)
			st.t.Logf("MEASURED executor cut off (%s): it had another life %s after the network was good again", c.says, time.Since(healed).Round(time.Millisecond))
			mishap.past()
			st.works(l, "one")
			if now := st.get(one.ID); now.State != lost.State || !now.FinishedAt.Equal(*lost.FinishedAt) {
				st.t.Errorf("the task is %s since %v, it was %s since %v", now.State, now.FinishedAt, lost.State, lost.FinishedAt)
			}
			l.goesOn()
			l.settle(st.system)
		})
	}
}

// TestAnExecutorThatBeatsAndDoesNotHearIsSeenAndHeals loses what the scheduler says to an executor, whose beats arrive.
func TestAnExecutorThatBeatsAndDoesNotHearIsSeenAndHeals(t *testing.T) {
	t.Parallel()
	patiently(t)
	st := newStand(t, shortly).under(t)
	l := st.load()
	l.goesOn()
	before := st.life("one")
	cut := time.Now()
	st.lines["one"].scheduler.ToClient.Drop()
	given := l.given("one")
	eventually(t, "it is given away", func() error {
		if now := st.get(given.ID); now.State != task.Running || now.Executor != "one" {
			return fmt.Errorf("it is %s on %q", now.State, now.Executor)
		}
		return nil
	})
	st.launch(t, "three", map[string]string{"have": "one=1"}).ready(t, "sluice executor is ready")
	l.wrote(given.ID, "start", 1)
	t.Logf("MEASURED deaf executor: what it was given ran elsewhere after %s", time.Since(cut).Round(time.Millisecond))
	given.end()
	if ended := st.end(given.ID)[0]; ended.State != task.Completed || ended.Executor != "three" || ended.Attempt != 1 {
		t.Errorf("it is %s on %q in attempt %d: %v", ended.State, ended.Executor, ended.Attempt, ended.Error)
	}
	if code := st.processes["three"].stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("three ended with code %d", code)
	}
	eventually(t, "it is seen", func() error {
		if listed := st.cli("worker", "list").stdout; !strings.Contains(listed, "deaf") || st.life("one").DeafSince == nil {
			return errors.New(listed)
		}
		return nil
	})
	t.Logf("MEASURED deaf executor: worker list shows it after %s", time.Since(cut).Round(time.Millisecond))
	// Of what it had acknowledged, and was never told to begin, nobody knows that: it keeps its place until the executor is heard of
	// again, and with it what waits behind it. So the load that was there before the cut may be held up; no other is.
	beside := st.load()
	beside.goesOn()
	healed := time.Now()
	st.heals("one")
	eventually(t, "it hears again", func() error {
		if now := st.life("one"); now.DeafSince != nil || now.Incarnation != before.Incarnation {
			return fmt.Errorf("%+v, it was %+v", now, before)
		}
		return nil
	})
	t.Logf("MEASURED deaf executor: worker list shows it as online %s after the network was good again", time.Since(healed).Round(time.Millisecond))
	l.goesOn()
	st.works(l, "one")
	l.settle(st.system)
	beside.settle(st.system)
}

// TestATroubledNetworkToTheDatabaseLosesNothing has the network between a service and PostgreSQL fail in every way, for longer
// than the lease of the scheduler.
func TestATroubledNetworkToTheDatabaseLosesNothing(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"scheduler", "dispatcher"} {
		t.Run("of the "+service, func(t *testing.T) {
			newStand(t, 30*time.Second).onEach(t, func(st *stand, c trouble) {
				l := st.load()
				l.goesOn()
				one := l.lasts("one")
				end := c.begin(st.database[service])
				one.end()
				st.pass(2 * time.Second)
				end()
				healed := time.Now()
				l.goesOn()
				st.t.Logf("MEASURED %s to PostgreSQL, %s: tasks are handed in and run %s after the network was good again", service, c.says, time.Since(healed).Round(time.Millisecond))
				l.settle(st.system)
			})
		})
	}
}

// TestAnotherSchedulerLeadsWhenTheFirstCanNotReachTheDatabase has a standby that can.
func TestAnotherSchedulerLeadsWhenTheFirstCanNotReachTheDatabase(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2*time.Second)
	wires := map[string]*wire.Wire{}
	// One after the other, so that there is always one who leads.
	for name := range f.schedulers {
		w, url := wire.Database(t, f.services.database)
		wires[name] = w
		if code := f.processes[name].stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s ended with code %d", name, code)
		}
		f.services.launch(t, name, "scheduler", map[string]string{"grpc-addr": f.schedulers[name], "lease": f.lease.String(), "database-url": url}).ready(t, "sluice scheduler is ready")
	}
	f.run(client.Spec{Name: "test.noop"})
	l := f.strain()
	for _, c := range troubles {
		if !strings.HasPrefix(c.says, "it stands") && !strings.HasPrefix(c.says, "it loses") || c.more && !patient() {
			continue // with the others it leads on
		}
		leader := f.latest()
		began := time.Now()
		end := c.begin(wires[leader.by])
		after := f.next(leader)
		t.Logf("MEASURED leader to PostgreSQL, %s: %s led after %s, the lease is %s", c.says, after.by, after.Time.Sub(began).Round(time.Millisecond), f.lease)
		l.goesOn()
		end()
		l.goesOn()
	}
	l.settle(f.system)
}

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// What the services send, as far as it is broken here. A test whose rule meets nothing fails, so a change is noticed.
var (
	ticks    = faults.Committing("scheduler_tick_3(")
	finishes = faults.Committing("-- ends")
	claims   = faults.Committing("claims")
	looks    = faults.Committing("scheduler_wishes(")
	inserts  = faults.Committing("dispatcher_insert_")
)

// TestPromisesHoldWhenTheDatabaseBreaks has the connection of one service break, or its answers come late, at the worst
// places, again and again under load.
func TestPromisesHoldWhenTheDatabaseBreaks(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	scheduler, dispatcher := faults.Start(t, direct), faults.Start(t, direct)
	v.reaching = map[string]string{"scheduler": scheduler.URL(), "dispatcher": dispatcher.URL()}
	s := v.start(t)
	for _, c := range []struct {
		says string
		at   *faults.Proxy
		rule faults.Rule
	}{
		{"ticks are never executed", scheduler, faults.Rule{Fault: faults.CutBefore, Match: faults.Every(5, ticks)}},
		{"ticks are rolled back", scheduler, faults.Rule{Fault: faults.CutBeforeCommit, Match: faults.Every(5, ticks)}},
		{"the answers of ticks are lost", scheduler, faults.Rule{Fault: faults.LoseAnswer, Match: faults.Every(5, ticks)}},
		{"ticks commit when their leader has given them up", scheduler, faults.Rule{Fault: faults.CommitLate, Match: faults.Every(5, ticks), For: 300 * time.Millisecond}},
		{"the answers of ticks are late", scheduler, faults.Rule{Fault: faults.HoldAnswer, Match: faults.Every(5, ticks), For: 300 * time.Millisecond}},
		{"a tick takes longer than the lease", scheduler, faults.Rule{Fault: faults.HoldCommit, Match: faults.Every(20, ticks), For: 1500 * time.Millisecond}},
		{"the answer of a tick takes longer than the lease", scheduler, faults.Rule{Fault: faults.HoldAnswer, Match: faults.Every(20, ticks), For: 1500 * time.Millisecond}},

		{"dispatches are rolled back", dispatcher, faults.Rule{Fault: faults.CutBeforeCommit, Match: faults.Every(3, inserts)}},
		{"the answers to dispatches are lost", dispatcher, faults.Rule{Fault: faults.LoseAnswer, Match: faults.Every(3, inserts)}},
		{"dispatches commit when nobody waits for them", dispatcher, faults.Rule{Fault: faults.CommitLate, Match: faults.Every(3, inserts), For: 300 * time.Millisecond}},
		{"dispatches commit late", dispatcher, faults.Rule{Fault: faults.HoldCommit, Match: faults.Every(3, inserts), For: 300 * time.Millisecond}},
	} {
		t.Run(c.says, func(t *testing.T) {
			s := s.under(t)
			l := s.load(s.Client, s.once(t))
			l.goesOn()
			c.rule.Times = 2
			if c.rule.For > time.Second {
				c.rule.Times = 1
			}
			armed := c.at.Arm(c.rule)
			armed.Over(t, c.rule.Times)
			l.goesOn()
			l.settle(s)
		})
	}
	t.Run("an immediate task that would not wait does not, though its caller was never told that it is there", func(t *testing.T) {
		s := s.under(t)
		resource := fresh("r")
		g := s.gate()
		holder := s.dispatch(g.task([]string{resource}, nil))
		g.reached()
		dispatcher.Arm(faults.Rule{Fault: faults.LoseAnswer, Match: inserts})
		spec := client.Spec{Name: "test.asleep", Args: []int{0}, Exclusive: []string{resource}, Immediate: true, NoDefer: true}
		if _, err := s.once(t).Dispatch(s.soon(), spec); !errs.Is(err, errs.DatabaseAway) {
			t.Errorf("the dispatch returned %v", err)
		}
		ids := s.all("test.asleep")
		if len(ids) != 1 {
			t.Fatalf("%d tasks are stored, want 1", len(ids))
		}
		if one := s.end(ids...)[0]; one.State != task.Canceled {
			t.Errorf("it is %s: %v", one.State, one.Error)
		}
		g.open()
		s.end(holder.ID)
	})
	t.Run("all connections are cut", func(t *testing.T) {
		s := s.under(t)
		l := s.load(s.Client, s.once(t))
		for range 2 {
			l.goesOn()
			scheduler.Cut()
			dispatcher.Cut()
		}
		l.goesOn()
		l.settle(s)
	})
}

// TestTwoSchedulersAndADatabaseThatAnswersLate has a leader whose tick is committed and which learns of it when another leads.
// What the tick had decided must not happen any more.
func TestTwoSchedulersAndADatabaseThatAnswersLate(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	slow := faults.Start(t, direct)
	v.reaching = map[string]string{"scheduler": slow.URL()}
	second := freeAddrs(t, 1)[0]
	v.others = []string{second}
	s := v.start(t)
	for _, c := range []struct {
		says string
		rule faults.Rule
	}{
		{"to a finish", faults.Rule{Fault: faults.HoldAnswer, Match: finishes}},
		{"to a claim", faults.Rule{Fault: faults.HoldAnswer, Match: claims}},
		{"and has not executed it yet", faults.Rule{Fault: faults.HoldRequest, Match: claims}},
		// The second puts an end to it when two leases are over.
		{"and never commits", faults.Rule{Fault: faults.HoldCommit, Match: ticks}},
	} {
		t.Run(c.says, func(t *testing.T) {
			s := s.under(t)
			// The one that is slow leads: it did so before the other came.
			other := v.launch(v.t, "scheduler-2", "scheduler", map[string]string{"grpc-addr": second, "database-url": direct})
			other.ready(t, "sluice scheduler is ready")
			l := s.load()
			l.goesOn()
			armed := slow.Arm(c.rule)
			armed.Wait(t, 1)
			l.goesOn() // the other leads
			armed.Release()
			l.goesOn()
			l.settle(s)
			if code := other.stop(t, syscall.SIGTERM); code != 0 {
				t.Errorf("the second scheduler ended with code %d\n%s", code, other.stderr())
			}
			s.run(client.Spec{Name: "test.noop"}) // so the first leads again
		})
	}
}

// TestADispatchThatCommitsLateIsAdmittedLateAndNotLost has one of two dispatchers stand still between the number of a task and
// its commit, while the other one stores tasks that conflict.
func TestADispatchThatCommitsLateIsAdmittedLateAndNotLost(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	scheduler, proxy := faults.Start(t, direct), faults.Start(t, direct)
	v.reaching = map[string]string{"scheduler": scheduler.URL()}
	s := v.start(t)
	addr := freeAddrs(t, 1)[0]
	v.launch(t, "dispatcher-2", "dispatcher", map[string]string{"grpc-addr": addr, "database-url": proxy.URL()}).ready(t, "sluice dispatcher is ready")
	slow, err := client.Dial(addr, client.Attempts(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slow.Close() })

	for _, fault := range []faults.Fault{faults.HoldCommit, faults.CommitLate} {
		for _, takeover := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, takeover %t", fault, takeover), func(t *testing.T) {
				s := s.under(t)
				resource := fresh("r")
				noop := client.Spec{Name: "test.noop", Exclusive: []string{resource}}
				held := proxy.Arm(faults.Rule{Fault: fault, Match: inserts})
				returned := make(chan error, 1)
				go func() {
					_, err := slow.Dispatch(s.soon(), noop)
					returned <- err
				}()
				held.Wait(t, 1)

				g := s.gate()
				running := s.dispatch(g.task([]string{resource}, nil))
				g.reached()
				waiting := s.dispatch(noop)
				if takeover {
					s.processes["scheduler"].kill()
					v.restart(t, "scheduler")
				}
				// While the leader looks, and looks again, the number is missing and may still come.
				passed := scheduler.Arm(faults.Rule{Fault: faults.Pass, Match: looks, Times: faults.Always})
				passed.Wait(t, 3)
				passed.Disarm()
				if fault == faults.HoldCommit {
					select {
					case err := <-returned:
						t.Fatalf("the dispatch returned before its commit: %v", err)
					default:
					}
				}
				held.Release()
				if err := <-returned; (err == nil) != (fault == faults.HoldCommit) {
					t.Errorf("the dispatch returned %v", err)
				}
				held.Over(t, 1)
				var late client.Task
				for one, err := range s.List(s.soon(), client.Filter{Resources: []string{resource}}) {
					if err != nil {
						t.Fatal(err)
					}
					if one.ID != running.ID && one.ID != waiting.ID {
						late = one
					}
				}
				if late.ID == "" {
					t.Fatal("the late one is not there")
				}
				if late.Seq >= running.Seq {
					t.Errorf("it has the number %d, which is not before %d: this proves nothing", late.Seq, running.Seq)
				}
				last := s.dispatch(noop)
				g.open()
				all := s.end(running.ID, waiting.ID, late.ID, last.ID)
				for _, one := range all {
					if one.State != task.Completed {
						t.Errorf("task %d is %s: %v", one.Seq, one.State, one.Error)
					}
				}
				inOrder := func(first, second client.Task, what string) {
					if second.StartedAt.Before(*first.FinishedAt) {
						t.Errorf("%s: task %d started at %v, before task %d ended at %v", what, second.Seq, second.StartedAt, first.Seq, first.FinishedAt)
					}
				}
				inOrder(all[0], all[1], "the second was dispatched after the first")
				inOrder(all[0], all[2], "the late one overtook one that ran")
				inOrder(all[1], all[3], "the last was dispatched after the second")
				if fault == faults.HoldCommit {
					inOrder(all[2], all[3], "the last was dispatched after the late one")
				}
			})
		}
	}
}

// TestADatabaseThatIsAwayForAWhileIsOnlyThat refuses every service for longer than the lease of the scheduler lasts.
func TestADatabaseThatIsAwayForAWhileIsOnlyThat(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	proxy := faults.Start(t, direct)
	v := newServices(t, direct).migrate(t)
	v.database = proxy.URL() // nothing else in between: a pooler would keep its clients waiting
	s := v.start(t).under(t)
	g := s.gate()
	resource := fresh("r")
	running := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	waiting := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	l := s.load(s.once(t))
	l.goesOn()

	back := proxy.Refuse()
	if _, err := s.once(t).Dispatch(s.soon(), client.Spec{Name: "test.noop"}); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("a dispatch without a database returned %v", err)
	}
	if now, err := s.Status(s.soon()); err != nil || now.DatabaseConnected {
		t.Errorf("the status is %+v, %v", now, err)
	}
	g.open() // it ends while nobody can write that down
	eventually(t, "the clients of the load have tried often", func() error {
		if n := l.refusals(); n < 15*loadClients { // one each 150 ms and client
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	back()
	l.goesOn()
	l.settle(s)
	for _, one := range s.end(running.ID, waiting.ID) {
		if one.State != task.Completed {
			t.Errorf("task %s is %s: %v", one.Name, one.State, one.Error)
		}
	}
}

package e2e

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// TestServicesStartInAnyOrder wires them by nothing but the environment, and starts those first that need the others.
func TestServicesStartInAnyOrder(t *testing.T) {
	t.Parallel()
	v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
	v.byEnv = true
	order := slices.Clone(serviceNames)
	slices.Reverse(order)
	s := v.start(t, order...).under(t)
	faces(s)
	exclusive(s)
}

// TestServicesSurviveEachOthersDeath kills one after the other on one system.
func TestServicesSurviveEachOthersDeath(t *testing.T) {
	for how, prepare := range map[string]func(*testing.T) *services{
		"directly":          func(t *testing.T) *services { return newServices(t, pgtest.EmptyURL(t)) },
		"through PgBouncer": newPooled,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			surviveEachOthersDeath(t, prepare(t).migrate(t))
		})
	}
}

func surviveEachOthersDeath(t *testing.T, v *services) {
	v.ttl = 5 * time.Second // stories wait for it
	s := v.start(t)

	t.Run("dispatch works while the scheduler is down", func(t *testing.T) {
		s := s.under(t)
		s.processes["scheduler"].kill()
		resource := fresh("r")
		ids := []string{
			s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}}).ID,
			s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}}).ID,
		}
		stillWaiting(s, ids)
		canceled := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
		if got, err := s.Cancel(s.soon(), canceled.ID); err != nil || got.State != task.Canceled {
			t.Errorf("cancelling without a scheduler: %s, %v", got.State, err)
		}
		v.restart(t, "scheduler")
		for _, one := range s.end(ids...) {
			if one.State != task.Completed {
				t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
			}
		}
	})

	for _, service := range serviceNames {
		t.Run("nothing is lost when the "+service+" is killed and started again", func(t *testing.T) {
			s := s.under(t)
			l := s.load()
			for range 2 {
				l.goesOn()
				if service == "executor" {
					mishap := l.befalls("executor-1", task.ReasonWorkerMissing)
					s.processes[service].kill()
					v.restart(t, service)
					mishap.past()
					continue
				}
				s.processes[service].kill()
				v.restart(t, service)
			}
			l.goesOn()
			l.settle(s)
		})
	}

	t.Run("when an executor is killed its task fails and the next one runs on another", func(t *testing.T) {
		s := s.under(t)
		resource := fresh("r")
		g := s.gate()
		running := s.dispatch(g.task([]string{resource}, nil))
		g.reached()
		next := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
		second := v.launch(t, "executor-2", "executor", map[string]string{"name": "executor-2"})
		second.ready(t, "sluice executor is ready")
		stillWaiting(s, []string{next.ID})

		s.processes["executor"].kill()
		eventually(t, "no process of the task is left", func() error {
			if left := left(filepath.Join(s.work, "executor-1")); len(left) > 0 {
				return errors.New(strings.Join(left, "\n"))
			}
			return nil
		})
		lost := s.end(running.ID)[0]
		if lost.State != task.Failed || lost.Error.String() != task.ReasonWorkerMissing || lost.Executor != "executor-1" {
			t.Errorf("the task is %s on %s: %v", lost.State, lost.Executor, lost.Error)
		}
		one := s.end(next.ID)[0]
		if one.State != task.Completed || one.Executor != "executor-2" || one.StartedAt.Before(*lost.FinishedAt) {
			t.Errorf("the next task is %s on %q, started at %v; the lost one ended at %v", one.State, one.Executor, one.StartedAt, lost.FinishedAt)
		}
		var gone []struct {
			Name    string
			Missing bool
		}
		s.cliJSON(0, &gone, "worker", "list", "--gone")
		if !slices.ContainsFunc(gone, func(w struct {
			Name    string
			Missing bool
		},
		) bool {
			return w.Name == "executor-1" && w.Missing
		}) {
			t.Errorf("worker list --gone: %+v, want executor-1 among the missing", gone)
		}
		v.restart(t, "executor")
	})

	t.Run("test.kill_worker takes its executor with it", func(t *testing.T) {
		s := s.under(t)
		for _, name := range []string{"executor", "executor-2"} {
			s.processes[name].expected.Store(true)
		}
		resource := fresh("r")
		killer := s.dispatch(client.Spec{Name: "test.kill_worker", Exclusive: []string{resource}})
		next := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
		if one := s.end(killer.ID)[0]; one.State != task.Failed || one.Error.String() != task.ReasonWorkerMissing {
			t.Errorf("the task is %s: %v", one.State, one.Error)
		}
		if one := s.end(next.ID)[0]; one.State != task.Completed {
			t.Errorf("the next task is %s: %v", one.State, one.Error)
		}
		if !s.processes["executor"].ended() && !s.processes["executor-2"].ended() {
			t.Error("both executors live")
		}
		if s.processes["executor"].ended() {
			v.restart(t, "executor")
		}
	})
}

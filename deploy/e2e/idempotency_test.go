package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
)

// sender hands in tasks one after the other, alone and in batches, and is told of each whether it is stored.
func (s *system) sender(c *client.Client, name string, calls int) (ids []string, failed []error) {
	for i := range calls {
		specs := make([]client.Spec, 1+i%3)
		for n := range specs {
			specs[n] = client.Spec{Name: "test.noop", CorrelationID: name}
		}
		made, err := c.DispatchBatch(s.soon(), specs)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		for _, one := range made {
			ids = append(ids, one.ID)
		}
	}
	return ids, failed
}

// stored lists the ids of tasks by their correlation id.
func (s *system) stored(correlation string) []string {
	s.t.Helper()
	var ids []string
	for one, err := range s.List(s.soon(), client.Filter{CorrelationID: correlation}) {
		if err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, one.ID)
	}
	return ids
}

// oneEach checks that of the tasks that were handed in each is stored once, and no other.
func (s *system) oneEach(correlation string, told []string) {
	s.t.Helper()
	got := s.stored(correlation)
	slices.Sort(got)
	slices.Sort(told)
	if n := len(slices.Compact(slices.Clone(told))); n != len(told) {
		s.t.Errorf("%d tasks were told to more than one caller", len(told)-n)
	}
	if !slices.Equal(got, told) {
		s.t.Errorf("%d tasks are stored, and %d were told", len(got), len(told))
	}
	for _, one := range s.end(got...) {
		if one.State != task.Completed || one.Attempt != 1 {
			s.t.Errorf("task %s is %s in attempt %d: %v", one.ID, one.State, one.Attempt, one.Error)
		}
	}
}

// TestADispatchIsStoredOnceWhateverGetsLost has answers to dispatches lost at each place on their way, after their commit. The
// client hands in again by itself, and neither it nor anybody else sees more than one task.
func TestADispatchIsStoredOnceWhateverGetsLost(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	database := faults.Start(t, direct)
	v.reaching = map[string]string{"dispatcher": database.URL()}
	s := v.start(t)

	t.Run("between the database and the dispatcher", func(t *testing.T) {
		s := s.under(t)
		for _, fault := range []faults.Fault{faults.CutBefore, faults.CutBeforeCommit, faults.LoseAnswer} {
			name := fresh("lost")
			armed := database.Arm(faults.Rule{Fault: fault, Match: faults.Every(3, inserts), Times: 5})
			ids, failed := s.sender(s.Client, name, 30)
			if len(failed) > 0 {
				t.Errorf("%s: %d calls failed, the first with %v", fault, len(failed), failed[0])
			}
			armed.Over(t, 5)
			s.oneEach(name, ids)
		}
	})
	t.Run("between the database and the dispatcher, for REST", func(t *testing.T) {
		s := s.under(t)
		armed := database.Arm(faults.Rule{Fault: faults.LoseAnswer, Match: inserts, Times: 2})
		before := len(s.all("test.by_rest"))
		got := s.call("POST", "tasks/", map[string]any{"name": "test.by_rest"})
		armed.Over(t, 2)
		ids := s.all("test.by_rest")
		if got.code != 202 || len(ids) != before+1 || !strings.Contains(got.body, ids[0]) {
			t.Errorf("REST answers %d %s; stored are %v", got.code, got.body, ids)
		}
		if _, err := s.Cancel(s.soon(), ids[0]); err != nil {
			t.Error(err)
		}
	})
	t.Run("between the gateway and the client", func(t *testing.T) {
		s := s.under(t)
		network := wire.Start(t, s.grpc)
		c, err := client.Dial(network.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // it only fails when closed twice
		name := fresh("lost")
		first, _ := s.sender(c, name, 1) // so that there is a connection
		network.ToClient.Drop()
		var all sync.WaitGroup
		var ids []string
		var failed []error
		all.Go(func() { ids, failed = s.sender(c, name, 1) })
		eventually(t, "the second task is stored", func() error {
			if n := len(s.stored(name)); n != 2 {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
		network.ToClient.Pass()
		network.Cut()
		all.Wait()
		if len(failed) > 0 {
			t.Errorf("the call failed: %v", failed[0])
		}
		s.oneEach(name, append(first, ids...))
	})
	t.Run("when the dispatcher is killed and started again", func(t *testing.T) {
		s := s.under(t)
		name := fresh("lost")
		var all sync.WaitGroup
		var mu sync.Mutex
		var ids []string
		for range 4 {
			all.Go(func() {
				made, failed := s.sender(s.Client, name, 40)
				mu.Lock()
				defer mu.Unlock()
				ids = append(ids, made...)
				if len(failed) > 0 {
					t.Errorf("%d calls failed, the first with %v", len(failed), failed[0])
				}
			})
		}
		for n := range 3 {
			eventually(t, "tasks are stored", func() error {
				if got := len(s.stored(name)); got < 40*(n+1) {
					return fmt.Errorf("%d are", got)
				}
				return nil
			})
			v.system.processes["dispatcher"].signal(syscall.SIGKILL)
			<-v.system.processes["dispatcher"].done
			v.restart(t, "dispatcher")
		}
		all.Wait()
		s.oneEach(name, ids)
	})
}

// TestARequestIDIsGoodForOneTask tells it through the command line and gRPC.
func TestARequestIDIsGoodForOneTask(t *testing.T) {
	t.Parallel()
	s := newDev(t, pgtest.Dir(t), nil).start(t).under(t)
	id := fresh("request")
	first := s.cli("dispatch", "test.asleep", "--args", "[0]", "--request-id", id, "--wait")
	if first.code != 0 {
		t.Fatalf("the first dispatch says %d %s", first.code, first.stderr)
	}
	var one, again taskJSON
	s.cliJSON(0, &one, "dispatch", "test.asleep", "--args", "[0]", "--request-id", id)
	s.cliJSON(0, &again, "dispatch", "test.asleep", "--args", "[0]", "--request-id", id, "--wait")
	if one.ID == "" || one.ID != again.ID || one.State != "completed" || len(s.all("test.asleep")) != 1 {
		t.Errorf("the same request is the tasks %s and %s, %s; stored are %v", one.ID, again.ID, one.State, s.all("test.asleep"))
	}
	other := s.cli("dispatch", "test.asleep", "--request-id", id, "--args", "[0.1]")
	if want := "sluice: --request-id belongs to another task: --args is not the same\n"; other.code != 2 || other.stderr != want {
		t.Errorf("with other arguments the command line says %d %q, want 2 %q", other.code, other.stderr, want)
	}
	if _, err := s.Dispatch(s.soon(), client.Spec{Name: "test.other", RequestID: id}); !errs.Is(err, errs.RequestIDReused) {
		t.Errorf("under another name: %v", err)
	}
	// Many at once, from many processes.
	many := fresh("request")
	var all sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]int{}
	for range 20 {
		all.Go(func() {
			made, err := s.Dispatch(s.soon(), client.Spec{Name: "test.asleep", Args: []int{0}, RequestID: many})
			mu.Lock()
			defer mu.Unlock()
			ids[made.ID]++
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(ids) != 1 {
		t.Errorf("twenty dispatches of one request are the tasks %v", ids)
	}
	// When its task is deleted, the id is free.
	if got := s.cli("task", "delete", one.ID); got.code != 0 {
		t.Errorf("delete: %s", got.stderr)
	}
	s.cliJSON(0, &again, "dispatch", "test.asleep", "--request-id", id, "--args", "[0.1]")
	if again.ID == one.ID {
		t.Error("the deleted task is returned")
	}
	for id := range ids {
		s.end(again.ID, id)
	}
	// What has ended can be purged.
	var purged struct{ Deleted map[string]int }
	s.cliJSON(0, &purged, "task", "purge", "--finished-before", "0s", "--yes")
	if purged.Deleted["completed"] < 2 || len(s.all("test.asleep")) != 0 {
		t.Errorf("purged %v, and left are %v", purged.Deleted, s.all("test.asleep"))
	}
}

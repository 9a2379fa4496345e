package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// exclusive lets many tasks on a few resources write down what they do, some of them shared.
func exclusive(s *system) {
	h := s.history()
	resources := []string{fresh("a"), fresh("b"), fresh("c")}
	var order []string
	for i := range 45 {
		order = append(order, s.dispatch(h.task(resources[i%len(resources)], i%7 == 3)).ID)
	}
	for _, one := range s.end(order...) {
		if one.State != task.Completed {
			s.t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		}
	}
	if n := len(h.read()); n != 2*len(order) {
		s.t.Errorf("the history has %d lines, want %d", n, 2*len(order))
	}
	h.check(order, nil)
}

// overlap is forced: both tasks stand at their gates before one of them may go on.
func overlap(s *system) {
	resource := fresh("r")
	a, b := s.gate(), s.gate()
	one, two := s.dispatch(a.task(nil, []string{resource})), s.dispatch(b.task(nil, []string{resource}))
	a.reached()
	b.reached()
	a.open()
	b.open()
	for _, ended := range s.end(one.ID, two.ID) {
		if ended.State != task.Completed {
			s.t.Errorf("task %s is %s: %v", ended.ID, ended.State, ended.Error)
		}
	}
}

func noStarvation(s *system) {
	resource := fresh("r")
	readerGate, writerGate := s.gate(), s.gate()
	reader := s.dispatch(readerGate.task(nil, []string{resource}))
	readerGate.reached()
	writer := s.dispatch(writerGate.task([]string{resource}, nil))
	var later []string
	for range 3 {
		later = append(later, s.dispatch(client.Spec{Name: "test.noop", Shared: []string{resource}}).ID)
	}
	// There are free slots, and the holder shares: only the waiting writer is in the way of the later readers.
	s.waits(resource, 1, 4)
	stillWaiting(s, later)
	readerGate.open()
	s.end(reader.ID)
	writerGate.reached()
	stillWaiting(s, later)
	writerGate.open()
	wrote := s.end(writer.ID)[0]
	for _, one := range s.end(later...) {
		if one.State != task.Completed || one.StartedAt.Before(*wrote.FinishedAt) {
			s.t.Errorf("task %s is %s and started at %v, the exclusive one before it ended at %v", one.ID, one.State, one.StartedAt, wrote.FinishedAt)
		}
	}
}

func stillWaiting(s *system, ids []string) {
	s.t.Helper()
	for _, id := range ids {
		if now := s.get(id); now.State != task.Waiting || now.UnblockedAt != nil {
			s.t.Errorf("task %s is %s, unblocked at %v; want waiting and blocked", id, now.State, now.UnblockedAt)
		}
	}
}

// waits waits until the scheduler knows of so many holders and waiting tasks of a resource.
func (s *system) waits(resource string, holders, waiting int64) {
	s.t.Helper()
	eventually(s.t, "all tasks queue up for "+resource, func() error {
		r, _, err := s.Resource(s.soon(), resource, 0)
		if err != nil {
			return err
		}
		if r.Holders != holders || r.Waiting != waiting {
			return fmt.Errorf("%d hold it and %d wait, want %d and %d", r.Holders, r.Waiting, holders, waiting)
		}
		return nil
	})
}

// multiResourceLocking is Pulp's test of the same name.
func multiResourceLocking(s *system) {
	a, b := fresh("a"), fresh("b")
	var ids []string
	for _, spec := range []client.Spec{
		{Exclusive: []string{a}, Shared: []string{b}},
		{Shared: []string{a}},
		{Shared: []string{a}},
		{Exclusive: []string{a}},
		{Exclusive: []string{b}},
	} {
		spec.Name, spec.Args = "test.sleep", []float64{0.1}
		ids = append(ids, s.dispatch(spec).ID)
	}
	ended := s.end(ids...)
	before := func(first, then int) {
		s.t.Helper()
		if ended[first].FinishedAt.After(*ended[then].StartedAt) {
			s.t.Errorf("task %d ended at %v, task %d started at %v before", first+1, ended[first].FinishedAt, then+1, ended[then].StartedAt)
		}
	}
	before(0, 1)
	before(0, 2)
	before(0, 4)
	before(1, 3)
	before(2, 3)
	for _, one := range ended {
		if one.State != task.Completed {
			s.t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		}
	}
}

// finalizer blocks the siblings by something else for as long as it likes.
func finalizer(s *system) {
	resource := fresh("r")
	g := s.gate()
	blocker := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	root := s.run(client.Spec{Name: "test.group_with_finalizer", Kwargs: map[string]string{"resource": resource}})
	var made struct {
		Group     string
		Members   []string
		Finalizer string
	}
	if err := json.Unmarshal(root.Result, &made); err != nil {
		s.t.Fatalf("%v in %s, %v", err, root.Result, root.Error)
	}
	s.waits("prn:core.taskgroup:"+made.Group, 2, 1)
	stillWaiting(s, append([]string{made.Finalizer}, made.Members...))
	g.open()
	s.end(blocker.ID)
	last := s.end(made.Finalizer)[0]
	for _, member := range s.end(made.Members...) {
		if member.State != task.Completed || member.FinishedAt.After(*last.StartedAt) || member.ParentID != root.ID || member.GroupID != made.Group {
			s.t.Errorf("the member %+v; the finalizer started at %v", member, last.StartedAt)
		}
	}
	group, err := s.Group(s.soon(), made.Group)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(map[task.State]int64{task.Completed: 3}, group.Counts); diff != "" {
		s.t.Error(diff)
	}
	var byREST struct {
		Completed int
		Tasks     []taskREST
	}
	s.call(http.MethodGet, "task-groups/"+made.Group+"/", nil).decode(s.t, &byREST)
	if byREST.Completed != 3 || len(byREST.Tasks) != 3 {
		s.t.Errorf("the REST face counts %d completed tasks of %d, want 3 of 3", byREST.Completed, len(byREST.Tasks))
	}
}

func explainBlocker(s *system) {
	resource := fresh("r")
	g := s.gate()
	holder := s.dispatch(g.task([]string{resource}, nil))
	g.reached()
	first := s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	second := s.dispatch(client.Spec{Name: "test.noop", Shared: []string{resource}})
	s.waits(resource, 1, 2)

	var why struct {
		Summary   string
		Unblocked bool
		Waits     []struct {
			Resource string
			Ahead    int
			Holders  []struct{ ID string }
		}
		Chain []struct {
			Task     struct{ ID, Executor string }
			Standing string
		}
	}
	s.cliJSON(0, &why, "task", "explain", second.ID)
	if len(why.Chain) != 1 || why.Chain[0].Task.ID != holder.ID || !strings.HasPrefix(why.Chain[0].Standing, "runs on "+why.Chain[0].Task.Executor) {
		s.t.Fatalf("task explain: who waits for whom is %+v, want %s, which runs", why.Chain, holder.ID)
	}
	if why.Unblocked || len(why.Waits) != 1 || why.Waits[0].Resource != resource || why.Waits[0].Ahead != 2 ||
		len(why.Waits[0].Holders) != 1 || why.Waits[0].Holders[0].ID != holder.ID {
		s.t.Errorf("task explain: %+v, want that %s holds %s and two go first", why, holder.ID, resource)
	}
	if said := s.cli("task", "explain", second.ID); !strings.Contains(said.stdout, holder.ID) || !strings.Contains(said.stdout, resource) {
		s.t.Errorf("task explain names neither the holder nor the resource: %s", said.stdout)
	}

	if runs, err := s.Explain(s.soon(), holder.ID); err != nil || runs.State != task.Running || runs.Executor != why.Chain[0].Task.Executor ||
		runs.StartedAt == nil || runs.LastBeatAt == nil || !strings.HasPrefix(runs.Summary, "It runs on "+runs.Executor) {
		s.t.Errorf("of the one that runs it is said: %+v, %v", runs, err)
	}

	type use struct {
		ID        string
		Exclusive bool
		Granted   bool
	}
	var shown struct {
		Name             string
		Exclusive        bool
		Holders, Waiting int
		Queue            []use
	}
	s.cliJSON(0, &shown, "resource", "show", resource)
	want := []use{{holder.ID, true, true}, {first.ID, true, false}, {second.ID, false, false}}
	if diff := cmp.Diff(want, shown.Queue); diff != "" || !shown.Exclusive || shown.Holders != 1 || shown.Waiting != 2 {
		s.t.Errorf("resource show: %+v %s", shown, diff)
	}
	var listed []struct {
		Name             string
		Holders, Waiting int
	}
	s.cliJSON(0, &listed, "resource", "list", "--limit", "1000")
	if !slices.ContainsFunc(listed, func(r struct {
		Name             string
		Holders, Waiting int
	},
	) bool {
		return r.Name == resource && r.Holders == 1 && r.Waiting == 2
	}) {
		s.t.Errorf("resource list has not %s with one holder and two waiting: %+v", resource, listed)
	}

	g.open()
	s.end(holder.ID, first.ID, second.ID)
	eventually(s.t, "the resource is forgotten", func() error {
		if got := s.cli("resource", "show", resource); got.code == 0 {
			return fmt.Errorf("resource show: %s", got.stdout)
		}
		return nil
	})

	// Without a worker for it, a task says that.
	lonely := s.dispatch(client.Spec{Name: fresh("nobody.knows")})
	eventually(s.t, "explain says that no executor knows the name", func() error {
		e, err := s.Explain(s.soon(), lonely.ID)
		if err != nil || !e.Unblocked || e.ExecutorsWithName != 0 || !e.Live {
			return fmt.Errorf("%+v, %v", e, err)
		}
		return nil
	})
	if _, err := s.Cancel(s.soon(), lonely.ID); err != nil {
		s.t.Error(err)
	}
}

// independence: a blocked queue holds up nothing that it does not concern.
func independence(s *system) {
	resource := fresh("r")
	g := s.gate()
	ids := []string{s.dispatch(g.task([]string{resource}, nil)).ID}
	g.reached()
	for range 25 {
		ids = append(ids, s.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}}).ID)
	}
	if other := s.run(client.Spec{Name: "test.noop", Exclusive: []string{fresh("r")}}); other.State != task.Completed {
		s.t.Errorf("the unrelated task is %s: %v", other.State, other.Error)
	}
	g.open()
	ended := s.end(ids...)
	var starts []time.Time
	for _, one := range ended {
		starts = append(starts, *one.StartedAt)
	}
	if !slices.IsSortedFunc(starts, time.Time.Compare) {
		s.t.Errorf("the tasks started in another order than they were dispatched: %v", starts)
	}
}

// concurrently lets dispatches commit in another order than they took their places.
func concurrently(s *system) {
	const callers, each = 8, 25
	ids := make([][]string, callers)
	failed := make([]error, callers)
	var calling sync.WaitGroup
	for i := range callers {
		resource := fresh("r")
		calling.Go(func() {
			for range each {
				made, err := s.Dispatch(s.soon(), client.Spec{Name: "test.noop", Exclusive: []string{resource}})
				if err != nil {
					failed[i] = err
					return
				}
				ids[i] = append(ids[i], made.ID)
			}
		})
	}
	calling.Wait()
	for i := range callers {
		if failed[i] != nil {
			s.t.Fatalf("dispatch: %v", failed[i])
		}
		ended := s.end(ids[i]...)
		for k, one := range ended {
			if one.State != task.Completed || k > 0 && one.StartedAt.Before(*ended[k-1].FinishedAt) {
				s.t.Errorf("task %s is %s and started at %v, the one before it ended at %v", one.ID, one.State, one.StartedAt, ended[max(k, 1)-1].FinishedAt)
			}
		}
	}
}

func bothLists(s *system) {
	resource := fresh("r")
	var made taskJSON
	s.cliJSON(0, &made, "dispatch", "test.noop", "--exclusive", resource, "--shared", resource, "--wait")
	if !slices.Contains(made.ExclusiveResources, resource) || slices.Contains(made.SharedResources, resource) {
		s.t.Errorf("the task is exclusive on %q and shares %q", made.ExclusiveResources, made.SharedResources)
	}
}

package status_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/status"
)

// awaited is a wait by filter that is under way.
type awaited struct {
	answer *statusv1.AwaitTasksResponse
	err    error
	done   chan struct{}
}

func (y *yard) awaiting(t *testing.T, filter *statusv1.Filter, timeout time.Duration) *awaited {
	t.Helper()
	a := &awaited{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a.answer, a.err = y.client.AwaitTasks(ctx, &statusv1.AwaitTasksRequest{Filter: filter, Timeout: durationpb.New(timeout)})
	}()
	return a
}

func (a *awaited) says(t *testing.T, done bool, matched, remaining int64, shown int) {
	t.Helper()
	<-a.done
	if a.err != nil || a.answer.GetDone() != done || a.answer.GetMatched() != matched || a.answer.GetRemaining() != remaining || len(a.answer.GetTasks()) != shown {
		t.Errorf("got %v, %v", a.answer, a.err)
	}
}

func TestAwaitAnswersAtOnceWhenNothingMatches(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	y.add(t, row{state: "completed", result: "1"})
	y.add(t, row{name: "other"})
	for name, filter := range map[string]*statusv1.Filter{"of a name": byName("n"), "of an id": byID(unknownID), "of a final state": byState("completed")} {
		t.Run(name, func(t *testing.T) { y.awaiting(t, filter, never/60).says(t, true, 0, 0, 0) })
	}
}

func TestAwaitEndsWithTheLastThatMatchedWhenItWasCalled(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	a, b, other := y.add(t, row{}), y.add(t, row{}), y.add(t, row{name: "other"})
	wait := y.awaiting(t, byName("n"), 5*time.Minute)
	probe.Eventually(t, "it listens", func() bool { return y.service.Waiting(a) == 1 && y.service.Waiting(b) == 1 })
	if y.service.Waiting(other) != 0 {
		t.Error("it listens for what does not match")
	}
	y.add(t, row{}) // comes later, and does not count
	y.finish(t, a)
	looks := y.costs.lived.Load()
	y.leader.changes <- a
	probe.Eventually(t, "it looks and goes on waiting", func() bool { return y.costs.lived.Load() > looks && y.service.Waiting(b) == 1 })
	pgtest.Must(t, y, 1, cancelWaiting, b)
	y.leader.changes <- b
	wait.says(t, true, 2, 0, 0)
}

func TestAwaitFindsTheEndByItself(t *testing.T) {
	y := newYard(t, often, newLeader(false))
	id := y.add(t, row{})
	wait := y.awaiting(t, byID(id, unknownID), 5*time.Minute)
	probe.Eventually(t, "it listens", func() bool { return y.service.Waiting(id) == 1 })
	y.finish(t, id)
	wait.says(t, true, 1, 0, 0)
}

func TestAwaitThatTimesOutShowsTheOldestThatAreLeft(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	const many = 130
	ids := make([]string, many)
	for i := range ids {
		ids[i] = y.add(t, row{})
	}
	wait := y.awaiting(t, nil, 0)
	wait.says(t, false, many, many, 100)
	for i, shown := range wait.answer.GetTasks() {
		if shown.GetId() != ids[i] || shown.GetState() != taskv1.State_STATE_WAITING {
			t.Fatalf("task %d is %v, want %s", i, shown, ids[i])
		}
	}
	pgtest.Must(t, y, 50, `with gone as (update task set state = 'canceled', error = '{}', finished_at = now() where seq in (select seq from task order by seq limit 50) returning seq)
		delete from task_live using gone where task_live.seq = gone.seq`)
	y.awaiting(t, nil, 0).says(t, false, 80, 80, 80)
}

func TestWaitsForTooManyTasksInAllAreRefused(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	y.add(t, row{})
	y.service.AwaitMore(status.MaxAwaitedByAll)
	_, err := y.client.AwaitTasks(t.Context(), &statusv1.AwaitTasksRequest{Timeout: durationpb.New(0)})
	if !errs.Is(err, errs.Overloaded) {
		t.Errorf("got %v", err)
	}
	y.awaiting(t, byName("nobody has it"), 0).says(t, true, 0, 0, 0)
	y.service.AwaitMore(-status.MaxAwaitedByAll)
	y.awaiting(t, nil, 0).says(t, false, 1, 1, 1)
}

// asking is a store that counts how many tasks are asked about.
type asking struct {
	*costing
	asked chan int
}

// Living counts.
func (a *asking) Living(ctx context.Context, seqs []int64) (map[int64]bool, error) {
	a.asked <- len(seqs)
	return a.costing.Living(ctx, seqs)
}

// However many there are, a look asks about some of the oldest, and each is asked about once when it has ended.
func TestAwaitOfManyLooksAtFew(t *testing.T) {
	pool := pgtest.New(t)
	store := &asking{costing: &costing{Store: status.NewStore(pool)}, asked: make(chan int)}
	service := status.New(status.Config{LookEvery: often, LookAlone: often}, store, nil, quiet())
	var r registrar
	service.Register(&r)
	const many = 3*status.AwaitedLook + 50
	pgtest.Must(t, pool, many, `with new as (insert into task (id, domain_id, name) select gen_random_uuid(), gen_random_uuid(), 'n' from generate_series(1, $1) returning seq, id)
		insert into task_live (seq, task_id) select seq, id from new`, many)
	answered := make(chan *statusv1.AwaitTasksResponse, 1)
	go func() {
		answer, err := r.face.AwaitTasks(t.Context(), &statusv1.AwaitTasksRequest{Timeout: durationpb.New(5 * time.Minute)})
		if err != nil {
			t.Error(err)
		}
		answered <- answer
	}()
	for range 3 {
		if n := <-store.asked; n != status.AwaitedLook {
			t.Fatalf("a look asked about %d tasks", n)
		}
	}
	gone := func(n int) {
		pgtest.Must(t, pool, int64(n), `delete from task_live where seq in (select seq from task_live order by seq limit $1)`, n)
	}
	gone(2*status.AwaitedLook + 10)
	var asked []int
	for len(asked) == 0 || asked[len(asked)-1] != status.AwaitedLook || len(asked) < 5 {
		asked = append(asked, <-store.asked)
	}
	gone(status.AwaitedLook + 40)
	for {
		select {
		case <-store.asked:
		case answer := <-answered:
			if !answer.GetDone() || answer.GetMatched() != many {
				t.Errorf("got %v", answer)
			}
			return
		}
	}
}

func TestAwaitAnswersBeforeTheCallersDeadlineAndWhenTheServiceStops(t *testing.T) {
	y := newYard(t, never, newLeader(true))
	id := y.add(t, row{})
	ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
	defer cancel()
	answer, err := y.client.AwaitTasks(ctx, &statusv1.AwaitTasksRequest{})
	if err != nil || answer.GetDone() || answer.GetRemaining() != 1 {
		t.Errorf("got %v, %v", answer, err)
	}
	wait := y.awaiting(t, nil, 5*time.Minute)
	probe.Eventually(t, "it listens", func() bool { return y.service.Waiting(id) == 1 })
	y.stop()
	wait.says(t, false, 1, 1, 1)
}

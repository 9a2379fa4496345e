package dispatcher_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// registrar catches a service's gRPC face.
type registrar struct {
	face dispatcherv1.DispatcherServiceServer
}

func (r *registrar) RegisterService(_ *grpc.ServiceDesc, face any) {
	r.face = face.(dispatcherv1.DispatcherServiceServer)
}

func (w *world) tryCancel(ctx context.Context, id string) (*taskv1.Task, error) {
	answer, err := w.client.Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: id})
	return answer.GetTask(), err
}

func (w *world) cancel(t *testing.T, id string) *taskv1.Task {
	t.Helper()
	got, err := w.tryCancel(t.Context(), id)
	if err != nil {
		t.Fatalf("cancel: %v", err)
	}
	return got
}

// wishes lists the tasks that the scheduler is asked to cancel.
func (w *world) wishes(t *testing.T) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `select coalesce(array_agg(c.task_id::text order by c.seq), '{}') from task_cancel c join task t on t.seq = c.seq and t.id = c.task_id`)
}

func (w *world) living(t *testing.T, id string) bool {
	t.Helper()
	return pgtest.One[bool](t, w, `select exists (select from task_live where task_id = $1::text::uuid)`, id)
}

func TestCancelOfAWaitingTaskIsFinalAtOnce(t *testing.T) {
	for name, before := range map[string]string{
		"blocked":   "",
		"unblocked": `update task set unblocked_at = now() where id = $1::text::uuid`,
		"put back":  `update task set unblocked_at = now(), claim = 3 where id = $1::text::uuid`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, &leader{})
			id, other := w.dispatch(t), w.dispatch(t)
			if before != "" {
				pgtest.Must(t, w, 1, before, id)
			}
			got := w.cancel(t, id)
			if got.GetState() != taskv1.State_STATE_CANCELED || got.GetError().GetReason() != task.ReasonCanceled || got.GetFinishedAt() == nil {
				t.Errorf("the answer is %v", got)
			}
			stored := w.stored(t, id)
			want := &task.Error{Reason: "Canceled on request."}
			if stored.State != task.Canceled || !cmp.Equal(stored.Error, want) || stored.FinishedAt == nil || stored.StartedAt != nil ||
				!stored.UpdatedAt.Equal(*stored.FinishedAt) {
				t.Errorf("the row is %+v", stored)
			}
			if w.living(t, id) || !w.living(t, other) {
				t.Errorf("among the living: the task %v, the other one %v", w.living(t, id), w.living(t, other))
			}
			if diff := cmp.Diff([]string{id}, w.wishes(t)); diff != "" {
				t.Errorf("the scheduler is not told to free its place: %s", diff)
			}
		})
	}
}

func TestCancelOfARunningTaskMakesItCanceling(t *testing.T) {
	w := newWorld(t, &leader{})
	id := w.inState(t, task.Running)
	got := w.cancel(t, id)
	if got.GetState() != taskv1.State_STATE_CANCELING || got.GetFinishedAt() != nil || got.GetError() != nil || got.GetExecutor() != "e1" {
		t.Errorf("the answer is %v", got)
	}
	if stored := w.stored(t, id); stored.State != task.Canceling || stored.Claim != 1 {
		t.Errorf("the row is %+v", stored)
	}
	if !w.living(t, id) {
		t.Error("it is not among the living any more, though it runs")
	}
	if diff := cmp.Diff([]string{id}, w.wishes(t)); diff != "" {
		t.Error(diff)
	}
	probe.Eventually(t, "the leader is hinted", func() bool { return w.leader.hinted() >= 2 }) // one for the dispatch
}

func TestCancelAgainChangesNothing(t *testing.T) {
	for _, state := range []task.State{task.Canceling, task.Canceled} {
		t.Run(string(state), func(t *testing.T) {
			w := newWorld(t, &leader{})
			id := w.inState(t, state)
			before := w.stored(t, id)
			// The scheduler has acted on the first wish; a second one would be for nothing.
			pgtest.Must(t, w, 1, `delete from task_cancel`)
			got := w.cancel(t, id)
			if got.GetId() != id || wireState(got) != state {
				t.Errorf("the answer is %v", got)
			}
			if diff := cmp.Diff(before, w.stored(t, id)); diff != "" {
				t.Error(diff)
			}
			if wishes := w.wishes(t); len(wishes) != 0 {
				t.Errorf("another wish: %v", wishes)
			}
		})
	}
}

func wireState(t *taskv1.Task) task.State {
	return map[taskv1.State]task.State{
		taskv1.State_STATE_CANCELING: task.Canceling, taskv1.State_STATE_CANCELED: task.Canceled,
	}[t.GetState()]
}

func TestCancelOfAnEndedTaskIsRefused(t *testing.T) {
	for _, state := range []task.State{task.Completed, task.Failed, task.Skipped} {
		t.Run(string(state), func(t *testing.T) {
			w := newWorld(t, &leader{})
			id := w.inState(t, state)
			before := w.stored(t, id)
			_, err := w.tryCancel(t.Context(), id)
			if !errs.Is(err, errs.TaskFinal) || status.Code(toStatus(err)) != codes.FailedPrecondition {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(before, w.stored(t, id)); diff != "" {
				t.Error(diff)
			}
			if wishes := w.wishes(t); len(wishes) != 0 {
				t.Errorf("a wish: %v", wishes)
			}
		})
	}
}

// toStatus makes of an error of ours what gRPC knows.
func toStatus(err error) error {
	wire, _ := errs.Wire(err)
	return wire
}

func TestUnknownTaskIsNotFound(t *testing.T) {
	w := newWorld(t, &leader{})
	if _, err := w.tryCancel(t.Context(), unknownID); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("cancel: %v", err)
	}
	if _, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: unknownID}); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("delete: %v", err)
	}
}

func TestManyCancelsAtOnceAreOne(t *testing.T) {
	for _, state := range []task.State{task.Waiting, task.Running} {
		t.Run(string(state), func(t *testing.T) {
			w := newWorld(t, &leader{})
			id := w.inState(t, state)
			var all sync.WaitGroup
			answers := make(chan *taskv1.Task, 16)
			for range cap(answers) {
				all.Go(func() {
					got, err := w.tryCancel(t.Context(), id)
					if err != nil {
						t.Error(err)
					}
					answers <- got
				})
			}
			all.Wait()
			close(answers)
			first := <-answers
			for got := range answers {
				if !proto.Equal(first, got) {
					t.Errorf("two answers differ: %v and %v", first, got)
				}
			}
			if diff := cmp.Diff([]string{id}, w.wishes(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A second transaction holds the row while the cancel arrives: the cancel must wait, and then decide by what was committed.
func TestCancelDecidesByWhatAConcurrentChangeCommitted(t *testing.T) {
	for name, c := range map[string]struct {
		before     task.State
		change     []string
		rollback   bool
		want       task.State
		refused    bool
		wishes     int
		stillAlive bool
	}{
		"claimed meanwhile":                   {before: task.Waiting, change: []string{claim}, want: task.Canceling, wishes: 1, stillAlive: true},
		"claim undone":                        {before: task.Waiting, change: []string{claim}, rollback: true, want: task.Canceled, wishes: 1},
		"completed meanwhile":                 {before: task.Running, change: []string{complete}, want: task.Completed, refused: true},
		"failed meanwhile":                    {before: task.Running, change: []string{fail}, want: task.Failed, refused: true},
		"finish undone":                       {before: task.Running, change: []string{complete}, rollback: true, want: task.Canceling, wishes: 1, stillAlive: true},
		"put back meanwhile":                  {before: task.Running, change: []string{requeue}, want: task.Canceled, wishes: 1},
		"put back and claimed anew meanwhile": {before: task.Running, change: []string{requeue, claim}, want: task.Canceling, wishes: 1, stillAlive: true},
		"claimed and completed meanwhile":     {before: task.Waiting, change: []string{claim, complete}, want: task.Completed, refused: true},
		"unblocked meanwhile": {
			before: task.Waiting, change: []string{`update task set unblocked_at = now() where id = $1::text::uuid`}, want: task.Canceled, wishes: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.URL(t)
			w := worldOn(t, &leader{}, url, dispatcher.Defaults())
			id := w.inState(t, c.before)
			other := pgtest.Begin(t, pgtest.Open(t, url))
			for _, statement := range c.change {
				pgtest.Must(t, other, 1, statement, id)
			}
			var got *taskv1.Task
			var err error
			done := make(chan struct{})
			go func() {
				defer close(done)
				got, err = w.tryCancel(t.Context(), id)
			}()
			probe.Eventually(t, "the cancel waits for the row", func() bool {
				return pgtest.One[bool](t, w, `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`)
			})
			if c.rollback {
				other.Rollback(t)
			} else {
				other.Commit(t)
			}
			<-done
			if refused := errs.Is(err, errs.TaskFinal); refused != c.refused || (err != nil && !refused) {
				t.Errorf("got %v", err)
			}
			stored := w.stored(t, id)
			if stored.State != c.want {
				t.Errorf("the row is %s, want %s", stored.State, c.want)
			}
			if err == nil && wireState(got) != c.want {
				t.Errorf("the answer is %s, want %s", got.GetState(), c.want)
			}
			if wishes := w.wishes(t); len(wishes) != c.wishes {
				t.Errorf("wishes %v, want %d", wishes, c.wishes)
			}
			if w.living(t, id) != c.stillAlive {
				t.Errorf("among the living: %v, want %v", w.living(t, id), c.stillAlive)
			}
		})
	}
}

// And the other way round: a claim that arrives behind a cancel must find nothing to claim.
func TestClaimThatWaitsForACancelFindsNothing(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	id := w.dispatch(t)
	waiting := func(n int) func() bool {
		return func() bool {
			return pgtest.One[int](t, w, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == n
		}
	}
	// Who asks first for a locked row gets it first.
	other := pgtest.Begin(t, pgtest.Open(t, url))
	pgtest.Must(t, other, 1, `select from task where id = $1::text::uuid for update`, id)
	canceled := make(chan error, 1)
	go func() {
		_, err := w.tryCancel(t.Context(), id)
		canceled <- err
	}()
	probe.Eventually(t, "the cancel waits for the row", waiting(1))
	claimed := make(chan int64, 1)
	go func() {
		tag, err := w.Exec(t.Context(), claim, id)
		if err != nil {
			t.Error(err)
		}
		claimed <- tag.RowsAffected()
	}()
	probe.Eventually(t, "the claim waits behind it", waiting(2))
	other.Commit(t)
	if err := <-canceled; err != nil {
		t.Error(err)
	}
	if n := <-claimed; n != 0 {
		t.Errorf("%d rows claimed after the cancel", n)
	}
	if got := w.stored(t, id).State; got != task.Canceled {
		t.Errorf("the row is %s", got)
	}
}

func TestDeleteRemovesFinalTasksOnly(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, state := range task.States() {
		id := w.inState(t, state)
		_, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: id})
		there := pgtest.One[bool](t, w, `select exists (select from task where id = $1::text::uuid)`, id)
		if state.Final() && (err != nil || there) {
			t.Errorf("%s: %v, still there: %v", state, err, there)
		}
		if !state.Final() && (!errs.Is(err, errs.TaskNotFinal) || !there || !w.living(t, id)) {
			t.Errorf("%s: %v, still there: %v", state, err, there)
		}
	}
}

func TestDeleteTakesTheLogAlongAndLeavesTheChildren(t *testing.T) {
	w := newWorld(t, &leader{})
	parent := w.inState(t, task.Completed)
	spec := newSpec("child")
	spec.ParentId = parent
	child := w.send(t, spec).GetId()
	pgtest.Must(t, w, 1, `insert into task_log (task_id, claim, text) values ($1::text::uuid, 1, 'x')`, parent)
	// A child that is not finished keeps it: its row is the scheduler's to change.
	_, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: parent})
	if !errs.Is(err, errs.TaskNotFinal) || !strings.Contains(err.Error(), "child") {
		t.Errorf("with a waiting child: %v", err)
	}
	if _, err := w.client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: child}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: parent}); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.One[int](t, w, `select count(*) from task_log`); n != 0 {
		t.Error("the log is still there")
	}
	if got := w.stored(t, child); got.ParentID != "" || got.State != task.Canceled {
		t.Errorf("the child is %+v", got)
	}
}

// changing is a store whose task changes between the two statements of a cancel.
type changing struct {
	*dispatcher.Store
	now *task.Task
}

func (c changing) Cancel(context.Context, string) (*task.Task, bool, error) { return c.now, false, nil }

func TestCancelThatMetAChangeBetweenItsStatementsCanBeRepeated(t *testing.T) {
	for _, state := range []task.State{task.Waiting, task.Running} {
		service := dispatcher.NewService(dispatcher.Defaults(), changing{now: &task.Task{State: state}}, noLeader{}, quiet())
		_, err := service.Cancel(t.Context(), unknownID)
		if status.Code(toStatus(err)) != codes.Unavailable {
			t.Errorf("%s: %v, want one that clients repeat by themselves", state, err)
		}
	}
}

func TestStatesOfCancelAgreeWithTheTransitions(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, state := range task.States() {
		id := w.inState(t, state)
		before := w.stored(t, id)
		_, _ = w.tryCancel(t.Context(), id)
		after := w.stored(t, id)
		if after.State != before.State && !before.State.CanBecome(after.State) {
			t.Errorf("cancel made %s of %s", after.State, before.State)
		}
		if after.State == before.State {
			if diff := cmp.Diff(before, after, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s changed without changing its state: %s", state, diff)
			}
		}
	}
}

package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// specs are n tasks with names that tell their places.
func specs(n int) []*taskv1.TaskSpec {
	list := make([]*taskv1.TaskSpec, n)
	for i := range list {
		list[i] = newSpec(fmt.Sprintf("task %04d", i))
	}
	return list
}

func (w *world) tryBatch(ctx context.Context, tasks ...*taskv1.TaskSpec) ([]*taskv1.Task, error) {
	answer, err := w.client.DispatchBatch(ctx, &dispatcherv1.DispatchBatchRequest{Tasks: tasks})
	return answer.GetTasks(), err
}

func (w *world) batch(t *testing.T, tasks ...*taskv1.TaskSpec) []*taskv1.Task {
	t.Helper()
	stored, err := w.tryBatch(t.Context(), tasks...)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// names lists the stored tasks in the order of dispatch.
func (w *world) names(t *testing.T) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `select coalesce(array_agg(t.name order by l.seq), '{}') from task t join task_live l on l.seq = t.seq and l.task_id = t.id`)
}

// broken lists the fields that an error names.
func broken(t *testing.T, err error) []string {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.Reason != errs.InvalidInput {
		t.Fatalf("%v is no refusal of bad input", err)
	}
	var fields []string
	for _, v := range e.Violations {
		fields = append(fields, v.Field)
	}
	return fields
}

func TestBatchIsStoredWholeAndInItsOrder(t *testing.T) {
	w := newWorld(t, &leader{})
	before := w.dispatch(t)
	tasks := specs(limits.MaxBatch)
	want := []string{"test.noop"}
	for i, spec := range tasks {
		want = append(want, spec.GetName())
		spec.ArgsJson = fmt.Sprintf("[%d]", i)
		spec.ExclusiveResources = []string{fmt.Sprint("r", i)}[:i%2] // every other one has none
	}
	got := w.batch(t, tasks...)
	if diff := cmp.Diff(want, w.names(t)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if len(got) != len(tasks) {
		t.Fatalf("%d answers for %d tasks", len(got), len(tasks))
	}
	last := w.stored(t, before).Seq
	for i, answer := range got {
		if answer.GetSeq() <= last {
			t.Errorf("task %d has seq %d after %d", i, answer.GetSeq(), last)
		}
		last = answer.GetSeq()
		spec := tasks[i]
		if answer.GetName() != spec.GetName() || !slices.Equal(answer.GetExclusiveResources(), spec.GetExclusiveResources()) ||
			!slices.Equal(answer.GetSharedResources(), []string{domain}) || answer.GetState() != taskv1.State_STATE_WAITING {
			t.Errorf("answer %d is %v", i, answer)
		}
	}
	for _, i := range []int{0, 1, 499, 999} {
		if diff := cmp.Diff(wire.Task(w.stored(t, got[i].GetId())), got[i], protocmp.Transform()); diff != "" {
			t.Errorf("the row of task %d and its answer differ: %s", i, diff)
		}
		if args := pgtest.One[string](t, w, `select args::text from task where seq = $1`, got[i].GetSeq()); args != tasks[i].GetArgsJson() {
			t.Errorf("task %d got the arguments %s", i, args)
		}
	}
	if n := pgtest.One[int](t, w, `select count(distinct xact) from task_live`); n != 2 {
		t.Errorf("%d transactions, want one for the batch", n-1)
	}
}

func TestBatchMustHaveOneToAThousandTasks(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, n := range []int{0, limits.MaxBatch + 1} {
		_, err := w.tryBatch(t.Context(), specs(n)...)
		if diff := cmp.Diff([]string{"tasks"}, broken(t, err)); diff != "" {
			t.Errorf("%d tasks: %s", n, diff)
		}
	}
	if n := w.rows(t); n != (rows{}) {
		t.Errorf("stored %+v", n)
	}
}

func TestBatchWithBadInputNamesEveryMistakeAndStoresNothing(t *testing.T) {
	w := newWorld(t, &leader{})
	tasks := specs(100)
	tasks[3].Name, tasks[3].KwargsJson = "", "[]"
	tasks[50].Deferred = proto.Bool(false) // neither immediate nor deferred
	tasks[99].ExclusiveResources = []string{"a", "b\x00"}
	_, err := w.tryBatch(t.Context(), tasks...)
	want := []string{"tasks[3].name", "tasks[3].kwargs_json", "tasks[50].deferred", "tasks[99].exclusive_resources[1]"}
	if diff := cmp.Diff(want, broken(t, err)); diff != "" {
		t.Error(diff)
	}
	if n := w.rows(t); n != (rows{}) {
		t.Errorf("stored %+v", n)
	}
}

func TestBatchWithUnknownParentsAndGroupsNamesExactlyThoseAndStoresNothing(t *testing.T) {
	w := newWorld(t, &leader{})
	parent := w.dispatch(t)
	group, err := w.client.CreateTaskGroup(t.Context(), &dispatcherv1.CreateTaskGroupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	tasks := specs(100)
	for _, spec := range tasks {
		spec.ParentId, spec.GroupId = parent, group.GetGroupId()
	}
	tasks[17].ParentId = unknownID
	tasks[42].GroupId = unknownID
	tasks[99].ParentId, tasks[99].GroupId = group.GetGroupId(), parent // each is there, but as something else
	_, err = w.tryBatch(t.Context(), tasks...)
	want := []string{"tasks[17].parent_id", "tasks[42].group_id", "tasks[99].parent_id", "tasks[99].group_id"}
	if diff := cmp.Diff(want, broken(t, err)); diff != "" {
		t.Error(diff)
	}
	if n := w.rows(t); n != (rows{Task: 1, Live: 1}) {
		t.Errorf("stored %+v, one of it the parent", n)
	}

	// However many there are, the answer stays one that clients can take.
	for _, spec := range tasks {
		spec.ParentId = unknownID
	}
	_, err = w.tryBatch(t.Context(), tasks...)
	if n := len(broken(t, err)); n != 16 {
		t.Errorf("%d mistakes are named", n)
	}
}

// A task of a batch can't name another one of it as its parent: nobody knows its id. But one that was there before it can.
func TestBatchOfChildrenIsStored(t *testing.T) {
	w := newWorld(t, &leader{})
	parent := w.dispatch(t)
	tasks := specs(10)
	for _, spec := range tasks[:5] {
		spec.ParentId = parent
	}
	for i, got := range w.batch(t, tasks...) {
		if got.GetParentId() != tasks[i].GetParentId() {
			t.Errorf("task %d is a child of %q", i, got.GetParentId())
		}
	}
}

func TestBatchSettlesAllItsImmediateTasksTogether(t *testing.T) {
	const runs, blocked = "runs", "blocked"
	l := &leader{}
	w := newWorld(t, l)
	l.settle = func(_ context.Context, id string) error {
		if w.stored(t, id).Name == runs {
			pgtest.Must(t, w, 1, claim, id)
			pgtest.Must(t, w, 1, complete, id)
		}
		return nil
	}
	spec := func(name string, immediate, deferred bool) *taskv1.TaskSpec {
		return &taskv1.TaskSpec{Name: name, Immediate: immediate, Deferred: proto.Bool(deferred)}
	}
	const waiting, completed, canceled = taskv1.State_STATE_WAITING, taskv1.State_STATE_COMPLETED, taskv1.State_STATE_CANCELED
	tasks := []*taskv1.TaskSpec{
		spec(blocked, true, false), spec(runs, true, true), spec(blocked, false, true), spec(runs, true, false), spec(blocked, true, true), spec(runs, false, true),
	}
	want := []taskv1.State{canceled, completed, waiting, completed, waiting, waiting}
	got := w.batch(t, tasks...)
	var ids []string
	for i, answer := range got {
		if answer.GetState() != want[i] || answer.GetName() != tasks[i].GetName() || answer.GetImmediate() != tasks[i].GetImmediate() ||
			answer.GetDeferred() != tasks[i].GetDeferred() {
			t.Errorf("task %d: want %s, got %v", i, want[i], answer)
		}
		if answer.GetResultJson() != "" {
			t.Errorf("task %d: the answer has the result %q", i, answer.GetResultJson())
		}
		stored := wire.Task(w.stored(t, answer.GetId()))
		if stored.GetState() == completed && stored.GetResultJson() != "[1]" {
			t.Errorf("task %d: the row has the result %q", i, stored.GetResultJson())
		}
		stored.ResultJson = ""
		if diff := cmp.Diff(stored, answer, protocmp.Transform()); diff != "" {
			t.Errorf("task %d: the row and the answer differ: %s", i, diff)
		}
		if tasks[i].GetImmediate() {
			ids = append(ids, answer.GetId())
		}
	}
	if got[0].GetError().GetReason() != "Resources temporarily unavailable." {
		t.Errorf("rejected because of %v", got[0].GetError())
	}
	if diff := cmp.Diff([][]string{ids}, l.askedToSettle()); diff != "" {
		t.Errorf("asked to settle (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{got[0].GetId()}, w.wishes(t)); diff != "" {
		t.Errorf("the scheduler must free the place of the rejected one and no other: %s", diff)
	}

	// The fourth combination is none.
	_, err := w.tryBatch(t.Context(), append(tasks, spec(runs, false, false))...)
	if diff := cmp.Diff([]string{"tasks[6].deferred"}, broken(t, err)); diff != "" {
		t.Error(diff)
	}
	if n := w.rows(t).Task; n != len(tasks) {
		t.Errorf("%d tasks are stored", n)
	}
}

func TestAnswerToASingleDispatchHasItsResult(t *testing.T) {
	l := &leader{}
	w := newWorld(t, l)
	l.settle = func(_ context.Context, id string) error {
		pgtest.Must(t, w, 1, claim, id)
		pgtest.Must(t, w, 1, complete, id)
		return nil
	}
	if got := w.send(t, immediate(true)); got.GetResultJson() != "[1]" {
		t.Errorf("the result is %q", got.GetResultJson())
	}
}

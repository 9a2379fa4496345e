package dispatcher_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/wire"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// requested is a task with a request id.
func requested(name, request string) *taskv1.TaskSpec {
	spec := newSpec(name)
	spec.RequestId = request
	return spec
}

// requests are n tasks with ids of their own.
func requests(n int) []*taskv1.TaskSpec {
	list := specs(n)
	for i, spec := range list {
		spec.RequestId = fmt.Sprint("request ", i)
	}
	return list
}

// numbers is how many numbers were given out.
func (w *world) numbers(t *testing.T) int64 {
	t.Helper()
	return pgtest.One[int64](t, w, `select last_value from task_seq_seq`)
}

func ids(tasks []*taskv1.Task) []string {
	var list []string
	for _, one := range tasks {
		list = append(list, one.GetId())
	}
	return list
}

func TestDispatchWithAKnownRequestIDReturnsTheFirstTaskAsItIsNow(t *testing.T) {
	offers := make(chan *schedulerv1.OfferRequest, 100)
	w := newWorld(t, &leader{heard: func(r *schedulerv1.OfferRequest) { offers <- r }})
	first := w.send(t, requested("n", "once"))
	<-offers
	numbers := w.numbers(t)
	pgtest.Must(t, w, 1, claim, first.GetId())
	pgtest.Must(t, w, 1, complete, first.GetId())
	for range 3 {
		// Another trace, correlation or option makes no other task.
		spec := requested("n", "once")
		spec.CorrelationId, spec.ProfileOptions = "other", []string{"memory"}
		again := w.send(t, spec)
		if diff := cmp.Diff(wire.Task(w.stored(t, first.GetId())), again, protocmp.Transform()); diff != "" {
			t.Errorf("the row and the answer differ (-want +got):\n%s", diff)
		}
		if again.GetState() != taskv1.State_STATE_COMPLETED || again.GetResultJson() != "[1]" {
			t.Errorf("the answer is %v", again)
		}
	}
	if n := w.rows(t); n != (rows{Task: 1}) {
		t.Errorf("stored %+v", n)
	}
	if n := w.numbers(t); n != numbers {
		t.Errorf("%d numbers are missing now: the scheduler will ask about them", n-numbers)
	}
	// The next task is told, and nothing before it was.
	next := w.send(t, requested("n", "twice"))
	if told := (<-offers).GetTasks(); len(told) != 1 || told[0].GetTaskId() != next.GetId() {
		t.Errorf("the scheduler is told %v, want the new one alone", told)
	}
	if one, other := w.send(t, newSpec("n")), w.send(t, newSpec("n")); one.GetId() == other.GetId() {
		t.Error("two tasks without a request id are one")
	}
}

func TestBatchThatIsRepeatedReturnsAllItsFirstTasks(t *testing.T) {
	w := newWorld(t, &leader{})
	tasks := requests(100)
	first := w.batch(t, tasks...)
	if diff := cmp.Diff(first, w.batch(t, tasks...), protocmp.Transform()); diff != "" {
		t.Errorf("the second answer is another: %s", diff)
	}
	// In another order, with new ones between them, and some more than once.
	slices.Reverse(tasks)
	mixed := append(tasks[:50:50], requested("new", "new"), newSpec("no id"), requested("new", "new"), tasks[3], newSpec("no id"))
	got := w.batch(t, mixed...)
	for i, one := range got[:50] {
		if one.GetId() != first[99-i].GetId() {
			t.Errorf("task %d of the mixed batch is %s, want %s", i, one.GetId(), first[99-i].GetId())
		}
	}
	rest := ids(got[50:])
	if rest[0] != rest[2] || rest[3] != first[96].GetId() || rest[1] == rest[4] || got[52].GetName() != "new" || got[52].GetState() != taskv1.State_STATE_WAITING {
		t.Errorf("the rest of the mixed batch is %v", got[50:])
	}
	if n := w.rows(t); n != (rows{Task: 103, Live: 103}) {
		t.Errorf("stored %+v", n)
	}
	if n := pgtest.One[int](t, w, `select count(distinct xact) from task_live`); n != 2 {
		t.Errorf("%d transactions, want one for what was new", n)
	}
}

func TestRequestIDOfAnotherTaskIsRefusedAndNothingIsStored(t *testing.T) {
	w := newWorld(t, &leader{})
	spec := func() *taskv1.TaskSpec {
		return &taskv1.TaskSpec{
			Name: "n", ArgsJson: `[1]`, KwargsJson: `{"a": 1}`, ExclusiveResources: []string{"a", "b"}, SharedResources: []string{"c", "d"}, RequestId: "id",
		}
	}
	first := w.send(t, spec())
	same := spec()
	same.ExclusiveResources, same.SharedResources = []string{"b", "a"}, []string{"d", "c"} // which is first says nothing
	if got := w.send(t, same); got.GetId() != first.GetId() {
		t.Error("the order of resources makes another task")
	}
	for field, change := range map[string]func(*taskv1.TaskSpec){
		"name":                func(s *taskv1.TaskSpec) { s.Name = "m" },
		"args_json":           func(s *taskv1.TaskSpec) { s.ArgsJson = `[2]` },
		"kwargs_json":         func(s *taskv1.TaskSpec) { s.KwargsJson = `{"a": 2}` },
		"exclusive_resources": func(s *taskv1.TaskSpec) { s.ExclusiveResources = []string{"a"} },
		"shared_resources":    func(s *taskv1.TaskSpec) { s.SharedResources = append(s.GetSharedResources(), "e") },
	} {
		other := spec()
		change(other)
		_, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: other})
		refused(t, err, fmt.Sprintf("task.request_id belongs to another task: task.%s is not the same", field))
		// In a batch beside a new one.
		_, err = w.tryBatch(t.Context(), requested("new", field), newSpec("new"), other)
		refused(t, err, fmt.Sprintf("tasks[2].request_id belongs to another task: tasks[2].%s is not the same", field))
		// Where both are new.
		one := spec()
		one.RequestId, other.RequestId = "fresh", "fresh"
		_, err = w.tryBatch(t.Context(), one, newSpec("new"), other)
		refused(t, err, fmt.Sprintf("tasks[2].request_id belongs to another task: tasks[2].%s is not the same", field))
	}
	if n := w.rows(t); n != (rows{Task: 1, Live: 1}) {
		t.Errorf("stored %+v", n)
	}
}

func refused(t *testing.T, err error, message string) {
	t.Helper()
	if !errs.Is(err, errs.RequestIDReused) || status.Code(err) != codes.AlreadyExists || status.Convert(err).Message() != message {
		t.Errorf("got %v, want %s", err, message)
	}
}

// Who shares a transaction with a mistake, a repeat or its own first call gets what is his.
func TestCallsThatShareATransactionShareNoRequestIDs(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	known := w.send(t, requested("known", "known"))
	g, first := w.shutBehind(t, url)
	// The mistake comes first: who repeats what is stored must not be taken for its repeat.
	calls := map[string]*call{"reused": w.call(t.Context(), requested("other", "known"))}
	g.queued(t, 1)
	maps.Copy(calls, map[string]*call{
		"new":          w.call(t.Context(), requested("a", "a")),
		"no id":        w.call(t.Context(), newSpec("b")),
		"known":        w.call(t.Context(), requested("known", "known")),
		"reused batch": w.call(t.Context(), newSpec("c"), requested("other", "known")),
		"mixed":        w.call(t.Context(), requested("d", "d"), requested("known", "known")),
	})
	g.queued(t, len(calls))
	// Now those that meet "new" in the queue.
	calls["again"] = w.call(t.Context(), requested("a", "a"))
	calls["again, as another"] = w.call(t.Context(), requested("other", "a"))
	g.queued(t, len(calls))
	g.open(t)
	first.stored(t)
	if a, b := calls["new"].stored(t), calls["again"].stored(t); a[0].GetId() != b[0].GetId() {
		t.Error("a task and its repeat in the same transaction are two")
	}
	calls["no id"].stored(t)
	if got := calls["known"].stored(t); got[0].GetId() != known.GetId() {
		t.Errorf("the known one is %v", got)
	}
	if got := calls["mixed"].stored(t); got[1].GetId() != known.GetId() || got[0].GetName() != "d" {
		t.Errorf("the mixed batch is %v", got)
	}
	for _, name := range []string{"reused", "reused batch", "again, as another"} {
		<-calls[name].done
		if !errs.Is(calls[name].err, errs.RequestIDReused) {
			t.Errorf("%s got %v", name, calls[name].err)
		}
	}
	names := w.names(t)
	slices.Sort(names)
	if diff := cmp.Diff([]string{"a", "b", "d", "first", "known"}, names); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// Nobody knows whether a call whose answer was lost was stored. Repeated under its request ids, it is, once.
func TestDispatchThatIsRepeatedAfterItsConnectionWasCutIsStoredOnce(t *testing.T) {
	for _, fault := range []faults.Fault{faults.CutBefore, faults.CutBeforeCommit, faults.LoseAnswer, faults.CommitLate} {
		for _, n := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d tasks", fault, n), func(t *testing.T) {
				t.Parallel()
				w, p := brokenWorld(t)
				armed := p.Arm(faults.Rule{Fault: fault, Match: faults.Committing("dispatcher_insert_3(")})
				c := w.call(t.Context(), requests(n)...)
				<-c.done
				if !errs.Is(c.err, errs.DatabaseAway) {
					t.Fatalf("the dispatch returned %v", c.err)
				}
				// A commit that is still under way is waited for: the repeat meets it in the index.
				c = w.call(t.Context(), requests(n)...)
				if fault == faults.CommitLate {
					probe.Eventually(t, "the repeat waits for the first commit", func() bool {
						return pgtest.One[int](t, w, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1
					})
					c.notYet(t)
					armed.Release()
				}
				again := c.stored(t)
				if diff := cmp.Diff(rows{Task: n, Live: n}, w.rows(t)); diff != "" || armed.Fired() != 1 {
					t.Errorf("rows after %d cuts (-want +got):\n%s", armed.Fired(), diff)
				}
				if want := pgtest.One[[]string](t, w, `select array_agg(id::text order by seq) from task`); !slices.Equal(want, ids(again)) {
					t.Errorf("stored are %v, the answer is %v", want, ids(again))
				}
			})
		}
	}
}

// Two dispatchers are given the same tasks at the same moment, in opposite orders, so that each waits for the other: PostgreSQL
// undoes one of them. Nobody is to notice.
func TestDispatchersThatWaitForEachOtherStoreEachTaskOnce(t *testing.T) {
	url := pgtest.URL(t)
	one, other := worldOn(t, &leader{}, url, dispatcher.Defaults()), worldOn(t, &leader{}, url, dispatcher.Defaults())
	// A stranger holds what is in the middle of both, until both stand before it with what is at their ends.
	tasks := requests(3)
	stranger := pgtest.Begin(t, pgtest.Open(t, url))
	if _, err := stranger.Exec(t.Context(), `insert into task (id, domain_id, name, request_id) values (gen_random_uuid(), '`+task.DefaultDomainID+`', 'stranger', $1)`,
		tasks[1].GetRequestId()); err != nil {
		t.Fatal(err)
	}
	a := one.call(t.Context(), tasks[0], tasks[1], tasks[2], newSpec("of a"))
	b := other.call(t.Context(), tasks[2], tasks[1], tasks[0], newSpec("of b"))
	probe.Eventually(t, "both wait", func() bool {
		return pgtest.One[int](t, one, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 2
	})
	stranger.Rollback(t)
	gotA, gotB := ids(a.stored(t)), ids(b.stored(t))
	slices.Reverse(gotB[:3])
	if !slices.Equal(gotA[:3], gotB[:3]) || gotA[3] == gotB[3] {
		t.Errorf("one got %v, the other %v", gotA, gotB)
	}
	if n := one.rows(t); n != (rows{Task: 5, Live: 5}) {
		t.Errorf("stored %+v", n)
	}
	if n := pgtest.One[int](t, one, `select deadlocks from pg_stat_database where datname = current_database()`); n == 0 {
		t.Error("no deadlock: this proves nothing")
	}
}

func TestManyDispatchersWithTheSameRequestsStoreEachOnce(t *testing.T) {
	const each = 40
	url := pgtest.URL(t)
	worlds := []*world{worldOn(t, &leader{}, url, dispatcher.Defaults()), worldOn(t, &leader{}, url, dispatcher.Defaults())}
	var calls []*call
	for i := range each {
		for _, w := range worlds {
			calls = append(calls, w.call(t.Context(), requested("single", fmt.Sprint("single ", i))))
			batch := requests(5)
			for _, spec := range batch {
				spec.RequestId = fmt.Sprintf("%s of %d", spec.GetRequestId(), i/2) // so that two calls at each have the same
			}
			if i%2 == 0 {
				slices.Reverse(batch)
			}
			calls = append(calls, w.call(t.Context(), batch...))
		}
	}
	for _, c := range calls {
		c.stored(t)
	}
	if n := worlds[0].rows(t); n != (rows{Task: each + each/2*5, Live: each + each/2*5}) {
		t.Errorf("stored %+v", n)
	}
}

// results is a database that notes how many tasks were read at once, at most.
type results struct {
	*dispatcher.Store

	most int
}

func (d *results) GetAll(ctx context.Context, ids []string) (map[string]*task.Task, error) {
	d.most = max(d.most, len(ids))
	return d.Store.GetAll(ctx, ids)
}

// A thousand results of 1 MiB must not come into memory together because somebody repeats his batch.
func TestRepeatOfABatchDoesNotReadAllItsResultsAtOnce(t *testing.T) {
	const n = 100
	pool := pgtest.New(t)
	db := &results{Store: dispatcher.NewStore(pool)}
	service := dispatcher.NewService(dispatcher.Defaults(), db, noLeader{}, quiet())
	batch := func(n int) []*dispatcher.New {
		tasks := make([]*dispatcher.New, n)
		for i := range tasks {
			tasks[i] = &dispatcher.New{Task: task.Task{Name: "n", Deferred: true}, Args: "[]", Kwargs: "{}", RequestID: fmt.Sprint(i)}
		}
		return tasks
	}
	first, err := service.Dispatch(t.Context(), batch(n))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range first {
		pgtest.Must(t, pool, 1, claim, one.ID)
		pgtest.Must(t, pool, 1, complete, one.ID)
	}
	again, err := service.Dispatch(t.Context(), batch(n))
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range again {
		if one.ID != first[i].ID || one.State != task.Completed || one.Result != "" {
			t.Errorf("task %d is %s, %s, with a result of %d bytes", i, one.ID, one.State, len(one.Result))
		}
	}
	if db.most == 0 || db.most > n/2 {
		t.Errorf("%d tasks were read at once", db.most)
	}
	alone, err := service.Dispatch(t.Context(), batch(1))
	if err != nil || alone[0].Result != "[1]" {
		t.Errorf("of one alone the result is %q, %v", alone[0].Result, err)
	}
}

func TestTaskThatIsDeletedTakesItsRequestIDAlong(t *testing.T) {
	w := newWorld(t, &leader{})
	first := w.send(t, requested("n", "id"))
	w.cancel(t, first.GetId())
	if got := w.send(t, requested("n", "id")); got.GetId() != first.GetId() || got.GetState() != taskv1.State_STATE_CANCELED {
		t.Errorf("the canceled one comes back as %v", got)
	}
	if _, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: first.GetId()}); err != nil {
		t.Fatal(err)
	}
	if got := w.send(t, requested("another", "id")); got.GetId() == first.GetId() || got.GetState() != taskv1.State_STATE_WAITING {
		t.Errorf("after the deletion it is %v", got)
	}
}

// The second call waits as the first did: for the same task, and for its end.
func TestImmediateTaskThatIsDispatchedAgainIsWaitedForAgain(t *testing.T) {
	settling, ended := make(chan string, 2), make(chan struct{})
	w := newWorld(t, &leader{settle: func(ctx context.Context, id string) error {
		settling <- id
		select {
		case <-ended:
		case <-ctx.Done():
		}
		return nil
	}})
	spec := immediate(false)
	spec.RequestId = "id"
	first := w.call(t.Context(), spec)
	id := <-settling
	again := w.call(t.Context(), proto.CloneOf(spec))
	if got := <-settling; got != id {
		t.Errorf("task %s is waited for, want %s", got, id)
	}
	first.notYet(t)
	again.notYet(t)
	pgtest.Must(t, w, 1, claim, id)
	pgtest.Must(t, w, 1, complete, id)
	close(ended)
	for _, c := range []*call{first, again} {
		if got := c.stored(t)[0]; got.GetId() != id || got.GetState() != taskv1.State_STATE_COMPLETED || got.GetResultJson() != "[1]" {
			t.Errorf("the answer is %v", got)
		}
	}
	// And when it has ended, nobody waits.
	if got := w.send(t, spec); got.GetResultJson() != "[1]" {
		t.Errorf("the answer is %v", got)
	}
	select {
	case id := <-settling:
		t.Errorf("%s is waited for, though it has ended", id)
	default:
	}
}

// What a first task had may be gone when its dispatch is repeated.
func TestRepeatOfATaskNeedsNeitherItsFilesNorItsParent(t *testing.T) {
	w := newWorld(t, &leader{})
	file, err := w.tryPut(t.Context(), "f", []byte("x"), 1)
	if err != nil {
		t.Fatal(err)
	}
	parent := w.dispatch(t)
	spec := requested("n", "id")
	spec.FileIds, spec.ParentId = []string{file.GetId()}, parent
	first := w.send(t, spec)
	for _, id := range []string{first.GetId(), parent} {
		w.cancel(t, id)
	}
	if _, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: file.GetId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: parent}); err != nil {
		t.Fatal(err)
	}
	if got := w.send(t, spec); got.GetId() != first.GetId() {
		t.Errorf("the repeat is %v", got)
	}
	// Beside a new one, which needs its own.
	other, err := w.tryPut(t.Context(), "g", []byte("x"), 1)
	if err != nil {
		t.Fatal(err)
	}
	fresh := requested("m", "other")
	fresh.FileIds = []string{other.GetId()}
	got := w.batch(t, spec, fresh)
	if got[0].GetId() != first.GetId() || !slices.Equal(got[1].GetFileIds(), fresh.GetFileIds()) {
		t.Errorf("the batch is %v", got)
	}
	if linked := pgtest.One[[]string](t, w, `select array_agg(task_id::text) from task_file where file_id = $1::text::uuid`, other.GetId()); !slices.Equal(linked, []string{got[1].GetId()}) {
		t.Errorf("the file is linked to %v", linked)
	}
	fresh.RequestId, fresh.FileIds = "third", []string{file.GetId()}
	if _, err := w.tryBatch(t.Context(), spec, fresh); !slices.Equal(broken(t, err), []string{"tasks[1].file_ids[0]"}) {
		t.Errorf("a new one with a file that is gone: %v", err)
	}
}

// Statements inside functions don't show in plans.
func TestFunctionsForRequestsAndPurgesSearchNoTable(t *testing.T) {
	db := pgtest.New(t)
	fill(t, db)
	tables := `array['task', 'task_live', 'task_not_completed', 'task_log', 'task_report', 'task_attempt', 'task_file', 'temporary_file']`
	insert := `select count(*) from dispatcher_insert_3(array[gen_random_uuid()::text, gen_random_uuid()::text], array['` + task.DefaultDomainID + `', '` + task.DefaultDomainID + `'],
		array['n', 'n'], array['[]', '[]'], array['{}', '{}'], array['{}', '{}'], array['{}', '{}'], array[false, false], array[true, true], array['{}', '{}'],
		array['', ''], array['', ''], array['', ''], array['', ''], array['', ''], array['', ''], array['a', 'b'])`
	for name, call := range map[string]string{
		"insert": insert,
		"repeat": insert,
		"purge":  `select sum(count) from dispatcher_purge(now() + interval '1 h', array['completed', 'failed'], 0, 1000) where part = 1`,
	} {
		tx := pgtest.Begin(t, db)
		searches := func() int {
			return pgtest.One[int](t, tx, `select sum(pg_stat_get_xact_numscans(name::regclass)) from unnest(`+tables+`) name`)
		}
		if name == "repeat" {
			pgtest.One[int](t, tx, insert)
		}
		before := searches()
		if n := pgtest.One[int](t, tx, call); n == 0 {
			t.Errorf("%s: nothing happened", name)
		}
		if n := searches() - before; n != 0 {
			t.Errorf("%s searches a table %d times", name, n)
		}
		tx.Rollback(t)
	}
}

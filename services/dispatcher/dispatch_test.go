package dispatcher_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/wire"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

func newSpec(name string) *taskv1.TaskSpec { return &taskv1.TaskSpec{Name: name} }

func (w *world) send(t *testing.T, spec *taskv1.TaskSpec) *taskv1.Task {
	t.Helper()
	answer, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: spec})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetTask()
}

func (w *world) stored(t *testing.T, id string) *task.Task {
	t.Helper()
	stored, err := postgres.ScanTask(w.QueryRow(t.Context(), `select `+postgres.TaskColumns+` from task where id = $1::text::uuid`, id))
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// rows counts what is in the tables that a dispatcher writes.
type rows struct{ Task, Live, Cancel int }

func (w *world) rows(t *testing.T) (n rows) {
	t.Helper()
	err := w.QueryRow(t.Context(), `select (select count(*) from task), (select count(*) from task_live), (select count(*) from task_cancel)`).
		Scan(&n.Task, &n.Live, &n.Cancel)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var domain = task.DomainResource(task.DefaultDomainID)

func TestDispatchStoresExactlyOneTaskWithEverythingInIt(t *testing.T) {
	w := newWorld(t, &leader{})
	group, err := w.client.CreateTaskGroup(t.Context(), &dispatcherv1.CreateTaskGroupRequest{Description: "a group"})
	if err != nil {
		t.Fatal(err)
	}
	parent := w.dispatch(t)
	const trace, state = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=opaque,other=1"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", trace, "tracestate", state)
	answer, err := w.client.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{
		Name: "command.run", ArgsJson: "[1]", KwargsJson: `{"argv":["true"]}`,
		ExclusiveResources: []string{"b", "a", "b"}, SharedResources: []string{"c", "a", "c"},
		Versions: map[string]string{"core": "3.2", "rpm": "1"}, ParentId: parent, GroupId: group.GetGroupId(), CorrelationId: "mine",
		CreatedBy: 7,
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := answer.GetTask()
	want := &taskv1.Task{
		Id: got.GetId(), Seq: got.GetSeq(), Name: "command.run", State: taskv1.State_STATE_WAITING, Domain: "default",
		ExclusiveResources: []string{"b", "a"}, SharedResources: []string{"c", domain}, Deferred: true,
		Versions: map[string]string{"core": "3.2", "rpm": "1"}, ParentId: parent, GroupId: group.GetGroupId(), CorrelationId: "mine", CreatedBy: 7,
		CreatedAt: got.GetCreatedAt(), UpdatedAt: got.GetCreatedAt(),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("the answer: %s", diff)
	}
	if diff := cmp.Diff(want, wire.Task(w.stored(t, got.GetId())), protocmp.Transform()); diff != "" {
		t.Errorf("the row: %s", diff)
	}
	if id, err := uuid.Parse(got.GetId()); err != nil || id.Version() != 7 {
		t.Errorf("the id %s is no UUID of version 7", got.GetId())
	}
	if age := time.Since(got.GetCreatedAt().AsTime()); age < -time.Minute || age > time.Minute {
		t.Errorf("created %s ago", age)
	}
	// What the answer does not show.
	var hidden [5]string
	if err := w.QueryRow(t.Context(), `select args::text, kwargs::text, traceparent, tracestate, domain_id::text from task where id = $1::text::uuid`,
		got.GetId()).Scan(&hidden[0], &hidden[1], &hidden[2], &hidden[3], &hidden[4]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([5]string{"[1]", `{"argv":["true"]}`, trace, state, task.DefaultDomainID}, hidden); diff != "" {
		t.Error(diff)
	}
	if n := w.rows(t); n != (rows{Task: 2, Live: 2}) {
		t.Errorf("stored %+v, the parent's among them", n)
	}
	if seq := pgtest.One[int64](t, w, `select seq from task_live where task_id = $1::text::uuid`, got.GetId()); seq != got.GetSeq() {
		t.Errorf("among the living it has seq %d, in its row %d", seq, got.GetSeq())
	}
	if got.GetSeq() <= w.stored(t, parent).Seq {
		t.Error("its place is before that of a task dispatched earlier")
	}
}

func TestDispatchFillsInWhatWasNotSaid(t *testing.T) {
	w := newWorld(t, &leader{})
	got := w.send(t, newSpec("n"))
	want := &taskv1.Task{
		Id: got.GetId(), Seq: got.GetSeq(), Name: "n", State: taskv1.State_STATE_WAITING, Domain: "default", SharedResources: []string{domain},
		Deferred: true, CorrelationId: got.GetCorrelationId(), CreatedAt: got.GetCreatedAt(), UpdatedAt: got.GetUpdatedAt(),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if _, err := uuid.Parse(got.GetCorrelationId()); err != nil {
		t.Errorf("correlation id %q", got.GetCorrelationId())
	}
	if other := w.send(t, newSpec("n")); other.GetCorrelationId() == got.GetCorrelationId() {
		t.Error("two tasks got the same correlation id")
	}
	if args := pgtest.One[string](t, w, `select args::text || kwargs::text || versions::text || traceparent || tracestate from task where seq = $1`, got.GetSeq()); args != "[]{}{}" {
		t.Errorf("stored %s", args)
	}
}

func TestDomainTakenExclusivelyIsNotSharedToo(t *testing.T) {
	w := newWorld(t, &leader{})
	spec := newSpec("n")
	spec.ExclusiveResources = []string{domain}
	got := w.stored(t, w.send(t, spec).GetId()).Reserved
	if diff := cmp.Diff(task.Reservation{Exclusive: []string{domain}, Shared: []string{}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestJSONIsStoredAsItWasWritten(t *testing.T) {
	w := newWorld(t, &leader{})
	spec := newSpec("n")
	spec.ArgsJson = ` [12345678901234567890.10, 1e400,-0, 1.0 ,"\u0000\ud800 ü\/"]`
	spec.KwargsJson = "{\"z\":1,\n \"a\" : {\"y\":2,\"b\":3, \"y\":4}}\t"
	var args, kwargs string
	if err := w.QueryRow(t.Context(), `select args::text, kwargs::text from task where id = $1::text::uuid`, w.send(t, spec).GetId()).Scan(&args, &kwargs); err != nil {
		t.Fatal(err)
	}
	if args != spec.GetArgsJson() || kwargs != spec.GetKwargsJson() {
		t.Errorf("stored %q and %q", args, kwargs)
	}
}

// What limits let pass, the database must take: the largest and the deepest.
func TestWhatTheLimitsLetPassCanBeStored(t *testing.T) {
	w := newWorld(t, &leader{})
	resources := make([]string, 1000)
	for i := range resources {
		resources[i] = strings.Repeat("ü", 510) + string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10))
	}
	w.send(t, &taskv1.TaskSpec{
		Name: "näme " + strings.Repeat("x", 249), ArgsJson: strings.Repeat("[", 100) + strings.Repeat("]", 100),
		KwargsJson: `{"a":"` + strings.Repeat("x", 1<<20-8) + `"}`, ExclusiveResources: resources, Versions: map[string]string{"a\u2028b": "🚰\ufffe"},
	})
	if n := w.rows(t); n != (rows{Task: 1, Live: 1}) {
		t.Errorf("stored %+v", n)
	}
}

func TestTraceContextIsStoredOnlyIfItIsOne(t *testing.T) {
	w := newWorld(t, &leader{})
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	for _, c := range []struct {
		name          string
		headers       []string
		parent, state string
	}{
		{"none", nil, "", ""},
		{"parent alone", []string{"traceparent", good}, good, ""},
		{"state without a parent", []string{"tracestate", "a=1"}, "", ""},
		{"words", []string{"traceparent", "hello", "tracestate", "a=1"}, "", ""},
		{"as long as a real one", []string{"traceparent", strings.Repeat("x", 55)}, "", ""},
		{"capitals", []string{"traceparent", strings.ToUpper(good)}, "", ""},
		{"no trace id", []string{"traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-00"}, "", ""},
		{"no span id", []string{"traceparent", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00"}, "", ""},
		{"version that is none", []string{"traceparent", "ff" + good[2:]}, "", ""},
		{"something behind", []string{"traceparent", good + "-x"}, "", ""},
		{"two parents", []string{"traceparent", good, "traceparent", good}, "", ""},
		{"state too long", []string{"traceparent", good, "tracestate", "a=" + strings.Repeat("x", 511)}, good, ""},
		{"longest state", []string{"traceparent", good, "tracestate", "a=" + strings.Repeat("x", 510)}, good, "a=" + strings.Repeat("x", 510)},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, err := w.client.Dispatch(metadata.AppendToOutgoingContext(t.Context(), c.headers...), &dispatcherv1.DispatchRequest{Task: newSpec("n")})
			if err != nil {
				t.Fatal(err)
			}
			var parent, state string
			if err := w.QueryRow(t.Context(), `select traceparent, tracestate from task where seq = $1`, answer.GetTask().GetSeq()).Scan(&parent, &state); err != nil {
				t.Fatal(err)
			}
			if parent != c.parent || state != c.state {
				t.Errorf("stored %q and %q, want %q and %q", parent, state, c.parent, c.state)
			}
		})
	}
}

// Clients in other languages can send bytes that Go's refuses to: the database must not be asked to store them.
func TestBytesThatAreNoTextInTraceHeadersDoNotFailADispatch(t *testing.T) {
	pool := pgtest.New(t)
	service := dispatcher.NewService(dispatcher.Defaults(), dispatcher.NewStore(pool), noLeader{}, quiet())
	face := faceOf(service)
	for _, header := range [][]string{
		{"traceparent", "\xff\xfe"}, {"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate", "a=\xff"},
	} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(header...))
		if _, err := face.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: newSpec("n")}); err != nil {
			t.Errorf("%q: %v", header, err)
		}
	}
}

func TestUnknownParentOrGroupIsAViolationAndNothingIsStored(t *testing.T) {
	w := newWorld(t, &leader{})
	for field, spec := range map[string]*taskv1.TaskSpec{
		"task.parent_id": {Name: "n", ParentId: unknownID},
		"task.group_id":  {Name: "n", GroupId: unknownID},
	} {
		_, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: spec})
		var e *errs.Error
		if !errors.As(err, &e) || e.Reason != errs.InvalidInput || len(e.Violations) != 1 || e.Violations[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if n := w.rows(t); n != (rows{}) {
		t.Errorf("stored %+v", n)
	}
	if w.leader.hinted() != 0 {
		t.Error("the leader got a hint")
	}
}

func TestInvalidDispatchStoresNothing(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, spec := range []*taskv1.TaskSpec{
		nil, {}, {Name: "n", ArgsJson: "{}"}, {Name: "n", Deferred: proto.Bool(false)}, {Name: "n", ExclusiveResources: []string{"a\x00"}},
	} {
		if _, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: spec}); !errs.Is(err, errs.InvalidInput) {
			t.Errorf("%v: %v", spec, err)
		}
	}
	if n := w.rows(t); n != (rows{}) {
		t.Errorf("stored %+v", n)
	}
}

func TestConcurrentDispatchesAreAllStoredOnce(t *testing.T) {
	const clients, each = 8, 25
	w := newWorld(t, &leader{})
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			var last int64
			for range each {
				answer, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: newSpec("n")})
				if err != nil {
					t.Error(err)
					return
				}
				// Each client's own tasks keep the order of its calls.
				if seq := answer.GetTask().GetSeq(); seq <= last {
					t.Errorf("seq %d after %d", seq, last)
				} else {
					last = seq
				}
			}
		})
	}
	all.Wait()
	if n := w.rows(t); n != (rows{Task: clients * each, Live: clients * each}) {
		t.Errorf("stored %+v", n)
	}
	if n := pgtest.One[int](t, w, `select count(*) from task t join task_live l using (seq) where l.task_id = t.id`); n != clients*each {
		t.Errorf("%d tasks stand among the living under their own number", n)
	}
}

func TestEveryDispatchIsFollowedByAHint(t *testing.T) {
	w := newWorld(t, &leader{})
	for range 3 {
		before := w.leader.hinted()
		w.dispatch(t)
		probe.Eventually(t, "the leader is hinted", func() bool { return w.leader.hinted() > before })
	}
}

func TestGroupIsStoredAndCanBeJoined(t *testing.T) {
	w := newWorld(t, &leader{})
	answer, err := w.client.CreateTaskGroup(t.Context(), &dispatcherv1.CreateTaskGroupRequest{Description: "what for"})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := uuid.Parse(answer.GetGroupId()); err != nil || id.Version() != 7 {
		t.Errorf("group id %q", answer.GetGroupId())
	}
	if got := pgtest.One[string](t, w, `select description || ' ' || domain_id from task_group where id = $1::text::uuid`, answer.GetGroupId()); got != "what for "+task.DefaultDomainID {
		t.Errorf("stored %q", got)
	}
	spec := newSpec("n")
	spec.GroupId = answer.GetGroupId()
	if got := w.send(t, spec); got.GetGroupId() != answer.GetGroupId() {
		t.Errorf("the task joined %q", got.GetGroupId())
	}
}

func TestDispatchWorksWithoutALeader(t *testing.T) {
	w := newWorld(t, &leader{})
	w.stopLeader()
	w.dispatch(t)
	if n := w.rows(t); n != (rows{Task: 1, Live: 1}) {
		t.Errorf("stored %+v", n)
	}
}

// noLeader is a scheduler that is never there.
type noLeader struct{}

func (noLeader) Offer(...*dispatcher.New) {}

// Live knows nothing.
func (noLeader) Live() (int64, bool)                             { return 0, false }
func (noLeader) Settle(context.Context, []*dispatcher.New) error { return errors.New("no leader") }

// faceOf is the gRPC face without gRPC.
func faceOf(s *dispatcher.Service) dispatcherv1.DispatcherServiceServer {
	var r registrar
	s.Register(&r)
	return r.face
}

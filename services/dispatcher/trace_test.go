package dispatcher_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// tracedWorld is a world whose dispatcher makes spans, which are recorded.
type tracedWorld struct {
	*world

	recorder *tracetest.SpanRecorder
}

func newTracedWorld(t *testing.T, l *leader, sampler sdk.Sampler) *tracedWorld {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder), sdk.WithSampler(sampler))
	pool := pgtest.Open(t, pgtest.URL(t))
	toLeader, stopLeader := rpctest.Serve(t, func(s grpc.ServiceRegistrar) { schedulerv1.RegisterSchedulerServiceServer(s, l) })
	hinter := dispatcher.NewHinter(schedulerv1.NewSchedulerServiceClient(toLeader), quiet())
	service := dispatcher.NewService(dispatcher.Config{SettleFor: 20 * time.Second}, dispatcher.NewStore(pool), hinter, quiet())
	service.Trace(provider.Tracer("test"))
	runFor(t, service.Run)
	conn, _ := rpctest.Serve(t, service.Register)
	return &tracedWorld{recorder: recorder, world: &world{
		Querier: pool, client: dispatcherv1.NewDispatcherServiceClient(conn), service: service, leader: l, stopLeader: stopLeader,
	}}
}

func always() sdk.Sampler { return sdk.ParentBased(sdk.AlwaysSample()) }

// context is what the row of a task says.
func (w *tracedWorld) context(t *testing.T, id string) trace.SpanContext {
	t.Helper()
	return tasktrace.Parse(
		pgtest.One[string](t, w, `select traceparent from task where id = $1::text::uuid`, id),
		pgtest.One[string](t, w, `select tracestate from task where id = $1::text::uuid`, id))
}

// spans are those of a task that have ended, in the order in which they began.
func (w *tracedWorld) spans(id string) []sdk.ReadOnlySpan {
	spans := slices.DeleteFunc(w.recorder.Ended(), func(s sdk.ReadOnlySpan) bool { return about(s, tasktrace.TaskID).AsString() != id })
	slices.SortStableFunc(spans, func(a, b sdk.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	return spans
}

func names(spans []sdk.ReadOnlySpan) (all []string) {
	for _, s := range spans {
		all = append(all, s.Name())
	}
	return all
}

func named(spans []sdk.ReadOnlySpan, name string) sdk.ReadOnlySpan {
	if i := slices.IndexFunc(spans, func(s sdk.ReadOnlySpan) bool { return s.Name() == name }); i >= 0 {
		return spans[i]
	}
	return nil
}

func about(s sdk.ReadOnlySpan, key attribute.Key) attribute.Value {
	for _, a := range s.Attributes() {
		if a.Key == key {
			return a.Value
		}
	}
	return attribute.Value{}
}

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
)

// from is a context of a caller with a trace.
func from(ctx context.Context, flags string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+callersTrace+"-"+callersSpan+"-"+flags, "tracestate", "vendor=x")
}

func TestADispatchContinuesItsCallersTraceAndTheRowGoesOnBelowIt(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	tasks := []*taskv1.TaskSpec{
		{Name: "a", ExclusiveResources: []string{"r"}, SharedResources: []string{"s"}, CorrelationId: "mine"}, {Name: "b"},
	}
	answer, err := w.client.DispatchBatch(from(t.Context(), "01"), &dispatcherv1.DispatchBatchRequest{Tasks: tasks})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[trace.SpanID]bool{}
	for _, stored := range answer.GetTasks() {
		spans := w.spans(stored.GetId())
		if len(spans) != 1 || spans[0].Name() != "dispatch" || spans[0].SpanKind() != trace.SpanKindProducer {
			t.Fatalf("the spans of %s are %v", stored.GetName(), names(spans))
		}
		dispatch := spans[0]
		if dispatch.Parent().SpanID().String() != callersSpan || dispatch.SpanContext().TraceID().String() != callersTrace {
			t.Errorf("the dispatch of %s is below %v", stored.GetName(), dispatch.Parent())
		}
		row := w.context(t, stored.GetId())
		if !row.WithRemote(false).Equal(dispatch.SpanContext()) || row.TraceState().Get("vendor") != "x" {
			t.Errorf("the row of %s says %v, the span is %v", stored.GetName(), row, dispatch.SpanContext())
		}
		seen[dispatch.SpanContext().SpanID()] = true
		if dispatch.EndTime().Before(dispatch.StartTime()) {
			t.Errorf("it went from %v to %v", dispatch.StartTime(), dispatch.EndTime())
		}
	}
	if len(seen) != 2 {
		t.Errorf("two tasks share a span")
	}
	first := w.spans(answer.GetTasks()[0].GetId())[0]
	for key, want := range map[attribute.Key]string{
		tasktrace.TaskName: "a", tasktrace.Domain: "default", tasktrace.CorrelationID: "mine",
		tasktrace.Exclusive: `["r"]`, tasktrace.Shared: `["s","` + domain + `"]`,
	} {
		if got := about(first, key).String(); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

func TestADispatchWithoutACallersTraceBeginsOne(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	id := w.dispatch(t)
	dispatch := w.spans(id)[0]
	if dispatch.Parent().IsValid() || !w.context(t, id).WithRemote(false).Equal(dispatch.SpanContext()) {
		t.Errorf("it is below %v, and the row says %v", dispatch.Parent(), w.context(t, id))
	}
}

func TestWhatIsNotSampledHasNoSpansAndKeepsItsCallersContext(t *testing.T) {
	for name, c := range map[string]struct {
		sampler sdk.Sampler
		ctx     context.Context
		want    string
	}{
		"the caller does not want it": {always(), from(t.Context(), "00"), "00-" + callersTrace + "-" + callersSpan + "-00"},
		"nobody wants it":             {sdk.NeverSample(), t.Context(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTracedWorld(t, &leader{}, c.sampler)
			answer, err := w.client.Dispatch(c.ctx, &dispatcherv1.DispatchRequest{Task: newSpec("a")})
			if err != nil {
				t.Fatal(err)
			}
			id := answer.GetTask().GetId()
			if got := pgtest.One[string](t, w, `select traceparent from task where id = $1::text::uuid`, id); got != c.want {
				t.Errorf("the row says %q, want %q", got, c.want)
			}
			w.cancel(t, id)
			if spans := w.recorder.Ended(); len(spans) != 0 {
				t.Errorf("there are %v", names(spans))
			}
		})
	}
}

func TestARefusedDispatchIsASpanThatFailed(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	if _, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{Name: "a", ParentId: unknownID}}); err == nil {
		t.Fatal("it was taken")
	}
	spans := w.recorder.Ended()
	if len(spans) != 1 || spans[0].Name() != "dispatch" || spans[0].Status().Code != codes.Error {
		t.Errorf("there are %v", names(spans))
	}
}

func TestARepeatedDispatchNamesTheFirstTaskAndChangesNothingAboutIt(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	spec := &taskv1.TaskSpec{Name: "a", RequestId: "once"}
	first, second := w.send(t, spec), w.send(t, spec)
	spans := w.spans(first.GetId())
	if first.GetId() != second.GetId() || len(spans) != 2 {
		t.Fatalf("there are %v", names(w.recorder.Ended()))
	}
	if about(spans[0], "sluice.repeated").AsBool() || !about(spans[1], "sluice.repeated").AsBool() {
		t.Error("the second one is not marked as repeated, or the first one is")
	}
	if !w.context(t, first.GetId()).WithRemote(false).Equal(spans[0].SpanContext()) {
		t.Error("the trace goes on below the second dispatch")
	}
}

// checkEnd checks the spans of a task that was canceled without having run.
func (w *tracedWorld) checkEnd(t *testing.T, id string, want ...string) {
	t.Helper()
	spans, parent := w.spans(id), w.context(t, id)
	if got := names(spans); !slices.Equal(got, want) {
		t.Fatalf("the spans are %v, want %v", got, want)
	}
	for _, s := range spans {
		if s.Name() != "dispatch" && !s.Parent().Equal(parent) {
			t.Errorf("%s is below %v, want %v", s.Name(), s.Parent(), parent)
		}
		if s.EndTime().Before(s.StartTime()) {
			t.Errorf("%s went from %v to %v", s.Name(), s.StartTime(), s.EndTime())
		}
	}
	if got := about(spans[len(spans)-1], tasktrace.Outcome).AsString(); got != "canceled" {
		t.Errorf("the outcome is %q", got)
	}
}

func TestACancelOfAWaitingTaskEndsItsTrace(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	id := w.dispatch(t)
	w.cancel(t, id)
	w.cancel(t, id) // again changes nothing
	w.checkEnd(t, id, "dispatch", "wait for resources", "finish")
	now := w.stored(t, id)
	if waited := named(w.spans(id), "wait for resources"); !waited.StartTime().Equal(now.CreatedAt) || !waited.EndTime().Equal(*now.FinishedAt) {
		t.Errorf("it waited from %v to %v, the row says %v and %v", waited.StartTime(), waited.EndTime(), now.CreatedAt, now.FinishedAt)
	}
}

func TestACancelOfATaskThatWaitsForAWorkerSaysSo(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	id := w.dispatch(t)
	pgtest.Must(t, w, 1, `update task set unblocked_at = now() where id = $1::text::uuid`, id)
	w.cancel(t, id)
	w.checkEnd(t, id, "dispatch", "wait for resources", "wait for a worker", "finish")
}

func TestACancelBetweenTwoAttemptsSaysForHowLongItRested(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	id := w.dispatch(t)
	pgtest.Must(t, w, 1, claim, id)
	pgtest.Must(t, w, 1, `insert into task_attempt (task_id, attempt, claim, executor, started_at, error) select id, 1, 1, 'x', now(), '{}' from task
		where id = $1::text::uuid`, id)
	pgtest.Must(t, w, 1, `update task set state = 'waiting', started_at = null, executor = null, incarnation = null where id = $1::text::uuid`, id)
	w.cancel(t, id)
	w.checkEnd(t, id, "dispatch", "wait for a worker", "finish")
	if got := about(named(w.spans(id), "wait for a worker"), tasktrace.Attempt).AsInt64(); got != 2 {
		t.Errorf("it waited for attempt %d", got)
	}
}

func TestACancelOfARunningTaskLeavesItsTraceToTheScheduler(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	w.checkRuns(t, w.inState(t, task.Canceling))
}

func (w *tracedWorld) checkRuns(t *testing.T, id string) {
	t.Helper()
	if got := names(w.spans(id)); !slices.Equal(got, []string{"dispatch"}) {
		t.Errorf("the spans are %v", got)
	}
}

func TestACancelOfAGroupEndsTheTracesOfThoseThatWait(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	group := w.newGroup(t)
	waiting, running, before := w.member(t, group, task.Waiting), w.member(t, group, task.Running), w.member(t, group, task.Canceled)
	w.cancelGroup(t, group)
	for _, id := range []string{waiting, before} {
		w.checkEnd(t, id, "dispatch", "wait for resources", "finish")
	}
	w.checkRuns(t, running)
}

func TestARejectedImmediateTaskEndsItsTrace(t *testing.T) {
	w := newTracedWorld(t, &leader{}, always())
	rejected, waits := w.send(t, immediate(false)), w.send(t, immediate(true))
	w.checkEnd(t, rejected.GetId(), "dispatch", "wait for resources", "finish")
	w.checkRuns(t, waits.GetId())
}

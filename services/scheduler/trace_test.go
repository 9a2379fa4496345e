package scheduler_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// dispatchSpan is the span of a dispatch, as it stands in the row of a task that is traced.
const dispatchSpan = "b7ad6b7169203331"

// traced starts one scheduler that leads and whose spans are recorded, as alone does.
func traced(t *testing.T) (*running, *pgxpool.Pool, *tracetest.SpanRecorder) {
	t.Helper()
	db := pgtest.New(t)
	cfg := config()
	cfg.LookEvery = time.Hour
	recorder := tracetest.NewSpanRecorder()
	s := scheduler.New(cfg, scheduler.NewStore(pgtest.Open(t, db.Config().ConnString()), cfg.Lease), quiet())
	s.Trace(sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("test"))
	conn, stopServer := rpctest.Serve(t, s.Register)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r := &running{scheduler: s, client: schedulerv1.NewSchedulerServiceClient(conn)}
	r.stop = sync.OnceFunc(func() {
		cancel()
		stopServer()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	r.awaitLeading(t)
	return r, db, recorder
}

// follow stores a task with the context of a dispatch, sampled or not.
func follow(t *testing.T, db *pgxpool.Pool, flags string, s spec) (id string) {
	t.Helper()
	id, _ = insert(t, db, s)
	pgtest.Must(t, db, 1, `update task set traceparent = $2 where id = $1::text::uuid`, id, "00-0af7651916cd43dd8448eb211c80319c-"+dispatchSpan+"-"+flags)
	return id
}

// say is what a span says of itself.
func say(s sdk.ReadOnlySpan, key attribute.Key) string {
	for _, a := range s.Attributes() {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// awaitSpans waits until a task has so many spans, and checks them: name, attempt, outcome, code of the error, blocker.
func awaitSpans(t *testing.T, recorder *tracetest.SpanRecorder, id string, want ...string) []sdk.ReadOnlySpan {
	t.Helper()
	var spans []sdk.ReadOnlySpan
	probe.Eventually(t, "the spans are made", func() bool {
		spans = slices.DeleteFunc(recorder.Ended(), func(s sdk.ReadOnlySpan) bool { return say(s, tasktrace.TaskID) != id })
		return len(spans) >= len(want)
	})
	var got []string
	for _, s := range spans {
		line := s.Name()
		for _, key := range []attribute.Key{tasktrace.Attempt, tasktrace.Outcome, tasktrace.ErrorCode, tasktrace.BlockerTask, tasktrace.BlockerResource} {
			if value := say(s, key); value != "" {
				line += " " + value
			}
		}
		got = append(got, line)
		if s.Parent().SpanID().String() != dispatchSpan {
			t.Errorf("%s is below %s", s.Name(), s.Parent().SpanID())
		}
		if s.EndTime().Before(s.StartTime()) {
			t.Errorf("%s went from %v to %v", s.Name(), s.StartTime(), s.EndTime())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	return spans
}

func TestTheSchedulerTellsWhatATaskWaitedForAndHowItEnded(t *testing.T) {
	r, db, recorder := traced(t)
	x := join(t, r, db, "x", 2)
	holder := follow(t, db, "00", spec{exclusive: []string{"a"}})
	id := follow(t, db, "01", spec{exclusive: []string{"a"}})
	r.offer(t)
	x.finish(x.assigned(holder), completed("1"))
	x.next("finished")
	x.finish(x.assigned(id), completed("1"))
	spans := awaitSpans(t, recorder, id, "wait for resources "+holder+" a", "wait for a worker 1", "finish 1 completed")
	now := read(t, db, id)
	if blocked, idle := spans[0], spans[1]; !blocked.EndTime().Equal(*now.unblocked) || !idle.StartTime().Equal(*now.unblocked) || !idle.EndTime().Equal(*now.started) {
		t.Errorf("blocked until %v, idle from %v to %v, the row says %+v", blocked.EndTime(), idle.StartTime(), idle.EndTime(), now)
	}
	if finish := spans[2]; finish.EndTime().Before(*now.ended) {
		t.Errorf("the finish ended at %v, the task at %v", finish.EndTime(), now.ended)
	}
	if all := recorder.Ended(); len(all) != 3 {
		t.Errorf("there are %d spans, some of them of what is not sampled", len(all))
	}
}

func TestTheSchedulerSpeaksForARunWhoseExecutorIsLost(t *testing.T) {
	r, db, recorder := traced(t)
	x := join(t, r, db, "x", 1)
	id := follow(t, db, "01", spec{options: twice})
	r.offer(t)
	x.assigned(id)
	endLife(t, db, "x", true)
	r.offer(t)
	y := join(t, r, db, "y", 1)
	y.assigned(id)
	endLife(t, db, "y", true)
	r.offer(t)
	spans := awaitSpans(t, recorder, id, "wait for resources", "wait for a worker 1", "run 1 failed WORKER_MISSING", "wait for a worker 2",
		"run 2 failed WORKER_MISSING", "finish 2 failed WORKER_MISSING")
	if len(spans[2].Links()) != 0 || len(spans[4].Links()) != 1 || spans[4].Links()[0].SpanContext.SpanID() != tasktrace.RunID(id, 1) {
		t.Errorf("the runs are linked to %v and %v", spans[2].Links(), spans[4].Links())
	}
	if say(spans[2], tasktrace.Executor) != "x" || say(spans[5], tasktrace.Executor) != "y" {
		t.Errorf("it ran on %s and %s", say(spans[2], tasktrace.Executor), say(spans[5], tasktrace.Executor))
	}
}

func TestACancelThatTheDispatcherHasMadeFinalIsNotToldTwice(t *testing.T) {
	r, db, recorder := traced(t)
	x := join(t, r, db, "x", 1)
	// Between two attempts: the leader knows its trace, and the dispatcher ends it.
	rests := follow(t, db, "01", spec{options: `{"retry": {"attempts": 2, "backoff_ms": 3600000, "max_backoff_ms": 3600000}}`})
	r.offer(t)
	x.finish(x.assigned(rests), failed("A"))
	x.next("finished")
	awaitState(t, db, rests, "waiting")
	cancelRow(t, db, rests)
	// While it runs: the leader ends it, whatever became of the run.
	runs := follow(t, db, "01", spec{options: twice})
	r.offer(t)
	a := x.assigned(runs)
	cancelRow(t, db, runs)
	x.finish(a, failed("A"))
	awaitSpans(t, recorder, runs, "wait for resources", "wait for a worker 1", "finish 1 canceled")
	awaitSpans(t, recorder, rests, "wait for resources", "wait for a worker 1")
}

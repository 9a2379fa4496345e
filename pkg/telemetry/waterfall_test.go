package telemetry_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/telemetry"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

var update = flag.Bool("update", false, "write the golden files") //nolint:gochecknoglobals // that is how flags of tests are made

var (
	traceID = trace.TraceID{0x4b, 0xf9, 0x2f, 0x35, 15: 0x36} //nolint:gochecknoglobals // a constant
	begin   = time.Date(2026, 11, 23, 4, 50, 1, 123e6, time.UTC)
)

// span is one that took some milliseconds from another on.
func span(id, parent byte, name string, from, length float64, attributes ...attribute.KeyValue) tracetest.SpanStub {
	at := func(ms float64) time.Time { return begin.Add(time.Duration(ms * float64(time.Millisecond))) }
	context := func(id byte) trace.SpanContext {
		if id == 0 {
			return trace.SpanContext{}
		}
		return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: trace.SpanID{7: id}, TraceFlags: trace.FlagsSampled})
	}
	return tracetest.SpanStub{
		Name: name, SpanContext: context(id), Parent: context(parent), StartTime: at(from), EndTime: at(from + length), Attributes: attributes,
	}
}

// about is what every span of a task has.
func about(name, id string, more ...attribute.KeyValue) []attribute.KeyValue {
	return append([]attribute.KeyValue{
		tasktrace.TaskName.String(name), tasktrace.TaskID.String(id), tasktrace.Domain.String("default"), tasktrace.CorrelationID.String("cid"),
		tasktrace.Exclusive.StringSlice([]string{"repository/1"}), tasktrace.Shared.StringSlice([]string{"prn:core.domain:default"}),
	}, more...)
}

func TestAWaterfallShowsWhoWaitedForWhatAndHowLong(t *testing.T) {
	failed := span(6, 2, tasktrace.Run, 3010, 1990, about("sync", "0198-b", tasktrace.Executor.String("here"), tasktrace.Attempt.Int(1),
		tasktrace.Outcome.String("failed"), tasktrace.ErrorCode.String("SLU0001"))...)
	failed.Status = sdktrace.Status{Code: codes.Error, Description: "no such\nremote"}
	text := telemetry.Waterfall(tracetest.SpanStubs{
		span(7, 2, tasktrace.Finish, 5000, 2.5, about("sync", "0198-b", tasktrace.Outcome.String("failed"))...),
		failed,
		span(1, 99, "POST /api/v3/tasks", 0, 8.25, attribute.String("http.route", "/api/v3/tasks"), attribute.Int("http.response.status_code", 202)),
		span(10, 1, "sluice.dispatcher.v1.DispatcherService/Dispatch", 1.5, 3.5, attribute.Int("rpc.grpc.status_code", 0)),
		span(3, 2, tasktrace.WaitResources, 4.5, 3000, about("sync", "0198-b",
			tasktrace.BlockerTask.String("0198-a"), tasktrace.BlockerResource.String("repository/1"))...),
		span(2, 1, tasktrace.Dispatch, 2, 2.5, about("sync", "0198-b")...),
		span(4, 2, tasktrace.WaitWorker, 3004.5, 0.85, about("sync", "0198-b")...),
		span(8, 6, "download of something whose name has no end at all", 3500, 900, attribute.String("url.full", strings.Repeat("x", 200))),
		span(9, 6, tasktrace.Dispatch, 4600, 2, about("child", "0198-c")...),
		span(5, 99, "somebody else's below the same parent", 4990, 0),
	}.Snapshots())
	golden := filepath.Join("testdata", "waterfall.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("(-want +got)\n%s\n%s", diff, text)
	}
}

func TestAWaterfallOfWhateverSpansIsPlainText(t *testing.T) {
	evil := span(4, 0, "evil\x1b[2J", 0, 1, attribute.String("key", "\x1b]0;\a"))
	evil.Attributes = append(evil.Attributes, tasktrace.Outcome.String("\x1bc"), tasktrace.ErrorCode.String("\x1bc"), attribute.String("\x1bc", "\u202e"))
	evil.Status = sdktrace.Status{Code: codes.Error, Description: "\x1bc"}
	if text := telemetry.Waterfall(tracetest.SpanStubs{evil}.Snapshots()); strings.ContainsAny(text, "\x1b\a\u202e") {
		t.Errorf("a terminal would obey %q", text)
	}
	one, other := span(1, 2, "one", 0, 1), span(2, 1, "other", 0, 1)
	if text := telemetry.Waterfall(tracetest.SpanStubs{one, other, span(3, 3, "itself", 0, 1)}.Snapshots()); !strings.Contains(text, "itself") {
		t.Error(text)
	}
	if telemetry.Waterfall(nil) != "" {
		t.Error("nothing is something")
	}
}

func TestATraceIsShownOnceItsTasksHaveEnded(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console") // a bubble can't set it
	synctest.Test(t, func(t *testing.T) {
		out := &lines{}
		traces, err := telemetry.StartTraces(t.Context(), telemetry.Config{Service: "sluice-test", Console: out, Whole: true})
		if err != nil {
			t.Fatal(err)
		}
		tracer := traces.Tracer("test")
		ctx, dispatch := tracer.Start(t.Context(), tasktrace.Dispatch)
		dispatch.End()
		wait := func(d time.Duration) {
			time.Sleep(d) //nolint:forbidigo // in the bubble this takes no time
			synctest.Wait()
		}
		if wait(time.Hour); out.String() != "" {
			t.Errorf("a task that has not ended is shown:\n%s", out)
		}
		_, finish := tracer.Start(ctx, tasktrace.Finish)
		finish.End()
		_, late := tracer.Start(ctx, "late")
		wait(100 * time.Millisecond)
		late.End()
		if wait(2 * time.Second); strings.Count(out.String(), "trace ") != 1 || !strings.Contains(out.String(), "late") || !strings.Contains(out.String(), "finish") {
			t.Errorf("shown is:\n%s", out)
		}
		_, other := tracer.Start(t.Context(), "no task at all")
		other.End()
		if wait(5 * time.Second); strings.Count(out.String(), "trace ") != 2 {
			t.Errorf("a quiet trace is not shown:\n%s", out)
		}
		ctx, last := tracer.Start(t.Context(), tasktrace.Dispatch)
		last.End()
		if err := traces.Close(ctx); err != nil || strings.Count(out.String(), "trace ") != 3 {
			t.Errorf("the end is not shown (%v):\n%s", err, out)
		}
	})
}

func TestAProcessThatSeesNoEndsShowsWhatIsQuiet(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	synctest.Test(t, func(t *testing.T) {
		out := &lines{}
		traces, err := telemetry.StartTraces(t.Context(), telemetry.Config{Service: "sluice-test", Console: out})
		if err != nil {
			t.Fatal(err)
		}
		_, dispatch := traces.Tracer("test").Start(t.Context(), tasktrace.Dispatch)
		dispatch.End()
		time.Sleep(10 * time.Second) //nolint:forbidigo // in the bubble this takes no time
		synctest.Wait()
		if !strings.Contains(out.String(), "dispatch") {
			t.Error("nothing is shown")
		}
		if err := traces.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestMoreTracesThanAnybodyCanReadAreCounted(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	out := &lines{}
	traces, err := telemetry.StartTraces(t.Context(), telemetry.Config{Service: "sluice-test", Console: out, Whole: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 1500 {
		_, dispatch := traces.Tracer("test").Start(t.Context(), tasktrace.Dispatch)
		dispatch.End()
	}
	if err := traces.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count("\n"+out.String(), "\ntrace "); got != 1000 || !strings.Contains(out.String(), "500 spans are not shown") {
		t.Errorf("%d traces are shown", got)
	}
}

func TestADispatchThatMadeNoTaskIsShownAndHidesNothing(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	synctest.Test(t, func(t *testing.T) {
		out := &lines{}
		traces, err := telemetry.StartTraces(t.Context(), telemetry.Config{Service: "sluice-test", Console: out, Whole: true})
		if err != nil {
			t.Fatal(err)
		}
		shown := func(want int) {
			t.Helper()
			time.Sleep(10 * time.Second) //nolint:forbidigo // in the bubble this takes no time
			synctest.Wait()
			if got := strings.Count("\n"+out.String(), "\ntrace "); got != want {
				t.Errorf("%d traces are shown, want %d", got, want)
			}
		}
		_, refused := traces.Tracer("test").Start(t.Context(), tasktrace.Dispatch)
		refused.SetStatus(codes.Error, "no such group")
		refused.End()
		_, again := traces.Tracer("test").Start(t.Context(), tasktrace.Dispatch)
		again.SetAttributes(tasktrace.Repeated.Bool(true))
		again.End()
		shown(2)
		for range 1000 { // whose ends are lost, or hours away
			_, dispatch := traces.Tracer("test").Start(t.Context(), tasktrace.Dispatch)
			dispatch.End()
		}
		shown(2)
		for range 2 { // the first is one too many
			_, other := traces.Tracer("test").Start(t.Context(), "other")
			other.End()
			time.Sleep(10 * time.Second) //nolint:forbidigo // in the bubble this takes no time
		}
		shown(2 + 1000 + 1)
		if err := traces.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

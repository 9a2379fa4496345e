package tasktrace_test

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

const (
	someTask   = "0198c0de-0000-7000-8000-000000000001"
	someParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
)

func TestAContextComesBackFromARowAsItWas(t *testing.T) {
	for _, given := range [][2]string{{someParent, "vendor=1,other=2"}, {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", ""}} {
		parent, state := tasktrace.Format(tasktrace.Parse(given[0], given[1]))
		if parent != given[0] || state != given[1] {
			t.Errorf("%q came back as %q, %q", given, parent, state)
		}
	}
	for _, bad := range []string{"", "x", "00-0-0-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"} {
		if c := tasktrace.Parse(bad, "a=b"); c.IsValid() {
			t.Errorf("%q is a context: %v", bad, c)
		}
	}
	if parent, state := tasktrace.Format(trace.SpanContext{}); parent != "" || state != "" {
		t.Errorf("none is %q, %q", parent, state)
	}
}

// The usual context is read by ourselves. It must come to the same as what the library makes of it.
func FuzzParse(f *testing.F) {
	for _, parent := range []string{
		someParent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319cxb7ad6b7169203331-01",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", "00-0af7651916cd43dd8448eb211c8031--b7ad6b7169203331-01",
	} {
		f.Add(parent, "")
		f.Add(parent, "a=b")
	}
	f.Fuzz(func(t *testing.T, parent, state string) {
		carrier := propagation.MapCarrier{"traceparent": parent, "tracestate": state}
		want := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(t.Context(), carrier))
		if got := tasktrace.Parse(parent, state); !got.Equal(want) && (got.IsValid() || want.IsValid()) {
			t.Errorf("%q, %q is %v, want %v", parent, state, got, want)
		}
	})
}

func TestEverybodyKnowsTheSpanOfARun(t *testing.T) {
	dispatch := tasktrace.Parse(someParent, "a=b")
	first, second := tasktrace.RunContext(dispatch, someTask, 1), tasktrace.RunContext(dispatch, someTask, 2)
	// It stands in rows and in other processes' heads: another rule would tear traces apart while an upgrade is under way.
	if got := first.SpanID().String(); got != "5092904099159daa" {
		t.Errorf("the run has the id %s", got)
	}
	if first.SpanID() == second.SpanID() || first.TraceID() != dispatch.TraceID() || !first.IsSampled() || first.TraceState().String() != "a=b" {
		t.Errorf("the runs are %v and %v", first, second)
	}
}

func TestAnIDIsGivenOnce(t *testing.T) {
	ctx := tasktrace.WithSpanID(t.Context(), tasktrace.RunID(someTask, 1))
	var given atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if tasktrace.SpanID(ctx).IsValid() {
				given.Add(1)
			}
		})
	}
	if all.Wait(); given.Load() != 1 {
		t.Errorf("it was given %d times", given.Load())
	}
	if tasktrace.SpanID(t.Context()).IsValid() {
		t.Error("there is an id that nobody has set")
	}
}

func TestALineAboutATaskNamesItsTraceIfThereIsOne(t *testing.T) {
	if got := tasktrace.LogID(someParent); got.Key != "trace_id" || got.Value.String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("it is %v", got)
	}
	for _, none := range []string{"", "00-0af7"} {
		if got := tasktrace.LogID(none); !got.Equal(slog.Attr{}) {
			t.Errorf("of %q it is %v", none, got)
		}
	}
}

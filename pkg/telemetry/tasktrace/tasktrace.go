// Package tasktrace says what the trace of a task looks like: the names of its spans, their attributes, and how the processes
// that make them agree on parents without asking each other.
//
// # Owns
//
// Names, and the rule by which the span of a run gets its id: from the task and the attempt. So the executor that runs it, the worker
// that makes spans below it, the next attempt that links to it, and a scheduler that has to speak for an executor that died, all
// know it.
//
// # States
//
// A task that is traced has in its row the context of its dispatch span, flagged as sampled. All other spans are children of that one,
// but for those of child tasks and of handlers, which are below the run. A task whose row has no context, or one that is not
// sampled, has no spans.
//
// # Failure
//
// What can't be read is no context, never an error: nobody's task fails because of its trace.
package tasktrace

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"strconv"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// The spans of a task, in their order.
const (
	Dispatch      = "dispatch"
	WaitResources = "wait for resources"
	WaitWorker    = "wait for a worker"
	Run           = "run"
	Finish        = "finish"
)

// Attributes of the spans of tasks.
const (
	TaskID          = attribute.Key("sluice.task.id")
	TaskName        = attribute.Key("sluice.task.name")
	Domain          = attribute.Key("sluice.domain")
	CorrelationID   = attribute.Key("sluice.correlation_id")
	Exclusive       = attribute.Key("sluice.resources.exclusive")
	Shared          = attribute.Key("sluice.resources.shared")
	BlockerTask     = attribute.Key("sluice.blocker.task.id")
	BlockerResource = attribute.Key("sluice.blocker.resource")
	Executor        = attribute.Key("sluice.executor")
	Attempt         = attribute.Key("sluice.attempt")
	// Outcome is a final state, or "retried".
	Outcome = attribute.Key("sluice.outcome")
	// ErrorCode is the code of the error of a task that failed.
	ErrorCode = attribute.Key("sluice.error.code")
	// Repeated marks the dispatch of a task that was there already: its trace is that of the first dispatch.
	Repeated = attribute.Key("sluice.repeated")
)

// Parse reads a W3C trace context as it stands in a task's row. The zero SpanContext means that there is none.
func Parse(traceparent, tracestate string) trace.SpanContext {
	if traceparent == "" {
		return trace.SpanContext{}
	}
	if c, ok := parseUsual(traceparent, tracestate); ok {
		return c
	}
	carrier := propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier)) //nolint:forbidigo // it only carries
}

// parseUsual reads what nearly all contexts look like, at a tenth of the cost. What looks otherwise, or can't be read, is left to
// the library.
func parseUsual(traceparent, tracestate string) (c trace.SpanContext, ok bool) {
	const usual = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	if len(traceparent) != len(usual)+2 || traceparent[:3] != usual[:3] || traceparent[35] != '-' || traceparent[52] != '-' || tracestate != "" {
		return c, false
	}
	config := trace.SpanContextConfig{Remote: true}
	switch traceparent[len(usual):] {
	case "00":
	case "01":
		config.TraceFlags = trace.FlagsSampled
	default:
		return c, false
	}
	var err, failed error
	config.TraceID, err = trace.TraceIDFromHex(traceparent[3:35])
	config.SpanID, failed = trace.SpanIDFromHex(traceparent[36:52])
	return trace.NewSpanContext(config), err == nil && failed == nil
}

// Format writes a context as it stands in a task's row; empty for none.
func Format(c trace.SpanContext) (traceparent, tracestate string) {
	if !c.IsValid() {
		return "", ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), c), carrier) //nolint:forbidigo // it only carries
	return carrier["traceparent"], carrier["tracestate"]
}

// RunID is the id of the span of one attempt of a task.
func RunID(taskID string, attempt int32) trace.SpanID {
	sum := sha256.Sum256([]byte(taskID + "/" + strconv.Itoa(int(attempt))))
	id := trace.SpanID(sum[:8])
	if !id.IsValid() {
		id[0] = 1
	}
	return id
}

// RunContext is the context of the span of one attempt of a task whose dispatch span had that context.
func RunContext(dispatch trace.SpanContext, taskID string, attempt int32) trace.SpanContext {
	return dispatch.WithSpanID(RunID(taskID, attempt)).WithRemote(true)
}

type spanIDKey struct{}

// givenID is the id of one span.
type givenID struct {
	id    trace.SpanID
	taken atomic.Bool
}

// WithSpanID makes the next span that is started with the context get that id, if its tracer comes from pkg/telemetry. It is given
// once: the spans below that one are started with the same context.
func WithSpanID(ctx context.Context, id trace.SpanID) context.Context {
	return context.WithValue(ctx, spanIDKey{}, &givenID{id: id})
}

// SpanID takes what WithSpanID has set; the zero id if nothing was, or somebody has it already.
func SpanID(ctx context.Context) trace.SpanID {
	given, _ := ctx.Value(spanIDKey{}).(*givenID)
	if given == nil || given.taken.Swap(true) {
		return trace.SpanID{}
	}
	return given.id
}

// LogID is the trace_id for a line of the log that is about a task; for a task without a trace it is an attribute that no handler
// writes. The trace need not be sampled: a caller who has a trace finds our lines by it, whether or not anybody records spans.
func LogID(traceparent string) slog.Attr {
	const begins, ends = len("00-"), len("00-0af7651916cd43dd8448eb211c80319c")
	if len(traceparent) < ends {
		return slog.Attr{}
	}
	return slog.String("trace_id", traceparent[begins:ends])
}

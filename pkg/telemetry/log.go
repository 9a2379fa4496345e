package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// traceID is what a trace is called in every line of the log.
const traceID = "trace_id"

// Logs makes a handler write, into every line that is logged below a span, the span's trace_id and span_id. A line that names a trace
// itself, because it is about a task and not about who looks after it, stays as it is.
func Logs(next slog.Handler) slog.Handler { return spanLog{next} }

type spanLog struct{ slog.Handler }

func (h spanLog) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() && !names(r, traceID) {
		r = r.Clone()
		r.AddAttrs(slog.String(traceID, span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h spanLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return spanLog{h.Handler.WithAttrs(attrs)}
}
func (h spanLog) WithGroup(name string) slog.Handler { return spanLog{h.Handler.WithGroup(name)} }

// names reports whether a line has an attribute.
func names(r slog.Record, key string) (found bool) {
	r.Attrs(func(a slog.Attr) bool {
		found = found || a.Key == key
		return !found
	})
	return found
}

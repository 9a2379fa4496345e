package worker

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/telemetry"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

// scopeName is what the spans of handlers are said to be made by.
const scopeName = "github.com/sluice-tasks/sluice/pkg/worker"

// Tracer makes spans of a handler's own, below the run of its task:
//
//	ctx, span := worker.Tracer(ctx).Start(ctx, "download")
//	defer span.End()
//
// Started with a handler's context they belong to the trace of the task, and what a handler dispatches with the context of such a span
// is below it, if it runs in the executor's process. Libraries that are given the handler's context, and
// ask OpenTelemetry for its global provider, do the same in a process of the task's own. Where tracing is off, for the task or at
// all, spans cost next to nothing. Outside of a task none are made.
func Tracer(ctx context.Context) trace.Tracer {
	if s, inside := scopeOf(ctx); inside && s.tracing != nil {
		return s.tracing.Tracer(scopeName)
	}
	return noop.NewTracerProvider().Tracer(scopeName)
}

// traced is a context that carries the trace of a run, unless it does so already.
func traced(ctx context.Context, run Run) context.Context {
	if trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	a := run.Assignment
	if current := tasktrace.Parse(a.GetTraceparent(), a.GetTracestate()); current.IsValid() {
		return trace.ContextWithRemoteSpanContext(ctx, current)
	}
	return ctx
}

const (
	// flushFor is how long the end of a run waits for its spans to be sent: once it is reported, the process may be killed.
	flushFor = time.Second
	// flushAgain is how long no run waits for that after it was in vain. They are still sent, by and by.
	flushAgain = 30 * time.Second
)

// childTraces are the spans that the handlers of a child make. They are set up for the first task that has a trace: most
// processes never have one.
type childTraces struct {
	// everywhere makes a provider that of the whole process; nil: it is only that of handlers.
	everywhere func(trace.TracerProvider)

	started *telemetry.Traces
	failed  time.Time
}

// of gives a run what makes its spans, nil for one that has no trace, and a way to send them. One run calls it at a time.
func (c *childTraces) of(ctx context.Context, a *taskv1.Assignment) (provider trace.TracerProvider, flush func()) {
	if !tasktrace.Parse(a.GetTraceparent(), a.GetTracestate()).IsSampled() {
		return nil, func() {}
	}
	if c.started == nil {
		c.start(ctx)
	}
	if !c.started.Tracing() {
		return nil, func() {}
	}
	return c.started.TracerProvider(), func() { c.flush(ctx) }
}

// start reads the environment, which is the executor's. What is wrong there the executor has said: here it would be said in the log of
// a task.
func (c *childTraces) start(ctx context.Context) {
	traces, err := telemetry.StartTraces(context.WithoutCancel(ctx), telemetry.Config{
		Service: "sluice-worker", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		traces = &telemetry.Traces{}
	}
	c.started = traces
	if traces.Tracing() && c.everywhere != nil {
		c.everywhere(traces.TracerProvider())
	}
}

func (c *childTraces) flush(ctx context.Context) {
	if time.Since(c.failed) < flushAgain {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushFor)
	defer cancel()
	if err := c.started.Flush(ctx); err != nil {
		c.failed = time.Now()
	}
}

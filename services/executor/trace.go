package executor

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// spans are those of runs, of an executor and all workers that are connected to it. nil makes none.
type spans struct {
	tracer trace.Tracer // nil until Trace
}

// Trace makes the executor make a span of each run whose task has a trace. It is called before Run. Without it there are none, and
// handlers see the context of the dispatch.
func (s *Service) Trace(tracer trace.Tracer) { s.config.spans.tracer = tracer }

// traced is the part of a run that its span needs.
type traced struct {
	dispatched trace.SpanContext // what the span is below; invalid for a run without one
	span       trace.Span        // nil before it began
	ended      time.Time
}

// take prepares a run that has just come. What its handler is told to go on below is the run itself: its span has an id that
// everybody knows before it begins.
func (s *spans) take(r *run) {
	a := r.assignment
	if s == nil || s.tracer == nil || a.GetTraceparent() == "" {
		return
	}
	dispatched := tasktrace.Parse(a.GetTraceparent(), a.GetTracestate())
	if !dispatched.IsSampled() {
		return
	}
	r.traced.dispatched = dispatched
	a.Traceparent, a.Tracestate = tasktrace.Format(tasktrace.RunContext(dispatched, a.GetTaskId(), a.GetAttempt()))
}

// begin begins the span of a run that begins, if its trace is wanted.
func (s *spans) begin(r *run, executor string) {
	if r.traced.dispatched.IsValid() {
		s.beginSampled(r, executor)
	}
}

// beginSampled is apart, for it needs a large stack, which a run without a trace is not to pay for.
func (s *spans) beginSampled(r *run, executor string) {
	known, a := &r.traced, r.assignment
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		tasktrace.TaskID.String(a.GetTaskId()), tasktrace.TaskName.String(a.GetName()), tasktrace.Domain.String(a.GetDomain()),
		tasktrace.CorrelationID.String(a.GetCorrelationId()), tasktrace.Attempt.Int(int(a.GetAttempt())), tasktrace.Executor.String(executor))}
	if a.GetAttempt() > 1 {
		before := tasktrace.RunContext(known.dispatched, a.GetTaskId(), a.GetAttempt()-1)
		options = append(options, trace.WithLinks(trace.Link{SpanContext: before}))
	}
	ctx := trace.ContextWithRemoteSpanContext(context.WithoutCancel(r.killed), known.dispatched)
	//nolint:spancheck // report ends it
	_, known.span = s.tracer.Start(tasktrace.WithSpanID(ctx, tasktrace.RunID(a.GetTaskId(), a.GetAttempt())), tasktrace.Run, options...)
}

// over notes when a run has ended; whether that counts is not known yet.
func (t *traced) over() {
	if t.span != nil {
		t.ended = time.Now()
	}
}

// report ends the span of a run whose end is reported. That of any other is not: the scheduler speaks for executors that are lost.
func (t *traced) report(outcome *taskv1.Outcome) {
	if t.span == nil {
		return
	}
	t.span.SetAttributes(tasktrace.Outcome.String(string(wire.FromState(outcome.GetState()))))
	if wire.FromState(outcome.GetState()) == task.Failed {
		failure := wire.FromError(outcome.GetError())
		t.span.SetAttributes(tasktrace.ErrorCode.String(failure.Code))
		t.span.SetStatus(codes.Error, failure.String())
	}
	t.span.End(trace.WithTimestamp(t.ended))
}

// within is a context for a handler in this process: what it makes spans of is below the run.
func (t *traced) within(ctx context.Context) context.Context {
	if t.span == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, t.span)
}

// provider makes the spans of a handler in this process; nil for none.
func (t *traced) provider() trace.TracerProvider {
	if t.span == nil {
		return nil
	}
	return t.span.TracerProvider()
}

// traceOf is a context in which the trace of a task goes on with what it dispatches: below the span of its handler from which it is
// called, if that is in this process, else below its run.
func traceOf(ctx context.Context, a *taskv1.Assignment) context.Context {
	if trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, tasktrace.Parse(a.GetTraceparent(), a.GetTracestate()))
}

package dispatcher

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

// Trace makes the dispatcher make spans: of each dispatch, and of the end of tasks that never start. It is called before anything is
// dispatched. Without it there are none, and the callers' contexts are stored as they come.
func (s *Service) Trace(tracer trace.Tracer) { s.tracer = tracer }

// dispatches are the spans of the tasks of one call, by their places; nil for a task whose trace nobody wants. A nil slice has none.
type dispatches []trace.Span

// begin starts the spans of a call, and has the rows of the tasks say what goes on below them. It must come before the tasks are
// stored, or somebody could run one whose row says something else. A task that is not sampled keeps its caller's context: whether
// to sample was decided there, or here, once for the whole trace.
func (s *Service) begin(ctx context.Context, tasks []*New, arrived time.Time) dispatches {
	if s.tracer == nil {
		return nil
	}
	options := []trace.SpanStartOption{trace.WithTimestamp(arrived), trace.WithSpanKind(trace.SpanKindProducer)}
	if rpc := trace.SpanContextFromContext(ctx); rpc.IsSampled() && !rpc.IsRemote() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: rpc})) // it may have brought a thousand
	}
	var spans dispatches
	for i, t := range tasks {
		// Not below the span of the call: the parent of a task's trace is whoever the caller says. And most tasks are not sampled, which
		// is to be found out without asking all that a call's context is made of.
		under := context.Background() //nolint:forbidigo // spans are not canceled
		if t.Traceparent != "" {
			under = trace.ContextWithRemoteSpanContext(under, tasktrace.Parse(t.Traceparent, t.Tracestate))
		}
		_, span := s.tracer.Start(under, tasktrace.Dispatch, options...)
		if !span.SpanContext().IsSampled() {
			continue
		}
		if spans == nil {
			spans = make(dispatches, len(tasks))
		}
		spans[i] = span
		t.Traceparent, t.Tracestate = tasktrace.Format(span.SpanContext())
		span.SetAttributes(append(named(&t.Task), reserved(t.Reserved)...)...)
	}
	return spans
}

// end ends the spans of a call, whose tasks are committed, or were not stored.
func (d dispatches) end(tasks []*New, err error) {
	if d == nil {
		return
	}
	now := time.Now()
	for i, span := range d {
		switch {
		case span == nil:
			continue
		case err != nil:
			span.SetStatus(codes.Error, err.Error())
		case tasks[i].Repeated:
			span.SetAttributes(tasktrace.TaskID.String(tasks[i].ID), tasktrace.Repeated.Bool(true))
		}
		span.End(trace.WithTimestamp(now))
	}
}

// named says of which task a span is.
func named(t *task.Task) []attribute.KeyValue {
	return []attribute.KeyValue{
		tasktrace.TaskID.String(t.ID), tasktrace.TaskName.String(t.Name), tasktrace.Domain.String(t.Domain),
		tasktrace.CorrelationID.String(t.CorrelationID),
	}
}

// reserved says what a task reserves, if it does.
func reserved(r task.Reservation) []attribute.KeyValue {
	about := make([]attribute.KeyValue, 0, 2)
	if len(r.Exclusive) > 0 {
		about = append(about, tasktrace.Exclusive.StringSlice(r.Exclusive))
	}
	if len(r.Shared) > 0 {
		about = append(about, tasktrace.Shared.StringSlice(r.Shared))
	}
	return about
}

// Unstarted is a task that was canceled while it waited, as far as its trace needs it.
type Unstarted struct {
	task.Task

	Traceparent, Tracestate string
	// FailedAt is when its latest attempt ended, nil if there was none.
	FailedAt *time.Time
}

// traceCanceled makes the spans of tasks that a cancel has just ended, which had been asked for at a time. No leader remembers them.
func (s *Service) traceCanceled(ctx context.Context, seqs []int64, asked time.Time) {
	if s.tracer == nil {
		return
	}
	tasks, err := s.db.Unstarted(ctx, seqs)
	if err != nil {
		s.log.WarnContext(ctx, "the traces of canceled tasks have no end", slog.Any("error", err))
		return
	}
	for _, t := range tasks {
		s.traceEnd(t, asked)
	}
}

// traceRejected makes the spans of immediate tasks that could not run at once, and would not wait. Whether the leader ended them or
// this dispatcher, their dispatcher sees it, and has their contexts.
func (s *Service) traceRejected(tasks []*New) {
	if s.tracer == nil {
		return
	}
	for _, t := range tasks {
		rejected := t.State == task.Canceled && t.StartedAt == nil && t.Error != nil && t.Error.Reason == task.ReasonUnavailable
		if rejected && !t.Repeated {
			s.traceEnd(&Unstarted{Task: t.Task, Traceparent: t.Traceparent, Tracestate: t.Tracestate}, time.Time{})
		}
	}
}

// traceEnd makes the spans of a task that ended without having started, or between two attempts: what it waited for, and the end,
// which was asked for at a time; zero for when it happened.
func (s *Service) traceEnd(t *Unstarted, asked time.Time) {
	parent := tasktrace.Parse(t.Traceparent, t.Tracestate)
	if !parent.IsSampled() || t.FinishedAt == nil {
		return
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), parent) //nolint:forbidigo // spans are not canceled with the call
	span := func(name string, from, to time.Time, attributes ...attribute.KeyValue) {
		if from.After(to) {
			from = to // by clocks of two machines
		}
		_, span := s.tracer.Start(ctx, name, trace.WithTimestamp(from), trace.WithAttributes(append(named(&t.Task), attributes...)...))
		span.End(trace.WithTimestamp(to))
	}
	over := *t.FinishedAt
	resources := reserved(t.Reserved)
	next := tasktrace.Attempt.Int(int(t.Attempt) + 1)
	switch {
	case t.FailedAt != nil:
		span(tasktrace.WaitWorker, *t.FailedAt, over, next)
	case t.UnblockedAt != nil:
		span(tasktrace.WaitResources, t.CreatedAt, *t.UnblockedAt, resources...)
		span(tasktrace.WaitWorker, *t.UnblockedAt, over, next)
	default:
		span(tasktrace.WaitResources, t.CreatedAt, over, resources...)
	}
	if asked.IsZero() {
		asked = over
	}
	span(tasktrace.Finish, asked, time.Now(), tasktrace.Outcome.String(string(task.Canceled)))
}

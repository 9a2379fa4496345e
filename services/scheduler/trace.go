package scheduler

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

// scheduleName is the name of the schedule that a task was dispatched for.
const scheduleName = attribute.Key("sluice.schedule.name")

// Trace makes the scheduler make spans while it leads. It is called before Run; without it there are none.
func (s *Service) Trace(tracer trace.Tracer) { s.tracer = tracer }

// spans are those that only the leader can tell of: what a task waited for, its end, runs of executors that died, and the dispatches
// of schedules. They are made after what they tell of was committed. nil makes none.
//
// All times are the database's, as in the rows of the tasks. What waits by the million has no context in memory: it comes with the
// claim, as part of the row, and is kept until the end.
type spans struct {
	tracer trace.Tracer
	leader *leader
}

// traced is what the leader knows of a task whose trace is wanted, from its claim to its end.
type traced struct {
	parent        trace.SpanContext // of its dispatch
	correlationID string
	attempt       int32
	executor      string
	// Times in microseconds: reported is when the report of its run reached the leader, 0 for never; waits is since when it waits for
	// a worker, if it does.
	reported, waits int64
}

// isTraced is a quick look at the flags of a traceparent: most tasks have none, or one that is not sampled.
func isTraced(traceparent string) bool {
	const length = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(traceparent) < length {
		return false
	}
	switch traceparent[length-1] {
	case '1', '3', '5', '7', '9', 'b', 'd', 'f':
		return true
	default:
		return false
	}
}

// trace adds the maker of spans to the witnesses; no tracer, no spans.
func (l *leader) trace(tracer trace.Tracer) {
	if tracer == nil {
		return
	}
	l.spans = &spans{tracer: tracer, leader: l}
	// The first of them: what it knows of a task the others use, see traceContext.
	l.witnesses = append([]witness{l.spans}, l.witnesses...)
}

// traceContext carries the trace of a task, if it is wanted, for who counts and wants to give an example.
func (t *live) traceContext() context.Context {
	ctx := context.Background() //nolint:forbidigo // spans and counts are not canceled
	if t.story != nil && t.story.trace != nil {
		ctx = trace.ContextWithRemoteSpanContext(ctx, t.story.trace.parent)
	}
	return ctx
}

// recall takes over the trace of a task that ran when this leadership began.
func (s *spans) recall(t *live, row Row) {
	if s != nil && t.story != nil && isTraced(row.Traceparent) {
		t.story.trace = &traced{
			parent: tasktrace.Parse(row.Traceparent, row.Tracestate), correlationID: row.CorrelationID, attempt: row.Attempt,
			executor: row.Executor,
		}
	}
}

// reported notes when a report about a task came, at a moment of this process's clock; zero for now.
func (s *spans) reported(t *live, at time.Time) {
	if s == nil || t.story == nil || t.story.trace == nil {
		return
	}
	t.story.trace.reported = s.leader.time()
	if !at.IsZero() {
		t.story.trace.reported -= time.Since(at).Microseconds()
	}
}

// started makes the spans of what a task has waited for.
func (s *spans) started(t *live, c *Claimed) {
	story := t.told()
	if story.trace == nil {
		if !isTraced(c.Traceparent) {
			return
		}
		parent := tasktrace.Parse(c.Traceparent, c.Tracestate)
		if !parent.IsSampled() {
			return
		}
		story.trace = &traced{parent: parent, correlationID: c.CorrelationID, waits: story.unblocked}
		if c.Attempt > 1 { // a leader before this one saw it wait and fail
			story.trace.waits = story.begun
			if t.attempts != nil && t.attempts.due > 0 {
				story.trace.waits = t.attempts.due + s.leader.clock
			}
		} else {
			s.span(t, tasktrace.WaitResources, t.created, story.unblocked, s.blocker(t)...)
		}
	}
	known := story.trace
	known.attempt, known.executor, known.reported = c.Attempt, t.owner.name, 0
	s.span(t, tasktrace.WaitWorker, known.waits, story.begun, tasktrace.Attempt.Int(int(c.Attempt)), tasktrace.Executor.String(known.executor))
	known.waits = story.begun // should it come back without having begun
}

// blocker says what a task has waited for longest; nothing if it did not wait.
func (s *spans) blocker(t *live) []attribute.KeyValue {
	hold := s.leader.locks.Blocker(t.seq)
	if hold == nil {
		return nil
	}
	name := hold.Name
	if holder := s.leader.tasks[hold.Seq]; name == "" && holder != nil {
		name = holder.id // it goes on, what stood between the two was canceled
	}
	return []attribute.KeyValue{tasktrace.BlockerTask.String(name), tasktrace.BlockerResource.String(hold.Resource)}
}

// failed ends an attempt that is not the last.
func (s *spans) failed(t *live, a Again, at int64) {
	if t.story == nil || t.story.trace == nil {
		return
	}
	s.lostRun(t, a.Error, at)
	t.story.trace.waits = at
}

// ended makes the last span of a task.
func (s *spans) ended(t *live, end End, state task.State, at int64) {
	if t.story == nil || t.story.trace == nil {
		return
	}
	if state == task.Canceled && end.State == "" && !t.canceling {
		return // by a dispatcher, who has told of it
	}
	known := t.story.trace
	s.lostRun(t, end.Error, at)
	if known.reported == 0 {
		known.reported = at
	}
	about := []attribute.KeyValue{
		tasktrace.Outcome.String(string(state)), tasktrace.Attempt.Int(int(known.attempt)), tasktrace.Executor.String(known.executor),
	}
	if state == task.Failed && end.Error != nil {
		about = append(about, tasktrace.ErrorCode.String(end.Error.Code))
	}
	s.span(t, tasktrace.Finish, known.reported, max(at, s.leader.time()), about...)
}

// lostRun makes the span of a run whose executor is lost, and can't.
func (s *spans) lostRun(t *live, failure *task.Error, at int64) {
	if failure == nil || failure.Code != task.CodeMissing {
		return
	}
	known := t.story.trace
	var links []trace.SpanStartOption
	if known.attempt > 1 {
		links = append(links, trace.WithLinks(trace.Link{SpanContext: tasktrace.RunContext(known.parent, t.id, known.attempt-1)}))
	}
	about := []attribute.KeyValue{
		tasktrace.Attempt.Int(int(known.attempt)), tasktrace.Executor.String(known.executor),
		tasktrace.Outcome.String(string(task.Failed)), tasktrace.ErrorCode.String(failure.Code),
	}
	span := s.begin(tasktrace.WithSpanID(s.under(known), tasktrace.RunID(t.id, known.attempt)), t, tasktrace.Run, t.story.begun, about,
		append(links, trace.WithSpanKind(trace.SpanKindConsumer))...)
	span.SetStatus(codes.Error, failure.Reason)
	span.End(trace.WithTimestamp(time.UnixMicro(max(at, t.story.begun))))
}

// span makes one span of a task, below its dispatch.
func (s *spans) span(t *live, name string, from, to int64, about ...attribute.KeyValue) {
	span := s.begin(s.under(t.story.trace), t, name, min(from, to), about) // two clocks may have had a part in it
	span.End(trace.WithTimestamp(time.UnixMicro(to)))
}

func (s *spans) under(known *traced) context.Context {
	//nolint:forbidigo // spans are not canceled
	return trace.ContextWithRemoteSpanContext(context.Background(), known.parent)
}

func (s *spans) begin(ctx context.Context, t *live, name string, at int64, about []attribute.KeyValue, options ...trace.SpanStartOption) trace.Span {
	about = append(slices.Grow(about, 4), tasktrace.TaskID.String(t.id), tasktrace.TaskName.String(t.lane.name), tasktrace.Domain.String(task.DefaultDomain),
		tasktrace.CorrelationID.String(t.story.trace.correlationID))
	//nolint:spancheck // the caller ends it
	_, span := s.tracer.Start(ctx, name, append(options, trace.WithTimestamp(time.UnixMicro(at)), trace.WithAttributes(about...))...)
	return span //nolint:spancheck // the same
}

// dispatch begins the span of a task that may be dispatched for a schedule, and puts its context where it goes into the row.
func (s *spans) dispatch(ctx context.Context, fresh *Fresh) trace.Span {
	if s == nil {
		return nil
	}
	_, span := s.tracer.Start(ctx, tasktrace.Dispatch, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithTimestamp(time.UnixMicro(s.leader.time())))
	if span.SpanContext().IsSampled() {
		fresh.Traceparent, fresh.Tracestate = tasktrace.Format(span.SpanContext())
	}
	return span
}

// dispatched ends the span of a task that a schedule's time has brought: a root, for the schedule's maker has long gone on, with links
// to where the schedule was made and to the task of the time before. The span of one that was not needed is not ended, and so never seen.
func (s *spans) dispatched(span trace.Span, f *Fired) {
	if s == nil || span == nil || f.TaskID == "" {
		return
	}
	for _, other := range []trace.SpanContext{f.Made, f.Last} {
		if other.IsValid() {
			span.AddLink(trace.Link{SpanContext: other})
		}
	}
	span.SetAttributes(
		tasktrace.TaskID.String(f.TaskID), tasktrace.TaskName.String(f.TaskName), tasktrace.Domain.String(task.DefaultDomain),
		tasktrace.CorrelationID.String(f.CorrelationID), scheduleName.String(f.Name),
		tasktrace.Exclusive.StringSlice(f.Exclusive), tasktrace.Shared.StringSlice(f.Shared))
	span.End(trace.WithTimestamp(time.UnixMicro(s.leader.time())))
}

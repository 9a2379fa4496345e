package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
)

const (
	// maxFire is how many schedules one transaction dispatches; scheduler_fire says why.
	maxFire = 50
	// fireAgain is the pause after a transaction that could not dispatch what is due.
	fireAgain = time.Second
	// dueWithin is how far ahead the leader notes when a schedule is due. It asks each second in any case; this is for the way there.
	dueWithin = time.Minute
)

// Fresh is what a task that is dispatched for a schedule gets from outside.
type Fresh struct {
	TaskID string
	// CorrelationID is for a task whose schedule has none.
	CorrelationID string
	// Traceparent and Tracestate are the context of its dispatch, empty for none.
	Traceparent, Tracestate string
}

// Fired is what became of a schedule that was due.
type Fired struct {
	ScheduleID, Name string
	// TaskID is the task that was dispatched for it, empty if none could be; Problem says why.
	TaskID, TaskName, Problem string
	// Due is when it should have been, Next when it is due again; nil: never.
	Due  time.Time
	Next *time.Time
	// What the trace of the task tells. Made is the context in which the schedule was made, Last that of the last task's dispatch, if
	// the task has one itself; zero for none.
	CorrelationID     string
	Exclusive, Shared []string
	Made, Last        trace.SpanContext
}

// Firing is what one transaction made of the schedules that were due.
type Firing struct {
	Fired []Fired
	// Now is the database's clock at the begin of the transaction, Due when the next schedule is due by it, nil if none ever is: both
	// in microseconds since 1970.
	Now int64
	Due *int64
}

// soonest is when there may be something to dispatch again. Due passes over what was dispatched right now, whose tasks are still
// live; but at their next times they need not be, and whoever only asked each second would miss some times of those that are due
// each second.
func (f Firing) soonest() *int64 {
	first := f.Due
	for _, fired := range f.Fired {
		if fired.Next == nil {
			continue
		}
		if next := fired.Next.UnixMicro(); first == nil || next < *first {
			first = &next
		}
	}
	return first
}

// fire dispatches the tasks of schedules that are due, in a transaction of its own: that the task comes and the schedule's next time
// moves is one commit, so it is once for each time, whoever leads. The memory has no part in it, so unlike that of a tick its
// failure costs a pause and not the memory; what it did commit is found by the next glance, like every task that nobody told of.
func (l *leader) fire(ctx context.Context) error {
	if !l.scheduleIsDue() {
		return nil
	}
	tasks, spans := make([]Fresh, maxFire), make(map[string]trace.Span, maxFire)
	for i := range tasks {
		// Both rise with time, so that the indexes on them grow at their ends.
		id, err := uuid.NewV7()
		correlation, also := uuid.NewV7()
		if err := cmp.Or(err, also); err != nil {
			return fmt.Errorf("make an id: %w", err)
		}
		tasks[i] = Fresh{TaskID: id.String(), CorrelationID: correlation.String()}
		spans[tasks[i].TaskID] = l.spans.dispatch(ctx, &tasks[i])
	}
	firing, err := l.store.Fire(ctx, l.epoch, tasks)
	switch {
	case errors.Is(err, ErrDeposed):
		return err
	case err != nil:
		l.due = l.now().Add(fireAgain)
		l.log.WarnContext(ctx, "can't dispatch scheduled tasks; it will be tried again", slog.Any("error", err))
		return nil
	}
	l.expect(firing.soonest(), firing.Now)
	if len(firing.Fired) == 0 && l.scheduleIsDue() {
		l.due = l.now().Add(fireAgain) // what is due is locked, by who deletes it for one
	}
	for _, f := range firing.Fired {
		l.hinted = true
		if l.fired != nil {
			l.fired(f)
		}
		about := []any{
			slog.String("schedule_id", f.ScheduleID), slog.String("schedule", f.Name), slog.String("name", f.TaskName),
			slog.Duration("late", time.UnixMicro(firing.Now).Sub(f.Due)),
		}
		if f.Problem != "" {
			l.log.WarnContext(ctx, "can't dispatch a scheduled task, its next time comes", append(about, slog.String("error", f.Problem))...)
			continue
		}
		l.spans.dispatched(spans[f.TaskID], &f)
		l.log.InfoContext(ctx, "dispatched by schedule", append(about, slog.String("task_id", f.TaskID), slog.String("correlation_id", f.CorrelationID))...)
	}
	return nil
}

// tally counts what became of schedules, for the metrics.
func (s *Service) tally(f Fired) {
	if f.Problem != "" {
		s.undispatched.Add(1)
	} else {
		s.dispatched.Add(1)
	}
}

// expect notes when the next schedule is due, by an answer that has just come: both times are the database's, in microseconds since
// 1970. The answer took its time, so it is not too early.
func (l *leader) expect(due *int64, now int64) {
	if due == nil || *due-now > dueWithin.Microseconds() {
		l.due = time.Time{}
		return
	}
	l.due = l.now().Add(time.Duration(max(0, *due-now)) * time.Microsecond)
}

// scheduleIsDue reports whether there is a schedule to dispatch, as far as that is known.
func (l *leader) scheduleIsDue() bool { return !l.due.IsZero() && !l.now().Before(l.due) }

// alarm is how long it takes until there is something to do for which nobody comes: a task's rest is over, or a schedule is due;
// false if there is no such thing.
func (l *leader) alarm() (left time.Duration, some bool) {
	left, some = l.restLeft()
	if l.due.IsZero() {
		return left, some
	}
	until := l.due.Sub(l.now())
	if some {
		until = min(until, left)
	}
	return until, true
}

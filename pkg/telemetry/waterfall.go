package telemetry

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

const (
	// afterFinish is how long nothing more may come of a trace whose tasks have all ended: a caller's own spans, which end when he has
	// heard of it, belong to it.
	afterFinish = 500 * time.Millisecond
	// quiet is the same for a trace of which nobody knows whether it goes on.
	quiet = 3 * time.Second
	// What is held back at most: who makes that many traces at once can't read them.
	maxHeldTraces = 1000
	maxHeldSpans  = 20000
)

// waterfall shows traces to people: a block of text for each, with a bar for each span, once it is over.
type waterfall struct {
	out io.Writer
	// whole: the end of every task is seen here, so a trace in which one has not ended is not over.
	whole bool
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once

	mu     sync.Mutex
	traces map[trace.TraceID]*fall
	spans  int
	// missed are spans for which there was no room.
	missed int
}

// fall is one trace so far.
type fall struct {
	spans []sdktrace.ReadOnlySpan
	// open are tasks that were dispatched and have not ended.
	open int
	// ended says that a task has.
	ended bool
	last  time.Time
}

func newWaterfall(out io.Writer, whole bool) *waterfall {
	w := &waterfall{out: out, whole: whole, stop: make(chan struct{}), done: make(chan struct{}), traces: map[trace.TraceID]*fall{}}
	go w.watch()
	return w
}

// watch shows what is over.
func (w *waterfall) watch() {
	defer close(w.done)
	look := time.NewTicker(afterFinish / 2)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			// With no room left, what is quiet is shown even if it goes on: the leader may have lost the end of a task, and a
			// thousand that wait for hours must not hide the others.
			w.show(func(f *fall, full bool) bool { return f.over(w.whole && !full, time.Now()) })
		case <-w.stop:
			return
		}
	}
}

// over reports whether nothing more is to be expected.
func (f *fall) over(whole bool, now time.Time) bool {
	switch since := now.Sub(f.last); {
	case f.open > 0 && whole:
		return false
	case f.open <= 0 && f.ended:
		return since >= afterFinish
	default:
		return since >= quiet
	}
}

// OnStart is nothing to show yet.
func (*waterfall) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a span that has ended.
func (w *waterfall) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.traces[s.SpanContext().TraceID()]
	if w.spans >= maxHeldSpans || f == nil && len(w.traces) >= maxHeldTraces {
		w.missed++
		return
	}
	if f == nil {
		f = &fall{}
		w.traces[s.SpanContext().TraceID()] = f
	}
	switch s.Name() {
	case tasktrace.Dispatch:
		if stored(s) {
			f.open++
		}
	case tasktrace.Finish:
		f.open--
		f.ended = true
	}
	f.spans, f.last = append(f.spans, s), time.Now()
	w.spans++
}

// stored reports whether a dispatch made a task, whose end is still to come: not if it was refused, or the task was there already.
func stored(dispatch sdktrace.ReadOnlySpan) bool {
	return dispatch.Status().Code != codes.Error && !slices.ContainsFunc(dispatch.Attributes(), func(a attribute.KeyValue) bool {
		return a.Key == tasktrace.Repeated
	})
}

// show writes the traces that are due, and forgets them.
func (w *waterfall) show(due func(f *fall, full bool) bool) {
	w.mu.Lock()
	var falls [][]sdktrace.ReadOnlySpan
	for id, f := range w.traces {
		if due(f, w.missed > 0) {
			falls = append(falls, f.spans)
			w.spans -= len(f.spans)
			delete(w.traces, id)
		}
	}
	missed := w.missed
	w.missed = 0
	w.mu.Unlock()
	sortByStart(falls)
	for _, spans := range falls {
		_, _ = io.WriteString(w.out, Waterfall(spans)) // somebody looks at it, or nobody does
	}
	if missed > 0 {
		fmt.Fprintf(w.out, "%d spans are not shown: too many traces at once; OTEL_TRACES_SAMPLER=traceidratio and OTEL_TRACES_SAMPLER_ARG=0.01 show one in a hundred\n\n", missed)
	}
}

// ForceFlush shows everything there is.
func (w *waterfall) ForceFlush(context.Context) error {
	w.show(func(*fall, bool) bool { return true })
	return nil
}

// Shutdown shows what is left, and stops looking.
func (w *waterfall) Shutdown(ctx context.Context) error {
	w.once.Do(func() {
		close(w.stop)
		<-w.done
	})
	return w.ForceFlush(ctx)
}

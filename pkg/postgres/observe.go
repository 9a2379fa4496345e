package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
)

// Observe measures a pool, by its name:
//
//	sluice.postgres.connections             open ones, by state: used or idle
//	sluice.postgres.connections.max         how many there may be
//	sluice.postgres.acquires                times that one was taken
//	sluice.postgres.acquire.waits           times that there was none to take at once
//	sluice.postgres.acquire.wait.duration   seconds that were spent waiting for one
//
// All of it is what the pool counts anyhow, read when somebody asks.
func Observe(meter metric.Meter, pool *Pool, name string) error {
	var failed [5]error
	open, err := meter.Int64ObservableUpDownCounter("sluice.postgres.connections", metric.WithUnit("{connection}"),
		metric.WithDescription("open connections to the database, by pool and state"))
	failed[0] = err
	most, err := meter.Int64ObservableUpDownCounter("sluice.postgres.connections.max", metric.WithUnit("{connection}"),
		metric.WithDescription("connections that a pool may open"))
	failed[1] = err
	acquires, err := meter.Int64ObservableCounter("sluice.postgres.acquires", metric.WithUnit("{acquire}"),
		metric.WithDescription("times that a connection was taken from a pool"))
	failed[2] = err
	waits, err := meter.Int64ObservableCounter("sluice.postgres.acquire.waits", metric.WithUnit("{acquire}"),
		metric.WithDescription("times that a pool had no idle connection to give"))
	failed[3] = err
	waited, err := meter.Float64ObservableCounter("sluice.postgres.acquire.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("time spent waiting for a connection of a pool"))
	failed[4] = err
	if err := errors.Join(failed[:]...); err != nil {
		return fmt.Errorf("make the metrics of the pool %s: %w", name, err)
	}
	of := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(more, attribute.String("pool", name))...))
	}
	all, used, idle := of(), of(attribute.String("state", "used")), of(attribute.String("state", "idle"))
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now := pool.Stat()
		o.ObserveInt64(open, int64(now.AcquiredConns()), used)
		o.ObserveInt64(open, int64(now.IdleConns()), idle)
		o.ObserveInt64(most, int64(now.MaxConns()), all)
		o.ObserveInt64(acquires, now.AcquireCount(), all)
		o.ObserveInt64(waits, now.EmptyAcquireCount(), all)
		o.ObserveFloat64(waited, now.EmptyAcquireWaitTime().Seconds(), all)
		return nil
	}, open, most, acquires, waits, waited)
	if err != nil {
		return fmt.Errorf("observe the pool %s: %w", name, err)
	}
	return nil
}

// Tracers makes one of several, for Options. Those that are nil don't count.
func Tracers(several ...pgx.QueryTracer) pgx.QueryTracer {
	var given []pgx.QueryTracer
	for _, t := range several {
		if t != nil {
			given = append(given, t)
		}
	}
	switch len(given) {
	case 0:
		return nil
	case 1:
		return given[0]
	}
	return multitracer.New(given...)
}

// Spans makes a tracer for Options: a span for each statement, batch and copy that is sent below a sampled span. Everything else, which
// is nearly all of it, for ticks and looks belong to nobody in particular, costs the look into its context. Parameters are never shown:
// they may be secrets of somebody's. Taking a connection has no span: it would be one more for each statement, and the wait for one is
// a metric.
func Spans(provider trace.TracerProvider) pgx.QueryTracer {
	return spans{otelpgx.NewTracer(
		otelpgx.WithTracerProvider(provider), otelpgx.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelpgx.WithDisableConnectionDetailsInAttributes(), otelpgx.WithDisableAcquireTracer(),
	)}
}

// spans asks otelpgx only where there is a span to be below. Of itself it would take the time of each statement, for metrics that
// nobody has asked for.
type spans struct{ tracer *otelpgx.Tracer }

// inSpan marks the context of a statement that has a span. Without it the end of a statement would take its caller's for its own.
type inSpan struct{}

func (spans) wanted(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

func (spans) begun(ctx context.Context) bool { return ctx.Value(inSpan{}) != nil }

func (spans) mark(ctx context.Context) context.Context { return context.WithValue(ctx, inSpan{}, true) }

// TraceQueryStart is called when a statement is about to be sent.
func (s spans) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !s.wanted(ctx) {
		return ctx
	}
	return s.mark(s.tracer.TraceQueryStart(ctx, conn, data))
}

// TraceQueryEnd is called when its result has been read.
func (s spans) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if s.begun(ctx) {
		s.tracer.TraceQueryEnd(ctx, conn, data)
	}
}

// TraceBatchStart is called when a pipeline of statements is about to be sent.
func (s spans) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	if !s.wanted(ctx) {
		return ctx
	}
	return s.mark(s.tracer.TraceBatchStart(ctx, conn, data))
}

// TraceBatchQuery is called for each of its results.
func (s spans) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	if s.begun(ctx) {
		s.tracer.TraceBatchQuery(ctx, conn, data)
	}
}

// TraceBatchEnd is called when all of them have been read.
func (s spans) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	if s.begun(ctx) {
		s.tracer.TraceBatchEnd(ctx, conn, data)
	}
}

// TraceCopyFromStart is called when rows are about to be copied into a table.
func (s spans) TraceCopyFromStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	if !s.wanted(ctx) {
		return ctx
	}
	return s.mark(s.tracer.TraceCopyFromStart(ctx, conn, data))
}

// TraceCopyFromEnd is called when they are there.
func (s spans) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromEndData) {
	if s.begun(ctx) {
		s.tracer.TraceCopyFromEnd(ctx, conn, data)
	}
}

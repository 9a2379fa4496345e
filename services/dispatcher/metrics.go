package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// metrics are counted as things happen; a scrape reads nothing but memory.
type metrics struct {
	batch      metric.Int64Histogram
	took       metric.Float64Histogram
	dispatched metric.Int64Counter
	refused    metric.Int64Counter
	canceled   metric.Int64Counter
	// The attributes of each transaction's counts, made once.
	isStored, isRepeated metric.MeasurementOption
}

// unmeasured is for a dispatcher that nobody observes.
func unmeasured() *metrics {
	m, err := newMetrics(noop.Meter{})
	if err != nil {
		return &metrics{} // a meter that makes nothing can't fail
	}
	return m
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	outcome := func(is string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", is)))
	}
	m := &metrics{isStored: outcome("stored"), isRepeated: outcome("repeated")}
	var all []error
	note := func(err error) { all = append(all, err) }
	var err error
	m.batch, err = meter.Int64Histogram("sluice.dispatch.batch", metric.WithUnit("{task}"),
		metric.WithDescription("tasks stored by one transaction"), metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000))
	note(err)
	m.took, err = meter.Float64Histogram("sluice.dispatch.store.duration", metric.WithUnit("s"),
		metric.WithDescription("time that one transaction took that stored tasks"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10))
	note(err)
	m.dispatched, err = meter.Int64Counter("sluice.dispatch.tasks", metric.WithUnit("{task}"),
		metric.WithDescription("tasks dispatched, by outcome: stored, or repeated (their request id was known)"))
	note(err)
	m.refused, err = meter.Int64Counter("sluice.dispatch.refused", metric.WithUnit("{task}"),
		metric.WithDescription("tasks that were not dispatched, by reason, as the error's: OVERLOADED, INVALID, DATABASE_AWAY, ..."))
	note(err)
	m.canceled, err = meter.Int64Counter("sluice.cancels", metric.WithUnit("{task}"),
		metric.WithDescription("wishes to cancel that changed something, by outcome: canceled (it had not started) or canceling"))
	note(err)
	return m, errors.Join(all...)
}

// Observe makes the dispatcher count with a meter. It is called before anything is dispatched.
func (s *Service) Observe(meter metric.Meter) error {
	m, err := newMetrics(meter)
	if err != nil {
		return fmt.Errorf("make the dispatcher's metrics: %w", err)
	}
	_, err = meter.Int64ObservableGauge("sluice.dispatch.pending", metric.WithUnit("{task}"),
		metric.WithDescription("tasks on their way into the database"), metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			tasks, _ := s.intake.load()
			o.Observe(int64(tasks))
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the gauge of pending tasks: %w", err)
	}
	m.begin()
	s.metrics = m
	s.intake.stored = m.stored
	return nil
}

// begin has what alerts ask for there from the start: a counter that begins with its first event never seems to rise by it.
func (m *metrics) begin() {
	ctx := context.Background()
	m.dispatched.Add(ctx, 0, m.isStored)
	m.dispatched.Add(ctx, 0, m.isRepeated)
	for _, reason := range []errs.Reason{errs.Overloaded, errs.DatabaseAway} {
		m.refused.Add(ctx, 0, metric.WithAttributes(attribute.String("reason", string(reason))))
	}
	for _, outcome := range []task.State{task.Canceled, task.Canceling} {
		m.canceled.Add(ctx, 0, metric.WithAttributes(attribute.String("outcome", string(outcome))))
	}
}

// stored is told of each transaction.
func (m *metrics) stored(tasks, repeated int, took time.Duration) {
	ctx := context.Background()
	m.batch.Record(ctx, int64(tasks))
	m.took.Record(ctx, took.Seconds())
	m.dispatched.Add(ctx, int64(tasks-repeated), m.isStored)
	if repeated > 0 {
		m.dispatched.Add(ctx, int64(repeated), m.isRepeated)
	}
}

// refuse counts tasks of a call that failed.
func (m *metrics) refuse(ctx context.Context, tasks int, err error) {
	reason := "INTERNAL"
	var known *errs.Error
	switch {
	case errors.As(err, &known):
		reason = string(known.Reason)
	case ctx.Err() != nil:
		reason = "CALLER_GONE"
	}
	m.refused.Add(ctx, int64(tasks), metric.WithAttributes(attribute.String("reason", reason)))
}

// cancel counts a wish that changed something.
func (m *metrics) cancel(ctx context.Context, state task.State) {
	m.canceled.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", string(state))))
}

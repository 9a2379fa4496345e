package executor

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// metrics are those of an executor and all workers that are connected to it; nil counts nothing. How long tasks take is the scheduler's to tell: it
// knows them all.
type metrics struct {
	runs   metric.Int64Counter
	lines  metric.Int64Counter
	fenced metric.Int64Counter
	forks  metric.Int64Counter
	// outcomes are the attributes of runs, made once.
	outcomes map[string]metric.MeasurementOption
}

// unmeasured is for an executor that nobody observes.
func unmeasured() *metrics {
	m := &metrics{}
	_ = m.use(noop.Meter{}) // a meter that makes nothing can't fail
	return m
}

// use makes the metrics with a meter. Nothing may run yet.
func (m *metrics) use(meter metric.Meter) error {
	var all []error
	counter := func(name, unit, text string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
		all = append(all, err)
		return c
	}
	m.outcomes = map[string]metric.MeasurementOption{}
	for _, is := range []string{string(task.Completed), string(task.Failed), string(task.Canceled), abandoned} {
		m.outcomes[is] = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", is)))
	}
	m.runs = counter("sluice.executor.runs", "{run}", "runs that ended here, by outcome: completed, failed, canceled, or abandoned (they ignore being stopped)")
	m.lines = counter("sluice.executor.lines", "{line}", "times a line to the scheduler was opened; many mean a bad network, or schedulers that change")
	m.fenced = counter("sluice.executor.fenced", "{life}", "lives that ended because no beat was confirmed in time; what ran was killed")
	m.forks = counter("sluice.executor.children", "{process}", "child processes started")
	return errors.Join(all...)
}

// Observe makes the executor count with a meter. It is called before Run.
func (s *Service) Observe(meter metric.Meter) error {
	if err := s.config.metrics.use(meter); err != nil {
		return fmt.Errorf("make the executor's metrics: %w", err)
	}
	// There from the start: a counter that begins with its first event never seems to rise by it.
	ctx := context.Background()
	for _, outcome := range s.config.metrics.outcomes {
		s.config.metrics.runs.Add(ctx, 0, outcome)
	}
	for _, which := range []func(*metrics) metric.Int64Counter{countLine, countFork, countFenced} {
		which(s.config.metrics).Add(ctx, 0)
	}
	slots, err := meter.Int64ObservableGauge("sluice.executor.slots", metric.WithUnit("{slot}"),
		metric.WithDescription("slots here and of the connected workers, by state (taken or free) and kind (ordinary or immediate)"))
	if err != nil {
		return fmt.Errorf("make the gauge of slots: %w", err)
	}
	workers, err := meter.Int64ObservableGauge("sluice.executor.workers", metric.WithUnit("{worker}"),
		metric.WithDescription("workers that are connected to this executor"))
	if err != nil {
		return fmt.Errorf("make the gauge of workers: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s.mu.Lock()
		stations := s.stationsLocked()
		s.mu.Unlock()
		observe := func(kind string, places func(*station) chan struct{}) {
			taken, all := 0, 0
			for _, st := range stations {
				taken, all = taken+len(places(st)), all+cap(places(st))
			}
			for state, n := range map[string]int{"taken": taken, "free": all - taken} {
				o.ObserveInt64(slots, int64(n), metric.WithAttributes(attribute.String("state", state), attribute.String("kind", kind)))
			}
		}
		observe("ordinary", func(st *station) chan struct{} { return st.slots })
		observe("immediate", func(st *station) chan struct{} { return st.immediate })
		o.ObserveInt64(workers, int64(len(stations)-1))
		return nil
	}, slots, workers)
	if err != nil {
		return fmt.Errorf("observe the executor's slots: %w", err)
	}
	return nil
}

// abandoned is the outcome of a run that goes on although nothing can be done about it.
const abandoned = "abandoned"

// ended counts a run; nil is one that goes on although nothing can be done about it.
func (m *metrics) ended(outcome *taskv1.Outcome) {
	if m == nil {
		return
	}
	is := abandoned
	if outcome != nil {
		is = string(wire.FromState(outcome.GetState()))
	}
	m.runs.Add(context.Background(), 1, m.outcomes[is])
}

// What count counts.
func countLine(m *metrics) metric.Int64Counter   { return m.lines }
func countFork(m *metrics) metric.Int64Counter   { return m.forks }
func countFenced(m *metrics) metric.Int64Counter { return m.fenced }

// count adds one to a counter of the executor's, if it has any.
func (m *metrics) count(which func(*metrics) metric.Int64Counter) {
	if m != nil {
		which(m).Add(context.Background(), 1)
	}
}

package scheduler

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	// mostNames is how many names of tasks have metrics of their own; what comes after is counted as otherNames. Names are chosen by
	// clients, and each makes some forty time series.
	mostNames  = 200
	otherNames = "_other"
)

// metrics are counted as things happen, by the goroutine that leads; a scrape reads nothing but memory.
type metrics struct {
	unblock, start, run metric.Float64Histogram
	final               metric.Int64Counter
	retried             metric.Int64Counter
	tick                metric.Float64Histogram
	tickSize            metric.Int64Histogram
	leaderships         metric.Int64Counter

	// series are the attributes of each name, made once.
	series map[seriesKey]*series
	names  map[string]struct{}
}

type seriesKey struct{ name, domain string }

// series is what the metrics of one name and domain are told with.
type series struct {
	plain   metric.MeasurementOption
	outcome map[task.State]metric.MeasurementOption
}

// durations are the bounds of the buckets of times, in seconds: from what a tick takes to a working day.
func durations() metric.HistogramOption {
	return metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 28800)
}

// unmeasured is for a scheduler that nobody observes.
func unmeasured() *metrics {
	m, err := newMetrics(noop.Meter{})
	if err != nil {
		return &metrics{} // a meter that makes nothing can't fail
	}
	return m
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := &metrics{series: map[seriesKey]*series{}, names: map[string]struct{}{}}
	var all []error
	histogram := func(name, text string, buckets metric.HistogramOption) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(text), buckets)
		all = append(all, err)
		return h
	}
	counter := func(name, unit, text string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
		all = append(all, err)
		return c
	}
	m.unblock = histogram("sluice.task.unblock.duration", "time from the dispatch of tasks that started until all their resources were granted, by name and domain", durations())
	m.start = histogram("sluice.task.start.duration", "time from there until an executor was given the task, by name and domain", durations())
	m.run = histogram("sluice.task.run.duration", "time from there to the end of the task, by name, domain and outcome", durations())
	m.final = counter("sluice.task.ended", "{task}", "tasks that reached a final state, by name, domain and outcome; one that was canceled before this scheduler saw it is not among them")
	m.retried = counter("sluice.task.retried", "{attempt}", "attempts that failed and were not the last, by name and domain")
	m.tick = histogram("sluice.scheduler.tick.duration", "time that a tick took, from its decisions to the commit",
		metric.WithExplicitBucketBoundaries(.00025, .0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 3))
	var err error
	m.tickSize, err = meter.Int64Histogram("sluice.scheduler.tick.tasks", metric.WithUnit("{task}"),
		metric.WithDescription("tasks that a tick gave away, and runs that it ended"), metric.WithExplicitBucketBoundaries(0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000))
	all = append(all, err)
	m.leaderships = counter("sluice.scheduler.leaderships", "{leadership}", "times that this scheduler began to lead; many mean that leaders lose their lease")
	return m, errors.Join(all...)
}

// of returns the attributes of a name, or those of all others.
func (m *metrics) of(name, domain string) *series {
	key := seriesKey{name, domain}
	if s := m.series[key]; s != nil {
		return s
	}
	if _, known := m.names[name]; !known {
		if len(m.names) >= mostNames && name != otherNames {
			return m.of(otherNames, domain)
		}
		m.names[name] = struct{}{}
	}
	attributes := []attribute.KeyValue{attribute.String("name", name), attribute.String("domain", domain)}
	s := &series{plain: metric.WithAttributeSet(attribute.NewSet(attributes...)), outcome: map[task.State]metric.MeasurementOption{}}
	for _, state := range task.States() {
		if state.Final() {
			s.outcome[state] = metric.WithAttributeSet(attribute.NewSet(append(attributes[:2:2], attribute.String("outcome", string(state)))...))
		}
	}
	m.series[key] = s
	return s
}

// seconds is the time between two moments in microseconds, never below 0: they may come from two clocks.
func seconds(from, to int64) float64 {
	return (time.Duration(max(0, to-from)) * time.Microsecond).Seconds()
}

// started measures the waits of a task, once: not again for each attempt.
func (m *metrics) started(t *live, c *Claimed) {
	if c.Attempt > 1 {
		return
	}
	ctx, s := t.traceContext(), m.of(t.lane.name, task.DefaultDomain)
	m.unblock.Record(ctx, seconds(t.created, t.story.unblocked), s.plain)
	m.start.Record(ctx, seconds(t.story.unblocked, t.story.begun), s.plain)
}

func (m *metrics) failed(t *live, _ Again, _ int64) {
	m.retried.Add(context.Background(), 1, m.of(t.lane.name, task.DefaultDomain).plain)
}

func (m *metrics) ended(t *live, end End, state task.State, at int64) {
	ctx, outcome := t.traceContext(), m.of(t.lane.name, task.DefaultDomain).outcome[state]
	m.final.Add(ctx, 1, outcome)
	if end.State != "" && t.story != nil && t.story.begun > 0 {
		m.run.Record(ctx, seconds(t.story.begun, at), outcome)
	}
}

// ticked measures a tick.
func (m *metrics) ticked(plan *Plan, took time.Duration) {
	if m == nil {
		return
	}
	ctx := context.Background()
	m.tick.Record(ctx, took.Seconds())
	m.tickSize.Record(ctx, int64(len(plan.Claim)+len(plan.Finish)+len(plan.Retry)))
}

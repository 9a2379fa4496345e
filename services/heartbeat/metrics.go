package heartbeat

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// metrics are counted as things happen. Who lives is a question for ListApps: several services share the table, and a scrape that
// counted it would have each of them read all of it.
type metrics struct {
	registered metric.Int64Counter
	missing    metric.Int64Counter
	beats      metric.Int64Counter
	unwritten  metric.Int64Counter
}

// unmeasured is for a service that nobody observes.
func unmeasured() *metrics {
	m, err := newMetrics(noop.Meter{})
	if err != nil {
		return &metrics{} // a meter that makes nothing can't fail
	}
	return m
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := &metrics{}
	var all []error
	counter := func(name, unit, text string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
		all = append(all, err)
		return c
	}
	m.registered = counter("sluice.heartbeat.registered", "{life}", "lives that began, by kind: worker (an executor) or api (a gateway)")
	m.missing = counter("sluice.heartbeat.missing", "{life}", "leases that ran out: lives declared missing by this service, by kind; each one's tasks fail")
	m.beats = counter("sluice.heartbeat.beats", "{beat}", "beats written")
	m.unwritten = counter("sluice.heartbeat.beats.unwritten", "{beat}", "beats that could not be written: the database was away or slow")
	return m, errors.Join(all...)
}

// Observe makes the service count with a meter. It is called before anybody registers.
func (s *Service) Observe(meter metric.Meter) error {
	m, err := newMetrics(meter)
	if err != nil {
		return fmt.Errorf("make the metrics of heartbeats: %w", err)
	}
	// There from the start: a counter that begins with its first event never seems to rise by it.
	ctx := context.Background()
	for _, kind := range []string{kindWorker, kindAPI} {
		of := metric.WithAttributes(attribute.String("kind", kind))
		m.registered.Add(ctx, 0, of)
		m.missing.Add(ctx, 0, of)
	}
	m.beats.Add(ctx, 0)
	m.unwritten.Add(ctx, 0)
	s.metrics = m
	return nil
}

func (m *metrics) registers(ctx context.Context, kind string) {
	m.registered.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", kind)))
}

// declared counts those that are missing, each by kind and name as Swept has them.
func (m *metrics) declared(ctx context.Context, who []string) {
	for _, name := range who {
		kind, _, _ := strings.Cut(name, " ")
		m.missing.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", kind)))
	}
}

// wrote counts the beats of one flush.
func (m *metrics) wrote(ctx context.Context, beats []Beat, err error) {
	if err != nil {
		m.unwritten.Add(ctx, int64(len(beats)))
		return
	}
	m.beats.Add(ctx, int64(len(beats)))
}

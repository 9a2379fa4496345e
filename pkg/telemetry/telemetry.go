// Package telemetry shows from outside what a process does.
//
// # Owns
//
// The registry of a process's metrics and the form in which Prometheus reads them. Which metrics there are is the business of
// the services; they only see OpenTelemetry's Meter.
//
// # Failure
//
// A metric that can't be made is an error at the start of the process. A scrape never touches the database.
package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Metrics are those of one process.
type Metrics struct {
	registry *prometheus.Registry
	provider *sdk.MeterProvider
}

// New makes the metrics of a process: those of the Go runtime (goroutines, heap, collections) and of the process itself (memory,
// processor time, open files) are there from the start.
func New() (*Metrics, error) {
	registry := prometheus.NewRegistry()
	runtime := collectors.NewGoCollector(
		// What is alive after a collection is what a leak is seen by: all else goes up and down with the collector.
		collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)}))
	registry.MustRegister(runtime, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("make the exporter of metrics: %w", err)
	}
	return &Metrics{registry: registry, provider: sdk.NewMeterProvider(sdk.WithReader(reader))}, nil
}

// Meter makes metrics of a service.
func (m *Metrics) Meter(service string) metric.Meter {
	return m.provider.Meter("github.com/sluice-tasks/sluice/" + service)
}

// Tracer makes spans of a service; one that makes none where tracing is off.
func (m *Metrics) Tracer(service string) trace.Tracer {
	return noop.NewTracerProvider().Tracer("github.com/sluice-tasks/sluice/" + service)
}

// Tracing reports whether spans go anywhere.
func (m *Metrics) Tracing() bool { return false }

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Close stops what was started.
func (m *Metrics) Close(ctx context.Context) error {
	if err := m.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut metrics down: %w", err)
	}
	return nil
}

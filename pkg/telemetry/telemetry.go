// Package telemetry shows from outside what a process does: its metrics, and the spans of what it works on.
//
// # Owns
//
// How a process is set up to show itself, which the standard variables of OpenTelemetry say (OTEL_*, see Start); the registry of its
// metrics and the form in which Prometheus reads them; the waterfall, which shows traces as text; and what every line of the log
// gets that belongs to a span. Which metrics and spans there are is the business of the services: they only see OpenTelemetry's Meter
// and Tracer, and pkg/telemetry/tasktrace says what the trace of a task looks like.
//
// # Failure
//
// A metric that can't be made is an error at the start of the process. A scrape never touches the database. What can't be exported
// is dropped, and said in the log at most once a minute: nobody's task waits for a collector.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
)

// scope is the beginning of the names of all our meters and tracers.
const scope = "github.com/sluice-tasks/sluice/"

// Config says who a process is.
type Config struct {
	// Service is the service.name of what is exported, unless OTEL_SERVICE_NAME says another: "sluice-dispatcher".
	Service string
	// Version is that of the program.
	Version string
	// Log gets warnings about the environment and about what can't be exported. Nil: nobody does.
	Log *slog.Logger
	// Console is where traces are shown as text if OTEL_TRACES_EXPORTER asks for that. Nil: nowhere, whatever it asks for.
	Console io.Writer
	// Whole says that all services are in this process, so that the end of each trace will be seen here.
	Whole bool
}

// Telemetry is that of one process.
type Telemetry struct {
	*Traces
	registry *prometheus.Registry
	metrics  *sdk.MeterProvider
}

// Start sets a process up as the environment asks for:
//
//	OTEL_TRACES_EXPORTER    otlp, console (text, for people) or none. Default: otlp if an endpoint is given, else none.
//	OTEL_METRICS_EXPORTER   otlp or none, beside Prometheus at /metrics. Default: as for traces.
//	OTEL_TRACES_SAMPLER     and ..._ARG: which traces that begin here are recorded. Default: all.
//	OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_*, OTEL_BSP_*, OTEL_METRIC_EXPORT_*
//	                        as OpenTelemetry defines them. OTLP is spoken over HTTP, or gRPC if ..._PROTOCOL is "grpc".
//	OTEL_SDK_DISABLED       true: nothing but /metrics.
//
// Metrics of the Go runtime (goroutines, heap, collections) and of the process itself (memory, processor time, open files) are there
// from the start. A value that means nothing is warned of and ignored, as OpenTelemetry wants it.
func Start(ctx context.Context, c Config) (*Telemetry, error) {
	traces, err := StartTraces(ctx, c)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{Traces: traces, registry: prometheus.NewRegistry()}
	runtime := collectors.NewGoCollector(
		// What is alive after a collection is what a leak is seen by: all else goes up and down with the collector.
		collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)}))
	t.registry.MustRegister(runtime, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(exporter.WithRegisterer(t.registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the exporter of metrics: %w", err), traces.Close(ctx))
	}
	options := []sdk.Option{sdk.WithReader(reader), sdk.WithResource(traces.resource)}
	pushed, err := metricReader(ctx, c)
	if err != nil {
		return nil, errors.Join(err, traces.Close(ctx))
	}
	if pushed != nil {
		options = append(options, sdk.WithReader(pushed))
	}
	t.metrics = sdk.NewMeterProvider(options...)
	return t, nil
}

// Meter makes metrics of a service.
func (t *Telemetry) Meter(service string) metric.Meter { return t.metrics.Meter(scope + service) }

// Handler answers Prometheus. Who asks for OpenMetrics gets exemplars: a task's trace beside the bucket that it fell into.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Close sends what is left, and stops what was started.
func (t *Telemetry) Close(ctx context.Context) error {
	err := t.metrics.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("shut metrics down: %w", err)
	}
	return errors.Join(err, t.Traces.Close(ctx))
}

package telemetry

import (
	"context"
	"errors"
	"fmt"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Traces are the spans that a process makes. The zero value makes none.
type Traces struct {
	provider *sdktrace.TracerProvider // nil where tracing is off
	resource *resource.Resource
}

// StartTraces is the half of Start that has to do with traces, for a process that has no metrics of its own.
func StartTraces(ctx context.Context, c Config) (*Traces, error) {
	described, err := describe(ctx, c)
	if err != nil {
		return nil, err
	}
	listen(c.Log)
	t := &Traces{resource: described}
	processor, err := spanProcessor(ctx, c)
	if err != nil || processor == nil {
		return t, err
	}
	// Without an option for it, the provider asks the environment for the sampler.
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(processor), sdktrace.WithResource(described), sdktrace.WithIDGenerator(ids{}))
	return t, nil
}

// Tracer makes spans of a service; one that makes none where tracing is off.
func (t *Traces) Tracer(service string) trace.Tracer {
	return t.TracerProvider().Tracer(scope + service)
}

// TracerProvider is for libraries that want one.
func (t *Traces) TracerProvider() trace.TracerProvider {
	if !t.Tracing() {
		return noop.NewTracerProvider()
	}
	return t.provider
}

// Tracing reports whether spans go anywhere.
func (t *Traces) Tracing() bool { return t != nil && t.provider != nil }

// Flush sends what has ended so far, and returns when it has arrived, or ctx ends.
func (t *Traces) Flush(ctx context.Context) error {
	if !t.Tracing() {
		return nil
	}
	if err := t.provider.ForceFlush(ctx); err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	return nil
}

// Close sends what is left, and makes no more spans.
func (t *Traces) Close(ctx context.Context) error {
	if !t.Tracing() {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

// describe says which process it is that exports. What the environment says wins.
func describe(ctx context.Context, c Config) (*resource.Resource, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	own := []attribute.KeyValue{
		attribute.String("service.name", c.Service),
		attribute.String("service.instance.id", fmt.Sprintf("%d@%s", os.Getpid(), host)),
		attribute.String("host.name", host),
	}
	if c.Version != "" {
		own = append(own, attribute.String("service.version", c.Version))
	}
	described, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(own...), resource.WithFromEnv())
	if errors.Is(err, resource.ErrPartialResource) {
		warn(ctx, c.Log, "OTEL_RESOURCE_ATTRIBUTES can't be read", err)
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("describe this process: %w", err)
	}
	return described, nil
}

package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

// scopeName is what the gateway's spans are said to be made by, but for those of requests.
const scopeName = "github.com/sluice-tasks/sluice/gateway"

// What requests are called that belong to no route.
const (
	routeUnknown = "_other"
	routeWelcome = "/"
	routeDocs    = "/api/v3/docs"
	routeGalaxy  = "/galaxy"
)

// observer measures REST requests, and makes a span of each one that is traced: whose caller is, or that wants to change something.
// Clients read a task again and again until it is final; a trace of each look would be most of what a collector gets.
type observer struct {
	// tracer is nil where tracing is off.
	tracer   trace.Tracer
	duration metric.Float64Histogram
}

// newObserver makes an observer. A nil meter measures nothing, a nil tracer makes no spans.
func newObserver(meter metric.Meter, tracer trace.Tracer) (*observer, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	duration, err := meter.Float64Histogram("sluice.http.duration", metric.WithUnit("s"),
		metric.WithDescription("time that REST requests took, by method, route and code; streams and long polls last as long as their clients want"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	if err != nil {
		return nil, fmt.Errorf("make the metrics of requests: %w", err)
	}
	return &observer{tracer: tracer, duration: duration}, nil
}

// begin makes the span of a request, if it is to have one, and puts it into the request's context.
func (o *observer) begin(r *http.Request) (*http.Request, trace.Span) {
	if o.tracer == nil {
		return r, nil
	}
	caller := tasktrace.Parse(traceContext(r.Header.Get(headerTraceparent), r.Header.Get(headerTracestate)))
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if reads && !caller.IsSampled() {
		return r, nil
	}
	//nolint:spancheck // end ends it
	ctx, span := o.tracer.Start(trace.ContextWithRemoteSpanContext(r.Context(), caller), r.Method, trace.WithSpanKind(trace.SpanKindServer))
	return r.WithContext(ctx), span //nolint:spancheck // the same
}

// end measures a request that was answered, and ends its span.
func (o *observer) end(r *http.Request, span trace.Span, w *recorder, cid string, took time.Duration) {
	route, method := w.route, r.Method
	if route == "" {
		route = routeUnknown
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "_OTHER" // whoever asks can make up as many as he likes
	}
	o.duration.Record(r.Context(), took.Seconds(), metric.WithAttributeSet(attribute.NewSet(
		attribute.String("method", method), attribute.String("route", route), attribute.Int("code", w.code()))))
	// Nobody gets to write into a collector without a login, nor with paths that he made up: a span that is not ended is never seen.
	if span == nil || w.code() == http.StatusUnauthorized || w.route == "" {
		return
	}
	span.SetName(method + " " + route)
	span.SetAttributes(
		attribute.String("http.request.method", method), attribute.String("http.route", route),
		attribute.Int("http.response.status_code", w.code()), tasktrace.CorrelationID.String(cid))
	if w.code() >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, http.StatusText(w.code()))
	}
	span.End()
}

// inner lets the calls that the gateway makes for a request be below the request's span.
func (o *observer) inner() (options []grpc.ServerOption) {
	if o.tracer != nil {
		options = append(options, grpc.ChainUnaryInterceptor(rpc.Continue))
	}
	return options
}

// traced is the trace context that goes on with a request: of its span if it has one, sampled or not, else what it brought.
func traced(r *http.Request) (parent, state string) {
	if span := trace.SpanContextFromContext(r.Context()); span.IsValid() {
		return tasktrace.Format(span)
	}
	return traceContext(r.Header.Get(headerTraceparent), r.Header.Get(headerTracestate))
}

// traceContext leaves out what is not of the form that W3C prescribes. It must be ignored as if it had not been sent.
func traceContext(parent, state string) (goodParent, goodState string) {
	if !traceparentForm.MatchString(parent) || len(parent) > maxTracestate {
		return "", ""
	}
	if len(state) > maxTracestate || !printable(state) {
		state = ""
	}
	return parent, state
}

// called notes which route a request took.
func called(w http.ResponseWriter, route string) {
	if r, ok := w.(*recorder); ok {
		r.route = route
	}
}

// template is a route as it stands in http.yaml.
func (r *route) template() string { return "/" + strings.Join(r.segments, "/") }

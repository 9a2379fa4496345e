package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const (
	metaTraceparent = "traceparent"
	metaTracestate  = "tracestate"
)

// Observer measures the calls that servers answer, and makes a span of each unary call whose caller is traced. It is an option of
// NewServer. One may serve several servers.
//
//	sluice.rpc.duration  seconds that unary calls took, by service, method and code
//	sluice.rpc.streams   streams that are open, by service and method
//	sluice.rpc.ended     streams that have ended, by service, method and code
//
// Calls that come without a sampled context have no spans: beats, looks and hints would be most of what a collector gets. Streams have
// none either, for they last as long as processes.
type Observer struct {
	grpc.EmptyServerOption
	// tracer is nil where tracing is off.
	tracer   trace.Tracer
	duration metric.Float64Histogram
	open     metric.Int64UpDownCounter
	ended    metric.Int64Counter
	// methods are those of all protos of this program, by their full names ("/sluice.status.v1.StatusService/GetTask").
	methods map[string]*observed
	// unknown stands for what nobody serves, whatever it is called.
	unknown *observed
}

// observed is a method, with the attributes of its measurements, which are made once: per call it would cost as much as measuring.
type observed struct {
	attributes []attribute.KeyValue
	streams    bool
	every      metric.MeasurementOption
	byCode     [codes.Unauthenticated + 1]metric.MeasurementOption
}

// Observe makes an observer. A nil tracer makes no spans.
func Observe(meter metric.Meter, tracer trace.Tracer) (*Observer, error) {
	o := &Observer{tracer: tracer, methods: map[string]*observed{}, unknown: observe("_other", "_other", false)}
	var failed [3]error
	o.duration, failed[0] = meter.Float64Histogram("sluice.rpc.duration", metric.WithUnit("s"),
		metric.WithDescription("time that unary calls took at the server, by service, method and code"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	o.open, failed[1] = meter.Int64UpDownCounter("sluice.rpc.streams", metric.WithUnit("{stream}"),
		metric.WithDescription("streams that are open at the server, by service and method"))
	o.ended, failed[2] = meter.Int64Counter("sluice.rpc.ended", metric.WithUnit("{stream}"),
		metric.WithDescription("streams that ended at the server, by service, method and code"))
	if err := errors.Join(failed[:]...); err != nil {
		return nil, fmt.Errorf("make the metrics of calls: %w", err)
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				o.methods["/"+string(service.FullName())+"/"+string(method.Name())] = observe(string(service.FullName()), string(method.Name()), method.IsStreamingClient() || method.IsStreamingServer())
			}
		}
		return true
	})
	return o, nil
}

func observe(service, method string, streams bool) *observed {
	m := &observed{attributes: []attribute.KeyValue{attribute.String("service", service), attribute.String("method", method)}, streams: streams}
	m.every = metric.WithAttributeSet(attribute.NewSet(m.attributes...))
	for code := range m.byCode {
		all := append(m.attributes[:2:2], attribute.String("code", codes.Code(code).String()))
		m.byCode[code] = metric.WithAttributeSet(attribute.NewSet(all...))
	}
	return m
}

func (o *Observer) find(method string) *observed {
	if m, known := o.methods[method]; known {
		return m
	}
	return o.unknown
}

func (m *observed) ended(err error) metric.MeasurementOption {
	code := status.Code(err)
	if int(code) >= len(m.byCode) {
		code = codes.Unknown
	}
	return m.byCode[code]
}

func (o *Observer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	ctx, span := o.begin(ctx, info.FullMethod)
	resp, err := handler(ctx, req)
	o.duration.Record(ctx, time.Since(start).Seconds(), o.find(info.FullMethod).ended(err))
	finish(span, err)
	return resp, err
}

// stream is for streams, and for whatever a front forwards, where all calls look like streams.
func (o *Observer) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m, ctx := o.find(info.FullMethod), stream.Context()
	if !m.streams {
		start := time.Now()
		err := handler(srv, stream)
		o.duration.Record(ctx, time.Since(start).Seconds(), m.ended(err))
		return err
	}
	o.open.Add(ctx, 1, m.every)
	err := handler(srv, stream)
	o.open.Add(ctx, -1, m.every)
	o.ended.Add(ctx, 1, m.ended(err))
	return err
}

// begin makes the span of a call; nil if it is to have none.
func (o *Observer) begin(ctx context.Context, method string) (context.Context, trace.Span) {
	if o.tracer == nil {
		return ctx, nil
	}
	caller := callerSpan(ctx)
	if !caller.IsSampled() {
		return ctx, nil
	}
	name := strings.TrimPrefix(method, "/")
	service, short, _ := strings.Cut(name, "/")
	//nolint:spancheck // finish ends it
	return o.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, caller), name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", short)))
}

// finish ends the span of a call. What the caller did wrong is no error of ours.
func finish(span trace.Span, err error) {
	if span == nil {
		return
	}
	code := status.Code(err)
	span.SetAttributes(attribute.Int("rpc.grpc.status_code", int(code)))
	if fault(code) || code == codes.Unavailable || code == codes.DeadlineExceeded {
		span.SetStatus(otelcodes.Error, status.Convert(err).Message())
	}
	span.End()
}

// callerSpan is the trace context that a call brought.
func callerSpan(ctx context.Context) trace.SpanContext {
	parent := metadata.ValueFromIncomingContext(ctx, metaTraceparent)
	if len(parent) == 0 {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{metaTraceparent: parent[0]}
	if state := metadata.ValueFromIncomingContext(ctx, metaTracestate); len(state) > 0 {
		carrier[metaTracestate] = strings.Join(state, ",")
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier)) //nolint:forbidigo // nothing of the call's may leak into it
}

// Continue makes the calls that a handler makes belong to its caller's trace, on a server that makes no spans itself: one that sits in
// the middle of a process.
func Continue(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if caller := callerSpan(ctx); caller.IsSampled() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, caller)
	}
	return handler(ctx, req)
}

// traced adds the trace context of who calls to what the server is told, unless he named one himself. It needs no tracer: a program
// that uses our client has its own.
func traced(ctx context.Context) context.Context {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return ctx
	}
	if md, has := metadata.FromOutgoingContext(ctx); has && len(md.Get(metaTraceparent)) > 0 {
		return ctx
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	for _, key := range []string{metaTraceparent, metaTracestate} {
		if carrier[key] != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, key, carrier[key])
		}
	}
	return ctx
}

func traceClient(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(traced(ctx), method, req, reply, conn, opts...)
}

func traceClientStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return streamer(traced(ctx), desc, conn, method, opts...)
}

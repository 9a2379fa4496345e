package rpc_test

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

const someTraceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// seen is what an observer has seen.
type seen struct {
	observer *rpc.Observer
	spans    *tracetest.SpanRecorder
	reader   *sdk.ManualReader
}

func observer(t *testing.T) *seen {
	t.Helper()
	s := &seen{spans: tracetest.NewSpanRecorder(), reader: sdk.NewManualReader()}
	made, err := rpc.Observe(sdk.NewMeterProvider(sdk.WithReader(s.reader)).Meter("rpc"),
		sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans)).Tracer("rpc"))
	if err != nil {
		t.Fatal(err)
	}
	s.observer = made
	return s
}

// counts are measurements as "metric service/method code": how many there were, or how much they are.
func (s *seen) counts(t *testing.T) map[string]int {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := s.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	note := func(name string, set attribute.Set, n int) {
		of := func(key string) string {
			value, _ := set.Value(attribute.Key(key))
			return value.String()
		}
		counts[strings.TrimSpace(name+" "+of("service")+"/"+of("method")+" "+of("code"))] += n
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					note(m.Name, p.Attributes, int(p.Count))
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					note(m.Name, p.Attributes, int(p.Value))
				}
			}
		}
	}
	return counts
}

func (s *seen) want(t *testing.T, counts map[string]int) {
	t.Helper()
	got := s.counts(t)
	for name, want := range counts {
		if got[name] != want {
			t.Errorf("%s: %d, want %d, of %v", name, got[name], want, got)
		}
	}
}

// watched starts a server with an observer.
func watched(t *testing.T, n *near) (s *seen, addr string) {
	t.Helper()
	s = observer(t)
	server := rpc.NewServer(slog.New(slog.DiscardHandler), s.observer, (*rpc.Observer)(nil))
	dispatcherv1.RegisterDispatcherServiceServer(server, n)
	statusv1.RegisterStatusServiceServer(server, n)
	heartbeatv1.RegisterHeartbeatServiceServer(server, n)
	return s, serve(t, server.Server)
}

func TestCallsAreMeasuredByTheCodeThatTheirCallersSee(t *testing.T) {
	n := &near{}
	s, addr := watched(t, n)
	client := dispatcherv1.NewDispatcherServiceClient(dial(t, addr))
	outcomes := []func() error{
		func() error { return nil },
		func() error { return errs.NotFound(errs.TaskNotFound, "no task") },
		func() error { panic("x") },
	}
	n.cancel = func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		return &dispatcherv1.CancelResponse{}, outcomes[0]()
	}
	for ; len(outcomes) > 0; outcomes = outcomes[1:] {
		_, _ = client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID})
	}
	_, _ = client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: "no id"}) // which only an interceptor sees
	const method = "sluice.rpc.duration sluice.dispatcher.v1.DispatcherService/Cancel "
	s.want(t, map[string]int{method + "OK": 1, method + "NotFound": 1, method + "Internal": 1, method + "InvalidArgument": 1})
	if n := len(s.spans.Ended()); n != 0 {
		t.Errorf("calls of nobody's trace have %d spans", n)
	}
}

func TestStreamsAreCountedWhileTheyAreOpenAndWhenTheyEnd(t *testing.T) {
	n := &near{}
	open, end := make(chan struct{}), make(chan struct{})
	n.beat = func(grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		close(open)
		<-end
		return nil
	}
	s, addr := watched(t, n)
	stream, err := heartbeatv1.NewHeartbeatServiceClient(dial(t, addr)).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const method = "sluice.heartbeat.v1.HeartbeatService/Beat"
	within(t, "the stream is open", open)
	s.want(t, map[string]int{"sluice.rpc.streams " + method: 1, "sluice.rpc.ended " + method + " OK": 0})
	close(end)
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // it is never wrapped
		t.Fatal(err)
	}
	s.want(t, map[string]int{"sluice.rpc.streams " + method: 0, "sluice.rpc.ended " + method + " OK": 1})
}

func TestACallOfASampledCallerHasASpanBelowHis(t *testing.T) {
	n := &near{}
	var inside trace.SpanContext
	n.cancel = func(ctx context.Context, r *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		inside = trace.SpanContextFromContext(ctx)
		if r.GetTaskId() == someID {
			return nil, errs.NotFound(errs.TaskNotFound, "no task")
		}
		panic("x")
	}
	s, addr := watched(t, n)
	client := dispatcherv1.NewDispatcherServiceClient(plain(t, addr))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", someTraceparent, "tracestate", "a=b")
	_, _ = client.Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: someID})
	_, _ = client.Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: strings.Replace(someID, "0", "1", 1)})
	unsampled := metadata.AppendToOutgoingContext(t.Context(), "traceparent", strings.TrimSuffix(someTraceparent, "1")+"0")
	_, _ = client.Cancel(unsampled, &dispatcherv1.CancelRequest{TaskId: someID})
	spans := s.spans.Ended()
	if len(spans) != 2 {
		t.Fatalf("there are %d spans, want 2", len(spans))
	}
	for i, want := range []otelcodes.Code{otelcodes.Unset, otelcodes.Error} {
		span := spans[i]
		if span.Name() != "sluice.dispatcher.v1.DispatcherService/Cancel" || span.Parent().SpanID().String() != "b7ad6b7169203331" ||
			span.SpanContext().TraceState().String() != "a=b" || span.Status().Code != want {
			t.Errorf("span %d is %s below %v, ended with %v", i, span.Name(), span.Parent(), span.Status())
		}
	}
	if inside.IsSampled() {
		t.Error("an unsampled call is below a sampled span")
	}
}

func TestAClientBringsTheTraceOfItsCallerUnlessThatNamesOneItself(t *testing.T) {
	n := &near{}
	var got []string
	n.dispatch = func(ctx context.Context, _ *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		got = append(got, strings.Join(metadata.ValueFromIncomingContext(ctx, "traceparent"), "+")+" "+
			strings.Join(metadata.ValueFromIncomingContext(ctx, "tracestate"), "+"))
		return &dispatcherv1.DispatchResponse{}, nil
	}
	n.watch = func(_ *statusv1.WatchTaskRequest, s grpc.ServerStreamingServer[statusv1.WatchTaskResponse]) error {
		got = append(got, strings.Join(metadata.ValueFromIncomingContext(s.Context(), "traceparent"), "+"))
		return nil
	}
	_, addr, _ := house(t, n)
	conn := dial(t, addr)
	state, err := trace.ParseTraceState("a=b")
	if err != nil {
		t.Fatal(err)
	}
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{15: 1}, SpanID: trace.SpanID{7: 1}, TraceFlags: trace.FlagsSampled, TraceState: state})
	within := trace.ContextWithSpanContext(t.Context(), caller)
	for _, ctx := range []context.Context{t.Context(), within, metadata.AppendToOutgoingContext(within, "traceparent", someTraceparent)} {
		if _, err := dispatcherv1.NewDispatcherServiceClient(conn).Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{Name: "n"}}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := statusv1.NewStatusServiceClient(conn).WatchTask(within, &statusv1.WatchTaskRequest{TaskId: someID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // it is never wrapped
		t.Fatal(err)
	}
	const own = "00-00000000000000000000000000000001-0000000000000001-01"
	if want := []string{" ", own + " a=b", someTraceparent + " ", own}; !slices.Equal(got, want) {
		t.Errorf("the server was told %q, want %q", got, want)
	}
}

func TestAFrontMeasuresWhatItForwardsAndNoNamesThatCallersMakeUp(t *testing.T) {
	n := &near{}
	n.cancel = func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		return nil, errs.NotFound(errs.TaskNotFound, "no task")
	}
	n.watch = func(*statusv1.WatchTaskRequest, grpc.ServerStreamingServer[statusv1.WatchTaskResponse]) error {
		return nil
	}
	_, behind, _ := house(t, n)
	far, err := rpc.DialRaw(behind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	s := observer(t)
	front := rpc.NewObservedFront(s.observer, slog.New(slog.DiscardHandler), map[string]grpc.ClientConnInterface{
		dispatcherv1.DispatcherService_ServiceDesc.ServiceName: far,
		statusv1.StatusService_ServiceDesc.ServiceName:         far,
	})
	conn := dial(t, serve(t, front.Server.Server))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", someTraceparent)
	_, _ = dispatcherv1.NewDispatcherServiceClient(conn).Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: someID})
	stream, err := statusv1.NewStatusServiceClient(conn).WatchTask(ctx, &statusv1.WatchTaskRequest{TaskId: someID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // it is never wrapped
		t.Fatal(err)
	}
	for _, made := range []string{"/made.up/One", "/made.up/Two"} {
		_ = conn.Invoke(t.Context(), made, &dispatcherv1.CancelRequest{}, &dispatcherv1.CancelResponse{})
	}
	s.want(t, map[string]int{
		"sluice.rpc.duration sluice.dispatcher.v1.DispatcherService/Cancel NotFound": 1,
		"sluice.rpc.ended sluice.status.v1.StatusService/WatchTask OK":               1,
		"sluice.rpc.streams sluice.status.v1.StatusService/WatchTask":                0,
		"sluice.rpc.duration _other/_other Unimplemented":                            2,
	})
	if n := len(s.spans.Ended()); n != 0 {
		t.Errorf("a front made %d spans", n)
	}
}

// BenchmarkCall is what an observer costs a call, tracing off and on, the caller's trace sampled or not.
func BenchmarkCall(b *testing.B) {
	handler := func(context.Context, any) (any, error) { return nil, nil }
	info := &grpc.UnaryServerInfo{FullMethod: dispatcherv1.DispatcherService_Dispatch_FullMethodName}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(tracetest.NewSpanRecorder())).Tracer("rpc")
	sampled := metadata.NewIncomingContext(b.Context(), metadata.Pairs("traceparent", someTraceparent))
	for name, with := range map[string]struct {
		tracer trace.Tracer
		ctx    context.Context
	}{"off": {nil, sampled}, "on": {tracer, metadata.NewIncomingContext(b.Context(), metadata.MD{})}, "sampled": {tracer, sampled}} {
		b.Run(name, func(b *testing.B) {
			o, err := rpc.Observe(sdk.NewMeterProvider(sdk.WithReader(sdk.NewManualReader())).Meter("rpc"), with.tracer)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				_, _ = rpc.Unary(o)(with.ctx, nil, info, handler)
			}
		})
	}
}

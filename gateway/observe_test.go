package gateway_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

const sampledCaller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestARequestThatChangesSomethingBeginsATraceAndALookDoesNot(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("gateway")
	n := &native{}
	f := newFace(t, n, gateway.Config{Tracer: tracer})
	f.do(t, "GET", tasksPath, "")
	if got := len(spans.Ended()); got != 0 {
		t.Fatalf("a look has %d spans", got)
	}
	f.do(t, "POST", tasksPath, `{"name":"n"}`)
	f.do(t, "POST", tasksPath, `{"name":"n"}`, "traceparent", sampledCaller, "tracestate", "a=b")
	f.do(t, "GET", tasksPath, "", "traceparent", sampledCaller)
	f.do(t, "GET", tasksPath, "", "traceparent", strings.TrimSuffix(sampledCaller, "1")+"0")
	f.do(t, "POST", "/nowhere", "")
	ended := spans.Ended()
	var names []string
	for _, span := range ended {
		names = append(names, span.Name())
	}
	if want := []string{"POST /api/v3/tasks", "POST /api/v3/tasks", "GET /api/v3/tasks"}; !slices.Equal(names, want) {
		t.Fatalf("the spans are %q, want %q", names, want)
	}
	if ended[0].Parent().IsValid() || ended[1].Parent().SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("their parents are %v and %v", ended[0].Parent(), ended[1].Parent())
	}
	if state := ended[1].SpanContext().TraceState().String(); state != "a=b" {
		t.Errorf("the caller's state is %q", state)
	}
}

func TestWhatARequestCallsIsBelowItsSpan(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("gateway")
	f := newFace(t, &native{}, gateway.Config{Tracer: tracer})
	f.do(t, "POST", tasksPath, `{"name":"n"}`, "traceparent", sampledCaller)
	span := spans.Ended()[0].SpanContext()
	want, _ := tasktrace.Format(span)
	if got := f.metadata.Get("traceparent"); !slices.Equal(got, []string{want}) {
		t.Errorf("the dispatcher was told %q, want %q", got, want)
	}
	none := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("gateway")
	f = newFace(t, &native{}, gateway.Config{Tracer: none})
	f.do(t, "POST", tasksPath, `{"name":"n"}`)
	if got := f.metadata.Get("traceparent"); len(got) != 1 || !strings.HasSuffix(got[0], "-00") {
		t.Errorf("of a trace that nobody records the dispatcher was told %q: it would make a choice of its own", got)
	}
}

func TestRequestsAreMeasuredByRouteAndNotByPath(t *testing.T) {
	reader := sdk.NewManualReader()
	f := newFace(t, &native{}, gateway.Config{Meter: sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("gateway")})
	f.do(t, "GET", tasksPath, "")
	f.do(t, "GET", tasksPath+"0198c0de-0000-7000-8000-000000000001/", "")
	f.do(t, "GET", tasksPath+"0198c0de-0000-7000-8000-000000000002/", "")
	f.do(t, "GET", "/nowhere/at/all", "")
	f.do(t, "BREW", "/nowhere", "")
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, p := range all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Histogram[float64]).DataPoints {
		of := func(key attribute.Key) string {
			value, _ := p.Attributes.Value(key)
			return value.String()
		}
		got[of("method")+" "+of("route")] += p.Count
	}
	for name, want := range map[string]uint64{"GET /api/v3/tasks": 1, "GET /api/v3/tasks/{pulp_id}": 2, "GET _other": 1, "_OTHER _other": 1} {
		if got[name] != want {
			t.Errorf("%s: %d, want %d, of %v", name, got[name], want, got)
		}
	}
}

func TestWhoIsNotKnownMakesNoSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	d := &doorman{}
	d.authenticate = func(ctx context.Context, r *accessv1.AuthenticateRequest) (*accessv1.AuthenticateResponse, error) {
		if parent := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(parent) != 0 {
			t.Errorf("the access service was told %q", parent)
		}
		if r.GetPassword().GetPassword() != "correct:horse" {
			return nil, errs.Denied(errs.BadCredentials, "wrong credentials")
		}
		return &accessv1.AuthenticateResponse{User: &accessv1.User{Id: 7, Username: "ada"}}, nil
	}
	h := newHouse(t, &native{}, d, gateway.Config{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("gateway")})
	h.knock(http.MethodPost, root+"tasks/", "")
	h.knock(http.MethodPost, root+"tasks/", basic("ada:wrong"))
	h.knock(http.MethodDelete, "/nowhere/"+root, basic("ada:wrong"))
	if n := len(spans.Ended()); n != 0 {
		t.Fatalf("strangers have made %d spans", n)
	}
	h.knock(http.MethodPost, root+"tasks/", basic("ada:correct:horse"))
	ended := spans.Ended()
	if len(ended) != 2 || ended[0].Name() != "authenticate" || ended[0].Parent().SpanID() != ended[1].SpanContext().SpanID() {
		t.Errorf("a user has made %d spans: %v", len(ended), ended)
	}
}

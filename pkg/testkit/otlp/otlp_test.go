package otlp_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/testkit/otlp"
)

func TestWhatIsExportedIsReceived(t *testing.T) {
	r := otlp.Start(t)
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpointURL(r.URL()+"/v1/traces"), otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	defer func() { _ = provider.Shutdown(context.WithoutCancel(t.Context())) }()
	at := time.Unix(1_700_000_000, 5000)
	ctx, parent := provider.Tracer("x").Start(t.Context(), "parent", trace.WithTimestamp(at))
	_, child := provider.Tracer("x").Start(ctx, "child", trace.WithTimestamp(at.Add(time.Second)), trace.WithLinks(trace.Link{SpanContext: parent.SpanContext()}),
		trace.WithAttributes(attribute.String("a", "b"), attribute.Int("n", 7), attribute.StringSlice("l", []string{"x", "y"})))
	child.SetStatus(codes.Error, "no paper")
	child.End(trace.WithTimestamp(at.Add(2 * time.Second)))
	parent.End(trace.WithTimestamp(at.Add(3 * time.Second)))

	id, top := parent.SpanContext().TraceID().String(), parent.SpanContext().SpanID().String()
	got := r.Trace(id)
	if len(got) != 2 || len(r.Spans()) != 2 {
		t.Fatalf("received %+v", r.Spans())
	}
	want := []otlp.Span{{
		TraceID: id, ID: top, Name: "parent", Service: got[0].Service, Start: at, End: at.Add(3 * time.Second), Attributes: map[string]any{},
	}, {
		TraceID: id, ID: child.SpanContext().SpanID().String(), Parent: top, Name: "child", Service: got[1].Service,
		Start: at.Add(time.Second), End: at.Add(2 * time.Second), Links: []string{id + "/" + top}, Failed: true, Status: "no paper",
		Attributes: map[string]any{"a": "b", "n": int64(7), "l": []string{"x", "y"}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestJSONHasIDsInHexadecimal(t *testing.T) {
	r := otlp.Start(t)
	const body = `{"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "py"}}]}, "scopeSpans": [{"spans": [{
		"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "parentSpanId": "00f067aa0ba902b7", "name": "work",
		"startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000001000000000", "unknown": 1}]}]}]}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL()+"/v1/traces", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	at := time.Unix(1_700_000_000, 0)
	want := []otlp.Span{{
		TraceID: "0af7651916cd43dd8448eb211c80319c", ID: "b7ad6b7169203331", Parent: "00f067aa0ba902b7", Name: "work", Service: "py",
		Start: at, End: at.Add(time.Second), Attributes: map[string]any{},
	}}
	if diff := cmp.Diff(want, r.Spans()); diff != "" {
		t.Error(diff)
	}
}

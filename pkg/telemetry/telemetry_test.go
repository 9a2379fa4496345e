package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/telemetry"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

// start starts the telemetry of a process whose environment says nothing but what the test has set.
func start(t *testing.T, c telemetry.Config) *telemetry.Telemetry {
	t.Helper()
	c.Service = "sluice-test"
	seen, err := telemetry.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := seen.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return seen
}

// scraped is what Prometheus reads, in the form that it asks for.
func scraped(t *testing.T, seen *telemetry.Telemetry, accept string) string {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil)
	request.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	seen.Handler().ServeHTTP(answer, request)
	body, err := io.ReadAll(answer.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return "\n" + string(body)
}

func TestPrometheusReadsWhatAServiceObserves(t *testing.T) {
	seen := start(t, telemetry.Config{})
	if _, err := seen.Meter("a").Int64ObservableGauge("sluice.tasks.some", metric.WithDescription("some tasks"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error { o.Observe(7); return nil })); err != nil {
		t.Fatal(err)
	}
	body := scraped(t, seen, "")
	for _, line := range []string{"\n# HELP sluice_tasks_some some tasks\n", "\nsluice_tasks_some 7\n", "\ngo_goroutines "} {
		if !strings.Contains(body, line) {
			t.Errorf("no %q in\n%s", line, body)
		}
	}
}

func TestAProcessShowsWhatItUsesItself(t *testing.T) {
	body := scraped(t, start(t, telemetry.Config{}), "")
	for _, name := range []string{
		"go_goroutines", "go_gc_heap_live_bytes", "go_gc_duration_seconds_count", "go_memstats_heap_alloc_bytes",
		"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
	} {
		if !strings.Contains(body, "\n"+name+" ") {
			t.Errorf("there is no %s", name)
		}
	}
}

func TestAMeasurementOfASampledTaskIsAnExemplar(t *testing.T) {
	seen := start(t, telemetry.Config{})
	durations, err := seen.Meter("a").Float64Histogram("sluice.some.time", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	sampled := tasktrace.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
	other := tasktrace.Parse("00-11111111111111111111111111111111-b7ad6b7169203331-00", "")
	durations.Record(trace.ContextWithRemoteSpanContext(t.Context(), sampled), 0.3)
	durations.Record(trace.ContextWithRemoteSpanContext(t.Context(), other), 30)
	body := scraped(t, seen, "application/openmetrics-text; version=1.0.0")
	if !strings.Contains(body, `trace_id="0af7651916cd43dd8448eb211c80319c"`) {
		t.Errorf("no exemplar in\n%s", body)
	}
	if strings.Contains(body, "1111111111") {
		t.Error("a trace that nobody records is an example of something")
	}
}

func TestWithoutAWordInTheEnvironmentThereAreNoSpans(t *testing.T) {
	for name, set := range map[string]map[string]string{
		"nothing":     {},
		"none":        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"},
		"disabled":    {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
		"no console":  {"OTEL_TRACES_EXPORTER": "console"},
		"misspelt":    {"OTEL_TRACES_EXPORTER": "oltp"},
		"metric only": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1/v1/metrics", "OTEL_METRICS_EXPORTER": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range set {
				t.Setenv(key, value)
			}
			var log bytes.Buffer
			c := telemetry.Config{Log: slog.New(slog.NewJSONHandler(&log, nil))}
			if name != "no console" {
				c.Console = io.Discard
			}
			seen := start(t, c)
			if _, span := seen.Tracer("a").Start(t.Context(), "x"); seen.Tracing() || span.IsRecording() {
				t.Error("there is tracing")
			}
			if warned := strings.Contains(log.String(), "OTEL_TRACES_EXPORTER"); warned != (name == "misspelt") {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
	var none *telemetry.Traces
	if none.Tracing() || none.Flush(t.Context()) != nil || none.Tracer("a") == nil {
		t.Error("no traces are something")
	}
}

// collector takes OTLP over HTTP.
type collector struct {
	mu     sync.Mutex
	spans  []string
	names  map[string]string // of the resource
	paths  []string
	answer int
	asked  chan struct{}
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths = append(c.paths, r.URL.Path)
	select {
	case c.asked <- struct{}{}:
	default: // nobody counts
	}
	if c.answer != 0 {
		w.WriteHeader(c.answer)
		return
	}
	request := &collectorv1.ExportTraceServiceRequest{}
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, request) != nil {
		return
	}
	for _, resource := range request.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			c.names[a.GetKey()] = a.GetValue().GetStringValue()
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, span.GetName())
			}
		}
	}
}

func collect(t *testing.T, answer int) *collector {
	t.Helper()
	c := &collector{names: map[string]string{}, answer: answer, asked: make(chan struct{}, 1)}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	return c
}

func TestAnEndpointIsEnoughToSendSpansAndMetrics(t *testing.T) {
	c := collect(t, 0)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=trial,service.version=mine")
	seen, err := telemetry.Start(t.Context(), telemetry.Config{Service: "sluice-test", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	_, span := seen.Tracer("a").Start(t.Context(), "first")
	span.End()
	if err := seen.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	if !slices.Equal(c.spans, []string{"first"}) {
		t.Errorf("after a flush there were %q", c.spans)
	}
	c.mu.Unlock()
	_, span = seen.Tracer("a").Start(t.Context(), "last")
	span.End()
	if err := seen.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.spans, []string{"first", "last"}) || !slices.Contains(c.paths, "/v1/metrics") {
		t.Errorf("there came %q over %q", c.spans, c.paths)
	}
	for key, want := range map[string]string{"service.name": "sluice-test", "service.version": "mine", "deployment.environment.name": "trial"} {
		if c.names[key] != want {
			t.Errorf("%s is %q, want %q", key, c.names[key], want)
		}
	}
}

func TestTheEnvironmentSaysWhichTracesAreRecordedAndWhoWeAre(t *testing.T) {
	c := collect(t, 0)
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
	t.Setenv("OTEL_SERVICE_NAME", "other")
	seen := start(t, telemetry.Config{})
	_, root := seen.Tracer("a").Start(t.Context(), "nobody's")
	root.End()
	caller := tasktrace.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
	_, below := seen.Tracer("a").Start(trace.ContextWithRemoteSpanContext(t.Context(), caller), "somebody's")
	below.End()
	if err := seen.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.spans, []string{"somebody's"}) || c.names["service.name"] != "other" || slices.Contains(c.paths, "/v1/metrics") {
		t.Errorf("there came %q of %q over %q", c.spans, c.names, c.paths)
	}
}

func TestACollectorThatRefusesIsComplainedOfOnce(t *testing.T) {
	c := collect(t, http.StatusBadRequest)
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	var log lines
	seen := start(t, telemetry.Config{Log: slog.New(slog.NewJSONHandler(&log, nil))})
	for range 3 {
		_, span := seen.Tracer("a").Start(t.Context(), "x")
		span.End()
		<-c.asked
	}
	if n := strings.Count(log.String(), "telemetry is lost"); n != 1 {
		t.Errorf("complained %d times: %s", n, log.String())
	}
}

// lines is a log that several goroutines write to.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestASpanGetsTheIDThatOthersKnowAndThoseBelowItDoNot(t *testing.T) {
	collect(t, 0)
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	tracer := start(t, telemetry.Config{}).Tracer("a")
	want := tasktrace.RunID("0198c0de-0000-7000-8000-000000000001", 2)
	ctx, run := tracer.Start(tasktrace.WithSpanID(t.Context(), want), tasktrace.Run)
	ctx, below := tracer.Start(ctx, "below")
	_, deeper := tracer.Start(ctx, "deeper")
	if run.SpanContext().SpanID() != want {
		t.Errorf("the run has the id %s, want %s", run.SpanContext().SpanID(), want)
	}
	if below.SpanContext().SpanID() == want || deeper.SpanContext().SpanID() == want || deeper.SpanContext().SpanID() == below.SpanContext().SpanID() {
		t.Error("an id was given twice")
	}
	if deeper.SpanContext().TraceID() != run.SpanContext().TraceID() {
		t.Error("they are not of one trace")
	}
}

func TestALineOfTheLogBelowASpanNamesItsTrace(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(telemetry.Logs(slog.NewJSONHandler(&out, nil))).With("service", "a")
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), tasktrace.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", ""))
	log.InfoContext(t.Context(), "outside")
	log.InfoContext(ctx, "inside")
	log.InfoContext(ctx, "about another", tasktrace.LogID("00-11111111111111111111111111111111-b7ad6b7169203331-00"))
	log.InfoContext(t.Context(), "about none", tasktrace.LogID(""))
	var got []string
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var line map[string]any
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		traceID, _ := line["trace_id"].(string)
		spanID, _ := line["span_id"].(string)
		if _, empty := line[""]; empty || line["service"] != "a" {
			t.Errorf("a line is %v", line)
		}
		got = append(got, line["msg"].(string)+" "+traceID+" "+spanID)
	}
	want := []string{
		"outside  ", "inside 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331",
		"about another 11111111111111111111111111111111 ", "about none  ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

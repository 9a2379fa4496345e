package telemetry_test

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"

	"github.com/sluice-tasks/sluice/pkg/telemetry"
)

func TestPrometheusReadsWhatAServiceObserves(t *testing.T) {
	m, err := telemetry.New()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if _, err := m.Meter("a").Int64ObservableGauge("sluice.tasks.some", metric.WithDescription("some tasks"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error { o.Observe(7); return nil })); err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	body, err := io.ReadAll(answer.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"# HELP sluice_tasks_some some tasks\n", "\nsluice_tasks_some 7\n", "\ngo_goroutines "} {
		if !strings.Contains("\n"+string(body), line) {
			t.Errorf("no %q in\n%s", line, body)
		}
	}
}

func TestAProcessShowsWhatItUsesItself(t *testing.T) {
	m, err := telemetry.New()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	body := "\n" + answer.Body.String()
	for _, name := range []string{
		"go_goroutines", "go_gc_heap_live_bytes", "go_gc_duration_seconds_count", "go_memstats_heap_alloc_bytes",
		"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
	} {
		if !strings.Contains(body, "\n"+name+" ") {
			t.Errorf("there is no %s", name)
		}
	}
}

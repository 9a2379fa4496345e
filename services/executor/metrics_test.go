package executor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

func TestRunsLinesAndChildrenAreCounted(t *testing.T) {
	reader := sdk.NewManualReader()
	m := unmeasured()
	if err := m.use(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	m.ended(&taskv1.Outcome{State: taskv1.State_STATE_COMPLETED})
	m.ended(&taskv1.Outcome{State: taskv1.State_STATE_FAILED})
	m.ended(nil)
	m.count(countLine)
	m.count(countFork)
	m.count(countFork)
	m.count(countFenced)
	(*metrics)(nil).ended(nil) // of a station that nobody observes
	(*metrics)(nil).count(countLine)

	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, metric := range all.ScopeMetrics[0].Metrics {
		for _, point := range metric.Data.(metricdata.Sum[int64]).DataPoints {
			outcome, _ := point.Attributes.Value("outcome")
			got[metric.Name+" "+outcome.AsString()] = point.Value
		}
	}
	want := map[string]int64{
		"sluice.executor.runs completed": 1, "sluice.executor.runs failed": 1, "sluice.executor.runs abandoned": 1,
		"sluice.executor.lines ": 1, "sluice.executor.children ": 2, "sluice.executor.fenced ": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

package heartbeat

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func TestLeasesThatRanOutAndBeatsAreCounted(t *testing.T) {
	reader := sdk.NewManualReader()
	m, err := newMetrics(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	m.registers(t.Context(), kindWorker)
	m.declared(t.Context(), []string{"worker a b", "api a", "worker c"})
	m.wrote(t.Context(), make([]Beat, 3), nil)
	m.wrote(t.Context(), make([]Beat, 2), errors.New("away"))

	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, metric := range all.ScopeMetrics[0].Metrics {
		for _, point := range metric.Data.(metricdata.Sum[int64]).DataPoints {
			kind, _ := point.Attributes.Value("kind")
			got[metric.Name+" "+kind.AsString()] = point.Value
		}
	}
	want := map[string]int64{
		"sluice.heartbeat.registered worker": 1, "sluice.heartbeat.missing worker": 2, "sluice.heartbeat.missing api": 1,
		"sluice.heartbeat.beats ": 3, "sluice.heartbeat.beats.unwritten ": 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

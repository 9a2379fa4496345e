package dispatcher

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

// sums are the counters of a reader, by name and the one attribute that each has, and how much its histograms have counted.
func sums(t *testing.T, reader *sdk.ManualReader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					name := m.Name
					for _, a := range point.Attributes.ToSlice() {
						name += " " + a.Value.AsString()
					}
					found[name] = point.Value
				}
			case metricdata.Histogram[int64]:
				for _, point := range data.DataPoints {
					found[m.Name] = point.Sum
				}
			}
		}
	}
	return found
}

func TestWhatIsStoredRepeatedAndRefusedIsCounted(t *testing.T) {
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	m, err := newMetrics(provider.Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	m.stored(7, 2, time.Millisecond)
	m.stored(1, 0, time.Millisecond)
	m.refuse(t.Context(), 3, errs.Oversize(errs.Overloaded, "full"))
	gone, leave := context.WithCancel(t.Context())
	leave()
	m.refuse(gone, 1, gone.Err())
	want := map[string]int64{
		"sluice.dispatch.tasks stored": 6, "sluice.dispatch.tasks repeated": 2, "sluice.dispatch.batch": 8,
		"sluice.dispatch.refused OVERLOADED": 3, "sluice.dispatch.refused CALLER_GONE": 1,
	}
	if diff := cmp.Diff(want, sums(t, reader)); diff != "" {
		t.Error(diff)
	}
}

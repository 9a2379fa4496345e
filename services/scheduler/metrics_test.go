package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/sluice-tasks/sluice/pkg/lock"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// collect reads what a scheduler shows: gauges and counters by name and attributes, and how much each histogram has measured.
func collect(t *testing.T, reader *sdk.ManualReader) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	key := func(name string, set attribute.Set) string {
		for _, a := range set.ToSlice() {
			name += " " + a.Value.AsString()
		}
		return name
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					found[key(m.Name, point.Attributes)] = float64(point.Value)
				}
			case metricdata.Gauge[int64]:
				for _, point := range data.DataPoints {
					found[key(m.Name, point.Attributes)] = float64(point.Value)
				}
			case metricdata.Gauge[float64]:
				for _, point := range data.DataPoints {
					found[key(m.Name, point.Attributes)] = point.Value
				}
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					found[key(m.Name, point.Attributes)] = point.Sum
				}
			}
		}
	}
	return found
}

func counting(t *testing.T) (*metrics, *sdk.ManualReader) {
	t.Helper()
	reader := sdk.NewManualReader()
	m, err := newMetrics(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	return m, reader
}

func TestTheTimesOfATaskAreMeasuredOnceEach(t *testing.T) {
	m, reader := counting(t)
	s := newStage(t)
	s.leader.witnesses = append(s.leader.witnesses, m)
	row, behind := s.db.add(retriedRow("a")), s.db.add(tRow("a"))
	s.given("at first", s.tick(offers(row, behind)), row)
	s.now = s.now.Add(time.Second)
	s.tick(s.ends(row, failing("A")))
	s.now = s.now.Add(rest)
	s.given("again", s.tick(), row)
	s.now = s.now.Add(2 * time.Second)
	s.given("the next one", s.tick(s.ends(row, success())), behind)

	got := collect(t, reader)
	if n := got["sluice.task.retried default t"]; n != 1 {
		t.Errorf("%v attempts were retried, want 1", n)
	}
	if n := got["sluice.task.ended default t completed"]; n != 1 {
		t.Errorf("%v tasks completed, want 1: %v", n, got)
	}
	// The last attempt alone counts as the run.
	if took := got["sluice.task.run.duration default t completed"]; took < 2 || took > 2.5 {
		t.Errorf("the run took %v s, want 2", took)
	}
}

func TestNamesThatClientsChooseAreBounded(t *testing.T) {
	m, _ := counting(t)
	for i := range mostNames + 100 {
		m.of(fmt.Sprint("name ", i), task.DefaultDomain)
	}
	if len(m.series) > mostNames+1 {
		t.Errorf("%d names have series of their own, want at most %d and the rest", len(m.series), mostNames)
	}
	if m.of("name 299", task.DefaultDomain) != m.of(otherNames, task.DefaultDomain) {
		t.Error("a late name has a series of its own")
	}
	if m.of("name 0", task.DefaultDomain) == m.of(otherNames, task.DefaultDomain) {
		t.Error("an early name lost its series")
	}
}

func TestWhoLeadsShowsWhatItCounted(t *testing.T) {
	reader := sdk.NewManualReader()
	s := New(Defaults(), nil, nil)
	if err := s.Observe(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"sluice.scheduler.leading": 0, "sluice.scheduler.leaderships": 0, "sluice.schedules.due dispatched": 0, "sluice.schedules.due failed": 0,
	}
	if diff := cmp.Diff(want, collect(t, reader)); diff != "" {
		t.Errorf("a standby: -want +got\n%s", diff)
	}
	s.survey.Store(&Survey{
		Blocked: 5, Ready: 4, Given: 3, Resting: 2, UnknownName: 1, Slots: 7, Free: 4, Executors: 3, Draining: 1, Away: 2, Canceling: 1, Aged: 3,
		LongestBlocked: 90 * time.Second, LongestReady: 1500 * time.Millisecond,
		Queues: []lock.Resource{{Name: "a\xff", WaiterCount: 4}, {Name: "nobody waits"}},
	})
	got := collect(t, reader)
	for name, n := range map[string]float64{
		"sluice.scheduler.leading": 1, "sluice.tasks blocked": 5, "sluice.tasks ready": 4, "sluice.tasks given": 3, "sluice.tasks resting": 2,
		"sluice.tasks.live waiting": 11, "sluice.tasks.live running": 2, "sluice.tasks.live canceling": 1, "sluice.tasks.runnable": 7,
		"sluice.tasks.unrunnable name": 1, "sluice.slots free": 4, "sluice.slots taken": 3, "sluice.executors connected": 2,
		"sluice.executors draining": 1, "sluice.executors away": 2, "sluice.tasks.longest_wait resources": 90, "sluice.tasks.longest_wait slot": 1.5,
		"sluice.resource.waiting a?": 4, "tasks_unblocked_queue": 3, "tasks_longest_unblocked_time": 1.5,
	} {
		if got[name] != n {
			t.Errorf("%s is %v, want %v", name, got[name], n)
		}
	}
	if _, shown := got["sluice.resource.waiting nobody waits"]; shown {
		t.Error("a resource that nobody waits for is shown")
	}
}

func TestHowManyHaveWaitedForFiveSeconds(t *testing.T) {
	for _, many := range []int{100, 3 * countedAbove} {
		w := &waits{phase: ready}
		for i := range many {
			w.add(&live{phase: ready, seq: int64(i)}, int64(i))
		}
		if n := w.older(int64(many/2)-1, many); n != many/2 {
			t.Errorf("of %d the older ones are %d, want half", many, n)
		}
		if n := w.older(-1, many); n != 0 {
			t.Errorf("of %d there are %d from before the first", many, n)
		}
		if n := w.older(int64(many), many); n != many {
			t.Errorf("of %d there are %d until the last", many, n)
		}
	}
	w := &waits{phase: ready}
	w.add(&live{phase: claimed}, 1)
	w.add(&live{phase: ready}, 2)
	if n := w.older(10, 1); n != 1 {
		t.Errorf("%d have waited, want the one that still does", n)
	}
}

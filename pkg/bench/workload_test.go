package bench

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// drawn counts what a workload reserves.
type drawn struct {
	exclusive, shared, immediate int
	names                        map[string]int
}

func draw(t *testing.T, name string, tasks int) drawn {
	t.Helper()
	w, err := newWorkload(name, "run", 1)
	if err != nil {
		t.Fatal(err)
	}
	d := drawn{names: map[string]int{}}
	for n := range tasks {
		r := w.reservation(n)
		if again := w.reservation(n); !slices.Equal(r.exclusive, again.exclusive) || !slices.Equal(r.shared, again.shared) {
			t.Fatalf("task %d of %s is another one the second time: %v, %v", n, name, r, again)
		}
		d.exclusive += len(r.exclusive)
		d.shared += len(r.shared)
		if r.immediate {
			d.immediate++
		}
		own := map[string]bool{}
		for _, resource := range append(append([]string{}, r.exclusive...), r.shared...) {
			if own[resource] || !strings.HasPrefix(resource, w.prefix) {
				t.Fatalf("task %d of %s reserves %s", n, name, resource)
			}
			own[resource] = true
			d.names[resource]++
		}
	}
	return d
}

func TestWorkloadsReserveWhatTheyAreNamedAfter(t *testing.T) {
	const tasks = 20_000
	for _, c := range []struct {
		name                                string
		exclusive, shared, immediate, names int
	}{
		{"none", 0, 0, 0, 0},
		{"disjoint", tasks, 0, 0, tasks},
		{"x1000", tasks, 0, 0, 1000},
		{"random3", tasks, 0, 0, 3},
		{"hot", tasks, 0, 0, 1},
		{"shared", tasks, tasks, 0, 1001},
		{"pulp", 2 * tasks / 10, 2 * tasks * 9 / 10, tasks / 20, 5000},
	} {
		got := draw(t, c.name, tasks)
		near := func(what string, got, want int) {
			// Where chance has a say: five standard deviations.
			if math.Abs(float64(got-want)) > 5*math.Sqrt(float64(want)) {
				t.Errorf("%s: %s is %d, want about %d", c.name, what, got, want)
			}
		}
		near("exclusive", got.exclusive, c.exclusive)
		near("shared", got.shared, c.shared)
		near("immediate", got.immediate, c.immediate)
		// One in 3,000 of Pulp's is left out by chance.
		if n := len(got.names); n > c.names || n < c.names-c.names/500 {
			t.Errorf("%s: %d resources, want %d", c.name, n, c.names)
		}
		for name, n := range got.names {
			if mean := float64(got.exclusive+got.shared) / float64(c.names); c.name != "shared" && math.Abs(float64(n)-mean) > 7*math.Sqrt(mean) {
				t.Errorf("%s: %s is reserved %d times, the mean is %.0f", c.name, name, n, mean)
			}
		}
	}
}

func TestTwoSeedsAreTwoRuns(t *testing.T) {
	one, err := newWorkload("x1000", "run", 1)
	if err != nil {
		t.Fatal(err)
	}
	two, err := newWorkload("x1000", "run", 2)
	if err != nil {
		t.Fatal(err)
	}
	same := 0
	for n := range 1000 {
		if one.reservation(n).exclusive[0] == two.reservation(n).exclusive[0] {
			same++
		}
	}
	if same > 20 {
		t.Errorf("%d of 1000 tasks are the same", same)
	}
}

func TestPercentilesAreValuesThatOccurred(t *testing.T) {
	times := make([]int64, 100)
	for i := range times {
		times[i] = int64(100-i) * 1e6
	}
	if got, want := percentiles(times), (Percentiles{P50: 50, P95: 95, P99: 99}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := percentiles([]int64{7e6}), (Percentiles{P50: 7, P95: 7, P99: 7}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestACorrelationIDIsTheNumberOfATaskOfThisRun(t *testing.T) {
	one, two := newRecord(1, 1), newRecord(1, 1)
	for _, n := range []int{0, 1, 255, 1 << 40} {
		if got, ours := one.number(one.correlation(n)); !ours || got != n {
			t.Errorf("%d became %d, %t", n, got, ours)
		}
	}
	for _, foreign := range []string{"", two.correlation(1), one.mark, one.mark + "xyz", one.mark + "-1"} {
		if _, ours := one.number(foreign); ours {
			t.Errorf("%q was taken for ours", foreign)
		}
	}
}

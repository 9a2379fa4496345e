package main

import (
	"slices"
	"strings"
	"testing"
)

func rec(round int, name string, m metrics) record {
	return record{Name: name, Says: "says " + name, Round: round, Metrics: m}
}

func TestRatiosAreOfOneRound(t *testing.T) {
	// The machine is twice as fast in each further round; the ratio is always 2. Of the medians it would be 2, too, but the
	// second round has no insert, and the ratio of medians would be 800/500.
	r := results{Runs: []record{
		rec(1, runInsert, metrics{metricRate: 200}), rec(1, runX1000, metrics{metricRate: 400}),
		rec(2, runX1000, metrics{metricRate: 800}),
		rec(3, runX1000, metrics{metricRate: 1600}), rec(3, runInsert, metrics{metricRate: 800}),
		{Name: runInsert, Round: 2, Failed: true, Metrics: metrics{metricRate: 1}},
	}}
	got, ok := r.of(goals()[0])
	if !ok || got != (spread{median: 2, low: 2, high: 2}) {
		t.Errorf("got %+v", got)
	}
	if s, ok := r.of(goal{of: figure{runX1000, metricRate}}); !ok || s.median != 800 {
		t.Errorf("got %+v", s)
	}
	if s, ok := r.of(goal{of: figure{runHot, metricRate}, to: figure{runX1000, metricRate}}); ok {
		t.Errorf("the ratio of something that was not measured is %+v", s)
	}
}

func TestVerdicts(t *testing.T) {
	least, most, mustOnly := goal{must: 1, aim: 2}, goal{atMost: true, must: 5, aim: 3}, goal{must: 2.5}
	for _, tc := range []struct {
		goal  goal
		value float64
		want  verdict
	}{
		{least, 0.99, missed},
		{least, 1, passed},
		{least, 2, reached},
		{most, 5.01, missed},
		{most, 5, passed},
		{most, 3, reached},
		{mustOnly, 100, passed},
		{mustOnly, 2.4, missed},
	} {
		if got := tc.goal.verdict(tc.value); got != tc.want {
			t.Errorf("%v with must %v, aim %v: %s, want %s", tc.value, tc.goal.must, tc.goal.aim, got, tc.want)
		}
	}
}

func TestTheTableSaysWhatWasReached(t *testing.T) {
	r := results{Date: "2026-01-31", Rounds: 2, Machine: machine{Commit: "abc"}, Settings: serverSettings(), Runs: []record{
		rec(1, runX1000, metrics{metricRate: 3000, metricCPU: 160.4, metricCommits: 0.05, metricStartP50: 6.25, metricViolations: 0}),
		rec(2, runX1000, metrics{metricRate: 1500, metricCPU: 170, metricCommits: 0.05, metricStartP50: 6.75, metricViolations: 2}),
		rec(1, runInsert, metrics{metricRate: 1000, metricServerCPU: 100}),
		rec(2, runInsert, metrics{metricRate: 1000, metricServerCPU: 100}),
		{Name: runHot, Says: "says hot", Round: 1, Failed: true, Metrics: metrics{metricRate: 1}},
	}}
	text := r.markdown()
	for _, want := range []string{
		"# Benchmark of 2026-01-31, commit abc, 2 rounds",
		"| x1000, batches / pgbench insert | 2.25 (1.50–3.00) | ≥ 1.00 | ≥ 2.00 | pass, aim reached |",
		"| PostgreSQL CPU per task, x1000 | 165 µs (160 µs–170 µs) | ≤ 150 µs | ≤ 80 µs | MISS |",
		"| commits per task, x1000 | 0.05 | ≤ 0.2 | ≤ 0.05 | pass, aim reached |",
		"| random3 / hot | | ≥ 2.50 | | not measured |",
		"found 2 violations in 2 runs",
		"| x1000 | says x1000 | 2,250 (1,500–3,000) | 2.25 | 6.5 | | |",
		"| hot | says hot | failed | | | | |",
		"| pgbench-insert | 100 | | | | | | | |",
		"**Failed at least once: hot.**",
	} {
		if !strings.Contains(squeeze(text), want) {
			t.Errorf("does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "measure again") {
		t.Error("it complains about a quiet machine")
	}
	r.Runs[0].Others, r.Runs[1].Others, r.Runs[2].Others = 0.5, 0.4, 0.3
	if !strings.Contains(r.markdown(), "measure again") {
		t.Error("it takes figures of a busy machine for good")
	}
	if strings.Contains(text, "quick") {
		t.Error("it says that it was quick")
	}
	if r.Quick = true; !strings.Contains(r.markdown(), "A quick go") {
		t.Error("it does not say that it was quick")
	}
}

// squeeze takes the padding out of tables.
func squeeze(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestNumbersHaveThreeDigitsThatMatter(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 0.0512: "0.0512", 0.05: "0.05", 0.2: "0.2", 1.456: "1.46", 9.999: "10", 12.34: "12.3", 80: "80", 150: "150", 1234.5: "1,234",
		123456.7: "123,457", 1000000: "1,000,000", -5: "-5",
	} {
		if got := plain(value); got != want {
			t.Errorf("plain(%v) = %q, want %q", value, got, want)
		}
	}
	for value, want := range map[float64]string{0.956: "0.96", 2: "2.00", 20: "20.0"} {
		if got := ratio(value); got != want {
			t.Errorf("ratio(%v) = %q, want %q", value, got, want)
		}
	}
}

func TestColumnsStandBelowEachOther(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(align([][]string{{"µs", "b"}, {"1", "a long one"}})), "\n")
	want := []string{
		"| µs | b          |",
		"|----|------------|",
		"| 1  | a long one |",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
}

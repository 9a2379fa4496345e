package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const sluiceSays = `{"tasks_per_second": 9417.5, "start_ms": {"p50": 6.5, "p95": 9, "p99": 12.25}, "postgres_cpu_us_per_task": 71,
"wal_bytes_per_task": 1300, "commits_per_task": 0.04, "statements_per_task": 0.3, "violations": 0, "something_new": {"a": 1}}`

// fakeSluice prints text and exits with code, and tells what it was asked.
func fakeSluice(t *testing.T, text string, code string) (binary string, asked func() string) {
	t.Helper()
	dir := t.TempDir()
	binary = filepath.Join(dir, "sluice")
	script := "#!/bin/sh\necho \"$@\" > " + dir + "/asked\ncat <<'end'\n" + text + "\nend\necho a reason >&2\nexit " + code + "\n"
	if err := os.WriteFile(binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return binary, func() string {
		text, err := os.ReadFile(dir + "/asked")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
}

func TestSluiceIsAskedAndUnderstood(t *testing.T) {
	binary, asked := fakeSluice(t, sluiceSays, "0")
	got, err := measureSluice(t.Context(), binary, "postgres://x", run{args: []string{"--workload", "hot"}, units: 50})
	if err != nil {
		t.Fatal(err)
	}
	if want := "bench --database-url postgres://x --output json --workload hot"; asked() != want {
		t.Errorf("asked %q, want %q", asked(), want)
	}
	wanted := metrics{
		metricRate: 9417.5, metricStartP50: 6.5, metricStartP95: 9, metricStartP99: 12.25, metricCPU: 71, metricLog: 1300,
		metricCommits: 0.04, metricStatements: 0.3, metricViolations: 0, metricUnits: 50,
	}
	for name, want := range wanted {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v, want %v", name, value, want)
		}
	}
}

func TestViolationsAreAResultAndOtherFailuresAreNot(t *testing.T) {
	binary, _ := fakeSluice(t, strings.Replace(sluiceSays, `"violations": 0`, `"violations": 3`, 1), "1")
	got, err := measureSluice(t.Context(), binary, "", run{})
	if err != nil || got[metricViolations] != 3 {
		t.Errorf("got %v, %v", got, err)
	}
	binary, _ = fakeSluice(t, sluiceSays, "1")
	if got, err := measureSluice(t.Context(), binary, "", run{}); err == nil || !strings.Contains(err.Error(), "a reason") {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"", "tasks: 1", `{"tasks_per_second": 1}`, `{"violations": 0}`} {
		binary, _ = fakeSluice(t, text, "0")
		if got, err := measureSluice(t.Context(), binary, "", run{}); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func TestAFigureThatIsMissingIsNotZero(t *testing.T) {
	got, err := parseSluice([]byte(`{"tasks_per_second": 1, "violations": 0, "postgres_cpu_us_per_task": null}`))
	if err != nil {
		t.Fatal(err)
	}
	if value, ok := got[metricCPU]; ok {
		t.Errorf("CPU is %v", value)
	}
}

func TestToolsGetNoSettingsFromOutside(t *testing.T) {
	got := toolEnv([]string{"PATH=/bin", "PGHOST=x", "SLUICE_SLOTS=1", "DATABASE_URL=x", "HOME=/"})
	if !slices.Equal(got, []string{"PATH=/bin", "HOME=/"}) {
		t.Errorf("got %v", got)
	}
}

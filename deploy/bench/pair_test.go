package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

const oneOfAPair = `{"tasks_per_second": 5000, "postgres_cpu_us_per_task": 60, "process_cpu_us_per_task": 40, "commits_per_task": 0.04, "wal_bytes_per_task": 1000}`

func TestAPairIsComparedRoundByRound(t *testing.T) {
	a, asked := fakeSluice(t, oneOfAPair, "0")
	b, _ := fakeSluice(t, strings.Replace(oneOfAPair, "40", "60", 1), "0")
	var out strings.Builder
	if err := start(t.Context(), []string{"pair", "--a", a, "--b", b, "--rounds", "2", "--", "--workload", "hot"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if asked() != "bench --output json --workload hot" {
		t.Errorf("asked %q", asked())
	}
	for _, want := range []string{"| its own CPU, µs ", "1.50", "1.20"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}

func TestOnlyTheSecondIsTraced(t *testing.T) {
	// It complains unless the collector is there, and listens.
	b, _ := fakeSluice(t, oneOfAPair, "0")
	a, _ := fakeSluice(t, oneOfAPair, "0")
	instead(t, a, `[ -z "$OTEL_TRACES_EXPORTER" ] || exit 3; echo '`+oneOfAPair+`'`)
	instead(t, b, `[ "$OTEL_TRACES_SAMPLER_ARG" = 0.1 ] && [ -n "$OTEL_EXPORTER_OTLP_ENDPOINT" ] || exit 3; echo '`+oneOfAPair+`'`)
	if err := start(t.Context(), []string{"pair", "--a", a, "--b", b, "--rounds", "1", "--traced", "0.1"}, io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
}

// instead replaces what a fake does.
func instead(t *testing.T, binary, text string) {
	t.Helper()
	if err := os.WriteFile(binary, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestTheCollectorTakesWhatItIsSent(t *testing.T) {
	addr, stop, err := collector(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodPost, "http://"+addr+"/v1/traces", strings.NewReader("spans"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("it answered %s", answer.Status)
	}
}

func TestAPairThatCannotBeMeasuredSaysWhy(t *testing.T) {
	good, _ := fakeSluice(t, oneOfAPair, "0")
	bad, _ := fakeSluice(t, oneOfAPair, "1")
	silent, _ := fakeSluice(t, `{"tasks_per_second": 5000}`, "0")
	for want, args := range map[string][]string{
		"a reason":      {"--a", good, "--b", bad},
		"what a task":   {"--a", silent},
		"one round":     {"--a", good, "--rounds", "0"},
		"between none ": {"--a", good, "--traced", "2"},
	} {
		err := start(t.Context(), append([]string{"pair"}, args...), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

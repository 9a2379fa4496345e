package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const pgbenchSays = `pgbench (15.14 (Debian 15.14-0+deb12u1))
transaction type: script.sql
number of transactions actually processed: 131234
number of failed transactions: 0 (0.000%)
latency average = 1.219 ms
initial connection time = 11.224 ms
tps = 6561.700042 (without initial connection time)
`

func TestPgbenchRateIsReadWithoutConnecting(t *testing.T) {
	got, err := parsePgbench(pgbenchSays)
	if err != nil {
		t.Fatal(err)
	}
	if got[metricRate] != 6561.700042 || got[metricUnits] != 131234 {
		t.Errorf("got %v", got)
	}
	for _, bad := range []string{"", strings.ReplaceAll(pgbenchSays, "tps", "rate")} {
		if m, err := parsePgbench(bad); err == nil {
			t.Errorf("%q was read as %v", bad, m)
		}
	}
}

func TestCommitTimesComeFromEachTransaction(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// One outlier makes the mean 25 times the median.
	write("log.1", "0 1 200 0 1700000000 1\n0 2 300 0 1700000000 2\n0 3 skipped 0 1700000000 3\n")
	write("log.1.1", "1 1 400 0 1700000000 1\n1 2 30000 0 1700000000 2\n1 3 100 0 1700000000 2\n")
	m := metrics{}
	if err := addLatencies(m, filepath.Join(dir, "log.*")); err != nil {
		t.Fatal(err)
	}
	if math.Abs(m[metricCommitP50]-0.3) > 1e-9 || math.Abs(m[metricCommitP99]-30) > 1e-9 {
		t.Errorf("got %v", m)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left %v for the next run to read", left)
	}
	if err := addLatencies(m, filepath.Join(dir, "log.*")); err == nil {
		t.Error("no log at all was good enough")
	}
	if got, err := parseLog(strings.NewReader("half a line"), nil); err == nil {
		t.Errorf("half a line was read as %v", got)
	}
}

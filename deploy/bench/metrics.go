package main

import (
	"math"
	"slices"
)

// metrics are the figures of one run, by name.
type metrics map[string]float64

// Names of figures. Times are milliseconds, costs are per task, job or transaction.
const (
	metricRate       = "per_second"
	metricCommitP50  = "commit_p50_ms"
	metricCommitP99  = "commit_p99_ms"
	metricStartP50   = "start_p50_ms"
	metricStartP95   = "start_p95_ms"
	metricStartP99   = "start_p99_ms"
	metricCPU        = "postgres_cpu_us"
	metricLog        = "wal_bytes"
	metricCommits    = "commits"
	metricStatements = "statements"
	metricViolations = "violations"
	metricUnits      = "units"
	// As this program sees the server from outside, in the same way for all tools, from before a tool starts until after it
	// has ended.
	metricServerCPU     = "server_cpu_us"
	metricServerLog     = "server_wal_bytes"
	metricServerCommits = "server_commits"
	metricServerTime    = "server_seconds" // of processor time, in all
	metricToolTime      = "tool_seconds"   // the same of the tool: the load, and with Sluice and River also what does the work
	metricToolCPU       = "tool_cpu_us"
)

// spread is a figure in all rounds.
type spread struct{ median, low, high float64 }

// spreadOf is false when there is nothing to take a median of.
func spreadOf(values []float64) (spread, bool) {
	if len(values) == 0 {
		return spread{}, false
	}
	return spread{median: median(values), low: slices.Min(values), high: slices.Max(values)}, true
}

// median is the middle value, or the mean of the two in the middle. There must be one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// quantile is the smallest value that at least the share q of them does not exceed. There must be one; sorted is.
func quantile(sorted []float64, q float64) float64 {
	below := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(below, 1), len(sorted))-1]
}

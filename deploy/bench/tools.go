package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// killAfter is what a tool gets between SIGTERM and SIGKILL.
const killAfter = 10 * time.Second

// output runs a tool and returns what it wrote to standard output, also when it failed.
func output(cmd *exec.Cmd) ([]byte, error) {
	text, _, err := timed(cmd)
	return text, err
}

// timed is output, and says how much processor time the tool took, its children included. The environment of the command is added to
// ours.
func timed(cmd *exec.Cmd) ([]byte, time.Duration, error) {
	var problem bytes.Buffer
	cmd.Stderr = &problem
	cmd.Env = append(toolEnv(os.Environ()), cmd.Env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	text, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", cmd.Args[0], err, lastLines(problem.String(), 5))
	}
	if cmd.ProcessState == nil {
		return text, 0, err
	}
	return text, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}

// toolEnv keeps settings of whoever started us away from the tools: all of them get the same, which is none.
func toolEnv(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "SLUICE_") || strings.HasPrefix(entry, "DATABASE_URL=") ||
			strings.HasPrefix(entry, "RIVER_") || strings.HasPrefix(entry, "OTEL_")
	})
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// measureRiver runs River in a process of its own, so that no run inherits another one's heap.
func measureRiver(ctx context.Context, url string, r run) (metrics, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	text, took, err := timed(exec.CommandContext(ctx, self, append([]string{"river", "--database-url", url}, r.args...)...))
	if err != nil {
		return nil, err
	}
	var said riverResult
	if err := json.Unmarshal(text, &said); err != nil {
		return nil, fmt.Errorf("read River's result: %w", err)
	}
	return metrics{metricRate: said.JobsPerSecond, metricUnits: float64(r.units), metricToolTime: took.Seconds()}, nil
}

// measureSluice runs Sluice's own bench command, a client of its real services.
func measureSluice(ctx context.Context, binary, url string, r run) (metrics, error) {
	args := append([]string{"bench", "--database-url", url, "--output", "json"}, r.args...)
	text, took, err := timed(exec.CommandContext(ctx, binary, args...))
	// It fails when it found violations, and says how many. That is a result.
	m, parseErr := parseSluice(text)
	if parseErr != nil {
		return nil, errors.Join(err, parseErr)
	}
	if err != nil && m[metricViolations] == 0 {
		return nil, err
	}
	m[metricUnits], m[metricToolTime] = float64(r.units), took.Seconds()
	return m, nil
}

// parseSluice reads what `sluice bench --output json` prints, of which names and units are promised.
func parseSluice(text []byte) (metrics, error) {
	var said struct {
		Rate  *float64 `json:"tasks_per_second"`
		Start struct {
			P50 *float64 `json:"p50"`
			P95 *float64 `json:"p95"`
			P99 *float64 `json:"p99"`
		} `json:"start_ms"`
		CPU        *float64 `json:"postgres_cpu_us_per_task"`
		Log        *float64 `json:"wal_bytes_per_task"`
		Commits    *float64 `json:"commits_per_task"`
		Statements *float64 `json:"statements_per_task"`
		Violations *float64 `json:"violations"`
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return nil, fmt.Errorf("read the result of sluice bench: %w", err)
	}
	if said.Rate == nil || said.Violations == nil {
		return nil, errors.New("sluice bench told neither tasks_per_second nor violations")
	}
	m := metrics{}
	for name, value := range map[string]*float64{
		metricRate: said.Rate, metricStartP50: said.Start.P50, metricStartP95: said.Start.P95, metricStartP99: said.Start.P99,
		metricCPU: said.CPU, metricLog: said.Log, metricCommits: said.Commits, metricStatements: said.Statements,
		metricViolations: said.Violations,
	} {
		if value != nil { // a figure that could not be had, as the processor time of a server elsewhere
			m[name] = *value
		}
	}
	return m, nil
}

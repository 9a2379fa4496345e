package bench_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// hot is a run in which every task conflicts with every other.
func hot() bench.Config {
	return bench.Config{
		Workload: "hot", Tasks: 200, WarmUp: 20, Slots: 4, Dispatchers: 3, Batch: 10, Seed: 1, Patience: 4 * time.Second,
	}
}

// measure runs a load on a system.
func measure(t *testing.T, s *system, config bench.Config) (bench.Result, []string, error) {
	t.Helper()
	load, err := bench.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s.mux = worker.NewMux()
	load.Register(s.mux)
	conn, stop := s.start(t)
	result, err := load.Run(t.Context(), conn, nil)
	stop()
	var violations []string
	for _, v := range load.Violations() {
		violations = append(violations, string(v.Kind))
	}
	return result, violations, err
}

func TestAGoodSystemHasNoViolations(t *testing.T) {
	for _, workload := range bench.Workloads() {
		for _, batch := range []int{1, 10} {
			config := hot()
			config.Workload, config.Batch = workload, batch
			s := &system{}
			result, violations, err := measure(t, s, config)
			if err != nil || len(violations) > 0 {
				t.Errorf("%s: %v, %s", workload, err, violations)
			}
			if result.Completed != config.Tasks || result.TasksPerSecond <= 0 || result.Start.P50 <= 0 || result.Start.P99 < result.Start.P50 {
				t.Errorf("%s: %+v", workload, result)
			}
			method := map[int]string{1: "Dispatch", 10: "DispatchBatch"}[batch]
			if got := s.calls[method]; got != config.Tasks+config.WarmUp || len(s.calls) != 1 {
				t.Errorf("%s in batches of %d: %v", workload, batch, s.calls)
			}
		}
	}
}

func TestBrokenPromisesAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		system *system
		want   []string
	}{
		"a task is run twice":             {&system{repeat: 50}, []string{"twice"}},
		"a task overtakes":                {&system{late: 60}, []string{"disorder"}},
		"a task is run twice in warm-up":  {&system{repeat: 5}, []string{"twice"}},
		"what should wait behind a gate":  {&system{leak: true}, []string{"unknown", "unknown", "unknown"}},
		"the last of a batch, and a next": {&system{late: 30}, []string{"disorder"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := hot()
			config.Dispatchers = 1 // the order of calls is the order of tasks
			if c.system.leak {
				config.Backlog = 3
			}
			_, violations, err := measure(t, c.system, config)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, violations); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestALostTaskEndsTheWaitAndIsFound(t *testing.T) {
	t.Parallel()
	config := hot()
	config.Workload, config.Patience = "none", time.Second
	result, violations, err := measure(t, &system{lose: 77}, config)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"never ran"}, violations); diff != "" {
		t.Error(diff)
	}
	if result.Completed != config.Tasks-1 {
		t.Errorf("%d completed", result.Completed)
	}
}

func TestAnEndThatTheStreamDidNotTellIsAskedFor(t *testing.T) {
	for name, s := range map[string]*system{
		"left out":         {silent: 100},
		"in a broken line": {deaf: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result, violations, err := measure(t, s, hot())
			if err != nil || len(violations) > 0 || result.Completed != 200 {
				t.Errorf("%v, %s, %+v", err, violations, result)
			}
			if s.calls["WaitTasks"] == 0 {
				t.Error("nobody asked")
			}
		})
	}
}

func TestADispatchThatFailsEndsTheRunAndLeavesNothingBehind(t *testing.T) {
	config := hot()
	config.Backlog = 7
	s := &system{refuse: 100, lose: 99}
	_, _, err := measure(t, s, config)
	if !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("got %v", err)
	}
	if s.calls["Cancel bench.gate"] != 1 || s.calls["Cancel test.noop"] < 7 {
		t.Errorf("%v", s.calls)
	}
}

func TestABacklogWaitsAndIsCanceledInTheEnd(t *testing.T) {
	for _, keep := range []bool{false, true} {
		config := hot()
		config.Backlog, config.KeepBacklog = 2500, keep
		config.Versions = map[string]string{"bench.mine": "1"}
		s := &system{}
		result, violations, err := measure(t, s, config)
		if err != nil || len(violations) > 0 || result.Backlog != 2500 {
			t.Errorf("%v, %s, %+v", err, violations, result)
		}
		want := map[string]int{"Dispatch": 1, "DispatchBatch": 2500 + 220, "Cancel test.noop": 2500, "Cancel bench.gate": 1}
		if keep {
			delete(want, "Cancel test.noop")
			delete(want, "Cancel bench.gate")
		}
		if diff := cmp.Diff(want, s.calls); diff != "" {
			t.Error(diff)
		}
		for _, task := range s.tasks {
			if task.GetName() == "test.noop" && task.GetVersions()["bench.mine"] != "1" {
				t.Fatal("a task does not ask for our executor")
			}
		}
	}
}

func TestAtARateTasksAreSpacedEvenly(t *testing.T) {
	config := hot()
	config.Tasks, config.WarmUp, config.Batch, config.Rate = 10, 0, 1, 50
	result, violations, err := measure(t, &system{}, config)
	if err != nil || len(violations) > 0 {
		t.Fatal(err, violations)
	}
	// The last of them is due after 180 ms; without spaces all would be done after some ten. How late the first is, from which the time
	// is counted, and how late the last one is done, is the machine's business.
	if result.Seconds < 0.09 || result.TasksPerSecond > 10/0.09 {
		t.Errorf("%+v", result)
	}
}

func TestCostsAreMeasured(t *testing.T) {
	server, err := meter.Open(t.Context(), pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var said []string
	var mu sync.Mutex
	var profile bytes.Buffer
	config := hot()
	config.Statements, config.CPUProfile, config.SettleServer = &meter.Statements{}, &profile, true
	config.Say = func(format string, _ ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, format)
	}
	load, err := bench.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s := &system{mux: worker.NewMux()}
	load.Register(s.mux)
	conn, _ := s.start(t)
	result, err := load.Run(t.Context(), conn, server)
	if err != nil {
		t.Fatal(err)
	}
	if result.WAL == nil || result.Commits == nil || result.Statements == nil || *result.Statements != 0 || *result.SerialCommit <= 0 {
		t.Errorf("%+v", result)
	}
	if profile.Len() == 0 {
		t.Error("there is no profile")
	}
	if !*result.Durable && !strings.Contains(strings.Join(said, "\n"), "not durable") {
		t.Errorf("nobody is told that the server is not durable: %q", said)
	}
}

func TestTheResultHasTheKeysThatProgramsRead(t *testing.T) {
	text, err := json.Marshal(bench.Result{})
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := json.Unmarshal(text, &keys); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"tasks_per_second", "start_ms", "postgres_cpu_us_per_task", "wal_bytes_per_task", "commits_per_task", "statements_per_task", "violations",
	} {
		if _, there := keys[key]; !there {
			t.Errorf("no %s in %s", key, text)
		}
	}
	if diff := cmp.Diff(map[string]any{"p50": 0.0, "p95": 0.0, "p99": 0.0}, keys["start_ms"]); diff != "" {
		t.Error(diff)
	}
	if keys["statements_per_task"] != nil {
		t.Error("what is not known is not null")
	}
}

func TestAConfigThatMakesNoSenseIsRefused(t *testing.T) {
	for want, change := range map[string]func(*bench.Config){
		"workload":    func(c *bench.Config) { c.Workload = "mine" },
		"tasks":       func(c *bench.Config) { c.Tasks = 0 },
		"slots":       func(c *bench.Config) { c.Slots = 0 },
		"dispatchers": func(c *bench.Config) { c.Dispatchers = 0 },
		"batch":       func(c *bench.Config) { c.Batch = 1001 },
		"in-flight":   func(c *bench.Config) { c.InFlight = 9 },
		"backlog":     func(c *bench.Config) { c.Backlog = -1 },
		"rate":        func(c *bench.Config) { c.Rate = -1 },
	} {
		config := hot()
		change(&config)
		if _, err := bench.New(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

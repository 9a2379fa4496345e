package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/history"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// measured runs a small benchmark and returns its result.
func measured(t *testing.T, args ...string) bench.Result {
	t.Helper()
	args = append([]string{
		"bench", "--output", "json", "--slots", "4", "--dispatchers", "3", "--batch", "10", "--tasks", "200", "--data-dir", t.TempDir(),
	}, args...)
	got := sluice(t, nil, args...)
	if got.code != exitOK {
		t.Fatalf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	var result bench.Result
	decoder := json.NewDecoder(strings.NewReader(got.stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&result); err != nil {
		t.Fatalf("%v: %s", err, got.stdout)
	}
	if result.Completed != result.Tasks || result.Violations != 0 {
		t.Errorf("%+v", result)
	}
	return result
}

func TestBenchRunsEveryWorkloadOnTheRealServices(t *testing.T) {
	for _, workload := range bench.Workloads() {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			result := measured(t, "--workload", workload, "--database-url", pgtest.URL(t))
			if result.Workload != workload || result.TasksPerSecond <= 0 || result.Start.P50 <= 0 {
				t.Errorf("%+v", result)
			}
			if result.WAL == nil || result.Commits == nil || *result.Commits <= 0 || result.Statements == nil || *result.Statements <= 0 || result.ProcessCPU <= 0 {
				t.Errorf("costs are missing: %+v", result)
			}
		})
	}
}

func TestBenchDispatchesOneByOneAndLeavesNoBacklog(t *testing.T) {
	url := pgtest.URL(t)
	profile := filepath.Join(t.TempDir(), "cpu.prof")
	measured(t, "--database-url", url, "--batch", "1", "--rate", "400", "--backlog", "1500", "--cpuprofile", profile)
	if info, err := os.Stat(profile); err != nil || info.Size() == 0 {
		t.Errorf("no profile: %v", err)
	}
	pool := pgtest.Open(t, url)
	var left, canceled int
	err := pool.QueryRow(t.Context(), `select count(*) filter (where state = 'waiting'), count(*) filter (where state = 'canceled') from task`).Scan(&left, &canceled)
	if err != nil {
		t.Fatal(err)
	}
	if left != 0 || canceled != 1501 {
		t.Errorf("%d tasks wait, %d were canceled; want 0 and 1501", left, canceled)
	}
}

// beside runs `sluice dev` until the test ends and returns its gRPC address.
func beside(t *testing.T) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	said, stdout := io.Pipe()
	ended := make(chan int)
	go func() {
		defer close(ended)
		Main(ctx, []string{
			"dev", "--database-url", pgtest.URL(t), "--grpc-addr", "127.0.0.1:0", "--rest-addr", "127.0.0.1:0", "--data-dir", t.TempDir(),
		}, Environment{Stdout: stdout, Stderr: io.Discard, LookupEnv: lookup(nil)})
		stdout.Close()
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	var text bytes.Buffer
	buffer := make([]byte, 1024)
	for !strings.Contains(text.String(), "Try, ") {
		n, err := said.Read(buffer)
		if err != nil {
			t.Fatalf("dev ended: %s", text.String())
		}
		text.Write(buffer[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	_, addr, _ := strings.Cut(text.String(), "gRPC at ")
	addr, _, _ = strings.Cut(addr, "\n")
	return addr
}

func TestBenchJoinsARunningSluiceWithAnExecutorOfItsOwn(t *testing.T) {
	addr := beside(t)
	// A task that another executor took would be lost for the history.
	result := measured(t, "--addr", addr, "--workload", "pulp", "--backlog", "20")
	if result.WAL != nil || result.Statements != nil || result.PostgresCPU != nil {
		t.Errorf("it claims to know what a server spends that it does not see: %+v", result)
	}
	got := sluice(t, nil, "task", "list", "--addr", addr, "--state", "waiting")
	if got.stdout != "" {
		t.Errorf("tasks wait still:\n%s", got.stdout)
	}
}

func TestBenchMeasuresIdleExecutorsOnTheRealServices(t *testing.T) {
	got := sluice(t, nil, "bench", "--idle-executors", "20", "--window", "2s", "--output", "json", "--database-url", pgtest.URL(t), "--data-dir", t.TempDir())
	var result bench.IdleResult
	decoder := json.NewDecoder(strings.NewReader(got.stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&result); got.code != exitOK || err != nil {
		t.Fatalf("exit code %d, %v: %s%s", got.code, err, got.stdout, got.stderr)
	}
	if result.Executors != 20 || result.BrokenLines+result.BrokenBeats+result.Fenced+result.Deaf != 0 || result.All.Statements == nil || result.All.End == nil {
		t.Errorf("%+v", result)
	}
}

func TestBenchMeasuresIdleExecutorsElsewhere(t *testing.T) {
	got := sluice(t, nil, "bench", "--idle-executors", "3", "--window", "1s", "--addr", beside(t), "--data-dir", t.TempDir())
	for _, want := range []string{"with 3", "statements per second, all services together", "not known"} {
		if got.code != exitOK || !strings.Contains(got.stdout, want) {
			t.Fatalf("exit code %d, no %q in\n%s%s", got.code, want, got.stdout, got.stderr)
		}
	}
}

func TestBenchMeasuresOverload(t *testing.T) {
	got := sluice(t, nil, "bench", "--overload", "3", "--window", "1s", "--max-live-tasks", "300", "--slots", "4", "--database-url", pgtest.URL(t), "--data-dir", t.TempDir())
	for _, want := range []string{"62.5 tasks a second can be run", "3 times that", "executors declared missing"} {
		if got.code != exitOK || !strings.Contains(got.stdout, want) {
			t.Fatalf("exit code %d, no %q in\n%s%s", got.code, want, got.stdout, got.stderr)
		}
	}
}

func TestBenchPrintsForPeople(t *testing.T) {
	got := sluice(t, nil, "bench", "--tasks", "50", "--slots", "2", "--database-url", pgtest.URL(t), "--data-dir", t.TempDir())
	for _, want := range []string{"x1000, 50 tasks after 5 to warm up", "tasks per second", " µs per task", "violations          0"} {
		if got.code != exitOK || !strings.Contains(got.stdout, want) {
			t.Fatalf("exit code %d, no %q in\n%s%s", got.code, want, got.stdout, got.stderr)
		}
	}
}

func TestABrokenPromiseIsNoSuccess(t *testing.T) {
	violations := make([]history.Violation, 1000)
	for i := range violations {
		violations[i] = history.Violation{Kind: history.Twice, Task: clienttest.ID(i)}
	}
	var stderr bytes.Buffer
	env := Environment{Stderr: &stderr}
	if code := env.report(broken(violations)); code != exitNo {
		t.Errorf("exit code %d", code)
	}
	if said := stderr.String(); !strings.Contains(said, "1000 times") || strings.Count(said, "started again") != shownViolations {
		t.Errorf("it said %s", said)
	}
	if code := env.report(broken(nil)); code != exitOK {
		t.Errorf("exit code %d without a violation", code)
	}
}

func TestBenchRefusesWhatMakesNoSense(t *testing.T) {
	for want, args := range map[string][]string{
		"--tasks must be between 1 and 50000000, is 0":         {"--tasks", "0"},
		"--batch must be between 1 and 1000, is 1001":          {"--batch", "1001"},
		"--workload must be one of":                            {"--workload", "mine"},
		"--data-dir: must be on a disk":                        {"--data-dir", "/dev/shm"},
		"--addr: must have the form host:port":                 {"--addr", "localhost"},
		"--cpuprofile: ":                                       {"--cpuprofile", "/nonexistent/file"},
		"--idle-executors must be between 1 and":               {"--idle-executors=-1"},
		"--window must be at least 1s":                         {"--idle-executors", "5", "--window", "1ms"},
		"--crowd: ":                                            {"--crowd", "nobody"},
		"--overload must be above 0":                           {"--overload=-1"},
		"--overload must be above 0 and at most 10000, is NaN": {"--overload", "NaN"},
		"--overload: is another measurement":                   {"--overload", "2", "--idle-executors", "5"},
		"--overload: has a system of its own":                  {"--overload", "2", "--addr", "127.0.0.1:1"},
		"--max-live-tasks: must be at least 1, is 0":           {"--overload", "2", "--max-live-tasks", "0"},
		"--slots must be at least 1, is 0":                     {"--overload", "2", "--slots", "0"},
		"--batch must be at least 1, is 0":                     {"--overload", "2", "--batch", "0"},
		"--window must be at least 1s, is 0s":                  {"--overload", "2", "--window", "0s"},
	} {
		got := sluice(t, nil, append([]string{"bench"}, args...)...)
		if got.code != exitUsage || !strings.HasPrefix(got.stderr, "sluice: "+want) {
			t.Errorf("%v: exit code %d, %s", args, got.code, got.stderr)
		}
	}
}

func TestBenchDoesNotTakeAnAddressFromTheEnvironment(t *testing.T) {
	got := sluice(t, map[string]string{"SLUICE_ADDR": "not an address", "DATABASE_URL": pgtest.URL(t)},
		"bench", "--tasks", "20", "--slots", "2", "--data-dir", t.TempDir())
	if got.code != exitOK {
		t.Errorf("exit code %d, %s", got.code, got.stderr)
	}
}

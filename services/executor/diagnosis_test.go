package executor_test

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/services/executor"
)

// diagnosed makes an assignment that asks for diagnostics.
func diagnosed(a *taskv1.Assignment, options ...string) *taskv1.Assignment {
	a.ProfileOptions = options
	return a
}

// kept returns the diagnostics that were stored, by name.
func (f *fakes) kept(a *taskv1.Assignment) map[string]string {
	f.t.Helper()
	kept := map[string]string{}
	for _, r := range arrived(f.artifacts) {
		if r.GetTaskId() != a.GetTaskId() || r.GetClaim() != a.GetClaim() || !strings.HasPrefix(r.GetContentType(), "text/plain") {
			f.t.Errorf("stored %v", r)
		}
		kept[r.GetName()] = string(r.GetData())
	}
	return kept
}

// lastLog is what was stored of the log, the last time.
func (f *fakes) lastLog() string {
	logs := arrived(f.logs)
	if len(logs) == 0 {
		return ""
	}
	return logs[len(logs)-1].GetText()
}

var everything = []string{executor.DiagnoseMemory, executor.DiagnoseLogs}

func TestDiagnosticsAreKeptIfAskedForAndAllowed(t *testing.T) {
	const hello = `{"Text": "hello\n"}`
	missing := func(names string) string {
		return "sluice: diagnostics that were asked for and are not available for this task: " + names + "\n"
	}
	for name, c := range map[string]struct {
		allowed    []string
		assignment *taskv1.Assignment
		kept       []string
		log        string
	}{
		"nothing asked for": {everything, order("print", hello), nil, "hello\n"},
		"memory":            {everything, diagnosed(order("print", hello), "memory"), []string{"memory_profile"}, "hello\n"},
		"logs":              {everything, diagnosed(order("print", hello), "logs"), []string{"task_logs"}, "hello\n"},
		"logs, as Pulp calls those of the lowest level": {everything, diagnosed(order("print", hello), "debug-logs", "logs"), []string{"task_logs"}, "hello\n"},
		"both": {everything, diagnosed(order("print", hello), "memory", "logs"), []string{"memory_profile", "task_logs"}, "hello\n"},
		"what there is and what there is not": {
			everything, diagnosed(order("print", hello), "memray", "logs", "pyinstrument", "memray"), []string{"task_logs"}, missing("memray, pyinstrument") + "hello\n",
		},
		"none allowed": {nil, diagnosed(order("print", hello), "memory", "logs"), nil, missing("memory, logs") + "hello\n"},
		"one allowed":  {everything[:1], diagnosed(order("print", hello), "memory", "logs"), []string{"memory_profile"}, missing("logs") + "hello\n"},
		"memory of what has no process of its own": {everything, diagnosed(order("nothing.here", ""), "memory"), nil, missing("memory")},
		"a task that fails":                        {everything, diagnosed(order("panic", ""), "memory"), []string{"memory_profile"}, "panic"},
		"an immediate one":                         {everything, diagnosed(&taskv1.Assignment{TaskId: newID(), Claim: 1, Name: "dispatch.here", Immediate: true}, "logs", "x"), nil, ""},
		"what nobody knows":                        {everything, diagnosed(order("nobody.knows.it", ""), "logs"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, l := connect(t, executor.Config{Diagnostics: c.allowed})
			l.outcome(l.assign(c.assignment))
			kept := f.kept(c.assignment)
			if diff := cmp.Diff(c.kept, slices.Sorted(maps.Keys(kept))); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if log := f.lastLog(); log != c.log && c.log != "panic" {
				t.Errorf("the log is %q, want %q", log, c.log)
			}
			if text, is := kept["task_logs"]; is && text != c.log {
				t.Errorf("task_logs is %q, want %q", text, c.log)
			}
			if profile, is := kept["memory_profile"]; is {
				checkProfile(t, profile)
			}
			l.finished(c.assignment)
		})
	}
}

// checkProfile expects lines of rising times with an amount that a process can have.
func checkProfile(t *testing.T, profile string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(profile, "\n"), "\n")
	line := regexp.MustCompile(`^(\d+\.\d)\t(\d+\.\d)$`)
	before := -1.0
	for _, text := range lines {
		parts := line.FindStringSubmatch(text)
		if parts == nil {
			t.Fatalf("the profile is %q", profile)
		}
		after, _ := strconv.ParseFloat(parts[1], 64)
		amount, _ := strconv.ParseFloat(parts[2], 64)
		if after < before || amount < 1 || amount > 1<<20 {
			t.Errorf("the profile is %q", profile)
		}
		before = after
	}
	if len(lines) < 1 {
		t.Errorf("the profile is empty")
	}
}

func TestLogsOfATaskInTheExecutorsProcessAreKeptIfAskedFor(t *testing.T) {
	f, _, l := connect(t, executor.Config{Diagnostics: everything})
	a := diagnosed(order("says.here", `{"Text": "what it says"}`), "logs")
	l.outcome(l.assign(a))
	kept, log := f.kept(a)["task_logs"], f.lastLog()
	if kept != log || !strings.Contains(kept, "what it says") || !strings.Contains(kept, a.GetTaskId()) {
		t.Errorf("kept %q, log %q", kept, log)
	}
	l.finished(a)
}

func TestLogsOfAConnectedWorkerAreKeptIfAskedFor(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{Diagnostics: everything}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(diagnosed(order("py.a", ""), "logs", "memory"))
	g.run(a)
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Log{
		Log: &executorv1.RunLog{TaskId: a.GetTaskId(), Claim: a.GetClaim(), Text: "hello"},
	}})
	g.end(a, done("1"))
	expectOutcome(t, done("1"), l.end(a))
	want := map[string]string{"task_logs": "sluice: diagnostics that were asked for and are not available for this task: memory\nhello"}
	if diff := cmp.Diff(want, f.kept(a)); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func TestADiagnosticThatIsNotTakenCostsNothingElse(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	fail := func(context.Context) error { return errors.New("no") }
	for name, do := range map[string]func(context.Context) error{"it hangs": hang, "it fails": fail} {
		t.Run(name, func(t *testing.T) {
			f, _, l := connect(t, executor.Config{ReportTimeout: 100 * time.Millisecond, Diagnostics: everything})
			f.onArtifact.Store(&do)
			if outcome := l.do(diagnosed(order("tells", `{"Steps": 1, "Text": "one"}`), "logs")); outcome.GetState() != taskv1.State_STATE_COMPLETED {
				t.Errorf("outcome %v", outcome)
			}
			if got := receive(t, f.logs, "the log").GetText(); got != "one" {
				t.Errorf("log %q", got)
			}
			receive(t, f.reports, "the report")
		})
	}
}

func TestUnknownDiagnosticsAreRefused(t *testing.T) {
	_, err := executor.New(executor.Config{WorkDir: t.TempDir(), Diagnostics: []string{"memory", "memray"}}, executor.Peers{}, testMux(), nil)
	if err == nil || !strings.Contains(err.Error(), "memray") {
		t.Errorf("got %v", err)
	}
}

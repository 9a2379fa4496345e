package builtin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/builtin"
)

// This program is also the process in which its tests run what ends a process.
func TestMain(m *testing.M) {
	if name := os.Getenv(taskEnv); name != "" {
		os.Exit(runAlone(name, os.Getenv(argsEnv)))
	}
	goleak.VerifyTestMain(m)
}

// recorder stands for the executor: it notes what a task asks for and tells.
type recorder struct {
	mu       sync.Mutex
	specs    []*taskv1.TaskSpec
	groups   []string
	progress []*taskv1.Progress
	added    []*taskv1.GroupProgress
	created  []*taskv1.CreatedResource
	files    map[string]string // paths by id
}

func (r *recorder) KeepFile(_ context.Context, path string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := fmt.Sprintf("file-%d", len(r.files)+1)
	if r.files == nil {
		r.files = map[string]string{}
	}
	r.files[id] = path
	return id, nil
}

func (r *recorder) FetchFile(_ context.Context, id string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if path, known := r.files[id]; known {
		return path, nil
	}
	return "", errors.New("there is no such file")
}

func (r *recorder) Progress(p *taskv1.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = append(r.progress, p)
}

func (r *recorder) GroupProgress(p *taskv1.GroupProgress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added = append(r.added, p)
}

func (r *recorder) Created(c *taskv1.CreatedResource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.created = append(r.created, c)
}

func (r *recorder) Dispatch(_ context.Context, spec *taskv1.TaskSpec) (string, error) {
	r.specs = append(r.specs, spec)
	return fmt.Sprintf("task-%d", len(r.specs)), nil
}

func (r *recorder) NewGroup(_ context.Context, description string) (string, error) {
	r.groups = append(r.groups, description)
	return fmt.Sprintf("group-%d", len(r.groups)), nil
}

// bench runs built-in tasks in this process.
type bench struct {
	t     *testing.T
	mux   *worker.Mux
	calls recorder
	dir   string
	group string
	files []string
	tries int32
}

func newBench(t *testing.T, allowed ...string) *bench {
	t.Helper()
	b := &bench{t: t, mux: worker.NewMux(), dir: t.TempDir()}
	builtin.Register(b.mux, builtin.Options{TestTasks: true, AllowCommands: allowed})
	return b
}

func (b *bench) run(ctx context.Context, name, args, kwargs string) *taskv1.Outcome {
	b.t.Helper()
	outcome := b.mux.Run(ctx, worker.Run{
		Assignment: &taskv1.Assignment{Name: name, TaskId: "the-task", Claim: 7, CorrelationId: "the-request", GroupId: b.group, ArgsJson: args, KwargsJson: kwargs, Attempt: b.tries, FileIds: b.files},
		WorkingDir: func() (string, error) { return b.dir, nil }, Calls: &b.calls,
	})
	if err := worker.Check(outcome); err != nil {
		b.t.Errorf("%s: the outcome could not be reported: %v", name, err)
	}
	return outcome
}

type commandResult struct {
	ExitCode int    `json:"exit_code"`
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
}

// command runs a command that must exit with 0.
func (b *bench) command(kwargs map[string]any) commandResult {
	b.t.Helper()
	outcome := b.run(b.t.Context(), "command.run", "", encode(b.t, kwargs))
	var result commandResult
	if err := json.Unmarshal([]byte(outcome.GetResultJson()), &result); err != nil {
		b.t.Fatalf("%v: %v", kwargs["argv"], outcome)
	}
	return result
}

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func shell(script string) map[string]any { return map[string]any{"argv": []string{"sh", "-c", script}} }

func TestCommandReturnsWhatItWrote(t *testing.T) {
	b := newBench(t, "*")
	got := b.command(shell("echo out; echo err >&2"))
	if diff := cmp.Diff(commandResult{Stdout: "out\n", Stderr: "err\n"}, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestCommandGetsItsSurroundings(t *testing.T) {
	b := newBench(t, "*")
	c := shell(`pwd; cat; echo "$A $SLUICE_TASK_ID $SLUICE_TASK_CLAIM $SLUICE_TASK_CORRELATION_ID $PATH"; env | grep -cE "SLUICE_CHILD_|open sesame"`)
	c["env"] = map[string]string{"A": "a=b"}
	c["stdin"] = "in\n"
	t.Setenv("SLUICE_CHILD_HANDLERS", "{}")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=open sesame")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=open sesame")
	dir, err := filepath.EvalSymlinks(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	// grep counts none and exits with 1, so the result is in the failure; the script ends with it on purpose.
	outcome := b.run(t.Context(), "command.run", "", encode(t, c))
	if got := outcome.GetError().GetDescription(); got != "the command exited with code 1" {
		t.Fatalf("outcome %v", outcome)
	}
	c["argv"] = []string{"sh", "-c", `pwd; cat; echo "$A $SLUICE_TASK_ID $SLUICE_TASK_CLAIM $SLUICE_TASK_CORRELATION_ID $PATH"`}
	want := commandResult{Stdout: dir + "\nin\na=b the-task 7 the-request " + os.Getenv("PATH") + "\n"}
	if diff := cmp.Diff(want, b.command(c)); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestLongOutputIsCutAtTheFront(t *testing.T) {
	b := newBench(t, "*")
	for name, c := range map[string]struct {
		script string
		least  int
	}{
		"plain":              {"yes abcdefg | head -c 3000000; echo the end", 256 << 10},
		"newlines":           {"yes '' | head -c 3000000; echo the end", 255 << 10}, // as JSON it is twice as long
		"control characters": {`yes "$(printf '\001')" | head -c 3000000; echo the end`, 100 << 10},
		"invalid UTF-8":      {`yes "$(printf 'x\377')" | head -c 3000000; echo the end`, 256<<10 - 3},
		"quotes":             {`yes '"\\"' | head -c 3000000; echo the end`, 200 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			// Both streams at once: together they must fit into one result, which run checks.
			got := b.command(shell(c.script + " >&2; " + c.script))
			for stream, text := range map[string]string{"stdout": got.Stdout, "stderr": got.Stderr} {
				if stream == "stdout" && !strings.HasSuffix(text, "the end\n") {
					t.Errorf("%s does not end with its end", stream)
				}
				if stream == "stdout" && (len(text) < c.least || len(text) > 256<<10) {
					t.Errorf("%s has %d bytes, want %d to %d", stream, len(text), c.least, 256<<10)
				}
			}
		})
	}
}

func TestShortOutputIsNotCut(t *testing.T) {
	b := newBench(t, "*")
	if got := b.command(shell("head -c 262144 /dev/zero | tr '\\0' x")); got.Stdout != strings.Repeat("x", 256<<10) {
		t.Errorf("%d bytes", len(got.Stdout))
	}
}

// safe is the outcome of an error that was declared safe.
func safe(description string) *taskv1.Outcome {
	outcome := worker.Failed(description, "")
	outcome.Safe = true
	return outcome
}

// wrong is the outcome of wrong arguments.
func wrong(description string) *taskv1.Outcome {
	outcome := safe(description)
	outcome.Error.Code = task.CodePermanent
	return outcome
}

func TestCommandFailures(t *testing.T) {
	for name, c := range map[string]struct {
		allowed []string
		kwargs  string
		want    string
	}{
		"exit code":         {[]string{"*"}, `{"argv": ["sh", "-c", "echo useless; echo why >&2; exit 3"]}`, "the command exited with code 3: why"},
		"silent exit":       {[]string{"*"}, `{"argv": ["false"]}`, "the command exited with code 1"},
		"signal":            {[]string{"*"}, `{"argv": ["sh", "-c", "echo why >&2; kill -9 $$"]}`, "the command was killed by signal 9: why"},
		"timeout":           {[]string{"*"}, `{"argv": ["sh", "-c", "echo why >&2; exec sleep 1000"], "timeout": 0.2}`, "the command ran for longer than its timeout of 200ms and was killed: why"},
		"missing":           {[]string{"*"}, `{"argv": ["no-such-command"]}`, `could not find the command "no-such-command": executable file not found in $PATH`},
		"missing path":      {[]string{"*"}, `{"argv": ["/no/such/command"]}`, `could not find the command "/no/such/command": no such file or directory`},
		"no argv":           {[]string{"*"}, `{"argv": []}`, `command.run() argument "argv" must name a program`},
		"nothing at all":    {[]string{"*"}, ``, `command.run() is missing the argument "argv"`},
		"a string":          {[]string{"*"}, `{"argv": "ls -l"}`, `command.run() argument "argv" must be an array, is string`},
		"a number inside":   {[]string{"*"}, `{"argv": ["ls", 1]}`, `command.run() argument "argv" must be a string, is number`},
		"NUL":               {[]string{"*"}, `{"argv": ["ls", "a\u0000b"]}`, `command.run() argument "argv"[1] must not contain a NUL character`},
		"env":               {[]string{"*"}, `{"argv": ["ls"], "env": {"a=b": "c"}}`, `command.run() argument "env" has an impossible entry "a=b"`},
		"zero timeout":      {[]string{"*"}, `{"argv": ["ls"], "timeout": 0}`, `command.run() argument "timeout" must be more than 0 and at most 31536000 seconds, is 0`},
		"endless timeout":   {[]string{"*"}, `{"argv": ["ls"], "timeout": 1e300}`, `command.run() argument "timeout" must be more than 0 and at most 31536000 seconds, is 1e+300`},
		"nothing allowed":   {nil, `{"argv": ["true"]}`, `the command "true" is not on this executor's list of allowed commands`},
		"not this":          {[]string{"ls", "/bin/ls"}, `{"argv": ["true"]}`, `the command "true" is not on this executor's list of allowed commands`},
		"same name":         {[]string{"true"}, `{"argv": ["./true"]}`, `the command "./true" is not on this executor's list of allowed commands`},
		"same name, a path": {[]string{"true"}, `{"argv": ["/tmp/true"]}`, `the command "/tmp/true" is not on this executor's list of allowed commands`},
	} {
		t.Run(name, func(t *testing.T) {
			outcome := newBench(t, c.allowed...).run(t.Context(), "command.run", "", c.kwargs)
			want := safe(c.want)
			if strings.HasPrefix(c.want, "command.run() ") {
				want = wrong(c.want)
			}
			if diff := cmp.Diff(want, outcome, protocmp.Transform()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAllowedCommandsRun(t *testing.T) {
	absolute, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ allowed, name string }{
		{"true", "true"}, {absolute, absolute}, {absolute, "true"}, {"*", "true"}, {"*", absolute},
	} {
		newBench(t, "something", c.allowed).command(map[string]any{"argv": []string{c.name}})
	}
	// The task's PATH finds nothing: else a task could bring its own "true".
	evil := t.TempDir()
	if err := os.WriteFile(filepath.Join(evil, "true"), []byte("#!/bin/sh\necho evil\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := newBench(t, "true").command(map[string]any{"argv": []string{"true"}, "env": map[string]string{"PATH": evil}})
	if got.Stdout != "" {
		t.Errorf("ran another program: %q", got.Stdout)
	}
}

func TestCommandsLeftoversDoNotHoldItUp(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "never")
	got := newBench(t, "*").command(shell("mkfifo " + fifo + "; cat " + fifo + " & echo $!"))
	var pid int
	if _, err := fmt.Sscan(got.Stdout, &pid); err != nil {
		t.Fatalf("%q: %v", got.Stdout, err)
	}
	// In a child process the worker would have killed it by now; this test is none.
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Errorf("the leftover is not there, so it held up nothing: %v", err)
	}
}

func TestStoppedCommandFails(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	fifo := filepath.Join(t.TempDir(), "running")
	b := newBench(t, "*")
	b.command(map[string]any{"argv": []string{"mkfifo", fifo}})
	go func() {
		_, _ = os.ReadFile(fifo)
		stop()
	}()
	// The shell takes its time to say goodbye, and gets it.
	outcome := b.run(ctx, "command.run", "", encode(t, shell("trap 'kill -9 $!; echo bye >"+b.dir+"/bye; exit 0' TERM; sleep 1000 & echo >"+fifo+"; wait")))
	if got := outcome.GetError().GetDescription(); got != "the command was stopped: context canceled" {
		t.Errorf("outcome %v", outcome)
	}
	if bye, err := os.ReadFile(filepath.Join(b.dir, "bye")); err != nil || string(bye) != "bye\n" {
		t.Errorf("it was not allowed to end: %q, %v", bye, err)
	}
}

func TestTestTasks(t *testing.T) {
	completed := func(text string) *taskv1.Outcome {
		return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: text}
	}
	for name, c := range map[string]struct {
		task, args, kwargs string
		want               *taskv1.Outcome
	}{
		"noop":            {"test.noop", "", "", completed("null")},
		"noop takes none": {"test.noop", "[1]", "", wrong("test.noop() takes at most 0 positional arguments, got 1")},
		"echo":            {"test.echo", `[1.0, {"b": 1, "a": 2}]`, `{"x": 123456789012345678901234567890}`, completed(`{"args":[1.0, {"b": 1, "a": 2}],"kwargs":{"x": 123456789012345678901234567890}}`)},
		"echo of nothing": {"test.echo", "", "", completed(`{"args":[],"kwargs":{}}`)},
		"sleep":           {"test.sleep", "[0]", "", completed("null")},
		"asleep":          {"test.asleep", "", `{"seconds": 0.001}`, completed("null")},
		"sleep backwards": {"test.sleep", "[-1]", "", wrong(`argument "seconds" must be between 0 and 31536000 seconds, is -1`)},
		"sleep for ever":  {"test.sleep", "[1e18]", "", wrong(`argument "seconds" must be between 0 and 31536000 seconds, is 1e+18`)},
		"fail":            {"test.fail", `["no luck"]`, "", safe("no luck")},
		"afail":           {"test.afail", "", `{"message": "no luck"}`, safe("no luck")},
		"a little memory": {"test.memory", "[5000000]", "", completed(`{"bytes":5000000}`)},
		"no memory":       {"test.memory", "[0]", "", completed(`{"bytes":0}`)},
		"less than none":  {"test.memory", "[-1]", "", wrong(`argument "bytes" must be at least 0, is -1`)},
		"no exit code":    {"test.exit", "[256]", "", wrong(`test.exit() argument "code" must be an integer (uint8), is number 256`)},
		"no signal":       {"test.signal", "[0]", "", wrong(`argument "number" must be between 1 and 64, is 0`)},
		"secret":          {"test.secret", "", "", worker.Failed("could not log in to db.internal with password hunter2", "")},
		"no files":        {"test.read_files", "", "", completed("[]")},
		"fail silently":   {"test.fail", "", "", safe("failed on request")},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, newBench(t).run(t.Context(), c.task, c.args, c.kwargs), protocmp.Transform()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSleepStopsWhenAskedAndGooeyDoesNot(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	b := newBench(t)
	for _, name := range []string{"test.sleep", "test.asleep"} {
		if got := b.run(ctx, name, "[1000]", "").GetError().GetDescription(); got != "context canceled" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := b.run(ctx, "test.gooey", "[0.01]", ""); got.GetState() != taskv1.State_STATE_COMPLETED {
		t.Errorf("test.gooey: %v", got)
	}
}

func TestWhichTasksAreImmediate(t *testing.T) {
	b := newBench(t)
	var immediate []string
	for _, name := range b.mux.Names() {
		if traits, _ := b.mux.Traits(name); traits.Immediate {
			immediate = append(immediate, name)
		} else if traits.InProcess {
			t.Errorf("%s runs in the executor for no reason", name)
		}
	}
	if diff := cmp.Diff([]string{"test.afail", "test.asleep", "test.echo", "test.noop"}, immediate); diff != "" {
		t.Errorf("immediate tasks (-want +got):\n%s", diff)
	}
	mux := worker.NewMux()
	builtin.Register(mux, builtin.Options{})
	if diff := cmp.Diff([]string{"command.run"}, mux.Names()); diff != "" {
		t.Errorf("tasks in production (-want +got):\n%s", diff)
	}
}

func TestDummyGroupDispatchesIntoItsGroup(t *testing.T) {
	spec := func(seconds, group string) *taskv1.TaskSpec {
		deferred := true
		return &taskv1.TaskSpec{Name: "test.sleep", ArgsJson: "[" + seconds + "]", GroupId: group, Deferred: &deferred}
	}
	b := newBench(t)
	b.group = "my-group"
	outcome := b.run(t.Context(), "test.dummy_group", "", `{"inbetween": 0.001, "intervals": [0.5, 2]}`)
	if got := outcome.GetResultJson(); got != `{"group":"my-group","tasks":["task-1","task-2"]}` {
		t.Errorf("outcome %v", outcome)
	}
	if diff := cmp.Diff([]*taskv1.TaskSpec{spec("0.5", "my-group"), spec("2", "my-group")}, b.calls.specs, protocmp.Transform()); diff != "" {
		t.Errorf("dispatched (-want +got):\n%s", diff)
	}
	if len(b.calls.groups) != 0 {
		t.Errorf("made groups %v although it has one", b.calls.groups)
	}
	want := &taskv1.GroupProgress{Code: "test.dummy_group", Message: "Dispatching members", Total: 2, Done: 2, Suffix: "tasks"}
	if n := len(b.calls.added); n == 0 || !proto.Equal(b.calls.added[n-1], want) {
		t.Errorf("added to the group %v", b.calls.added)
	}

	b = newBench(t) // without a group it makes one
	outcome = b.run(t.Context(), "test.dummy_group", "", `{"inbetween": 0, "intervals": []}`)
	if got := outcome.GetResultJson(); got != `{"group":"group-1","tasks":[]}` {
		t.Errorf("outcome %v", outcome)
	}
	if len(b.calls.added) != 0 {
		t.Errorf("added %v to a group that it is not in", b.calls.added)
	}
}

func TestFinalizerWaitsForAllMembers(t *testing.T) {
	b := newBench(t)
	outcome := b.run(t.Context(), "test.group_with_finalizer", `["repo"]`, "")
	if got := outcome.GetResultJson(); got != `{"group":"group-1","members":["task-1","task-2"],"finalizer":"task-3"}` {
		t.Fatalf("outcome %v", outcome)
	}
	const all = "prn:core.taskgroup:group-1"
	for i, spec := range b.calls.specs {
		last := i == len(b.calls.specs)-1
		exclusive, shared := []string{"repo"}, []string{all}
		if last {
			exclusive, shared = []string{all}, nil
		}
		if spec.GetGroupId() != "group-1" || !slices.Equal(spec.GetExclusiveResources(), exclusive) || !slices.Equal(spec.GetSharedResources(), shared) {
			t.Errorf("task %d: %v", i+1, spec)
		}
	}
}

func TestOptionsSurviveTheWayToTheChildren(t *testing.T) {
	want := builtin.Options{TestTasks: true, AllowCommands: []string{"ls", `a"b=c`}}
	var got builtin.Options
	if err := json.Unmarshal([]byte(encode(t, want)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
}

func TestExcerptStaysShort(t *testing.T) {
	outcome := newBench(t, "*").run(t.Context(), "command.run", "", encode(t, shell("yes abc | head -c 100000 >&2; echo last words >&2; exit 1")))
	got := outcome.GetError().GetDescription()
	if len(got) > 3<<10 || !strings.HasSuffix(got, "\nlast words") || len(got) > limits.MaxErrorText {
		t.Errorf("%d bytes, ends with %q", len(got), got[max(0, len(got)-20):])
	}
}

// Variables that make this program run one task in a process of its own.
const (
	taskEnv = "SLUICE_TEST_TASK"
	argsEnv = "SLUICE_TEST_ARGS"
)

func runAlone(name, args string) int {
	mux := worker.NewMux()
	builtin.Register(mux, builtin.Options{TestTasks: true})
	fmt.Println(mux.Run(context.Background(), worker.Run{Assignment: &taskv1.Assignment{Name: name, ArgsJson: args}}))
	return 0
}

func TestTasksThatEndTheirProcess(t *testing.T) {
	for name, c := range map[string]struct {
		task, args string
		exited     int // -1: it was killed
		signal     syscall.Signal
	}{
		"exit":      {"test.exit", "[3]", 3, 0},
		"exit well": {"test.exit", "[0]", 0, 0},
		"SIGKILL":   {"test.signal", "[9]", -1, syscall.SIGKILL},
		"SIGTERM":   {"test.signal", "[15]", -1, syscall.SIGTERM},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), taskEnv+"="+c.task, argsEnv+"="+c.args)
			out, err := cmd.Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if len(out) > 0 {
				t.Errorf("it came to an outcome: %s", out)
			}
			status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !ok || cmd.ProcessState.ExitCode() != c.exited || c.signal != 0 && status.Signal() != c.signal {
				t.Errorf("ended with %s", cmd.ProcessState)
			}
		})
	}
}

func TestPanicHasItsCodeAndTraceback(t *testing.T) {
	for args, want := range map[string]string{"": "panic: panicked on request", `["ouch"]`: "panic: ouch"} {
		got := newBench(t).run(t.Context(), "test.panic", args, "")
		failure := got.GetError()
		if failure.GetDescription() != want || failure.GetCode() != task.CodePanic || got.GetSafe() || !strings.Contains(failure.GetTraceback(), "builtin.panics") {
			t.Errorf("outcome: %v", got)
		}
	}
}

func TestFlakyFailsInItsFirstAttempts(t *testing.T) {
	b := newBench(t)
	for attempt, want := range map[int32]*taskv1.Outcome{
		1: safe("failed in attempt 1, as in the first 2"),
		2: safe("failed in attempt 2, as in the first 2"),
		3: {State: taskv1.State_STATE_COMPLETED, ResultJson: `{"attempt":3}`},
	} {
		b.tries = attempt
		if diff := cmp.Diff(want, b.run(t.Context(), "test.flaky", "[2]", ""), protocmp.Transform()); diff != "" {
			t.Errorf("attempt %d (-want +got):\n%s", attempt, diff)
		}
	}
	b.tries = 1
	if got := b.run(t.Context(), "test.flaky", `[2, "BUSY"]`, "").GetError().GetCode(); got != "BUSY" {
		t.Errorf("code %q", got)
	}
}

func TestProgressTakesItsSteps(t *testing.T) {
	last := func(done int64, total *int64, how taskv1.State) *taskv1.Progress {
		return &taskv1.Progress{Code: "test.progress", Message: "Taking steps", State: how, Done: done, Total: total, Suffix: "steps"}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for args, c := range map[string]struct {
		ctx    context.Context
		result string
		last   *taskv1.Progress
	}{
		"[100000]":     {t.Context(), `{"done":100000}`, last(100000, proto.Int64(100000), taskv1.State_STATE_COMPLETED)},
		"[0]":          {t.Context(), `{"done":0}`, last(0, proto.Int64(0), taskv1.State_STATE_COMPLETED)},
		"[3, 2]":       {t.Context(), `{"done":3}`, last(3, proto.Int64(2), taskv1.State_STATE_COMPLETED)},
		"[2, -1, 0.1]": {t.Context(), `{"done":2}`, last(2, nil, taskv1.State_STATE_COMPLETED)},
		"[2, 5]":       {ctx, "", last(0, proto.Int64(5), taskv1.State_STATE_FAILED)},
		"[2, 6, 1000]": {ctx, "", last(0, proto.Int64(6), taskv1.State_STATE_FAILED)},
	} {
		b := newBench(t)
		outcome := b.run(c.ctx, "test.progress", args, "")
		if outcome.GetResultJson() != c.result {
			t.Errorf("%s: outcome %v", args, outcome)
		}
		if diff := cmp.Diff(c.last, b.calls.progress[len(b.calls.progress)-1], protocmp.Transform()); diff != "" {
			t.Errorf("%s: last (-want +got):\n%s", args, diff)
		}
	}
}

func TestCreateTellsWhatItMakesAndDiscardsIt(t *testing.T) {
	b := newBench(t)
	whole, half, lost, strange := b.dir+"/whole", b.dir+"/half", b.dir+"/lost", b.dir+"/strange"
	outcome := b.run(t.Context(), "test.create", "", encode(t, map[string]any{
		"resources": []string{whole}, "incomplete": []string{half, lost, strange}, "message": "no luck",
	}))
	if diff := cmp.Diff(safe("no luck"), outcome, protocmp.Transform()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	want := []*taskv1.CreatedResource{
		{Resource: half, Incomplete: true}, {Resource: lost, Incomplete: true}, {Resource: strange, Incomplete: true}, {Resource: whole, Incomplete: true}, {Resource: whole},
	}
	if diff := cmp.Diff(want, b.calls.created, protocmp.Transform()); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
	if err := errors.Join(os.Remove(lost), os.WriteFile(strange, []byte("another's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if traits, _ := b.mux.Traits("test.create"); !traits.Discards {
		t.Error("it can't discard")
	}
	failed := b.mux.Discard(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "test.create", TaskId: "the-task"}}, []string{half, lost, strange})
	if diff := cmp.Diff(map[string]string{strange: strange + " was not made by this task"}, failed); diff != "" {
		t.Errorf("not discarded (-want +got):\n%s", diff)
	}
	entries, err := filepath.Glob(b.dir + "/*")
	if diff := cmp.Diff([]string{strange, whole}, entries); diff != "" || err != nil {
		t.Errorf("left (-want +got):\n%s, %v", diff, err)
	}
}

func TestCreateTouchesNothingThatIsThere(t *testing.T) {
	b := newBench(t)
	there := b.dir + "/there"
	if err := os.WriteFile(there, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		encode(t, [][]string{{there}}):                   "create a resource: open " + there + ": file exists",
		encode(t, [][]string{{}, {there}}):               "create a resource: open " + there + ": file exists",
		`[["here"]]`:                                     `a resource must be the absolute path of a file, is "here"`,
		`[[], [], "", -1]`:                               `argument "seconds" must be between 0 and 31536000 seconds, is -1`,
		encode(t, [][]string{{b.dir + "/not/there/at"}}): "create a resource: open " + b.dir + "/not/there/at: no such file or directory",
	} {
		if got := b.run(t.Context(), "test.create", args, "").GetError().GetDescription(); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	if text, err := os.ReadFile(there); err != nil || string(text) != "x" {
		t.Errorf("what was there: %q, %v", text, err)
	}
}

func TestFilesGoFromTaskToTask(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("x", 5000)
	for i, text := range []string{"a", long} {
		outcome := b.run(t.Context(), "test.keep_file", encode(t, []string{text}), "")
		id := fmt.Sprintf("file-%d", i+1)
		if outcome.GetResultJson() != `{"file":"`+id+`"}` || filepath.Dir(b.calls.files[id]) != b.dir {
			t.Errorf("outcome %v, files %v", outcome, b.calls.files)
		}
		elsewhere := filepath.Join(t.TempDir(), id) // as the executor copies it
		if err := os.Rename(b.calls.files[id], elsewhere); err != nil {
			t.Fatal(err)
		}
		b.calls.files[id] = elsewhere
	}
	b.files = []string{"file-2", "file-1"}
	if got := b.run(t.Context(), "test.read_files", "", "").GetResultJson(); got != `["`+long[:4096]+`","a"]` {
		t.Errorf("read %q", got)
	}
	b.files = []string{"file-3"}
	if got := b.run(t.Context(), "test.read_files", "", "").GetError().GetDescription(); got != "fetch the file file-3: there is no such file" {
		t.Errorf("read what is not there: %q", got)
	}
}

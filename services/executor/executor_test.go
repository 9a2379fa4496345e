package executor_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
	"github.com/sluice-tasks/sluice/services/executor"
)

func TestHelloPresentsTheExecutor(t *testing.T) {
	f := newFakes(t)
	s := f.begin(executor.Config{Name: "one", Slots: 3, ImmediateSlots: 2, Versions: map[string]string{"core": "1.2"}})
	l := f.line()
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready before the scheduler's welcome")
	}
	registered := receive(t, f.registers, "a registration")
	if registered.GetName() != "one" || registered.GetTtl().AsDuration() != time.Minute {
		t.Errorf("registered as %v", registered)
	}
	h := l.hello
	if h.GetExecutor() != "one" || h.GetSlots() != 3 || h.GetImmediateSlots() != 2 || h.GetVersions()["core"] != "1.2" ||
		h.GetIncarnation() == "" || len(h.GetHeld()) != 0 || h.GetDraining() {
		t.Errorf("hello: %v", h)
	}
	if diff := cmp.Diff(testMux().Names(), h.GetTaskNames()); diff != "" {
		t.Errorf("task names (-want +got):\n%s", diff)
	}
	l.welcome()
	l.do(order("test.noop", "")) // after that the welcome has arrived
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

func TestChildTaskRunsInItsOwnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	_, _, l := connect(t, executor.Config{Name: "me", WorkDir: dir})
	a := order("look", "")
	a.GroupId, a.Traceparent, a.Attempt = newID(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 2
	var got sight
	l.result(a, &got)

	own := filepath.Join(dir, "me", a.GetTaskId())
	want := sight{
		PID: got.PID, Cwd: own, Dir: own, Mode: "drwx------", Entries: 0,
		Task: worker.Task{
			ID: a.GetTaskId(), Name: "look", Claim: 1, Attempt: 2, MaxAttempts: 1, Domain: "default", CorrelationID: "the-request",
			GroupID: a.GetGroupId(), Traceparent: a.GetTraceparent(),
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the handler saw (-want +got):\n%s", diff)
	}
	if got.PID == os.Getpid() {
		t.Error("the handler ran in the executor's process")
	}
	if _, err := os.Lstat(own); !os.IsNotExist(err) {
		t.Errorf("the directory is still there after the end was reported: %v", err)
	}
}

func TestInProcessTaskHasADirectoryToo(t *testing.T) {
	_, _, l := connect(t, executor.Config{})
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var got sight
	l.result(order("look.here", ""), &got)
	if got.PID != os.Getpid() || got.Cwd != cwd || got.Dir == cwd || got.Entries != 0 || got.Mode != "drwx------" {
		t.Errorf("saw %+v", got)
	}
	if _, err := os.Lstat(got.Dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestOutcomes(t *testing.T) {
	completed := func(result string) *taskv1.Outcome {
		return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: result}
	}
	failed := func(e *taskv1.TaskError) *taskv1.Outcome {
		return &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: e}
	}
	description := func(code, text string) *taskv1.Outcome {
		return failed(&taskv1.TaskError{Code: code, Description: text})
	}
	reason := func(text string) *taskv1.Outcome {
		return failed(&taskv1.TaskError{Code: task.CodeProcessDied, Reason: text})
	}

	_, _, l := connect(t, executor.Config{ImmediateTimeout: 50 * time.Millisecond})
	slow := order("test.asleep", `{"seconds": 1000}`)
	for name, c := range map[string]struct {
		assignment *taskv1.Assignment
		immediate  bool
		want       *taskv1.Outcome
	}{
		"result":                     {order("test.echo", `{"b": 1.10, "a": 12345678901234567890}`), false, completed(`{"args":[],"kwargs":{"b": 1.10, "a": 12345678901234567890}}`)},
		"no result":                  {order("test.sleep", `{"seconds": 0}`), false, completed("null")},
		"error":                      {order("test.fail", `{"message": "no luck"}`), false, description(task.CodeError, "no luck")},
		"error in the executor":      {order("test.afail", `{"message": "no luck"}`), true, description(task.CodeError, "no luck")},
		"unknown argument":           {order("test.sleep", `{"seconds": 0, "x": 1}`), false, description(task.CodePermanent, `test.sleep() got an unexpected argument "x"`)},
		"exit":                       {order("exit", `{"Code": 3}`), false, reason("Task process died unexpectedly with exitcode 3.")},
		"exit with 0":                {order("exit", `{"Code": 0}`), false, reason("Task process died unexpectedly with exitcode 0.")},
		"killed":                     {order("die", ""), false, reason("Killed by signal 9.")},
		"unknown task":               {order("nobody.knows", ""), false, description(task.CodeError, `This executor has no handler for the task "nobody.knows".`)},
		"not fit for immediate":      {order("test.sleep", `{"seconds": 0}`), true, description(task.CodeError, task.DescriptionImmediate+` The handler of "test.sleep" is not declared fit to run immediately.`)},
		"immediate out of time":      {slow, true, description(task.CodeTimeout, fmt.Sprintf("Immediate task %s (type: test.asleep) timed out after 0.05 seconds.", slow.GetTaskId()))},
		"immediate in time":          {order("test.noop", ""), true, completed("null")},
		"same handler, not in haste": {order("test.asleep", `{"seconds": 0.1}`), false, completed("null")},
	} {
		t.Run(name, func(t *testing.T) {
			c.assignment.Immediate = c.immediate
			if diff := cmp.Diff(c.want, l.do(c.assignment), protocmp.Transform()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPanicFailsTheTaskWithTheFramesOfItsAuthor(t *testing.T) {
	_, _, l := connect(t, executor.Config{})
	outcome := l.do(order("panic", ""))
	if got, want := outcome.GetError().GetDescription(), "panic: runtime error: invalid memory address or nil pointer dereference"; got != want {
		t.Errorf("description %q, want %q", got, want)
	}
	trace := outcome.GetError().GetTraceback()
	if !strings.HasPrefix(trace, "github.com/sluice-tasks/sluice/services/executor_test.panicking\n") || strings.Count(trace, "\n") != 2 {
		t.Errorf("traceback has more or less than the handler:\n%s", trace)
	}
}

func TestUnfitWorkerFailsItsTaskOnly(t *testing.T) {
	for name, c := range map[string]struct {
		command []string
		want    string
	}{
		"missing":   {[]string{"/does/not/exist"}, "no such file"},
		"ends":      {[]string{"sh", "-c", "echo broken; exit 7"}, "it ended before it was ready (Task process died unexpectedly with exitcode 7.)"},
		"is silent": {[]string{"sleep", "1000"}, "it was not ready in time"},
		"babbles":   {[]string{"sh", "-c", `printf '\377\377\377\377\377\377\377\377\377\377\377' >&3; exec sleep 1000`}, "did not keep to the protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, l := connect(t, executor.Config{ChildCommand: c.command, StartTimeout: 500 * time.Millisecond})
			outcome := l.do(order("test.sleep", `{"seconds": 0}`))
			if outcome.GetState() != taskv1.State_STATE_FAILED || !strings.Contains(outcome.GetError().GetDescription(), c.want) {
				t.Errorf("outcome %v does not say %q", outcome, c.want)
			}
			if name == "ends" {
				if got := receive(t, f.logs, "the log").GetText(); got != "broken\n" {
					t.Errorf("log %q", got)
				}
			}
			if outcome := l.do(order("test.noop", "")); outcome.GetState() != taskv1.State_STATE_COMPLETED {
				t.Errorf("the executor does not go on: %v", outcome)
			}
		})
	}
}

func TestLogIsStoredBeforeTheEndIsReported(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	expect := func(a *taskv1.Assignment, want string) {
		t.Helper()
		l.do(a)
		select {
		case got := <-f.logs:
			if got.GetText() != want || got.GetTaskId() != a.GetTaskId() || got.GetClaim() != a.GetClaim() || got.GetTruncated() {
				t.Errorf("log %v, want %q", got, want)
			}
		default:
			t.Errorf("no log of %s when its end was reported", a.GetName())
		}
	}
	expect(order("print", `{"Text": "out\n", "Error": "err\n"}`), "out\nerr\n")
	expect(order("exit", `{"Code": 1}`), "about to exit\n")
	expect(order("die", ""), "about to die\n")
	expect(order("command.run", `{"argv": ["printf", "a\\000b\\377c"]}`), "a\uFFFDb\uFFFDc")
	l.do(order("test.sleep", `{"seconds": 0}`))
	select {
	case got := <-f.logs:
		t.Errorf("a task that wrote nothing has the log %v", got)
	default:
	}
	// Failing to store it is no reason to lose the outcome.
	f.logFails.Store(true)
	expect(order("print", `{"Text": "x"}`), "x")
}

func TestLogsOfOneChildDoNotMix(t *testing.T) {
	f, _, l := connect(t, executor.Config{Slots: 1})
	var first, pid int
	for i := range 50 {
		text := strings.Repeat(fmt.Sprintf("%d.", i), 7000) // more than one read takes, less than the pipe holds
		l.result(order("print", fmt.Sprintf(`{"Text": %q}`, text)), &pid)
		if i == 0 {
			first = pid
		}
		if pid != first {
			t.Fatalf("task %d ran in another child", i)
		}
		if got := receive(t, f.logs, "a log").GetText(); got != text {
			t.Fatalf("task %d: log of %d bytes beginning %.20q, want %d bytes beginning %.20q", i, len(got), got, len(text), text)
		}
	}
}

func TestOnlyTheEndOfALongLogIsKept(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	l.do(order("print", `{"Text": "abcdefghij", "Times": 200000, "Error": "the end"}`))
	got := receive(t, f.logs, "a log")
	if !got.GetTruncated() || len(got.GetText()) != 256<<10 || !strings.HasSuffix(got.GetText(), "hijthe end") {
		t.Errorf("log of %d bytes, truncated %v, ends with %q", len(got.GetText()), got.GetTruncated(), got.GetText()[len(got.GetText())-20:])
	}
}

func TestHandlersLoggerWritesToTheTasksLog(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a := order("log", "")
	l.do(a)
	got := receive(t, f.logs, "a log").GetText()
	if !strings.Contains(got, `msg="a line" task_id=`+a.GetTaskId()+" correlation_id=the-request n=1") {
		t.Errorf("log %q", got)
	}
}

func TestChildrenAreUsedAgainUnlessThereIsReasonNotTo(t *testing.T) {
	_, _, l := connect(t, executor.Config{Slots: 1, MaxTasksPerChild: 4})
	pid := func() (pid int) {
		l.result(order("print", `{"Text": ""}`), &pid)
		return pid
	}
	first := pid()
	if second := pid(); second != first {
		t.Errorf("a second task ran in child %d, not in the warm %d", second, first)
	}
	l.do(order("test.fail", "")) // an error is an answer like any other
	if fourth := pid(); fourth != first {
		t.Errorf("after an error a task ran in child %d, not in %d", fourth, first)
	}
	fifth := pid()
	if fifth == first {
		t.Error("a child had more tasks than it may")
	}
	l.do(order("panic", ""))
	if sixth := pid(); sixth == fifth {
		t.Error("a child was used again after a panic")
	}
}

func TestNothingLeftBehindSurvivesTheTask(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a := l.assign(order("orphan", ""))
	var pids []int
	told(t, f, &pids)
	if outcome := l.end(a); outcome.GetState() != taskv1.State_STATE_COMPLETED {
		t.Fatalf("outcome %v", outcome)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pids[0])); !os.IsNotExist(err) {
		t.Errorf("process %d was still there when the end was reported: %v", pids[0], err)
	}
}

// A child that was killed can't see to it itself.
func TestNothingLeftBehindSurvivesAChildThatDied(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a := l.assign(order("orphan.dies", ""))
	var pids []int
	told(t, f, &pids)
	if outcome := l.end(a); outcome.GetError().GetReason() != "Killed by signal 9." {
		t.Fatalf("outcome %v", outcome)
	}
	// Who takes its end notice is process 1, when it comes to it.
	if left := procs.Find(func(p procs.Process) bool { return p.PID == pids[0] && !p.Over }); len(left) != 0 {
		t.Errorf("process %d was still there when the end was reported", pids[0])
	}
}

func TestChildSeesNoSecrets(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://secret")
	t.Setenv("SLUICE_PASSWORD", "secret")
	t.Setenv("PGPASSWORD", "secret")
	t.Setenv("HARMLESS", "yes")
	_, _, l := connect(t, executor.Config{ChildEnv: []string{"ADDED=yes"}})
	var env []string
	l.result(order("env", ""), &env)
	all := "\n" + strings.Join(env, "\n") + "\n"
	for _, secret := range []string{"DATABASE_URL=", "SLUICE_PASSWORD", "PGPASSWORD=", "secret"} {
		if strings.Contains(all, secret) {
			t.Errorf("the child's environment has %s", secret)
		}
	}
	for _, wanted := range []string{"\nHARMLESS=yes\n", "\nADDED=yes\n", "\nPATH="} {
		if !strings.Contains(all, wanted) {
			t.Errorf("the child's environment lacks %q", wanted)
		}
	}
}

func TestTasksDispatchInTheirOwnName(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	for _, name := range []string{"dispatch", "dispatch.here"} {
		t.Run(name, func(t *testing.T) {
			a := order(name, "")
			var made []string
			l.result(a, &made)
			if got := receive(t, f.groups, "a group"); got != "a group" {
				t.Errorf("group %q", got)
			}
			deferred := true
			want := &taskv1.TaskSpec{
				Name: "child", KwargsJson: `{"n":1}`, ExclusiveResources: []string{"a"}, SharedResources: []string{"b"}, Deferred: &deferred,
				GroupId: made[0], ParentId: a.GetTaskId(), CorrelationId: "the-request",
			}
			got := receive(t, f.dispatches, "a dispatch")
			if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(got, "request_id")); diff != "" {
				t.Errorf("dispatched (-want +got):\n%s", diff)
			}
			if got.GetRequestId() == "" {
				t.Error("the dispatch can't be repeated: it has no request id")
			}
			if made[1] == "" {
				t.Error("the id of the child did not come back")
			}
		})
	}
}

func TestNeverMoreTasksThanSlots(t *testing.T) {
	f, _, l := connect(t, executor.Config{Slots: 1, ImmediateSlots: 1})
	first, second := l.assign(order("wait", "")), order("wait", "")
	l.acknowledged(first)
	told(t, f, new([]int))
	l.assign(second) // one too many
	l.acknowledged(second)
	var quick []string
	a := order("dispatch.here", "")
	a.Immediate = true
	l.result(a, &quick) // other slots
	receive(t, f.dispatches, "the dispatch of the immediate task")
	select {
	case spec := <-f.dispatches:
		t.Errorf("the second task runs beside the first: %v", spec)
	default:
	}
	l.cancel(first)
	l.end(first)
	told(t, f, new([]int)) // the second runs now
	l.cancel(second)
	l.end(second)
}

// told waits until a task has told process ids.
func told(t testing.TB, f *fakes, pids *[]int) {
	t.Helper()
	spec := receive(t, f.dispatches, "a task that tells its process ids")
	var args [][]int
	if err := json.Unmarshal([]byte(spec.GetArgsJson()), &args); err != nil || spec.GetName() != "told" || len(args) != 1 {
		t.Fatalf("told %v: %v", spec, err)
	}
	*pids = args[0]
}

package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// afterLook changes the first task once the command line has looked at it and goes on waiting.
func afterLook(t *testing.T, server *clienttest.Server, change func(*taskv1.Task)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.AwaitCall(statusv1.StatusService_WaitTasks_FullMethodName)
		server.AwaitCall(statusv1.StatusService_WaitTasks_FullMethodName)
		server.Change(clienttest.ID(1), change)
	}()
	t.Cleanup(func() { <-done })
}

func TestDispatchAndWaitPrintsTheResult(t *testing.T) {
	server := clienttest.New(t)
	afterLook(t, server, clienttest.Complete(`{"sum":3,"of":[1,2]}`))
	check(t, outcome{stdout: "{\n  \"sum\": 3,\n  \"of\": [\n    1,\n    2\n  ]\n}\n"}, ask(t, server, "dispatch", "add", "--wait"))
}

func TestDispatchAndWaitPrintsTheWholeTaskAsJSON(t *testing.T) {
	server := clienttest.New(t)
	afterLook(t, server, clienttest.Complete(`{"sum":3}`))
	golden(t, "json/dispatch-wait", ask(t, server, "dispatch", "add", "-w", "-o", "json").String())
}

func TestDispatchAndWaitExitsWith1WhenTheTaskFailed(t *testing.T) {
	server := clienttest.New(t)
	afterLook(t, server, clienttest.End(taskv1.State_STATE_FAILED, &taskv1.TaskError{Description: "out of \x1b[31mpaper"}))
	check(t, outcome{code: exitNo, stderr: "sluice: task " + clienttest.ID(1) + ` failed: out of \u001b[31mpaper` + "\n"}, ask(t, server, "dispatch", "print", "--wait"))
}

func TestDispatchAndWaitExitsWith1WhenTheTaskWasCanceled(t *testing.T) {
	server := clienttest.New(t)
	afterLook(t, server, clienttest.End(taskv1.State_STATE_CANCELED, &taskv1.TaskError{Reason: task.ReasonCanceled}))
	got := ask(t, server, "dispatch", "print", "--wait", "-o", "json")
	isJSON(t, got.stdout)
	if !strings.Contains(got.stdout, `"state": "canceled"`) {
		t.Errorf("the task is not in %s", got.stdout)
	}
	got.stdout = ""
	check(t, outcome{code: exitNo, stderr: "sluice: task " + clienttest.ID(1) + " canceled: Canceled on request.\n"}, got)
}

func TestDispatchAndWaitGivesUpAfterItsTimeout(t *testing.T) {
	server := clienttest.New(t)
	id := clienttest.ID(1)
	check(t, outcome{code: exitNo, stderr: "sluice: task " + id + " is still waiting after 20ms: `sluice task wait " + id + "` goes on waiting for it\n"},
		ask(t, server, "dispatch", "print", "--wait", "--wait-timeout", "20ms"))
	got := ask(t, server, "dispatch", "print", "--wait", "--wait-timeout", "20ms", "-o", "json")
	isJSON(t, got.stdout)
	if got.code != exitNo || !strings.Contains(got.stdout, `"state": "waiting"`) {
		t.Errorf("exit code %d: %s", got.code, got.stdout)
	}
}

func TestATaskThatWasDispatchedIsNamedWhateverHappensToTheWait(t *testing.T) {
	server := clienttest.New(t)
	server.Fail = func(method string) error {
		if method == statusv1.StatusService_WaitTasks_FullMethodName {
			panic("boom")
		}
		return nil
	}
	got := ask(t, server, "dispatch", "print", "--wait")
	if got.code != exitNo || !strings.HasPrefix(got.stderr, "sluice: task "+clienttest.ID(1)+" was dispatched, but its end is not known\nsluice: ") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}

func TestAnImmediateTaskHasEndedWhenItWasDispatched(t *testing.T) {
	id := clienttest.ID(1)
	for name, c := range map[string]struct {
		end  func(*taskv1.Task)
		args []string
		want outcome
	}{
		"completed":           {clienttest.Complete("7"), nil, outcome{stdout: id + "\n"}},
		"completed, wait":     {clienttest.Complete("7"), []string{"--wait"}, outcome{stdout: "7\n"}},
		"completed, no defer": {clienttest.Complete(""), []string{"--wait", "--no-defer"}, outcome{stdout: "null\n"}},
		"blocked": {
			clienttest.End(taskv1.State_STATE_CANCELED, &taskv1.TaskError{Reason: task.ReasonUnavailable}),
			[]string{"--no-defer"},
			outcome{code: exitNo, stdout: id + "\n", stderr: "sluice: task " + id + " canceled: Resources temporarily unavailable.\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := clienttest.New(t)
			server.OnDispatch = c.end
			check(t, c.want, ask(t, server, append([]string{"dispatch", "x", "--immediate"}, c.args...)...))
		})
	}
}

func TestAnInterruptedWaitSaysThatTheTaskGoesOn(t *testing.T) {
	server := clienttest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		server.AwaitCall(statusv1.StatusService_WaitTasks_FullMethodName)
		server.AwaitCall(statusv1.StatusService_WaitTasks_FullMethodName)
		cancel()
	}()
	var stdout, stderr bytes.Buffer
	code := Main(ctx, []string{"dispatch", "x", "--wait", "--addr", server.Addr}, Environment{Stdout: &stdout, Stderr: &stderr, LookupEnv: lookup(nil)})
	id := clienttest.ID(1)
	check(t, outcome{code: exitNo, stderr: "sluice: interrupted; task " + id + " is waiting and goes on: `sluice task wait " + id + "` waits for it\n"},
		outcome{code: code, stdout: stdout.String(), stderr: stderr.String()})
}

func TestTaskWaitWaitsForAll(t *testing.T) {
	server := clienttest.New(t)
	server.Put(&taskv1.Task{Name: "a"})
	server.Put(&taskv1.Task{Name: "b"})
	server.Change(clienttest.ID(2), clienttest.Complete("2"))
	afterLook(t, server, clienttest.Complete("1"))
	golden(t, "text/wait", ask(t, server, "task", "wait", clienttest.ID(2), clienttest.ID(1)).String())
}

func TestTaskWaitGivesUpAfterItsTimeout(t *testing.T) {
	t.Parallel() // it takes its time
	server := busy(t)
	for _, form := range []string{"text", "json"} {
		got := ask(t, server, "task", "wait", "--timeout", "1s", completedID, waitingID, "-o", form)
		if form == "json" {
			isJSON(t, got.stdout)
		}
		if !strings.Contains(got.stdout, waitingID) {
			t.Errorf("the task is not in %s", got.stdout)
		}
		got.stdout = ""
		check(t, outcome{code: exitNo, stderr: "sluice: not all have ended after 1s\n"}, got)
	}
}

func TestTaskWaitAllEndsWhenNothingIsLeft(t *testing.T) {
	server := clienttest.New(t)
	check(t, outcome{stdout: "no task is waiting or running\n"}, ask(t, server, "task", "wait", "--all"))
	check(t, outcome{stdout: "[]\n"}, ask(t, server, "task", "wait", "--all", "-o", "json"))
}

func TestTaskWaitAllWaitsForWhatComesMeanwhileAndForgetsWhatIsDeleted(t *testing.T) {
	server := clienttest.New(t)
	server.Put(&taskv1.Task{Name: "a"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		list, wait := statusv1.StatusService_ListTasks_FullMethodName, statusv1.StatusService_WaitTasks_FullMethodName
		server.AwaitCall(wait)
		server.AwaitCall(wait)
		server.Put(&taskv1.Task{Name: "b"})
		server.Change(clienttest.ID(1), clienttest.Complete("1"))
		server.AwaitCall(list)
		server.AwaitCall(wait)
		server.AwaitCall(wait)
		server.Remove(clienttest.ID(2))
	}()
	got := ask(t, server, "task", "wait", "--all")
	<-done
	check(t, outcome{stdout: "no task is waiting or running\n"}, got)
}

func TestTaskWaitAllGivesUpAfterItsTimeout(t *testing.T) {
	check(t, outcome{code: exitNo, stderr: "sluice: not all have ended after 20ms\n"}, ask(t, busy(t), "task", "wait", "--all", "--timeout", "20ms"))
}

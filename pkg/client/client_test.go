package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, server *clienttest.Server) *client.Client {
	t.Helper()
	c, err := client.Dial(server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestDispatchSendsEveryFieldOfTheSpec(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	_, err := c.Dispatch(t.Context(), client.Spec{
		Name:          "command.run",
		Args:          []any{1, "<a&b>"},
		Kwargs:        struct{ Argv []string }{[]string{"ls"}},
		Exclusive:     []string{"a,b", "c"},
		Shared:        []string{"d"},
		Immediate:     true,
		NoDefer:       true,
		Versions:      map[string]string{"core": "3.1"},
		ParentID:      clienttest.ID(1),
		GroupID:       clienttest.ID(2),
		CorrelationID: "request 7",

		Timeout:        90 * time.Second,
		ProfileOptions: []string{"memory"},
		Files:          []string{clienttest.ID(3)},
	})
	if err != nil {
		t.Fatal(err)
	}
	deferred := false
	want := []*taskv1.TaskSpec{{
		Name:               "command.run",
		ArgsJson:           `[1,"<a&b>"]`,
		KwargsJson:         `{"Argv":["ls"]}`,
		ExclusiveResources: []string{"a,b", "c"},
		SharedResources:    []string{"d"},
		Immediate:          true,
		Deferred:           &deferred,
		Versions:           map[string]string{"core": "3.1"},
		ParentId:           clienttest.ID(1),
		GroupId:            clienttest.ID(2),
		CorrelationId:      "request 7",
		Timeout:            durationpb.New(90 * time.Second),
		ProfileOptions:     []string{"memory"},
		FileIds:            []string{clienttest.ID(3)},
	}}
	if diff := cmp.Diff(want, server.Specs(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestRetryLeavesTheDefaultsToTheServer(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	for _, step := range []struct {
		asked *client.Retry
		sent  *taskv1.RetryPolicy
		shown *client.Retry
	}{
		{nil, nil, nil},
		{&client.Retry{MaxAttempts: 1}, &taskv1.RetryPolicy{MaxAttempts: 1}, nil},
		{&client.Retry{MaxAttempts: 3}, &taskv1.RetryPolicy{MaxAttempts: 3}, &client.Retry{MaxAttempts: 3, Backoff: time.Second, MaxBackoff: time.Minute}},
		{
			&client.Retry{MaxAttempts: 2, Backoff: -1, On: []string{"TIMEOUT"}},
			&taskv1.RetryPolicy{MaxAttempts: 2, Backoff: durationpb.New(0), On: []string{"TIMEOUT"}},
			&client.Retry{MaxAttempts: 2, Backoff: -1, MaxBackoff: time.Minute, On: []string{"TIMEOUT"}},
		},
		{
			&client.Retry{MaxAttempts: 2, Backoff: time.Hour, MaxBackoff: 2 * time.Hour},
			&taskv1.RetryPolicy{MaxAttempts: 2, Backoff: durationpb.New(time.Hour), MaxBackoff: durationpb.New(2 * time.Hour)},
			&client.Retry{MaxAttempts: 2, Backoff: time.Hour, MaxBackoff: 2 * time.Hour},
		},
	} {
		got, err := c.Dispatch(t.Context(), client.Spec{Name: "n", Retry: step.asked})
		if err != nil {
			t.Fatal(err)
		}
		specs := server.Specs()
		if diff := cmp.Diff(step.sent, specs[len(specs)-1].GetRetry(), protocmp.Transform()); diff != "" {
			t.Errorf("sent: %s", diff)
		}
		if diff := cmp.Diff(step.shown, got.Retry); diff != "" {
			t.Errorf("shown: %s", diff)
		}
		most := 1
		if step.shown != nil {
			most = step.shown.MaxAttempts
		}
		if got.MaxAttempts() != most {
			t.Errorf("at most %d attempts, want %d", got.MaxAttempts(), most)
		}
	}
}

func TestWhatATaskHasToldIsShownWhereItWasAskedFor(t *testing.T) {
	server := clienttest.New(t)
	silent, id := server.Put(&taskv1.Task{Name: "n"}).GetId(), server.Put(&taskv1.Task{Name: "n"}).GetId()
	at := timestamppb.New(clienttest.Epoch)
	server.Change(id, func(t *taskv1.Task) { t.Attempt, t.RetryAt = 2, at })
	server.Tell(id, &statusv1.TaskReport{
		Progress: []*taskv1.Progress{
			{Code: "a", Message: "Doing a", State: taskv1.State_STATE_RUNNING, Total: proto.Int64(0), Suffix: "files"}, {Code: "b", State: taskv1.State_STATE_FAILED, Done: 7},
		},
		Created: []*taskv1.CreatedResource{{Resource: "x"}, {Resource: "y", Incomplete: true}},
	}, &statusv1.Attempt{Attempt: 1, Claim: 1, Executor: "e", StartedAt: at, EndedAt: at, Error: &taskv1.TaskError{Reason: "r", Code: "TIMEOUT"}})
	want := client.Report{
		Progress: []client.Progress{
			{Code: "a", Message: "Doing a", State: task.Running, Total: proto.Int64(0), Suffix: "files"}, {Code: "b", State: task.Failed, Done: 7},
		},
		Created: []client.Created{{Resource: "x"}, {Resource: "y", Incomplete: true}},
	}
	attempts := []client.Attempt{{
		Number: 1, Claim: 1, Executor: "e", StartedAt: clienttest.Epoch, EndedAt: clienttest.Epoch, Error: &task.Error{Reason: "r", Code: "TIMEOUT"},
	}}
	c := dial(t, server)
	got, err := c.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.Report); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(attempts, got.Attempts); diff != "" {
		t.Error(diff)
	}
	if got.RetryAt == nil || !got.RetryAt.Equal(clienttest.Epoch) {
		t.Errorf("the next attempt is at %v", got.RetryAt)
	}
	for _, asked := range []bool{false, true} {
		for one, err := range c.List(t.Context(), client.Filter{Reports: asked}) {
			if err != nil {
				t.Fatal(err)
			}
			expected := client.Report{}
			if asked && one.ID != silent {
				expected = want
			}
			if diff := cmp.Diff(expected, one.Report); diff != "" {
				t.Errorf("in a list, asked %v: %s", asked, diff)
			}
		}
	}
}

func TestDispatchTellsWhichFieldsAreWrong(t *testing.T) {
	c := dial(t, clienttest.New(t))
	_, err := c.Dispatch(t.Context(), client.Spec{Name: " ", Exclusive: []string{"ok", ""}})
	var broken *errs.Error
	if !errors.As(err, &broken) || !errs.Is(err, errs.InvalidInput) {
		t.Fatalf("got %v, want invalid input", err)
	}
	var fields []string
	for _, v := range broken.Violations {
		fields = append(fields, v.Field)
	}
	if diff := cmp.Diff([]string{"task.name", "task.exclusive_resources[1]"}, fields); diff != "" {
		t.Error(diff)
	}
}

func TestDispatchRefusesArgumentsThatAreNotJSON(t *testing.T) {
	server := clienttest.New(t)
	if _, err := dial(t, server).Dispatch(t.Context(), client.Spec{Name: "x", Args: []any{func() {}}}); err == nil {
		t.Error("a function was marshalled")
	}
	if n := len(server.Specs()); n != 0 {
		t.Errorf("%d tasks were dispatched", n)
	}
}

func TestDispatchBatchSendsAllSpecsInTheirOrderAndReturnsTheirTasks(t *testing.T) {
	server := clienttest.New(t)
	server.OnDispatch = func(t *taskv1.Task) {
		if t.GetImmediate() {
			clienttest.Complete("1")(t)
		}
	}
	tasks, err := dial(t, server).DispatchBatch(t.Context(), []client.Spec{
		{Name: "first", Args: []any{1}, Exclusive: []string{"a"}},
		{Name: "second", Shared: []string{"b"}, Immediate: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	deferred := true
	want := []*taskv1.TaskSpec{
		{Name: "first", ArgsJson: "[1]", ExclusiveResources: []string{"a"}, Deferred: &deferred},
		{Name: "second", SharedResources: []string{"b"}, Immediate: true, Deferred: &deferred},
	}
	if diff := cmp.Diff(want, server.Specs(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	got := []string{}
	for _, one := range tasks {
		got = append(got, one.ID+" "+one.Name+" "+string(one.State))
	}
	if diff := cmp.Diff([]string{clienttest.ID(1) + " first waiting", clienttest.ID(2) + " second completed"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDispatchBatchStoresNothingWhenOneSpecIsWrong(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	_, err := c.DispatchBatch(t.Context(), []client.Spec{{Name: "ok"}, {Name: " "}})
	var broken *errs.Error
	if !errors.As(err, &broken) || len(broken.Violations) != 1 || broken.Violations[0].Field != "tasks[1].name" {
		t.Errorf("got %v, want the name of the second", err)
	}
	if _, err := c.DispatchBatch(t.Context(), []client.Spec{{Name: "ok"}, {Name: "x", Args: []any{func() {}}}}); err == nil {
		t.Error("a function was marshalled")
	}
	if _, err := c.DispatchBatch(t.Context(), nil); !errs.Is(err, errs.InvalidInput) {
		t.Errorf("no tasks: got %v, want invalid input", err)
	}
	if n := len(server.Specs()); n != 0 {
		t.Errorf("%d tasks were dispatched", n)
	}
}

func TestGetTellsAllAboutATask(t *testing.T) {
	server := clienttest.New(t)
	stored := server.Put(&taskv1.Task{
		Name: "command.run", ExclusiveResources: []string{"a"}, SharedResources: []string{"b"}, Deferred: true, Versions: map[string]string{"core": "1"},
		ParentId: clienttest.ID(7), GroupId: clienttest.ID(8), CorrelationId: "c",
	})
	server.Change(stored.GetId(), clienttest.Complete(`{"exit_code": 0}`))
	server.Put(&taskv1.Task{Name: "child", ParentId: stored.GetId()})
	got, children, err := dial(t, server).GetWithChildren(t.Context(), stored.GetId())
	if err != nil {
		t.Fatal(err)
	}
	after := func(d time.Duration) *time.Time { at := clienttest.Epoch.Add(d); return &at }
	want := client.Task{
		ID: clienttest.ID(1), Seq: 1, Name: "command.run", State: task.Completed, Domain: "default", Exclusive: []string{"a"}, Shared: []string{"b"},
		Deferred: true, Versions: map[string]string{"core": "1"}, ParentID: clienttest.ID(7), GroupID: clienttest.ID(8), CorrelationID: "c",
		CreatedAt: clienttest.Epoch, UpdatedAt: *after(1512 * time.Millisecond), UnblockedAt: after(2 * time.Millisecond),
		StartedAt: after(12 * time.Millisecond), FinishedAt: after(1512 * time.Millisecond), Executor: "worker-1", Attempt: 1, Claim: 1,
		Result: json.RawMessage(`{"exit_code": 0}`),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{clienttest.ID(2)}, children); diff != "" {
		t.Error(diff)
	}
}

func TestTaskErrSaysWhyATaskDidNotComplete(t *testing.T) {
	for _, c := range []struct {
		task client.Task
		want string
	}{
		{client.Task{ID: "1", State: task.Completed}, ""},
		{client.Task{ID: "1", State: task.Running}, ""},
		{client.Task{ID: "1", State: task.Failed, Error: &task.Error{Description: "no such file"}}, "task 1 failed: no such file"},
		{client.Task{ID: "1", State: task.Canceled, Error: &task.Error{Reason: task.ReasonCanceled}}, "task 1 canceled: Canceled on request."},
		{client.Task{ID: "1", State: task.Failed}, "task 1 failed"},
	} {
		got := ""
		if err := c.task.Err(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestListJoinsPagesAndStopsAtTheLimit(t *testing.T) {
	server := clienttest.New(t)
	for range 2100 {
		server.Put(&taskv1.Task{Name: "n"})
	}
	c := dial(t, server)
	for limit, want := range map[int]int{0: 2100, 1: 1, 1000: 1000, 1500: 1500, 5000: 2100} {
		seen := map[string]bool{}
		for one, err := range c.List(t.Context(), client.Filter{Limit: limit}) {
			if err != nil {
				t.Fatal(err)
			}
			seen[one.ID] = true
		}
		if len(seen) != want {
			t.Errorf("limit %d gave %d tasks, want %d", limit, len(seen), want)
		}
	}
}

func TestListPassesEveryFilterOn(t *testing.T) {
	server := clienttest.New(t)
	id := server.Put(&taskv1.Task{
		Name: "a", CorrelationId: "c", GroupId: clienttest.ID(8), ParentId: clienttest.ID(9), SharedResources: []string{"r"},
	}).GetId()
	server.Put(&taskv1.Task{Name: "b"})
	server.Change(id, clienttest.Run)
	c := dial(t, server)
	for name, filter := range map[string]client.Filter{
		"state": {States: []task.State{task.Running}}, "name": {Name: "a"}, "correlation": {CorrelationID: "c"},
		"group": {GroupID: clienttest.ID(8)}, "parent": {ParentID: clienttest.ID(9)}, "resource": {Resources: []string{"r"}},
	} {
		var ids []string
		for one, err := range c.List(t.Context(), filter) {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, one.ID)
		}
		if diff := cmp.Diff([]string{id}, ids); diff != "" {
			t.Errorf("by %s: %s", name, diff)
		}
	}
}

func TestWaitReturnsAllTasksInTheirOrderWhenTheLastIsFinal(t *testing.T) {
	server := clienttest.New(t)
	first, second := server.Put(&taskv1.Task{Name: "a"}).GetId(), server.Put(&taskv1.Task{Name: "b"}).GetId()
	c := dial(t, server)
	go func() {
		server.AwaitCall(statusv1.StatusService_WaitTasks_FullMethodName)
		server.Change(first, clienttest.Complete("1"))
		server.Change(second, clienttest.End(taskv1.State_STATE_FAILED, &taskv1.TaskError{Description: "no"}))
	}()
	tasks, err := c.Wait(t.Context(), second, first)
	if err != nil {
		t.Fatal(err)
	}
	got := []task.State{tasks[0].State, tasks[1].State}
	if diff := cmp.Diff([]task.State{task.Failed, task.Completed}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWaitTakesMoreTasksThanOneCallMay(t *testing.T) {
	server := clienttest.New(t)
	ids := make([]string, 2500)
	for i := range ids {
		ids[i] = server.Put(&taskv1.Task{Name: "n"}).GetId()
		server.Change(ids[i], clienttest.Complete("null"))
	}
	tasks, err := dial(t, server).Wait(t.Context(), ids...)
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range tasks {
		if one.ID != ids[i] {
			t.Fatalf("task %d is %s, want %s", i, one.ID, ids[i])
		}
	}
}

func TestWaitReturnsWhatItSawWhenItsContextEnds(t *testing.T) {
	server := clienttest.New(t)
	id := server.Put(&taskv1.Task{Name: "a"}).GetId()
	c := dial(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	tasks, err := c.Follow(ctx, 10*time.Millisecond, func([]client.Task) { cancel() }, id)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if len(tasks) != 1 || tasks[0].State != task.Waiting {
		t.Errorf("got %v, want the waiting task", tasks)
	}
}

func TestWaitEndsAtItsDeadline(t *testing.T) {
	server := clienttest.New(t)
	id := server.Put(&taskv1.Task{Name: "a"}).GetId()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dial(t, server).Wait(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func TestWaitSurvivesARestartOfTheServer(t *testing.T) {
	server := clienttest.New(t)
	id := server.Put(&taskv1.Task{Name: "a"}).GetId()
	c := dial(t, server)
	restarted := false
	tasks, err := c.Follow(t.Context(), 10*time.Millisecond, func([]client.Task) {
		if !restarted {
			restarted = true
			server.Stop()
			server.Start()
			server.Change(id, clienttest.Complete("1"))
		}
	}, id)
	if err != nil {
		t.Fatal(err)
	}
	if !restarted || tasks[0].State != task.Completed {
		t.Errorf("restarted: %t, state: %s", restarted, tasks[0].State)
	}
}

func TestWaitDoesNotWaitForAServerThatWasNeverThere(t *testing.T) {
	server := clienttest.New(t)
	server.Stop()
	if _, err := dial(t, server).Wait(t.Context(), clienttest.ID(1)); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	server.Start()
}

func TestWaitForAnUnknownTaskIsAnError(t *testing.T) {
	if _, err := dial(t, clienttest.New(t)).Wait(t.Context(), clienttest.ID(1)); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestWatchYieldsEachStateOnceAcrossARestart(t *testing.T) {
	server := clienttest.New(t)
	id := server.Put(&taskv1.Task{Name: "a"}).GetId()
	var states []task.State
	for one, err := range dial(t, server).Watch(t.Context(), id) {
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, one.State)
		switch one.State {
		case task.Waiting:
			server.Stop()
			server.Start()
			server.AwaitCall(statusv1.StatusService_WatchTask_FullMethodName)
			server.Change(id, clienttest.Run)
		case task.Running:
			server.Change(id, clienttest.Complete("1"))
		default:
		}
	}
	if diff := cmp.Diff([]task.State{task.Waiting, task.Running, task.Completed}, states); diff != "" {
		t.Error(diff)
	}
}

func TestWatchEndsWithTheLoop(t *testing.T) {
	server := clienttest.New(t)
	id := server.Put(&taskv1.Task{Name: "a"}).GetId()
	for one, err := range dial(t, server).Watch(t.Context(), id) {
		if err != nil || one.ID != id {
			t.Errorf("got %v, %v", one, err)
		}
		break
	}
}

func TestWatchOfAnUnknownTaskIsAnError(t *testing.T) {
	n := 0
	for _, err := range dial(t, clienttest.New(t)).Watch(t.Context(), clienttest.ID(1)) {
		n++
		if !errs.Is(err, errs.TaskNotFound) {
			t.Errorf("got %v, want not found", err)
		}
	}
	if n != 1 {
		t.Errorf("yielded %d times, want once", n)
	}
}

func TestCancelAndDeleteGiveTheReasonWhenRefused(t *testing.T) {
	server := clienttest.New(t)
	id := server.Put(&taskv1.Task{Name: "a"}).GetId()
	c := dial(t, server)
	if err := c.Delete(t.Context(), id); !errs.Is(err, errs.TaskNotFinal) {
		t.Errorf("delete: got %v, want not final", err)
	}
	if got, err := c.Cancel(t.Context(), id); err != nil || got.State != task.Canceled {
		t.Errorf("cancel: got %s, %v", got.State, err)
	}
	if err := c.Delete(t.Context(), id); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := c.Get(t.Context(), id); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("get: got %v, want not found", err)
	}
}

func TestGroupsCountTheirMembers(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	group, err := c.CreateGroup(t.Context(), "nightly")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Dispatch(t.Context(), client.Spec{Name: "x", GroupID: group}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Group(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[task.State]int64{task.Waiting: 2}, got.Counts); diff != "" {
		t.Error(diff)
	}
}

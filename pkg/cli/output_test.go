package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Ids of the tasks of busy.
var (
	completedID = clienttest.ID(1)
	failedID    = clienttest.ID(2)
	canceledID  = clienttest.ID(3)
	runningID   = clienttest.ID(4)
	waitingID   = clienttest.ID(5)
	retryingID  = clienttest.ID(6) // of retrying
)

// busy is a server with a task in each interesting state, and something to say to every question.
func busy(t *testing.T) *clienttest.Server {
	t.Helper()
	server := clienttest.New(t)
	domain := task.DomainResource(task.DefaultDomainID)
	server.Put(&taskv1.Task{
		Name: "command.run", Deferred: true, ExclusiveResources: []string{"reports/2026", "reports/index"}, SharedResources: []string{"settings", domain},
		Versions: map[string]string{"core": "3.1", "ansible": "2"}, CorrelationId: "request 7", GroupId: clienttest.ID(800),
	})
	server.Change(completedID, clienttest.Complete(`{"exit_code":0,"stdout":"a < b & \u001b[31mred\n","stderr":""}`))
	server.Put(&taskv1.Task{Name: "test.fail", Deferred: true, SharedResources: []string{domain}, ParentId: completedID})
	server.Change(failedID, clienttest.End(taskv1.State_STATE_FAILED, &taskv1.TaskError{
		Description: "no space left\nat \x1b]0;evil\x07 line 2", Traceback: "main.go:7\nmain.go:9\n",
	}))
	server.Put(&taskv1.Task{Name: "test.afail", Immediate: true, SharedResources: []string{domain}})
	server.Change(canceledID, func(t *taskv1.Task) {
		t.State = taskv1.State_STATE_CANCELED
		t.FinishedAt = timestamppb.New(t.GetCreatedAt().AsTime().Add(3 * time.Millisecond))
		t.Error = &taskv1.TaskError{Reason: task.ReasonUnavailable}
	})
	server.Put(&taskv1.Task{Name: "test.sleep", Deferred: true, SharedResources: []string{domain}})
	server.Change(runningID, clienttest.Run)
	server.Put(&taskv1.Task{Name: "test.noop", Deferred: true, ExclusiveResources: []string{"a"}, SharedResources: []string{domain}})

	use := func(id, name string, exclusive, granted bool, age time.Duration) *schedulerv1.ResourceUse {
		u := &schedulerv1.ResourceUse{
			TaskId: id, Name: name, Exclusive: exclusive, Granted: granted, CreatedAt: timestamppb.New(now().Add(-age - time.Minute)),
			Since: timestamppb.New(now().Add(-age)), State: taskv1.State_STATE_WAITING,
		}
		if granted {
			u.State, u.Executor = taskv1.State_STATE_RUNNING, "host-1"
		}
		return u
	}
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now().Add(-d)) }
	server.Explanation = &schedulerv1.ExplainResponse{
		Live: true, Summary: "It waits for a, which somebody has held for 1m27s.", State: taskv1.State_STATE_WAITING, Name: "test.noop", CreatedAt: ago(90 * time.Second),
		Waits: []*schedulerv1.ResourceWait{
			{
				Resource: "a", Exclusive: true, HolderCount: 12, Ahead: 13, Holders: []*schedulerv1.ResourceUse{
					use(runningID, "test.sleep", false, true, 87*time.Second), use(failedID, "test.\x1bfail", false, true, 3*time.Hour),
				},
				WaitingAhead: []*schedulerv1.ResourceUse{use(completedID, "test.noop", true, false, 80*time.Second)},
			},
			{Resource: "b c", Ahead: 10_001, AheadAtLeast: true},
		},
		Chain: []*schedulerv1.BlockerLink{
			{Resource: "a", Task: use(failedID, "test.fail", false, true, 3*time.Hour), Standing: "waits itself"},
			{Resource: "settings", Task: use(runningID, "test.sleep", false, true, 87*time.Second), Standing: "runs on host-1"},
		},
		ExecutorsWithName: 2, ExecutorsWithVersions: 1, FreeSlots: 7,
	}
	server.Resources = &schedulerv1.ListResourcesResponse{Total: 1234, Resources: []*schedulerv1.Resource{
		{Name: "reports/2026", Exclusive: true, Holders: 1, Waiting: 100, HeldSince: ago(87 * time.Second), WaitingSince: ago(86 * time.Second)},
		{Name: "settings", Holders: 17, HeldSince: ago(3 * time.Hour)},
		{Name: "free", Waiting: 1},
	}}
	server.Resource = &schedulerv1.GetResourceResponse{
		Resource: &schedulerv1.Resource{Name: "reports/2026", Exclusive: true, Holders: 1, Waiting: 100},
		Queue: []*schedulerv1.ResourceUse{
			use(runningID, "test.sleep", true, true, 87*time.Second), use(waitingID, "test.noop", false, false, 86*time.Second),
		},
	}
	server.Apps = &heartbeatv1.ListAppsResponse{Apps: []*heartbeatv1.App{
		{
			Incarnation: clienttest.ID(501), Name: "host-1", Online: true, Versions: map[string]string{"sluice": "0.1.0", "core": "3.2"},
			RegisteredAt: timestamppb.New(now().Add(-50 * time.Hour)), LastBeatAt: timestamppb.New(now().Add(-1500 * time.Millisecond)),
			RunningTaskIds: []string{runningID}, Ttl: durationpb.New(30 * time.Second),
		},
		{
			Incarnation: clienttest.ID(504), Name: "host-4", Online: true, Ttl: durationpb.New(1500 * time.Millisecond),
			RegisteredAt: timestamppb.New(now().Add(-time.Minute)), LastBeatAt: timestamppb.New(now().Add(-time.Second)),
			DeafSince: timestamppb.New(now().Add(-30 * time.Second)),
		},
		{
			Incarnation: clienttest.ID(502), Name: "host-2", Missing: true,
			RegisteredAt: timestamppb.New(now().Add(-time.Hour)), LastBeatAt: timestamppb.New(now().Add(-10 * time.Minute)),
		},
		{
			Incarnation: clienttest.ID(503), Name: "host-3",
			RegisteredAt: timestamppb.New(now().Add(-time.Hour)), LastBeatAt: timestamppb.New(now().Add(-20 * time.Minute)),
		},
	}}
	server.Stats = &statusv1.GetStatsResponse{Names: []*statusv1.NameStats{
		{
			Name: "command.run", Domain: "default", Finished: 1200, Completed: 1196, Failed: 3, Canceled: 1, FailureRate: 0.0025,
			Unblock: &statusv1.Percentiles{Count: 1201, P50: 0.0012, P95: 0.8, P99: 2, Max: 61},
			Start:   &statusv1.Percentiles{Count: 1201, P50: 0.0004, P95: 0.003, P99: 0.01, Max: 0.5},
			Run:     &statusv1.Percentiles{Count: 1199, P50: 1.25, P95: 62.5, P99: 3600, Max: 7300},
		},
		{Name: "test.noop\x1b[1m", Domain: "elsewhere", Finished: 1, Canceled: 1},
	}, Total: &statusv1.NameStats{
		Finished: 1201, Completed: 1196, Failed: 3, Canceled: 2, FailureRate: 0.0024979,
		Unblock: &statusv1.Percentiles{Count: 1201, P50: 0.0012, P95: 0.8, P99: 2, Max: 61},
		Start:   &statusv1.Percentiles{Count: 1201, P50: 0.0004, P95: 0.003, P99: 0.01, Max: 0.5},
		Run:     &statusv1.Percentiles{Count: 1199, P50: 1.25, P95: 62.5, P99: 3600, Max: 7300},
	}}
	server.System = &statusv1.GetSystemStatusResponse{
		Version: "v0.1.0", DatabaseConnected: true, SchedulerLeads: true, Epoch: 3, Executors: 2,
		Live: []*statusv1.StateCount{{State: taskv1.State_STATE_RUNNING, Count: 1}, {State: taskv1.State_STATE_WAITING, Count: 12}},
	}
	server.Groups = []*statusv1.GetTaskGroupResponse{
		{
			Id: clienttest.ID(801), Description: "nightly \x1b[1msync", CreatedAt: timestamppb.New(now().Add(-90 * time.Second)),
			Counts: []*statusv1.StateCount{{State: taskv1.State_STATE_COMPLETED, Count: 3}, {State: taskv1.State_STATE_RUNNING, Count: 1}},
			Progress: []*taskv1.GroupProgress{
				{Code: "sync.files", Message: "Files \x1b[1m", Total: 50, Done: 12, Suffix: "files"}, {Code: "sync.index", Total: 1},
			},
		},
		{Id: clienttest.ID(802), CreatedAt: timestamppb.New(now().Add(-50 * time.Hour))},
	}
	server.Log = &statusv1.GetTaskLogResponse{Text: "line 1\n\x1b[1mline 2\x1b[0m\n", Truncated: true}
	return server
}

// retrying is busy with a task more, whose second attempt failed.
func retrying(t *testing.T) *clienttest.Server {
	t.Helper()
	server := busy(t)
	server.Explanation.RetryAt = timestamppb.New(now().Add(1500 * time.Millisecond))
	server.Put(&taskv1.Task{
		Name: "mirror.update", Deferred: true, ExclusiveResources: []string{"mirror"}, Attempt: 2, Claim: 3,
		Timeout: durationpb.New(90 * time.Second), RetryAt: timestamppb.New(now().Add(1500 * time.Millisecond)),
		Retry:          &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: durationpb.New(time.Second), MaxBackoff: durationpb.New(0), On: []string{"TIMEOUT", "E_404"}},
		ProfileOptions: []string{"memory"}, FileIds: []string{clienttest.ID(700), clienttest.ID(701)},
	})
	at := func(second float64) *timestamppb.Timestamp {
		return timestamppb.New(clienttest.Epoch.Add(time.Duration(second * float64(time.Second))))
	}
	server.Tell(retryingID, &statusv1.TaskReport{
		Progress: []*taskv1.Progress{
			{Code: "sync.downloading", Message: "Downloading \x1b[1m", State: taskv1.State_STATE_FAILED, Total: proto.Int64(50), Done: 12, Suffix: "files"},
			{Code: "sync.parsing", State: taskv1.State_STATE_COMPLETED, Done: 7},
			{Code: "sync.index", Message: "Index", State: taskv1.State_STATE_SKIPPED},
		},
		Created: []*taskv1.CreatedResource{{Resource: "/pulp/api/v3/repositories/1/"}, {Resource: "prn:core.publication:2", Incomplete: true}},
	}, &statusv1.Attempt{
		Attempt: 1, Claim: 1, Executor: "worker-1", StartedAt: at(10), EndedAt: at(100.5), Error: &taskv1.TaskError{Reason: "Timed out after 1m30s.", Code: "TIMEOUT"},
	}, &statusv1.Attempt{
		Attempt: 2, Claim: 3, Executor: "worker-2", StartedAt: at(101), EndedAt: at(102), Error: &taskv1.TaskError{Description: "gone\x1b\nand more", Traceback: "t", Code: "E_404"},
	})
	return server
}

func TestOutputOfATaskThatIsRetried(t *testing.T) {
	for name, args := range map[string][]string{
		"show-retrying": {"task", "show", retryingID}, "wait-retrying": {"task", "wait", retryingID, "--timeout", "10ms"},
		"explain-retrying": {"task", "explain", retryingID},
		"dispatch-options": {"dispatch", "x", "--timeout", "30s", "--retry", "2", "--profile", "memory"},
	} {
		for _, form := range []string{"text", "json"} {
			t.Run(name+"/"+form, func(t *testing.T) {
				got := ask(t, retrying(t), append(args, "--output", form)...)
				if form == "json" {
					isJSON(t, got.stdout)
				}
				golden(t, form+"/"+name, got.String())
			})
		}
	}
}

// Each command in both forms. The golden files hold both outputs and the exit code.
func TestOutput(t *testing.T) {
	for name, args := range map[string][]string{
		"dispatch":           {"dispatch", "test.noop", "--exclusive", "a", "--correlation-id", "c"},
		"list":               {"task", "list"},
		"list-none":          {"task", "list", "--name", "nonsense"},
		"list-limited":       {"task", "list", "--limit", "2"},
		"list-filtered":      {"task", "list", "--state", "waiting,running", "--state", "failed"},
		"show-completed":     {"task", "show", completedID},
		"show-failed":        {"task", "show", failedID},
		"show-canceled":      {"task", "show", canceledID},
		"show-running":       {"task", "show", runningID},
		"show-waiting":       {"task", "show", waitingID},
		"wait-final":         {"task", "wait", completedID, failedID, canceledID},
		"wait-completed":     {"task", "wait", completedID},
		"watch-final":        {"task", "watch", failedID},
		"explain":            {"task", "explain", waitingID},
		"logs":               {"task", "logs", completedID},
		"cancel":             {"task", "cancel", waitingID, runningID, canceledID},
		"cancel-some":        {"task", "cancel", completedID, waitingID, clienttest.ID(77)},
		"delete":             {"task", "delete", completedID, failedID},
		"delete-some":        {"task", "delete", completedID, runningID},
		"worker-list":        {"worker", "list", "--gone"},
		"group-create":       {"group", "create", "what for"},
		"group-list":         {"group", "list"},
		"group-list-limited": {"group", "list", "--limit", "1"},
		"group-show":         {"group", "show", clienttest.ID(801)},
		"group-cancel":       {"group", "cancel", clienttest.ID(801), clienttest.ID(800)},
		"resource-list":      {"resource", "list"},
		"resource-show":      {"resource", "show", "reports/2026"},
		"stats":              {"stats"},
		"dispatch-immediate": {"dispatch", "x", "--immediate"},
	} {
		for _, form := range []string{"text", "json"} {
			t.Run(name+"/"+form, func(t *testing.T) {
				got := ask(t, busy(t), append(args, "--output", form)...)
				if form == "json" {
					isJSON(t, got.stdout)
				}
				golden(t, form+"/"+name, got.String())
			})
		}
	}
}

// String is the form in the golden files.
func (o outcome) String() string {
	text := o.stdout
	if o.stderr != "" {
		text += "--- standard error\n" + o.stderr
	}
	if o.code != exitOK {
		text += "--- exit code " + string(rune('0'+o.code)) + "\n"
	}
	return text
}

func isJSON(t *testing.T, text string) {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("not JSON: %s: %s", err, text)
	}
}

func TestStatusTellsHowTheWholeIsDoing(t *testing.T) {
	server := busy(t)
	got := ask(t, server, "status")
	got.stdout = strings.ReplaceAll(got.stdout, server.Addr, "ADDR")
	golden(t, "text/status", got.String())
	golden(t, "json/status", ask(t, server, "status", "-o", "json").String())
}

func TestStatusOfAHalfDeadSystem(t *testing.T) {
	server := clienttest.New(t)
	server.System = &statusv1.GetSystemStatusResponse{Version: "v0.1.0"}
	got := ask(t, server, "status")
	got.stdout = strings.ReplaceAll(got.stdout, server.Addr, "ADDR")
	golden(t, "text/status-dead", got.String())
	golden(t, "json/status-dead", ask(t, server, "status", "-o", "json").String())
}

func TestNothingToShow(t *testing.T) {
	server := clienttest.New(t)
	server.Apps, server.Resources = &heartbeatv1.ListAppsResponse{}, &schedulerv1.ListResourcesResponse{}
	server.Stats, server.Log = &statusv1.GetStatsResponse{}, &statusv1.GetTaskLogResponse{}
	server.Put(&taskv1.Task{Name: "a"})
	for want, args := range map[string][]string{
		"no executor is online; `sluice executor` starts one\n": {"worker", "list"},
		"no resource is held or waited for\n":                   {"resource", "list"},
		"no task started or finished within the last 1h00m\n":   {"stats"},
		"": {"task", "logs", clienttest.ID(1)},
	} {
		check(t, outcome{stderr: want}, ask(t, server, args...))
		if args[0] != "task" {
			check(t, outcome{stdout: "[]\n"}, ask(t, server, append(args, "-o", "json")...))
		}
	}
}

func TestExplanationsOfTasksThatHaveTheirResources(t *testing.T) {
	at := func(ago time.Duration) *timestamppb.Timestamp { return timestamppb.New(now().Add(-ago)) }
	for name, explanation := range map[string]*schedulerv1.ExplainResponse{
		"explain-versions": {
			Live: true, Unblocked: true, State: taskv1.State_STATE_WAITING, Summary: "Nobody has the versions.", Name: "test.noop",
			CreatedAt: at(time.Minute), UnblockedAt: at(time.Minute), ExecutorsWithName: 2,
			Nearest: []*schedulerv1.NearExecutor{
				{Executor: "host-1", Gaps: []*schedulerv1.VersionGap{{Component: "core", Wanted: "3.10", Has: "3.9"}}},
				{Executor: "host\x1b-2", Gaps: []*schedulerv1.VersionGap{{Component: "ansible", Wanted: "2"}, {Component: "core", Wanted: "3.10", Has: "3.8"}}},
			},
		},
		"explain-busy": {
			Live: true, Unblocked: true, State: taskv1.State_STATE_WAITING, Summary: "All are busy.", Name: "test.noop", CreatedAt: at(time.Minute),
			UnblockedAt: at(time.Second), ExecutorsWithName: 1, ExecutorsWithVersions: 1, ReadyAhead: 3, Estimate: durationpb.New(1500 * time.Millisecond),
		},
		"explain-running": {
			Live: true, Unblocked: true, State: taskv1.State_STATE_RUNNING, Summary: "It runs on host-1 and has for 12s.", Name: "test.noop", Attempt: 2,
			CreatedAt: at(time.Minute), UnblockedAt: at(50 * time.Second), StartedAt: at(12 * time.Second), Executor: "host-1", LastBeatAt: at(1500 * time.Millisecond),
			Progress: []*taskv1.Progress{
				{Code: "sync", Message: "Syncing \x1b", State: taskv1.State_STATE_RUNNING, Total: proto.Int64(50), Done: 12, Suffix: "files"},
				{Code: "index", State: taskv1.State_STATE_WAITING},
			},
			ProgressAt: at(3 * time.Second),
		},
		"explain-ended": {
			Unblocked: true, State: taskv1.State_STATE_FAILED, Summary: "It failed after 12s on host-1: no space left.", Name: "test.noop", Attempt: 1,
			CreatedAt: at(time.Hour), UnblockedAt: at(50 * time.Minute), StartedAt: at(50 * time.Minute), FinishedAt: at(10 * time.Minute), Executor: "host-1",
		},
	} {
		for _, form := range []string{"text", "json"} {
			server := busy(t)
			server.Explanation = explanation
			got := ask(t, server, "task", "explain", waitingID, "--output", form)
			if form == "json" {
				isJSON(t, got.stdout)
			}
			golden(t, form+"/"+name, got.String())
		}
	}
}

func TestWatchPrintsALineForEachChange(t *testing.T) {
	for _, form := range []string{"text", "json"} {
		server := clienttest.New(t)
		id := server.Put(&taskv1.Task{Name: "a"}).GetId()
		done := make(chan struct{})
		go func() {
			defer close(done)
			server.AwaitCall(statusv1.StatusService_WatchTask_FullMethodName)
			server.Change(id, clienttest.Run)
			// Were both changes made at once, the server could rightly skip the first.
			server.AwaitSent(id, taskv1.State_STATE_RUNNING)
			server.Change(id, clienttest.Complete("1"))
		}()
		got := ask(t, server, "task", "watch", id, "-o", form)
		<-done
		if form == "json" {
			for line := range strings.Lines(got.stdout) {
				isJSON(t, line)
			}
		}
		// Whether the first line says waiting depends on who was faster.
		got.stdout = strings.TrimPrefix(got.stdout, "04:04:05.123  waiting\n")
		if form == "text" {
			golden(t, "text/watch", got.String())
		}
	}
}

func TestWatchPrintsTheWorkAsItGoesOn(t *testing.T) {
	for _, form := range []string{"text", "json"} {
		server := clienttest.New(t)
		id := server.Put(&taskv1.Task{Name: "a"}).GetId()
		server.Change(id, clienttest.Run)
		tell := func(state taskv1.State, done int64, created ...*taskv1.CreatedResource) {
			server.Tell(id, &statusv1.TaskReport{
				Progress: []*taskv1.Progress{{Code: "sync", Message: "Syncing", State: state, Total: proto.Int64(50), Done: done, Suffix: "files"}, {Code: "other", State: state}},
				Created:  created,
			})
		}
		var looks atomic.Int32
		server.Fail = func(method string) error {
			if method != statusv1.StatusService_GetTask_FullMethodName {
				return nil
			}
			switch looks.Add(1) {
			case 2, 3: // the same twice is one line
				tell(taskv1.State_STATE_RUNNING, 12)
			case 4:
				return errs.Away(errs.DatabaseAway, nil, "the database can't be reached")
			case 9: // the client repeats the call that failed, so there may have been more than one
				tell(taskv1.State_STATE_RUNNING, 40, &taskv1.CreatedResource{Resource: "/a\x1b/", Incomplete: true})
			case 10:
				tell(taskv1.State_STATE_COMPLETED, 50, &taskv1.CreatedResource{Resource: "/a\x1b/"})
				server.Change(id, clienttest.Complete("1"))
			}
			return nil
		}
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), []string{"task", "watch", id, "-o", form, "--addr", server.Addr}, Environment{
			Stdout: &stdout, Stderr: &stderr, LookupEnv: lookup(nil), Now: now, look: time.Millisecond,
		})
		golden(t, form+"/watch-work", outcome{code: code, stdout: stdout.String(), stderr: stderr.String()}.String())
	}
}

func TestVersionNamesTheBuild(t *testing.T) {
	got := sluice(t, nil, "version")
	if got.code != exitOK || !strings.HasPrefix(got.stdout, "sluice ") || !strings.Contains(got.stdout, "go1.") {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(sluice(t, nil, "version", "-o", "json").stdout), &v); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "commit", "modified", "go", "platform"} {
		if _, has := v[key]; !has {
			t.Errorf("no %s in %v", key, v)
		}
	}
}

func TestSpansAreShort(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": -time.Second, "0.4ms": 400 * time.Microsecond, "9.9ms": 9900 * time.Microsecond, "10ms": 10 * time.Millisecond,
		"999ms": 999 * time.Millisecond, "1s": time.Second, "1.5s": 1512 * time.Millisecond, "59.9s": 59999 * time.Millisecond,
		"1m00s": time.Minute, "59m59s": time.Hour - time.Second, "1h00m": time.Hour, "47h59m": 48*time.Hour - time.Minute, "2d00h": 48 * time.Hour,
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) is %q, want %q", d, got, want)
		}
	}
}

func TestPrintableLeavesNothingThatMovesACursor(t *testing.T) {
	if got, want := printable("a\tb\nc\r\x1b[2J\u009b1m é\x7f"), `a`+"\t"+`b`+"\n"+`c\u000d\u001b[2J\u009b1m é\u007f`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

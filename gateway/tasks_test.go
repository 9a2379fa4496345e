package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const (
	tasksPath = "/pulp/api/v3/tasks/"
	taskPath  = tasksPath + taskID + "/"
)

// golden is a running task with everything that can be set. The order of the keys is that of the proto.
const golden = `{"pulp_href":"/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000001/",` +
	`"prn":"prn:core.task:019412ab-0000-7000-8000-000000000001",` +
	`"pulp_created":"2026-11-22T10:15:00.120000Z","pulp_last_updated":"2026-11-22T10:15:03.120000Z",` +
	`"state":"running","name":"test.echo","logging_cid":"cid","created_by":null,` +
	`"unblocked_at":"2026-11-22T10:15:01.120000Z","started_at":"2026-11-22T10:15:02.120000Z","finished_at":null,` +
	`"error":null,"worker":"/pulp/api/v3/workers/019412ab-0000-7000-8000-0000000000bb/",` +
	`"parent_task":"/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000003/",` +
	`"child_tasks":["/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000002/"],` +
	`"task_group":"/pulp/api/v3/task-groups/019412ab-0000-7000-8000-0000000000aa/",` +
	`"progress_reports":[],"created_resources":[],"created_resource_prns":[],` +
	`"reserved_resources_record":["a","shared:b","shared:prn:core.domain:1"],"result":null,"pulp_api_version":"v3",` +
	`"timeout":null,"retry":null,"retry_at":null,"attempt":1,"attempts":[],"profile_options":[],"files":[]}`

func TestTaskHasAllFieldsOfPulp(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	want(t, f.do(t, "GET", taskPath, ""), 200, golden)
}

func TestTaskWithoutAnythingOptional(t *testing.T) {
	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_WAITING, CreatedAt: at(0), UpdatedAt: at(0)}}, nil
	}}
	got := object(t, newFace(t, n, gateway.Config{}).do(t, "GET", taskPath, ""))
	for _, field := range []string{"unblocked_at", "started_at", "finished_at", "error", "worker", "parent_task", "task_group", "result", "created_by", "timeout", "retry", "retry_at"} {
		if value, there := got[field]; !there || value != nil {
			t.Errorf("%s = %v, want null", field, value)
		}
	}
	for _, field := range []string{
		"child_tasks", "progress_reports", "created_resources", "created_resource_prns", "reserved_resources_record", "attempts", "profile_options", "files",
	} {
		if list, ok := got[field].([]any); !ok || len(list) != 0 {
			t.Errorf("%s = %v, want []", field, got[field])
		}
	}
}

func TestTaskResultKeepsEveryDigit(t *testing.T) {
	const result = `{"n": 12345678901234567890.10, "e": 1E+2, "html": "<&>"}`
	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_COMPLETED, ResultJson: result}}, nil
	}}
	w := newFace(t, n, gateway.Config{}).do(t, "GET", taskPath+"?fields=result", "")
	want(t, w, 200, `{"result":`+result+`}`)
}

// told is what the running task has told of its work.
func told() *statusv1.TaskReport {
	return &statusv1.TaskReport{
		Progress: []*taskv1.Progress{
			{Code: "sync.downloading", Message: "Downloading <&>", State: taskv1.State_STATE_RUNNING, Total: proto.Int64(50), Done: 12, Suffix: "files"},
			{Code: "sync.parsing", State: taskv1.State_STATE_COMPLETED},
		},
		Created: []*taskv1.CreatedResource{
			{Resource: "/pulp/api/v3/repositories/1/"},
			{Resource: "/pulp/api/v3/publications/2/", Incomplete: true},
			{Resource: "prn:core.publication:3"},
			{Resource: "prn:core.publication:4", Incomplete: true},
		},
	}
}

const toldJSON = `"progress_reports":[{"message":"Downloading <&>","code":"sync.downloading","state":"running","total":50,"done":12,"suffix":"files"},` +
	`{"message":"","code":"sync.parsing","state":"completed","total":null,"done":0,"suffix":null}],` +
	`"created_resources":["/pulp/api/v3/repositories/1/","<unavailable>","prn:core.publication:3","<unavailable>"],` +
	`"created_resource_prns":["prn:core.publication:3"]`

func TestTaskTellsOfItsWorkAndItsAttempts(t *testing.T) {
	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		stored := runningTask()
		stored.Attempt, stored.Timeout, stored.RetryAt = 2, durationpb.New(1500*time.Millisecond), at(9)
		stored.Retry = &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: durationpb.New(0), MaxBackoff: durationpb.New(time.Hour), On: []string{"TIMEOUT"}}
		stored.ProfileOptions, stored.FileIds = []string{"memory"}, []string{otherID}
		return &statusv1.GetTaskResponse{Task: stored, Report: told(), Attempts: []*statusv1.Attempt{
			{Attempt: 1, Claim: 1, Executor: "executor-0", StartedAt: at(1), EndedAt: at(2), Error: &taskv1.TaskError{Reason: "Timed out after 1.5s.", Code: "TIMEOUT"}},
		}}, nil
	}}
	w := newFace(t, n, gateway.Config{}).do(t, "GET", taskPath+"?exclude_fields=pulp_href,prn,pulp_created,pulp_last_updated,state,name,logging_cid,created_by,"+
		"unblocked_at,started_at,finished_at,error,worker,parent_task,child_tasks,task_group,reserved_resources_record,result,pulp_api_version", "")
	want(t, w, 200, `{`+toldJSON+`,"timeout":1.5,"retry":{"max_attempts":3,"backoff":0,"max_backoff":3600,"on":["TIMEOUT"]},`+
		`"retry_at":"2026-11-22T10:15:09.120000Z","attempt":2,"attempts":[{"attempt":1,"executor":"executor-0",`+
		`"started_at":"2026-11-22T10:15:01.120000Z","finished_at":"2026-11-22T10:15:02.120000Z",`+
		`"error":{"reason":"Timed out after 1.5s.","description":"Timed out after 1.5s.","error_code":"TIMEOUT"}}],`+
		`"profile_options":["memory"],"files":["`+otherID+`"]}`)
}

func TestListTellsOfTheWorkOfEachTask(t *testing.T) {
	parts := 0
	f := newFace(t, &native{list: func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		// In two parts, as when reports are large.
		parts++
		silent := runningTask()
		silent.Id = otherID
		if parts == 1 {
			return &statusv1.ListTasksResponse{Tasks: []*taskv1.Task{silent}, Total: 2, NextPageToken: "x"}, nil
		}
		return &statusv1.ListTasksResponse{Tasks: []*taskv1.Task{runningTask()}, Reports: map[string]*statusv1.TaskReport{taskID: told()}}, nil
	}}, gateway.Config{})
	want(t, f.do(t, "GET", tasksPath+"?fields=progress_reports,created_resources,created_resource_prns", ""), 200,
		`{"count":2,"next":null,"previous":null,"results":[{"progress_reports":[],"created_resources":[],"created_resource_prns":[]},{`+toldJSON+`}]}`)
}

func TestListAsksForReportsOnlyToShowThem(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for query, asked := range map[string]bool{
		"": true, "?fields=&exclude_fields=": true, "?fields=state,progress_reports": true, "?exclude_fields=progress_reports": true,
		"?exclude_fields=state": true, "?minimal=false": true, "?minimal=nonsense": true,
		"?fields=state": false, "?minimal=true": false, "?exclude_fields=progress_reports,created_resources,created_resource_prns": false,
	} {
		if w := f.do(t, "GET", tasksPath+query, ""); w.Code != http.StatusOK || f.listed.GetIncludeReports() != asked {
			t.Errorf("%s: %d, asked %v", query, w.Code, f.listed.GetIncludeReports())
		}
	}
}

func TestTaskErrorAlwaysHasADescription(t *testing.T) {
	for name, c := range map[string]struct {
		state taskv1.State
		err   *taskv1.TaskError
		want  string
	}{
		"handler's error":          {taskv1.State_STATE_FAILED, &taskv1.TaskError{Description: "boom <&>", Traceback: "at 1"}, `{"description":"boom <&>","traceback":"at 1"}`},
		"handler without a trace":  {taskv1.State_STATE_FAILED, &taskv1.TaskError{Description: "boom"}, `{"description":"boom","traceback":""}`},
		"with a code":              {taskv1.State_STATE_FAILED, &taskv1.TaskError{Description: "boom", Code: "E_404"}, `{"description":"boom","traceback":"","error_code":"E_404"}`},
		"took too long":            {taskv1.State_STATE_FAILED, &taskv1.TaskError{Reason: "Timed out after 30s.", Code: "TIMEOUT"}, `{"reason":"Timed out after 30s.","description":"Timed out after 30s.","error_code":"TIMEOUT"}`},
		"lost worker":              {taskv1.State_STATE_FAILED, &taskv1.TaskError{Reason: "Worker has gone missing."}, `{"reason":"Worker has gone missing.","description":"Worker has gone missing."}`},
		"failed without a word":    {taskv1.State_STATE_FAILED, nil, `{"description":"The task failed without saying why."}`},
		"canceled without a word":  {taskv1.State_STATE_CANCELED, nil, `{"reason":"Canceled on request.","description":"Canceled on request."}`},
		"canceled with a reason":   {taskv1.State_STATE_CANCELED, &taskv1.TaskError{Reason: "R"}, `{"reason":"R","description":"R"}`},
		"completed":                {taskv1.State_STATE_COMPLETED, nil, `null`},
		"both, reason from inside": {taskv1.State_STATE_FAILED, &taskv1.TaskError{Reason: "R", Description: "D"}, `{"reason":"R","description":"D","traceback":""}`},
	} {
		t.Run(name, func(t *testing.T) {
			n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
				return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: c.state, Error: c.err}}, nil
			}}
			want(t, newFace(t, n, gateway.Config{}).do(t, "GET", taskPath+"?fields=error", ""), 200, `{"error":`+c.want+`}`)
		})
	}
}

// The worker's name would not do: a later life can have it.
func TestTheWorkerOfATaskIsTheLifeThatRanIt(t *testing.T) {
	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_COMPLETED, Executor: "executor-1", Incarnation: otherID}}, nil
	}}
	want(t, newFace(t, n, gateway.Config{}).do(t, "GET", taskPath+"?fields=worker,state", ""), 200, `{"state":"completed","worker":"/pulp/api/v3/workers/`+otherID+`/"}`)
}

func TestCreateAnswers202WithOnlyTheHref(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	w := f.do(t, "POST", tasksPath, `{"name":"test.noop"}`)
	want(t, w, 202, `{"task":"`+taskPath+`"}`)
	if got := w.Header().Get("Location"); got != taskPath {
		t.Errorf("Location %q", got)
	}
}

func TestCreatePassesEverythingOn(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	const cid = "0B0fb1e8f1e24ab8b5f3a5a5d4f1c7ab"
	w := f.do(t, "POST", tasksPath, `{
		"name": "first", "name": "test.echo",
		"args": [1.00, 12345678901234567890], "kwargs": {"a": {"b": null}},
		"exclusive_resources": ["x", "y"], "shared_resources": ["z"],
		"immediate": true, "deferred": false, "versions": {"core": "3.1"},
		"task_group": "/pulp/api/v3/task-groups/`+groupID+`/",
		"timeout": 2.5, "profile_options": ["memory"], "files": ["`+otherID+`"]
	}`, "Correlation-ID", cid, "X-Task-Diagnostics", "the body counts",
		"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate", "a=b")
	if w.Code != 202 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	deferred := false
	if f.dispatched[0].GetRequestId() == "" {
		t.Error("it has no request id")
	}
	f.dispatched[0].RequestId = "" // a new one each time
	if diff := cmp.Diff(&taskv1.TaskSpec{
		Name: "test.echo", ArgsJson: `[1.00, 12345678901234567890]`, KwargsJson: `{"a": {"b": null}}`,
		ExclusiveResources: []string{"x", "y"}, SharedResources: []string{"z"}, Immediate: true, Deferred: &deferred,
		Versions: map[string]string{"core": "3.1"}, GroupId: groupID, CorrelationId: cid, CreatedBy: 1,
		Timeout: durationpb.New(2500 * time.Millisecond), ProfileOptions: []string{"memory"}, FileIds: []string{otherID},
	}, f.dispatched[0], protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if got := w.Header().Get("Correlation-ID"); got != cid {
		t.Errorf("correlation id %q came back as %q", cid, got)
	}
	if got := f.metadata.Get("traceparent"); !cmp.Equal(got, []string{"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}) {
		t.Errorf("traceparent %v", got)
	}
	if got := f.metadata.Get("tracestate"); !cmp.Equal(got, []string{"a=b"}) {
		t.Errorf("tracestate %v", got)
	}
}

func TestCreateTakesNullForTheDefaultWherePulpDoes(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	w := f.do(t, "POST", tasksPath, `{"name":"n","args":null,"kwargs":null,"exclusive_resources":null,"shared_resources":null,"task_group":null,"versions":null,"timeout":null,"retry":null,"profile_options":null,"files":null}`)
	if w.Code != 202 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	spec := f.dispatched[0]
	if spec.GetArgsJson() != "" || spec.GetKwargsJson() != "" || spec.Deferred != nil || spec.GetGroupId() != "" {
		t.Errorf("dispatched %v", spec)
	}
}

func TestCreateTakesARetryPolicy(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for body, want := range map[string]*taskv1.RetryPolicy{
		`{"max_attempts":3}`: {MaxAttempts: 3},
		`{"max_attempts":1,"backoff":null,"max_backoff":null,"on":[]}`: {MaxAttempts: 1},
		`{"max_attempts": 100 ,"backoff":0,"max_backoff":86400,"on":["TIMEOUT","E_404"]}`: {
			MaxAttempts: 100, Backoff: durationpb.New(0), MaxBackoff: durationpb.New(24 * time.Hour), On: []string{"TIMEOUT", "E_404"},
		},
		`{"backoff":0.25,"max_attempts":2,"max_backoff":1e0}`: {MaxAttempts: 2, Backoff: durationpb.New(250 * time.Millisecond), MaxBackoff: durationpb.New(time.Second)},
		`null`: nil,
	} {
		if w := f.do(t, "POST", tasksPath, `{"name":"n","retry":`+body+`}`); w.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(want, f.dispatched[len(f.dispatched)-1].GetRetry(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

func TestDiagnosticsCanBeAskedForByPulpsHeader(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for header, want := range map[string][]string{"": nil, "memory": {"memory"}, "memory,logs,": {"memory", "logs"}, ",": nil, "a, b": {"a", " b"}, "\xff": nil} {
		if w := f.do(t, "POST", tasksPath, `{"name":"n"}`, "X-Task-Diagnostics", header); w.Code != http.StatusAccepted {
			t.Errorf("%q: %d %s", header, w.Code, w.Body)
			continue
		}
		if got := f.dispatched[len(f.dispatched)-1].GetProfileOptions(); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
	want(t, f.do(t, "POST", tasksPath, `{"name":"n"}`, "X-Task-Diagnostics", "memory,"+strings.Repeat("x", 65)), 400,
		`{"profile_options":{"1":["Must be at most 64 bytes, has 65."]}}`)
}

// What a client reads of a task it may send to dispatch it again.
func TestWhatIsShownOfOptionsIsTaken(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	shown := f.do(t, "GET", taskPath+"?fields=name,timeout,retry,profile_options,files", "")
	if w := f.do(t, "POST", tasksPath, shown.Body.String()); w.Code != http.StatusAccepted {
		t.Errorf("%s: %d %s", shown.Body, w.Code, w.Body)
	}
}

func TestCreateTakesAGroupInEverySpelling(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for _, group := range []string{
		groupID, strings.ToUpper(groupID), "prn:core.taskgroup:" + groupID, "/pulp/api/v3/task-groups/" + groupID,
		"//pulp/api/v3/task-groups/" + groupID + "/", "http://example.org/pulp/api/v3/task-groups/" + groupID + "/",
	} {
		if w := f.do(t, "POST", tasksPath, `{"name":"n","task_group":"`+group+`"}`); w.Code != 202 {
			t.Errorf("%s: %d %s", group, w.Code, w.Body)
			continue
		}
		if got := f.dispatched[len(f.dispatched)-1].GetGroupId(); got != groupID {
			t.Errorf("%s: group %q", group, got)
		}
	}
}

// TestBadBodies has one entry for each kind of bad input. Nothing of it may reach the dispatcher.
func TestBadBodies(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	for name, c := range map[string]struct{ body, want string }{
		"no object":                 {`[1]`, `{"non_field_errors":["Invalid data. Expected a dictionary, but got list."]}`},
		"null":                      {`null`, `{"non_field_errors":["No data provided"]}`},
		"not JSON":                  {`{"name":}`, `{"detail":"JSON parse error - invalid character '}' looking for beginning of value (byte 9)"}`},
		"two documents":             {`{} {}`, `{"detail":"JSON parse error - invalid character '{' after top-level value (byte 4)"}`},
		"not a number":              {`{"name":"n","args":[NaN]}`, `{"detail":"JSON parse error - invalid character 'N' looking for beginning of value (byte 21)"}`},
		"not UTF-8":                 {"{\"name\":\"\xff\"}", `{"detail":"JSON parse error - the body is not valid UTF-8"}`},
		"no name":                   {`{}`, `{"name":["This field is required."]}`},
		"blank name":                {`{"name":" \t"}`, `{"name":["This field may not be blank."]}`},
		"null name":                 {`{"name":null}`, `{"name":["This field may not be null."]}`},
		"number for a name":         {`{"name":1}`, `{"name":["Not a valid string."]}`},
		"list for a name":           {`{"name":["n"]}`, `{"name":["Not a valid string."]}`},
		"unknown field":             {`{"name":"n","foo":1,"bar":2}`, `{"bar":["Unexpected field"],"foo":["Unexpected field"]}`},
		"camel case":                {`{"name":"n","exclusiveResources":[]}`, `{"exclusiveResources":["Unexpected field"]}`},
		"text for a list":           {`{"name":"n","exclusive_resources":"r"}`, `{"exclusive_resources":["Expected a list of items but got type \"str\"."]}`},
		"object for a list":         {`{"name":"n","shared_resources":{}}`, `{"shared_resources":["Expected a list of items but got type \"dict\"."]}`},
		"items of other types":      {`{"name":"n","exclusive_resources":["r",1,null]}`, `{"exclusive_resources":{"1":["Not a valid string."],"2":["This field may not be null."]}}`},
		"text for a boolean":        {`{"name":"n","immediate":"true"}`, `{"immediate":["Must be a valid boolean."]}`},
		"null for a boolean":        {`{"name":"n","deferred":null}`, `{"deferred":["This field may not be null."]}`},
		"object for args":           {`{"name":"n","args":{}}`, `{"args":["Expected a list of items but got type \"dict\"."]}`},
		"list for kwargs":           {`{"name":"n","kwargs":[]}`, `{"kwargs":["Expected a dictionary of items but got type \"list\"."]}`},
		"number for kwargs":         {`{"name":"n","kwargs":1.5}`, `{"kwargs":["Expected a dictionary of items but got type \"float\"."]}`},
		"boolean for args":          {`{"name":"n","args":true}`, `{"args":["Expected a list of items but got type \"bool\"."]}`},
		"list for versions":         {`{"name":"n","versions":[]}`, `{"versions":["Expected a dictionary of items but got type \"list\"."]}`},
		"number for a version":      {`{"name":"n","versions":{"core":3}}`, `{"versions":{"core":["Not a valid string."]}}`},
		"several at once":           {`{"args":1,"deferred":"no","foo":0}`, `{"args":["Expected a list of items but got type \"int\"."],"deferred":["Must be a valid boolean."],"foo":["Unexpected field"],"name":["This field is required."]}`},
		"group that is no href":     {`{"name":"n","task_group":"mine"}`, `{"task_group":["Must be the href or the UUID of a task group."]}`},
		"group of another kind":     {`{"name":"n","task_group":"` + taskPath + `"}`, `{"task_group":["Must be the href or the UUID of a task group."]}`},
		"text for a time limit":     {`{"name":"n","timeout":"30s"}`, `{"timeout":["A valid number is required."]}`},
		"object for a time limit":   {`{"name":"n","timeout":{}}`, `{"timeout":["A valid number is required."]}`},
		"too great for any number":  {`{"name":"n","timeout":1e999}`, `{"timeout":["A valid number is required."]}`},
		"number for retries":        {`{"name":"n","retry":3}`, `{"retry":["Expected a dictionary of items but got type \"int\"."]}`},
		"list for retries":          {`{"name":"n","retry":[]}`, `{"retry":["Expected a dictionary of items but got type \"list\"."]}`},
		"no attempts":               {`{"name":"n","retry":{}}`, `{"retry":{"max_attempts":["This field is required."]}}`},
		"null for attempts":         {`{"name":"n","retry":{"max_attempts":null}}`, `{"retry":{"max_attempts":["This field may not be null."]}}`},
		"part of an attempt":        {`{"name":"n","retry":{"max_attempts":1.5}}`, `{"retry":{"max_attempts":["A valid integer is required."]}}`},
		"text for attempts":         {`{"name":"n","retry":{"max_attempts":"3"}}`, `{"retry":{"max_attempts":["A valid integer is required."]}}`},
		"several in retries":        {`{"name":"n","retry":{"backoff":"1","on":[1],"times":3}}`, `{"retry":{"backoff":["A valid number is required."],"max_attempts":["This field is required."],"on":{"0":["Not a valid string."]},"times":["Unexpected field"]}}`},
		"text for files":            {`{"name":"n","files":"x"}`, `{"files":["Expected a list of items but got type \"str\"."]}`},
		"number for a diagnostic":   {`{"name":"n","profile_options":[1]}`, `{"profile_options":{"0":["Not a valid string."]}}`},
		"duplicate key, last wrong": {`{"name":"n","name":2}`, `{"name":["Not a valid string."]}`},
	} {
		t.Run(name, func(t *testing.T) {
			want(t, f.do(t, "POST", tasksPath, c.body), 400, c.want)
		})
	}
	if n.calls > 0 {
		t.Errorf("%d calls reached the services", n.calls)
	}
}

// TestNativeViolationsAreNamedAsInREST uses the real limits: the fakes stand behind the same interceptors as the services.
func TestNativeViolationsAreNamedAsInREST(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	deep := strings.Repeat("[", 101) + strings.Repeat("]", 101)
	for name, c := range map[string]struct{ body, want string }{
		"neither immediate nor deferred": {`{"name":"n","deferred":false}`, `{"deferred":["Must not be false unless immediate is true: a task must be at least one of immediate and deferred."]}`},
		"several resources":              {`{"name":"n","exclusive_resources":["ok",""],"shared_resources":["shared:x"]}`, `{"exclusive_resources":{"1":["Must not be empty or blank."]},"shared_resources":{"0":["Must not begin with \"shared:\": list it under shared_resources without the prefix."]}}`},
		"control character":              {`{"name":"n\u0000"}`, `{"name":["Must not contain control characters, has U+0000 at byte 1."]}`},
		"deep arguments":                 {`{"name":"n","args":` + deep + `}`, `{"args":["Must be nested at most 100 deep."]}`},
		"no time at all":                 {`{"name":"n","timeout":0}`, `{"timeout":["Must be between 1ms and 720h0m0s, is 0s."]}`},
		"more time than there is":        {`{"name":"n","timeout":1e300}`, `{"timeout":["Must be between 1ms and 720h0m0s, is 277777h46m40s."]}`},
		"negative time":                  {`{"name":"n","timeout":-1}`, `{"timeout":["Must be between 1ms and 720h0m0s, is -1s."]}`},
		"too many attempts":              {`{"name":"n","retry":{"max_attempts":99999999999,"backoff":86401}}`, `{"retry":{"backoff":["Must be between 0s and 24h0m0s, is 24h0m1s."],"max_attempts":["Must be between 1 and 100, is 2147483647."]}}`},
		"code in small letters":          {`{"name":"n","retry":{"max_attempts":2,"on":["OK","timeout"]}}`, `{"retry":{"on":{"1":["Must be 1 to 64 capital letters, digits and underscores."]}}}`},
		"retry while the client waits":   {`{"name":"n","immediate":true,"retry":{"max_attempts":2}}`, `{"retry":["Must not be set for an immediate task, whose client waits."]}`},
		"file that is no id":             {`{"name":"n","files":["` + otherID + `","x"]}`, `{"files":{"1":["Must be a UUID in lower case, like 01234567-89ab-7def-8123-456789abcdef."]}}`},
		"blank diagnostic":               {`{"name":"n","profile_options":[""]}`, `{"profile_options":{"0":["Must not be empty or blank."]}}`},
		"versions":                       {`{"name":"n","versions":{"core":""}}`, `{"versions":{"core":["Must not be empty or blank."]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			want(t, f.do(t, "POST", tasksPath, c.body), 400, c.want)
		})
	}
	if len(f.dispatched) > 0 {
		t.Errorf("dispatched %v", f.dispatched)
	}

	many, err := json.Marshal(map[string]any{"name": strings.Repeat("n", 256), "exclusive_resources": make([]string, 1001), "kwargs": map[string]string{"a": strings.Repeat("x", 1<<20)}})
	if err != nil {
		t.Fatal(err)
	}
	got := object(t, f.do(t, "POST", tasksPath, string(many)))
	for _, field := range []string{"name", "exclusive_resources", "kwargs"} {
		if _, there := got[field].([]any); !there {
			t.Errorf("no message for %s in %v", field, got)
		}
	}
}

func TestCreateWithAGroupThatIsGoneBlamesTheField(t *testing.T) {
	n := &native{dispatch: func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		return nil, errs.Invalid(errs.Violation{Field: "task.group_id", Rule: "must be the id of a task group that exists"})
	}}
	w := newFace(t, n, gateway.Config{}).do(t, "POST", tasksPath, `{"name":"n","task_group":"`+groupID+`"}`)
	want(t, w, 400, `{"task_group":["Must be the id of a task group that exists."]}`)
}

func TestTaskThatIsNotThere(t *testing.T) {
	n := &native{
		cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
			return nil, errs.NotFound(errs.TaskNotFound, "no task")
		},
		remove: func(context.Context, *dispatcherv1.DeleteRequest) (*dispatcherv1.DeleteResponse, error) {
			return nil, errs.NotFound(errs.TaskNotFound, "no task")
		},
	}
	f := newFace(t, n, gateway.Config{})
	for _, id := range []string{otherID, "1", "not-a-uuid", strings.ReplaceAll(otherID, "-", ""), "{" + otherID + "}", "%00", "%ff", "a:b"} {
		for method, body := range map[string]string{"GET": "", "DELETE": "", "PATCH": `{"state":"canceled"}`} {
			t.Run(method+" "+id, func(t *testing.T) {
				want(t, f.do(t, method, tasksPath+id+"/", body), 404, `{"detail":"No Task matches the given query."}`)
			})
		}
	}
}

func TestCancelAnswersWithTheTask(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	want(t, f.do(t, "PATCH", taskPath, `{"state":"canceled"}`), 200, golden)
}

func TestCancelOfAnEndedTaskIsAConflictWithTheTask(t *testing.T) {
	n := &native{cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		return nil, errs.Precondition(errs.TaskFinal, "it completed")
	}}
	want(t, newFace(t, n, gateway.Config{}).do(t, "PATCH", taskPath, `{"state":"canceled"}`), 409, golden)
}

func TestCancelIsCheckedBeforeTheTaskIsLookedFor(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	for body, answer := range map[string]string{
		`{"state":"completed"}`: `{"state":["The only acceptable value for 'state' is 'canceled'."]}`,
		`{"state":""}`:          `{"state":["The only acceptable value for 'state' is 'canceled'."]}`,
		`{"state":null}`:        `{"state":["This field may not be null."]}`,
		`{}`:                    `{"state":["This field is required."]}`,
		``:                      `{"state":["This field is required."]}`,
		`{"state":"canceled","pulp_id":"` + taskID + `"}`: `{"pulp_id":["Unexpected field"]}`,
		`{"state":"canceled","name":"another"}`:           `{"name":["Unexpected field"]}`,
	} {
		t.Run(body, func(t *testing.T) {
			want(t, f.do(t, "PATCH", tasksPath+"no-uuid/", body), 400, answer)
		})
	}
	if n.calls > 0 {
		t.Errorf("%d calls reached the services", n.calls)
	}
}

func TestDelete(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	w := f.do(t, "DELETE", taskPath, "")
	want(t, w, 204, "")
	if got := w.Header().Get("Content-Type"); got != "" {
		t.Errorf("an empty answer has content type %q", got)
	}
	n.remove = func(context.Context, *dispatcherv1.DeleteRequest) (*dispatcherv1.DeleteResponse, error) {
		return nil, errs.Precondition(errs.TaskNotFinal, "it runs")
	}
	want(t, f.do(t, "DELETE", taskPath, ""), 409, "")
}

func TestListPassesFiltersOn(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	query := "?state__in=waiting,running&name=n&logging_cid=c&task_group=/pulp/api/v3/task-groups/" + groupID + "/&parent_task=" + parentID +
		"&reserved_resources=a&reserved_resources__in=b,c&limit=5&offset=10&ordering=-pulp_created&fields=&exclude_fields="
	if w := f.do(t, "GET", tasksPath+query, ""); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(&statusv1.ListTasksRequest{
		Filter: all(
			is(statusv1.TaskField_TASK_FIELD_STATE, statusv1.Comparison_COMPARISON_IN, "waiting", "running"),
			is(statusv1.TaskField_TASK_FIELD_NAME, statusv1.Comparison_COMPARISON_EQUAL, "n"),
			is(statusv1.TaskField_TASK_FIELD_CORRELATION_ID, statusv1.Comparison_COMPARISON_EQUAL, "c"),
			is(statusv1.TaskField_TASK_FIELD_GROUP_ID, statusv1.Comparison_COMPARISON_EQUAL, groupID),
			is(statusv1.TaskField_TASK_FIELD_PARENT_ID, statusv1.Comparison_COMPARISON_EQUAL, parentID),
			is(statusv1.TaskField_TASK_FIELD_RESOURCES, statusv1.Comparison_COMPARISON_ALL, "a"),
			is(statusv1.TaskField_TASK_FIELD_RESOURCES, statusv1.Comparison_COMPARISON_ALL, "b", "c"),
		),
		PageSize: 5, Offset: 10, Count: true, IncludeReports: true, IncludeChildren: true,
	}, f.listed, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestListDefaults(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for query, size := range map[string]int32{
		"": 100, "?limit=0": 100, "?limit=-1": 100, "?limit=x": 100, "?limit=": 100, "?limit=5000": 1000, "?limit=99999999999999999999": 1000,
		"?limit=3&limit=4": 4, "?offset=x": 100, "?offset=-4": 100, "?state__in=&reserved_resources__in=": 100,
	} {
		if w := f.do(t, "GET", tasksPath+query, ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
			continue
		}
		if got := f.listed; got.GetPageSize() != size || got.GetOffset() != 0 || got.GetFilter() != nil {
			t.Errorf("%s: asked for %v", query, got)
		}
	}
}

func TestListRefusesBadFilters(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	for query, answer := range map[string]string{
		"?x=1":                        `{"errors":["Invalid Filter: 'x'"]}`,
		"?x=1&limit=1&State=a":        `{"errors":["Invalid Filter: 'State'","Invalid Filter: 'x'"]}`,
		"?pulp_id=" + taskID:          `{"errors":["Invalid Filter: 'pulp_id'"]}`,
		"?%ff=1":                      "{\"errors\":[\"Invalid Filter: '\uFFFD'\"]}",
		"?state=nope":                 `{"state":["Select a valid choice. nope is not one of the available choices."]}`,
		"?state__in=waiting,nope":     `{"state__in":["Select a valid choice. nope is not one of the available choices."]}`,
		"?task_group=mine&state=nope": `{"state":["Select a valid choice. nope is not one of the available choices."],"task_group":["Must be the href or the UUID of a task group."]}`,
		"?parent_task=mine":           `{"parent_task":["Must be the href or the UUID of a task."]}`,
		"?ordering=args,-name,-x":     `{"ordering":["Select a valid choice. args is not one of the available choices.","Select a valid choice. -x is not one of the available choices."]}`,
		"?offset=1000001":             `{"offset":["Must be between 0 and 1000000, is 1000001."]}`,
		"?offset=99999999999999":      `{"offset":["Must be between 0 and 1000000, is 1000001."]}`,
		"?name=%01":                   `{"name":["Must not contain control characters, has U+0001 at byte 0."]}`,
	} {
		t.Run(query, func(t *testing.T) {
			want(t, f.do(t, "GET", tasksPath+query, ""), 400, answer)
		})
	}
	if n.calls > 0 {
		t.Errorf("%d calls reached the services", n.calls)
	}
}

func TestListOfStatesThatExcludeEachOtherIsEmpty(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", tasksPath+"?state=failed&state__in=waiting,running", ""), 200, `{"count":0,"next":null,"previous":null,"results":[]}`)
	if n.calls > 0 {
		t.Error("asked although nothing can match")
	}
}

func TestListLinksPagesAndKeepsTheQuery(t *testing.T) {
	f := newFace(t, &native{list: func(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		// Whether there are more is not told by the count, which may be an estimate.
		return &statusv1.ListTasksResponse{Total: 7, TotalEstimated: true, More: r.GetOffset()+r.GetPageSize() < 25}, nil
	}}, gateway.Config{})
	const base = "http://localhost:24817/pulp/api/v3/tasks/"
	for _, c := range []struct{ target, next, previous string }{
		{tasksPath, "", ""},
		{tasksPath + "?limit=25", "", ""},
		{tasksPath + "?limit=10", base + "?limit=10&offset=10", ""},
		{tasksPath + "?limit=10&offset=5", base + "?limit=10&offset=15", base + "?limit=10"},
		{tasksPath + "?limit=10&offset=10", base + "?limit=10&offset=20", base + "?limit=10"},
		{tasksPath + "?limit=10&offset=20&fields=state&fields=name&state__in=waiting,running", "", base + "?fields=state&fields=name&limit=10&offset=10&state__in=waiting%2Crunning"},
		{tasksPath + "?limit=10&offset=1000", "", base + "?limit=10&offset=990"},
		{"//pulp//api/v3/tasks?limit=20", base + "?limit=20&offset=20", ""},
	} {
		t.Run(c.target, func(t *testing.T) {
			got := object(t, f.do(t, "GET", c.target, ""))
			for field, link := range map[string]string{"next": c.next, "previous": c.previous} {
				if shown, _ := got[field].(string); shown != link {
					t.Errorf("%s\n got %s\nwant %s", field, shown, link)
				}
			}
		})
	}
	got := object(t, f.do(t, "GET", tasksPath+"?limit=20", "", "X-Forwarded-Proto", "https", "Host", "ignored"))
	if got["next"] != "https://localhost:24817/pulp/api/v3/tasks/?limit=20&offset=20" {
		t.Errorf("behind TLS: %v", got["next"])
	}
}

func TestTheCountOfAListSaysWhetherItIsExact(t *testing.T) {
	estimated := false
	f := newFace(t, &native{list: func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		return &statusv1.ListTasksResponse{Total: 12345, TotalEstimated: estimated}, nil
	}}, gateway.Config{})
	for _, word := range []string{"exact", "estimated"} {
		w := f.do(t, "GET", tasksPath, "")
		want(t, w, 200, `{"count":12345,"next":null,"previous":null,"results":[]}`)
		if got := w.Header().Get("Sluice-Count"); got != word {
			t.Errorf("Sluice-Count %q, want %q", got, word)
		}
		estimated = true
	}
	for _, target := range []string{workersPath, taskPath} {
		if got := f.do(t, "GET", target, "").Header().Get("Sluice-Count"); got != "" {
			t.Errorf("%s: Sluice-Count %q", target, got)
		}
	}
}

func TestAQuestionThatIsTooBroadIsTheClientsMistake(t *testing.T) {
	f := newFace(t, &native{list: func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		return nil, errs.Oversize(errs.TooBroad, "the search took too long: add a time")
	}}, gateway.Config{})
	w := f.do(t, "GET", tasksPath+"?name__contains=x", "")
	want(t, w, 400, `{"detail":"The search took too long: add a time."}`)
	if w.Header().Get("Retry-After") != "" {
		t.Error("it says to come again")
	}
}

func TestListShowsChildrenAndWhoDispatched(t *testing.T) {
	f := newFace(t, &native{list: func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		mine, nobodys := runningTask(), runningTask()
		mine.CreatedBy, nobodys.Id = 7, otherID
		return &statusv1.ListTasksResponse{
			Tasks: []*taskv1.Task{mine, nobodys}, Total: 2, Children: map[string]*statusv1.TaskIds{taskID: {Ids: []string{childID, parentID}}},
		}, nil
	}}, gateway.Config{})
	want(t, f.do(t, "GET", tasksPath+"?fields=child_tasks,created_by", ""), 200, `{"count":2,"next":null,"previous":null,"results":[`+
		`{"created_by":"/pulp/api/v3/users/7/","child_tasks":["`+tasksPath+childID+`/","`+tasksPath+parentID+`/"]},{"created_by":null,"child_tasks":[]}]}`)
}

// Without a token in an order of the client's, the rest of a page is found by its number.
func TestAnOrderedPageIsReadToItsEnd(t *testing.T) {
	var asked []string
	f := newFace(t, &native{list: func(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		asked = append(asked, fmt.Sprintf("size %d, offset %d, token %q, count %v", r.GetPageSize(), r.GetOffset(), r.GetPageToken(), r.GetCount()))
		return &statusv1.ListTasksResponse{Tasks: []*taskv1.Task{runningTask(), runningTask()}, Total: 40, More: true}, nil
	}}, gateway.Config{})
	got := object(t, f.do(t, "GET", tasksPath+"?limit=3&offset=5&ordering=name", ""))
	if shown, _ := got["results"].([]any); len(shown) != 4 || got["next"] == nil {
		t.Errorf("%d results, next %v", len(shown), got["next"])
	}
	want := []string{`size 3, offset 5, token "", count true`, `size 1, offset 7, token "", count false`}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

// The status service ends a page early when results are large; a page of REST is whole all the same.
func TestAPageIsReadToItsEnd(t *testing.T) {
	var asked []string
	f := newFace(t, &native{list: func(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		asked = append(asked, fmt.Sprintf("size %d, offset %d, token %q, count %v", r.GetPageSize(), r.GetOffset(), r.GetPageToken(), r.GetCount()))
		big := runningTask()
		big.State, big.ResultJson = taskv1.State_STATE_COMPLETED, `"`+strings.Repeat("x", 1<<20-2)+`"`
		answer := &statusv1.ListTasksResponse{Tasks: []*taskv1.Task{big, big, big, big}, Total: 40}
		if len(asked) < 4 {
			answer.NextPageToken = fmt.Sprint("t", len(asked))
		}
		return answer, nil
	}}, gateway.Config{})
	got := object(t, f.do(t, "GET", tasksPath+"?limit=12&offset=5", ""))
	if shown, _ := got["results"].([]any); len(shown) != 12 || got["count"] != 40.0 {
		t.Errorf("%d results of %v", len(shown), got["count"])
	}
	want := []string{`size 12, offset 5, token "", count true`, `size 8, offset 0, token "t1", count false`, `size 4, offset 0, token "t2", count false`}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestFieldsAreChosen(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	const minimal = `"pulp_href":"/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000001/","prn":"prn:core.task:019412ab-0000-7000-8000-000000000001",` +
		`"pulp_created":"2026-11-22T10:15:00.120000Z","pulp_last_updated":"2026-11-22T10:15:03.120000Z","state":"running","name":"test.echo",` +
		`"unblocked_at":"2026-11-22T10:15:01.120000Z","started_at":"2026-11-22T10:15:02.120000Z","finished_at":null,` +
		`"worker":"/pulp/api/v3/workers/019412ab-0000-7000-8000-0000000000bb/","pulp_api_version":"v3"`
	for target, answer := range map[string]string{
		taskPath + "?fields=state,name":                                   `{"state":"running","name":"test.echo"}`,
		taskPath + "?fields=state&fields=name":                            `{"state":"running","name":"test.echo"}`,
		taskPath + "?fields=state,nonsense":                               `{"state":"running"}`,
		taskPath + "?minimal=true":                                        "{" + minimal + "}",
		taskPath + "?minimal=true&exclude_fields=state&fields=state,name": `{"name":"test.echo"}`,
		taskPath + "?fields=&exclude_fields=&minimal=false":               golden,
		tasksPath + "?fields=name":                                        `{"count":1,"next":null,"previous":null,"results":[{"name":"test.echo"}]}`,
		tasksPath + "?minimal=1":                                          `{"count":1,"next":null,"previous":null,"results":[{` + minimal + `}]}`,
		"/pulp/api/v3/task-groups/" + groupID + "/?fields=failed,running": `{"running":1,"failed":7}`,
		"/pulp/api/v3/workers/" + workerID + "/?fields=name":              `{"name":"executor-1"}`,
		"/pulp/api/v3/workers/?exclude_fields=prn,versions,current_task,name,pulp_created,pulp_last_updated,last_heartbeat": `{"count":1,"next":null,"previous":null,"results":[{"pulp_href":"/pulp/api/v3/workers/019412ab-0000-7000-8000-0000000000bb/"}]}`,
	} {
		t.Run(target, func(t *testing.T) {
			want(t, f.do(t, "GET", target, ""), 200, answer)
		})
	}
	if got := object(t, f.do(t, "GET", taskPath+"?exclude_fields=state,name", "")); len(got) != 27 {
		t.Errorf("without two of 29 fields: %d", len(got))
	}
}

package e2e

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// count is how many tasks there are in all.
func (s *system) count() int {
	s.t.Helper()
	var page struct{ Count int }
	s.call(http.MethodGet, "tasks/?limit=1", nil).decode(s.t, &page)
	return page.Count
}

// nothingWritten fails the test when there are more tasks at its end than there were at the call.
func (s *system) nothingWritten() (check func()) {
	before := s.count()
	return func() {
		s.t.Helper()
		if after := s.count(); after != before {
			s.t.Errorf("%d tasks were written", after-before)
		}
	}
}

var tooLong = strings.Repeat("x", 1025)

func badTyping(s *system) {
	defer s.nothingWritten()()
	for _, c := range []struct {
		says string // in what it writes to standard error
		args []string
	}{
		{"--bogus", []string{"dispatch", "test.noop", "--bogus"}},
		{"name", []string{"dispatch"}},
		{"name: must not be empty", []string{"dispatch", ""}},
		{"name: must not be empty", []string{"dispatch", "  "}},
		{"--args: is not JSON", []string{"dispatch", "test.noop", "--args", "[1"}},
		{"--args: must be JSON for an array", []string{"dispatch", "test.noop", "--args", "{}"}},
		{"--kwargs: is not JSON", []string{"dispatch", "test.noop", "--kwargs", "{'a': 1}"}},
		{"--kwargs: must be JSON for an object", []string{"dispatch", "test.noop", "--kwargs", "[]"}},
		{"exclusive[1]: must not be empty", []string{"dispatch", "test.noop", "--exclusive", "a", "--exclusive", ""}},
		{"exclusive[0]: must be at most 1024 bytes", []string{"dispatch", "test.noop", "--exclusive", tooLong}},
		{"shared[0]: must not contain control characters", []string{"dispatch", "test.noop", "--shared", "a\nb"}},
		{"not valid UTF-8", []string{"dispatch", "test.noop", "--shared", "a\xff"}},
		{"--no-defer: needs --immediate", []string{"dispatch", "test.noop", "--no-defer"}},
		{"group: must be a UUID", []string{"dispatch", "test.noop", "--group", "x"}},
		{"COMPONENT=VERSION", []string{"dispatch", "test.noop", "--need", "core"}},
		{"id: must be a UUID", []string{"task", "show", "x"}},
		{"there is no command", []string{"tasks"}},
		{"--output", []string{"task", "list", "--output", "yaml"}},
	} {
		got := s.cli(c.args...)
		if got.code != 2 || !strings.Contains(got.stderr, c.says) || got.stdout != "" {
			s.t.Errorf("sluice %.80q ended with %d and wrote %.300q %.300q, want 2 and %q", c.args, got.code, got.stdout, got.stderr, c.says)
		}
	}
}

func badJSON(s *system) {
	defer s.nothingWritten()()
	for _, c := range []struct{ body, field, says string }{
		{`{`, "detail", "JSON parse error"},
		{`{"name": "test.noop"} x`, "detail", "JSON parse error"},
		{`["test.noop"]`, "non_field_errors", "Expected a dictionary"},
		{`{}`, "name", "This field is required."},
		{`{"name": ""}`, "name", "may not be blank"},
		{`{"name": " "}`, "name", "may not be blank"},
		{`{"name": null}`, "name", "may not be null"},
		{`{"name": ["a"]}`, "name", "Not a valid string"},
		{`{"name": "test.noop", "bogus": 1}`, "bogus", "Unexpected field"},
		{`{"name": "test.noop", "args": {}}`, "args", "list"},
		{`{"name": "test.noop", "kwargs": "{}"}`, "kwargs", "dictionary"},
		{`{"name": "test.noop", "exclusive_resources": "a"}`, "exclusive_resources", "list"},
		{`{"name": "test.noop", "exclusive_resources": ["a", ""]}`, "exclusive_resources", "Must not be empty or blank"},
		{`{"name": "test.noop", "exclusive_resources": ["` + tooLong + `"]}`, "exclusive_resources", "at most 1024 bytes"},
		{`{"name": "test.noop", "shared_resources": ["a\u0000b"]}`, "shared_resources", "control characters"},
		{`{"name": "test.noop", "immediate": false, "deferred": false}`, "deferred", "immediate"},
		{`{"name": "test.noop", "task_group": "x"}`, "task_group", ""},
	} {
		got := s.call(http.MethodPost, "tasks/", c.body)
		var fields map[string]json.RawMessage
		if err := json.Unmarshal([]byte(got.body), &fields); err != nil || got.code != http.StatusBadRequest {
			s.t.Errorf("%.80s: answered %d %s, want 400 and JSON: %v", c.body, got.code, got.body, err)
			continue
		}
		if !strings.Contains(string(fields[c.field]), c.says) || len(fields) != 1 {
			s.t.Errorf("%.80s: answered %s, want only %s, with %q", c.body, got.body, c.field, c.says)
		}
	}
	// Each item is named by its place.
	got := s.call(http.MethodPost, "tasks/", `{"name": "test.noop", "exclusive_resources": ["a", ""]}`)
	var items struct {
		Exclusive map[string][]string `json:"exclusive_resources"`
	}
	got.decode(s.t, &items)
	if len(items.Exclusive["1"]) != 1 || len(items.Exclusive) != 1 {
		s.t.Errorf("the answer is %s, want one message under item 1", got.body)
	}
	for _, c := range []struct {
		method, path, body string
		code               int
	}{
		{http.MethodPut, "tasks/", `{}`, http.StatusMethodNotAllowed},
		{http.MethodGet, "nothing/", "", http.StatusNotFound},
		{http.MethodGet, "tasks/?bogus=1", "", http.StatusBadRequest},
		{http.MethodGet, "tasks/?state=bogus", "", http.StatusBadRequest},
		{http.MethodGet, "tasks/x/", "", http.StatusNotFound},
	} {
		if got := s.call(c.method, c.path, c.body); got.code != c.code || !json.Valid([]byte(got.body)) {
			s.t.Errorf("%s %s: answered %d %s, want %d and JSON", c.method, c.path, got.code, got.body, c.code)
		}
	}
}

// badMessages speaks to the wire without pkg/client, as a program in another language does.
func badMessages(s *system) {
	defer s.nothingWritten()()
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	dispatcher := dispatcherv1.NewDispatcherServiceClient(conn)
	deferred := false
	for _, c := range []struct {
		spec   *taskv1.TaskSpec
		fields []string
	}{
		{nil, []string{"task"}},
		{&taskv1.TaskSpec{}, []string{"task.name"}},
		{&taskv1.TaskSpec{Name: "a\tb"}, []string{"task.name"}},
		{&taskv1.TaskSpec{Name: "test.noop", ArgsJson: "[1", KwargsJson: "[]"}, []string{"task.args_json", "task.kwargs_json"}},
		{&taskv1.TaskSpec{Name: "test.noop", ExclusiveResources: []string{"a", "", tooLong}}, []string{"task.exclusive_resources[1]", "task.exclusive_resources[2]"}},
		{&taskv1.TaskSpec{Name: "test.noop", SharedResources: []string{"a\x00"}}, []string{"task.shared_resources[0]"}},
		{&taskv1.TaskSpec{Name: "test.noop", Deferred: &deferred}, []string{"task.deferred"}},
		{&taskv1.TaskSpec{Name: "test.noop", GroupId: "x", ParentId: "y"}, []string{"task.parent_id", "task.group_id"}},
	} {
		_, err := dispatcher.Dispatch(s.soon(), &dispatcherv1.DispatchRequest{Task: c.spec})
		var fields []string
		for _, detail := range status.Convert(err).Details() {
			if bad, ok := detail.(*errdetails.BadRequest); ok {
				for _, v := range bad.GetFieldViolations() {
					fields = append(fields, v.GetField())
				}
			}
		}
		if diff := cmp.Diff(c.fields, fields); diff != "" || status.Code(err) != codes.InvalidArgument {
			s.t.Errorf("%v: %v: %s", c.spec, err, diff)
		}
	}
}

package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/gateway"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// check says what every answer to a client's own mistake must be: never a 5xx, never a redirect, JSON if anything. The documents and the
// page for people have types of their own.
func check(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	media := w.Header().Get("Content-Type")
	switch {
	case w.Code >= 500 || w.Code/100 == 3 && w.Code != http.StatusNotModified:
		t.Errorf("%d %s", w.Code, w.Body)
	case w.Code < 300 && (strings.HasPrefix(media, "text/html") || strings.HasPrefix(media, "application/vnd.oai.openapi") || media == "text/event-stream"):
	case w.Body.Len() > 0 && (!json.Valid(w.Body.Bytes()) || !utf8.Valid(w.Body.Bytes())):
		t.Errorf("%d with a body that is no JSON: %q", w.Code, w.Body)
	case w.Body.Len() > 0 && w.Header().Get("Content-Type") != "application/json":
		t.Errorf("content type %q", w.Header().Get("Content-Type"))
	}
}

func FuzzBody(f *testing.F) {
	for _, body := range []string{
		``, `{`, `[]`, `null`, `{"name":"n"}`, `{"name":"n","args":[1e999,"\ud800"],"kwargs":{"\u0000":1}}`,
		`{"name":"n","exclusive_resources":["a",1,null,"shared:x"],"versions":{"a":"1","b":2}}`,
		`{"name":"n","deferred":false,"immediate":null,"task_group":"//x"}`, `{"name":"\ud800","name":"m"} `, "\xef\xbb\xbf{}",
		`{"name":"n","timeout":1e308,"retry":{"max_attempts":-1e3,"on":[null]},"files":[""]}`, `{"name":"n","retry":{"retry":{"retry":{}}}}`,
		`{"tasks":[{"name":"n"},{},[],null,{"name":"n","retry":{"on":[0]},"task_group":"x"}]}`, `{"finished_before":"2026-11-01 1:0","states":["failed","x",1]}`,
		`{"role":"core.task_owner","users":["a",null],"groups":{}}`, `{"description":"\u0000"}`, `{"name":"n","task_name":"t","dispatch_interval":1e300,"next_dispatch":"x"}`,
		`{"name":"n","task_name":"t","dispatch_interval":"99999999 99:99:99.999999","task_args":[],"task_kwargs":[]}`,
		`{"state":"canceled"}`, `{"state":["canceled"]}`, `{"name":"n","args":[` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `]}`,
	} {
		f.Add(body)
	}
	n := everything()
	face := newFace(f, n, gateway.Config{}).unjudged()
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{
			batchPath, purgePath, taskPath + "add_role/", taskPath + "remove_role/", "/pulp/api/v3/task-groups/", "/pulp/api/v3/task-schedules/",
		} {
			check(t, face.do(t, "POST", path, body))
		}
		check(t, face.do(t, "PATCH", groupHref, body))
		dispatched := len(n.dispatched)
		w := face.do(t, "POST", tasksPath, body)
		check(t, w)
		if (w.Code == http.StatusAccepted) != (len(n.dispatched) > dispatched) {
			t.Errorf("answered %d, but dispatched %d", w.Code, len(n.dispatched)-dispatched)
		}
		if w.Code == http.StatusAccepted {
			spec := n.dispatched[len(n.dispatched)-1]
			for _, text := range []string{spec.GetArgsJson(), spec.GetKwargsJson()} {
				if text != "" && (!json.Valid([]byte(text)) || !strings.Contains(body, text)) {
					t.Errorf("%q is not what was sent", text)
				}
			}
		}
		n.dispatched = nil
		check(t, face.do(t, "PATCH", taskPath, body))
	})
}

func FuzzRequest(f *testing.F) {
	for _, target := range []string{
		"/", "//", "/pulp/api/v3/tasks/", "//pulp//api/v3/tasks/x/", "/%2Fpulp%2Fapi%2Fv3%2Ftasks%2F", "/pulp/api/v3/tasks/%ff%00/", "/pulp/api/v3/tasks/a:b",
		"/pulp/api/v3/tasks/?limit=1;offset=2", "/pulp/api/v3/tasks/?limit=%zz&fields=%ff", "/pulp/api/v3/tasks/?name=%ff%00&state__in=,,", "/pulp/api/v3/tasks/?minimal=x&minimal=true",
		"/pulp/api/v3/tasks/?reserved_resources__in=" + strings.Repeat("a,", 200), "/pulp/api/v3/workers/?online=1&name=%f0", "/pulp/api/v3/task-groups/" + groupID, "/metrics", "*",
		"/api/galaxy/v3/auth/token/", "/api/galaxy/v3/tasks/" + taskID + "/", "/api/galaxy/pulp/api/v3/tasks/", "/pulp/api/v4/status/", "/pulp/api/v5/", "/pulp/api/v3/docs/api.json?pk_path=1&component=x",
		"/pulp/api/v3/docs/", taskPath + "profile_artifacts/x/?key=y", taskPath + "explain/", taskPath + "list_roles/", "/pulp/api/v3/task-schedules/?q=name=x", "/pulp/api/v3/tasks/wait/?timeout=0&state=x",
		"/pulp/api/v3/tasks/?task_group=http://h/pulp/api/v3/task-groups/" + groupID + "/", "/pulp/api/v3/tasks?offset=" + strings.Repeat("9", 30),
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "HEAD"} {
			f.Add(method, target, "Correlation-ID: \xff", `{"name":"n"}`)
		}
	}
	f.Add("POST", "/pulp/api/v3/tasks/", "Grpc-Timeout: 1n\r\ntraceparent: \xff", `{}`)
	f.Add("POST", "/pulp/api/v3/tasks/", "X-HTTP-Method-Override: DELETE\r\nContent-Type: application/x-www-form-urlencoded", "a=b")
	face := newFace(f, everything(), gateway.Config{}).unjudged()
	f.Fuzz(func(t *testing.T, method, target, headers, body string) {
		// As net/http reads it from a connection: what it refuses never gets to the gateway.
		text := method + " " + target + " HTTP/1.1\r\nHost: h\r\n" + headers + "\r\nConnection: close\r\n\r\n"
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		w := httptest.NewRecorder()
		face.handler.ServeHTTP(w, r)
		check(t, w)
	})
}

// Filters of all lists: what is refused is refused as a client's mistake, and what is taken reaches the service within its limits, which
// the fakes stand behind.
func FuzzFilters(f *testing.F) {
	for parameter := range taskFilters() {
		f.Add(parameter[:strings.Index(parameter, "=")], parameter[strings.Index(parameter, "=")+1:])
	}
	for _, seed := range [][2]string{
		{"name__regex", "(a+)+$"},
		{"last_heartbeat__range", "2026-11-22 10:15:54 02:00,x"},
		{"name__in", ",,\x00"},
		{"started_at", "2026-11-22T10:15:54.999999999999Z"},
		{"worker__isnull", "TRUE"},
		{"created_resources", "http://"},
		{"reserved_resources__in", "shared:,shared:shared:"},
		{"pulp_href__in", "http:///"},
		{"prn__in", "prn::"},
		{"ordering", "-pk,--pk,- pk"},
		{"limit", "-0"},
		{"offset", "1e3"},
		{"q", "NOT NOT name__in=',' OR(state=failed)"},
		{"fields", "\xff"},
		{"minimal", "\x00"},
	} {
		f.Add(seed[0], seed[1])
	}
	n := everything()
	face := newFace(f, n, gateway.Config{}).unjudged()
	f.Fuzz(func(t *testing.T, name, value string) {
		query := "?" + url.QueryEscape(name) + "=" + url.QueryEscape(value)
		for _, path := range []string{tasksPath, workersPath, "/pulp/api/v3/task-groups/", "/api/galaxy/pulp/api/v3/task-schedules/"} {
			check(t, face.do(t, "GET", path+query, ""))
		}
		w := face.do(t, "GET", tasksPath+"?q="+url.QueryEscape(name+`="`+value+`"`), "")
		check(t, w)
	})
}

// FuzzExpression also checks that what is taken is not more complex than it may be.
func FuzzExpression(f *testing.F) {
	for _, q := range []string{
		"state=failed", "NOT (name=a OR name=b) AND name__in='a,b'", `name="\"" or not name=''`, "((((", "name=a AND", "NOT=1", "ordering=x", "q=q=q", "name=é", "a=\x00",
		strings.Repeat("NOT ", 9), strings.Repeat("(", 200), "name=a" + strings.Repeat(" OR name=a", 9),
	} {
		f.Add(q)
	}
	n := everything()
	face := newFace(f, n, gateway.Config{}).unjudged()
	f.Fuzz(func(t *testing.T, q string) {
		n.listed = nil
		for _, path := range []string{tasksPath, workersPath} {
			check(t, face.do(t, "GET", path+"?q="+url.QueryEscape(q), ""))
		}
		if n.listed == nil {
			return
		}
		nodes := 0
		var walk func(*statusv1.Filter)
		walk = func(filter *statusv1.Filter) {
			nodes++
			walkAll := func(list *statusv1.FilterList) {
				for _, part := range list.GetFilters() {
					walk(part)
				}
			}
			walkAll(filter.GetAll())
			walkAll(filter.GetAny())
			if filter.GetNot() != nil {
				walk(filter.GetNot())
			}
		}
		if walk(n.listed.GetFilter()); nodes > 3*8+1 { // one filter on resources becomes three nodes
			t.Errorf("%q became %d nodes", q, nodes)
		}
	})
}

// FuzzPaging checks that pages can be followed: each next begins where the page ended, and it comes to an end.
func FuzzPaging(f *testing.F) {
	f.Add("10", "5", "-pulp_created", "a&b", uint16(25))
	f.Add("0", "-1", "name,,-name", "", uint16(0))
	f.Add("99999999999999999999", "99999999999", "x", "\xff", uint16(1))
	f.Add("1", "1000000", "pk", "ä=;", uint16(1000))
	total := int32(0)
	n := &native{list: func(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		return &statusv1.ListTasksResponse{Total: int64(total), More: r.GetOffset()+r.GetPageSize() < total}, nil
	}}
	face := newFace(f, n, gateway.Config{}).unjudged()
	f.Fuzz(func(t *testing.T, limit, offset, ordering, name string, all uint16) {
		total = int32(all)
		query := url.Values{"limit": {limit}, "offset": {offset}, "ordering": {ordering}, "name": {name}}
		target := tasksPath + "?" + query.Encode()
		last := int32(-1)
		for range 5 {
			w := face.do(t, "GET", target, "")
			check(t, w)
			if w.Code != http.StatusOK {
				return
			}
			if n.listed.GetOffset() <= last {
				t.Fatalf("after the page at %d comes that at %d", last, n.listed.GetOffset())
			}
			last = n.listed.GetOffset()
			next, _ := object(t, w)["next"].(string)
			if next == "" {
				if last+n.listed.GetPageSize() < total {
					t.Errorf("the pages end at %d of %d", last, total)
				}
				return
			}
			u, err := url.Parse(next)
			if err != nil || u.Query().Get("name") != strings.ToValidUTF8(name, "\uFFFD") {
				t.Fatalf("next is %q: %v", next, err)
			}
			target = u.RequestURI()
		}
	})
}

// everything is a native that answers all that a fuzzed request can ask for.
func everything() *native {
	schedule := &dispatcherv1.TaskSchedule{Id: otherID, Name: "nightly", Task: &taskv1.TaskSpec{Name: "n"}, CreatedAt: at(1), UpdatedAt: at(1)}
	group := &statusv1.GetTaskGroupResponse{Id: groupID, CreatedAt: at(0)}
	return &native{hooks: hooks{
		watchTasks: func(*statusv1.WatchTasksRequest, grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
			return nil
		},
		awaitTasks: func(context.Context, *statusv1.AwaitTasksRequest) (*statusv1.AwaitTasksResponse, error) {
			return &statusv1.AwaitTasksResponse{Done: true}, nil
		},
		getGroup: func(context.Context, *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error) {
			return group, nil
		},
		listGroups: func(context.Context, *statusv1.ListTaskGroupsRequest) (*statusv1.ListTaskGroupsResponse, error) {
			return &statusv1.ListTaskGroupsResponse{Groups: []*statusv1.GetTaskGroupResponse{group}, Total: 1}, nil
		},
		createGroup: func(context.Context, *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error) {
			return &dispatcherv1.CreateTaskGroupResponse{GroupId: groupID}, nil
		},
		cancelGroup: func(context.Context, *dispatcherv1.CancelTaskGroupRequest) (*dispatcherv1.CancelTaskGroupResponse, error) {
			return &dispatcherv1.CancelTaskGroupResponse{}, nil
		},
		listSchedules: func(context.Context, *dispatcherv1.ListTaskSchedulesRequest) (*dispatcherv1.ListTaskSchedulesResponse, error) {
			return &dispatcherv1.ListTaskSchedulesResponse{Schedules: []*dispatcherv1.TaskSchedule{schedule}}, nil
		},
		getSchedule: func(context.Context, *dispatcherv1.GetTaskScheduleRequest) (*dispatcherv1.GetTaskScheduleResponse, error) {
			return &dispatcherv1.GetTaskScheduleResponse{Schedule: schedule}, nil
		},
		createSchedule: func(context.Context, *dispatcherv1.CreateTaskScheduleRequest) (*dispatcherv1.CreateTaskScheduleResponse, error) {
			return &dispatcherv1.CreateTaskScheduleResponse{Schedule: schedule}, nil
		},
		deleteSchedule: func(context.Context, *dispatcherv1.DeleteTaskScheduleRequest) (*dispatcherv1.DeleteTaskScheduleResponse, error) {
			return &dispatcherv1.DeleteTaskScheduleResponse{}, nil
		},
	}}
}

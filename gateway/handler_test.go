package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const notFound = `{"detail":"Not found."}`

func TestPathsAreFoldedAndNeverRedirected(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for _, path := range []string{
		taskPath,
		strings.TrimSuffix(taskPath, "/"),
		"/" + taskPath,
		"//" + taskPath + "//",
		"//pulp///api/v3//tasks/" + taskID,
		"/" + strings.ReplaceAll(taskPath, "/", "%2F") + "/", // a whole href as one escaped segment
		strings.ReplaceAll(taskPath, "/", "%2f"),
	} {
		// Not httptest.NewRequest: it reads //pulp/ as a host, a server does not.
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n")))
		if path[0] != '/' {
			if err == nil {
				t.Errorf("%s: not a request target, but read", path)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, r)
		t.Run(path, func(t *testing.T) { want(t, w, 200, golden) })
	}
}

func TestAPIRootIsConfigurable(t *testing.T) {
	for _, root := range []string{"/api/galaxy/pulp/", "api/galaxy/pulp", "/api/galaxy/pulp"} {
		f := newFace(t, &native{}, gateway.Config{APIRoot: root})
		want(t, f.do(t, "POST", "/api/galaxy/pulp/api/v3/tasks/", `{"name":"n"}`), 202, `{"task":"/api/galaxy/pulp/api/v3/tasks/`+taskID+`/"}`)
		want(t, f.do(t, "GET", taskPath, ""), 404, notFound)
	}
	f := newFace(t, &native{}, gateway.Config{APIRoot: "/"})
	want(t, f.do(t, "GET", "/api/v3/livez/", ""), 200, "")
	want(t, f.do(t, "GET", "/pulp/api/v3/livez/", ""), 404, notFound)
}

func TestUnknownPaths(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for _, path := range []string{
		"/pulp", "/pulp/", "/pulp/api/", "/pulp/api/v4/tasks/", "/pulp/api/v3/nothing/", "/api/v3/tasks/", "/metrics", "/metrics/",
		taskPath + "more/", "/pulp/api/v3/tasks/../tasks/", "/pulp/api/v3/tasks/a%2Fb/", "/pulpapi/v3/tasks", "/%ff",
	} {
		for _, method := range []string{"GET", "POST", "PATCH", "DELETE", "OPTIONS", "ODD"} {
			t.Run(method+" "+path, func(t *testing.T) { want(t, f.do(t, method, path, ""), 404, notFound) })
		}
	}
}

func TestMethods(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for _, c := range []struct{ path, allow string }{
		{tasksPath, "GET, POST, HEAD, OPTIONS"},
		{taskPath, "DELETE, GET, PATCH, HEAD, OPTIONS"},
		{workersPath, "GET, HEAD, OPTIONS"},
		{"/pulp/api/v3/status/", "GET, HEAD, OPTIONS"},
		{"/pulp/api/v3/livez/", "GET, HEAD, OPTIONS"},
		{"/", "GET, HEAD, OPTIONS"},
	} {
		w := f.do(t, "PUT", c.path, `{}`)
		want(t, w, 405, `{"detail":"Method \"PUT\" not allowed."}`)
		if got := w.Header().Get("Allow"); got != c.allow {
			t.Errorf("%s allows %q, want %q", c.path, got, c.allow)
		}
		w = f.do(t, "OPTIONS", c.path, "")
		want(t, w, 204, "")
		if got := w.Header().Get("Allow"); got != c.allow {
			t.Errorf("%s has options %q, want %q", c.path, got, c.allow)
		}
		if w = f.do(t, "HEAD", c.path, ""); w.Code != 200 && c.path != taskPath {
			t.Errorf("HEAD %s: %d", c.path, w.Code)
		}
	}
	// Headers must not turn one method into another.
	w := f.do(t, "POST", taskPath, "", "X-HTTP-Method-Override", "DELETE", "Content-Type", "application/x-www-form-urlencoded")
	want(t, w, 405, `{"detail":"Method \"POST\" not allowed."}`)
}

func TestContentTypes(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for given, code := range map[string]int{
		"application/json": 202, "application/json; charset=utf-8": 202, "Application/JSON": 202,
		"text/plain": 415, "application/x-www-form-urlencoded": 415, "": 415, "application/": 415, "json": 415, "application/json-patch+json": 415,
	} {
		w := f.do(t, "POST", tasksPath, `{"name":"n"}`, "Content-Type", given)
		if w.Code != code {
			t.Errorf("%q: %d %s", given, w.Code, w.Body)
		}
		if code == 415 {
			want(t, w, 415, fmt.Sprintf(`{"detail":"Unsupported media type \"%s\" in request."}`, given))
		}
	}
	// No body is an empty one, whatever it is called.
	want(t, f.do(t, "POST", tasksPath, "", "Content-Type", "text/plain"), 400, `{"name":["This field is required."]}`)
}

func TestBodyLimit(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	body := `{"name":"` + strings.Repeat("n", 4<<20) + `"}`
	want(t, f.do(t, "POST", tasksPath, body), 413, `{"detail":"The request body must be at most 4194304 bytes."}`)
	if n.calls > 0 {
		t.Error("a call reached the services")
	}
	half := f.do(t, "POST", tasksPath, `{"name":"`+strings.Repeat("n", 2<<20)+`"}`)
	want(t, half, 400, `{"name":["Must be at most 255 bytes, has 2097152."]}`)
}

func TestManyBrokenItemsMakeAShortAnswer(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	items := strings.Repeat("1,", 100_000) + "1"
	for _, body := range []string{
		`{"name":"n","exclusive_resources":[` + items + `]}`,
		`{"name":"n",` + manyKeys(50_000, `"key%d":1`) + `}`,
		`{"name":"n","versions":{` + manyKeys(50_000, `"key%d":1`) + `}}`,
	} {
		w := f.do(t, "POST", tasksPath, body)
		if w.Code != 400 || w.Body.Len() > 16<<10 {
			t.Errorf("%s...: %d with %d bytes", body[:40], w.Code, w.Body.Len())
		}
	}
}

func manyKeys(n int, format string) string {
	pairs := make([]string, n)
	for i := range pairs {
		pairs[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(pairs, ",")
}

func TestErrorsOfServices(t *testing.T) {
	overloaded := &errs.Error{Code: codes.ResourceExhausted, Reason: errs.Overloaded, Message: "too many", RetryAfter: 2500 * time.Millisecond}
	for name, c := range map[string]struct {
		err        error
		code       int
		body       string
		retryAfter string
	}{
		"away":            {errs.Away(errs.DatabaseAway, errors.New("secret"), "the database is away"), 503, `{"detail":"The database is away."}`, "1"},
		"away, no reason": {status.Error(codes.Unavailable, "dial tcp 10.0.0.1"), 503, `{"detail":"Temporarily unavailable."}`, "1"},
		"overloaded":      {overloaded, 429, `{"detail":"Too many."}`, "3"},
		"deadline":        {context.DeadlineExceeded, 504, `{"detail":"The request took too long."}`, ""},
		"precondition":    {errs.Precondition(errs.Fenced, "it is over"), 409, `{"detail":"It is over."}`, ""},
		"exists":          {errs.Exists(errs.NameTaken, "it is there"), 409, `{"detail":"It is there."}`, ""},
		"unimplemented":   {status.Error(codes.Unimplemented, "no such method"), 501, `{"detail":"Not implemented."}`, ""},
		"no credentials":  {status.Error(codes.Unauthenticated, "x"), 401, `{"detail":"Authentication credentials were not provided."}`, ""},
		"no permission":   {status.Error(codes.PermissionDenied, "x"), 403, `{"detail":"You do not have permission to perform this action."}`, ""},
		"plain invalid":   {status.Error(codes.InvalidArgument, "no good"), 400, `{"detail":"No good."}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := &native{dispatch: func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
				return nil, c.err
			}}
			w := newFace(t, n, gateway.Config{}).do(t, "POST", tasksPath, `{"name":"n"}`)
			want(t, w, c.code, c.body)
			if got := w.Header().Get("Retry-After"); got != c.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, c.retryAfter)
			}
			// Only what another attempt can heal is tried again, always under one request id.
			calls := 1
			if status.Code(c.err) == codes.Unavailable {
				calls = 4
			}
			if n.calls != calls {
				t.Errorf("a dispatch was called %d times, want %d", n.calls, calls)
			}
			for _, spec := range n.dispatched {
				if id := spec.GetRequestId(); id == "" || id != n.dispatched[0].GetRequestId() {
					t.Errorf("its request ids are %q and %q", n.dispatched[0].GetRequestId(), id)
				}
			}
		})
	}
}

// The answer got lost, and the client is not to know: there is one task, and it gets its href.
func TestCreateWhoseAnswerIsLostInsideIsOneTask(t *testing.T) {
	n := &native{}
	n.dispatch = func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.dispatched) < 3 {
			return nil, errs.Away(errs.DatabaseAway, nil, "a")
		}
		return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: taskID}}, nil
	}
	want(t, newFace(t, n, gateway.Config{}).do(t, "POST", tasksPath, `{"name":"n"}`), 202, `{"task":"`+taskPath+`"}`)
	if len(n.dispatched) != 3 || n.dispatched[0].GetRequestId() == "" || n.dispatched[0].GetRequestId() != n.dispatched[2].GetRequestId() {
		t.Errorf("dispatched: %v", n.dispatched)
	}
}

// Bodies are held in memory while the services behind are slow: together they have a bound, and who comes above it is told to wait.
func TestRequestsWithTooMuchInTheirBodiesTogetherAreRefused(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	n := &native{dispatch: func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		reached <- struct{}{}
		<-release
		return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: taskID}}, nil
	}}
	body := `{"name":"n","kwargs":{"a":"` + strings.Repeat("x", 1000) + `"}}`
	f := newFace(t, n, gateway.Config{MaxBodies: int64(len(body)) * 2})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { want(t, f.do(t, "POST", tasksPath, body), 202, `{"task":"`+taskPath+`"}`) })
		<-reached
	}
	w := f.do(t, "POST", tasksPath, body)
	want(t, w, 429, `{"detail":"Too many requests at the same time."}`)
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	// What has no body is not refused.
	if w := f.do(t, "GET", taskPath, ""); w.Code != 200 {
		t.Errorf("a GET got %d", w.Code)
	}
	close(release)
	all.Wait()
	go func() { <-reached }()
	want(t, f.do(t, "POST", tasksPath, body), 202, `{"task":"`+taskPath+`"}`)
}

var reference = regexp.MustCompile(`^\{"detail":"internal error \(ref [0-9a-f]{8}\)"\}$`)

func TestInternalErrorsAreMasked(t *testing.T) {
	for name, err := range map[string]error{
		"unclassified":  errors.New("secret table"),
		"unknown code":  status.Error(codes.Unknown, "secret table"),
		"internal code": status.Error(codes.Internal, "secret table"),
		"data loss":     status.Error(codes.DataLoss, "secret table"),
	} {
		t.Run(name, func(t *testing.T) {
			n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) { return nil, err }}
			w := newFace(t, n, gateway.Config{}).do(t, "GET", taskPath, "")
			if w.Code != 500 || !reference.MatchString(w.Body.String()) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func TestServiceThatDiedIs503(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	f.server.Server.Stop()
	for _, c := range []struct{ method, target, body string }{
		{"GET", taskPath, ""}, {"POST", tasksPath, `{"name":"n"}`}, {"PATCH", taskPath, `{"state":"canceled"}`},
	} {
		w := f.do(t, c.method, c.target, c.body)
		want(t, w, 503, `{"detail":"Temporarily unavailable."}`)
		if w.Header().Get("Retry-After") == "" {
			t.Errorf("%s %s: no Retry-After", c.method, c.target)
		}
	}
	if w := f.do(t, "GET", "/pulp/api/v3/status/", ""); w.Code != 200 {
		t.Errorf("status: %d %s", w.Code, w.Body)
	}
	want(t, f.do(t, "GET", "/pulp/api/v3/livez/", ""), 200, "")
	if err := f.gateway.Ready(t.Context()); err == nil {
		t.Error("ready without services")
	}
}

func TestStoredJSONThatIsBrokenIsAnInternalError(t *testing.T) {
	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_COMPLETED, ResultJson: `{"a":`}}, nil
	}}
	w := newFace(t, n, gateway.Config{}).do(t, "GET", taskPath, "")
	if w.Code != 500 || !reference.MatchString(w.Body.String()) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPanicIs500AndLogged(t *testing.T) {
	broken := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("broken metrics") })
	f := newFace(t, &native{}, gateway.Config{Metrics: broken})
	w := f.do(t, "GET", "/metrics", "")
	if w.Code != 500 || !reference.MatchString(w.Body.String()) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(f.logs.String(), "broken metrics") {
		t.Errorf("the log says nothing of it: %s", f.logs)
	}

	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		panic("broken service")
	}}
	w = newFace(t, n, gateway.Config{}).do(t, "GET", taskPath, "")
	if w.Code != 500 || !reference.MatchString(w.Body.String()) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestCorrelationIDs(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for _, valid := range []string{
		"0b0fb1e8f1e24ab8b5f3a5a5d4f1c7ab", "0B0FB1E8-F1E2-4AB8-B5F3-A5A5D4F1C7AB",
		"{0b0fb1e8-f1e2-4ab8-b5f3-a5a5d4f1c7ab}", "urn:uuid:0b0fb1e8-f1e2-4ab8-b5f3-a5a5d4f1c7ab",
	} {
		for _, target := range []string{taskPath, "/nowhere", "/pulp/api/v3/livez/", "/"} {
			if got := f.do(t, "GET", target, "", "Correlation-ID", valid).Header().Get("Correlation-ID"); got != valid {
				t.Errorf("%s %s: %q came back", target, valid, got)
			}
		}
	}
	fresh := regexp.MustCompile(`^[0-9a-f]{32}$`)
	seen := map[string]bool{}
	for _, invalid := range []string{
		"", "deadbeef-xxxx", "0b0fb1e8f1e24ab8b5f3a5a5d4f1c7a", "0b0fb1e8f1e24ab8b5f3a5a5d4f1c7abc", "g" + strings.Repeat("0", 31),
		strings.Repeat("-", 100) + strings.Repeat("0", 32), "{" + strings.Repeat("0", 32), "\xff",
	} {
		w := f.do(t, "POST", tasksPath, `{"name":"n"}`, "Correlation-ID", invalid)
		got := w.Header().Get("Correlation-ID")
		if !fresh.MatchString(got) || seen[got] {
			t.Errorf("%q became %q", invalid, got)
		}
		seen[got] = true
		if spec := f.dispatched[len(f.dispatched)-1]; spec.GetCorrelationId() != got {
			t.Errorf("the task has %q, the answer %q", spec.GetCorrelationId(), got)
		}
	}
}

func TestTraceContextThatIsNoneIsDropped(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, parent := range []string{"", "x", "00-xyz", good + "\xff", strings.ToUpper(good), good + "-" + strings.Repeat("a", 1000)} {
		f.do(t, "POST", tasksPath, `{"name":"n"}`, "traceparent", parent, "tracestate", "a=b")
		if got := f.metadata.Get("traceparent"); len(got) > 0 {
			t.Errorf("%q went on as %q", parent, got)
		}
		if got := f.metadata.Get("tracestate"); len(got) > 0 {
			t.Errorf("tracestate %q went on without a parent", got)
		}
	}
	w := f.do(t, "POST", tasksPath, `{"name":"n"}`, "traceparent", good, "tracestate", "\xff\x01")
	if w.Code != 202 || len(f.metadata.Get("tracestate")) > 0 || len(f.metadata.Get("traceparent")) != 1 {
		t.Errorf("%d, %v", w.Code, f.metadata)
	}
}

func TestOtherHeadersStayOutside(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	w := f.do(t, "POST", tasksPath, `{"name":"n"}`, "Authorization", "Basic x", "Grpc-Timeout", "1n", "Grpc-Metadata-Secret", "s", "TE", "trailers", "Cookie", "c")
	want(t, w, 202, `{"task":"`+taskPath+`"}`)
	for key := range f.metadata {
		if strings.Contains(key, "secret") || strings.Contains(key, "cookie") || key == "authorization" {
			t.Errorf("%s reached the dispatcher", key)
		}
	}
}

func TestAccessLog(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	f := newFace(t, &native{}, gateway.Config{Metrics: metrics})
	f.do(t, "GET", "/pulp/api/v3/livez", "")
	f.do(t, "DELETE", taskPath, "", "Correlation-ID", "0b0fb1e8f1e24ab8b5f3a5a5d4f1c7ab")
	if w := f.do(t, "GET", "/metrics", ""); w.Body.String() != "up 1\n" {
		t.Errorf("metrics: %s", w.Body)
	}
	var lines []string
	for line := range strings.Lines(f.logs.String()) {
		if strings.Contains(line, "msg=request") {
			lines = append(lines, line)
		}
	}
	for i, parts := range [][]string{
		{"level=DEBUG", "method=GET", "path=/pulp/api/v3/livez", "status=200"},
		{"level=INFO", "method=DELETE", "path=" + taskPath, "status=204", "duration=", "correlation_id=0b0fb1e8f1e24ab8b5f3a5a5d4f1c7ab"},
		{"level=DEBUG", "path=/metrics", "status=200", "bytes=5"},
	} {
		for _, part := range parts {
			if i >= len(lines) || !strings.Contains(lines[i], part) {
				t.Errorf("line %d of %q lacks %s", i, lines, part)
			}
		}
	}
}

func TestWelcomeAndIndex(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	want(t, f.do(t, "GET", "/", ""), 200, `{"docs":"/pulp/api/v3/docs/","name":"sluice","rest":"/pulp/api/v3/","status":"/pulp/api/v3/status/","version":"0.1.0"}`)
	want(t, f.do(t, "GET", "/pulp/api/v3/", ""), 200, `{"resources":"/pulp/api/v3/resources/","status":"/pulp/api/v3/status/","task-groups":"/pulp/api/v3/task-groups/",`+
		`"task-schedules":"/pulp/api/v3/task-schedules/","tasks":"/pulp/api/v3/tasks/","workers":"/pulp/api/v3/workers/"}`)
}

func TestAliasesServeTheSameBelowTheirOwnRoot(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for _, alias := range []string{"/api/galaxy", "/api/automation-hub"} {
		want(t, f.do(t, "GET", alias+taskPath, ""), 200, strings.ReplaceAll(golden, "/pulp/api/", alias+"/pulp/api/"))
		w := f.do(t, "POST", alias+tasksPath, `{"name":"n","task_group":"`+groupHref+`"}`)
		want(t, w, 202, `{"task":"`+alias+taskPath+`"}`)
		if w.Header().Get("Location") != alias+taskPath || f.dispatched[len(f.dispatched)-1].GetGroupId() != groupID {
			t.Errorf("Location %s, dispatched %v", w.Header().Get("Location"), f.dispatched)
		}
		got := object(t, f.do(t, "GET", alias+tasksPath+"?limit=1&offset=1", ""))
		if got["previous"] != "http://localhost:24817"+alias+tasksPath+"?limit=1" {
			t.Errorf("previous: %v", got["previous"])
		}
		if w := f.do(t, "GET", alias+"/pulp/api/v3/", ""); !strings.Contains(w.Body.String(), `"tasks":"`+alias+`/pulp/api/v3/tasks/"`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := f.do(t, "GET", "/"+alias+"//pulp/api/v3/workers/"+workerID, ""); !strings.Contains(w.Body.String(), `"pulp_href":"`+alias+`/pulp/api/v3/workers/`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		want(t, f.do(t, "GET", alias+"/pulp/api/v3/livez/", ""), 200, "")
		for _, path := range []string{alias, alias + "/", alias + "/pulp/", alias + "/api/v3/tasks/", alias + "/pulp/api/v3/nothing/"} {
			want(t, f.do(t, "GET", path, ""), 404, notFound)
		}
	}
	f = newFace(t, &native{}, gateway.Config{Aliases: []string{"hub"}})
	want(t, f.do(t, "POST", "/hub"+tasksPath, `{"name":"n"}`), 202, `{"task":"/hub`+taskPath+`"}`)
	want(t, f.do(t, "GET", "/api/galaxy"+tasksPath, ""), 404, notFound)
	f = newFace(t, &native{}, gateway.Config{APIRoot: "/käse/", Aliases: []string{}})
	want(t, f.do(t, "POST", "/k%C3%A4se/api/v3/tasks/", `{"name":"n"}`), 202, `{"task":"/käse/api/v3/tasks/`+taskID+`/"}`)
	want(t, f.do(t, "GET", "/api/galaxy"+tasksPath, ""), 404, notFound)
}

func TestVersionsOfTheAPI(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	third := f.do(t, "GET", "/pulp/api/v3/status/", "").Body.String()
	fourth := f.unjudged().do(t, "GET", "/pulp/api/v4/status/", "")
	want(t, fourth, 200, strings.TrimSuffix(third, "}")+`,"pulp_api_version":"v4","supported_pulp_api_versions":["v3","v4"]}`)
	want(t, f.do(t, "POST", "/pulp/api/v4/status/", `{}`), 405, `{"detail":"Method \"POST\" not allowed."}`)
	for _, path := range []string{"/pulp/api/v5/status/", "/pulp/api/v0/tasks/", "/api/galaxy/pulp/api/v33/", "/pulp/api/v2"} {
		want(t, f.do(t, "GET", path, ""), 404, `{"detail":"Invalid version in URL path."}`)
	}
	for _, path := range []string{"/pulp/api/v4/", "/pulp/api/v4/tasks/", "/pulp/api/v4/livez/", "/pulp/api/v/", "/pulp/api/vx/", "/pulp/api/status/"} {
		want(t, f.do(t, "GET", path, ""), 404, notFound)
	}
}

// deadlined is a connection that remembers the deadline for reading.
type deadlined struct {
	*httptest.ResponseRecorder
	until *time.Time
}

func (d *deadlined) SetReadDeadline(t time.Time) error {
	d.until = &t
	return nil
}

// Reading has a deadline, and when it passes, net/http ends the request, although there is nothing left to read.
func TestWhatIsAnsweredByHandHasNoDeadlineForReading(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	for target, lifted := range map[string]bool{taskPath + "profile_artifacts/x/?key=k": true, taskPath: false} {
		w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Host = "localhost"
		f.handler.ServeHTTP(w, r)
		if (w.until != nil) != lifted || lifted && !w.until.IsZero() {
			t.Errorf("%s: the deadline was set to %v", target, w.until)
		}
	}
}

// TestOverARealConnection checks what a recorder can't: the bytes that leave, and that stopping waits for requests.
func TestOverARealConnection(t *testing.T) {
	_, stop, addr := run(t, quiet(&native{}), gateway.Config{})
	raw := func(request string) string {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer)
	}
	const end = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	for request, parts := range map[string][]string{
		"GET /" + taskPath + end + "\r\n":                    {"200 OK", "Content-Type: application/json\r\n", "\r\n\r\n" + golden},
		"HEAD " + taskPath + end + "\r\n":                    {"200 OK", fmt.Sprintf("Content-Length: %d\r\n", len(golden)), "Correlation-Id: "},
		"DELETE " + taskPath + end + "\r\n":                  {"204 No Content"},
		"GET /%2Fpulp%2Fapi%2Fv3%2Flivez%2F" + end + "\r\n":  {"200 OK", "Content-Length: 0"},
		"GET /pulp/api/v3/tasks?fields=state" + end + "\r\n": {"200 OK", `[{"state":"running"}]`},
		"OPTIONS *" + end + "\r\n":                           {"200 OK"},
		"POST " + tasksPath + end + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"4\r\n{\"na\r\n9\r\nme\":\"n\"} \r\n0\r\n\r\n": {"202 Accepted", "Location: " + taskPath + "\r\n", `{"task":"` + taskPath + `"}`},
	} {
		answer := raw(request)
		for _, part := range parts {
			if !strings.Contains(answer, part) {
				t.Errorf("%q\nlacks %q:\n%s", request, part, answer)
			}
		}
	}
	stop()
}

func TestStopWaitsForRequestsInFlight(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	n := quiet(&native{dispatch: func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		close(arrived)
		<-release
		return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: taskID}}, nil
	}})
	_, stop, addr := run(t, n, gateway.Config{})
	answered := make(chan string, 1)
	go func() {
		response, err := http.Post("http://"+addr+tasksPath, "application/json", strings.NewReader(`{"name":"n"}`))
		if err != nil {
			answered <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answered <- response.Status + " " + string(body)
	}()
	<-arrived
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	// New connections are refused from some moment on, while the request is still in flight.
	for {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	close(release)
	if got := <-answered; got != `202 Accepted {"task":"`+taskPath+`"}` {
		t.Errorf("the request in flight got %s", got)
	}
	<-stopped
	http.DefaultClient.CloseIdleConnections()
}

func TestStopCutsRequestsThatOutlastTheGrace(t *testing.T) {
	arrived := make(chan struct{})
	n := quiet(&native{dispatch: func(ctx context.Context, _ *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		close(arrived)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	_, stop, addr := run(t, n, gateway.Config{Grace: time.Millisecond})
	failed := make(chan error, 1)
	go func() {
		response, err := http.Post("http://"+addr+tasksPath, "application/json", strings.NewReader(`{"name":"n"}`))
		if err == nil {
			_ = response.Body.Close()
		}
		failed <- err
	}()
	<-arrived
	stop()
	if err := <-failed; err == nil {
		t.Error("the request was answered")
	}
	http.DefaultClient.CloseIdleConnections()
}

// A page that points its own name at the loopback address is told apart by that name only.
func TestOnlyRequestsToTheMachineItselfAreAnswered(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for host, status := range map[string]int{
		"localhost": 200, "localhost:24817": 200, "LOCALHOST": 200, "127.0.0.1:24817": 200, "127.9.9.9": 200, "[::1]:24817": 200, "::1": 200,
		"evil.example": 400, "evil.example:24817": 400, "localhost.evil.example": 400, "192.168.0.1": 400, "[::2]:80": 400, "127.0.0.1.evil.example": 400,
	} {
		r := httptest.NewRequest(http.MethodGet, "/pulp/api/v3/livez/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("Host %q: %d, want %d", host, w.Code, status)
		}
	}
}

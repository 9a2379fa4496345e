package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// script plays a watch: what is sent to it is streamed, until the stream's context ends or it is closed.
type script struct {
	requests chan *statusv1.WatchTasksRequest
	tell     chan *statusv1.WatchTasksResponse
	ended    chan struct{}
}

func newScript() *script {
	return &script{
		requests: make(chan *statusv1.WatchTasksRequest, 100), tell: make(chan *statusv1.WatchTasksResponse, 100), ended: make(chan struct{}, 100),
	}
}

func (s *script) watch(r *statusv1.WatchTasksRequest, stream grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
	s.requests <- r
	defer func() { s.ended <- struct{}{} }()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case m, open := <-s.tell:
			if !open {
				return errs.Away(errs.Stopping, nil, "stopping")
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
}

// taskIs is a change of a task.
func taskIs(state taskv1.State, resume string) *statusv1.WatchTasksResponse {
	t := runningTask()
	t.State = state
	if state == taskv1.State_STATE_COMPLETED {
		t.FinishedAt, t.ResultJson = at(4), "7"
	}
	return &statusv1.WatchTasksResponse{Task: t, Resume: resume}
}

// event is one server-sent event, as a browser understands it.
type event struct{ kind, id, data string }

// source is a client of server-sent events.
type source struct {
	*http.Response
	reader *bufio.Reader
	id     string
	cancel context.CancelFunc
}

// events opens a stream on a real server.
func openEvents(t testing.TB, target string, pairs ...string) *source {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Set(pairs[i], pairs[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	return &source{Response: answer, reader: bufio.NewReader(answer.Body), cancel: cancel}
}

// next is the next event. What only moves the id on is an event without a kind.
func (s *source) next() (e event, err error) {
	dirty := false
	for {
		line, err := s.reader.ReadString('\n')
		if err != nil {
			return e, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "":
			if dirty {
				e.id = s.id
				return e, nil
			}
		case "id":
			s.id, dirty = value, true
		case "event":
			e.kind, dirty = value, true
		case "data":
			e.data, dirty = value, true
		}
	}
}

func (s *source) sees(t testing.TB, kind, id string) map[string]any {
	t.Helper()
	e, err := s.next()
	if err != nil {
		t.Fatal(err)
	}
	if e.kind != kind || e.id != id {
		t.Fatalf("got %+v, want %q with id %q", e, kind, id)
	}
	var data map[string]any
	if e.data != "" {
		if err := json.Unmarshal([]byte(e.data), &data); err != nil {
			t.Fatalf("data %s: %v", e.data, err)
		}
	}
	return data
}

// serve puts a face on a real server.
func (f *face) serve(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(f.handler)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return server.URL + "/pulp/api/v3/"
}

func TestWatchedTasksAreServerSentEvents(t *testing.T) {
	s := newScript()
	f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
	f.list = func(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		if !r.GetIncludeReports() || !r.GetIncludeChildren() || r.GetFilter().GetCondition().GetValues()[0] != taskID {
			return nil, fmt.Errorf("asked for %v", r)
		}
		return &statusv1.ListTasksResponse{
			Tasks:    []*taskv1.Task{runningTask()},
			Reports:  map[string]*statusv1.TaskReport{taskID: {Progress: []*taskv1.Progress{{Code: "p", Done: 3}}}},
			Children: map[string]*statusv1.TaskIds{taskID: {Ids: []string{childID}}},
		}, nil
	}
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
	stream := openEvents(t, f.serve(t)+"tasks/watch/?name=n&state__in=running,completed", "Last-Event-ID", "i.0")
	request := <-s.requests
	if request.GetResume() != "i.0" || request.GetIncludeCurrent() || len(request.GetFilter().GetAll().GetFilters()) != 2 {
		t.Errorf("asked for %v", request)
	}
	for name, value := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := stream.Header.Get(name); got != value || stream.StatusCode != http.StatusOK {
			t.Errorf("%d, %s: %s", stream.StatusCode, name, got)
		}
	}
	stream.sees(t, "", "i.1") // who comes back from here on need not begin anew
	s.tell <- taskIs(taskv1.State_STATE_RUNNING, "i.2")
	got := stream.sees(t, "task", "i.2")
	children, progress := got["child_tasks"].([]any), got["progress_reports"].([]any)
	if got["state"] != "running" || got["pulp_href"] != "/pulp/api/v3/tasks/"+taskID+"/" || len(children) != 1 || len(progress) != 1 {
		t.Errorf("got %v", got)
	}
	s.tell <- &statusv1.WatchTasksResponse{Resume: "j.1", Reset_: true}
	stream.sees(t, "reset", "j.1")
	s.tell <- taskIs(taskv1.State_STATE_COMPLETED, "j.2")
	if got := stream.sees(t, "task", "j.2"); got["state"] != "completed" || got["result"] != 7.0 {
		t.Errorf("got %v", got)
	}
	// The client goes, and with it the watch.
	stream.cancel()
	<-s.ended
}

func TestAWatchShowsTheFieldsThatAreAskedFor(t *testing.T) {
	for query, want := range map[string]string{
		"fields=name,state":                         `{"state":"running","name":"test.echo"}`,
		"fields=name&fields=state":                  `{"state":"running","name":"test.echo"}`,
		"fields=name,state&exclude_fields=state":    `{"name":"test.echo"}`,
		"minimal=true&fields=name,progress_reports": `{"name":"test.echo"}`,
	} {
		s := newScript()
		f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
		f.list = func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
			return nil, errors.New("nothing else is to be read for that")
		}
		s.tell <- taskIs(taskv1.State_STATE_RUNNING, "")
		stream := openEvents(t, f.serve(t)+"tasks/watch/?include_current=true&"+query)
		if !(<-s.requests).GetIncludeCurrent() {
			t.Error("what is there was not asked for")
		}
		if e, err := stream.next(); err != nil || e.data != want || e.id != "" {
			t.Errorf("%s: %+v, %v", query, e, err)
		}
		stream.cancel()
		<-s.ended
	}
}

func TestWatchRefusesBeforeTheStreamBegins(t *testing.T) {
	full := errs.Oversize(errs.Overloaded, "there are 1000 watches already")
	full.RetryAfter = 5 * time.Second
	n := &native{hooks: hooks{watchTasks: func(r *statusv1.WatchTasksRequest, _ grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
		return full
	}}}
	f := newFace(t, n, gateway.Config{})
	handler := f.handler
	for target, expected := range map[string]struct {
		status int
		body   string
	}{
		"tasks/watch/?stat=x":               {http.StatusBadRequest, `{"errors":["Invalid Filter: 'stat'"]}`},
		"tasks/watch/?state=nope":           {http.StatusBadRequest, `{"state":["Select a valid choice. nope is not one of the available choices."]}`},
		"tasks/watch/?include_current=soon": {http.StatusBadRequest, `{"include_current":["Must be a valid boolean."]}`},
		"tasks/watch/":                      {http.StatusTooManyRequests, `{"detail":"There are 1000 watches already."}`},
		"tasks/" + taskID + "/watch/":       {http.StatusTooManyRequests, `{"detail":"There are 1000 watches already."}`},
		"tasks/nonsense/watch/":             {http.StatusNotFound, `{"detail":"No Task matches the given query."}`},
	} {
		r := httptest.NewRequest(http.MethodGet, "/pulp/api/v3/"+target, nil)
		r.Host = "localhost"
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		want(t, w, expected.status, expected.body)
	}
	for _, target := range []string{"tasks/watch/", "tasks/" + taskID + "/watch/", "tasks/wait/"} {
		r := httptest.NewRequest(http.MethodPost, "/pulp/api/v3/"+target, nil)
		r.Host = "localhost"
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		want(t, w, http.StatusMethodNotAllowed, `{"detail":"Method \"POST\" not allowed."}`)
	}
}

// What a client says that can be no id of ours must not travel as one, nor be taken for none.
func TestALastEventThatIsNoneOfOursIsAskedForAsUnknown(t *testing.T) {
	s := newScript()
	f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
	base := f.serve(t)
	for given, asked := range map[string]string{"": "", "a.1": "a.1", strings.Repeat("x", 256): "unknown", "a%20b%0A": "unknown", "%C3%A4": "unknown"} {
		s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
		stream := openEvents(t, base+"tasks/watch/?last_event_id="+given)
		if got := (<-s.requests).GetResume(); got != asked {
			t.Errorf("%q: asked for %q", given, got)
		}
		stream.cancel()
		<-s.ended
	}
}

func TestOneTaskIsWatchedUntilItsEnd(t *testing.T) {
	s := newScript()
	f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
	var is atomic.Pointer[statusv1.GetTaskResponse]
	is.Store(&statusv1.GetTaskResponse{Task: runningTask(), ChildIds: []string{childID}})
	read := make(chan struct{}, 100)
	f.getTask = func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		now := is.Load()
		read <- struct{}{}
		return now, nil
	}
	target := f.serve(t) + "tasks/" + taskID + "/watch/?fields=state,progress_reports,child_tasks"
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
	stream := openEvents(t, target)
	if r := <-s.requests; !r.GetIncludeReports() || r.GetFilter().GetCondition().GetValues()[0] != taskID {
		t.Errorf("asked for %v", r)
	}
	first := stream.sees(t, "task", "")
	if diff := cmp.Diff(map[string]any{
		"state": "running", "progress_reports": []any{}, "child_tasks": []any{"/pulp/api/v3/tasks/" + childID + "/"},
	}, first); diff != "" {
		t.Error(diff)
	}
	// A word without a change shows nothing.
	receive(t, "the first look", read)
	s.tell <- taskIs(taskv1.State_STATE_RUNNING, "i.2")
	receive(t, "the look for a word without a change", read)
	with := proto.CloneOf(is.Load())
	with.Report = &statusv1.TaskReport{Progress: []*taskv1.Progress{{Code: "p", State: taskv1.State_STATE_RUNNING, Done: 1}}}
	is.Store(with)
	s.tell <- taskIs(taskv1.State_STATE_RUNNING, "i.3")
	if got := stream.sees(t, "task", "i.3"); len(got["progress_reports"].([]any)) != 1 {
		t.Errorf("got %v", got)
	}
	over := proto.CloneOf(with)
	over.Task.State, over.Task.FinishedAt = taskv1.State_STATE_FAILED, at(9)
	is.Store(over)
	s.tell <- taskIs(taskv1.State_STATE_FAILED, "i.4")
	stream.sees(t, "task", "i.4")
	if got := stream.sees(t, "end", "end"); got["state"] != "failed" {
		t.Errorf("got %v", got)
	}
	if _, err := stream.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	<-s.ended
	// A browser comes back all the same, unless it is told not to.
	if again := openEvents(t, target, "Last-Event-ID", "end"); again.StatusCode != http.StatusNoContent {
		t.Errorf("it comes back: %d", again.StatusCode)
	}
	// Who comes too late sees the end.
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.5"}
	late := openEvents(t, target)
	late.sees(t, "task", "")
	late.sees(t, "end", "end")
}

func TestWatchOfATaskThatIsNotThereOrIsDeleted(t *testing.T) {
	s := newScript()
	f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
	var gone atomic.Bool
	f.getTask = func(_ context.Context, r *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		if gone.Load() || r.GetTaskId() != taskID {
			return nil, errs.NotFound(errs.TaskNotFound, "no task")
		}
		return &statusv1.GetTaskResponse{Task: runningTask()}, nil
	}
	base := f.serve(t)
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
	unknown := openEvents(t, base+"tasks/"+otherID+"/watch/")
	if body, _ := io.ReadAll(unknown.Body); unknown.StatusCode != http.StatusNotFound || string(body) != `{"detail":"No Task matches the given query."}` {
		t.Errorf("%d %s", unknown.StatusCode, body)
	}
	<-s.ended
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
	stream := openEvents(t, base+"tasks/"+taskID+"/watch/")
	stream.sees(t, "task", "")
	gone.Store(true)
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.2", Reset_: true}
	stream.sees(t, "end", "end")
}

// The status service stops: the stream ends, and the client comes back.
func TestAStreamEndsWithTheWatch(t *testing.T) {
	s := newScript()
	f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
	stream := openEvents(t, f.serve(t)+"tasks/watch/?minimal=true")
	stream.sees(t, "", "i.1")
	s.tell <- taskIs(taskv1.State_STATE_RUNNING, "i.2")
	close(s.tell)
	stream.sees(t, "task", "i.2")
	if _, err := stream.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after it: %v", err)
	}
}

func TestStreamsAndWaitsEndWhenTheGatewayStops(t *testing.T) {
	s := newScript()
	waiting := make(chan struct{})
	f, stop, addr := run(t, quiet(&native{hooks: hooks{
		watchTasks: s.watch,
		awaitTasks: func(ctx context.Context, _ *statusv1.AwaitTasksRequest) (*statusv1.AwaitTasksResponse, error) {
			close(waiting)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}}), gateway.Config{})
	base := "http://" + addr + "/pulp/api/v3/"
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
	stream := openEvents(t, base+"tasks/watch/")
	stream.sees(t, "", "i.1")
	waited := make(chan int, 1)
	go func() {
		answer, err := http.Get(base + "tasks/wait/")
		if err != nil {
			waited <- 0
			return
		}
		_ = answer.Body.Close()
		waited <- answer.StatusCode
	}()
	<-waiting
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	if _, err := stream.next(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream: %v", err)
	}
	if code := <-waited; code != http.StatusServiceUnavailable {
		t.Errorf("the wait: %d", code)
	}
	<-stopped
	if strings.Contains(f.logs.String(), "cut off") {
		t.Error("it was cut off")
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// A watcher that is cut off at random and comes back with the last id it saw, against a service that keeps the promise of WatchTasks: it
// sees the end of every task, or a reset.
func TestAClientThatComesBackSeesEveryEndOrAReset(t *testing.T) {
	const tasks = 200
	var mu sync.Mutex
	var told []*statusv1.WatchTasksResponse   // with the places "0", "1", ...; those before forgotten are not known any more
	forgotten, more := 0, make(chan struct{}) // closed when there is more
	n := &native{hooks: hooks{watchTasks: func(r *statusv1.WatchTasksRequest, stream grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
		mu.Lock()
		place := len(told)
		reset := false
		if r.GetResume() != "" {
			if _, err := fmt.Sscanf(r.GetResume(), "%d", &place); err != nil || place < forgotten {
				place, reset = len(told), true
			}
		}
		mu.Unlock()
		if err := stream.Send(&statusv1.WatchTasksResponse{Resume: fmt.Sprint(place), Reset_: reset}); err != nil {
			return err
		}
		for stream.Context().Err() == nil {
			mu.Lock()
			var m *statusv1.WatchTasksResponse
			wait := more
			if place < len(told) {
				m = told[place]
			}
			mu.Unlock()
			if m == nil {
				if place == 2*tasks {
					return errs.Away(errs.Stopping, nil, "all is told")
				}
				select {
				case <-wait:
				case <-stream.Context().Done():
				}
				continue
			}
			if err := stream.Send(m); err != nil {
				return err
			}
			place++
		}
		return nil
	}}}
	f := newFace(t, n, gateway.Config{})
	base := f.serve(t)
	go func() {
		for i := range 2 * tasks {
			m := taskIs([]taskv1.State{taskv1.State_STATE_RUNNING, taskv1.State_STATE_COMPLETED}[i%2], fmt.Sprint(i+1))
			m.Task.Id = fmt.Sprintf("019412ab-0000-7000-8000-%012d", i/2)
			mu.Lock()
			told = append(told, m)
			close(more)
			more = make(chan struct{})
			if i%97 == 96 {
				forgotten = i - 20
			}
			mu.Unlock()
		}
	}()
	ended, id := map[string]bool{}, ""
	for len(ended) < tasks {
		fresh := id == ""
		stream := openEvents(t, base+"tasks/watch/?minimal=true", "Last-Event-ID", id)
		for range rand.IntN(60) {
			e, err := stream.next()
			if err != nil {
				break
			}
			if id = e.id; e.kind == "reset" || fresh {
				// It reads the list, once it watches: all that has ended by now.
				fresh = false
				mu.Lock()
				for _, m := range told {
					if m.GetTask().GetFinishedAt() != nil {
						ended["/pulp/api/v3/tasks/"+m.GetTask().GetId()+"/"] = true
					}
				}
				mu.Unlock()
			}
			var shown struct {
				Href  string `json:"pulp_href"`
				State string `json:"state"`
			}
			if e.kind == "task" {
				if err := json.Unmarshal([]byte(e.data), &shown); err != nil {
					t.Fatal(err)
				}
				if shown.State == "completed" {
					ended[shown.Href] = true
				}
			}
		}
		stream.cancel()
	}
}

func TestWaitAnswersWhatIsLeft(t *testing.T) {
	var asked *statusv1.AwaitTasksRequest
	n := &native{hooks: hooks{awaitTasks: func(ctx context.Context, r *statusv1.AwaitTasksRequest) (*statusv1.AwaitTasksResponse, error) {
		asked = r
		deadline, has := ctx.Deadline()
		if left := time.Until(deadline); !has || left < r.GetTimeout().AsDuration() {
			return nil, fmt.Errorf("only %s for a wait of %s", left, r.GetTimeout().AsDuration())
		}
		if r.GetFilter() == nil {
			return &statusv1.AwaitTasksResponse{Done: true, Matched: 5}, nil
		}
		return &statusv1.AwaitTasksResponse{Matched: 5, Remaining: 1, Tasks: []*taskv1.Task{runningTask()}}, nil
	}}}
	f := newFace(t, n, gateway.Config{})
	w := f.do(t, http.MethodGet, "/pulp/api/v3/tasks/wait/", "")
	want(t, w, http.StatusOK, `{"done":true,"matched":5,"remaining":0,"tasks":[]}`)
	if asked.GetTimeout().AsDuration() != time.Minute {
		t.Errorf("it waited for %s", asked.GetTimeout().AsDuration())
	}
	w = f.do(t, http.MethodGet, "/pulp/api/v3/tasks/wait/?state__in=waiting,running&timeout=0.5", "")
	got := object(t, w)
	if w.Code != http.StatusOK || got["done"] != false || got["remaining"] != 1.0 || got["tasks"].([]any)[0].(map[string]any)["state"] != "running" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if asked.GetTimeout().AsDuration() != 500*time.Millisecond || len(asked.GetFilter().GetCondition().GetValues()) != 2 {
		t.Errorf("asked for %v", asked)
	}
	// Filters that exclude each other select nothing, rather than all.
	f.do(t, http.MethodGet, "/pulp/api/v3/tasks/wait/?state=running&state__in=waiting", "")
	if asked.GetFilter().GetAny() == nil {
		t.Errorf("asked for %v", asked)
	}
	for _, timeout := range []string{"-1", "301", "soon", "NaN", "Inf"} {
		w := f.do(t, http.MethodGet, "/pulp/api/v3/tasks/wait/?timeout="+timeout, "")
		want(t, w, http.StatusBadRequest, `{"timeout":["Must be a number of seconds from 0 to 300."]}`)
	}
	w = f.do(t, http.MethodGet, "/pulp/api/v3/tasks/wait/?timeout=1&nonsense=1", "")
	want(t, w, http.StatusBadRequest, `{"errors":["Invalid Filter: 'nonsense'"]}`)
}

// A client that does not read is not waited for without end: what the connection does not take waits in the status service, not here.
func TestAClientThatDoesNotReadHoldsTheWatchBack(t *testing.T) {
	var sent atomic.Int64
	gone := make(chan struct{})
	n := &native{hooks: hooks{watchTasks: func(_ *statusv1.WatchTasksRequest, stream grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
		defer close(gone)
		m := taskIs(taskv1.State_STATE_COMPLETED, "i.1")
		m.Task.ResultJson = `"` + strings.Repeat("x", 256<<10) + `"`
		for stream.Send(m) == nil {
			sent.Add(1)
		}
		return nil
	}}}
	f := newFace(t, n, gateway.Config{})
	stream := openEvents(t, f.serve(t)+"tasks/watch/?fields=result")
	var before int64
	calm := 0
	probe.Eventually(t, "nothing more is sent", func() bool {
		now := sent.Load()
		if now == before && now > 0 {
			calm++
		} else {
			calm = 0
		}
		before = now
		return calm > 50
	})
	if bytes := sent.Load() * 256 << 10; bytes > 64<<20 {
		t.Errorf("%d bytes were taken for a client that reads nothing", bytes)
	}
	stream.cancel()
	<-gone
}

func TestAQuietStreamGivesSignsOfLife(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = gateway.Quiet(r.Context(), w, time.Millisecond) // it ends with the client
	}))
	defer server.Close()
	stream := openEvents(t, server.URL)
	var got strings.Builder
	for range 8 {
		line, err := stream.reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(line)
	}
	stream.cancel()
	if diff := cmp.Diff("retry: 2000\n\nid: i.1\n\n:\n\n:\n\n", got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestEventsOverHTTP2(t *testing.T) {
	s := newScript()
	f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
	server := httptest.NewUnstartedServer(f.gateway.Handler())
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/pulp/api/v3/tasks/watch/?minimal=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	stream := &source{Response: answer, reader: bufio.NewReader(answer.Body)}
	if answer.ProtoMajor != 2 {
		t.Errorf("it speaks %s", answer.Proto)
	}
	stream.sees(t, "", "i.1")
	s.tell <- taskIs(taskv1.State_STATE_RUNNING, "i.2")
	stream.sees(t, "task", "i.2")
	cancel()
	<-s.ended
}

// HEAD tells how a stream would begin, and does not stay.
func TestHeadOfAStream(t *testing.T) {
	s := newScript()
	f := newFace(t, &native{hooks: hooks{watchTasks: s.watch}}, gateway.Config{})
	base := f.serve(t)
	for _, path := range []string{"tasks/watch/", "tasks/" + taskID + "/watch/"} {
		s.tell <- &statusv1.WatchTasksResponse{Resume: "i.1"}
		answer, err := http.Head(base + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %d %v", path, answer.StatusCode, answer.Header)
		}
		<-s.ended
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The ids that the fakes know.
const (
	taskID   = "019412ab-0000-7000-8000-000000000001"
	childID  = "019412ab-0000-7000-8000-000000000002"
	parentID = "019412ab-0000-7000-8000-000000000003"
	groupID  = "019412ab-0000-7000-8000-0000000000aa"
	workerID = "019412ab-0000-7000-8000-0000000000bb"
	otherID  = "019412ab-0000-7000-8000-0000000000ff"
)

// native plays the services behind the gateway. A hook that is set answers instead of the default.
type native struct {
	dispatcherv1.UnimplementedDispatcherServiceServer
	statusv1.UnimplementedStatusServiceServer
	heartbeatv1.UnimplementedHeartbeatServiceServer
	schedulerv1.UnimplementedSchedulerServiceServer
	hooks

	dispatch func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error)
	batch    func(context.Context, *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error)
	explain  func(context.Context, *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error)
	queues   func(context.Context, *schedulerv1.ListResourcesRequest) (*schedulerv1.ListResourcesResponse, error)
	queue    func(context.Context, *schedulerv1.GetResourceRequest) (*schedulerv1.GetResourceResponse, error)
	artifact func(context.Context, *statusv1.GetTaskArtifactRequest) (*statusv1.GetTaskArtifactResponse, error)
	named    func(context.Context, *statusv1.ListTaskArtifactsRequest) (*statusv1.ListTaskArtifactsResponse, error)
	cancel   func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error)
	remove   func(context.Context, *dispatcherv1.DeleteRequest) (*dispatcherv1.DeleteResponse, error)
	getTask  func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error)
	list     func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error)
	system   func(context.Context, *statusv1.GetSystemStatusRequest) (*statusv1.GetSystemStatusResponse, error)
	stats    func(context.Context, *statusv1.GetStatsRequest) (*statusv1.GetStatsResponse, error)
	apps     func(context.Context, *heartbeatv1.ListAppsRequest) (*heartbeatv1.ListAppsResponse, error)
	register func(context.Context, *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error)
	beat     func(grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error
	goodbye  func(context.Context, *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error)

	mu         sync.Mutex
	dispatched []*taskv1.TaskSpec
	metadata   metadata.MD // of the latest dispatch
	listed     *statusv1.ListTasksRequest
	calls      int
}

func (n *native) count() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
}

func (n *native) Dispatch(ctx context.Context, r *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	n.count()
	n.mu.Lock()
	n.dispatched = append(n.dispatched, r.GetTask())
	n.metadata, _ = metadata.FromIncomingContext(ctx)
	n.mu.Unlock()
	if n.dispatch != nil {
		return n.dispatch(ctx, r)
	}
	return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: taskID}}, nil
}

func (n *native) DispatchBatch(ctx context.Context, r *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error) {
	n.count()
	n.mu.Lock()
	n.dispatched = append(n.dispatched, r.GetTasks()...)
	n.metadata, _ = metadata.FromIncomingContext(ctx)
	n.mu.Unlock()
	if n.batch != nil {
		return n.batch(ctx, r)
	}
	response := &dispatcherv1.DispatchBatchResponse{}
	for i := range r.GetTasks() {
		response.Tasks = append(response.Tasks, &taskv1.Task{Id: fmt.Sprintf("019412ab-0000-7000-8000-%012d", i)})
	}
	return response, nil
}

func (n *native) Explain(ctx context.Context, r *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
	n.count()
	if n.explain != nil {
		return n.explain(ctx, r)
	}
	return &schedulerv1.ExplainResponse{Live: true, Summary: "It runs on executor-1.", Unblocked: true}, nil
}

func (n *native) ListResources(ctx context.Context, r *schedulerv1.ListResourcesRequest) (*schedulerv1.ListResourcesResponse, error) {
	n.count()
	if n.queues != nil {
		return n.queues(ctx, r)
	}
	return &schedulerv1.ListResourcesResponse{}, nil
}

func (n *native) GetResource(ctx context.Context, r *schedulerv1.GetResourceRequest) (*schedulerv1.GetResourceResponse, error) {
	n.count()
	if n.queue != nil {
		return n.queue(ctx, r)
	}
	return nil, errs.NotFound(errs.ResourceUnknown, "nobody holds or waits for resource %q", r.GetName())
}

func (n *native) ListTaskArtifacts(ctx context.Context, r *statusv1.ListTaskArtifactsRequest) (*statusv1.ListTaskArtifactsResponse, error) {
	n.count()
	if n.named != nil {
		return n.named(ctx, r)
	}
	return &statusv1.ListTaskArtifactsResponse{}, nil
}

func (n *native) GetTaskArtifact(ctx context.Context, r *statusv1.GetTaskArtifactRequest) (*statusv1.GetTaskArtifactResponse, error) {
	n.count()
	if n.artifact != nil {
		return n.artifact(ctx, r)
	}
	return nil, errs.NotFound(errs.ArtifactNotFound, "no such diagnostic")
}

func (n *native) Cancel(ctx context.Context, r *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
	n.count()
	if n.cancel != nil {
		return n.cancel(ctx, r)
	}
	return &dispatcherv1.CancelResponse{Task: runningTask()}, nil
}

func (n *native) Delete(ctx context.Context, r *dispatcherv1.DeleteRequest) (*dispatcherv1.DeleteResponse, error) {
	n.count()
	if n.remove != nil {
		return n.remove(ctx, r)
	}
	return &dispatcherv1.DeleteResponse{}, nil
}

func (n *native) GetTask(ctx context.Context, r *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
	n.count()
	if n.getTask != nil {
		return n.getTask(ctx, r)
	}
	if r.GetTaskId() != taskID {
		return nil, errs.NotFound(errs.TaskNotFound, "no task %s", r.GetTaskId())
	}
	return &statusv1.GetTaskResponse{Task: runningTask(), ChildIds: []string{childID}}, nil
}

func (n *native) ListTasks(ctx context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
	n.count()
	n.mu.Lock()
	n.listed = r
	n.mu.Unlock()
	if n.list != nil {
		return n.list(ctx, r)
	}
	return &statusv1.ListTasksResponse{Tasks: []*taskv1.Task{runningTask()}, Total: 1}, nil
}

func (n *native) GetTaskGroup(ctx context.Context, r *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error) {
	n.count()
	if n.getGroup != nil {
		return n.getGroup(ctx, r)
	}
	if r.GetGroupId() != groupID {
		return nil, errs.NotFound(errs.GroupNotFound, "no group %s", r.GetGroupId())
	}
	return &statusv1.GetTaskGroupResponse{Id: groupID, Description: "a group", Counts: []*statusv1.StateCount{
		{State: taskv1.State_STATE_RUNNING, Count: 1}, {State: taskv1.State_STATE_FAILED, Count: 7},
	}}, nil
}

func (n *native) GetSystemStatus(ctx context.Context, r *statusv1.GetSystemStatusRequest) (*statusv1.GetSystemStatusResponse, error) {
	n.count()
	if n.system != nil {
		return n.system(ctx, r)
	}
	return &statusv1.GetSystemStatusResponse{DatabaseConnected: true}, nil
}

func (n *native) ListApps(ctx context.Context, r *heartbeatv1.ListAppsRequest) (*heartbeatv1.ListAppsResponse, error) {
	n.count()
	if n.apps != nil {
		return n.apps(ctx, r)
	}
	all := []*heartbeatv1.App{
		{Incarnation: otherID, Name: "api", Kind: heartbeatv1.Kind_KIND_API, Online: true, LastBeatAt: at(1)},
		{
			Incarnation: workerID, Name: "executor-1", Kind: heartbeatv1.Kind_KIND_WORKER, Online: true,
			Versions: map[string]string{"sluice": "0.1.0", "core": "3.117.0"}, RegisteredAt: at(0), LastBeatAt: at(5),
			RunningTaskIds: []string{taskID},
		},
		{Incarnation: parentID, Name: "executor-0", Kind: heartbeatv1.Kind_KIND_WORKER, Missing: true, RegisteredAt: at(0), LastBeatAt: at(2)},
	}
	response := &heartbeatv1.ListAppsResponse{}
	for _, app := range all {
		if (r.GetKind() == heartbeatv1.Kind_KIND_UNSPECIFIED || r.GetKind() == app.GetKind()) && (app.GetOnline() || r.GetIncludeGone()) {
			response.Apps = append(response.Apps, app)
		}
	}
	return response, nil
}

func (n *native) Register(ctx context.Context, r *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
	return n.register(ctx, r)
}

func (n *native) Beat(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
	return n.beat(s)
}

func (n *native) Deregister(ctx context.Context, r *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
	return n.goodbye(ctx, r)
}

// at is a time with digits below the microsecond, which must not be shown.
func at(second int) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 11, 22, 10, 15, second, 120000789, time.UTC))
}

func runningTask() *taskv1.Task {
	return &taskv1.Task{
		Id: taskID, Seq: 7, Name: "test.echo", State: taskv1.State_STATE_RUNNING, Domain: "default",
		ExclusiveResources: []string{"a"}, SharedResources: []string{"b", "prn:core.domain:1"},
		Deferred: true, ParentId: parentID, GroupId: groupID, CorrelationId: "cid",
		CreatedAt: at(0), UpdatedAt: at(3), UnblockedAt: at(1), StartedAt: at(2), Executor: "executor-1", Incarnation: workerID, Attempt: 1, Claim: 1,
	}
}

// face is a gateway before fakes.
type face struct {
	*native
	gateway *gateway.Gateway
	handler http.Handler
	server  *rpc.Server // of the fakes
	logs    *logs
}

// logs collects log lines.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newFace(t testing.TB, n *native, config gateway.Config) *face {
	t.Helper()
	pipe := bufconn.Listen(1 << 20)
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	dispatcherv1.RegisterDispatcherServiceServer(server, n)
	statusv1.RegisterStatusServiceServer(server, n)
	heartbeatv1.RegisterHeartbeatServiceServer(server, n)
	schedulerv1.RegisterSchedulerServiceServer(server, n)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(pipe) }()
	conn, err := rpc.Dial("passthrough:///native", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return pipe.DialContext(ctx)
	}))
	if err != nil {
		t.Fatal(err)
	}
	lines := &logs{}
	log := slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if config.Version == "" {
		config.Version = "0.1.0"
	}
	g, err := gateway.New(config, gateway.Services{Dispatcher: conn, Status: conn, Heartbeat: conn, Scheduler: conn}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Close()
		_ = conn.Close()
		server.Server.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve the fakes: %v", err)
		}
	})
	return &face{native: n, gateway: g, handler: judged(t, g), server: server, logs: lines}
}

// do sends a request. pairs are headers; a body without a content type is JSON.
func (f *face) do(t testing.TB, method, target, body string, pairs ...string) *httptest.ResponseRecorder {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := judgedFor(t, httptest.NewRequest(method, target, reader))
	r.Host = "localhost:24817"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Set(pairs[i], pairs[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}

// want checks status and body of an answer. The body is compared byte for byte.
func want(t testing.TB, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d; body %s", w.Code, status, w.Body)
	}
	if got := w.Body.String(); got != body {
		t.Errorf("body\n got %s\nwant %s", got, body)
	}
	if body != "" && w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("content type %q", w.Header().Get("Content-Type"))
	}
}

// object reads the body of an answer.
func object(t testing.TB, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
		t.Fatalf("body %s: %v", w.Body, err)
	}
	return o
}

package rpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

const someID = "01234567-89ab-7def-8123-456789abcdef"

// near is a service behind the house's server: each test says how it answers.
type near struct {
	dispatcherv1.UnimplementedDispatcherServiceServer
	far

	dispatch func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error)
	cancel   func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error)
}

func (n *near) Dispatch(ctx context.Context, r *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	return n.dispatch(ctx, r)
}

func (n *near) Cancel(ctx context.Context, r *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
	return n.cancel(ctx, r)
}

// logLines are the events of a JSON log that may still be written to.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// find returns the events with a message.
func (l *logLines) find(t *testing.T, message string) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("a log line is no JSON: %s", line)
		}
		if event["msg"] == message {
			found = append(found, event)
		}
	}
	return found
}

// house starts a server with the house's interceptors and returns its log.
func house(t *testing.T, n *near) (server *rpc.Server, addr string, log *logLines) {
	t.Helper()
	log = &logLines{}
	server = rpc.NewServer(slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	dispatcherv1.RegisterDispatcherServiceServer(server, n)
	statusv1.RegisterStatusServiceServer(server, n)
	heartbeatv1.RegisterHeartbeatServiceServer(server, n)
	return server, serve(t, server.Server), log
}

// plain dials without anything of the house.
func plain(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

var maskedText = regexp.MustCompile(`^internal error \(ref ([0-9a-f]{8})\)$`)

// checkMasked makes sure that the client learned nothing but a reference, and that the log has the rest under it.
func checkMasked(t *testing.T, log *logLines, err error, method string, inLog ...string) {
	t.Helper()
	st := status.Convert(err)
	ref := maskedText.FindStringSubmatch(st.Message())
	if st.Code() != codes.Internal || ref == nil {
		t.Fatalf("the client sees %v", err)
	}
	events := log.find(t, "internal error")
	if len(events) != 1 || events[0]["ref"] != ref[1] || events[0]["level"] != "ERROR" || events[0]["method"] != method {
		t.Fatalf("the log has %v, want one event of %s with ref %s", events, method, ref[1])
	}
	for _, part := range inLog {
		if !strings.Contains(fmt.Sprint(events[0]["error"]), part) {
			t.Errorf("%q is not in the log: %v", part, events[0]["error"])
		}
	}
	// The outermost interceptor saw the final code and the masked text, and called it a fault.
	calls := log.find(t, "rpc")
	if len(calls) != 1 || calls[0]["code"] != "Internal" || calls[0]["level"] != "WARN" || calls[0]["error"] != st.Message() {
		t.Errorf("the call's line is %v", calls)
	}
}

func TestPanicOfUnaryHandlerIsMaskedAndLoggedWithItsStack(t *testing.T) {
	_, addr, log := house(t, &near{cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		var missing map[string]int
		missing["salaries"] = 1
		return &dispatcherv1.CancelResponse{}, nil
	}})
	client := dispatcherv1.NewDispatcherServiceClient(plain(t, addr))
	_, err := client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID})
	checkMasked(t, log, err, "/sluice.dispatcher.v1.DispatcherService/Cancel", "panic: assignment to entry in nil map", "server_test.go")
}

func TestPanicOfStreamHandlerIsMaskedAndLoggedWithItsStack(t *testing.T) {
	_, addr, log := house(t, &near{far: far{beat: func(grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		panic("salaries")
	}}})
	stream, err := heartbeatv1.NewHeartbeatServiceClient(plain(t, addr)).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	checkMasked(t, log, err, "/sluice.heartbeat.v1.HeartbeatService/Beat", "panic: salaries", "server_test.go")
}

func TestServerGoesOnAfterAPanic(t *testing.T) {
	var calls atomic.Int32
	_, addr, _ := house(t, &near{cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		if calls.Add(1) == 1 {
			panic("once")
		}
		return &dispatcherv1.CancelResponse{}, nil
	}})
	client := dispatcherv1.NewDispatcherServiceClient(plain(t, addr))
	if _, err := client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID}); status.Code(err) != codes.Internal {
		t.Errorf("the first call: %v", err)
	}
	if _, err := client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID}); err != nil {
		t.Errorf("the second call: %v", err)
	}
}

func TestInvalidUnaryRequestDoesNotReachTheHandler(t *testing.T) {
	var reached atomic.Bool
	_, addr, log := house(t, &near{dispatch: func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		reached.Store(true)
		return &dispatcherv1.DispatchResponse{}, nil
	}})
	_, err := dispatcherv1.NewDispatcherServiceClient(dial(t, addr)).Dispatch(t.Context(), &dispatcherv1.DispatchRequest{
		Task: &taskv1.TaskSpec{Name: " ", ArgsJson: "{"},
	})
	var e *errs.Error
	if !errors.As(err, &e) || e.Code != codes.InvalidArgument || len(e.Violations) != 2 || e.Violations[0].Field != "task.name" {
		t.Errorf("the client sees %v", err)
	}
	if reached.Load() {
		t.Error("the handler was called")
	}
	// The caller's mistake is no fault of ours: one line, for debugging.
	if calls := log.find(t, "rpc"); len(calls) != 1 || calls[0]["code"] != "InvalidArgument" || calls[0]["level"] != "DEBUG" {
		t.Errorf("the call's line is %v", calls)
	}
}

func TestInvalidMessageOfAStreamDoesNotReachTheHandler(t *testing.T) {
	passed := make(chan string, 10)
	_, addr, _ := house(t, &near{far: far{beat: func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		for {
			r, err := s.Recv()
			if err != nil {
				close(passed)
				return err
			}
			passed <- r.GetIncarnation()
		}
	}}})
	stream, err := heartbeatv1.NewHeartbeatServiceClient(dial(t, addr)).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, incarnation := range []string{someID, "not a uuid", someID} {
		if err := stream.Send(&heartbeatv1.BeatRequest{Incarnation: incarnation}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	_, err = stream.Recv()
	if !errs.Is(err, errs.InvalidInput) {
		t.Errorf("the client sees %v", err)
	}
	var got []string
	for incarnation := range passed {
		got = append(got, incarnation)
	}
	if len(got) != 1 || got[0] != someID {
		t.Errorf("the handler got %q, want the one before the invalid one", got)
	}
}

func TestCallWithoutDeadlineGetsTheDefaultOne(t *testing.T) {
	left := make(chan time.Duration, 1)
	n := &near{
		cancel: func(ctx context.Context, _ *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
			deadline, has := ctx.Deadline()
			if !has {
				deadline = time.Now().Add(100 * time.Hour)
			}
			left <- time.Until(deadline)
			return &dispatcherv1.CancelResponse{}, nil
		},
		far: far{beat: func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
			if _, has := s.Context().Deadline(); has {
				t.Error("a stream got a deadline: it may live for days")
			}
			return nil
		}},
	}
	_, addr, _ := house(t, n)
	call := func(ctx context.Context, conn *grpc.ClientConn) time.Duration {
		if _, err := dispatcherv1.NewDispatcherServiceClient(conn).Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: someID}); err != nil {
			t.Fatal(err)
		}
		return <-left
	}
	for name, conn := range map[string]*grpc.ClientConn{"plain client": plain(t, addr), "our client": dial(t, addr)} {
		if got := call(t.Context(), conn); got > rpc.DefaultDeadline || got < rpc.DefaultDeadline/2 {
			t.Errorf("%s without a deadline: the handler has %s", name, got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		if got := call(ctx, conn); got < time.Hour/2 {
			t.Errorf("%s with a deadline of its own: the handler has %s", name, got)
		}
		cancel()
		stream, err := heartbeatv1.NewHeartbeatServiceClient(conn).Beat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
}

func TestOrdinaryOutcomesAreNotLoggedAsFaults(t *testing.T) {
	_, addr, log := house(t, &near{cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		return nil, errs.NotFound(errs.TaskNotFound, "no task")
	}})
	_, err := dispatcherv1.NewDispatcherServiceClient(dial(t, addr)).Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID})
	if !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("got %v", err)
	}
	if calls := log.find(t, "rpc"); len(calls) != 1 || calls[0]["level"] != "DEBUG" || calls[0]["peer"] == nil {
		t.Errorf("the call's line is %v", calls)
	}
	if got := log.find(t, "internal error"); len(got) != 0 {
		t.Errorf("logged as internal: %v", got)
	}
}

func TestListenRefusesWhatOthersCanReach(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.7:4711", "example.com:4711", "127.0.0.1.example.com:0", "[fe80::1]:0"} {
		listener, err := rpc.Listen(t.Context(), addr)
		if err == nil {
			_ = listener.Close()
			t.Errorf("%s: it listens", addr)
			continue
		}
		for _, part := range []string{addr, "no credentials are asked for", "127.0.0.1"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", addr, err, part)
			}
		}
	}
	for _, addr := range []string{"", "127.0.0.1", "localhost", "::1", "a:b:c"} {
		if _, err := rpc.Listen(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "host:port") {
			t.Errorf("%q: %v does not say what is wrong", addr, err)
		}
	}
}

func TestListenTakesLoopbackAndSaysWhenItIsTaken(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "127.8.9.10:0"} {
		listener, err := rpc.Listen(t.Context(), addr)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if ip := listener.Addr().(*net.TCPAddr).IP; !ip.IsLoopback() {
			t.Errorf("%s became %s", addr, ip)
		}
		taken := listener.Addr().String()
		if _, err := rpc.Listen(t.Context(), taken); err == nil || !strings.Contains(err.Error(), "listen on "+taken) {
			t.Errorf("a second one on %s: %v", taken, err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestListenMakesASocketForThisUserOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := rpc.Listen(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := modeOf(t, path); mode != fs.ModeSocket|0o600 {
		t.Errorf("it is %v", mode)
	}
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	server.SetServing(true)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("call over it: %v", err)
	}
	// Somebody listens: his socket is left alone.
	if second, err := rpc.Listen(t.Context(), "unix:"+path); err == nil {
		_ = second.Close()
		t.Error("a second one listens on it")
	} else if !strings.Contains(err.Error(), path+": another process does") {
		t.Errorf("a second one: %v", err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("call over it after a second one tried: %v", err)
	}
	server.Stop(0)
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there after the end: %v", err)
	}
}

func TestListenReplacesASocketThatADeadProcessLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := rpc.Listen(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := modeOf(t, path); mode != fs.ModeSocket|0o600 {
		t.Errorf("it is %v", mode)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenLeavesAloneWhatIsNoSocket(t *testing.T) {
	dir := t.TempDir()
	file, folder, link := filepath.Join(dir, "file"), filepath.Join(dir, "folder"), filepath.Join(dir, "link")
	for _, err := range []error{os.WriteFile(file, []byte("mine"), 0o644), os.Mkdir(folder, 0o755), os.Symlink(file, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{file, folder, link, filepath.Join(dir, "none", "socket")} {
		if listener, err := rpc.Listen(t.Context(), "unix:"+path); err == nil {
			_ = listener.Close()
			t.Errorf("%q: it listens", path)
		} else if !strings.Contains(err.Error(), "listen on "+path) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if text, err := os.ReadFile(link); err != nil || string(text) != "mine" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if mode := modeOf(t, file); mode != 0o644 {
		t.Errorf("the file is %v", mode)
	}
}

func TestStopLetsCallsEndAndTakesNoNewOnes(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	server, addr, _ := house(t, &near{cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		close(reached)
		<-release
		return &dispatcherv1.CancelResponse{}, nil
	}})
	answered := make(chan error, 1)
	go func() {
		_, err := dispatcherv1.NewDispatcherServiceClient(plain(t, addr)).Cancel(context.Background(), &dispatcherv1.CancelRequest{TaskId: someID})
		answered <- err
	}()
	within(t, "the call arrives", reached)
	stopped := make(chan struct{})
	go func() { server.Stop(time.Hour); close(stopped) }()
	// New calls are refused from some moment on; until then they are served.
	late := dispatcherv1.NewDispatcherServiceClient(plain(t, addr))
	for {
		_, err := late.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: someID})
		if status.Code(err) == codes.Unavailable {
			break
		}
		if status.Code(err) != codes.Unimplemented { // what this service answers
			t.Fatalf("a late call: %v", err)
		}
	}
	select {
	case <-stopped:
		t.Error("Stop did not wait for the call")
	default:
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	within(t, "Stop returns", stopped)
}

func TestStopCutsAStreamThatNeverEnds(t *testing.T) {
	f, open, ended := blocked()
	server, addr, _ := house(t, &near{far: *f})
	stream, err := heartbeatv1.NewHeartbeatServiceClient(dial(t, addr)).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the call arrives", open)
	stopped := make(chan struct{})
	go func() { server.Stop(20 * time.Millisecond); close(stopped) }()
	within(t, "the stream's context ends", ended)
	within(t, "Stop returns", stopped)
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the client sees %v", err)
	}
}

func TestServerTakesMessagesUpToTheLimitOnly(t *testing.T) {
	_, addr, _ := house(t, &near{dispatch: func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		return &dispatcherv1.DispatchResponse{}, nil
	}})
	client := dispatcherv1.NewDispatcherServiceClient(dial(t, addr))
	// As large as the limits of the fields let a task be: that must fit.
	resources := make([]string, limits.MaxResources)
	for i := range resources {
		resources[i] = fmt.Sprintf("%0*d", limits.MaxResourceName, i)
	}
	blob := `"` + strings.Repeat("x", limits.MaxJSON-20) + `"`
	if _, err := client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{
		Name: "n", ArgsJson: "[" + blob + "]", KwargsJson: `{"a":` + blob + "}", ExclusiveResources: resources,
	}}); err != nil {
		t.Errorf("the largest task: %v", err)
	}
	_, err := client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{
		Name: "n", ArgsJson: strings.Repeat("x", limits.MaxMessage+1),
	}})
	if status.Code(errs.From(err)) != codes.ResourceExhausted {
		t.Errorf("a message beyond the limit: %v", err)
	}
}

func TestHealthFollowsSetServing(t *testing.T) {
	server, addr, _ := house(t, &near{})
	health := healthpb.NewHealthClient(plain(t, addr))
	check := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		got, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || got.GetStatus() != want {
			t.Errorf("health is %v, %v; want %s", got, err, want)
		}
	}
	check(healthpb.HealthCheckResponse_NOT_SERVING)
	server.SetServing(true)
	check(healthpb.HealthCheckResponse_SERVING)
	server.SetServing(false)
	check(healthpb.HealthCheckResponse_NOT_SERVING)
}

func TestReflectListsTheServices(t *testing.T) {
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	dispatcherv1.RegisterDispatcherServiceServer(server, &near{})
	server.Reflect()
	stream, err := reflectionpb.NewServerReflectionClient(plain(t, serve(t, server.Server))).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.GetListServicesResponse().String(); !strings.Contains(got, "sluice.dispatcher.v1.DispatcherService") {
		t.Errorf("reflection lists %s", got)
	}
}

func TestListenOpenlyTakesWhatOthersCanReach(t *testing.T) {
	listener, err := rpc.ListenOpenly(t.Context(), "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	for addr, want := range map[string]bool{
		"0.0.0.0:0": false, ":1": false, "sluice.example.com:1": false, "127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "unix:/x": true,
	} {
		if local, err := rpc.IsLocal(addr); err != nil || local != want {
			t.Errorf("%s: %v, %v", addr, local, err)
		}
	}
}

package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// far is the server behind the front: each test says how it answers.
type far struct {
	statusv1.UnimplementedStatusServiceServer
	heartbeatv1.UnimplementedHeartbeatServiceServer

	getTask func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error)
	watch   func(*statusv1.WatchTaskRequest, grpc.ServerStreamingServer[statusv1.WatchTaskResponse]) error
	beat    func(grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error
	putLog  func(context.Context, *statusv1.PutTaskLogRequest) (*statusv1.PutTaskLogResponse, error)
}

func (f *far) GetTask(ctx context.Context, r *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
	return f.getTask(ctx, r)
}

func (f *far) PutTaskLog(ctx context.Context, r *statusv1.PutTaskLogRequest) (*statusv1.PutTaskLogResponse, error) {
	return f.putLog(ctx, r)
}

func (f *far) WatchTask(r *statusv1.WatchTaskRequest, s grpc.ServerStreamingServer[statusv1.WatchTaskResponse]) error {
	return f.watch(r, s)
}

func (f *far) Beat(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
	return f.beat(s)
}

// setup starts the far server and a front before it, and returns them with a plain connection to the front.
func setup(t *testing.T, f *far) (farServer *grpc.Server, front *rpc.Front, conn *grpc.ClientConn) {
	t.Helper()
	farServer = grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	statusv1.RegisterStatusServiceServer(farServer, f)
	heartbeatv1.RegisterHeartbeatServiceServer(farServer, f)
	farAddr := serve(t, farServer)
	t.Cleanup(farServer.Stop)

	behind, err := rpc.DialRaw(farAddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = behind.Close() })
	front = rpc.NewFront(slog.New(slog.DiscardHandler), map[string]grpc.ClientConnInterface{
		statusv1.StatusService_ServiceDesc.ServiceName:       behind,
		heartbeatv1.HeartbeatService_ServiceDesc.ServiceName: behind,
	})
	frontAddr := serve(t, front.Server.Server)
	t.Cleanup(func() { front.Stop(0) })

	conn, err = rpc.DialRaw(frontAddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return farServer, front, conn
}

func serve(t *testing.T, server *grpc.Server) (addr string) {
	t.Helper()
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String()
}

// within fails the test when something that must happen does not. The time only bounds a broken run.
func within(t *testing.T, what string, happened <-chan struct{}) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: it never happened", what)
	}
}

func TestFrontForwardsUnaryCallWithMetadataAndDeadline(t *testing.T) {
	f := &far{getTask: func(ctx context.Context, r *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if got := md.Get("traceparent"); !cmp.Equal(got, []string{"one", "two"}) {
			t.Errorf("traceparent = %v", got)
		}
		if got := md.Get("raw-bin"); !cmp.Equal(got, []string{"\x00\xff"}) {
			t.Errorf("raw-bin = %q", got)
		}
		if deadline, has := ctx.Deadline(); !has || time.Until(deadline) > time.Minute {
			t.Errorf("deadline = %v, %v", deadline, has)
		}
		return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: r.GetTaskId()}}, errors.Join(
			grpc.SetHeader(ctx, metadata.Pairs("head", "h")), grpc.SetTrailer(ctx, metadata.Pairs("tail", "t", "tail", "u")))
	}}
	_, _, conn := setup(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", "one", "traceparent", "two", "raw-bin", "\x00\xff")
	var header, trailer metadata.MD
	got, err := statusv1.NewStatusServiceClient(conn).GetTask(ctx, &statusv1.GetTaskRequest{TaskId: "x"}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&statusv1.GetTaskResponse{Task: &taskv1.Task{Id: "x"}}, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if !cmp.Equal(header.Get("head"), []string{"h"}) || !cmp.Equal(trailer.Get("tail"), []string{"t", "u"}) {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
}

func TestFrontKeepsStatusWithAllDetails(t *testing.T) {
	want, err := status.New(codes.Unknown, "kept — as it is").WithDetails(
		durationpb.New(time.Hour), // pkg/errs knows nothing of it
		&errdetails.ErrorInfo{Reason: "WHY", Domain: "elsewhere", Metadata: map[string]string{"a": "b"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	f := &far{
		getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
			return nil, want.Err()
		},
		watch: func(_ *statusv1.WatchTaskRequest, s grpc.ServerStreamingServer[statusv1.WatchTaskResponse]) error {
			return errors.Join(s.Send(&statusv1.WatchTaskResponse{}), want.Err())
		},
	}
	_, _, conn := setup(t, f)
	client := statusv1.NewStatusServiceClient(conn)

	_, err = client.GetTask(t.Context(), &statusv1.GetTaskRequest{})
	if diff := cmp.Diff(want.Proto(), status.Convert(err).Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("unary: %s", diff)
	}
	stream, err := client.WatchTask(t.Context(), &statusv1.WatchTaskRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatalf("the message before the error: %v", err)
	}
	_, err = stream.Recv()
	if got := status.Convert(err); got.Code() != want.Code() || len(got.Details()) != 2 {
		t.Errorf("stream: got %v with %d details", got, len(got.Details()))
	}
}

// echo answers each beat, and, after the caller closed its half, with one more.
func echo(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
	for {
		_, err := s.Recv()
		if errors.Is(err, io.EOF) {
			s.SetTrailer(metadata.Pairs("closed", "by caller"))
			return s.Send(&heartbeatv1.BeatResponse{})
		}
		if err != nil {
			return err
		}
		if err := s.Send(&heartbeatv1.BeatResponse{}); err != nil {
			return err
		}
	}
}

func TestFrontForwardsManyBidiStreamsWithHalfClose(t *testing.T) {
	_, _, conn := setup(t, &far{beat: echo})
	client := heartbeatv1.NewHeartbeatServiceClient(conn)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			stream, err := client.Beat(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 100 {
				if err := stream.Send(&heartbeatv1.BeatRequest{Incarnation: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
				if _, err := stream.Recv(); err != nil {
					t.Error(err)
					return
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Error(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Errorf("the answer after the half-close: %v", err)
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the end: %v", err)
			}
			if got := stream.Trailer().Get("closed"); !cmp.Equal(got, []string{"by caller"}) {
				t.Errorf("trailer %v", got)
			}
		})
	}
	all.Wait()
}

func TestFrontPassesHeaderOnBeforeAnyMessage(t *testing.T) {
	release := make(chan struct{})
	_, _, conn := setup(t, &far{beat: func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		err := s.SendHeader(metadata.Pairs("ready", "yes"))
		<-release
		return err
	}})
	stream, err := heartbeatv1.NewHeartbeatServiceClient(conn).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	header, err := stream.Header() // blocks for ever if the front waits for a message
	if err != nil || !cmp.Equal(header.Get("ready"), []string{"yes"}) {
		t.Errorf("header %v, %v", header, err)
	}
	close(release)
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

// blocked is a far server whose stream is open until its context ends.
func blocked() (f *far, open, ended chan struct{}) {
	open, ended = make(chan struct{}), make(chan struct{})
	return &far{beat: func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		close(open)
		<-s.Context().Done()
		close(ended)
		return s.Context().Err()
	}}, open, ended
}

func TestFrontPassesCancelOfTheCallerOn(t *testing.T) {
	f, open, ended := blocked()
	_, _, conn := setup(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := heartbeatv1.NewHeartbeatServiceClient(conn).Beat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the call arrives", open)
	cancel()
	within(t, "the far side is told", ended)
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the caller sees %v", err)
	}
}

func TestFrontPassesDeathOfTheCallerOn(t *testing.T) {
	f, open, ended := blocked()
	_, _, conn := setup(t, f)
	if _, err := heartbeatv1.NewHeartbeatServiceClient(conn).Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, "the call arrives", open)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "the far side is told", ended)
}

func TestFrontPassesDeathOfTheServerOn(t *testing.T) {
	f, open, _ := blocked()
	farServer, _, conn := setup(t, f)
	stream, err := heartbeatv1.NewHeartbeatServiceClient(conn).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the call arrives", open)
	farServer.Stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the caller of the broken stream sees %v", err)
	}
	if _, err := statusv1.NewStatusServiceClient(conn).GetTask(t.Context(), &statusv1.GetTaskRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("the next caller sees %v", err)
	}
}

func TestFrontThatStopsEndsStreamsOnBothSides(t *testing.T) {
	f, open, ended := blocked()
	_, front, conn := setup(t, f)
	stream, err := heartbeatv1.NewHeartbeatServiceClient(conn).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the call arrives", open)
	front.Stop(0)
	within(t, "the far side is told", ended)
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the caller sees %v", err)
	}
}

func TestFrontEndsCallThatTheServerRefusesEarly(t *testing.T) {
	_, _, conn := setup(t, &far{beat: func(grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		return status.Error(codes.FailedPrecondition, "no")
	}})
	stream, err := heartbeatv1.NewHeartbeatServiceClient(conn).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for { // the caller goes on sending until it hears of the end
		if err := stream.Send(&heartbeatv1.BeatRequest{}); err != nil {
			break
		}
	}
	if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the caller sees %v", err)
	}
}

func TestFrontForwardsLargeMessagesAndRefusesTooLargeOnes(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 7<<16) // 7 MiB
	_, _, conn := setup(t, &far{putLog: func(_ context.Context, r *statusv1.PutTaskLogRequest) (*statusv1.PutTaskLogResponse, error) {
		if r.GetText() != text {
			t.Errorf("the far side got %d bytes, or others", len(r.GetText()))
		}
		return &statusv1.PutTaskLogResponse{}, nil
	}})
	client := statusv1.NewStatusServiceClient(conn)
	if _, err := client.PutTaskLog(t.Context(), &statusv1.PutTaskLogRequest{Text: text}); err != nil {
		t.Error(err)
	}
	if _, err := client.PutTaskLog(t.Context(), &statusv1.PutTaskLogRequest{Text: text + text}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("14 MiB: %v", err)
	}
}

func TestFrontKnowsOnlyWhatItForwards(t *testing.T) {
	_, _, conn := setup(t, &far{})
	for _, method := range []string{"/sluice.nowhere.v1.NoService/Call", "/sluice.status.v1.StatusService/NoMethod", "/odd"} {
		err := conn.Invoke(t.Context(), method, &statusv1.GetTaskRequest{}, &statusv1.GetTaskResponse{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestFrontAnswersHealthAndReflectionItself(t *testing.T) {
	_, front, conn := setup(t, &far{})
	health := healthpb.NewHealthClient(conn)
	for serving, want := range map[bool]healthpb.HealthCheckResponse_ServingStatus{
		true: healthpb.HealthCheckResponse_SERVING, false: healthpb.HealthCheckResponse_NOT_SERVING,
	} {
		front.SetServing(serving)
		got, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || got.GetStatus() != want {
			t.Errorf("serving %v: %v, %v", serving, got, err)
		}
	}

	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var names []string
	list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	for _, service := range list.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	want := []string{
		"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
		"sluice.heartbeat.v1.HeartbeatService", "sluice.status.v1.StatusService",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	file := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{
		FileContainingSymbol: "sluice.status.v1.StatusService",
	}})
	if files := file.GetFileDescriptorResponse().GetFileDescriptorProto(); len(files) == 0 || !bytes.Contains(files[0], []byte("StatusService")) {
		t.Errorf("reflection does not know the forwarded service: %v", file)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

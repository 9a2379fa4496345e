package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// Every unary method of ours, called on a server that is always unavailable: five attempts if the proto declares it
// idempotent, one if it does not.
func TestExactlyTheIdempotentMethodsAreRepeatedWhileTheServerIsUnavailable(t *testing.T) {
	var mu sync.Mutex
	attempts := map[string]int{}
	addr := serve(t, grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		mu.Lock()
		defer mu.Unlock()
		attempts[method]++
		return status.Error(codes.Unavailable, "not now")
	})))
	conn := dial(t, addr)

	want := map[string]int{}
	var calls sync.WaitGroup
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "sluice.") {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if method.IsStreamingClient() || method.IsStreamingServer() {
					continue
				}
				name := "/" + string(service.FullName()) + "/" + string(method.Name())
				want[name] = 1
				if method.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
					want[name] = 5
				}
				calls.Go(func() {
					if err := conn.Invoke(t.Context(), name, &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unavailable {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
		}
		return true
	})
	calls.Wait()
	if len(want) < 10 {
		t.Fatalf("only %d methods found: the walk is broken", len(want))
	}
	for name, n := range want {
		if attempts[name] != n {
			t.Errorf("%s was attempted %d times, want %d", name, attempts[name], n)
		}
	}
	// The one that matters: a dispatch whose answer was lost may have been stored.
	if n := want["/sluice.dispatcher.v1.DispatcherService/Dispatch"]; n != 1 {
		t.Errorf("Dispatch would be attempted %d times", n)
	}
}

// A server may answer before the client has sent its request. When that happens in the last of five attempts, grpc-go returns
// an error without a status.
func TestCallWhoseLastAttemptMetItsAnswerOnTheWayIsUnavailable(t *testing.T) {
	for _, lost := range []error{fmt.Errorf("max retries exhausted: failed after 5 attempts: %w", io.EOF), io.EOF} {
		conn, err := rpc.Dial("127.0.0.1:1", grpc.WithChainUnaryInterceptor(
			func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
				return lost
			},
		))
		if err != nil {
			t.Fatal(err)
		}
		_, err = dispatcherv1.NewDispatcherServiceClient(conn).Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%v became %v", lost, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestIdempotentCallSucceedsOnceTheServerIsBack(t *testing.T) {
	var calls atomic.Int32
	_, addr, _ := house(t, &near{cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		if calls.Add(1) < 3 {
			return nil, errs.Away(errs.DatabaseAway, nil, "the database can't be reached")
		}
		return &dispatcherv1.CancelResponse{}, nil
	}})
	if _, err := dispatcherv1.NewDispatcherServiceClient(dial(t, addr)).Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID}); err != nil {
		t.Error(err)
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}

func TestCallFailsAtOnceWhileNobodyListens(t *testing.T) {
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = dispatcherv1.NewDispatcherServiceClient(dial(t, addr)).Dispatch(t.Context(), &dispatcherv1.DispatchRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// A restart of the server is found by the connection itself.
func TestConnectionOutlivesItsServer(t *testing.T) {
	first := grpc.NewServer()
	n := &near{cancel: func(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
		return &dispatcherv1.CancelResponse{}, nil
	}}
	dispatcherv1.RegisterDispatcherServiceServer(first, n)
	addr := serve(t, first)
	client := dispatcherv1.NewDispatcherServiceClient(dial(t, addr))
	if _, err := client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID}); err != nil {
		t.Fatal(err)
	}
	first.Stop()

	listener, err := rpc.Listen(t.Context(), addr)
	if err != nil {
		t.Skipf("somebody else took the port meanwhile: %v", err)
	}
	second := grpc.NewServer()
	dispatcherv1.RegisterDispatcherServiceServer(second, n)
	served := make(chan error, 1)
	go func() { served <- second.Serve(listener) }()
	t.Cleanup(func() {
		second.Stop()
		<-served
	})
	if _, err := client.Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID}); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

func TestErrorsOfStreamsAreOursAgainOnTheClientsSide(t *testing.T) {
	_, addr, _ := house(t, &near{far: far{beat: func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		return errs.Precondition(errs.Fenced, "this incarnation is over")
	}}})
	stream, err := heartbeatv1.NewHeartbeatServiceClient(dial(t, addr)).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&heartbeatv1.BeatRequest{Incarnation: someID}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	var e *errs.Error
	if !errors.As(err, &e) || e.Reason != errs.Fenced || e.Message != "this incarnation is over" {
		t.Errorf("the client sees %v", err)
	}
}

func TestEndOfAStreamStaysEOF(t *testing.T) {
	_, addr, _ := house(t, &near{far: far{beat: func(grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error { return nil }}})
	stream, err := heartbeatv1.NewHeartbeatServiceClient(dial(t, addr)).Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // callers compare, and grpc promises it bare
		t.Errorf("got %v", err)
	}
}

func TestDialNamesATargetThatCantBe(t *testing.T) {
	if _, err := rpc.Dial("unix://\x7f"); err == nil || !strings.Contains(err.Error(), "dial ") {
		t.Errorf("got %v", err)
	}
}

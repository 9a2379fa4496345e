package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
)

// Dial prepares a connection; it connects when first used. Calls fail fast while the server is away, except those that the
// protos declare idempotent: these get five attempts, spread over about a second.
func Dial(target string, extra ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(traceClient, deadlineClient, errorClient),
		grpc.WithChainStreamInterceptor(traceClientStream, errorClientStream),
		grpc.WithDefaultServiceConfig(serviceConfig()),
		// An answer can be larger than its request: to a batch, it repeats the names and adds the numbers and times.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2 * limits.MaxMessage)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		// A restarted peer is found again within a second, however long it was away.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		// Unused connections stay open: the next call should not pay for a new one.
		grpc.WithIdleTimeout(0),
	}, extra...)
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", target, err)
	}
	return conn, nil
}

// serviceConfig allows retries for exactly the methods that the protos mark as idempotent or free of side effects.
func serviceConfig() string {
	var names []string
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if options, ok := method.Options().(*descriptorpb.MethodOptions); ok &&
					options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
					names = append(names, fmt.Sprintf(`{"service":%q,"method":%q}`, service.FullName(), method.Name()))
				}
			}
		}
		return true
	})
	return fmt.Sprintf(`{
		"loadBalancingConfig": [{"round_robin":{}}],
		"methodConfig": [{
			"name": [%s],
			"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
				"retryableStatusCodes": ["UNAVAILABLE"]}
		}]
	}`, strings.Join(names, ","))
}

func deadlineClient(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultDeadline)
		defer cancel()
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

func errorClient(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, conn, opts...)
	// grpc-go 1.85 forgets the status when the last of several attempts was refused before its request was sent: "max retries
	// exhausted: failed after 5 attempts: EOF". Only what is unavailable is attempted again.
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Unavailable, "the server is not available")
	}
	return errs.From(err)
}

func errorClientStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := streamer(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, errs.From(err)
	}
	return errorStreamClient{stream}, nil
}

// errorStreamClient turns what a stream ends with back into our errors. io.EOF stays what it is.
type errorStreamClient struct{ grpc.ClientStream }

func (s errorStreamClient) RecvMsg(m any) error { return errs.From(s.ClientStream.RecvMsg(m)) }

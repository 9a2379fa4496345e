package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalphapb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/limits"
)

// Front is a server that offers the services of several others under one address. It forwards calls without reading them:
// messages, metadata, deadlines, half-closes, cancellation and the final status with its details pass as they are. Health
// and reflection are its own.
type Front struct {
	*Server
	routes map[string]grpc.ClientConnInterface
	// withheld are methods that are not forwarded.
	withheld map[string]bool
	codec    rawCodec
}

// NewFront makes a front that forwards each service, by its full name ("sluice.status.v1.StatusService"), over a
// connection, but none of the methods that are withheld, by their full names ("/sluice.status.v1.StatusService/PutTaskLog").
// Connections from DialRaw leave errors untouched; those from Dial only keep the details that pkg/errs knows. The front does
// not close them.
func NewFront(log *slog.Logger, routes map[string]grpc.ClientConnInterface, withheld ...string) *Front {
	return NewObservedFront(nil, log, routes, withheld...)
}

// NewObservedFront is NewFront with an observer, if it is not nil. It makes no spans: those behind the front do.
func NewObservedFront(observer *Observer, log *slog.Logger, routes map[string]grpc.ClientConnInterface, withheld ...string) *Front {
	f := &Front{
		routes:   maps.Clone(routes),
		withheld: make(map[string]bool, len(withheld)),
		codec:    rawCodec{proto: encoding.GetCodecV2(encodingproto.Name)},
	}
	for _, method := range withheld {
		f.withheld[method] = true
	}
	observers, _ := observersOf([]grpc.ServerOption{observer})
	// Not NewServer: its interceptors classify errors and check messages, and here both belong to somebody else.
	f.Server = &Server{
		Server: grpc.NewServer(append(observers,
			grpc.UnknownServiceHandler(f.forward),
			grpc.ForceServerCodecV2(f.codec),
			grpc.ChainStreamInterceptor(logStream(log)),
			grpc.MaxRecvMsgSize(limits.MaxMessage),
			grpc.StaticStreamWindowSize(streamWindow),
			grpc.StaticConnWindowSize(connWindow),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 5 * time.Second}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		)...),
		health: health.NewServer(),
	}
	f.SetServing(false)
	healthpb.RegisterHealthServer(f.Server, f.health)
	options := reflection.ServerOptions{Services: f}
	reflectionpb.RegisterServerReflectionServer(f.Server, reflection.NewServerV1(options))
	reflectionalphapb.RegisterServerReflectionServer(f.Server, reflection.NewServer(options))
	return f
}

// GetServiceInfo lists what can be called, for reflection: the forwarded services beside the front's own.
func (f *Front) GetServiceInfo() map[string]grpc.ServiceInfo {
	services := f.Server.Server.GetServiceInfo()
	for name := range f.routes {
		services[name] = grpc.ServiceInfo{}
	}
	return services
}

// DialRaw prepares a connection for a Front: nothing on it repeats calls, sets deadlines or reads errors, because the
// caller behind the front does all that already.
func DialRaw(target string, extra ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// Of several addresses behind a name all are asked in turn, a standby's and the leader's among them.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2 * limits.MaxMessage)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithIdleTimeout(0),
	}, extra...)
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", target, err)
	}
	return conn, nil
}

// everything is the kind of stream that all other kinds are cases of.
var everything = grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// forward handles every call to a service that is not the front's own.
func (f *Front) forward(_ any, caller grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(caller)
	if !ok {
		return status.Error(codes.Internal, "the call names no method")
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	conn, known := f.routes[service]
	if !known {
		return status.Errorf(codes.Unimplemented, "unknown service %s", service)
	}
	if f.withheld[method] {
		return status.Errorf(codes.Unimplemented, "%s is not forwarded: call the service itself", method)
	}

	// The context carries the caller's deadline and ends with the caller's interest, so the far side learns of both.
	ctx, cancel := context.WithCancel(caller.Context())
	defer cancel()
	if md, has := metadata.FromIncomingContext(caller.Context()); has {
		md = md.Copy()
		md.Delete(":authority") // the far side's own name is the connection's business
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	server, err := conn.NewStream(ctx, &everything, method, grpc.ForceCodecV2(f.codec))
	if err != nil {
		return err
	}
	// It ends with the far stream, or when forward returns: then receiving from the caller fails.
	go func() {
		if !requests(caller, server) {
			cancel()
		}
	}()
	return answers(server, caller)
}

// requests passes on what the caller sends. It returns false when the caller is gone; if the far side is, that is no news:
// answers knows it already, and why.
func requests(caller grpc.ServerStream, server grpc.ClientStream) bool {
	for {
		var message frame
		err := caller.RecvMsg(&message)
		if err == nil {
			err = server.SendMsg(&message)
			message.free()
			if err != nil {
				return true
			}
			continue
		}
		if !errors.Is(err, io.EOF) {
			return false
		}
		_ = server.CloseSend() // it never fails: a stream that broke says so in RecvMsg
		return true
	}
}

// answers passes on what the far side sends, from the header to the status.
func answers(server grpc.ClientStream, caller grpc.ServerStream) error {
	// A stream's header can be there long before its first message, and clients wait for it.
	header, err := server.Header()
	if err != nil {
		return err
	}
	if header != nil {
		if err := caller.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		var message frame
		err := server.RecvMsg(&message)
		if err != nil {
			caller.SetTrailer(server.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		err = caller.SendMsg(&message)
		message.free()
		if err != nil {
			return err
		}
	}
}

// frame is a message that nobody has decoded.
type frame struct{ data mem.BufferSlice }

func (f *frame) free() {
	f.data.Free()
	f.data = nil
}

// rawCodec hands frames through and leaves everything else, which is health and reflection, to protobuf.
type rawCodec struct{ proto encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		f.data.Ref() // gRPC frees what it is given, and so does the frame's owner
		return f.data, nil
	}
	return c.proto.Marshal(v)
}

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		data.Ref()
		f.data = data
		return nil
	}
	return c.proto.Unmarshal(data, v)
}

func (rawCodec) Name() string { return encodingproto.Name }

package rpc

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
)

// DefaultDeadline bounds a unary call whose caller set none. Long polls set their own.
const DefaultDeadline = 30 * time.Second

// Windows of flow control, in bytes, of a stream and of a connection. They are fixed because what finds them out by itself sends
// pings all the time: without them a link of a chain costs a fifth less CPU (sluice bench --workload hot, two runs each).
const (
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

// Server is a gRPC server with the house's interceptors, health and reflection.
type Server struct {
	*grpc.Server
	health *health.Server
}

// NewServer makes a server. Services are registered on it before Serve; health says NOT_SERVING until SetServing. An Observer among the
// options sees every call as its caller does.
func NewServer(log *slog.Logger, extra ...grpc.ServerOption) *Server {
	observers, extra := observersOf(extra)
	options := append(observers, []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(
			logUnary(log),   // outermost: sees the final code and the whole duration
			errorUnary(log), // what leaves is classified or masked; needs the cause, so inside the log
			recoverUnary,    // a panic becomes an error like any other
			deadlineUnary,   // nothing runs for ever
			limitsUnary,     // innermost: only what is about to be used is checked
		),
		grpc.ChainStreamInterceptor(
			logStream(log),
			errorStream(log),
			recoverStream,
			limitsStream, // every received message
		),
		grpc.MaxRecvMsgSize(limits.MaxMessage),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		// Long streams idle between tasks: both sides ping, so that a cut line is noticed within seconds.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}...)
	options = append(options, extra...)
	s := &Server{Server: grpc.NewServer(options...), health: health.NewServer()}
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(s.Server, s.health)
	return s
}

// observersOf takes the observers out of a server's options, and returns their interceptors and what is left. They must be outermost: so
// they see the final code, and what the others log is below their spans.
func observersOf(options []grpc.ServerOption) (observers, others []grpc.ServerOption) {
	for _, option := range options {
		o, is := option.(*Observer)
		switch {
		case !is:
			others = append(others, option)
		case o != nil:
			observers = append(observers, grpc.ChainUnaryInterceptor(o.unary), grpc.ChainStreamInterceptor(o.stream))
		}
	}
	return observers, others
}

// SetServing says that the process is ready, or that it is about to stop.
func (s *Server) SetServing(serving bool) {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		state = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
}

// Reflect lets generic clients ask what is served. Call it after everything is registered. A front does so by itself.
func (s *Server) Reflect() {
	if _, done := s.GetServiceInfo()[reflectionpb.ServerReflection_ServiceDesc.ServiceName]; !done {
		reflection.Register(s.Server)
	}
}

// Stop lets calls in flight end, at most for grace, then cuts them. Long streams never end by themselves: their services
// must have been told to stop before.
func (s *Server) Stop(grace time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GracefulStop()
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.Server.Stop()
		<-done
	}
}

// Listen opens a TCP address, or, for unix:PATH, a socket that only this user can connect to. What answers there asks nobody for
// credentials, so it refuses any TCP address but loopback: who can connect can run commands.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	local, err := IsLocal(addr)
	if err != nil {
		return nil, err
	}
	if !local {
		return nil, fmt.Errorf("refusing to listen on %q: no credentials are asked for there, and whoever can connect can run commands; use a loopback address such as 127.0.0.1", addr)
	}
	return ListenOpenly(ctx, addr)
}

// IsLocal reports whether only this machine can reach a listen address.
func IsLocal(addr string) (bool, error) {
	if strings.HasPrefix(addr, "unix:") {
		return true, nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, fmt.Errorf("listen address %q must have the form host:port: %w", addr, err)
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback(), nil
}

// ListenOpenly is Listen for what asks for credentials: it takes any address.
func ListenOpenly(ctx context.Context, addr string) (net.Listener, error) {
	if path, local := strings.CutPrefix(addr, "unix:"); local {
		return listenUnix(ctx, path)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return listener, nil
}

// listenUnix opens a socket in the file system. One that a dead process left there is replaced; one that somebody listens on is
// an error.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: another process does", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replace the socket %s: %w", path, err)
		}
	}
	config := net.ListenConfig{Control: onlyMine}
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return listener, nil
}

// onlyMine keeps others from a socket before it has its name: the file gets the socket's mode. Changed afterwards, it would
// leave others a moment to connect.
func onlyMine(_, _ string, socket syscall.RawConn) (err error) {
	if failed := socket.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); failed != nil {
		return failed
	}
	return err
}

// faults are the codes that are ours to mend; the others are ordinary outcomes and not worth an error line.
func fault(code codes.Code) bool {
	return code == codes.Internal || code == codes.Unknown || code == codes.DataLoss || code == codes.Unimplemented
}

func logCall(ctx context.Context, log *slog.Logger, method string, start time.Time, err error) {
	code := status.Code(err)
	level := slog.LevelDebug
	if fault(code) {
		level = slog.LevelWarn
	}
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", method),
		slog.String("code", code.String()),
		slog.Duration("duration", time.Since(start)),
	}
	if p, ok := peer.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("peer", p.Addr.String()))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	log.LogAttrs(ctx, level, "rpc", attrs...)
}

func logUnary(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		start := time.Now()
		resp, err := handler(ctx, req)
		logCall(ctx, log, info.FullMethod, start, err)
		return resp, err
	}
}

func logStream(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		start := time.Now()
		err := handler(srv, stream)
		logCall(stream.Context(), log, info.FullMethod, start, err)
		return err
	}
}

// classify logs the cause of what is masked, under the reference that the client is shown.
func classify(ctx context.Context, log *slog.Logger, method string, err error) error {
	wire, ref := errs.Wire(err)
	if ref != "" {
		log.LogAttrs(ctx, slog.LevelError, "internal error", slog.String("method", method), slog.String("ref", ref), slog.Any("error", err))
	}
	return wire
}

func errorUnary(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		resp, err := handler(ctx, req)
		if err != nil {
			return nil, classify(ctx, log, info.FullMethod, err)
		}
		return resp, nil
	}
}

func errorStream(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return classify(stream.Context(), log, info.FullMethod, handler(srv, stream))
	}
}

func recoverUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return handler(ctx, req)
}

func recoverStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return handler(srv, stream)
}

func deadlineUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultDeadline)
		defer cancel()
	}
	return handler(ctx, req)
}

func limitsUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if message, ok := req.(proto.Message); ok {
		if err := limits.Check(message); err != nil {
			return nil, err
		}
	}
	return handler(ctx, req)
}

func limitsStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, checkedStream{stream})
}

// checkedStream checks each message as it is received.
type checkedStream struct{ grpc.ServerStream }

func (s checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if message, ok := m.(proto.Message); ok {
		return limits.Check(message)
	}
	return nil
}

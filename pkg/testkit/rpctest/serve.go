// Package rpctest puts a service of a test behind the gRPC that it has in production.
//
// # Owns
//
// A server with the interceptors of pkg/rpc on a loopback port of its own, and a connection to it, both until the test
// ends. Errors arrive as clients see them: classified or masked, by value and not by identity.
//
// # Failure
//
// A server that cannot listen, or ends before it is stopped, fails the test. Streams that are open when it stops are cut.
package rpctest

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// Serve serves what register registers, and returns a connection to it. stop makes it unreachable before the test ends;
// the connection stays open and goes on trying, as that of another process would.
func Serve(t testing.TB, register func(grpc.ServiceRegistrar)) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	stop = sync.OnceFunc(func() {
		server.Stop(0)
		// Which of them it is depends on how far Serve had come.
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	conn, err = rpc.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, stop
}

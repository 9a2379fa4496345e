package gateway_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// run starts a gateway on a port of its own. stop ends it and checks how it ended.
func run(t *testing.T, n *native, config gateway.Config) (f *face, stop func(), addr string) {
	t.Helper()
	return runOn(t, n, config, func(l net.Listener) net.Listener { return l })
}

// runOn runs a gateway on what is made of a listener.
func runOn(t *testing.T, n *native, config gateway.Config, made func(net.Listener) net.Listener) (f *face, stop func(), addr string) {
	t.Helper()
	f = newFace(t, n, config)
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.gateway.Run(ctx, made(listener)) }()
	return f, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}, listener.Addr().String()
}

// quiet makes a heartbeat service that takes everything.
func quiet(n *native) *native {
	n.register = func(context.Context, *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
		return &heartbeatv1.RegisterResponse{Incarnation: otherID}, nil
	}
	n.goodbye = func(context.Context, *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
		return &heartbeatv1.DeregisterResponse{}, nil
	}
	n.beat = func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		for {
			if _, err := s.Recv(); err != nil {
				return err
			}
			if err := s.Send(&heartbeatv1.BeatResponse{}); err != nil {
				return err
			}
		}
	}
	return n
}

// receive fails the test when something that must come does not. The time only bounds a broken run.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: it never came", what)
		panic("unreachable")
	}
}

func TestGatewayRegistersBeatsAndSaysGoodbye(t *testing.T) {
	registered := make(chan *heartbeatv1.RegisterRequest, 10)
	beaten := make(chan string, 1000)
	gone := make(chan string, 10)
	n := quiet(&native{})
	n.register = func(_ context.Context, r *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
		registered <- r
		return &heartbeatv1.RegisterResponse{Incarnation: otherID}, nil
	}
	n.beat = func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		for {
			r, err := s.Recv()
			if err != nil {
				return err
			}
			beaten <- r.GetIncarnation()
			if err := s.Send(&heartbeatv1.BeatResponse{}); err != nil {
				return err
			}
		}
	}
	n.goodbye = func(_ context.Context, r *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
		gone <- r.GetIncarnation()
		return &heartbeatv1.DeregisterResponse{}, nil
	}
	_, stop, _ := run(t, n, gateway.Config{Name: "gateway-1", TTL: time.Second})

	r := receive(t, "register", registered)
	if r.GetName() != "gateway-1" || r.GetKind() != heartbeatv1.Kind_KIND_API || r.GetTtl().AsDuration() != time.Second || r.GetVersions()["core"] != gateway.CoreVersion {
		t.Errorf("registered %v", r)
	}
	for range 3 {
		if got := receive(t, "beat", beaten); got != otherID {
			t.Errorf("beat of %q", got)
		}
	}
	stop()
	if got := receive(t, "goodbye", gone); got != otherID {
		t.Errorf("goodbye of %q", got)
	}
	if len(registered) > 0 {
		t.Error("registered twice")
	}
}

func TestGatewayThatWasDeclaredMissingRegistersAnew(t *testing.T) {
	lives := make(chan string, 10)
	first := true
	n := quiet(&native{})
	register := n.register
	ids := []string{otherID, workerID}
	n.register = func(ctx context.Context, r *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
		response, err := register(ctx, r)
		response.Incarnation, ids = ids[0], ids[1:]
		return response, err
	}
	n.beat = func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		lives <- r.GetIncarnation()
		if first {
			first = false
			return errs.Precondition(errs.Fenced, "declared missing")
		}
		<-s.Context().Done()
		return nil
	}
	_, stop, _ := run(t, n, gateway.Config{TTL: time.Second})
	for _, want := range []string{otherID, workerID} {
		if got := receive(t, "beat", lives); got != want {
			t.Errorf("beat of %s, want %s", got, want)
		}
	}
	stop()
}

func TestGatewayKeepsItsLifeWhenOnlyTheLineBroke(t *testing.T) {
	lives := make(chan string, 10)
	n := quiet(&native{})
	n.beat = func(s grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		lives <- r.GetIncarnation()
		return errs.Away(errs.DatabaseAway, nil, "the database is away")
	}
	registrations := make(chan struct{}, 10)
	register := n.register
	n.register = func(ctx context.Context, r *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
		registrations <- struct{}{}
		return register(ctx, r)
	}
	_, stop, _ := run(t, n, gateway.Config{TTL: time.Second})
	receive(t, "beat", lives)
	receive(t, "beat after the break", lives)
	stop()
	if got := len(registrations); got != 1 {
		t.Errorf("registered %d times", got)
	}
}

func TestGatewayServesWithoutAHeartbeatService(t *testing.T) {
	refused := make(chan struct{}, 10)
	n := quiet(&native{})
	n.register = func(context.Context, *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
		refused <- struct{}{}
		return nil, errs.Exists(errs.NameTaken, "another one lives")
	}
	n.goodbye = func(context.Context, *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
		t.Error("goodbye of nobody")
		return nil, errors.New("goodbye of nobody")
	}
	f, stop, _ := run(t, n, gateway.Config{TTL: time.Second})
	receive(t, "register", refused)
	want(t, f.do(t, "GET", taskPath, ""), 200, golden)
	receive(t, "register again", refused)
	stop()
	if lines := strings.Count(f.logs.String(), "level=WARN"); lines != 1 {
		t.Errorf("%d warnings for one outage:\n%s", lines, f.logs)
	}
}

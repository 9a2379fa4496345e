package rpctest_test

import (
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServeAnswersUntilItIsStopped(t *testing.T) {
	conn, stop := rpctest.Serve(t, func(grpc.ServiceRegistrar) {}) // health is there by itself
	client := healthpb.NewHealthClient(conn)
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("after the stop: %v, want %s", err, codes.Unavailable)
	}
}

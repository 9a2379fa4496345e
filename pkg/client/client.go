package client

import (
	"fmt"

	"google.golang.org/grpc"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// DefaultAddr is where `sluice dev` answers unless it is told otherwise.
const DefaultAddr = "127.0.0.1:24820"

// Client speaks to all services of one Sluice over one connection. It is safe for concurrent use.
type Client struct {
	conn       *grpc.ClientConn
	dispatcher dispatcherv1.DispatcherServiceClient
	scheduler  schedulerv1.SchedulerServiceClient
	status     statusv1.StatusServiceClient
	heartbeat  heartbeatv1.HeartbeatServiceClient
	access     accessv1.AccessServiceClient
	attempts   int
}

// Dial prepares a client for the gRPC address host:port (or any other gRPC target). It connects with the first call, so an
// address where nobody listens is no error yet. Attempts is an option of its own.
func Dial(addr string, extra ...grpc.DialOption) (*Client, error) {
	conn, err := rpc.Dial(addr, extra...)
	if err != nil {
		return nil, err
	}
	return &Client{
		conn:       conn,
		dispatcher: dispatcherv1.NewDispatcherServiceClient(conn),
		scheduler:  schedulerv1.NewSchedulerServiceClient(conn),
		status:     statusv1.NewStatusServiceClient(conn),
		heartbeat:  heartbeatv1.NewHeartbeatServiceClient(conn),
		access:     accessv1.NewAccessServiceClient(conn),
		attempts:   attemptsOf(extra),
	}, nil
}

// Close cuts the connection; calls in flight end with an error.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("close connection: %w", err)
	}
	return nil
}

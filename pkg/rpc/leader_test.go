package rpc_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// candidate is a scheduler that says what the test wants, and answers whether or not it leads: a process that slept does too.
type candidate struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	name string
	addr string
	stop func()
	// hangs gets a value for each call that will never be answered.
	hangs chan struct{}

	mu      sync.Mutex
	now     *schedulerv1.WatchLeadershipResponse
	changed chan struct{}
}

func newCandidate(t *testing.T, name string) *candidate {
	t.Helper()
	c := &candidate{name: name, hangs: make(chan struct{}, 1), now: &schedulerv1.WatchLeadershipResponse{}, changed: make(chan struct{})}
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	schedulerv1.RegisterSchedulerServiceServer(server, c)
	c.addr = serve(t, server.Server)
	c.stop = server.Server.Stop
	return c
}

func (c *candidate) says(epoch int64, ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = &schedulerv1.WatchLeadershipResponse{Epoch: epoch, Ready: ready}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *candidate) WatchLeadership(_ *schedulerv1.WatchLeadershipRequest, stream grpc.ServerStreamingServer[schedulerv1.WatchLeadershipResponse]) error {
	for {
		c.mu.Lock()
		now, changed := c.now, c.changed
		c.mu.Unlock()
		if err := stream.Send(now); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Explain tells who was asked.
func (c *candidate) Explain(context.Context, *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
	return &schedulerv1.ExplainResponse{Summary: c.name}, nil
}

// GetResource never answers.
func (c *candidate) GetResource(ctx context.Context, _ *schedulerv1.GetResourceRequest) (*schedulerv1.GetResourceResponse, error) {
	c.hangs <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// Acquire welcomes, then echoes drains as empty orders until the other side closes.
func (c *candidate) Acquire(stream grpc.BidiStreamingServer[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return nil //nolint:nilerr // the end of the stream is the end
		}
		if err := stream.Send(&schedulerv1.AcquireResponse{}); err != nil {
			return err
		}
	}
}

func dialLeader(t *testing.T, dial rpc.Dialer, candidates ...*candidate) (*rpc.Leader, schedulerv1.SchedulerServiceClient) {
	t.Helper()
	var addrs []string
	for _, c := range candidates {
		addrs = append(addrs, c.addr)
	}
	leader, err := rpc.DialLeader(t.Context(), dial, addrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = leader.Close() })
	return leader, schedulerv1.NewSchedulerServiceClient(leader)
}

// asked returns the name of the candidate that a call reaches.
func asked(t *testing.T, client schedulerv1.SchedulerServiceClient, opts ...grpc.CallOption) (string, error) {
	t.Helper()
	answer, err := client.Explain(t.Context(), &schedulerv1.ExplainRequest{TaskId: task}, opts...)
	return answer.GetSummary(), err
}

const task = "018f0000-0000-7000-8000-000000000001"

func reaches(t *testing.T, client schedulerv1.SchedulerServiceClient, c *candidate) {
	t.Helper()
	probe.Eventually(t, "calls reach "+c.name, func() bool {
		name, err := asked(t, client)
		return err == nil && name == c.name
	})
}

// line opens a stream that was answered once.
func line(t *testing.T, client schedulerv1.SchedulerServiceClient) grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse] {
	t.Helper()
	stream, err := client.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	goesOn(t, stream)
	return stream
}

func goesOn(t *testing.T, stream grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse]) {
	t.Helper()
	drain := &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Drain{Drain: &schedulerv1.Drain{}}}
	if err := stream.Send(drain); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
}

func TestCallsGoToTheLeaderFromTheFirstOn(t *testing.T) {
	one, two, three := newCandidate(t, "one"), newCandidate(t, "two"), newCandidate(t, "three")
	two.says(7, true)
	three.says(6, true) // it slept, and does not know yet
	_, client := dialLeader(t, rpc.Dial, one, two, three)
	reaches(t, client, two)

	two.says(7, false)
	probe.Eventually(t, "calls are refused", func() bool {
		_, err := asked(t, client)
		return errs.Is(err, errs.NotLeading)
	})
	one.says(8, true)
	reaches(t, client, one)
}

func TestWithoutALeaderCallsFailAtOnce(t *testing.T) {
	one, two, gone := newCandidate(t, "one"), newCandidate(t, "two"), newCandidate(t, "gone")
	two.says(7, false) // it loads
	gone.stop()
	_, client := dialLeader(t, rpc.Dial, one, two, gone)
	if name, err := asked(t, client); !errs.Is(err, errs.NotLeading) {
		t.Errorf("%q answers, and the error is %v", name, err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := client.Acquire(t.Context())
		opened <- err
	}()
	two.says(7, true)
	if err := <-opened; err != nil {
		t.Errorf("an executor's line: %v", err)
	}
	if name, err := asked(t, client, grpc.WaitForReady(true)); err != nil || name != "two" {
		t.Errorf("who waited got an answer of %q, %v", name, err)
	}
	two.stop()
	probe.Eventually(t, "calls are refused", func() bool {
		_, err := asked(t, client)
		return errs.Is(err, errs.NotLeading)
	})
	waiting, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.Explain(waiting, &schedulerv1.ExplainRequest{TaskId: task}, grpc.WaitForReady(true))
	if status.Code(err) != codes.Canceled {
		t.Errorf("who gave up waiting got %v", err)
	}
}

// Its process may be asleep, and its connections would be open for as long.
func TestANewLeaderCutsTheCallsAtTheOldOne(t *testing.T) {
	old, young := newCandidate(t, "old"), newCandidate(t, "young")
	old.says(1, true)
	_, client := dialLeader(t, rpc.Dial, old, young)
	stream := line(t, client)
	ended := make(chan error, 1)
	go func() {
		_, err := client.GetResource(t.Context(), &schedulerv1.GetResourceRequest{Name: "r"})
		ended <- err
	}()
	within(t, "the call is at the old leader", old.hangs)

	young.says(2, false)
	goesOn(t, stream)
	young.says(2, true)
	if _, err := stream.Recv(); !errs.Is(err, errs.NotLeading) {
		t.Errorf("the stream ended with %v", err)
	}
	if err := <-ended; !errs.Is(err, errs.NotLeading) {
		t.Errorf("the call ended with %v", err)
	}
	goesOn(t, line(t, client))
}

func TestALeaderThatGoesInGoodOrderEndsItsCallsItself(t *testing.T) {
	one, two := newCandidate(t, "one"), newCandidate(t, "two")
	one.says(1, true)
	_, client := dialLeader(t, rpc.Dial, one, two)
	stream := line(t, client)
	one.says(0, false)
	probe.Eventually(t, "new calls are refused", func() bool {
		_, err := asked(t, client)
		return errs.Is(err, errs.NotLeading)
	})
	goesOn(t, stream)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // callers compare, and grpc promises it bare
		t.Errorf("the stream ended with %v", err)
	}
}

func TestACallerThatCancelsIsNotToldOfLeaders(t *testing.T) {
	one := newCandidate(t, "one")
	one.says(1, true)
	_, client := dialLeader(t, rpc.Dial, one)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	goesOn(t, stream)
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the stream ended with %v", err)
	}
}

// An executor that talks to a gateway finds the leader as well.
func TestFrontForwardsToTheLeader(t *testing.T) {
	old, young := newCandidate(t, "old"), newCandidate(t, "young")
	old.says(1, true)
	leader, _ := dialLeader(t, rpc.DialRaw, old, young)
	front := rpc.NewFront(slog.New(slog.DiscardHandler), map[string]grpc.ClientConnInterface{
		schedulerv1.SchedulerService_ServiceDesc.ServiceName: leader,
	}, schedulerv1.SchedulerService_Offer_FullMethodName)
	addr := serve(t, front.Server.Server)
	conn, err := rpc.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	// One behind the other is of no use, and does no harm.
	nested, err := rpc.DialLeader(t.Context(), rpc.Dial, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nested.Close() })

	for _, client := range []schedulerv1.SchedulerServiceClient{
		schedulerv1.NewSchedulerServiceClient(conn), schedulerv1.NewSchedulerServiceClient(nested),
	} {
		old.says(old.now.GetEpoch()+10, true)
		reaches(t, client, old)
		stream := line(t, client)
		young.says(old.now.GetEpoch()+1, true)
		if _, err := stream.Recv(); !errs.Is(err, errs.NotLeading) {
			t.Errorf("the stream ended with %v", err)
		}
		reaches(t, client, young)
	}
	_, err = schedulerv1.NewSchedulerServiceClient(conn).Offer(t.Context(), &schedulerv1.OfferRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("offer through the front: %v", err)
	}
}

func TestANameCanStandForSchedulers(t *testing.T) {
	one := newCandidate(t, "one")
	one.says(1, true)
	_, port, _ := net.SplitHostPort(one.addr)
	leader, err := rpc.DialLeader(t.Context(), rpc.Dial, rpc.SplitAddrs(" localhost:"+port+", ")...)
	if err != nil {
		t.Fatal(err)
	}
	defer leader.Close()
	reaches(t, schedulerv1.NewSchedulerServiceClient(leader), one)
}

func TestAddressesOfSchedulersAreChecked(t *testing.T) {
	for _, list := range []string{"", ",", "127.0.0.1", "127.0.0.1:1,x"} {
		leader, err := rpc.DialLeader(t.Context(), rpc.Dial, rpc.SplitAddrs(list)...)
		if err == nil {
			t.Errorf("%q is accepted", list)
			_ = leader.Close()
		}
	}
}

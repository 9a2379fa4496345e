package bench_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
)

// hall is where executors come and go: a heartbeat service and a scheduler of a hundred lines, which note what they see.
type hall struct {
	heartbeatv1.UnimplementedHeartbeatServiceServer
	schedulerv1.UnimplementedSchedulerServiceServer
	dispatcherv1.UnimplementedDispatcherServiceServer

	pulseEvery time.Duration
	mute       bool // welcomes, and never says a word again

	mu        sync.Mutex
	seen      map[string]int
	living    map[string]bool // incarnations
	lines     map[chan *schedulerv1.AcquireResponse]bool
	cut       chan struct{} // closed when all lines are to break
	followers map[chan *schedulerv1.Change]bool
}

func newHall() *hall {
	return &hall{
		pulseEvery: time.Minute, seen: map[string]int{}, living: map[string]bool{}, lines: map[chan *schedulerv1.AcquireResponse]bool{},
		cut: make(chan struct{}), followers: map[chan *schedulerv1.Change]bool{},
	}
}

func (h *hall) start(t *testing.T) grpc.ClientConnInterface {
	t.Helper()
	conn, stop := rpctest.Serve(t, func(r grpc.ServiceRegistrar) {
		heartbeatv1.RegisterHeartbeatServiceServer(r, h)
		schedulerv1.RegisterSchedulerServiceServer(r, h)
		dispatcherv1.RegisterDispatcherServiceServer(r, h)
	})
	t.Cleanup(stop)
	return conn
}

func (h *hall) note(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen[what]++
}

func (h *hall) count(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[what]
}

func (h *hall) Register(_ context.Context, r *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
	h.note("register")
	if r.GetKind() != heartbeatv1.Kind_KIND_WORKER || r.GetVersions()["mine"] != "1" || r.GetTtl().AsDuration() != time.Second {
		return nil, fmt.Errorf("registered as %v", r)
	}
	incarnation := uuid.NewString()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.living[incarnation] = true
	return &heartbeatv1.RegisterResponse{Incarnation: incarnation}, nil
}

func (h *hall) Deregister(_ context.Context, r *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
	h.note("goodbye")
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.living, r.GetIncarnation())
	return &heartbeatv1.DeregisterResponse{}, nil
}

func (h *hall) Beat(stream grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
	for {
		beat, err := stream.Recv()
		if err != nil {
			return err
		}
		h.mu.Lock()
		living := h.living[beat.GetIncarnation()]
		h.seen["beat"]++
		if beat.GetHearing().GetEpoch() == 7 && beat.GetHearing().GetSilentFor().AsDuration() >= 0 {
			h.seen["hearing"]++
		}
		h.mu.Unlock()
		if !living {
			return errs.Precondition(errs.Fenced, "over")
		}
		if err := stream.Send(&heartbeatv1.BeatResponse{}); err != nil {
			return err
		}
	}
}

func (h *hall) Acquire(stream grpc.BidiStreamingServer[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.seen["hello"]++
	if hello := first.GetHello(); !h.living[hello.GetIncarnation()] || hello.GetLine() == 0 {
		h.mu.Unlock()
		return errs.Precondition(errs.Fenced, "over")
	}
	orders, cut := make(chan *schedulerv1.AcquireResponse, 10), h.cut
	h.lines[orders] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.lines, orders)
	}()
	welcome := &schedulerv1.Welcome{Epoch: 7, PulseEvery: durationpb.New(h.pulseEvery)}
	if err := stream.Send(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	answers, broken := make(chan *schedulerv1.AcquireRequest), make(chan error, 1)
	go func() {
		for {
			answer, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			select {
			case answers <- answer:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	pulse := time.NewTicker(h.pulseEvery)
	defer pulse.Stop()
	for number := int64(1); ; {
		var say *schedulerv1.AcquireResponse
		select {
		case <-pulse.C:
			if !h.mute {
				say = &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Pulse{Pulse: &schedulerv1.Pulse{Number: number}}}
				number++
			}
		case say = <-orders:
		case answer := <-answers:
			say = h.heard(answer, number)
		case err := <-broken:
			return err
		case <-cut:
			return errors.New("cut")
		}
		if say == nil {
			continue
		}
		if err := stream.Send(say); err != nil {
			return err
		}
	}
}

// heard notes what an executor says. What it acknowledges it is told to begin, and only then it may end.
func (h *hall) heard(answer *schedulerv1.AcquireRequest, next int64) (say *schedulerv1.AcquireResponse) {
	if p := answer.GetPulse(); p != nil && p.GetNumber() == next-1 {
		h.note("pulse")
	}
	if held := answer.GetReport().GetAcknowledged(); len(held) > 0 {
		h.note("acknowledged")
		say = &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Orders{Orders: &schedulerv1.Orders{Begin: held}}}
	}
	for _, finish := range answer.GetReport().GetFinished() {
		h.note("finished")
		h.tell(finish.GetClaim().GetTaskId(), finish.GetOutcome().GetState())
	}
	return say
}

func (h *hall) tell(id string, state taskv1.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for follower := range h.followers {
		follower <- &schedulerv1.Change{TaskId: id, State: state}
	}
}

func (h *hall) Dispatch(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	id := uuid.NewString()
	h.tell(id, taskv1.State_STATE_RUNNING)
	h.mu.Lock()
	defer h.mu.Unlock()
	for orders := range h.lines {
		orders <- &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Orders{Orders: &schedulerv1.Orders{
			Assign: []*taskv1.Assignment{{TaskId: id, Claim: 1, Name: "test.noop"}},
		}}}
		break
	}
	return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: id}}, nil
}

func (h *hall) Follow(_ *schedulerv1.FollowRequest, stream grpc.ServerStreamingServer[schedulerv1.FollowResponse]) error {
	changes := make(chan *schedulerv1.Change, 1000)
	h.mu.Lock()
	h.followers[changes] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.followers, changes)
	}()
	if err := stream.Send(&schedulerv1.FollowResponse{}); err != nil {
		return err
	}
	for {
		select {
		case c := <-changes:
			if err := stream.Send(&schedulerv1.FollowResponse{Changes: []*schedulerv1.Change{c}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// crowdIn makes a crowd whose members come to a hall.
func crowdIn(t *testing.T, h *hall) *bench.Crowd {
	t.Helper()
	crowd := bench.NewCrowd(bench.CrowdConfig{
		TTL: time.Second, Connections: []grpc.ClientConnInterface{h.start(t)}, Versions: map[string]string{"mine": "1"}, Opening: 3,
	})
	t.Cleanup(crowd.Close)
	return crowd
}

func TestACrowdSaysAllThatExecutorsSay(t *testing.T) {
	h := newHall()
	h.pulseEvery = time.Second // three of them missed would be a deaf line, on a machine with much to do, too
	crowd := crowdIn(t, h)
	if err := crowd.Grow(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	if got := crowd.Report(); got.Members != 10 || got.Beating != 10 || got.Welcomed != 10 || got.Registered != 10 {
		t.Errorf("%+v", got)
	}
	probe.Eventually(t, "they beat, say what they hear and answer pulses", func() bool {
		return h.count("hearing") >= 10 && h.count("pulse") >= 10
	})
	if err := crowd.Grow(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if n := h.count("goodbye"); n != 6 {
		t.Errorf("%d said goodbye, want 6", n)
	}
	crowd.Close()
	if n := h.count("goodbye"); n != 10 {
		t.Errorf("%d said goodbye, want 10", n)
	}
	if got := crowd.Report(); got.Deaf+got.BrokenLines+got.BrokenBeats+got.Fenced != 0 || got.CPU <= 0 || got.RSS <= 0 {
		t.Errorf("%+v", got)
	}
}

func TestACrowdComesBackAfterWhatHappensToExecutors(t *testing.T) {
	t.Run("lines that are cut", func(t *testing.T) {
		h := newHall()
		crowd := crowdIn(t, h)
		if err := crowd.Grow(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		close(h.cut)
		h.cut = make(chan struct{})
		h.mu.Unlock()
		probe.Eventually(t, "all say hello again", func() bool { return h.count("hello") == 6 && crowd.Report().Welcomed == 3 })
		if got := crowd.Report(); got.BrokenLines != 3 || got.Registered != 3 || got.Trouble == "" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("lives that are over", func(t *testing.T) {
		h := newHall()
		crowd := crowdIn(t, h)
		if err := crowd.Grow(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		clear(h.living)
		h.mu.Unlock()
		probe.Eventually(t, "all register again", func() bool { return crowd.Report().Registered == 6 && crowd.Report().Beating == 3 })
		if got := crowd.Report(); got.Fenced != 3 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a scheduler that is not heard any more", func(t *testing.T) {
		h := newHall()
		h.mute, h.pulseEvery = true, 30*time.Millisecond
		crowd := crowdIn(t, h)
		if err := crowd.Grow(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		probe.Eventually(t, "it breaks off", func() bool { return crowd.Report().Deaf > 0 && h.count("hello") > 1 })
	})
}

// driven is a crowd behind pipes, as behind those of a process.
func driven(t *testing.T, crowd *bench.Crowd) *bench.RemoteCrowd {
	t.Helper()
	ordersOut, ordersIn := io.Pipe()
	answersOut, answersIn := io.Pipe()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := bench.ServeCrowd(context.WithoutCancel(t.Context()), crowd, ordersOut, answersIn); err != nil {
			t.Error(err)
		}
		answersIn.Close()
	})
	t.Cleanup(func() {
		ordersIn.Close()
		serving.Wait()
	})
	return bench.DriveCrowd(ordersIn, answersOut)
}

func idleConfig() bench.IdleConfig {
	return bench.IdleConfig{Executors: 5, Window: time.Second, Rest: time.Millisecond, TTL: time.Second, Tasks: 3, Own: true, Statements: &meter.Statements{}}
}

func TestIdleExecutorsAreMeasured(t *testing.T) {
	server, err := meter.Open(t.Context(), pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	h := newHall()
	conn := h.start(t)
	crowd := crowdIn(t, h)
	r, err := bench.MeasureIdle(t.Context(), idleConfig(), conn, driven(t, crowd), server)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []bench.IdleCosts{r.One, r.All} {
		if c.Seconds <= 0 || *c.Statements != 0 || c.WAL == nil || *c.Connections != 0 || *c.ServicesRSS <= 0 || c.Start.P50 <= 0 || c.End.P50 <= 0 {
			t.Errorf("%+v", c)
		}
	}
	if r.Executors != 5 || r.Beats <= 0 || !r.Met || len(r.Goals) != 4 {
		t.Errorf("%+v", r)
	}
	if acknowledged, finished := h.count("acknowledged"), h.count("finished"); acknowledged != 6 || finished != 6 {
		t.Errorf("%d tasks were acknowledged and %d ended, want 6", acknowledged, finished)
	}
}

func TestWhatIsNotKnownOfIdleExecutorsIsNull(t *testing.T) {
	config := idleConfig()
	config.Own, config.Statements, config.Tasks = false, nil, 0
	h := newHall()
	conn := h.start(t)
	r, err := bench.MeasureIdle(t.Context(), config, conn, driven(t, crowdIn(t, h)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := r.All; a.Statements != nil || a.WAL != nil || a.PostgresCPU != nil || a.Connections != nil || a.ServicesRSS != nil || a.Start != nil {
		t.Errorf("%+v", a)
	}
	if r.Goals[0].Met != nil || r.Goals[3].Met == nil {
		t.Errorf("%+v", r.Goals)
	}
}

func TestAnIdleConfigThatMakesNoSenseIsRefused(t *testing.T) {
	for want, change := range map[string]func(*bench.IdleConfig){
		"idle-executors": func(c *bench.IdleConfig) { c.Executors = 0 },
		"window":         func(c *bench.IdleConfig) { c.Window = time.Millisecond },
		"tasks":          func(c *bench.IdleConfig) { c.Tasks = -1 },
	} {
		config := idleConfig()
		change(&config)
		if _, err := bench.MeasureIdle(t.Context(), config, nil, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestACrowdThatIsGoneIsAnError(t *testing.T) {
	answersOut, answersIn := io.Pipe()
	answersIn.Close()
	crowd := bench.DriveCrowd(io.Discard, answersOut)
	if _, err := crowd.Grow(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("got %v", err)
	}
}

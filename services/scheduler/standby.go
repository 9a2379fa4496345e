package scheduler

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// standing is which leadership a scheduler holds, for all who watch it: standbys, to take over at once, and everybody who
// looks for the leader.
type standing struct {
	mu      sync.Mutex
	now     *schedulerv1.WatchLeadershipResponse
	changed chan struct{}
	// ended is closed when the scheduler has stopped for good.
	ended chan struct{}
}

func newStanding() *standing {
	return &standing{now: &schedulerv1.WatchLeadershipResponse{}, changed: make(chan struct{}), ended: make(chan struct{})}
}

// say tells everybody.
func (s *standing) say(epoch int64, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = &schedulerv1.WatchLeadershipResponse{Epoch: epoch, Ready: ready}
	close(s.changed)
	s.changed = make(chan struct{})
}

// look returns what is so now, and a channel that is closed when it changes.
func (s *standing) look() (*schedulerv1.WatchLeadershipResponse, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.changed
}

// end lets all who watch go, or the server could not stop.
func (s *standing) end() { close(s.ended) }

// WatchLeadership streams which leadership this scheduler holds. A standing that did not last is passed over; its epoch never
// comes back.
func (s *Service) WatchLeadership(_ *schedulerv1.WatchLeadershipRequest, stream grpc.ServerStreamingServer[schedulerv1.WatchLeadershipResponse]) error {
	for {
		now, changed := s.standing.look()
		if err := stream.Send(now); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.standing.ended:
			return errStandby()
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// vigil is how a standby watches one leadership of another scheduler. It only says when asking for the lease may be worth
// while: whether it is, the lease says.
type vigil struct {
	address string
	epoch   int64
	vacant  chan struct{} // closed when the leadership seems to be over
	cancel  context.CancelFunc
	told    bool // over has said so
}

// over returns a channel that is closed when the holder of a seat does not, or no longer, hold it, or can't be reached; nil
// when nobody is to be watched. It says so once and then leaves the next turn out: an address where somebody else answers, or
// nobody, must not have the lease asked for without a pause.
func (v *vigil) over(ctx context.Context, seat Seat, own string) <-chan struct{} {
	if seat.Taken || seat.Left <= 0 || seat.Address == "" || seat.Address == own {
		v.end()
		return nil
	}
	same := v.vacant != nil && v.address == seat.Address && v.epoch == seat.Epoch
	if same && !v.ended() {
		return v.vacant
	}
	v.end()
	if same && !v.told {
		v.told = true
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	*v = vigil{address: seat.Address, epoch: seat.Epoch, vacant: make(chan struct{}), cancel: cancel}
	go func(vacant chan<- struct{}) {
		defer close(vacant)
		keepVigil(ctx, seat.Address, seat.Epoch)
	}(v.vacant)
	return v.vacant
}

func (v *vigil) ended() bool {
	select {
	case <-v.vacant:
		return true
	default:
		return false
	}
}

// end stops watching.
func (v *vigil) end() {
	if v.vacant != nil {
		v.cancel()
		<-v.vacant
	}
}

// keepVigil returns when the scheduler at the address does not, or no longer, hold the leadership, or says nothing.
func keepVigil(ctx context.Context, address string, epoch int64) {
	conn, err := rpc.Dial(address)
	if err != nil {
		return
	}
	defer conn.Close()
	stream, err := schedulerv1.NewSchedulerServiceClient(conn).WatchLeadership(ctx, &schedulerv1.WatchLeadershipRequest{})
	for err == nil {
		var now *schedulerv1.WatchLeadershipResponse
		if now, err = stream.Recv(); now.GetEpoch() != epoch {
			return
		}
	}
}

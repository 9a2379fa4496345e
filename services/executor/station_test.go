package executor

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// scene is a place where tasks do what the test says.
type scene struct {
	act  func(*run) *taskv1.Outcome
	exit func()
}

func (s *scene) tasks() []string                { return []string{"t"} }
func (s *scene) versions() map[string]string    { return nil }
func (s *scene) perform(r *run) *taskv1.Outcome { return s.act(r) }
func (s *scene) leased(*lease)                  {}
func (s *scene) fenced()                        { s.exit() }

// nobody is a scheduler that is away, and a heartbeat service that answers a beat as the test says.
type nobody struct {
	schedulerv1.SchedulerServiceClient
	heartbeatv1.HeartbeatServiceClient

	beat error
}

func (n nobody) Acquire(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse], error) {
	return nil, status.Error(codes.Unavailable, "away")
}

func (n nobody) Beat(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse], error) {
	return nil, n.beat
}

func stationOf(t *testing.T, p place, beat error) *station {
	t.Helper()
	config, err := Config{WorkDir: t.TempDir()}.complete()
	if err != nil {
		t.Fatal(err)
	}
	peers := Peers{Scheduler: nobody{beat: beat}, Heartbeat: nobody{beat: beat}}
	s := newStation(t.Context(), "s", 1, 1, config, peers, p, slog.New(slog.NewTextHandler(t.Output(), nil)))
	s.lease = unending()
	s.line = newLine(1, s.lease, func(error) {})
	return s
}

// unending is a lease for those to whom it does not matter.
func unending() *lease { return newLease(boottime(), time.Hour, boottime()(), func() {}) }

// order has a station take a task, and begin it.
func (s *station) order(task string) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := claim{task: task, number: 1}
	s.assignLocked(context.Background(), &taskv1.Assignment{TaskId: c.task, Claim: c.number, Name: "t"})
	s.beginLocked(context.Background(), c)
	return s.runs[c]
}

const oneTask = "01234567-89ab-7def-8123-456789abcdef"

// A worker whose station is fenced loses its stream, and with it its tasks. That this ends them is not to be reported: by now
// they may be another's.
func TestWhatEndsBecauseOfAFenceIsNotReported(t *testing.T) {
	gone := make(chan struct{})
	p := &scene{act: func(*run) *taskv1.Outcome {
		<-gone
		return ended(taskv1.State_STATE_FAILED, "gone", "DISCONNECTED")
	}}
	s := stationOf(t, p, errs.Precondition(errs.Fenced, "declared missing"))
	r := s.order(oneTask)
	line := s.line
	p.exit = func() {
		close(gone)
		<-r.done // as late as can be
	}
	l := s.newLife("i", boottime()())
	if s.live(l); !l.fenced() {
		t.Error("it was not fenced")
	}
	for _, request := range line.take() {
		if len(request.GetReport().GetFinished()) > 0 {
			t.Errorf("said %v", request)
		}
	}
}

// What is canceled in the moment in which there is a slot for it does not begin.
func TestATaskThatIsCanceledAsItsTurnComesDoesNotBegin(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // what is woken runs when we wait, and not before
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			p := &scene{act: func(r *run) *taskv1.Outcome {
				if r.asked.Err() != nil {
					t.Error("it began, and was canceled already")
				}
				<-r.asked.Done()
				return r.verdict(nil)
			}}
			s := stationOf(t, p, errors.New("away"))
			s.slots <- struct{}{} // taken
			r := s.order(oneTask)
			synctest.Wait() // it waits for the slot
			<-s.slots
			r.cancel(errCanceled)
			<-r.done
			s.performing.Wait()
			if r.outcome.GetState() != taskv1.State_STATE_CANCELED {
				t.Errorf("outcome %v", r.outcome)
			}
		})
	}
}

// What is given back after a hello has named it must be named no more by the next: nobody else would have it, and it would not begin.
func TestWhatIsGivenBackWhileALineIsOpenedCostsTheLine(t *testing.T) {
	s := stationOf(t, &scene{}, nil)
	s.line = nil
	s.mu.Lock()
	c := one(oneTask)
	s.runs[c] = newRun(t.Context(), s, c, &taskv1.Assignment{TaskId: c.task, Claim: c.number})
	s.mu.Unlock()
	l := s.newLife("i", s.clock())
	broken := error(nil)
	breakOff := func(why error) { broken = why }
	if held := s.hello(l).GetHeld(); len(held) != 1 {
		t.Errorf("held: %v", held)
	}
	s.mu.Lock()
	s.giveBackLocked()
	s.mu.Unlock()
	s.open(1, breakOff)
	if !errors.Is(broken, errGivenBack) {
		t.Errorf("broken off: %v", broken)
	}
	broken = nil
	if held := s.hello(l).GetHeld(); len(held) != 0 {
		t.Errorf("held: %v", held)
	}
	if s.open(2, breakOff); broken != nil {
		t.Errorf("broken off again: %v", broken)
	}
}

// When a line was broken off, or the life that it belonged to has ended, what still comes on it is not heard: by now it may be
// another's to begin.
func TestOrdersOnALineThatIsOverAreNotHeard(t *testing.T) {
	s := stationOf(t, &scene{}, nil)
	old := s.line
	s.line = newLine(2, s.lease, func(error) {})
	s.mu.Lock()
	c := one(oneTask)
	held := newRun(t.Context(), s, c, &taskv1.Assignment{TaskId: c.task, Claim: c.number})
	s.runs[c] = held
	s.mu.Unlock()
	s.receive(t.Context(), old, &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Orders{Orders: &schedulerv1.Orders{
		Assign: []*taskv1.Assignment{{TaskId: "11234567-89ab-7def-8123-456789abcdef", Claim: 1}}, Begin: []*schedulerv1.Claim{c.wire()},
	}}})
	if held.hasBegun() || len(s.runs) != 1 {
		t.Errorf("begun: %v, of %d claims", held.hasBegun(), len(s.runs))
	}
}

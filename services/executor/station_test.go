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
func (s *scene) leased(time.Duration)           {}
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
	s.line = newLine(func() {})
	return s
}

// order has a station take a task.
func (s *station) order(task string) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := claim{task: task, number: 1}
	s.assignLocked(context.Background(), &taskv1.Assignment{TaskId: c.task, Claim: c.number, Name: "t"})
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
	if !s.live(life{incarnation: "i", began: time.Now()}) {
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

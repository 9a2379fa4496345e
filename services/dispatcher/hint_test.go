package dispatcher_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// line is a client of a scheduler without a network, so that time can be that of synctest.
type line struct {
	schedulerv1.SchedulerServiceClient

	offer func(context.Context) error
}

// Offer does what the test says.
func (l line) Offer(ctx context.Context, _ *schedulerv1.OfferRequest, _ ...grpc.CallOption) (*schedulerv1.OfferResponse, error) {
	return &schedulerv1.OfferResponse{}, l.offer(ctx)
}

// hinting runs a hinter until stop.
func hinting(t *testing.T, offer func(context.Context) error) (h *dispatcher.Hinter, stop func()) {
	t.Helper()
	h = dispatcher.NewHinter(line{offer: offer}, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	return h, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
}

func TestManyHintsWhileOneIsUnderWayBecomeOneMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, release := 0, make(chan struct{})
		h, stop := hinting(t, func(context.Context) error {
			calls++
			<-release
			return nil
		})
		defer stop()
		h.Offer()
		synctest.Wait()
		if calls != 1 {
			t.Fatalf("%d calls after the first hint", calls)
		}
		for range 1000 {
			h.Offer()
		}
		synctest.Wait()
		if calls != 1 {
			t.Errorf("%d calls at the same time", calls)
		}
		release <- struct{}{}
		synctest.Wait()
		if calls != 2 {
			t.Errorf("%d calls, want one more for all that came meanwhile", calls)
		}
		release <- struct{}{}
		<-time.After(time.Hour)
		synctest.Wait()
		if calls != 2 {
			t.Errorf("%d calls, though nothing new came", calls)
		}
		h.Offer()
		synctest.Wait()
		if calls != 3 {
			t.Errorf("%d calls: the hint after a quiet time is lost", calls)
		}
		release <- struct{}{}
	})
}

func TestHintBeforeRunIsSentWhenItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		h := dispatcher.NewHinter(line{offer: func(context.Context) error { calls++; return nil }}, quiet())
		h.Offer()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestFailingSchedulerLosesNoLaterHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var answer error = errors.New("nobody there")
		h, stop := hinting(t, func(context.Context) error { calls++; return answer })
		defer stop()
		for i := range 5 {
			if i == 4 {
				answer = nil
			}
			h.Offer()
			synctest.Wait()
			if calls != i+1 {
				t.Errorf("%d calls after %d hints", calls, i+1)
			}
		}
	})
}

func TestHangingSchedulerHoldsHintsUpForASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began []time.Time
		h, stop := hinting(t, func(ctx context.Context) error {
			began = append(began, time.Now())
			<-ctx.Done()
			return ctx.Err()
		})
		h.Offer()
		synctest.Wait()
		h.Offer()
		<-time.After(1500 * time.Millisecond)
		synctest.Wait()
		if len(began) != 2 || began[1].Sub(began[0]) != time.Second {
			t.Errorf("calls began at %v", began)
		}
		stop() // while the second one hangs
	})
}

package heartbeat_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// slowScheduler takes half a second for a hint, and fails.
type slowScheduler struct {
	schedulerv1.SchedulerServiceClient

	asked []time.Time
}

// Offer notes when it was called.
func (s *slowScheduler) Offer(ctx context.Context, _ *schedulerv1.OfferRequest, _ ...grpc.CallOption) (*schedulerv1.OfferResponse, error) {
	s.asked = append(s.asked, time.Now())
	if err := during(ctx, 500*time.Millisecond); err != nil {
		return nil, err
	}
	return nil, errors.New("nobody leads")
}

// The first end is told at once, and after the last one the scheduler is told once more, however many were between.
func TestLastEndIsToldToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, scheduler := newLedger(), &slowScheduler{}
		s := heartbeat.New(heartbeat.Defaults(), l, scheduler, quiet())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		start := time.Now()
		for _, after := range []time.Duration{0, 100, 499, 5000, 5540} { // milliseconds
			incarnation := begin(t, s, after.String(), time.Minute)
			pass(after*time.Millisecond - time.Since(start))
			if err := s.End(t.Context(), incarnation.String(), true); err != nil {
				t.Error(err)
			}
		}
		pass(10 * time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		var got []time.Duration
		for _, at := range scheduler.asked {
			got = append(got, at.Sub(scheduler.asked[0]).Round(10*time.Millisecond))
		}
		want := []time.Duration{0, 550 * time.Millisecond, 5 * time.Second, 5550 * time.Millisecond}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

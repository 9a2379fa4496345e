package heartbeat

import (
	"context"
	"log/slog"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

const (
	// hintFor bounds one hint. The leader looks every second by itself: a hint that takes longer is worth nothing.
	hintFor = time.Second
	// hintPause is between two hints: when a thousand executors stop together, the leader looks a few times, not a thousand.
	hintPause = 50 * time.Millisecond
)

// hinter tells the scheduler at once when a life of an executor is over, and once more, after a pause, if others were meanwhile.
// Nothing is lost with a hint: there is a note of each life in the database.
type hinter struct {
	scheduler schedulerv1.SchedulerServiceClient
	log       *slog.Logger
	over      chan struct{}
}

func newHinter(scheduler schedulerv1.SchedulerServiceClient, log *slog.Logger) *hinter {
	return &hinter{scheduler: scheduler, log: log, over: make(chan struct{}, 1)}
}

// hint notes that a life is over, and waits for nothing.
func (h *hinter) hint() {
	select {
	case h.over <- struct{}{}:
	default:
	}
}

// run tells until ctx ends.
func (h *hinter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.over:
		}
		limited, cancel := context.WithTimeout(ctx, hintFor)
		if _, err := h.scheduler.Offer(limited, &schedulerv1.OfferRequest{}); err != nil && ctx.Err() == nil {
			h.log.DebugContext(ctx, "hint lost", slog.Any("error", err))
		}
		cancel()
		pause := time.NewTimer(hintPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

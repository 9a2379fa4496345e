package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

// Hinter tells the leader that there is something to find. Any number of hints while one is on its way become one more
// after it: the last word is always heard, and a flood of dispatches is not a flood of calls.
type Hinter struct {
	client schedulerv1.SchedulerServiceClient
	log    *slog.Logger
	signal chan struct{}
}

// NewHinter makes a Leader of the scheduler's client.
func NewHinter(client schedulerv1.SchedulerServiceClient, log *slog.Logger) *Hinter {
	return &Hinter{client: client, log: log, signal: make(chan struct{}, 1)}
}

// hintFor bounds one hint. The leader's own look comes every second: a hint that takes longer is worth nothing.
const hintFor = time.Second

// Offer notes a hint for Run to send.
func (h *Hinter) Offer() {
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// Settle waits for the fate of an immediate task.
func (h *Hinter) Settle(ctx context.Context, id string) error {
	if _, err := h.client.Offer(ctx, &schedulerv1.OfferRequest{SettleTaskIds: []string{id}}); err != nil {
		return fmt.Errorf("settle task %s: %w", id, err)
	}
	return nil
}

// Run sends hints until ctx ends.
func (h *Hinter) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.signal:
		}
		hintCtx, cancel := context.WithTimeout(ctx, hintFor)
		if _, err := h.client.Offer(hintCtx, &schedulerv1.OfferRequest{}); err != nil && ctx.Err() == nil {
			// Nothing is lost: the leader looks by itself.
			h.log.DebugContext(ctx, "hint lost", slog.Any("error", err))
		}
		cancel()
	}
}

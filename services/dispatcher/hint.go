package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Hinter tells the leader what was stored, or that there is something to find. Whatever comes while one hint is on its way
// goes with the next: the last word is always heard, and a flood of dispatches is not a flood of calls.
type Hinter struct {
	client schedulerv1.SchedulerServiceClient
	log    *slog.Logger
	signal chan struct{}

	mu    sync.Mutex
	tasks []*schedulerv1.OfferedTask
	bytes int
	// look is set when the leader must look for itself: there is something that tasks does not tell.
	look bool
	// live is how many tasks were not final when the leader counted last, at that time. told is how many were ever offered, and
	// base how many of them before that count was asked for.
	live, told, base int64
	at               time.Time
}

// NewHinter makes a Leader of the scheduler's client.
func NewHinter(client schedulerv1.SchedulerServiceClient, log *slog.Logger) *Hinter {
	return &Hinter{client: client, log: log, signal: make(chan struct{}, 1)}
}

// hintFor bounds one hint. The leader's own look comes every second: a hint that takes longer is worth nothing.
const hintFor = time.Second

// maxOffer is how many bytes of names one hint carries. What goes beyond it the leader reads by itself.
const maxOffer = 1 << 20

// Offer notes a hint for Run to send: of tasks that are committed, or, without any, of something else that changed.
func (h *Hinter) Offer(tasks ...*New) {
	h.mu.Lock()
	if len(tasks) == 0 {
		h.look = true
	}
	h.told += int64(len(tasks))
	for _, t := range tasks {
		if len(h.tasks) == limits.MaxOffered || h.bytes > maxOffer {
			h.look = true
			break
		}
		h.bytes += size(t)
		h.tasks = append(h.tasks, offered(t))
	}
	h.mu.Unlock()
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// liveFor is how long a count of the live tasks is believed. Without a leader nobody counts, and dispatch works.
const liveFor = 10 * time.Second

// Live is about how many tasks are not final: what the leader counted last, if that is not long ago, and what was offered since.
func (h *Hinter) Live() (tasks int64, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live + h.told - h.base, !h.at.IsZero() && time.Since(h.at) < liveFor
}

// offer makes one call, and notes what the leader counted. Whether what it is told now is in that count is not known; what it
// was told before is.
func (h *Hinter) offer(ctx context.Context, request *schedulerv1.OfferRequest) error {
	h.mu.Lock()
	base := h.told
	h.mu.Unlock()
	answer, err := h.client.Offer(ctx, request)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if base >= h.base { // one that took longer knows less
		h.live, h.base, h.at = answer.GetLiveTasks(), base, time.Now()
	}
	return nil
}

// offered is what the scheduler keeps of a task.
func offered(t *New) *schedulerv1.OfferedTask {
	return &schedulerv1.OfferedTask{
		Seq: t.Seq, TaskId: t.ID, Name: t.Name, ExclusiveResources: t.Reserved.Exclusive, SharedResources: t.Reserved.Shared,
		Immediate: t.Immediate, Deferred: t.Deferred, Versions: t.Versions, CreatedAt: timestamppb.New(t.CreatedAt),
		Retry: wire.Retry(t.Options.Retry),
	}
}

// size is about how many bytes the names of a task take.
func size(t *New) int {
	n := 100 + len(t.Name)
	for _, names := range [][]string{t.Reserved.Exclusive, t.Reserved.Shared} {
		for _, name := range names {
			n += len(name) + 4
		}
	}
	for component, version := range t.Versions {
		n += len(component) + len(version) + 8
	}
	return n
}

// take returns what there is to tell, as the fewest calls that tell it.
func (h *Hinter) take() []*schedulerv1.OfferRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	var requests []*schedulerv1.OfferRequest
	if len(h.tasks) > 0 {
		requests = append(requests, &schedulerv1.OfferRequest{Tasks: h.tasks})
	}
	if h.look {
		requests = append(requests, &schedulerv1.OfferRequest{})
	}
	h.tasks, h.bytes, h.look = nil, 0, false
	return requests
}

// Settle waits for the fate of immediate tasks.
func (h *Hinter) Settle(ctx context.Context, tasks []*New) error {
	request := &schedulerv1.OfferRequest{}
	bytes := 0
	for _, t := range tasks {
		request.SettleTaskIds = append(request.SettleTaskIds, t.ID)
		if bytes += size(t); bytes < maxOffer {
			request.Tasks = append(request.Tasks, offered(t))
		}
	}
	if err := h.offer(ctx, request); err != nil {
		return fmt.Errorf("settle %d tasks: %w", len(tasks), err)
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
		for _, request := range h.take() {
			hintCtx, cancel := context.WithTimeout(ctx, hintFor)
			if err := h.offer(hintCtx, request); err != nil && ctx.Err() == nil {
				// Nothing is lost: the leader looks by itself.
				h.log.DebugContext(ctx, "hint lost", slog.Any("error", err))
			}
			cancel()
		}
	}
}

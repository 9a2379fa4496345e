package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const (
	// gateName is a task that nobody has a handler for. Once unblocked it holds its resource, waits for an executor that never
	// comes, and costs nothing.
	gateName = "bench.gate"
	// backlogResources is what the waiting tasks share out among themselves, beside the one that all of them wait for.
	backlogResources = 10_000
	backlogBatch     = 1000
)

// fillBacklog dispatches the gate and, when that has its place, the tasks that wait behind it.
func (b *Bench) fillBacklog(ctx context.Context) error {
	if b.config.Backlog == 0 {
		return nil
	}
	b.config.Say("dispatching %d tasks that will wait", b.config.Backlog)
	gate := b.work.prefix + "gate"
	answer, err := b.dispatcher.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{
		Name: gateName, ExclusiveResources: []string{gate}, Deferred: proto.Bool(true), CorrelationId: b.record.correlation(len(b.record.ids)),
	}})
	if err != nil {
		return fmt.Errorf("dispatch the task that holds the others up: %w", err)
	}
	b.waiting = make([]string, b.config.Backlog+1)
	b.waiting[b.config.Backlog] = answer.GetTask().GetId() // the last to be canceled

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next        atomic.Int64
		dispatchers sync.WaitGroup
	)
	for range min(b.config.Dispatchers, 4) {
		dispatchers.Go(func() {
			for ctx.Err() == nil {
				from := (int(next.Add(1)) - 1) * backlogBatch
				to := min(from+backlogBatch, b.config.Backlog)
				if from >= to {
					return
				}
				if err := b.fill(ctx, gate, from, to); err != nil {
					cancel(err)
				}
			}
		})
	}
	dispatchers.Wait()
	return context.Cause(ctx)
}

// fill dispatches the waiting tasks from from to below to.
func (b *Bench) fill(ctx context.Context, gate string, from, to int) error {
	random := rand.NewPCG(b.config.Seed, uint64(from))
	specs := make([]*taskv1.TaskSpec, 0, to-from)
	for n := from; n < to; n++ {
		specs = append(specs, &taskv1.TaskSpec{
			Name: taskName, SharedResources: []string{gate}, Deferred: proto.Bool(true), Versions: b.config.Versions,
			ExclusiveResources: []string{b.work.prefix + "waiting:" + strconv.Itoa(below(random, backlogResources))},
			CorrelationId:      b.record.correlation(len(b.record.ids) + 1 + n),
		})
	}
	answer, err := b.dispatcher.DispatchBatch(ctx, &dispatcherv1.DispatchBatchRequest{Tasks: specs})
	if err != nil {
		return fmt.Errorf("dispatch %d tasks that wait: %w", len(specs), err)
	}
	for i, t := range answer.GetTasks() {
		b.waiting[from+i] = t.GetId()
	}
	return nil
}

// cleanupTime is how long a run that was interrupted still cancels what it left.
const cleanupTime = 10 * time.Second

// cleanUp cancels what waits: the backlog, the gate last so that nothing of it is let in, and after a failure what else was
// dispatched.
func (b *Bench) cleanUp(ctx context.Context) error {
	if b.config.KeepBacklog {
		return nil
	}
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
	}
	ids := b.record.openIDs()
	if n := len(b.waiting); n > 0 {
		b.config.Say("canceling the tasks that wait")
		ids = append(ids, b.waiting[:n-1]...)
	}
	left := b.cancel(ctx, ids)
	if n := len(b.waiting); n > 0 {
		left += b.cancel(ctx, b.waiting[n-1:])
	}
	if left > 0 {
		return fmt.Errorf("%d tasks could not be canceled and still wait", left)
	}
	return nil
}

// cancel returns how many could not be canceled.
func (b *Bench) cancel(ctx context.Context, ids []string) int {
	var (
		next, left atomic.Int64
		cancelers  sync.WaitGroup
	)
	for range min(32, len(ids)) {
		cancelers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(ids) {
					return
				}
				if ids[i] == "" {
					continue // never dispatched
				}
				if _, err := b.dispatcher.Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: ids[i]}); err != nil && !isFinal(err) {
					left.Add(1)
				}
			}
		})
	}
	cancelers.Wait()
	return int(left.Load())
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
)

const (
	// look is how often it is looked whether anything is amiss.
	look = time.Second
	// missing is for how long nothing may move before tasks are asked for one by one.
	missing = 2 * time.Second
	// pageSize is how many are asked for at once.
	pageSize = 1000
)

// phase is a part of the tasks that are dispatched in one go: numbers from from to below to.
type phase struct {
	from, to int
	rate     float64
}

// errStalled says that tasks that should have ended did not.
var errStalled = errors.New("nothing happens any more")

// load dispatches the tasks of a phase and waits until all have ended.
func (b *Bench) load(ctx context.Context, p phase) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, b.record.wake)()
	var (
		dispatchers sync.WaitGroup
		next        atomic.Int64
		start       = time.Now()
	)
	ended := b.record.await(p.to)
	for range b.config.Dispatchers {
		dispatchers.Go(func() {
			if err := b.dispatch(ctx, p, start, &next); err != nil {
				cancel(err)
			}
		})
	}
	err := b.await(ctx, ended)
	cancel(err)
	dispatchers.Wait()
	return err
}

// dispatch is one client: it hands in one batch after the other.
func (b *Bench) dispatch(ctx context.Context, p phase, start time.Time, next *atomic.Int64) error {
	batch := b.config.Batch
	for {
		from := p.from + (int(next.Add(1))-1)*batch
		to := min(from+batch, p.to)
		if from >= p.to || !b.mayDispatch(ctx, p, start, from, to) {
			return nil
		}
		specs := make([]*taskv1.TaskSpec, 0, batch)
		for n := from; n < to; n++ {
			specs = append(specs, b.spec(n))
		}
		at := b.record.now()
		for n := from; n < to; n++ {
			b.record.called[n] = at
		}
		tasks, err := b.call(ctx, specs)
		at = b.record.now()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil //nolint:nilerr // whoever ended ctx knows why
		case err != nil:
			return fmt.Errorf("dispatch %d tasks: %w", len(specs), err)
		case len(tasks) != len(specs):
			return fmt.Errorf("dispatch %d tasks: the answer has %d", len(specs), len(tasks))
		}
		if err := b.record.stored(from, tasks, at); err != nil {
			return err
		}
	}
}

// mayDispatch waits for the time that a batch is due, or until there is room for it.
func (b *Bench) mayDispatch(ctx context.Context, p phase, start time.Time, from, to int) bool {
	if p.rate == 0 {
		return b.record.take(ctx, to-from, b.config.InFlight)
	}
	due := start.Add(time.Duration(float64(from-p.from) / p.rate * float64(time.Second)))
	return run.Pause(ctx, time.Until(due)) && b.record.take(ctx, to-from, maxTasks)
}

// spec is the nth task.
func (b *Bench) spec(n int) *taskv1.TaskSpec {
	reserved := b.work.reservation(n)
	return &taskv1.TaskSpec{
		Name: taskName, ExclusiveResources: reserved.exclusive, SharedResources: reserved.shared, Immediate: reserved.immediate,
		Deferred: proto.Bool(true), Versions: b.config.Versions, CorrelationId: b.record.correlation(n),
	}
}

// call dispatches alone what is alone.
func (b *Bench) call(ctx context.Context, specs []*taskv1.TaskSpec) ([]*taskv1.Task, error) {
	if len(specs) == 1 && b.config.Batch == 1 {
		answer, err := b.dispatcher.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: specs[0]})
		return []*taskv1.Task{answer.GetTask()}, err
	}
	answer, err := b.dispatcher.DispatchBatch(ctx, &dispatcherv1.DispatchBatchRequest{Tasks: specs})
	return answer.GetTasks(), err
}

// await waits until all have ended. In between it asks for tasks of which the stream of changes may have said nothing.
func (b *Bench) await(ctx context.Context, ended <-chan struct{}) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		idle := b.record.idle()
		if idle > b.config.Patience {
			return fmt.Errorf("%w: no task was dispatched or ended for %s", errStalled, b.config.Patience)
		}
		if b.interrupted.Swap(false) || idle > missing {
			if err := b.askForOpen(ctx); err != nil && ctx.Err() == nil {
				b.config.Say("asking for tasks that have not been heard of: %s", err)
			}
		}
	}
}

// askForOpen asks for all tasks whose end was not seen.
func (b *Bench) askForOpen(ctx context.Context) error {
	for from := 0; ; {
		numbers, next := b.record.open(from, pageSize)
		if len(numbers) == 0 {
			return nil
		}
		request := &statusv1.WaitTasksRequest{Timeout: durationpb.New(0)}
		for _, n := range numbers {
			request.TaskIds = append(request.GetTaskIds(), b.record.id(n))
		}
		answer, err := b.status.WaitTasks(ctx, request)
		if err != nil {
			return fmt.Errorf("ask for %d tasks: %w", len(numbers), err)
		}
		b.record.looked(numbers, answer.GetTasks())
		from = next
	}
}

// follow notes the ends of tasks as the leader commits them, until ctx ends. It closes ready when nothing is missed any more.
func (b *Bench) follow(ctx context.Context, ready chan<- struct{}) {
	announce := sync.OnceFunc(func() { close(ready) })
	for {
		err := b.followOnce(ctx, announce)
		if ctx.Err() != nil {
			return
		}
		b.interrupted.Store(true)
		b.config.Say("the stream of changes broke: %s", err)
		if !run.Pause(ctx, 100*time.Millisecond) {
			return
		}
	}
}

func (b *Bench) followOnce(ctx context.Context, announce func()) error {
	stream, err := b.scheduler.Follow(ctx, nil)
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		announce() // the first one is empty and says that from now on nothing is left out
		b.record.saw(message.GetChanges())
	}
}

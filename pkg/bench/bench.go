package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/history"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// taskName is what every task of every workload runs.
const taskName = "test.noop"

// Bench is one run.
type Bench struct {
	config Config
	work   *workload
	record *record

	dispatcher dispatcherv1.DispatcherServiceClient
	scheduler  schedulerv1.SchedulerServiceClient
	status     statusv1.StatusServiceClient
	meter      *meter.Meter // nil: nobody reads what the server spends

	// interrupted: the stream of changes broke, and may have left something out.
	interrupted atomic.Bool
	// waiting are the ids of the backlog, that of the gate last.
	waiting []string
}

// New prepares a run: all memory that its record needs is taken here.
func New(config Config) (*Bench, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	record := newRecord(config.WarmUp+config.Tasks, config.InFlight)
	work, err := newWorkload(config.Workload, record.mark[:8], config.Seed)
	if err != nil {
		return nil, err
	}
	return &Bench{config: config, work: work, record: record}, nil
}

// Register adds the handler of the tasks to the executor that is to run them.
func (b *Bench) Register(mux *worker.Mux) {
	worker.Handle(mux, taskName, b.record.noop, worker.Immediate())
}

// Run dispatches the tasks over a connection behind which all services answer, and waits until the last has ended. An executor
// with the handler must be there. Violations of the promises are not yet in the result: they are known when the executor has
// stopped. The meter is that of the database behind the services, nil if it is not known.
func (b *Bench) Run(ctx context.Context, conn grpc.ClientConnInterface, server *meter.Meter) (result Result, err error) {
	b.meter = server
	b.dispatcher = dispatcherv1.NewDispatcherServiceClient(conn)
	b.scheduler = schedulerv1.NewSchedulerServiceClient(conn)
	b.status = statusv1.NewStatusServiceClient(conn)

	following, stop := context.WithCancel(ctx)
	ready := make(chan struct{})
	var follower sync.WaitGroup
	follower.Go(func() { b.follow(following, ready) })
	defer follower.Wait()
	defer stop()
	defer func() { err = errors.Join(err, b.cleanUp(ctx)) }()
	select {
	case <-ready:
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}

	var known Result
	if err := b.prepare(ctx, &known); err != nil {
		return Result{}, err
	}
	spent, err := b.timed(ctx)
	if err != nil && !errors.Is(err, errStalled) {
		return Result{}, err
	}
	if err != nil {
		b.config.Say("%s; what is missing counts as lost", err)
	}
	result = b.result(spent)
	result.SerialCommit, result.Durable = known.SerialCommit, known.Durable
	return result, nil
}

// prepare does all that comes before the clock starts, and notes what the server is like.
func (b *Bench) prepare(ctx context.Context, known *Result) error {
	const commits = 200
	if m := b.meter; m != nil {
		durable, err := m.Durable(ctx)
		if err != nil {
			return err
		}
		took, err := m.SerialCommit(ctx, commits)
		if err != nil {
			return err
		}
		known.Durable, known.SerialCommit = &durable, pointer(rounded(took.Seconds()*1e3))
		if !durable {
			b.config.Say("this server is not durable (fsync, synchronous_commit, full_page_writes): it is faster than it should be")
		}
	}
	if err := b.fillBacklog(ctx); err != nil {
		return err
	}
	if b.meter != nil && b.config.SettleServer {
		if err := b.meter.Settle(ctx); err != nil {
			return err
		}
	}
	b.config.Say("warming up with %d tasks", b.config.WarmUp)
	if err := b.load(ctx, phase{to: b.config.WarmUp, rate: b.config.Rate}); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return nil
}

// timed is what the clock measures. It returns the costs also when it stalled.
func (b *Bench) timed(ctx context.Context) (costs, error) {
	b.config.Say("measuring %d tasks", b.config.Tasks)
	before, err := b.costs(ctx)
	if err != nil {
		return costs{}, err
	}
	if b.config.CPUProfile != nil {
		if err := pprof.StartCPUProfile(b.config.CPUProfile); err != nil {
			return costs{}, fmt.Errorf("start the profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	loadErr := b.load(ctx, phase{from: b.config.WarmUp, to: len(b.record.ids), rate: b.config.Rate})
	after, err := b.costs(context.WithoutCancel(ctx))
	if err != nil {
		return costs{}, errors.Join(loadErr, err)
	}
	return after.since(before), loadErr
}

// Violations judges everything that was recorded, warm-up included. Call it when the executor has stopped.
func (b *Bench) Violations() []history.Violation {
	return history.Check(b.record.history(b.work, b.batchOf))
}

// batchOf is the number of the call that dispatched the nth task.
func (b *Bench) batchOf(n int) int {
	if n < b.config.WarmUp {
		return n / b.config.Batch
	}
	return (b.config.WarmUp+b.config.Batch-1)/b.config.Batch + (n-b.config.WarmUp)/b.config.Batch
}

// costs are what was spent so far.
type costs struct {
	server     meter.Reading
	metered    bool
	statements int64
	own        time.Duration // processor time of this process
}

func (b *Bench) costs(ctx context.Context) (costs, error) {
	var (
		c   costs
		err error
	)
	if b.config.Statements != nil {
		c.statements = b.config.Statements.Count()
	}
	if c.own, err = ownCPU(); err != nil {
		return costs{}, err
	}
	if b.meter != nil {
		c.metered = true
		if c.server, err = b.meter.Read(ctx); err != nil {
			return costs{}, err
		}
	}
	return c, nil
}

func (c costs) since(before costs) costs {
	return costs{
		server: c.server.Since(before.server), metered: c.metered,
		statements: c.statements - before.statements, own: c.own - before.own,
	}
}

// isFinal says that a task could not be canceled because it has ended.
func isFinal(err error) bool { return errs.Is(err, errs.TaskFinal) }

func pointer[T any](v T) *T { return &v }

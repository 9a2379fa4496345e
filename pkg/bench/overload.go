package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// OverloadConfig says how much more is offered than can be run.
type OverloadConfig struct {
	// Slots is how many tasks run at once, TaskTime how long each takes: so much can be run.
	Slots    int
	TaskTime time.Duration
	// Times is how many times as much is offered, in calls of Batch tasks, for as long as Window says. Before, half of what can be
	// run is offered for a third of that.
	Times  float64
	Batch  int
	Window time.Duration
	Seed   uint64
	// Versions are what the executor must have, so that the tasks come to no other one.
	Versions map[string]string
	// Say tells somebody what is going on; nil: nobody listens.
	Say func(format string, args ...any)
}

// Check says what is wrong with it.
func (c OverloadConfig) Check() error {
	switch {
	case c.Times <= 0 || c.Times > maxOverload || math.IsNaN(c.Times):
		return fmt.Errorf("overload must be above 0 and at most %d, is %g", maxOverload, c.Times)
	case c.Slots < 1:
		return fmt.Errorf("slots must be at least 1, is %d", c.Slots)
	case c.Batch < 1:
		return fmt.Errorf("batch must be at least 1, is %d", c.Batch)
	case c.Window < minWindow:
		return fmt.Errorf("window must be at least %s, is %s", minWindow, c.Window)
	}
	return nil
}

// maxOverload is more than any machine can offer.
const maxOverload = 10_000

// OverloadResult is what came of it.
type OverloadResult struct {
	// Capacity is how many tasks can be run in a second.
	Capacity float64        `json:"capacity_per_second"`
	Normal   OverloadPhase  `json:"half_of_it"`
	Over     OverloadPhase  `json:"over"`
	Times    float64        `json:"times"`
	Missing  int            `json:"executors_declared_missing"`
	Errors   map[string]int `json:"errors,omitempty"` // other than refusals, by their reason
}

// OverloadPhase is a time in which so much was offered.
type OverloadPhase struct {
	Seconds float64 `json:"seconds"`
	// Offered is how many tasks were handed in each second: accepted, or refused because there is too much.
	Offered  float64 `json:"offered_per_second"`
	Accepted float64 `json:"accepted_per_second"`
	Refused  float64 `json:"refused_per_second"`
	// Ran is how many tasks began in a second.
	Ran float64 `json:"ran_per_second"`
	// AcceptedIn and RefusedIn are the times of the calls.
	AcceptedIn Percentiles `json:"accepted_ms"`
	RefusedIn  Percentiles `json:"refused_ms"`
	// RetryAfter is the mean of the hints, in seconds.
	RetryAfter float64 `json:"retry_after_seconds"`
	// Late is by how much the last call was made later than it was due: then this process could not offer as much.
	Late float64 `json:"late_seconds"`
	// RSS is the memory of this process at its largest: services, executor and load.
	RSS int64 `json:"rss_bytes"`
}

// Overload offers more than can be run.
type Overload struct {
	config OverloadConfig
	ran    atomic.Int64
}

// overloadClients make the calls; each waits for the answer before it makes the next.
const overloadClients = 256

// NewOverload prepares it.
func NewOverload(config OverloadConfig) *Overload {
	if config.Say == nil {
		config.Say = func(string, ...any) {}
	}
	return &Overload{config: config}
}

// Register adds the handler of the tasks to the executor that is to run them. It keeps a slot for the time of the task.
func (o *Overload) Register(mux *worker.Mux) {
	worker.Handle(mux, taskName, func(ctx context.Context, _ nothing) (worker.None, error) {
		o.ran.Add(1)
		run.Pause(ctx, o.config.TaskTime)
		return worker.None{}, ctx.Err()
	}, worker.InProcess())
}

// Run offers half of what can be run, and then too much, and leaves what has not run by then behind.
func (o *Overload) Run(ctx context.Context, conn grpc.ClientConnInterface) (OverloadResult, error) {
	c := o.config
	r := OverloadResult{Capacity: float64(c.Slots) / c.TaskTime.Seconds(), Times: c.Times, Errors: map[string]int{}}
	var err error
	c.Say("offering half of the %.0f tasks a second that can be run", r.Capacity)
	if r.Normal, err = o.offer(ctx, conn, r.Capacity/2, c.Window/3, r.Errors); err != nil {
		return r, err
	}
	c.Say("offering %g times as many", c.Times)
	if r.Over, err = o.offer(ctx, conn, r.Capacity*c.Times, c.Window, r.Errors); err != nil {
		return r, err
	}
	gone, err := heartbeatv1.NewHeartbeatServiceClient(conn).ListApps(ctx, &heartbeatv1.ListAppsRequest{IncludeGone: true})
	if err != nil {
		return r, fmt.Errorf("ask for executors that went missing: %w", err)
	}
	for _, app := range gone.GetApps() {
		if app.GetMissing() {
			r.Missing++
		}
	}
	return r, nil
}

// offer makes calls at a rate, whatever becomes of them.
func (o *Overload) offer(ctx context.Context, conn grpc.ClientConnInterface, rate float64, window time.Duration, failed map[string]int) (OverloadPhase, error) {
	var (
		phase             OverloadPhase
		next              atomic.Int64
		mu                sync.Mutex
		accepted, refused []int64 // how long the calls took
		hints, late       time.Duration
		clients, watch    sync.WaitGroup
	)
	dispatcher := dispatcherv1.NewDispatcherServiceClient(conn)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watch.Go(func() {
		for {
			phase.RSS = max(phase.RSS, ownRSS())
			if !run.Pause(watching, 200*time.Millisecond) {
				return
			}
		}
	})
	start, ran := time.Now(), o.ran.Load()
	calls := int64(rate * window.Seconds() / float64(o.config.Batch))
	each := time.Duration(float64(o.config.Batch) / rate * float64(time.Second))
	for range overloadClients {
		clients.Go(func() {
			for n := next.Add(1) - 1; n < calls; n = next.Add(1) - 1 {
				due := start.Add(time.Duration(n) * each)
				// A client that is late makes no call for what it could not make in time: nobody offers so much.
				if !run.Pause(ctx, time.Until(due)) || time.Since(start) > window {
					return
				}
				called := time.Now()
				_, err := dispatcher.DispatchBatch(ctx, &dispatcherv1.DispatchBatchRequest{Tasks: o.specs(n)})
				took := int64(time.Since(called))
				mu.Lock()
				late = max(late, called.Sub(due))
				var told *errs.Error
				switch {
				case err == nil:
					accepted = append(accepted, took)
				case errs.Is(err, errs.Overloaded) && errors.As(errs.From(err), &told):
					refused = append(refused, took)
					hints += told.RetryAfter
				default:
					failed[err.Error()]++
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	stop()
	watch.Wait()
	if ctx.Err() != nil {
		return phase, context.Cause(ctx)
	}
	seconds := time.Since(start).Seconds()
	perSecond := func(n int) float64 { return rounded(float64(n*o.config.Batch) / seconds) }
	phase.Seconds, phase.Late = rounded(seconds), rounded(late.Seconds())
	phase.Offered, phase.Accepted, phase.Refused = perSecond(len(accepted)+len(refused)), perSecond(len(accepted)), perSecond(len(refused))
	phase.Ran = rounded(float64(o.ran.Load()-ran) / seconds)
	if len(refused) > 0 {
		phase.RetryAfter = rounded(hints.Seconds() / float64(len(refused)))
	}
	phase.AcceptedIn, phase.RefusedIn = percentiles(accepted), percentiles(refused)
	return phase, nil
}

// specs are the tasks of the nth call: each has one of many resources for itself.
func (o *Overload) specs(n int64) []*taskv1.TaskSpec {
	random := rand.NewPCG(o.config.Seed, uint64(n))
	specs := make([]*taskv1.TaskSpec, o.config.Batch)
	for i := range specs {
		specs[i] = &taskv1.TaskSpec{
			Name: taskName, ExclusiveResources: []string{"prn:bench.overload:" + strconv.Itoa(below(random, 100_000))}, Versions: o.config.Versions,
		}
	}
	return specs
}

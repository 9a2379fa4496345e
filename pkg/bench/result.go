package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Result is what was measured. Its JSON is what programs read; figures that can't be known from here are null.
type Result struct {
	Workload    string  `json:"workload"`
	Tasks       int     `json:"tasks"`
	WarmUp      int     `json:"warm_up"`
	Slots       int     `json:"slots"`
	Dispatchers int     `json:"dispatchers"`
	Batch       int     `json:"batch"`
	InFlight    int     `json:"in_flight"` // 0 at a rate
	Rate        float64 `json:"rate"`      // 0 as fast as it goes
	Backlog     int     `json:"backlog"`
	Seed        uint64  `json:"seed"`

	// Seconds is the time that the clock ran, Completed how many tasks ended well by then.
	Seconds        float64 `json:"seconds"`
	Completed      int     `json:"completed"`
	TasksPerSecond float64 `json:"tasks_per_second"`
	// Start is the time from the call of Dispatch to the start of the handler, Dispatch the time that the call took.
	Start    Percentiles `json:"start_ms"`
	Dispatch Percentiles `json:"dispatch_ms"`

	// Costs per task.
	PostgresCPU *float64 `json:"postgres_cpu_us_per_task"`
	WAL         *float64 `json:"wal_bytes_per_task"`
	Commits     *float64 `json:"commits_per_task"`
	Statements  *float64 `json:"statements_per_task"`
	// ProcessCPU is that of this process: the load, the executor, and the services that run in it.
	ProcessCPU float64 `json:"process_cpu_us_per_task"`
	// SerialCommit is the median time of one small transaction after the other, in milliseconds, before the load.
	SerialCommit *float64 `json:"serial_commit_ms"`

	// Durable says whether the server kept every commit through a crash of the machine; if not, the figures mean little.
	Durable *bool `json:"durable"`

	// Violations is how many times a promise was broken.
	Violations int `json:"violations"`
}

// Percentiles of a time, in milliseconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// result makes the figures of the record and the costs.
func (b *Bench) result(spent costs) Result {
	c := b.config
	made := Result{
		Workload: c.Workload, Tasks: c.Tasks, WarmUp: c.WarmUp, Slots: c.Slots, Dispatchers: c.Dispatchers, Batch: c.Batch,
		InFlight: c.InFlight, Rate: c.Rate, Backlog: c.Backlog, Seed: c.Seed,
	}
	if c.Rate > 0 {
		made.InFlight = 0
	}
	b.record.figures(c.WarmUp, &made)
	if made.Completed == 0 {
		return made
	}
	perTask := func(total float64) *float64 { return pointer(rounded(total / float64(made.Completed))) }
	made.ProcessCPU = *perTask(microseconds(spent.own))
	if c.Statements != nil {
		made.Statements = perTask(float64(spent.statements))
	}
	if spent.metered {
		made.WAL = perTask(float64(spent.server.WAL))
		made.Commits = perTask(float64(spent.server.Transactions))
		if spent.server.CPUKnown {
			made.PostgresCPU = perTask(microseconds(spent.server.CPU))
		}
	}
	return made
}

// figures fills in what the record says of the tasks from number from on.
func (r *record) figures(from int, into *Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var (
		starts, calls []int64
		first, last   = int64(math.MaxInt64), int64(0)
	)
	for n := from; n < len(r.ids); n++ {
		if r.called[n] == 0 {
			continue
		}
		first, last = min(first, r.called[n]), max(last, r.final[n])
		if r.returned[n] != 0 {
			calls = append(calls, r.returned[n]-r.called[n])
		}
		if r.started[n] != 0 {
			starts = append(starts, r.started[n]-r.called[n])
		}
		if r.completedWell(n) {
			into.Completed++
		}
	}
	into.Start, into.Dispatch = percentiles(starts), percentiles(calls)
	if last > first {
		seconds := time.Duration(last - first).Seconds()
		into.Seconds = rounded(seconds)
		into.TasksPerSecond = rounded(float64(into.Completed) / seconds)
	}
}

// percentiles sorts the times, which are nanoseconds.
func percentiles(times []int64) Percentiles {
	if len(times) == 0 {
		return Percentiles{}
	}
	slices.Sort(times)
	at := func(share float64) float64 {
		place := int(math.Ceil(share*float64(len(times)))) - 1
		return rounded(float64(times[max(place, 0)]) / 1e6)
	}
	return Percentiles{P50: at(0.50), P95: at(0.95), P99: at(0.99)}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// rounded cuts digits that mean nothing.
func rounded(v float64) float64 { return math.Round(v*1e4) / 1e4 }

// Load says in words how the tasks were dispatched.
func (r Result) Load() string {
	how := "each alone"
	if r.Batch > 1 {
		how = fmt.Sprintf("in batches of %d", r.Batch)
	}
	if r.Rate > 0 {
		return fmt.Sprintf("%d dispatchers, %s, %g tasks a second, %d slots", r.Dispatchers, how, r.Rate, r.Slots)
	}
	return fmt.Sprintf("%d dispatchers, %s, at most %d tasks in flight, %d slots", r.Dispatchers, how, r.InFlight, r.Slots)
}

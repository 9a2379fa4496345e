package bench

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
)

// Config says what is measured and how.
type Config struct {
	// Workload is one of Workloads.
	Workload string
	// Tasks are counted. WarmUp tasks go before them, are waited for and not counted; negative means a tenth of Tasks, at
	// most 10,000.
	Tasks, WarmUp int
	// Slots is how many tasks the executor runs at once. The executor is the caller's; here it decides how many tasks are kept
	// in flight.
	Slots int
	// Dispatchers is how many clients dispatch side by side, Batch how many tasks each hands in with one call: 1 for
	// Dispatch, more for DispatchBatch.
	Dispatchers, Batch int
	// InFlight is how many tasks may be dispatched and not completed; 0 means 4 × Slots + 2 × Dispatchers × Batch: slots that
	// never run dry, though tasks wait for each other and a batch is under way.
	InFlight int
	// Rate is how many tasks are dispatched in a second, evenly spaced, whatever becomes of them. 0: as fast as they go.
	Rate float64
	// Backlog is how many tasks wait all the while.
	Backlog int
	// KeepBacklog leaves it behind, for a database that is thrown away.
	KeepBacklog bool
	// Seed makes the same run again.
	Seed uint64
	// Versions are what the executor must have, so that the tasks come to no other one.
	Versions map[string]string
	// Patience is how long nothing at all may happen; 0 means a minute.
	Patience time.Duration

	// SettleServer lets the server catch up before the clock.
	SettleServer bool
	// Statements counts what the services of this process send; nil: they run elsewhere.
	Statements *meter.Statements
	// CPUProfile gets a profile of the timed part; nil: none is made.
	CPUProfile io.Writer
	// Say tells somebody what is going on; nil: nobody listens.
	Say func(format string, args ...any)
}

const (
	maxTasks        = 50_000_000 // some 100 bytes of memory each
	maxDispatchers  = 10_000
	defaultPatience = time.Minute
)

// complete fills in the defaults and says what is wrong.
func (c Config) complete() (Config, error) {
	if c.WarmUp < 0 {
		c.WarmUp = min((c.Tasks+9)/10, 10_000)
	}
	if c.InFlight == 0 {
		c.InFlight = 4*c.Slots + 2*c.Dispatchers*c.Batch
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Say == nil {
		c.Say = func(string, ...any) {}
	}
	for _, f := range []struct {
		flag      string
		value     int
		low, high int
	}{
		{"tasks", c.Tasks, 1, maxTasks},
		{"warm-up", c.WarmUp, 0, maxTasks},
		{"slots", c.Slots, 1, limits.MaxSlots},
		{"dispatchers", c.Dispatchers, 1, maxDispatchers},
		{"batch", c.Batch, 1, limits.MaxBatch},
		{"in-flight", c.InFlight, c.Batch, maxTasks},
		{"backlog", c.Backlog, 0, maxTasks},
	} {
		if f.value < f.low || f.value > f.high {
			return c, fmt.Errorf("%s must be between %d and %d, is %d", f.flag, f.low, f.high, f.value)
		}
	}
	if c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0) {
		return c, errors.New("rate must be a number of tasks per second")
	}
	return c, nil
}

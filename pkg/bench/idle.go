package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/run"
)

// IdleConfig says what is measured of a system whose executors have nothing to do.
type IdleConfig struct {
	// Executors is how many there are.
	Executors int
	// Window is how long is measured; a sixth of it with one executor before.
	Window time.Duration
	// Rest is how long nothing is done when all are connected, before anything is measured: what their coming has stirred up
	// settles. 0 means half of TTL.
	Rest time.Duration
	// TTL is the time to live of the executors.
	TTL time.Duration
	// Tasks is how many are run one after the other, with one executor and with all; 0: none.
	Tasks int
	// Versions are what the executors of the crowd have and nobody else.
	Versions map[string]string
	// Own says that the services run in this process, so that its costs are theirs.
	Own bool
	// Statements counts what the services of this process send; nil: they run elsewhere.
	Statements *meter.Statements
	// Say tells somebody what is going on; nil: nobody listens.
	Say func(format string, args ...any)
}

// What must not be exceeded by ten thousand idle executors.
const (
	goalStatements = 2.0 // a second
	goalCPU        = 2.0 // percent of one core
	// goalConnections is what may come by chance: pools open another connection when two statements happen to meet, and keep it for
	// minutes. What must not be is that executors need some.
	goalConnections = 4
	maxIdle         = 100_000
	minWindow       = time.Second
	maxTaskTime     = 30 * time.Second
	betweenTasks    = 20 * time.Millisecond
)

// IdleResult is what was measured. Its JSON is what programs read; what can't be known from here is null.
type IdleResult struct {
	Executors  int     `json:"idle_executors"`
	TTLSeconds float64 `json:"ttl_seconds"`
	// OpenSeconds is how long it took until all were connected.
	OpenSeconds float64   `json:"open_seconds"`
	One         IdleCosts `json:"with_one"`
	All         IdleCosts `json:"with_all"`
	// Crowd is what the process with the simulated executors cost in the window with all of them.
	CrowdCPU float64 `json:"crowd_cpu_percent_of_a_core"`
	CrowdRSS int64   `json:"crowd_rss_bytes"`
	Beats    float64 `json:"beats_per_second"`
	Pulses   float64 `json:"pulses_per_second"`
	// What went wrong with executors, from beginning to end: there should be none of it.
	Deaf        int64      `json:"deaf"`
	BrokenLines int64      `json:"broken_lines"`
	BrokenBeats int64      `json:"broken_beats"`
	Fenced      int64      `json:"fenced"`
	Trouble     string     `json:"trouble,omitempty"`
	Goals       []IdleGoal `json:"goals"`
	Met         bool       `json:"met"`
}

// IdleCosts are those of a system that is idle.
type IdleCosts struct {
	Seconds float64 `json:"seconds"`
	// Statements that the services sent, transactions that changed something, bytes of the log, each per second.
	Statements   *float64 `json:"statements_per_second"`
	Transactions *float64 `json:"transactions_per_second"`
	WAL          *float64 `json:"wal_bytes_per_second"`
	// PostgresCPU and ServicesCPU are in percent of one core.
	PostgresCPU *float64 `json:"postgres_cpu_percent_of_a_core"`
	ServicesCPU *float64 `json:"services_cpu_percent_of_a_core"`
	ServicesRSS *int64   `json:"services_rss_bytes"`
	// Connections to the database in the end, ours not counted.
	Connections *int `json:"connections"`
	// Goroutines of the services.
	Goroutines *int `json:"goroutines"`
	// Start and End are the times from the call of Dispatch until the follower saw the task running and completed.
	Start *Percentiles `json:"start_ms"`
	End   *Percentiles `json:"end_ms"`
}

// IdleGoal is one number to reach.
type IdleGoal struct {
	Says     string   `json:"says"`
	Measured *float64 `json:"measured"`
	Limit    float64  `json:"limit"`
	// Met is null when it was not measured.
	Met *bool `json:"met"`
}

// Check says what is wrong with it.
func (c IdleConfig) Check() error {
	_, err := c.complete()
	return err
}

func (c IdleConfig) complete() (IdleConfig, error) {
	if c.Rest == 0 {
		c.Rest = c.TTL / 2
	}
	if c.Say == nil {
		c.Say = func(string, ...any) {}
	}
	switch {
	case c.Executors < 1 || c.Executors > maxIdle:
		return c, fmt.Errorf("idle-executors must be between 1 and %d, is %d", maxIdle, c.Executors)
	case c.Window < minWindow:
		return c, fmt.Errorf("window must be at least %s, is %s", minWindow, c.Window)
	case c.Tasks < 0 || c.Tasks > maxTasks:
		return c, fmt.Errorf("tasks must be between 0 and %d, is %d", maxTasks, c.Tasks)
	}
	return c, nil
}

// idle is one such measurement.
type idle struct {
	IdleConfig

	crowd  *RemoteCrowd
	conn   grpc.ClientConnInterface
	server *meter.Meter
}

// MeasureIdle measures a system behind a connection with the executors of a crowd and no others that could run its tasks. The
// meter is that of its database, nil if that is not known.
func MeasureIdle(ctx context.Context, config IdleConfig, conn grpc.ClientConnInterface, crowd *RemoteCrowd, server *meter.Meter) (IdleResult, error) {
	config, err := config.complete()
	if err != nil {
		return IdleResult{}, err
	}
	m := idle{IdleConfig: config, crowd: crowd, conn: conn, server: server}
	r := IdleResult{Executors: config.Executors, TTLSeconds: config.TTL.Seconds()}
	m.Say("with one executor")
	// When several come at once the services' pools open the connections that they may, and keep them for minutes. All but one
	// go again, so that what is compared is the number of executors, and not whether pools had been in use.
	for _, n := range []int{defaultOpening, 1} {
		if _, err := crowd.Grow(ctx, n); err != nil {
			return r, err
		}
	}
	if r.One, _, _, err = m.measure(ctx, config.Window/6); err != nil {
		return r, err
	}
	m.Say("opening %d executors", config.Executors)
	start := time.Now()
	if _, err := crowd.Grow(ctx, config.Executors); err != nil {
		return r, err
	}
	r.OpenSeconds = rounded(time.Since(start).Seconds())
	var before, after CrowdReport
	if r.All, before, after, err = m.measure(ctx, config.Window); err != nil {
		return r, err
	}
	last, err := crowd.Grow(ctx, 0)
	if err != nil {
		return r, err
	}
	seconds := r.All.Seconds
	r.CrowdCPU, r.CrowdRSS = rounded((after.CPU-before.CPU)/seconds*100), after.RSS
	r.Beats, r.Pulses = rounded(float64(after.Beats-before.Beats)/seconds), rounded(float64(after.Pulses-before.Pulses)/seconds)
	r.Deaf, r.BrokenLines, r.BrokenBeats, r.Fenced, r.Trouble = last.Deaf, last.BrokenLines, last.BrokenBeats, last.Fenced, last.Trouble
	r.judge()
	return r, nil
}

// measure rests, measures the costs of a window in which nothing is done, and then how long tasks take.
func (m *idle) measure(ctx context.Context, window time.Duration) (costs IdleCosts, before, after CrowdReport, err error) {
	if m.server != nil && m.Own {
		// What autovacuum would otherwise do in the middle of the window, because of the coming of so many.
		if err := m.server.Settle(ctx); err != nil {
			return costs, before, after, err
		}
	}
	if !run.Pause(ctx, m.Rest) {
		return costs, before, after, context.Cause(ctx)
	}
	m.Say("measuring for %s", window)
	if before, err = m.crowd.Grow(ctx, 0); err != nil {
		return costs, before, after, err
	}
	begun, err := m.read(ctx)
	if err != nil {
		return costs, before, after, err
	}
	if !run.Pause(ctx, window) {
		return costs, before, after, context.Cause(ctx)
	}
	ended, err := m.read(ctx)
	if err != nil {
		return costs, before, after, err
	}
	if after, err = m.crowd.Grow(ctx, 0); err != nil {
		return costs, before, after, err
	}
	if after.Beating != after.Members || after.Welcomed != after.Members {
		m.Say("of %d executors %d beat and %d have a line: %s", after.Members, after.Beating, after.Welcomed, after.Trouble)
	}
	costs = ended.since(begun)
	if m.Own {
		costs.ServicesRSS, costs.Goroutines = pointer(ownRSS()), pointer(runtime.NumGoroutine())
	}
	if m.Tasks > 0 {
		m.Say("running %d tasks one after the other", m.Tasks)
		if costs.Start, costs.End, err = m.latency(ctx); err != nil {
			return costs, before, after, err
		}
	}
	if m.server != nil { // only now, for tasks need some, too
		connections, err := m.server.Connections(ctx)
		if err != nil {
			return costs, before, after, err
		}
		costs.Connections = &connections
	}
	return costs, before, after, nil
}

// moment is what was spent up to a time.
type moment struct {
	at         time.Time
	server     *meter.Reading
	statements *int64
	own        *time.Duration
}

func (m *idle) read(ctx context.Context) (moment, error) {
	now := moment{}
	if m.server != nil {
		reading, err := m.server.Read(ctx)
		if err != nil {
			return now, err
		}
		now.server = &reading
	}
	if m.Statements != nil {
		now.statements = pointer(m.Statements.Count())
	}
	if m.Own {
		own, err := ownCPU()
		if err != nil {
			return now, err
		}
		now.own = &own
	}
	now.at = time.Now()
	return now, nil
}

func (m moment) since(before moment) IdleCosts {
	seconds := m.at.Sub(before.at).Seconds()
	each := func(total float64) *float64 { return pointer(rounded(total / seconds)) }
	costs := IdleCosts{Seconds: rounded(seconds)}
	if m.server != nil {
		spent := m.server.Since(*before.server)
		costs.WAL, costs.Transactions = each(float64(spent.WAL)), each(float64(spent.Transactions))
		if spent.CPUKnown {
			costs.PostgresCPU = each(100 * spent.CPU.Seconds())
		}
	}
	if m.statements != nil {
		costs.Statements = each(float64(*m.statements - *before.statements))
	}
	if m.own != nil {
		costs.ServicesCPU = each(100 * (*m.own - *before.own).Seconds())
	}
	return costs
}

// latency runs tasks one after the other, each when the one before has ended and a little later.
func (m *idle) latency(ctx context.Context) (start, end *Percentiles, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := schedulerv1.NewSchedulerServiceClient(m.conn).Follow(ctx, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("follow the changes: %w", err)
	}
	if _, err := stream.Recv(); err != nil { // from now on nothing is left out
		return nil, nil, fmt.Errorf("follow the changes: %w", err)
	}
	type change struct {
		id    string
		state taskv1.State
		at    time.Time
	}
	changes := make(chan change, 1000) // more than there can be of one task
	broken := make(chan error, 1)
	go func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			for _, c := range message.GetChanges() {
				select {
				case changes <- change{c.GetTaskId(), c.GetState(), time.Now()}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	dispatcher := dispatcherv1.NewDispatcherServiceClient(m.conn)
	var starts, ends []int64
	for range m.Tasks {
		if !run.Pause(ctx, betweenTasks) {
			return nil, nil, context.Cause(ctx)
		}
		called := time.Now()
		answer, err := dispatcher.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{
			Name: taskName, Versions: m.Versions, Deferred: proto.Bool(true),
		}})
		if err != nil {
			return nil, nil, fmt.Errorf("dispatch a task: %w", err)
		}
		limit := time.NewTimer(maxTaskTime)
		for ended := false; !ended; {
			select {
			case c := <-changes:
				if c.id != answer.GetTask().GetId() {
					continue
				}
				switch {
				case c.state == taskv1.State_STATE_RUNNING:
					starts = append(starts, int64(c.at.Sub(called)))
				case c.state == taskv1.State_STATE_COMPLETED:
					ends, ended = append(ends, int64(c.at.Sub(called))), true
				case final(c.state):
					err = fmt.Errorf("task %s ended as %s", c.id, c.state)
				}
			case err = <-broken:
				err = fmt.Errorf("follow the changes: %w", err)
			case <-limit.C:
				err = errors.New("a task did not end within " + maxTaskTime.String())
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			if err != nil {
				limit.Stop()
				return nil, nil, err
			}
		}
		limit.Stop()
	}
	return pointer(percentiles(starts)), pointer(percentiles(ends)), nil
}

// judge compares with the numbers to reach.
func (r *IdleResult) judge() {
	r.Met = true
	add := func(says string, measured *float64, limit float64) {
		g := IdleGoal{Says: says, Measured: measured, Limit: limit}
		if measured != nil {
			g.Met = pointer(*measured < limit)
			r.Met = r.Met && *g.Met
		}
		r.Goals = append(r.Goals, g)
	}
	add("statements per second, all services together", r.All.Statements, goalStatements)
	add("percent of one core in PostgreSQL", r.All.PostgresCPU, goalCPU)
	var more *float64
	if r.One.Connections != nil && r.All.Connections != nil {
		more = pointer(float64(*r.All.Connections - *r.One.Connections))
	}
	add("more connections to PostgreSQL than with one executor", more, goalConnections)
	add("executors that lost a line or a life", pointer(float64(r.Deaf+r.BrokenLines+r.BrokenBeats+r.Fenced)), 1)
}

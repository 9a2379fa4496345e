package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/history"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/services/executor"
)

const (
	benchTTL              = 30 * time.Second
	benchGrace            = 5 * time.Second
	benchImmediateTimeout = 5 * time.Second
	// shownViolations is how many are put into words; there can be as many as tasks.
	shownViolations = 10
)

// BenchCmd measures a Sluice.
type BenchCmd struct {
	Workload    string  `enum:"${workloads}" default:"x1000" placeholder:"NAME" group:"load" help:"What the tasks reserve, see above (${default})."`
	Tasks       int     `default:"50000" placeholder:"N" group:"load" help:"How many tasks are counted (${default})."`
	WarmUp      int     `name:"warm-up" default:"-1" placeholder:"N" group:"load" help:"How many go first and are not counted. Default: a tenth of the tasks, at most 10,000."`
	Slots       int     `default:"64" placeholder:"N" group:"load" help:"How many tasks run at once (${default}), and as many immediate ones beside them."`
	Dispatchers int     `default:"8" placeholder:"N" group:"load" help:"How many clients dispatch side by side (${default})."`
	Batch       int     `default:"100" placeholder:"N" group:"load" help:"How many tasks a client hands in with one call (${default}); 1: each alone."`
	InFlight    int     `name:"in-flight" placeholder:"N" group:"load" help:"How many tasks may be dispatched and not completed. Default: 4 for each slot and two batches for each client."`
	Rate        float64 `placeholder:"N" group:"load" help:"Dispatch this many tasks a second, evenly spaced, whatever becomes of them. Default: as fast as they go."`
	Backlog     int     `placeholder:"N" group:"load" help:"Have this many tasks wait all the while for a resource that is never free."`
	KeepBacklog bool    `name:"keep-backlog" group:"load" help:"Leave them behind: the database is thrown away anyhow."`
	Settle      bool    `group:"load" help:"Vacuum and checkpoint the database before the clock starts, so that the load does not pay for its preparation. An own server always is."`
	Seed        uint64  `default:"1" placeholder:"N" group:"load" help:"Another number draws other resources (${default})."`

	IdleExecutors int           `name:"idle-executors" placeholder:"N" group:"load" help:"Measure something else: what it costs to have this many executors, simulated ones, and nothing to do. Most flags of the load mean nothing then."`
	Window        time.Duration `default:"1m" placeholder:"DURATION" group:"load" help:"How long these two are measured (${default})."`
	Overload      float64       `placeholder:"TIMES" group:"load" help:"Measure something else: what happens when so many times as many tasks are handed in as can be run, each of which takes 64 ms."`
	MaxLive       int64         `name:"max-live-tasks" default:"50000" placeholder:"N" group:"load" help:"How many tasks may not be finished then (${default}); more are refused."`
	Crowd         string        `hidden:"" env:"-" help:"Be these executors, and take orders from standard input."`

	// A variable that was set to ask a Sluice must not put a load on it.
	Addr        string     `env:"-" placeholder:"HOST:PORT" group:"service" help:"Measure the Sluice at this gRPC address, with an executor of our own. Default: one in this process. SLUICE_ADDR is not looked at."`
	DatabaseURL string     `name:"database-url" placeholder:"URL" group:"service" help:"Use this PostgreSQL instead of an own one; also DATABASE_URL. With --addr: the one that is used there, to see what it spends."`
	DataDir     string     `name:"data-dir" placeholder:"DIR" group:"service" help:"Keep the own database below this folder while it runs, on the disk that is to be measured. Default: the temporary folder."`
	CPUProfile  string     `name:"cpuprofile" placeholder:"FILE" group:"service" help:"Write a CPU profile of the timed part, for go tool pprof."`
	Output      string     `short:"o" enum:"text,json" default:"text" placeholder:"text|json" group:"connection" help:"Print for people (text) or for programs (json)."`
	LogLevel    slog.Level `name:"log-level" default:"warn" placeholder:"LEVEL" group:"log" help:"debug, info, warn or error (${default})."`
	LogFormat   string     `name:"log-format" enum:"json,text" default:"text" placeholder:"json|text" group:"log" help:"One JSON object a line, or text (${default})."`
}

// Help is the longer explanation.
func (*BenchCmd) Help() string {
	return `Dispatches tasks that do nothing through all services, runs them on slots of its own, and says how many completed in a second, how long they took from the call of Dispatch to their start, and what each cost. Then it checks that no two tasks that conflict ran at the same time, that none overtook another one, ran twice or was lost. A broken promise makes the exit code 1.

Workloads: none (nothing reserved), disjoint (a fresh resource each, exclusively), x1000 (one of 1,000, exclusively), random3 (one of 3), hot (one for all: a chain), shared (one that all share, and one of 1,000), pulp (two of 5,000, one in ten exclusively; one task in twenty is immediate).

With --idle-executors the load is another one: as many simulated executors, in a process of their own, that register, beat, hold a line to the scheduler and answer its pulses. What the whole costs is measured while nothing happens, with one of them and with all, and then how long a task takes.

With --overload it is a third one: first half of what 64 slots can run is handed in, and then so many times more than they can.

Commits are transactions that changed something, statements the commands that the services sent, BEGIN and COMMIT too. Costs are those of the whole server: nothing else should use it. What can't be known is null.

    sluice bench --workload pulp
    sluice bench --batch 1 --dispatchers 64 --tasks 20000
    sluice bench --batch 1 --rate 50 --tasks 1000 --backlog 100000 --output json
    sluice bench --idle-executors 10000
    sluice bench --overload 10 --window 30s`
}

// Run measures, checks and prints.
func (c *BenchCmd) Run(ctx context.Context, env *Environment) (err error) {
	ctx, stop := untilStopped(ctx)
	defer stop()
	if c.Crowd != "" {
		return beCrowd(ctx, env, c.Crowd)
	}
	own := c.Addr == "" && c.DatabaseURL == ""
	config := bench.Config{
		Workload: c.Workload, Tasks: c.Tasks, WarmUp: c.WarmUp, Slots: c.Slots, Dispatchers: c.Dispatchers, Batch: c.Batch,
		InFlight: c.InFlight, Rate: c.Rate, Backlog: c.Backlog, KeepBacklog: c.KeepBacklog || own, SettleServer: c.Settle || own, Seed: c.Seed,
		Say: env.note,
	}
	if c.CPUProfile != "" {
		file, err := os.Create(c.CPUProfile)
		if err != nil {
			return usage("--cpuprofile: %s", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		config.CPUProfile = file
	}
	have := map[string]string{}
	if c.Addr == "" {
		config.Statements = &meter.Statements{}
	} else {
		if err := checkAddr(c.Addr); err != nil {
			return err
		}
		// The executors that are there already may have test.noop, too. None of them has this.
		have["bench."+uuid.NewString()] = "1"
		config.Versions = have
	}
	if c.Overload != 0 {
		return c.measureOverload(ctx, env, own, have)
	}
	if c.IdleExecutors != 0 {
		return c.measureIdle(ctx, env, own, config.Statements, have)
	}
	load, err := bench.New(config)
	if err != nil {
		return usage("--%s", err)
	}
	dir, err := c.folder(own)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	s := newSystem(ctx, LogFlags{LogLevel: c.LogLevel, LogFormat: c.LogFormat}.logger(env.Stderr), "bench", true, env.Stderr)
	s.statements = config.Statements
	defer s.close()
	result, err := c.measure(ctx, s, load, dir, withOwnVersion(have))
	if err != nil && ctx.Err() != nil {
		return refuse("interrupted: %s", err)
	}
	if err != nil {
		return err
	}
	violations := load.Violations()
	result.Violations = len(violations)
	if err := c.print(env, result); err != nil {
		return err
	}
	return broken(violations)
}

// broken puts the first violations into words.
func broken(violations []history.Violation) error {
	if len(violations) == 0 {
		return nil
	}
	f := &failure{code: exitNo, lines: []string{fmt.Sprintf("%d times a promise was broken", len(violations))}}
	for _, v := range violations[:min(len(violations), shownViolations)] {
		f.lines = append(f.lines, v.String())
	}
	return f
}

// measure puts a system together around the executor of the load, runs the load, and takes the system down again.
func (c *BenchCmd) measure(ctx context.Context, s *system, load *bench.Bench, dir string, have map[string]string) (result bench.Result, err error) {
	addr, url := c.Addr, c.DatabaseURL
	if addr == "" {
		if addr, url, err = c.startServices(ctx, s, dir); err != nil {
			return result, err
		}
	}
	// The executor and the load have connections of their own, as if they were elsewhere.
	toExecutor, err := s.dial(addr)
	if err != nil {
		return result, err
	}
	conn, err := s.dial(addr)
	if err != nil {
		return result, err
	}
	mux := worker.NewMux()
	load.Register(mux)
	cfg := executor.Config{
		Name: "bench " + processName(), WorkDir: filepath.Join(dir, "work"), Slots: c.Slots, ImmediateSlots: c.Slots,
		TTL: benchTTL, CancelGrace: benchGrace, ShutdownGrace: benchGrace, ImmediateTimeout: benchImmediateTimeout, Versions: have,
		HeartbeatAddr: addr,
	}
	peers := executorPeers{scheduler: toExecutor, dispatcher: toExecutor, heartbeat: toExecutor, status: toExecutor}
	service, err := s.newExecutorOf(mux, cfg, peers)
	if err != nil {
		return result, err
	}
	s.addExecutor(cfg, service)
	server, err := openMeter(ctx, url)
	if err != nil {
		return result, err
	}
	if server != nil {
		defer server.Close()
	}
	err = s.during(ctx, func(ctx context.Context) (err error) {
		result, err = load.Run(ctx, conn, server)
		return err
	})
	return result, err
}

// openMeter opens the meter of a database; nil if there is no URL.
func openMeter(ctx context.Context, url string) (*meter.Meter, error) {
	if url == "" {
		return nil, nil //nolint:nilnil // what is not known is not measured
	}
	return meter.Open(ctx, url)
}

// during runs a system, does something once it is ready, and takes it down again.
func (s *system) during(ctx context.Context, do func(context.Context) error) (err error) {
	// The system outlives an interrupt, so that what was dispatched can be canceled.
	running, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer halt()
	ctx, abandon := context.WithCancelCause(ctx)
	defer abandon(nil)
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		err := s.run(running, func() { close(ready) })
		abandon(err)
		ended <- err
	}()
	select {
	case <-ready:
		err = do(ctx)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	halt()
	if stopped := <-ended; !errors.Is(err, stopped) {
		err = errors.Join(err, stopped)
	}
	return err
}

// startServices adds what `sluice dev` has, apart from executor and gateway, on a PostgreSQL that keeps what it commits.
func (c *BenchCmd) startServices(ctx context.Context, s *system, dir string) (addr, url string, err error) {
	url = c.DatabaseURL
	own := url == ""
	if own {
		if url, err = s.startPostgres(ctx, dir); err != nil {
			return "", "", err
		}
	}
	if err := postgres.Migrate(ctx, url, s.log); err != nil {
		return "", "", err
	}
	if _, err := s.addServices(ctx, "bench", url, "127.0.0.1:0", own, benchImmediateTimeout); err != nil {
		return "", "", err
	}
	return s.addr, url, nil
}

// folder makes a folder for what is thrown away at the end: working directories, and the own database if there is one.
func (c *BenchCmd) folder(own bool) (string, error) {
	parents := []string{c.DataDir}
	if c.DataDir == "" {
		parents = []string{os.TempDir(), "/var/tmp"}
	}
	for _, parent := range parents {
		if own && inMemory(parent) {
			continue
		}
		dir, err := os.MkdirTemp(parent, "sluice-bench-")
		if err != nil {
			return "", fmt.Errorf("make a folder for the benchmark: %w", err)
		}
		// Started by root, PostgreSQL runs as somebody else and has to get through here.
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // G302: the folders in it are closed
			return "", fmt.Errorf("open the folder for the benchmark: %w", err)
		}
		return dir, nil
	}
	return "", usage("--data-dir: must be on a disk; in %s a commit costs nothing", parents[0])
}

func inMemory(dir string) bool {
	var disk unix.Statfs_t
	return unix.Statfs(dir, &disk) == nil && (disk.Type == unix.TMPFS_MAGIC || disk.Type == unix.RAMFS_MAGIC)
}

func (c *BenchCmd) print(env *Environment, r bench.Result) error {
	if c.Output == "json" {
		return printJSON(env, r)
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	known := func(v *float64, unit string) string {
		if v == nil {
			return "not known"
		}
		return number(*v) + unit
	}
	times := func(p bench.Percentiles) string {
		return fmt.Sprintf("%s / %s / %s ms", number(p.P50), number(p.P95), number(p.P99))
	}
	(&session{Environment: env}).printTable([][]string{
		{"workload", fmt.Sprintf("%s, %d tasks after %d to warm up, %d waiting", r.Workload, r.Tasks, r.WarmUp, r.Backlog)},
		{"load", r.Load()},
		{"completed", fmt.Sprintf("%d in %s s", r.Completed, number(r.Seconds))},
		{"tasks per second", number(r.TasksPerSecond)},
		{"dispatch to start", times(r.Start) + " (p50 / p95 / p99)"},
		{"call of dispatch", times(r.Dispatch)},
		{"PostgreSQL's CPU", known(r.PostgresCPU, " µs per task")},
		{"this process's CPU", number(r.ProcessCPU) + " µs per task"},
		{"log of changes", known(r.WAL, " bytes per task")},
		{"commits", known(r.Commits, " per task")},
		{"statements", known(r.Statements, " per task")},
		{"one commit alone", known(r.SerialCommit, " ms")},
		{"violations", strconv.Itoa(r.Violations)},
	})
	return nil
}

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/builtin"
	"github.com/sluice-tasks/sluice/services/executor"
)

// ExecutorFlags are what an executor can be told, on its own and in `sluice dev`.
type ExecutorFlags struct {
	Slots            int           `default:"-1" placeholder:"N" group:"executor" help:"How many tasks run at once. Default: one for each processor, at least 2."`
	ImmediateSlots   int           `name:"immediate-slots" default:"4" placeholder:"N" group:"executor" help:"How many immediate tasks run at once, beside the others (${default})."`
	ImmediateTimeout time.Duration `name:"immediate-timeout" default:"5s" placeholder:"DURATION" group:"executor" help:"How long an immediate task may run (${default})."`
	TasksPerChild    int           `name:"tasks-per-child" default:"100" placeholder:"N" group:"executor" help:"After how many tasks a child process is replaced (${default}); 1 is a fresh one for each task."`
	ChildMemory      byteSize      `name:"child-memory" placeholder:"SIZE" group:"executor" help:"How much memory each process of a task may have for its data, such as 512MiB, at least 256MiB. Default: no limit."`
	Diagnostics      []string      `name:"diagnostics" sep:"," placeholder:"NAME,..." group:"executor" help:"What may be kept of a run whose dispatch asks for it: memory, logs, or none. Default: none; of 'sluice dev': both."`
	ChildIdle        time.Duration `name:"child-idle" default:"5m" placeholder:"DURATION" group:"executor" help:"How long a child process is kept without a task (${default})."`
}

func (f ExecutorFlags) apply(cfg *executor.Config) error {
	cfg.Slots, cfg.ImmediateSlots, cfg.ImmediateTimeout = f.Slots, f.ImmediateSlots, f.ImmediateTimeout
	cfg.MaxTasksPerChild, cfg.ChildMemory, cfg.ChildIdle = f.TasksPerChild, int64(f.ChildMemory), f.ChildIdle
	if cfg.Slots < 0 {
		cfg.Slots = defaultSlots()
	}
	if len(f.Diagnostics) > 0 {
		cfg.Diagnostics = nil
	}
	for _, name := range f.Diagnostics {
		switch name = strings.TrimSpace(name); name {
		case executor.DiagnoseMemory, executor.DiagnoseLogs:
			cfg.Diagnostics = append(cfg.Diagnostics, name)
		case "none":
		default:
			return usage("--diagnostics: must be memory, logs or none, is %q", name)
		}
	}
	switch {
	case f.TasksPerChild < 1:
		return usage("--tasks-per-child: must be at least 1, is %d", f.TasksPerChild)
	case f.ChildMemory != 0 && f.ChildMemory < executor.MinChildMemory:
		return usage("--child-memory: must be at least %dMiB", executor.MinChildMemory>>20)
	case f.ChildIdle <= 0:
		return usage("--child-idle: must be more than 0, is %s", f.ChildIdle)
	}
	return nil
}

// byteSize is a number of bytes, with a unit or without.
type byteSize int64

// UnmarshalText reads 1048576, 1024KiB or 1MiB.
func (b *byteSize) UnmarshalText(text []byte) error {
	number, unit := strings.TrimSpace(string(text)), int64(1)
	for suffix, size := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, found := strings.CutSuffix(number, suffix); found {
			number, unit = strings.TrimSpace(rest), size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("must be a number of bytes, such as 268435456, 512MiB or 2GiB, is %q", text)
	}
	*b = byteSize(n * unit)
	return nil
}

// ExecutorRole is how an executor of any handlers is run.
type ExecutorRole struct {
	Addr              string        `default:"127.0.0.1:24820" placeholder:"HOST:PORT" group:"service" help:"gRPC address of the Sluice to join (${default})."`
	SchedulerAddr     string        `name:"scheduler-addr" placeholder:"HOST:PORT,..." group:"service" help:"Where the schedulers are, if not at --addr. The one that leads is found among them."`
	DispatcherAddr    string        `name:"dispatcher-addr" placeholder:"HOST:PORT" group:"service" help:"Where the dispatcher is, if not at --addr."`
	HeartbeatAddr     string        `name:"heartbeat-addr" placeholder:"HOST:PORT" group:"service" help:"Where the heartbeat service is, if not at --addr."`
	StatusAddr        string        `name:"status-addr" placeholder:"HOST:PORT" group:"service" help:"Where the status service is, if not at --addr."`
	GRPCAddr          string        `name:"grpc-addr" placeholder:"HOST:PORT|unix:PATH" group:"service" help:"Answer workers of other languages here, and ListRunning and Drain. Default: nowhere."`
	Name              string        `placeholder:"NAME" group:"executor" help:"Unique among the living. Default: <process id>@<host>."`
	WorkDir           string        `name:"work-dir" placeholder:"DIR" group:"executor" help:"Where tasks get their empty working directories. Default: a folder for Sluice below the temporary directory."`
	Versions          []string      `name:"have" sep:"none" placeholder:"COMPONENT=VERSION" group:"executor" help:"A component that this executor has. Repeat for more."`
	WorkerTTL         time.Duration `name:"worker-ttl" default:"30s" placeholder:"DURATION" group:"executor" help:"How long it may be silent before its tasks are declared lost (${default})."`
	CancelGrace       time.Duration `name:"cancel-grace" default:"30s" placeholder:"DURATION" group:"executor" help:"How long a canceled task has to stop before it is killed (${default})."`
	TaskGraceInterval time.Duration `name:"task-grace-interval" default:"600s" placeholder:"DURATION" group:"executor" help:"How long running tasks have after an interrupt (${default}). After a SIGTERM they have as long as they take."`
	RedactErrors      bool          `name:"redact-errors" default:"true" negatable:"" group:"executor" help:"Show only errors that a handler declared safe, and put the others into the log (${default})."`
	Burst             bool          `group:"executor" help:"Stop when there is nothing left to run."`
	ExecutorFlags
	RoleFlags
}

// ExecutorCmd runs an executor of the tasks that Sluice brings.
type ExecutorCmd struct {
	ExecutorRole
	Allow     []string `sep:"none" placeholder:"COMMAND" group:"executor" help:"A command that command.run may run: a name or an absolute path; '*' allows all. Repeat for more. Default: none."`
	TestTasks bool     `name:"test-tasks" group:"executor" help:"Also run the test.* tasks."`
}

// Help is the longer explanation.
func (*ExecutorCmd) Help() string {
	return `Joins a running Sluice and runs its tasks: those of this program, and, for workers of other languages that connect to --grpc-addr, theirs.

SIGTERM and SIGHUP: no new tasks; those that run end, however long they take; a cancel still works.
SIGINT: they have the task grace interval, then they are aborted. Another signal after that aborts them at once.`
}

// Run runs it until it is stopped.
func (c *ExecutorCmd) Run(ctx context.Context, env *Environment) error {
	handlers := builtin.Options{TestTasks: c.TestTasks, AllowCommands: c.Allow}
	return c.serve(ctx, env, func(s *system, cfg executor.Config, peers executorPeers) (*executor.Service, error) {
		return s.newExecutor(cfg, peers, handlers)
	})
}

// serve runs an executor that build makes.
func (c *ExecutorRole) serve(ctx context.Context, env *Environment, build func(*system, executor.Config, executorPeers) (*executor.Service, error)) error {
	have, err := versions("--have", c.Versions)
	if err != nil {
		return err
	}
	cfg := executor.Config{
		Name: c.Name, WorkDir: c.WorkDir, TTL: c.WorkerTTL, CancelGrace: c.CancelGrace, ShutdownGrace: c.TaskGraceInterval,
		Versions: withOwnVersion(have), RedactErrors: c.RedactErrors, HeartbeatAddr: cmp.Or(c.HeartbeatAddr, c.Addr),
	}
	if err := c.apply(&cfg); err != nil {
		return err
	}
	if cfg.WorkDir == "" {
		cfg.WorkDir = filepath.Join(os.TempDir(), fmt.Sprintf("sluice-work-%d", os.Getuid()))
	}
	over, finish := context.WithCancel(context.WithoutCancel(ctx))
	defer finish()
	ctx, end := context.WithCancel(ctx)
	defer end()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	if !signal.Ignored(syscall.SIGHUP) { // under nohup it is
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	var service *executor.Service
	if c.Burst {
		cfg.NothingLeft = func() {
			service.Stop(executor.Patiently)
			end()
		}
	}
	return serveUntil(ctx, env, c.RoleFlags, "executor", c.GRPCAddr, func(ctx context.Context, s *system) error {
		peers, err := c.dial(ctx, s)
		if err != nil {
			return err
		}
		if service, err = build(s, cfg, peers); err != nil {
			return err
		}
		// It says itself how long it takes to stop: as long as its tasks, if it is asked patiently.
		s.add("executor", math.MaxInt64, service)
		go obey(over, signals, service, end)
		return nil
	})
}

// dial opens the connections to those that an executor talks to.
func (c *ExecutorRole) dial(ctx context.Context, s *system) (peers executorPeers, err error) {
	for conn, own := range map[*grpc.ClientConnInterface]string{
		&peers.dispatcher: c.DispatcherAddr, &peers.heartbeat: c.HeartbeatAddr, &peers.status: c.StatusAddr,
	} {
		opened, err := s.dial(cmp.Or(own, c.Addr))
		if err != nil {
			return peers, err
		}
		*conn = opened
	}
	if c.SchedulerAddr != "" {
		peers.scheduler, err = s.dialLeader(ctx, c.SchedulerAddr, rpc.Dial)
	} else {
		peers.scheduler, err = s.dial(c.Addr) // a gateway, which finds the leader itself
	}
	return peers, err
}

// obey stops an executor as signals say. The last of them ends the process as usual: who sends that many means it, and no child
// outlives us.
func obey(over context.Context, signals chan os.Signal, service *executor.Service, end context.CancelFunc) {
	interrupted := false
	for {
		var s os.Signal
		select {
		case s = <-signals:
		case <-over.Done():
			return
		}
		switch {
		case interrupted:
			service.Stop(executor.AtOnce)
			signal.Stop(signals)
			return
		case s == os.Interrupt:
			interrupted = true
			service.Stop(executor.Graceful)
		default:
			service.Stop(executor.Patiently)
		}
		end()
	}
}

// ExecutorMain makes the program an executor of its own handlers, with the flags and variables of `sluice executor`, and returns
// the exit code. A program needs no more than this and its handlers:
//
//	func main() {
//		mux := worker.NewMux()
//		worker.Handle(mux, "greet", greet)
//		os.Exit(cli.ExecutorMain(mux))
//	}
func ExecutorMain(mux *worker.Mux) int {
	// The executor starts the program again for its guard and for each child.
	if worker.IsChild() {
		return worker.ChildMain(mux)
	}
	env := Environment{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	env.setDefaults()
	//nolint:forbidigo // this is where the program begins
	return env.report(executorMain(context.Background(), os.Args, &env, mux))
}

func executorMain(ctx context.Context, args []string, env *Environment, mux *worker.Mux) error {
	commands := &struct {
		Help helpFlag `short:"h" help:"Show help." env:"-"`
		ExecutorRole
	}{}
	variables := &variables{lookup: env.LookupEnv}
	parser, err := kong.New(commands,
		kong.Name(filepath.Base(args[0])),
		kong.Description("An executor of Sluice. It runs: "+strings.Join(mux.Names(), ", ")+"."),
		kong.NoDefaultHelp(), kong.Writers(env.Stdout, env.Stderr), kong.Help(printHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: helpWidth}),
		kong.ExplicitGroups(groups), kong.Bind(env), kong.PostBuild(variables.name), kong.Resolvers(variables),
	)
	if err != nil {
		return fmt.Errorf("build the command line: %w", err)
	}
	_, err = parser.Parse(args[1:])
	if errors.Is(err, errHelpShown) {
		return nil
	}
	if err != nil {
		return badUsage(err, variables)
	}
	return commands.serve(ctx, env, func(s *system, cfg executor.Config, peers executorPeers) (*executor.Service, error) {
		registerPurge(mux, peers)
		return s.newExecutorOf(mux, cfg, peers)
	})
}

// withOwnVersion adds what every executor has: the core component, in the version that the REST face speaks for.
func withOwnVersion(versions map[string]string) map[string]string {
	if versions == nil {
		versions = map[string]string{}
	}
	if _, given := versions["core"]; !given {
		versions["core"] = gateway.CoreVersion
	}
	return versions
}

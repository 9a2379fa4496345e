package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// Environment is what the process has from outside. Tests bring their own.
type Environment struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// LookupEnv finds an environment variable; nil means the process's own.
	LookupEnv func(string) (string, bool)
	// Now is the clock for ages; its location is the one that times are shown in. nil means time.Now.
	Now func() time.Time
	// look is how often something is asked for that nobody tells by himself; 0 means each second.
	look time.Duration
}

// grammar is the whole command line. The order is that of `sluice --help`.
type grammar struct {
	Help helpFlag `short:"h" help:"Show help." env:"-"`

	Dev DevCmd `cmd:"" group:"start" help:"Run all of Sluice in one process, with a database of its own."`

	Dispatch DispatchCmd `cmd:"" group:"tasks" help:"Hand in a task."`
	Task     TaskCmd     `cmd:"" group:"tasks" help:"Look after tasks: list, show, wait, watch, explain, logs, cancel, delete, purge."`
	Group    GroupCmd    `cmd:"" group:"tasks" help:"Look after task groups: create, list, show, cancel."`
	Schedule ScheduleCmd `cmd:"" group:"tasks" help:"Look after schedules, which dispatch tasks by themselves: create, list, show, delete."`
	File     FileCmd     `cmd:"" group:"tasks" help:"Store, fetch and delete temporary files, which tasks can be given."`

	Status   StatusCmd   `cmd:"" group:"system" help:"Say how the whole is doing. With --grpc-addr: run the status service."`
	Top      TopCmd      `cmd:"" group:"system" help:"Look on: states, rates, what runs, who waits for whom."`
	Worker   WorkerCmd   `cmd:"" group:"system" help:"Look at the executors."`
	Resource ResourceCmd `cmd:"" group:"system" help:"Look at resources: who holds them, who waits."`
	Stats    StatsCmd    `cmd:"" group:"system" help:"Say how long tasks waited and ran."`
	Bench    BenchCmd    `cmd:"" group:"system" help:"Measure how fast tasks are run, and check that every promise is kept."`
	User     UserCmd     `cmd:"" group:"system" help:"Look after who may use REST: add, list, password, delete."`
	Version  VersionCmd  `cmd:"" group:"system" help:"Say which build this is."`

	Dispatcher DispatcherCmd `cmd:"" group:"services" help:"Run the dispatcher: takes tasks in."`
	Scheduler  SchedulerCmd  `cmd:"" group:"services" help:"Run the scheduler: decides what may run, and where."`
	Executor   ExecutorCmd   `cmd:"" group:"services" help:"Run an executor: runs tasks, and joins any Sluice."`
	Heartbeat  HeartbeatCmd  `cmd:"" group:"services" help:"Run the heartbeat service: knows who is alive."`
	Gateway    GatewayCmd    `cmd:"" group:"services" help:"Run the gateway: answers REST."`
	Migrate    MigrateCmd    `cmd:"" group:"services" help:"Bring a database to the current schema."`
}

// Main runs the command line without the program's name and returns the exit code. Commands that start a service end when
// ctx is canceled or by the signals that they listen to themselves.
func Main(ctx context.Context, args []string, env Environment) int {
	env.setDefaults()
	// Our executor starts this very program for its guard and for each of its workers, without arguments.
	if worker.IsChild() {
		return childMain(env)
	}
	if len(args) == 0 {
		fmt.Fprint(env.Stdout, overview)
		return exitOK
	}
	for i, arg := range args {
		// The parser would replace such bytes without a word, and the task would lock another resource than was meant.
		if !utf8.ValidString(arg) {
			return env.report(usage("argument %d is not valid UTF-8: %s", i+1, strconv.Quote(arg)))
		}
	}
	variables := &variables{lookup: env.LookupEnv}
	parser, err := newParser(&grammar{}, &env, variables)
	if err != nil {
		return env.report(fmt.Errorf("build the command line: %w", err))
	}
	parsed, err := parser.Parse(args)
	if errors.Is(err, errHelpShown) {
		return exitOK
	}
	if err != nil {
		return env.report(badUsage(err, variables))
	}
	stdout := &checkedWriter{Writer: env.Stdout}
	env.Stdout = stdout
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run()
	if err == nil && stdout.err != nil {
		err = fmt.Errorf("write the output: %w", stdout.err)
	}
	return env.report(err)
}

// checkedWriter remembers that something could not be written, so that a full disk is not taken for success.
type checkedWriter struct {
	io.Writer
	err error
}

func (w *checkedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.err = errors.Join(w.err, err)
	return n, err
}

func newParser(commands *grammar, env *Environment, variables *variables) (*kong.Kong, error) {
	return kong.New(commands,
		kong.Name("sluice"),
		kong.Description(description),
		kong.NoDefaultHelp(),
		kong.Writers(env.Stdout, env.Stderr),
		kong.Help(printHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: helpWidth}),
		kong.ExplicitGroups(groups),
		kong.Bind(env),
		kong.Vars{"addr": client.DefaultAddr, "workloads": strings.Join(bench.Workloads(), ",")},
		kong.PostBuild(variables.name),
		kong.Resolvers(variables),
	)
}

func (e *Environment) setDefaults() {
	if e.LookupEnv == nil {
		e.LookupEnv = os.LookupEnv
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.look == 0 {
		e.look = time.Second
	}
	if e.Stdin == nil {
		e.Stdin = strings.NewReader("")
	}
}

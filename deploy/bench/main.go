// Command bench measures Sluice beside pgbench and River, on one PostgreSQL server, in one go, and says how they compare.
// `make bench` runs it; README.md says what is compared and why that is fair.
//
// # Owns
//
// A PostgreSQL server with durable settings in a temporary folder, which goes away at the end; a new database in it for each
// run; and the files it writes to results/. It is a Go module of its own, so that River never gets into Sluice's go.mod.
//
// # States
//
// A go is: start the server, fill its log once, then rounds. In a round every run happens once, in an order of the round's
// own. A run is: new database, what the tool needs in it, checkpoint, rest, measure, drop the database.
//
// # Failure
//
// A run that fails is a hole in the table, named on standard error, and the go goes on; the exit code is then 1, as it is
// when a "must" is missed or Sluice's history checker found a violation. A tool that is not installed leaves out its runs and
// says what to install.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const usage = `usage: bench run [flags]       measure, print the table, write the results
       bench held [flags]      what a session costs that holds a snapshot for minutes
       bench pair [flags] [-- flags of sluice bench]
                               two binaries, or tracing and none, at the same time
       bench lists [flags]     how long lists of tasks take with ten million finished ones
       bench river [flags]     one run of River; what "run" starts for each
       bench table FILE.json   print the table of an earlier go again`

func start(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "run":
		return commandRun(ctx, args[1:], out, progress)
	case "held":
		return commandHeld(ctx, args[1:], out, progress)
	case "pair":
		return commandPair(ctx, args[1:], out, progress)
	case "lists":
		return commandLists(ctx, args[1:], out, progress)
	case "river":
		return commandRiver(ctx, args[1:], out, progress)
	case "table":
		return commandTable(args[1:], out)
	}
	return errors.New(usage)
}

func commandRun(ctx context.Context, args []string, out, progress io.Writer) error {
	o := options{out: out, progress: progress}
	flags := flag.NewFlagSet("bench run", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.StringVar(&o.sluice, "sluice", "bin/sluice", "the binary to measure")
	flags.StringVar(&o.results, "results", "", "folder for the results; none are written without one")
	flags.StringVar(&o.dir, "dir", "/var/tmp", "folder for the server's data, on the disk that is to be measured")
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	flags.BoolVar(&o.quick, "quick", false, "small numbers: to see that it works, not to compare")
	flags.BoolVar(&o.backlog, "backlog", true, "measure with a million waiting tasks, too: once, not in each round")
	only := flags.String("only", "", "regular expression: the runs to make")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.rounds < 1 || flags.NArg() > 0 {
		return errors.New("give at least one round, and no arguments")
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("read --only: %w", err)
	}
	return measure(ctx, o)
}

func commandRiver(ctx context.Context, args []string, out, progress io.Writer) error {
	var o riverOptions
	flags := flag.NewFlagSet("bench river", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.StringVar(&o.url, "database-url", "", "an empty database")
	flags.IntVar(&o.jobs, "jobs", 0, "burn down: so many jobs, inserted before the clock starts")
	flags.DurationVar(&o.duration, "duration", 0, "continuous: insert and work for so long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if (o.jobs > 0) == (o.duration > 0) {
		return errors.New("give either --jobs or --duration")
	}
	result, err := benchRiver(ctx, o, progress)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

func commandTable(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New(usage)
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("read the results in %s: %w", args[0], err)
	}
	_, err = io.WriteString(out, r.markdown())
	return err
}

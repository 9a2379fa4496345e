// Command index-source makes an index of the Go standard library's source with a running Sluice: a task for each package
// directory, all at the same time as far as there are slots, and one that publishes the index when all of them are done.
// It shows what reservations are for; README.md tells what to look at.
//
// The tasks are command.run of this very program, in its modes "hash DIR ENTRY" and "publish INDEX". So the executor needs
// to know nothing about it, but must run on this machine and allow the command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sluice-tasks/sluice/pkg/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "index-source:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 3 && args[0] == "hash":
		return hash(args[1], args[2])
	case len(args) == 2 && args[0] == "publish":
		return publish(os.Stdin, args[1])
	}
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return index(ctx, o)
}

// options are what a person can choose.
type options struct {
	addr   string
	source string // absolute
	output string // absolute
	limit  int    // index only so many directories; 0 means all
	verify bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("index-source", flag.ContinueOnError)
	flags.StringVar(&o.addr, "addr", client.DefaultAddr, "gRPC address of Sluice")
	flags.StringVar(&o.source, "source", "", "tree to index (default: the source of the Go standard library)")
	flags.StringVar(&o.output, "output", "", "where the index goes (default: index-source in your cache directory)")
	flags.IntVar(&o.limit, "limit", 0, "index only so many directories (0: all)")
	flags.BoolVar(&o.verify, "verify", false, "compare the index with one that is computed here")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag; --help lists them", flags.Arg(0))
	}
	if o.limit < 0 {
		return o, fmt.Errorf("--limit must not be negative, is %d", o.limit)
	}
	var err error
	if o.source == "" {
		if o.source, err = standardLibrary(); err != nil {
			return o, err
		}
	}
	if o.output == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("choose --output: %w", err)
		}
		o.output = filepath.Join(cache, "index-source")
	}
	// Tasks run in directories of their own, where a relative path means something else.
	for _, path := range []*string{&o.source, &o.output} {
		if *path, err = filepath.Abs(*path); err != nil {
			return o, fmt.Errorf("find %s: %w", *path, err)
		}
	}
	return o, nil
}

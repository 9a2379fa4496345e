package cli

import (
	"errors"
	"fmt"

	"github.com/alecthomas/kong"
)

// helpWidth keeps lines readable on wide terminals.
const helpWidth = 100

const description = "Sluice runs tasks. A task reserves the resources it touches, exclusively to change them or shared to read them; " +
	"tasks that conflict run one after the other, all others side by side."

// overview is what `sluice` alone says.
const overview = `Sluice runs tasks. A task reserves the resources it touches, exclusively to change
them or shared to read them; tasks that conflict run one after the other, all others
side by side.

Three commands to begin with:

  sluice dev                                      run all of Sluice on this machine
  sluice dispatch test.echo --args '[1]' --wait   in a second terminal: run a first task
  sluice task list                                see what became of it

` + "`sluice --help` lists all commands, `sluice dispatch --help` explains one.\n"

// groups are the parts of the list of commands and flags.
var groups = []kong.Group{
	{Key: "start", Title: "Start here:"},
	{Key: "tasks", Title: "Tasks:"},
	{Key: "system", Title: "The system:"},
	{Key: "services", Title: "One service in a process of its own:"},
	{Key: "load", Title: "The load:"},
	{Key: "connection", Title: "Connection and output:"},
	{Key: "service", Title: "The service:"},
	{Key: "executor", Title: "Running tasks:"},
	{Key: "log", Title: "Log:"},
}

// errHelpShown ends the parsing of a command line that asked for help.
var errHelpShown = errors.New("help was shown")

// helpFlag is our own because kong's ends the process, which a test would not survive.
type helpFlag bool

// BeforeReset runs when the flag was given, whatever else is missing or wrong.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return fmt.Errorf("print help: %w", err)
	}
	return errHelpShown
}

func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	note := "Every flag can also be given in the environment: --addr as SLUICE_ADDR."
	if node := ctx.Selected(); node == nil || !node.Leaf() {
		note = "`sluice <command> --help` explains one command.\n" + note
	}
	_, err := fmt.Fprint(ctx.Stdout, "\n"+note+"\n")
	return err
}

// Command sluice is all of Sluice: every service, and the client that talks to them. `sluice --help` lists what it can be.
package main

import (
	"context"
	"os"

	"github.com/sluice-tasks/sluice/pkg/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Environment{
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	}))
}

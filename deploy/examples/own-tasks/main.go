// Command own-tasks is an executor with two tasks of its own: archive.make packs a directory, archive.list says what is in an
// archive. The main function is all that it takes; README.md tells how to try it.
package main

import (
	"os"
	"time"

	"github.com/sluice-tasks/sluice/pkg/cli"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

func main() {
	mux := worker.NewMux()
	worker.Handle(mux, "archive.make", pack, worker.Discards(remove), worker.Component("archive", "1.0.0"))
	worker.Handle(mux, "archive.list", list, worker.InProcess(), worker.Timeout(time.Minute))
	os.Exit(cli.ExecutorMain(mux))
}

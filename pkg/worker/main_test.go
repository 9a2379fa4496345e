package worker_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

// This program is also what its own tests start: a worker, and an executor that does nothing but own one.
func TestMain(m *testing.M) {
	switch {
	case worker.IsChild():
		os.Exit(worker.ChildMain(familyMux()))
	case os.Getenv(ownerEnv) != "":
		os.Exit(own())
	}
	goleak.VerifyTestMain(m)
}

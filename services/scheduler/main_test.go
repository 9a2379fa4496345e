package scheduler_test

import (
	"flag"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) {
	// The simulation runs in memory, at some thousand histories a second: the usual hundred would be a waste of it. A flag on
	// the command line still wins, because it is parsed later.
	if err := flag.Set("rapid.checks", "2000"); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}

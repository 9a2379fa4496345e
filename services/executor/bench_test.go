package executor_test

import (
	"testing"

	"github.com/sluice-tasks/sluice/services/executor"
)

// From the assignment to the acceptance of the end, over gRPC on loopback, one task after another.
func BenchmarkTask(b *testing.B) {
	for _, c := range []struct{ where, name, kwargs string }{
		{"in-process", "nothing.here", ""},
		{"warm-child", "nothing", ""},
	} {
		b.Run(c.where, func(b *testing.B) {
			_, _, l := connect(b, executor.Config{MaxTasksPerChild: 1 << 30})
			l.do(order(c.name, c.kwargs))
			for b.Loop() {
				l.do(order(c.name, c.kwargs))
			}
		})
	}
	b.Run("cold-child", func(b *testing.B) {
		_, _, l := connect(b, executor.Config{MaxTasksPerChild: 1})
		for b.Loop() {
			l.do(order("nothing", ""))
		}
	})
}

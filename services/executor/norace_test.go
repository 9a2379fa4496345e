//go:build !race

package executor_test

import "github.com/sluice-tasks/sluice/services/executor"

// leastMemory is what a child of this program needs to start.
const leastMemory = executor.MinChildMemory

//go:build race

package executor_test

// leastMemory is what a child of this program needs to start: the race detector maps a shadow of all memory.
const leastMemory = 768 << 20

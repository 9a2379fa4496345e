package run

import "runtime"

// ballastBytes are asked for and never touched, so they take no memory; the collector counts them all the same.
const ballastBytes = 96 << 20

// Ballast keeps the garbage collector from running all the time in a process that keeps little and allocates a lot: it starts
// when the heap has doubled, and a service's own is a few MiB. With it the process may use about 100 MiB more before the next
// run. That saves 10 to 20 % of the CPU outside of the database under full load (sluice bench --dispatchers 4, two pairs).
// release gives it back.
func Ballast() (release func()) {
	ballast := make([]byte, ballastBytes)
	return func() { runtime.KeepAlive(ballast) }
}

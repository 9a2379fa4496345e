// Package clock gives the processes of a test a wall clock of their own, which the test sets while they run.
//
// A clock that is stepped (by an operator, by a time server, on a machine that comes back from a snapshot) is what no test of
// ordinary processes can show: the machine's clock is not ours. So a program is made to add an offset to it, which it reads anew
// each time. The monotonic clock stays what it is, as it does in life.
//
// # Owns
//
// The offset, in two files that say the same. One is for Go programs, whose runtime asks the kernel by itself: [Build] builds
// them with a package time in which Now adds the offset, made from the source of the Go that builds. The other is for programs
// that ask the C library, in front of which [Clock.Libc] puts libfaketime, from the Debian archive.
//
// # Failure
//
// Where libfaketime can't be had the test is skipped and says why. A Go whose package time looks otherwise fails the test.
package clock

// Package guard is a small process beside an executor that outlives it, if need be by a moment: when the executor is stopped
// (SIGSTOP) and its lease ends, or when it is killed, the guard ends the processes of its tasks, and tells the heartbeat service
// what is dead, so that nobody waits for the end of the lease.
//
// It is the same program, started by the executor as its children are, in a session of its own and without its standard output. A
// program whose executor has a guard asks worker.IsChild before anything else, and that is all that it has to do with it.
//
// # Owns
//
// What is said to a guard ([Orders]), and the guard's process ([Main]). Starting one, and another if it dies, is the executor's.
//
// # States
//
//	watching --> lease over: all marked processes are killed; back when the lease is a new one
//	   |
//	   +--> goodbye: ends
//	   +--> executor gone: all marked processes are killed --> none is left: tells --> ends
//
// The executor is gone when the kernel says so of its process, and not when the line to it closes: handlers in the executor's
// own process live exactly as long as that.
//
// Its clock is CLOCK_BOOTTIME, which goes on while the machine is suspended. It goes on while the guard is stopped, too: with
// everything else, by the freezer of a control group, it wakes late, and finds the lease over. What woke before it, the guard can't know.
//
// # Failure
//
// What can't be proven is not told: if a killed process hangs in the kernel, if the kernel's tables can't be read, or if the heartbeat
// service can't be reached until it has noticed by itself, the guard ends without a word. It writes no log: while the executor
// lives, that tells what the guard did (the line carries a note); afterwards the heartbeat service does.
//
// Not found are processes without the mark whose ancestors with the mark have all ended: those that cleared their environment
// and lost their parents (a child of the executor is the reaper of its descendants, so it must have died too), and processes
// of other users whose parents are gone. If the machine or the pid namespace ends, as a container does with its first process,
// the guard ends with the rest.
package guard

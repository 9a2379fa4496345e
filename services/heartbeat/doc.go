// Package heartbeat knows who is alive.
//
// # Owns
//
// The app table: one row for each life (incarnation) of a named process. Register begins one, beats keep it, Deregister
// ends it, and silence for longer than its time to live makes it missing. What happens to the tasks of a missing executor is
// the scheduler's business.
//
// # States
//
//	registered --(beats)--> registered --(deregister)--> ended
//	                              |
//	                              +-----(silence)------> missing
//
// Ended and missing are for good: the same process comes back as another incarnation.
//
// # Failure
//
// Beats arrive on streams, one per process, and are written together every flush: one statement, however many processes. A
// beat is confirmed only after it was written. So when this service or the database is away, nobody's beat is confirmed,
// executors stop their tasks in time by themselves, and who is then declared missing has really stopped.
package heartbeat

// Package meter measures what a piece of work costs a PostgreSQL server.
//
// Read it before and after, and take the difference. All figures are those of the whole server: whoever measures has it for
// himself.
//
//	CPU           user and system time of the server's processes, those that have ended included, in steps of 10 ms
//	WAL           bytes that were written to the log of changes
//	Transactions  transactions that changed something: each is one commit, and one wait for the disk if nobody shares it.
//	              Counted as transaction ids, because the server's own counters lag behind by seconds and count reads
//	Statements    (counted in this process) commands that it sent: BEGIN and COMMIT too, those of a pipeline one by one
//
// # Owns
//
// One connection, which measures and does nothing else, and the questions that it asks.
//
// # Failure
//
// CPU is known only when the server runs on this machine and this process may see its processes; otherwise it is marked as
// unknown, never guessed. All else is an error.
package meter

// Package faults stands between a process and its database, and breaks what passes at the place that a test names.
//
// A client that lost its connection does not know whether its transaction was committed, and one whose answer is late does not
// know that it is. Both are rare in life and impossible to time from outside. Here they happen on the very request that the
// test picks by its SQL: before anything is executed, between the work and its commit, or after the commit.
//
// # Owns
//
// A proxy on a loopback port. It understands as much of PostgreSQL's protocol as it needs to see where a request ends (Sync, or a
// simple Query), what SQL is in it, where it commits, and when it is answered (ReadyForQuery). Everything else passes as it is,
// the login included.
//
// # States
//
// A request is read whole before any of it goes on. Then it
//
//   - passes; or
//   - is held, and goes on (HoldRequest); or is never seen by the server (CutBefore); or
//   - is executed up to its commit, which is held (HoldCommit), never comes (CutBeforeCommit), or comes when the client is
//     long gone (CommitLate); or
//   - is executed whole, and the answer is held (HoldAnswer) or lost (LoseAnswer).
//
// When a cut reaches the client, the server is through with what it did of the request, so the test may look at once.
// CommitLate is there for the other case. Beside that, Cut ends all connections wherever they are, and Refuse is a server
// that is away.
//
// # Failure
//
// What it can't do as told fails the test: to hold a commit inside one simple query, for example. A request that a client
// flushes before its end is not broken at all. TLS is refused, and must not be needed by the server.
package faults

// Package lock decides which tasks may run at the same time: it is the table of who holds which resource and who waits
// for it.
//
// A task names the resources it touches: exclusively to change them, shared to read them. Two tasks conflict when they
// name the same resource and at least one of them names it exclusively. The whole rule is one sentence:
//
//	A task is unblocked when no older task that is still in the table conflicts with it.
//
// One could read that sentence as an instruction and scan all older tasks each time one ends; the cost of a task then
// grows with the backlog, and a long queue makes itself longer. This package keeps a line at every resource instead:
//
//	task 1 wants A exclusively and B shared, 2 and 3 want A shared, 4 wants A exclusively, 5 wants B exclusively
//
//	resource   granted          waiting
//	   A       1 exclusive   |  2 shared   3 shared   4 exclusive
//	   B       1 shared      |  5 exclusive
//
//	task 1 ends
//
//	   A       2 shared   3 shared   |  4 exclusive
//	   B       5 exclusive           |
//
// A task joins the end of every line it needs at once, and keeps its place in all of them while it waits. When a task
// leaves, only its own lines are looked at: if nobody is left in front, the bar moves past the next exclusive request,
// or past the run of shared ones up to the next exclusive. A task that is granted everything it asked for is unblocked.
//
// That is the same rule, because all lines are in the same order. What stands in front of the bar never conflicts; what
// stands behind it has something older and conflicting in front of it. And the oldest task in the table is at the head
// of all its lines, so there is always one that can run: no deadlock is possible and nothing starves.
//
// The bar only ever moves past a request once. So the work is linear in the number of requests, however many tasks
// wait: joining and leaving a line of a million costs the same as a line of one. This matters most for the one resource
// that every task of a domain shares.
//
// # Owns
//
// The decision who is unblocked, in memory. No clock, no goroutine, no lock: one caller owns a [Table]. What it decides
// is not true for anyone else until the caller has stored it.
//
// Beside it, what people ask: who holds, who waits, since when, who is in whose way, and whom a task has waited for longest. For
// that the caller says what time it is, see [Table.At], and a queue where somebody waits remembers some of the holds that have
// ended. It costs nothing where nobody waits, and no more for each hold where a million do.
//
// # States
//
// A request is waiting, then granted, exactly once. A task is blocked while one of its requests waits, then unblocked,
// and stays so until it is released. Released means gone, finished or canceled alike; the table does not know the
// difference, nor whether an unblocked task has started.
//
// # Failure
//
// A table is lost with its process and rebuilt from what was stored. The order then matters: first [Table.Admit] the
// tasks that were already unblocked, in any order (they do not conflict among themselves), then all others by rising
// seq. Admitting everything by seq alone would be wrong: where a small seq became visible late, behind a conflicting
// larger one that already runs, it would now be put in front of it, and be unblocked beside it.
//
// The same tasks are unblocked afterwards, if the blocked ones had been admitted by rising seq. Among blocked tasks that
// became visible out of order the new order may differ from the lost one, so one may be unblocked that was not before;
// Admit says so. It conflicts with nothing that is unblocked.
package lock

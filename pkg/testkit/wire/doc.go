// Package wire stands between two processes and is the network between them, as bad as a test wants it to be.
//
// It knows nothing of what passes. Whoever is at its ends takes it for a network: one that is slow, that stands still, that loses
// everything in one direction only, that breaks. So the same wire serves between an executor and the scheduler and between a
// service and PostgreSQL. (pkg/testkit/faults knows what passes, and breaks it at a request that the test names.)
//
// # Owns
//
// A port on the loopback interface, and for each connection to it one to the target. What comes from an end, its goodbye
// included, waits in a queue until its [Way] lets it through, in order.
//
// # States
//
// Each of the two ways is in one state at a time. A change counts at once, for what is already queued too:
//
//	Pass   everything goes through; what was held goes first
//	Hold   nothing goes through, and nothing is lost: a network that is down, and will come back
//	Drop   nothing goes through, and what came meanwhile is lost. A connection that lost something never passes a byte in that
//	       direction again, for a stream with a hole in it is none; a new one does, once Drop is over
//	Delay  everything arrives that much later
//	Drip   so many bytes a second, for each connection
//
// Beside that, Cut resets all connections, HangUp ends them as a peer does that closes, and Refuse is a server that is not there.
//
// # Failure
//
// When one end is reset, so is the other, as soon as the way between them lets that through: a process that dies behind a
// network that is down is not missed. A target that refuses resets the connection that was meant for it. A queue that is full
// (some hundred KiB) makes its sender wait, as a kernel does.
package wire

// Package port has ports that a server can leave and come back to.
//
// A test that refuses connections for a while must close the listener, and the kernel could give its port to somebody else
// meanwhile: to another test, or to an outgoing connection, which can even connect to itself.
//
// # Owns
//
// One port on the loopback interface, for as long as a [Kept] is open: a second socket is bound to it and never listens.
//
// # Failure
//
// While nobody listens, the kernel refuses connections as if no server was there.
package port

// Package rpc is how Sluice's services speak gRPC: servers, clients, and what happens to every call on the way.
//
// # Owns
//
// The order of the interceptors (a slice each, outermost first, with the reason beside every line), the default deadlines,
// keepalive, message sizes, health and reflection, the rule that nothing listens beyond loopback without credentials,
// Leader, which finds the leading scheduler among several, and Front, which forwards all services under one address.
//
// # Failure
//
// A server answers with what pkg/errs lets pass; everything else is masked and logged under a reference. A client turns
// what it receives back into *errs.Error, so that errs.Is means the same on both sides. Calls that are declared idempotent
// in the protos are attempted up to five times in about a second while a server is unavailable; others are not repeated.
// Without a leader a Leader's calls fail at once, and when another takes over, those that are open at the old one are cut.
package rpc

// Package client lets a Go program hand tasks to a running Sluice and learn what became of them.
//
// # Owns
//
// The calls a program makes, in Go's own types: arguments are marshalled, pages are joined, long waits are made of short
// ones, and lost connections are taken up again where nothing can happen twice.
//
// # Failure
//
// An error that the server chose to tell is an *errs.Error, so errs.Is(err, errs.TaskNotFound) and the like work. When no
// server answers, status.Code(err) is codes.Unavailable. Everything that only asks, or does nothing the second time, is repeated while
// the server is away for a moment; Wait, Follow and Watch, once they have begun, until their context ends. So is a dispatch, and also
// when the server has too much to do, after the pause that it asks for: every task has a request id, its own or one that is made
// for it, under which it is stored once. Attempts says how often.
package client

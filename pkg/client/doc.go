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
// server answers, status.Code(err) is codes.Unavailable. Dispatch is never repeated by this package: whether a call that was
// cut off stored its task is for the caller to find out, by its correlation id. Everything that only asks is repeated while
// the server is away for a moment; Wait, Follow and Watch, once they have begun, until their context ends.
package client

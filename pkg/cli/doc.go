// Package cli is the command line of Sluice: one grammar for the person who dispatches a task and for the unit file that
// starts a service.
//
// # Owns
//
// The names of commands and flags, their help, the form of what is printed, and the exit codes: 0 for success; 1 when a
// task failed or was canceled, or when the server could not or would not do what was asked; 2 when the command line itself
// was wrong, whoever noticed it first, this program or the server.
//
// Results go to standard output, everything else to standard error. With `--output json` standard output is JSON and nothing
// else; its form is in view.go and only ever grows.
//
// # Failure
//
// Every failure is a plain sentence on standard error, one line for each broken rule, in the words of the command line. What
// other people's tasks wrote is escaped before it reaches a terminal, except by `task logs`, which prints it as it is.
package cli

// Package house reads the source tree and says where it breaks a rule of the house that no compiler knows.
//
// # Owns
//
// The import rules, which are the architecture (imports.go; .golangci.yaml says the same to editors), the form of package
// docs, the ban on session state in SQL (session.go), what protos may import, and where generated code is. Its test runs
// over this repository, so that `make test` holds the rules without any tool.
//
// It reads files and does not build them: it also says what is wrong with a tree that does not compile, under every build
// constraint, in a second.
//
// # Failure
//
// A file that cannot be parsed is a finding like any other. It errs on the side of a finding: text that merely looks like
// a forbidden statement can be worded differently.
package house

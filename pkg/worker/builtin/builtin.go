package builtin

import "github.com/sluice-tasks/sluice/pkg/worker"

// Options say which tasks there are and what they may do. They must be the same in an executor and in its children; as
// JSON they fit into an environment variable.
type Options struct {
	// TestTasks adds test.*. One of them kills the executor: not for production.
	TestTasks bool
	// AllowCommands are the programs that command.run may run: names, which are looked up in the executor's PATH, or
	// absolute paths. "*" allows all. Empty allows none. It limits which programs are started, not what those can be
	// talked into: a shell on the list allows everything.
	AllowCommands []string
}

// Register adds the built-in tasks to a mux.
func Register(mux *worker.Mux, options Options) {
	worker.Handle(mux, "command.run", commands{allowed: options.AllowCommands}.run)
	if options.TestTasks {
		registerTests(mux)
	}
}

package builtin

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

// Options say which tasks there are and what they may do.
type Options struct {
	// TestTasks adds test.*. One of them kills the executor: not for production.
	TestTasks bool
	// AllowCommands are the programs that command.run may run: names, which are looked up in the executor's PATH, or
	// absolute paths. "*" allows all. Empty allows none. It limits which programs are started, not what those can be
	// talked into: a shell on the list allows everything.
	AllowCommands []string
}

// environment carries the options from an executor to its children.
const environment = "SLUICE_BUILTIN_TASKS"

// Environ returns the options as an entry for the environment of the executor's children.
func (o Options) Environ() string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("builtin: options can't be written as JSON: %v", err)) // a bool and strings always can
	}
	return environment + "=" + string(text)
}

// FromEnviron returns the options that the executor gave to this child.
func FromEnviron() (Options, error) {
	var o Options
	text := os.Getenv(environment)
	if text == "" {
		return o, nil
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return o, fmt.Errorf("read %s: %w", environment, err)
	}
	return o, nil
}

// Register adds the built-in tasks to a mux.
func Register(mux *worker.Mux, options Options) {
	worker.Handle(mux, "command.run", commands{allowed: options.AllowCommands}.run)
	if options.TestTasks {
		registerTests(mux)
	}
}

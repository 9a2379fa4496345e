package languages

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

// run runs a program in dir, with env added to the environment, and returns what it wrote to its standard output.
func (m machine) run(ctx context.Context, dir string, env map[string]string, program string, args ...string) (string, error) {
	return debian.Run(ctx, dir, environ(env), program, args...)
}

// environ is the environment without what would lead an interpreter astray, such as the modules of an active virtualenv.
func environ(env map[string]string) []string {
	all := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := env[name]
		return replaced || name == "PYTHONPATH" || name == "PYTHONHOME" || name == "NODE_OPTIONS" || name == "NODE_PATH"
	})
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

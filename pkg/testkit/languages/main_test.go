package languages

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTheExamplesRun is about this machine, or, with SLUICE_E2E_LANGUAGES=fetched, about what is fetched for it.
func TestTheExamplesRun(t *testing.T) {
	for name, c := range map[string]struct {
		program func(testing.TB) Program
		files   []string
	}{
		"Python":     {Python, []string{"worker.py", "client.py"}},
		"TypeScript": {Node, []string{"worker.js", "client.js"}},
		"clients":    {PulpClients, []string{"pulp", "galaxykit"}},
	} {
		t.Run(name, func(t *testing.T) {
			program := c.program(t)
			for _, file := range c.files {
				_, err := machine{}.run(t.Context(), "", program.Env, program.Path, filepath.Join(program.Example, file), "--help")
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

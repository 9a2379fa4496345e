package languages

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script makes an executable in dir.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// left fails the test when something half made is in the cache.
func left(t *testing.T, m machine) {
	t.Helper()
	if found, _ := filepath.Glob(filepath.Join(m.cache, "fetch-*")); len(found) > 0 {
		t.Errorf("%s are left", found)
	}
}

// TestTheExamplesRun is about this machine, or, with SLUICE_E2E_LANGUAGES=fetched, about what is fetched for it.
func TestTheExamplesRun(t *testing.T) {
	for name, c := range map[string]struct {
		program func(testing.TB) Program
		files   []string
	}{
		"Python":     {Python, []string{"worker.py", "client.py"}},
		"TypeScript": {Node, []string{"worker.js", "client.js"}},
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

package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/languages"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// generated are the clients in deploy/clients: what generates them from which flavour of the document, and what they say of themselves.
var generated = map[string]struct {
	flavour string
	build   func(t *testing.T, dir string) command
	says    string
}{
	"Go":         {"pk_path=1&openapi=3.0.3", goClient, "completed {\"args\":[],\"kwargs\":{\"text\":\"hello from Go\"}}\n"},
	"TypeScript": {"pk_path=1", typeScriptClient, "completed {\"args\":[],\"kwargs\":{\"text\":\"hello from TypeScript\"}}\n"},
}

// TestGeneratedClients makes clients out of the document that a running Sluice serves, compiles them, and has each dispatch a task and
// read it until it has ended.
func TestGeneratedClients(t *testing.T) {
	t.Parallel()
	s := newDev(t, pgtest.Dir(t), nil).start(t)
	for language, client := range generated {
		t.Run(language, func(t *testing.T) {
			s := s.under(t)
			dir := filepath.Join(t.TempDir(), "client")
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "clients", strings.ToLower(language)))); err != nil {
				t.Fatal(err)
			}
			document := s.call("GET", "docs/api.json?"+client.flavour, nil)
			if document.code != 200 {
				t.Fatalf("the document: %d %s", document.code, document.body)
			}
			if err := os.WriteFile(filepath.Join(dir, "api.json"), []byte(document.body), 0o600); err != nil {
				t.Fatal(err)
			}
			program := client.build(t, dir)
			cmd := exec.CommandContext(s.soon(), program.path, append(program.args, s.rest)...)
			cmd.Env = append(os.Environ(), "SLUICE_USER="+username, "SLUICE_PASSWORD="+password)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			said, err := cmd.Output()
			if err != nil || string(said) != client.says {
				t.Errorf("it said %q, %v; want %q\n%s", said, err, client.says, &stderr)
			}
		})
	}
}

// goClient generates with the version of oapi-codegen that the client's go.mod pins.
func goClient(t *testing.T, dir string) command {
	if said, err := made(t, dir, "go", "mod", "download"); err != nil {
		unavailable(t, "needs the modules of oapi-codegen", said, err)
	}
	for _, step := range [][]string{
		{"tool", "oapi-codegen", "-config", "sluice/oapi-codegen.yaml", "-o", "sluice/sluice.gen.go", "api.json"},
		{"vet", "./..."},
		{"build", "-o", "client", "."},
	} {
		if said, err := made(t, dir, "go", step...); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(step, " "), err, said)
		}
	}
	return command{path: filepath.Join(dir, "client")}
}

// typeScriptClient generates with the version of openapi-typescript that the client's lock file pins.
func typeScriptClient(t *testing.T, dir string) command {
	node := languages.ClientModules(t)
	if err := os.Symlink(filepath.Join(node.Example, "node_modules"), filepath.Join(dir, "node_modules")); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	for _, step := range [][]string{
		{"node_modules/openapi-typescript/bin/cli.js", "api.json", "--output", "sluice.ts"},
		{"node_modules/typescript/bin/tsc"},
	} {
		if said, err := made(t, dir, node.Path, step...); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(step, " "), err, said)
		}
	}
	return command{path: node.Path, args: []string{filepath.Join(dir, "dist", "main.js")}}
}

// made runs a step of a build, and returns all that it wrote.
func made(t *testing.T, dir, program string, args ...string) (said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	return string(output), err
}

// unavailable ends a test as the package languages does, for what can't be fetched.
func unavailable(t *testing.T, needs, said string, err error) {
	t.Helper()
	if setting := os.Getenv("SLUICE_E2E_LANGUAGES"); setting == "required" || setting == "fetched" {
		t.Fatalf("%s: %v\n%s", needs, err, said)
	}
	t.Skipf("%s: %v\n%s", needs, err, said)
}

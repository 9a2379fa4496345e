package languages

import (
	"context"
	"path/filepath"
	"testing"
)

// ClientModules returns a Node.js whose Example is a folder with the npm packages, in node_modules, that deploy/clients/typescript
// pins: they generate a client and compile it.
func ClientModules(t testing.TB) Program {
	t.Helper()
	return foundClientModules.get(t, "Node.js", machine.clientModules)
}

var foundClientModules finding

func (m machine) clientModules(ctx context.Context) (Program, error) {
	folder := filepath.Join("deploy", "clients", "typescript")
	sources, err := m.sources(folder)
	if err != nil {
		return Program{}, err
	}
	program := Program{Env: map[string]string{}}
	err = m.withNode(ctx, func(e engine) error {
		modules, err := m.modules(ctx, e, sources, folder)
		program.Path, program.Example = e.node, modules
		return err
	})
	return program, err
}

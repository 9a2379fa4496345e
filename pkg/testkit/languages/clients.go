package languages

import (
	"context"
	"path/filepath"
	"testing"
)

// PulpClients returns a Python that can run the programs "pulp" and "galaxykit", as their users have them, in the versions that
// deploy/e2e/testdata/clients pins.
func PulpClients(t testing.TB) Program {
	t.Helper()
	return foundPulpClients.get(t, "pulp-cli and galaxykit", machine.pulpClients)
}

// pulpClients has the programs without a virtualenv: that would name the interpreter by its path, which a cache outlives, and
// Debian's Python has no module to make one.
func (m machine) pulpClients(ctx context.Context) (Program, error) {
	file := filepath.Join(m.root, "deploy", "e2e", "testdata", "clients", "requirements.txt")
	in, packages, err := m.packages(ctx, file, "import pulp_cli, pulpcore.cli.core, galaxykit.command")
	return Program{Path: in.Executable, Env: in.importing(packages), Example: filepath.Join(packages, "bin")}, err
}

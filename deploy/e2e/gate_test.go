package e2e

import (
	"fmt"
	"os"
	"syscall"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// gate holds a task up at a place that the test knows, without any time in it: the task reads a named pipe, which begins
// when the test opens it and ends when the test closes it.
type gate struct {
	s     *system
	path  string
	write *os.File
}

func (s *system) gate() *gate {
	s.t.Helper()
	g := &gate{s: s, path: s.file("gate")}
	if err := syscall.Mkfifo(g.path, 0o666); err != nil {
		s.t.Fatal(err)
	}
	// The file mode creation mask took something away, and tasks may run as somebody else.
	if err := os.Chmod(g.path, 0o666); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.Remove(g.path) })
	return g
}

// task is one that is held up by the gate.
func (g *gate) task(exclusive, shared []string) client.Spec {
	spec := shell("cat %s", g.path)
	spec.Exclusive, spec.Shared = exclusive, shared
	return spec
}

// reached waits until the task stands at the gate, so it is running from now on until open.
func (g *gate) reached() *gate {
	g.s.t.Helper()
	eventually(g.s.t, "a task reaches its gate", func() (err error) {
		g.write, err = os.OpenFile(g.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		return err
	})
	g.s.t.Cleanup(g.open)
	return g
}

// open lets the task go on.
func (g *gate) open() {
	if g.write != nil {
		_ = g.write.Close()
		g.write = nil
	}
}

// shell is a task that runs a script.
func shell(script string, args ...any) client.Spec {
	return client.Spec{Name: "command.run", Kwargs: map[string]any{"argv": []string{"sh", "-c", fmt.Sprintf(script, args...)}}}
}

package procs_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

func TestMemoryOfAProcessIncludesThatOfItsDescendants(t *testing.T) {
	own := procs.Resident(os.Getpid())
	if own < 1<<20 {
		t.Fatalf("this process has %d bytes", own)
	}
	// A shell, and in a process of its own some that takes 64 MiB.
	cmd := exec.Command("sh", "-c", `sh -c 'x=$(head -c 67108864 /dev/zero | tr "\0" x); read y' <&0; true`)
	gate, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = gate.Close()
		_ = cmd.Wait()
		if left := procs.Resident(cmd.Process.Pid); left != 0 {
			t.Errorf("when it had ended it had %d bytes", left)
		}
	}()
	probe.Eventually(t, "its memory is seen", func() bool { return procs.Resident(cmd.Process.Pid) > 64<<20 })
}

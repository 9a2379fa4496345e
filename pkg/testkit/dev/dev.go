// Package dev has a whole Sluice running, as the program that users start, for tests that look at it from outside.
//
// # Owns
//
// One `sluice dev` for a test, built from the source tree, with a database and ports of its own, and executors beside it. Whoever
// tests what happens when its parts break wants deploy/e2e, which has a harness for that.
//
// # Failure
//
// What the processes wrote becomes part of a failed test's output. Killed together with the test process, nothing of them stays but
// their folder.
package dev

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// patience is how long a process has to end. It is no claim about speed.
const patience = time.Minute

// Dev is a running `sluice dev`.
type Dev struct {
	// REST is the URL of its REST address, without a slash at the end; GRPC the address for clients.
	REST, GRPC string
	// Dir is a folder that is in nobody's way. Tasks can reach it.
	Dir string

	program string // path
}

var (
	readyLine     = regexp.MustCompile(`(?m)^sluice is ready: REST at (http://[0-9.:]+)/\S*, gRPC at ([0-9.:]+)\n`)
	executorReady = regexp.MustCompile(`(?m)^sluice executor is ready.*\n`)
)

// Start builds Sluice and starts it with further flags. It stops when the test has ended, and must do so in good order.
func Start(t testing.TB, flags ...string) *Dev {
	t.Helper()
	d := &Dev{Dir: pgtest.Dir(t)}
	d.program = filepath.Join(d.Dir, "sluice")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", d.program, "github.com/sluice-tasks/sluice")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build sluice: %v\n%s", err, output)
	}
	args := []string{"dev", "--data-dir", filepath.Join(d.Dir, "data"), "--rest-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"}
	d.launch(t, append(args, flags...), func(wrote string) bool {
		addresses := readyLine.FindStringSubmatch(wrote)
		if addresses != nil {
			d.REST, d.GRPC = addresses[1], addresses[2]
		}
		return addresses != nil
	})
	return d
}

// Executor has another executor join, with further flags, until the test ends, or until it is killed.
func (d *Dev) Executor(t testing.TB, name string, flags ...string) {
	t.Helper()
	args := []string{"executor", "--addr", d.GRPC, "--name", name, "--work-dir", filepath.Join(d.Dir, name), "--test-tasks", "--allow=*"}
	d.launch(t, append(args, flags...), executorReady.MatchString)
}

// launch starts the program, waits until ready says so of what it wrote, and stops it when the test has ended.
func (d *Dev) launch(t testing.TB, args []string, ready func(wrote string) bool) {
	t.Helper()
	output, err := os.CreateTemp(d.Dir, "output-")
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	wrote := func() string {
		text, err := os.ReadFile(output.Name())
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	cmd := exec.Command(d.program, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = attributes()
	// A setting of whoever runs the tests would lead it elsewhere.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "SLUICE_") || strings.HasPrefix(entry, "DATABASE_URL=")
	})
	ended := make(chan struct{})
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // see attributes
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start sluice %s: %v", args[0], err)
	}
	t.Cleanup(func() {
		if err := stop(cmd, ended); err != nil {
			t.Errorf("sluice %s: %v", args[0], err)
		}
		if t.Failed() {
			t.Logf("sluice %s:\n%s", strings.Join(args, " "), wrote())
		}
	})
	probe.Eventually(t, "sluice "+args[0]+" is ready", func() bool {
		select {
		case <-ended:
			t.Fatalf("it ended before it was ready: %v", cmd.ProcessState)
		default:
		}
		return ready(wrote())
	})
}

// stop ends a process that may have ended. Killed is fine: a test may have had it killed.
func stop(cmd *exec.Cmd, ended <-chan struct{}) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("had to be killed, %s after SIGTERM", patience)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !cmd.ProcessState.Success() && !(ok && status.Signal() == syscall.SIGKILL) {
		return fmt.Errorf("ended otherwise than in good order: %v", cmd.ProcessState)
	}
	return nil
}

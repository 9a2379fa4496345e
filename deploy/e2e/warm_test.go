package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/languages"
)

// warmPulp is a process that runs pulp-cli as often as it is asked to, each time in a process of its own: testdata/clients/warm.py.
type warmPulp struct {
	mu      sync.Mutex // held while one is begun
	in      io.WriteCloser
	started chan int // process ids
	runs    map[int]*pulpRun
}

// pulpRun is one run of the program.
type pulpRun struct {
	args []string
	dir  string // its output
	pid  int
	code int
	done chan struct{} // closed when it has ended
}

func warmUp(t *testing.T, program languages.Program, env map[string]string) *warmPulp {
	t.Helper()
	w := &warmPulp{started: make(chan int), runs: map[int]*pulpRun{}}
	// The program is in the packages, and this beside their list.
	cmd := exec.Command(program.Path, filepath.Join("testdata", "clients", "warm.py"))
	cmd.Env, cmd.Stderr = cleanEnv(env), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.in = in
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(w.started)
		w.read(out)
	}()
	t.Cleanup(func() {
		_ = in.Close() // at which it ends
		<-read
		_ = cmd.Wait() // nobody asked for anything more
	})
	return w
}

// read hears what was started and what has ended.
func (w *warmPulp) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var pid, code int
		if n, _ := fmt.Sscan(lines.Text(), &pid, &code); n == 1 {
			w.started <- pid // whoever begins it waits for it, and then has it known before the next line is read
			<-w.started
			continue
		}
		if run := w.runs[pid]; run != nil {
			run.code = code
			close(run.done)
		}
	}
}

// begin begins a run in a folder.
func (w *warmPulp) begin(t *testing.T, dir string, args []string) *pulpRun {
	t.Helper()
	run := &pulpRun{args: args, dir: t.TempDir(), done: make(chan struct{})}
	line, err := json.Marshal(map[string]any{"args": args, "dir": dir, "out": filepath.Join(run.dir, "stdout"), "err": filepath.Join(run.dir, "stderr")})
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		t.Fatalf("start pulp: %v", err)
	}
	pid, open := <-w.started
	if !open {
		t.Fatal("what starts pulp has ended")
	}
	run.pid = pid
	w.runs[pid] = run
	w.started <- 0
	t.Cleanup(func() {
		if !run.ended() {
			run.signal(syscall.SIGKILL)
			<-run.done
		}
	})
	return run
}

func (r *pulpRun) stdout() string { return r.read("stdout") }
func (r *pulpRun) stderr() string { return r.read("stderr") }

func (r *pulpRun) read(name string) string {
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		return "" // it has not come so far
	}
	return string(text)
}

func (r *pulpRun) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (r *pulpRun) signal(s syscall.Signal) { _ = syscall.Kill(r.pid, s) }

// wait returns the exit code.
func (r *pulpRun) wait(t *testing.T) int {
	t.Helper()
	eventually(t, fmt.Sprintf("pulp %q ends", r.args), func() error {
		if !r.ended() {
			return fmt.Errorf("it wrote %s%s", r.stdout(), r.stderr())
		}
		return nil
	})
	return r.code
}

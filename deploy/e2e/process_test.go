package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// command is a process to be started.
type command struct {
	name string // for people
	args []string
	env  map[string]string // in addition to, or instead of, what cleanEnv leaves
	user *account          // nil: whoever runs the tests
	path string            // empty: the program under test
}

// process is a started process of the program under test. It writes to files, not pipes: a pipe would keep Wait waiting for
// whoever else still holds it.
type process struct {
	command
	dir  string // its output
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been reaped
	// expected: a story wanted it to end, or knows that it may.
	expected atomic.Bool
}

// launch starts the program with args. Whoever launches it stops it.
func launch(t testing.TB, dir string, c command) *process {
	t.Helper()
	out, err := os.MkdirTemp(dir, "output-"+c.name+"-")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{command: c, dir: out, done: make(chan struct{})}
	stdout, stderr := p.create(t, "stdout"), p.create(t, "stderr")
	defer stdout.Close()
	defer stderr.Close()
	path := c.path
	if path == "" {
		path = program(t)
	}
	p.cmd = exec.Command(path, c.args...)
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	p.cmd.Env = cleanEnv(c.env)
	p.cmd.SysProcAttr = attributes(c.user)
	started := make(chan error)
	go func() {
		// The kernel ends the process together with the thread that started it, see attributes.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", c.name, err)
	}
	return p
}

func (p *process) create(t testing.TB, name string) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(p.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func (p *process) stdout() string { return p.read("stdout") }
func (p *process) stderr() string { return p.read("stderr") }

func (p *process) read(name string) string {
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ready waits for the line that begins with prefix and returns it.
func (p *process) ready(t testing.TB, prefix string) string {
	t.Helper()
	var line string
	eventually(t, p.name+" is ready", func() error {
		for text := range strings.Lines(p.stdout()) {
			if strings.HasPrefix(text, prefix) && strings.HasSuffix(text, "\n") {
				line = strings.TrimSpace(text)
				return nil
			}
		}
		if p.ended() {
			t.Fatalf("%s ended before it was ready: %v\n%s", p.name, p.cmd.ProcessState, p.stderr())
		}
		return fmt.Errorf("it wrote %s%s", p.stdout(), p.stderr())
	})
	return line
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(s syscall.Signal) {
	p.expected.Store(true)
	_ = p.cmd.Process.Signal(s) // it may have ended
}

// kill is kill -9, and waits for the process alone, not for what it started.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// stop sends a signal and returns the exit code.
func (p *process) stop(t testing.TB, s syscall.Signal) int {
	t.Helper()
	p.signal(s)
	return p.wait(t)
}

// wait returns the exit code, or fails the test when the process does not end.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-deadline.C:
		p.kill()
		t.Fatalf("%s had to be killed, it did not end", p.name)
		return -1
	}
}

// cleanEnv is the environment without what would lead the program elsewhere than the test wants.
func cleanEnv(with map[string]string) []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := with[name]
		return replaced || name == "DATABASE_URL" || strings.HasPrefix(name, "SLUICE_")
	})
	for _, name := range slices.Sorted(maps.Keys(with)) {
		env = append(env, name+"="+with[name])
	}
	return env
}

// account is another user to run as.
type account struct {
	name     string
	uid, gid uint32
}

// own gives a folder to the account.
func (a *account) own(t testing.TB, dir string) {
	t.Helper()
	if a == nil {
		return
	}
	if err := os.Chown(dir, int(a.uid), int(a.gid)); err != nil {
		t.Fatal(err)
	}
}

// left lists the living processes that are in one of the folders or run a program from there, each as one line. PostgreSQL
// stands in its data directory, and tasks in their working directories.
func left(dirs ...string) []string {
	var found []string
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range pids {
		cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
		if err != nil {
			continue // it is gone or a zombie, or not ours to see
		}
		for _, dir := range dirs {
			if cwd == dir || strings.HasPrefix(cwd, dir+"/") {
				found = append(found, describe(proc))
			}
		}
	}
	return found
}

// marked lists the living processes that carry an environment variable, each as one line.
func marked(entry string) []string {
	var found []string
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range pids {
		environ, err := os.ReadFile(filepath.Join(proc, "environ"))
		if err == nil && slices.Contains(strings.Split(string(environ), "\x00"), entry) {
			found = append(found, describe(proc))
		}
	}
	return found
}

func describe(proc string) string {
	cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
	return fmt.Sprintf("%s %s", filepath.Base(proc), bytes.ReplaceAll(bytes.TrimRight(cmdline, "\x00"), []byte{0}, []byte{' '}))
}

// alive reports whether a process exists and is more than a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// pid (name) state ...: the name can hold anything, so what counts begins after its last bracket.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	return len(fields) > 0 && string(fields[0]) != "Z"
}

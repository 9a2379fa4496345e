package bouncer

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	look     = 10 * time.Millisecond
	patience = time.Minute // no claim about speed
)

// process is a running PgBouncer.
type process struct {
	cmd  *exec.Cmd
	log  string        // path
	done chan struct{} // closed when it has ended
}

// launch runs PgBouncer as credential until the test ends. What it wrote becomes part of a failed test's output.
func (p program) launch(t testing.TB, credential *syscall.Credential, config string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-bouncer-")
	if err != nil {
		t.Fatalf("bouncer: %v", err)
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	run := &process{log: filepath.Join(dir, "log"), done: make(chan struct{})}
	log, err := os.Create(run.log)
	if err != nil {
		t.Fatalf("bouncer: %v", err)
	}
	defer log.Close()
	if err := os.WriteFile(ini, []byte(config), 0o600); err != nil {
		t.Fatalf("bouncer: %v", err)
	}
	if credential != nil {
		for _, path := range []string{dir, ini} {
			if err := os.Chown(path, int(credential.Uid), int(credential.Gid)); err != nil {
				t.Fatalf("bouncer: %v", err)
			}
		}
	}
	cmd := p.command(ini)
	run.cmd = cmd
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr(credential)
	run.start(t, cmd)
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-run.done
		if t.Failed() {
			t.Logf("pgbouncer:\n%s", run.output())
		}
		_ = os.RemoveAll(dir)
	})
	return run
}

func (run *process) start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // see childAttr
		defer runtime.UnlockOSThread()
		defer close(run.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it was killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("bouncer: start pgbouncer: %v", err)
	}
}

func (run *process) output() string {
	text, err := os.ReadFile(run.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ready connects until it works, and reports false when the process has ended instead. PgBouncer tells nobody that it is
// ready.
func (run *process) ready(t testing.TB, url string) bool {
	t.Helper()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			_ = conn.Close(t.Context())
			return true
		}
		select {
		case <-ticker.C:
		case <-run.done:
			return false
		case <-deadline.C:
			t.Fatalf("bouncer: pgbouncer does not answer: %v", err)
		}
	}
}

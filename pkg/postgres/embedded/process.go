package embedded

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a running child. It is reaped whether or not anybody waits.
type process struct {
	pid  int
	proc *os.Process
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
}

// launch starts cmd from a thread that lives as long as the child does, see childAttr.
func launch(cmd *exec.Cmd) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid, p.proc = cmd.Process.Pid, cmd.Process
		}
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal tells the child only, for PostgreSQL passes the news on to its own. A child that has ended is no error.
func (p *process) signal(s syscall.Signal) { _ = p.proc.Signal(s) }

// kill ends the child and its process group the hard way.
func (p *process) kill() {
	if !p.ended() {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
}

package executor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/sluice-tasks/sluice/pkg/limits"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// child is one worker process, leader of its own process group.
type child struct {
	pid    int
	cmd    *exec.Cmd
	conn   net.Conn
	output *capture
	tasks  int
	// since is when it had its last task, or started. Under the lock of the pool.
	since  time.Time
	lost   bool            // the line has closed; under the lock of the pool
	strays []procs.Process // descendants that had left the group and were killed with it
	// mark is in the environment of the child and of all that it starts, and in no other process's.
	mark string
	// stuck: a process of it that was killed hangs in the kernel, and may still be there.
	stuck bool
	// spare is the directory for its next task, nil if there is none yet.
	spare *spare
	// settled: it has seen to it itself that nothing is left of its last task.
	settled bool
	// messages are what the child says. Closed when it has closed the line, which is when it has ended, or was going to.
	messages chan *executorv1.WorkRequest
	raw      syscall.RawConn // of conn
	// unsent is what it did not take at once of what it was sent, queued how much of that is not written yet. Both under saying.
	unsent chan []byte
	queued int
	saying sync.Mutex
	// gone is closed when the process has been reaped.
	gone  chan struct{}
	parts sync.WaitGroup

	mu     sync.Mutex
	reaped bool
	fault  error
}

// fork runs a function on a thread that lives as long as the executor: see pool.open.
type fork func(start func() error) error

// startChild starts a child and the goroutines that belong to it. lost is called when the line to it has closed.
func startChild(config Config, dir string, env []string, fork fork, lost func(*child)) (*child, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }() // or the end of the child would not be the end of the line
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the line to the child: %w", err), conn.Close())
	}
	capture, w, err := newCapture()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer func() { _ = w.Close() }()

	cmd := exec.Command(config.ChildCommand[0], config.ChildCommand[1:]...)
	if path, err := os.Executable(); err == nil && config.ChildCommand[0] == "/proc/self/exe" {
		cmd.Args[0] = path // what ps shows
	}
	cmd.Dir = dir
	mark := treeEnv + "=" + uuid.NewString()
	cmd.Env = append(slices.Clone(env), mark, worker.ChildEnv+"=3") // the first of ExtraFiles
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true,
		// Not SIGKILL: the child must live to kill its group. See worker.ChildMain.
		Pdeathsig: syscall.SIGTERM,
	}
	if err := fork(cmd.Start); err != nil {
		_ = conn.Close()
		capture.close()
		return nil, fmt.Errorf("start %s: %w", config.ChildCommand[0], err)
	}
	if config.ChildMemory > 0 {
		// Of the data alone: what a runtime reserves and never touches is no use of memory. It is inherited by what the child
		// starts, which has not started anything before it gets a task.
		limit := &unix.Rlimit{Cur: uint64(config.ChildMemory), Max: uint64(config.ChildMemory)}
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, limit, nil); err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = conn.Close()
			capture.close()
			return nil, fmt.Errorf("limit the memory of process %d: %w", cmd.Process.Pid, err)
		}
	}
	c := &child{
		pid: cmd.Process.Pid, cmd: cmd, conn: conn, output: capture, mark: mark, raw: raw,
		messages: make(chan *executorv1.WorkRequest), unsent: make(chan []byte, openCalls+8), gone: make(chan struct{}),
	}
	c.parts.Go(c.write)
	go func() {
		c.read()
		lost(c)
	}()
	return c, nil
}

// socketPair makes the line to a child: our end, and the file that it inherits.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "executor")
	conn, err := net.FileConn(ours) // a duplicate
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the line to the child: %w", err), theirs.Close())
	}
	line, _ := conn.(*net.UnixConn) // as the pair was made
	return line, theirs, nil
}

// childEnv is the environment of all children, and of the guard: ours, without what opens doors. What differs from task to task travels in
// messages, for children are used again.
func childEnv(own, added []string, memory int64) []string {
	env := slices.DeleteFunc(slices.Clone(own), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name == "DATABASE_URL" || name == "PGPASSWORD" || strings.HasPrefix(name, "SLUICE_")
	})
	if memory > 0 {
		// Before it fails for want of memory, a child of Go collects its garbage more often.
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%d", memory/10*9))
	}
	return append(env, added...)
}

// read passes on what the child says until the line closes or makes no sense.
func (c *child) read() {
	defer close(c.messages)
	reader := bufio.NewReader(c.conn)
	for {
		message := &executorv1.WorkRequest{}
		err := protodelim.UnmarshalOptions{MaxSize: limits.MaxMessage}.UnmarshalFrom(reader, message)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, unix.ECONNRESET):
			return
		case err != nil:
			c.blame(err)
			return
		}
		select {
		case c.messages <- message:
		case <-c.gone:
			return
		}
	}
}

// write sends what is queued. A child that does not read keeps only this goroutine waiting.
func (c *child) write() {
	for {
		select {
		case rest := <-c.unsent:
			if _, err := c.conn.Write(rest); err != nil {
				return // read finds out why
			}
			c.saying.Lock()
			c.queued--
			c.saying.Unlock()
		case <-c.gone:
			return
		}
	}
}

// send sends a message as far as that can be done at once, which it nearly always can, and queues the rest: no hand-over between
// goroutines is on a task's way. There is room for every reply to a call that may be open and for a task and its stop; a child for
// which that is not enough does not read, and what it does not read it will not miss.
func (c *child) send(message *executorv1.WorkResponse) {
	var b bytes.Buffer
	if _, err := protodelim.MarshalTo(&b, message); err != nil {
		c.blame(fmt.Errorf("encode a message: %w", err))
		return
	}
	c.saying.Lock()
	defer c.saying.Unlock()
	rest := b.Bytes()
	if c.queued == 0 {
		if rest = rest[c.offer(rest):]; len(rest) == 0 {
			return
		}
	}
	select {
	case c.unsent <- rest:
		c.queued++
	default:
		c.blame(errors.New("it does not read what it is sent"))
	}
}

// offer writes what there is room for on the line, without waiting for more, and returns how much that was.
func (c *child) offer(text []byte) (written int) {
	_ = c.raw.Write(func(fd uintptr) bool {
		written, _ = unix.Write(int(fd), text)
		return true // whatever came of it: what is wrong with the line, those find out who read from it and write the rest
	})
	return max(0, written)
}

// hungUp tells whether the child has closed the line, as all do that end, be it read or not.
func (c *child) hungUp() bool {
	var events int16
	err := c.raw.Control(func(fd uintptr) {
		line := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(line, 0); err == nil && n > 0 {
			events = line[0].Revents
		}
	})
	return err != nil || events&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// reply answers a call.
func (c *child) reply(reply *executorv1.CallReply) {
	c.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Reply{Reply: reply}})
}

// blame records what the child did wrong, to be told as the reason of its end.
func (c *child) blame(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == nil {
		c.fault = err
	}
}

// awaitReady waits for the child's first word.
func (c *child) awaitReady(ctx context.Context) error {
	select {
	case message, alive := <-c.messages:
		if !alive {
			return errors.New("it ended before it was ready")
		}
		if message.GetHello() == nil {
			return errors.New("its first message was not that it is ready")
		}
		return nil
	case <-ctx.Done():
		return errors.New("it was not ready in time")
	}
}

// signal sends a signal to the whole process group. Until the leader is reaped, its number can't belong to anyone else.
func (c *child) signal(signal syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		_ = unix.Kill(-c.pid, signal)
	}
}

// maxLooks is how often kill looks for more of those that it killed before it gives up on one that multiplies faster.
const maxLooks = 100

// kill kills the process group, and those of the child's descendants that left it. Workers are reapers for their
// descendants, so while the child lives, all of them are to be found. So it dies last, and until then is stopped, and its group
// with it: they start nothing any more. Of the others one can start another between the look and its death, so there is more
// than one look.
func (c *child) kill() {
	c.signal(unix.SIGSTOP)
	killed := map[int]bool{}
	for range maxLooks {
		more := false
		for _, p := range procs.Descendants(c.pid) {
			if p.Group == c.pid || p.Over || killed[p.PID] {
				continue
			}
			_ = unix.Kill(p.PID, unix.SIGKILL)
			c.strays, killed[p.PID], more = append(c.strays, p), true, true
		}
		if !more {
			break
		}
	}
	c.signal(unix.SIGKILL)
}

// treeEnv is the variable by which the processes of a child are known, wherever they moved to, when it has died and can't be
// asked any more. What hides it on purpose is not found.
const treeEnv = "SLUICE_TASK_TREE"

// killMarked kills what a child has started that outlived it: what left the group. More can be started while we look.
func (c *child) killMarked() {
	killed := map[int]bool{}
	for range maxLooks {
		more := false
		for _, p := range procs.Marked(c.mark) {
			if killed[p.PID] {
				continue
			}
			_ = unix.Kill(p.PID, unix.SIGKILL)
			c.strays, killed[p.PID], more = append(c.strays, p), true, true
		}
		if !more {
			return
		}
	}
}

// retire ends a child that has no task and left nothing of one behind.
func (c *child) retire() {
	c.settled = true
	c.end()
}

// end kills what is left of a child's processes, reaps the child, and returns the outcome for a task that it had.
func (c *child) end() *taskv1.Outcome {
	c.signal(unix.SIGKILL)
	// With the status, Wait gives away the number: nothing may be sent to the group from here on.
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	err := c.cmd.Wait()
	if !c.settled {
		c.killMarked()
	}
	// The others of the group have been killed too, but that takes effect when each next runs; the task is over when all are.
	c.stuck = !procs.AwaitGroup(c.pid, killTimeout)
	for _, p := range c.strays {
		c.stuck = !p.Await(killTimeout) || c.stuck
	}
	c.spare.remove()
	c.output.close()
	_ = c.conn.Close()
	close(c.gone)
	c.parts.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil {
		return died(unfit("The task's process did not keep to the protocol: %v.", c.fault))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return died(unfit("Could not wait for the task's process: %v.", err))
	}
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return ended(taskv1.State_STATE_FAILED, fmt.Sprintf(task.ReasonKilledFormat, status.Signal()), task.CodeProcessDied)
	}
	return ended(taskv1.State_STATE_FAILED, fmt.Sprintf(task.ReasonExitedFormat, c.cmd.ProcessState.ExitCode()), task.CodeProcessDied)
}

// died marks the outcome of a task whose process is gone.
func died(outcome *taskv1.Outcome) *taskv1.Outcome {
	outcome.Error.Code = task.CodeProcessDied
	return outcome
}

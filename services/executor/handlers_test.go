package executor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/builtin"
)

// testMux holds the built-in tasks and those below, in the executor and in its children.
func testMux() *worker.Mux {
	mux := worker.NewMux()
	builtin.Register(mux, builtin.Options{TestTasks: true, AllowCommands: []string{"*"}})
	worker.Handle(mux, "look", look)
	worker.Handle(mux, "look.here", look, worker.InProcess())
	worker.Handle(mux, "panic", panicking)
	worker.Handle(mux, "exit", func(_ context.Context, in struct{ Code int }) (worker.None, error) {
		fmt.Println("about to exit")
		os.Exit(in.Code)
		return worker.None{}, nil
	})
	worker.Handle(mux, "die", func(context.Context, struct{}) (worker.None, error) {
		fmt.Println("about to die")
		return worker.None{}, syscall.Kill(os.Getpid(), syscall.SIGKILL)
	})
	worker.Handle(mux, "print", func(_ context.Context, in printing) (int, error) {
		fmt.Print(strings.Repeat(in.Text, max(in.Times, 1)))
		fmt.Fprint(os.Stderr, in.Error)
		return os.Getpid(), nil
	})
	worker.Handle(mux, "family", family)
	worker.Handle(mux, "orphan", orphan)
	worker.Handle(mux, "orphan.dies", func(ctx context.Context, in struct{}) (worker.None, error) {
		if _, err := orphan(ctx, in); err != nil {
			return worker.None{}, err
		}
		return worker.None{}, syscall.Kill(os.Getpid(), syscall.SIGKILL)
	})
	worker.Handle(mux, "wait", wait)
	worker.Handle(mux, "wait.here", wait, worker.InProcess())
	worker.Handle(mux, "sticky", sticky)
	worker.Handle(mux, "sticky.here", func(ctx context.Context, _ struct{}) (worker.None, error) {
		if err := tell(context.WithoutCancel(ctx), os.Getpid()); err != nil {
			return worker.None{}, err
		}
		<-letGo
		return worker.None{}, nil
	}, worker.InProcess())
	worker.Handle(mux, "fail.large", func(context.Context, struct{}) (worker.None, error) {
		return worker.None{}, errors.New(strings.Repeat("x", limits.MaxErrorText))
	}, worker.InProcess())
	worker.Handle(mux, "nest.here", nesting, worker.InProcess())
	worker.Handle(mux, "dispatch", dispatching)
	worker.Handle(mux, "dispatch.here", dispatching, worker.Immediate())
	nothing := func(context.Context, struct{}) (worker.None, error) { return worker.None{}, nil }
	worker.Handle(mux, "nothing", nothing)
	worker.Handle(mux, "nothing.here", nothing, worker.InProcess())
	worker.Handle(mux, "env", func(context.Context, struct{}) ([]string, error) { return os.Environ(), nil })
	worker.Handle(mux, "log", func(ctx context.Context, _ struct{}) (worker.None, error) {
		worker.Logger(ctx).InfoContext(ctx, "a line", slog.Int("n", 1))
		return worker.None{}, nil
	})
	registerTellers(mux)
	return mux
}

type printing struct {
	Text  string
	Error string `json:",omitempty"`
	Times int    `json:",omitempty"`
}

// sight is what a handler sees of its surroundings.
type sight struct {
	PID     int
	Cwd     string
	Dir     string
	Mode    string
	Entries int
	Task    worker.Task
}

func look(ctx context.Context, _ struct{}) (sight, error) {
	cwd, err := os.Readlink("/proc/self/cwd")
	if err != nil {
		return sight{}, err
	}
	dir, err := worker.WorkingDir(ctx)
	if err != nil {
		return sight{}, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return sight{}, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return sight{}, err
	}
	if err := os.WriteFile(dir+"/left-behind", nil, 0o600); err != nil {
		return sight{}, err
	}
	return sight{
		PID: os.Getpid(), Cwd: cwd, Dir: dir, Mode: info.Mode().String(), Entries: len(entries), Task: worker.Current(ctx),
	}, nil
}

func panicking(context.Context, struct{}) (worker.None, error) {
	var nobody *sight
	nobody.PID = 1
	return worker.None{}, nil
}

// tell reports process ids to the test through the fake dispatcher: the test goes on when they are known.
func tell(ctx context.Context, pids ...int) error {
	_, err := worker.Dispatch(ctx, worker.Spec{Name: "told", Args: []any{pids}})
	return err
}

// family tells its own process id and that of a grandchild of the shell kind, and waits for the shell.
func family(ctx context.Context, _ struct{}) (worker.None, error) {
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return worker.None{}, err
	}
	if err := cmd.Start(); err != nil {
		return worker.None{}, err
	}
	line := make([]byte, 32)
	n, err := stdout.Read(line)
	if err != nil {
		return worker.None{}, err
	}
	grandchild, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		return worker.None{}, err
	}
	if err := tell(ctx, os.Getpid(), cmd.Process.Pid, grandchild); err != nil {
		return worker.None{}, err
	}
	return worker.None{}, cmd.Wait()
}

// orphan leaves a process behind that has left the process group and lost its parent.
func orphan(ctx context.Context, _ struct{}) (int, error) {
	out, err := exec.Command("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, err
	}
	return os.Getpid(), tell(ctx, pid)
}

// wait tells that it runs, and ends when it is stopped.
func wait(ctx context.Context, _ struct{}) (worker.None, error) {
	if err := tell(ctx, os.Getpid()); err != nil {
		return worker.None{}, err
	}
	<-ctx.Done()
	return worker.None{}, errors.New("was stopped")
}

// letGo ends the handlers in this process that nothing else ends.
var letGo = make(chan struct{})

// sticky tells its process id and those of two shells, one of which has left the process group, and all of them ignore every
// request to stop.
func sticky(ctx context.Context, _ struct{}) (worker.None, error) {
	pids := []int{os.Getpid()}
	for _, apart := range []bool{false, true} {
		cmd := exec.Command("sh", "-c", "trap '' TERM; echo; while :; do sleep 1000; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: apart}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return worker.None{}, err
		}
		if err := cmd.Start(); err != nil {
			return worker.None{}, err
		}
		if _, err := stdout.Read(make([]byte, 1)); err != nil { // the trap is set
			return worker.None{}, err
		}
		pids = append(pids, cmd.Process.Pid)
	}
	if err := tell(context.WithoutCancel(ctx), pids...); err != nil {
		return worker.None{}, err
	}
	select {}
}

// nests tell what tasks in this process got when they asked for their directory.
var nests = make(chan nest)

type nest struct {
	dir, again string
	err        error
}

// nesting asks for its directory twice, ends when it is let go, and leaves something behind that is let go later, and asks
// again.
func nesting(ctx context.Context, _ struct{}) (worker.None, error) {
	dir, err := worker.WorkingDir(ctx)
	again, errAgain := worker.WorkingDir(ctx)
	nests <- nest{dir, again, errors.Join(err, errAgain)}
	<-letGo
	go func() {
		<-letGo
		dir, err := worker.WorkingDir(ctx)
		nests <- nest{dir: dir, err: err}
	}()
	return worker.None{}, err
}

func dispatching(ctx context.Context, _ struct{}) ([]string, error) {
	group, err := worker.NewGroup(ctx, "a group")
	if err != nil {
		return nil, err
	}
	child, err := worker.Dispatch(ctx, worker.Spec{
		Name: "child", Kwargs: map[string]any{"n": 1}, Exclusive: []string{"a"}, Shared: []string{"b"}, GroupID: group,
	})
	return []string{group, child}, err
}

package executor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

// registerTellers adds handlers that tell of their work, make things, take too long, or take too much.
func registerTellers(mux *worker.Mux) {
	worker.Handle(mux, "tells", tells)
	worker.Handle(mux, "tells.here", tells, worker.InProcess())
	worker.Handle(mux, "adds", adds)
	worker.Handle(mux, "adds.here", adds, worker.InProcess())
	worker.Handle(mux, "says.here", func(ctx context.Context, in struct{ Text string }) (worker.None, error) {
		worker.Logger(ctx).InfoContext(ctx, "a line", slog.String("text", in.Text))
		return worker.None{}, nil
	}, worker.InProcess())
	worker.Handle(mux, "makes", makes, worker.Discards(discards))
	worker.Handle(mux, "makes.here", makes, worker.Discards(discards), worker.InProcess())
	worker.Handle(mux, "makes.for.ever", makes)
	worker.Handle(mux, "wait.briefly", wait, worker.Timeout(20*time.Millisecond))
	worker.Handle(mux, "wait.briefly.here", wait, worker.Timeout(20*time.Millisecond), worker.InProcess())
	worker.Handle(mux, "ladder", ladder)
	worker.Handle(mux, "spreads", spreads)
	worker.Handle(mux, "lingers", lingers)
	worker.Handle(mux, "unsafe", failing)
	worker.Handle(mux, "unsafe.here", failing, worker.InProcess())
	worker.Handle(mux, "safe", func(context.Context, struct{}) (worker.None, error) {
		return worker.None{}, worker.Safef("the disk is full")
	})
	worker.Handle(mux, "limits", dataLimits)
	worker.Handle(mux, "gobbles", gobbles)
}

type telling struct {
	Steps int64
	Text  string `json:",omitempty"`
	// Gate is a fifo that is read before the handler goes on, and Rest what it writes then.
	Gate string `json:",omitempty"`
	Rest string `json:",omitempty"`
}

// tells reports each of its steps, and two things that it made.
func tells(ctx context.Context, in telling) (worker.None, error) {
	part, err := worker.NewProgress(ctx, worker.Part{Code: "part", Message: "working", Total: in.Steps})
	if err != nil {
		return worker.None{}, err
	}
	for range in.Steps {
		part.Add(1)
	}
	fmt.Print(in.Text)
	if in.Gate != "" {
		if _, err := os.ReadFile(in.Gate); err != nil {
			return worker.None{}, err
		}
	}
	fmt.Print(in.Rest)
	part.Done()
	return worker.None{}, errors.Join(worker.Creating(ctx, "/a/"), worker.Created(ctx, "/a/"), worker.Created(ctx, "/b/"))
}

// adds adds each of its steps to the progress of its group.
func adds(ctx context.Context, in telling) (worker.None, error) {
	if in.Steps == 0 {
		return worker.None{}, nil
	}
	part, err := worker.NewGroupProgress(ctx, worker.Part{Code: "part", Message: "working", Total: in.Steps})
	if err != nil {
		return worker.None{}, err
	}
	for range in.Steps {
		part.Add(1)
	}
	return worker.None{}, nil
}

type making struct {
	// Dir is where files are made: "whole", and those named, which stay incomplete.
	Dir  string
	Half []string
	// End is how it ends.
	End string
}

func makes(ctx context.Context, in making) (worker.None, error) {
	for _, name := range append([]string{"whole"}, in.Half...) {
		path := filepath.Join(in.Dir, name)
		if err := worker.Creating(ctx, path); err != nil {
			return worker.None{}, err
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return worker.None{}, err
		}
	}
	if err := worker.Created(ctx, filepath.Join(in.Dir, "whole")); err != nil {
		return worker.None{}, err
	}
	switch in.End {
	case "complete":
		return worker.None{}, nil
	case "die":
		return worker.None{}, syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "wait":
		return wait(ctx, struct{}{})
	case "sticky":
		if err := tell(context.WithoutCancel(ctx), os.Getpid()); err != nil {
			return worker.None{}, err
		}
		select {}
	default:
		return worker.None{}, errors.New("no luck")
	}
}

// discards deletes a file, but for one that it does not, and one that it never comes to an end with.
func discards(ctx context.Context, path string) error {
	switch filepath.Base(path) {
	case "stuck":
		return errors.New("in use")
	case "hangs":
		if err := os.WriteFile(path+".begun", nil, 0o600); err != nil {
			return err
		}
		<-ctx.Done()
		<-letGo // a child waits for ever
		return nil
	}
	return os.Remove(path)
}

// ladder writes down what it is asked to stop by, and when, and does not stop.
func ladder(ctx context.Context, in struct{ File string }) (worker.None, error) {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, unix.SIGTERM)
	_ = tell(context.WithoutCancel(ctx), os.Getpid()) // the answer may cross the cancel, which takes it away
	note := func(what string) error {
		f, err := os.OpenFile(in.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, what, time.Now().UnixNano())
		return errors.Join(err, f.Close())
	}
	<-ctx.Done()
	if err := note("context"); err != nil {
		return worker.None{}, err
	}
	<-terminated
	if err := note("SIGTERM"); err != nil {
		return worker.None{}, err
	}
	select {}
}

// spreads starts something in a session of its own that always has a successor of itself under way.
func spreads(ctx context.Context, in struct{ Mark string }) (worker.None, error) {
	script := `trap '' TERM; while :; do sleep ` + in.Mark + ` & last=$!; sleep ` + in.Mark + ` & kill $last; last=$!; done`
	cmd := exec.Command("setsid", "sh", "-c", script)
	if err := cmd.Start(); err != nil {
		return worker.None{}, err
	}
	if err := tell(context.WithoutCancel(ctx), os.Getpid(), cmd.Process.Pid); err != nil {
		return worker.None{}, err
	}
	select {}
}

// lingers leaves something behind that waits for a gate and then asks for more, and says what the answer was.
func lingers(ctx context.Context, in struct{ Gate, Answer string }) (int, error) {
	ctx = context.WithoutCancel(ctx)
	go func() {
		text := "it could not wait"
		if _, err := os.ReadFile(in.Gate); err == nil {
			_, err := worker.Dispatch(ctx, worker.Spec{Name: "late"})
			text = fmt.Sprint("the answer: ", err)
		}
		_ = os.WriteFile(in.Answer, []byte(text), 0)
	}()
	return os.Getpid(), nil
}

func failing(context.Context, struct{}) (worker.None, error) {
	return worker.None{}, errors.New("the password is 1234")
}

type dataLimit struct{ Own, Inherited string }

// dataLimits are the limits of the child and of what it starts, in KiB as the shell has them.
func dataLimits(context.Context, struct{}) (dataLimit, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &own); err != nil {
		return dataLimit{}, err
	}
	out, err := exec.Command("sh", "-c", "ulimit -d").Output()
	return dataLimit{Own: fmt.Sprint(own.Cur >> 10), Inherited: strings.TrimSpace(string(out))}, err
}

// gobbles takes as many MiB as it is asked to, and uses them.
func gobbles(_ context.Context, in struct{ MiB int }) (int, error) {
	all := make([][]byte, in.MiB)
	sum := 0
	for i := range all {
		all[i] = make([]byte, 1<<20)
		for at := 0; at < 1<<20; at += 4096 {
			all[i][at] = 1
		}
		sum += len(all[i])
	}
	return sum, nil
}

package languages

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// visits are the streams of a worker to an executor that says what the test says.
type visits struct {
	executorv1.UnimplementedExecutorServiceServer

	come chan *visit
}

type visit struct {
	hears chan *executorv1.WorkRequest // closed with the stream
	says  chan *executorv1.WorkResponse
}

func (v visits) Work(stream grpc.BidiStreamingServer[executorv1.WorkRequest, executorv1.WorkResponse]) error {
	one := &visit{hears: make(chan *executorv1.WorkRequest, 100_000), says: make(chan *executorv1.WorkResponse)}
	go func() {
		for {
			select {
			case m := <-one.says:
				_ = stream.Send(m) // what it means if it fails, reading tells
			case <-stream.Context().Done():
				return
			}
		}
	}()
	defer close(one.hears)
	select {
	case v.come <- one:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		one.hears <- m
	}
}

func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

const patience = time.Minute

func (v *visit) next(t *testing.T) *executorv1.WorkRequest {
	t.Helper()
	select {
	case m, open := <-v.hears:
		if !open {
			t.Fatal("the stream has ended")
		}
		return m
	case <-time.After(patience):
		t.Fatal("the worker says nothing")
		panic("unreachable")
	}
}

func (v *visit) say(t *testing.T, m *executorv1.WorkResponse) {
	t.Helper()
	select {
	case v.says <- m:
	case <-time.After(patience):
		t.Fatal("the worker's stream has ended")
	}
}

// extend gives a lease, and returns when it ends.
func (v *visit) extend(t *testing.T, length time.Duration) time.Duration {
	t.Helper()
	end := monotonic(t) + length
	v.say(t, &executorv1.WorkResponse{Message: &executorv1.WorkResponse_Lease{
		Lease: &executorv1.Lease{ValidFor: durationpb.New(length), EndsAtMonotonic: int64(end)},
	}})
	return end
}

// A worker that was stopped does not know it, reads leases that are over, and has timers of its tasks that run out before the
// one of its lease does.
func TestAWorkerThatWasStoppedForLongerThanItsLeaseDoesNothingMore(t *testing.T) {
	for name, c := range map[string]struct {
		program      func(testing.TB) Program
		worker, task string
	}{
		"Python":     {Python, "worker.py", "py.count"},
		"TypeScript": {Node, "worker.js", "ts.count"},
	} {
		t.Run(name, func(t *testing.T) {
			program := c.program(t)
			listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			v := visits{come: make(chan *visit, 1)}
			server := rpc.NewServer(slog.New(slog.DiscardHandler))
			executorv1.RegisterExecutorServiceServer(server, v)
			served := make(chan error, 1)
			go func() { served <- server.Serve(listener) }()
			cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program.Path, filepath.Join(program.Example, c.worker), "--addr", listener.Addr().String())
			cmd.Env, cmd.Stdout, cmd.Stderr = environ(program.Env), t.Output(), t.Output()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = cmd.Wait()
			}()
			defer func() {
				_ = cmd.Process.Kill()
				<-ended
				server.Server.Stop()
				if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
					t.Error(err)
				}
			}()

			const length = 3 * time.Second
			var first *visit
			select {
			case first = <-v.come:
			case <-time.After(patience):
				t.Fatal("no worker comes")
			}
			first.say(t, &executorv1.WorkResponse{Message: &executorv1.WorkResponse_Welcome{
				Welcome: &executorv1.WorkerWelcome{Worker: "test", Lease: durationpb.New(length), CancelGrace: durationpb.New(length)},
			}})
			first.extend(t, length)
			first.say(t, &executorv1.WorkResponse{Message: &executorv1.WorkResponse_Run{Run: &executorv1.RunTask{
				Assignment: &taskv1.Assignment{TaskId: "01234567-89ab-7def-8123-456789abcdef", Claim: 1, Attempt: 1, Name: c.task, KwargsJson: `{"n": 1000, "pause": 0.3}`}, WorkingDir: "/",
			}}})
			for first.next(t).GetProgress() == nil { // now it rests
			}
			if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			over := first.extend(t, length) // which it can't read yet
			<-time.After(over - monotonic(t))
			for drained := false; !drained; {
				select {
				case <-first.hears:
				default:
					drained = true
				}
			}
			if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			// It comes back as a new one, unless a task did not stop at once: then its process ends, for it is too late.
			select {
			case second := <-v.come:
				if m := second.next(t); m.GetHello() == nil {
					t.Errorf("then it says %v", m)
				}
			case <-ended:
			case <-time.After(patience):
				t.Error("it neither comes back nor ends")
			}
			for m := range first.hears {
				t.Errorf("it says %v", m)
			}
		})
	}
}

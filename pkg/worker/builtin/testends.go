package builtin

import (
	"context"
	"errors"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

// registerEnds adds tasks that come to all the ends a task can come to.
func registerEnds(mux *worker.Mux) {
	worker.Handle(mux, "test.flaky", flaky)
	worker.Handle(mux, "test.panic", panics)
	worker.Handle(mux, "test.secret", secret)
	worker.Handle(mux, "test.exit", exit)
	worker.Handle(mux, "test.signal", signal)
	worker.Handle(mux, "test.memory", memory)
}

type flakiness struct {
	FailTimes int    `json:"fail_times"`
	Code      string `json:"code,omitempty"`
}

type attempt struct {
	Attempt int `json:"attempt"`
}

// flaky fails in its first attempts.
func flaky(ctx context.Context, in flakiness) (*attempt, error) {
	n := worker.Current(ctx).Attempt
	if n > in.FailTimes {
		return &attempt{n}, nil
	}
	err := worker.Safef("failed in attempt %d, as in the first %d", n, in.FailTimes)
	if in.Code != "" {
		err = worker.Coded(in.Code, err)
	}
	return nil, err
}

func panics(_ context.Context, in failure) (worker.None, error) {
	if in.Message == "" {
		in.Message = "panicked on request"
	}
	panic(in.Message)
}

// secretText stands for what must not be shown: a path, an address, a password.
const secretText = "could not log in to db.internal with password hunter2"

func secret(context.Context, nothing) (worker.None, error) {
	return worker.None{}, errors.New(secretText)
}

type exitCode struct {
	Code uint8 `json:"code"`
}

func exit(_ context.Context, in exitCode) (worker.None, error) {
	os.Exit(int(in.Code)) //nolint:forbidigo // it is what the task is for
	return worker.None{}, nil
}

type signalNumber struct {
	Number int `json:"number"`
}

// lastSignal is the highest there is on Linux.
const lastSignal = 64

// signal sends its own process a signal.
func signal(ctx context.Context, in signalNumber) (worker.None, error) {
	if in.Number < 1 || in.Number > lastSignal {
		return worker.None{}, wrong(`argument "number" must be between 1 and %d, is %d`, lastSignal, in.Number)
	}
	if err := syscall.Kill(os.Getpid(), syscall.Signal(in.Number)); err != nil {
		return worker.None{}, worker.Safef("send signal %d: %w", in.Number, err)
	}
	// It takes effect any moment now, if it is one that does.
	if err := pause(ctx, 10*time.Second); err != nil {
		return worker.None{}, err
	}
	return worker.None{}, worker.Safef("signal %d did not end the process", in.Number)
}

type size struct {
	Bytes int64 `json:"bytes"`
}

// memory takes so much memory, and returns when it has all of it.
func memory(ctx context.Context, in size) (*size, error) {
	const chunk = 1 << 20
	if in.Bytes < 0 {
		return nil, wrong(`argument "bytes" must be at least 0, is %d`, in.Bytes)
	}
	var taken [][]byte
	for left := in.Bytes; left > 0; left -= chunk {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		block := make([]byte, min(left, chunk))
		for i := 0; i < len(block); i += os.Getpagesize() {
			block[i] = 1 // until it is written to, a page is only a promise
		}
		taken = append(taken, block)
	}
	runtime.KeepAlive(taken)
	return &in, nil
}

// Package run starts a process's services, keeps them running and stops them in order.
//
// # Owns
//
// Service, the shape that every responsibility has, the ladder by which a process stops, and Pause.
//
// # Failure
//
// The first service that ends with an error stops all the others; its error is the process's. A service that does not stop
// within its grace is abandoned, and the process ends with an error that names it.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
)

// Service is one responsibility as the process sees it.
type Service interface {
	// Register adds what the service answers to a server.
	Register(grpc.ServiceRegistrar)
	// Run is its loop. It returns nil soon after ctx is canceled, when everything it began has ended or been handed back.
	Run(ctx context.Context) error
	// Ready returns nil when the service can do its work, or what it waits for.
	Ready(ctx context.Context) error
}

// Loop is a named piece of a process.
type Loop struct {
	Name string
	Run  func(context.Context) error
	// Grace is how long it may take to stop after its context was canceled.
	Grace time.Duration
}

// Ladder runs loops side by side and stops them from the last to the first, each after the one above it has ended: the
// services that give work before those that take it, the database last of all.
type Ladder struct {
	log   *slog.Logger
	loops []Loop
}

// NewLadder makes an empty ladder.
func NewLadder(log *slog.Logger) *Ladder { return &Ladder{log: log} }

// Add puts a loop on top.
func (l *Ladder) Add(loop Loop) { l.loops = append(l.loops, loop) }

// Run starts all loops, waits until ctx is canceled or one of them ends, and stops them. Ending without an error before
// being asked to is an error too.
func (l *Ladder) Run(ctx context.Context) error {
	type rung struct {
		Loop
		cancel context.CancelFunc
		done   chan struct{}
		err    error
	}
	var (
		ended  = make(chan *rung, len(l.loops))
		rungs  = make([]*rung, 0, len(l.loops))
		result error
	)
	// The loops outlive ctx: each is canceled when its turn has come.
	base := context.WithoutCancel(ctx)
	for _, loop := range l.loops {
		r := &rung{Loop: loop, done: make(chan struct{})}
		var own context.Context
		own, r.cancel = context.WithCancel(base)
		rungs = append(rungs, r)
		go func() {
			defer close(r.done)
			r.err = r.Run(own)
			ended <- r
		}()
	}

	select {
	case <-ctx.Done():
	case r := <-ended:
		if r.err == nil {
			r.err = errors.New("ended by itself")
		}
		result = fmt.Errorf("run %s: %w", r.Name, r.err)
		l.log.ErrorContext(ctx, "a part of the process ended, stopping the others", slog.String("part", r.Name), slog.Any("error", r.err))
		r.err = nil
	}

	for i := len(rungs) - 1; i >= 0; i-- {
		r := rungs[i]
		start := time.Now()
		r.cancel()
		timer := time.NewTimer(r.Grace)
		select {
		case <-r.done:
			if r.err != nil && !errors.Is(r.err, context.Canceled) {
				result = errors.Join(result, fmt.Errorf("stop %s: %w", r.Name, r.err))
			}
			l.log.DebugContext(ctx, "stopped", slog.String("part", r.Name), slog.Duration("after", time.Since(start)))
		case <-timer.C:
			result = errors.Join(result, fmt.Errorf("stop %s: still running after %s", r.Name, r.Grace))
		}
		timer.Stop()
	}
	return result
}

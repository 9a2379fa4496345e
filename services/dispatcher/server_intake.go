package dispatcher

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// What a flood of large messages can take is bounded here, before they are read. A message has up to 8 MiB, and gRPC reads as many at a
// time as there are calls, in the goroutine of each, when the generated code asks for it. So the two calls that bring tasks
// wait for their turn to ask. What was not read yet is held back by flow control: at most a window of it is here. What was read
// is counted by the intake.
const (
	// reads is how many messages are read and taken apart at a time, at most: 8 MiB each as they come, and as much again in parts.
	// A small message takes some microseconds.
	reads = 32
	// readQueue is how many calls may wait for that. More are refused unread.
	readQueue = 8192
	// readFor is how long a message may take to arrive once it is its turn. Who sends by the byte must not hold up the others.
	readFor = 10 * time.Second
)

// inTurn is the service with its two large calls read when it is their turn.
func inTurn(r *reader) *grpc.ServiceDesc {
	desc := dispatcherv1.DispatcherService_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i, method := range desc.Methods {
		if method.MethodName != "Dispatch" && method.MethodName != "DispatchBatch" {
			continue
		}
		desc.Methods[i].Handler = func(srv any, ctx context.Context, receive func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			return method.Handler(srv, ctx, func(message any) error {
				return r.read(ctx, func() error { return receive(message) })
			}, interceptor)
		}
	}
	return &desc
}

// reader lets so many messages be read at a time.
type reader struct {
	turn    chan struct{}
	waiting chan struct{}
	within  time.Duration
}

func newReader(atOnce, waiting int, within time.Duration) *reader {
	return &reader{turn: make(chan struct{}, atOnce), waiting: make(chan struct{}, waiting), within: within}
}

// read reads a message. It returns early when that takes too long; what is still to come of it then ends with the call.
func (r *reader) read(ctx context.Context, receive func() error) error {
	select {
	case r.turn <- struct{}{}: // nobody waits
	default:
		select {
		case r.waiting <- struct{}{}:
		default:
			return overloaded(minRetry, "%d calls wait to be read already", cap(r.waiting))
		}
		select {
		case r.turn <- struct{}{}:
			<-r.waiting
		case <-ctx.Done():
			<-r.waiting
			return ctx.Err()
		}
	}
	done := make(chan error, 1)
	go func() { done <- receive() }()
	timer := time.NewTimer(r.within)
	defer timer.Stop()
	select {
	case err := <-done:
		<-r.turn
		return err
	case <-timer.C:
	case <-ctx.Done():
	}
	// The call ends with the return of its handler, and so does receive.
	go func() { <-done; <-r.turn }()
	if err := ctx.Err(); err != nil {
		return err
	}
	return status.Error(codes.DeadlineExceeded, "the message did not arrive in time")
}

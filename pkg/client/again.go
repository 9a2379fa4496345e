package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const (
	// defaultAttempts is how often a dispatch is handed in at most: with the pauses below, for some four seconds. A service that
	// is started again is back by then.
	defaultAttempts = 8
	// forwardAttempts is the same for what is forwarded: somebody waits for it who can come again himself.
	forwardAttempts = 4
	// firstPause is the longest pause before the second attempt, doubled before each one after it up to maxPause.
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// attempts is an option of Dial.
type attempts struct {
	grpc.EmptyDialOption

	most int
}

// Attempts is an option of Dial: how often Dispatch and DispatchBatch hand in at most, when no server answers, the connection
// breaks or the server has no room for more. The default is 8. With 1 they hand in once and give tasks no request ids of their
// own, which spares the database some 200 bytes for each task.
func Attempts(most int) grpc.DialOption { return attempts{most: max(most, 1)} }

// attemptsOf is what the options say, the last one first.
func attemptsOf(options []grpc.DialOption) int {
	most := defaultAttempts
	for _, option := range options {
		if a, ok := option.(attempts); ok {
			most = a.most
		}
	}
	return most
}

// SendTask is Dispatch for who has a connection of another kind: it gives the task a request id, if it has none, and hands it in
// until that is known to have worked, or has failed. The spec stays as it is: handed in again, it is another task.
func SendTask(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, spec *taskv1.TaskSpec) (*taskv1.Task, error) {
	return sendTask(ctx, dispatcher, spec, defaultAttempts, worthAnother)
}

// ForwardTask is SendTask for who forwards the dispatch of somebody else: it heals broken connections, and leaves it to its
// caller whether to come again when the server has no room. Calls that wait for room would take room here.
func ForwardTask(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, spec *taskv1.TaskSpec) (*taskv1.Task, error) {
	return sendTask(ctx, dispatcher, spec, forwardAttempts, unavailable)
}

// ForwardTasks is ForwardTask for several tasks, all of them or none.
func ForwardTasks(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, specs []*taskv1.TaskSpec) ([]*taskv1.Task, error) {
	copies := make([]*taskv1.TaskSpec, len(specs))
	for i, spec := range specs {
		copies[i] = proto.CloneOf(spec)
	}
	return sendTasks(ctx, dispatcher, copies, forwardAttempts, unavailable)
}

func sendTask(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, spec *taskv1.TaskSpec, most int, worth func(error) bool) (*taskv1.Task, error) {
	spec = proto.CloneOf(spec)
	most = identify(most, spec)
	var answer *dispatcherv1.DispatchResponse
	err := again(ctx, most, worth, func() (err error) {
		answer, err = dispatcher.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: spec})
		return err
	})
	return answer.GetTask(), err
}

func sendTasks(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, specs []*taskv1.TaskSpec, most int, worth func(error) bool) ([]*taskv1.Task, error) {
	most = identify(most, specs...)
	var answer *dispatcherv1.DispatchBatchResponse
	err := again(ctx, most, worth, func() (err error) {
		answer, err = dispatcher.DispatchBatch(ctx, &dispatcherv1.DispatchBatchRequest{Tasks: specs})
		return err
	})
	return answer.GetTasks(), err
}

// identify gives request ids to tasks that have none, if they may be handed in more than once. It returns how often.
func identify(most int, specs ...*taskv1.TaskSpec) int {
	if most <= 1 {
		return 1
	}
	for _, spec := range specs {
		if spec.GetRequestId() != "" {
			continue
		}
		// In the order of time, so that the database adds them at one end of its index.
		id, err := uuid.NewV7()
		if err != nil {
			return 1
		}
		spec.RequestId = id.String()
	}
	return most
}

// again calls until it works, fails for good, was called often enough, or ctx ends. Then the error is that of the last call, unless
// that was refused for want of room and one before it may have worked: callers take the refusal for a promise that nothing was done.
func again(ctx context.Context, most int, worth func(error) bool, call func() error) error {
	var open error // of the last call of which nobody knows what it did
	for n := 1; ; n++ {
		err := call()
		if err == nil {
			return nil
		}
		wait := pauseBefore(n, err)
		if unavailable(err) {
			open = err
		}
		retry := n < most && worth(err)
		if open != nil && errs.Is(err, errs.Overloaded) {
			err = open
		}
		if !retry {
			return err
		}
		if until, has := ctx.Deadline(); has && time.Until(until) <= wait {
			return err // which says more than that the time is over
		}
		if pause(ctx, wait) != nil {
			return err
		}
	}
}

// unavailable: nobody answered, or who did could not do it now.
func unavailable(err error) bool { return status.Code(err) == codes.Unavailable }

// worthAnother: also when nothing was done for want of room. What the server refused for any other reason it would refuse again.
func worthAnother(err error) bool { return unavailable(err) || errs.Is(err, errs.Overloaded) }

// pauseBefore is the pause after the nth attempt: half of the bound to all of it, and not less than what the server asks for
// when it has too much to do.
func pauseBefore(n int, err error) time.Duration {
	bound := min(maxPause, firstPause<<min(n-1, 10))
	wait := bound/2 + rand.N(bound/2)
	var own *errs.Error
	if errors.As(errs.From(err), &own) && own.Reason == errs.Overloaded {
		wait = max(wait, own.RetryAfter)
	}
	return wait
}

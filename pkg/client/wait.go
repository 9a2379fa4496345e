package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

const (
	// longestLook keeps each call well below the idle limits of proxies and load balancers on the way.
	longestLook = time.Minute
	// answerSlack is what a long call may take beyond the time it was asked to wait.
	answerSlack = 10 * time.Second
	// retryPause is between two tries while the server is away; the connection itself backs off below it.
	retryPause = 500 * time.Millisecond
)

// Wait returns when all the tasks are final, in the order of ids. When ctx ends before, it returns them as last seen, with
// the context's error. A server that is away at the first look is an error, and then there are no tasks; one that goes away
// later is waited for.
func (c *Client) Wait(ctx context.Context, ids ...string) ([]Task, error) {
	return c.Follow(ctx, longestLook, func([]Task) {}, ids...)
}

// Follow is Wait for callers that want to show how it goes: seen gets the tasks after each look, the last time when all are
// final, and there is a look at least every interval (0 or more than a minute means a minute).
func (c *Client) Follow(ctx context.Context, interval time.Duration, seen func([]Task), ids ...string) ([]Task, error) {
	if interval <= 0 || interval > longestLook {
		interval = longestLook
	}
	// The server waits for at most MaxPage tasks in one call. A look that waits for nothing comes first, so that all are known
	// however soon ctx ends.
	var tasks []Task
	for chunk := range slices.Chunk(ids, limits.MaxPage) {
		now, err := c.look(ctx, 0, chunk)
		if err != nil {
			return nil, orContext(ctx, err)
		}
		tasks = append(tasks, now...)
	}
	seen(slices.Clone(tasks))
	for from := 0; from < len(tasks); {
		to := min(from+limits.MaxPage, len(tasks))
		// The chunks are waited for one after the other: all must end.
		if !slices.ContainsFunc(tasks[from:to], func(t Task) bool { return !t.Final() }) {
			from = to
			continue
		}
		now, err := c.look(ctx, interval, ids[from:to])
		if err != nil && ctx.Err() == nil && status.Code(err) == codes.Unavailable {
			err = pause(ctx, retryPause)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return tasks, orContext(ctx, err)
		}
		copy(tasks[from:to], now)
		seen(slices.Clone(tasks))
	}
	return tasks, nil
}

// orContext prefers the caller's own reason to what the call that it ended says.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// look returns the tasks when all are final, at the latest after interval.
func (c *Client) look(ctx context.Context, interval time.Duration, ids []string) ([]Task, error) {
	// The time asked for never exceeds the caller's own, so that its last look is an answer and not a cut call.
	if deadline, has := ctx.Deadline(); has {
		interval = max(0, min(interval, time.Until(deadline)))
	}
	call, cancel := context.WithTimeout(ctx, interval+answerSlack)
	defer cancel()
	answer, err := c.status.WaitTasks(call, &statusv1.WaitTasksRequest{TaskIds: ids, Timeout: durationpb.New(interval)})
	if err != nil {
		// gRPC can notice the caller's deadline a moment before the caller's context does.
		if until, has := ctx.Deadline(); has && status.Code(err) == codes.DeadlineExceeded && time.Until(until) < answerSlack {
			return nil, context.DeadlineExceeded
		}
		return nil, err
	}
	if len(answer.GetTasks()) != len(ids) {
		return nil, fmt.Errorf("wait for tasks: asked for %d, got %d", len(ids), len(answer.GetTasks()))
	}
	return fromTasks(answer.GetTasks()), nil
}

// Watch yields a task as it is now, then after each change of state, until it is final. An error ends it. After a lost
// connection it goes on with the state that it finds, so states in between can be missing.
func (c *Client) Watch(ctx context.Context, id string) iter.Seq2[Task, error] {
	return func(yield func(Task, error) bool) {
		var last Task
		for {
			err := c.watch(ctx, id, func(t Task) bool {
				// A stream that was taken up again begins with what is known already.
				if t.ID == last.ID && t.State == last.State && t.Claim == last.Claim {
					return true
				}
				last = t
				return yield(t, nil) && !t.Final()
			})
			switch {
			case err == nil:
				return
			case ctx.Err() != nil:
				yield(last, ctx.Err())
				return
			case last.ID == "" || status.Code(err) != codes.Unavailable:
				yield(last, err)
				return
			}
			if err := pause(ctx, retryPause); err != nil {
				yield(last, err)
				return
			}
		}
	}
}

// watch reads one stream until each says false (then it returns nil) or the stream ends.
func (c *Client) watch(ctx context.Context, id string, each func(Task) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.status.WatchTask(ctx, &statusv1.WatchTaskRequest{TaskId: id})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			// A server that stops may end its streams in good order, without the task being final.
			return status.Error(codes.Unavailable, "the stream ended before the task did")
		}
		if err != nil {
			return err
		}
		if !each(fromTask(answer.GetTask())) {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

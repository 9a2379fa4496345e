package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Log returns what a task's process wrote, at most the last 256 KiB; truncated says that there was more before it.
func (c *Client) Log(ctx context.Context, id string) (text string, truncated bool, err error) {
	answer, err := c.status.GetTaskLog(ctx, &statusv1.GetTaskLogRequest{TaskId: id})
	if err != nil {
		return "", false, err
	}
	return answer.GetText(), answer.GetTruncated(), nil
}

// LogPart is a piece of a task's log.
type LogPart struct {
	// Text is what the task has written since the piece before. Can be empty: then only the rest is news.
	Text string
	// Skipped: something was left out before the text, because it was written faster than it is kept, or too long ago.
	Skipped bool
	// Attempt that wrote it. The log of a new one begins anew.
	Attempt int
	// State of the task. After a final one, nothing comes.
	State task.State
}

// FollowLog yields what a task has printed so far, then what it prints, by the pieces in which it is stored, each some seconds, until it is
// final. An error ends it. After a lost connection it goes on where it was.
func (c *Client) FollowLog(ctx context.Context, id string) iter.Seq2[LogPart, error] {
	return func(yield func(LogPart, error) bool) {
		var seen logSeen
		for {
			err := c.followLog(ctx, id, &seen, func(p LogPart) bool { return yield(p, nil) && !p.State.Final() })
			if err == nil {
				return
			}
			if ctx.Err() == nil && seen.any && status.Code(err) == codes.Unavailable {
				err = pause(ctx, retryPause)
				if err == nil {
					continue
				}
			}
			yield(LogPart{}, orContext(ctx, err))
			return
		}
	}
}

// followLog reads one stream until each says false (then it returns nil) or the stream ends.
func (c *Client) followLog(ctx context.Context, id string, seen *logSeen, each func(LogPart) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.status.FollowTaskLog(ctx, &statusv1.FollowTaskLogRequest{TaskId: id})
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the stream ended before the task did")
		}
		if err != nil {
			return err
		}
		part := LogPart{Text: answer.GetText(), Skipped: answer.GetSkipped(), Attempt: int(answer.GetAttempt()), State: wire.FromState(answer.GetState())}
		if first && seen.any {
			part = seen.rest(part)
		}
		known := seen.last
		seen.note(part)
		// A stream that was taken up again may begin with what is known already.
		if part.Text == "" && seen.last == known {
			continue
		}
		if !each(part) {
			return nil
		}
	}
}

// logSeen is what of a log was received, so that a stream that is taken up again, which begins from the front, does not repeat it.
type logSeen struct {
	any bool
	// last is what the last piece said beside its text.
	last logStand
	// attempt is that which wrote the text.
	attempt int
	// whole: nothing of it was left out, and bytes is how long it was.
	whole bool
	bytes int
	// end is the end of the text.
	end string
}

// logStand is how a task stands whose log is followed.
type logStand struct {
	attempt int
	state   task.State
}

// knownEnd is by how many bytes the place is found again where a log goes on.
const knownEnd = 4 << 10

func (s *logSeen) note(p LogPart) {
	s.any, s.last = true, logStand{p.Attempt, p.State}
	if p.Text == "" {
		return
	}
	if p.Attempt != s.attempt {
		s.attempt, s.whole, s.bytes, s.end = p.Attempt, true, 0, ""
	}
	s.whole = s.whole && !p.Skipped
	s.bytes += len(p.Text)
	s.end += p.Text
	s.end = s.end[max(0, len(s.end)-knownEnd):]
}

// rest leaves out what was received. If the length does not tell where that ends, its last words do. Where they stand more than once,
// too little is left rather than too much.
func (s *logSeen) rest(p LogPart) LogPart {
	if p.Text == "" || p.Attempt != s.attempt || s.end == "" {
		return p
	}
	from := -1
	if s.whole && !p.Skipped && s.bytes <= len(p.Text) {
		from = s.bytes
	} else if at := strings.LastIndex(p.Text, s.end); at >= 0 {
		from = at + len(s.end)
	}
	if from < 0 {
		p.Skipped = true
		return p
	}
	p.Text, p.Skipped = p.Text[from:], false
	return p
}

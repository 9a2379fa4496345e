package status

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// LogDatabase is the SQL for logs.
type LogDatabase interface {
	Log(ctx context.Context, id string) (Log, error)
	PutLog(ctx context.Context, id string, claim int64, l Log) error
	// LogSince reads a task's log for one who has it up to a place: of the run with that claim, so many bytes. If there is no more, the
	// text is left out.
	LogSince(ctx context.Context, id string, claim, written int64) (LogAt, error)
}

// Log is what a task's process wrote.
type Log struct {
	// Text is the end of it.
	Text string
	// Truncated: there was more before.
	Truncated bool
	// Written is how many bytes it was in all, never less than there are.
	Written int64
}

// LogAt is a log as it was at one moment, together with the task that wrote it.
type LogAt struct {
	Log
	// Claim is that of the run that wrote the log, 0 if there is none; Attempt is which attempt that was, or the task's if there is none.
	Claim   int64
	Attempt int32
	// State of the task at the same moment: the log of one that is final is complete.
	State task.State
}

// Bounds of following.
const (
	// maxFollowers of logs, of one process.
	maxFollowers = 1000
	// logPause is the least time between two pieces of one log.
	logPause = 500 * time.Millisecond
)

// GetTaskLog returns a task's log.
func (s server) GetTaskLog(ctx context.Context, req *statusv1.GetTaskLogRequest) (*statusv1.GetTaskLogResponse, error) {
	l, err := s.service.db.Log(ctx, req.GetTaskId())
	if err != nil {
		return nil, err
	}
	return &statusv1.GetTaskLogResponse{Text: l.Text, Truncated: l.Truncated}, nil
}

// PutTaskLog stores a task's log.
func (s server) PutTaskLog(ctx context.Context, req *statusv1.PutTaskLogRequest) (*statusv1.PutTaskLogResponse, error) {
	// Text columns can't hold the zero character, which processes do write. Executors of ours send none.
	text := strings.ReplaceAll(req.GetText(), "\x00", "\uFFFD")
	tail := end(text, limits.MaxLog)
	log := Log{
		Text: tail, Truncated: req.GetTruncated() || tail != text,
		Written: max(req.GetWritten(), int64(len(req.GetText()))) + int64(len(text)-len(req.GetText())),
	}
	if err := s.service.db.PutLog(ctx, req.GetTaskId(), req.GetClaim(), log); err != nil {
		return nil, err
	}
	s.service.wake(logOf(req.GetTaskId()))
	return &statusv1.PutTaskLogResponse{}, nil
}

// FollowTaskLog streams a task's log.
func (s server) FollowTaskLog(req *statusv1.FollowTaskLogRequest, stream grpc.ServerStreamingServer[statusv1.FollowTaskLogResponse]) error {
	return s.service.followLog(stream.Context(), req.GetTaskId(), stream.Send)
}

// logOf is what those wait for who follow the log of a task: who waits for the task itself is not woken by each line of it.
func logOf(id string) string { return "log of " + id }

// wake wakes those who wait for something.
func (s *Service) wake(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.waiters[what] {
		w.wake()
	}
}

// followLog sends what a task has printed, and then what it prints, until it is final. What another process has stored is found by the
// look that each waiter makes once a second.
func (s *Service) followLog(ctx context.Context, id string, send func(*statusv1.FollowTaskLogResponse) error) error {
	defer s.followers.Add(-1)
	if s.followers.Add(1) > maxFollowers {
		full := errs.Oversize(errs.Overloaded, "%d logs are followed already", maxFollowers)
		full.RetryAfter = 5 * time.Second
		return full
	}
	changed, leave := s.await([]string{id})
	defer leave()
	printed, quit := s.await([]string{logOf(id)})
	defer quit()
	var place logPlace
	var sent time.Time
	for {
		now, err := s.db.LogSince(ctx, id, place.claim, place.at)
		if err != nil {
			return err
		}
		if message := place.move(now); message != nil {
			if err := send(message); err != nil {
				return err
			}
			sent = time.Now()
		}
		if now.State.Final() {
			return nil
		}
		if !s.nextOfLog(ctx, changed, printed, time.Until(sent.Add(logPause))) {
			if err := ctx.Err(); err != nil {
				return err
			}
			return errs.Away(errs.Stopping, nil, "this status service is stopping")
		}
	}
}

// nextOfLog is next for one who also waits for what is printed, which does not count until the rest is over.
func (s *Service) nextOfLog(ctx context.Context, changed, printed *waiter, rest time.Duration) bool {
	resting := time.NewTimer(rest)
	defer resting.Stop()
	look := time.NewTimer(max(rest, s.pause(changed)))
	defer look.Stop()
	var news <-chan struct{}
	for {
		select {
		case <-changed.signal:
			return true
		case <-resting.C:
			news = printed.signal
		case <-news:
			return true
		case <-look.C:
			return true
		case <-ctx.Done():
			return false
		case <-s.stopping:
			return false
		}
	}
}

// logPlace is how far one who follows a log has got.
type logPlace struct {
	// claim is that of the run whose log it is, at how many bytes of it have been sent.
	claim, at int64
	// state and attempt were sent last.
	state   task.State
	attempt int32
}

// move goes on to a log as it is now, and returns what is new; nil if nothing is.
func (p *logPlace) move(now LogAt) *statusv1.FollowTaskLogResponse {
	if now.Claim != p.claim {
		p.claim, p.at = now.Claim, 0
	}
	message := &statusv1.FollowTaskLogResponse{Attempt: now.Attempt, State: wire.State(now.State)}
	if now.Written > p.at {
		// What is left of the text begins at this place.
		begin := now.Written - int64(len(now.Text))
		message.Skipped = begin > p.at || p.at == 0 && now.Truncated
		// An executor of another make may not have kept to whole characters.
		message.Text = strings.ToValidUTF8(now.Text[max(0, p.at-begin):], "\uFFFD")
		p.at = now.Written
	}
	if message.GetText() == "" && now.State == p.state && now.Attempt == p.attempt {
		return nil
	}
	p.state, p.attempt = now.State, now.Attempt
	return message
}

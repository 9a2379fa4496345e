package dispatcher

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

// Bounds of the hint when to come again, before its jitter. What is drained sooner than the lower one is not worth a retry each,
// and whoever waits longer than the upper one would not know that it is over.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 15 * time.Second
	// askEvery is how often at most the leader is asked how many tasks there are while tasks are refused because of it, and
	// nothing is offered that would tell.
	askEvery = time.Second
)

// overloaded refuses tasks. after is about when there will be room; the hint is up to twice that, so that those who were
// refused together do not come back together.
func overloaded(after time.Duration, format string, args ...any) error {
	after = max(minRetry, min(after, maxRetry))
	return &errs.Error{
		Code: codes.ResourceExhausted, Reason: errs.Overloaded, RetryAfter: after + rand.N(after),
		Message: fmt.Sprintf(format, args...) + ": try again later",
	}
}

// roomFor is an error when there are too many tasks that are not final, as far as the leader's count is known.
func (s *Service) roomFor(n int) error {
	live, known := s.leader.Live()
	if s.cfg.MaxLive == 0 || !known || live+int64(n) <= s.cfg.MaxLive {
		return nil
	}
	s.mu.Lock()
	due := time.Since(s.asked) >= askEvery
	if due {
		s.asked = time.Now()
	}
	s.mu.Unlock()
	if due {
		s.leader.Offer()
	}
	// When there will be room depends on how long tasks take, which nobody here knows; a second is what a count lasts.
	return overloaded(askEvery, "%d tasks are not finished, and at most %d may be", live, s.cfg.MaxLive)
}

package heartbeat

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

const (
	// sweepLate is how long after the end of a life it is looked for, so that one look finds it.
	sweepLate = 5 * time.Millisecond
	// sweepPause is between two looks at least: for lives that end one after the other, and for those that are passed by because
	// somebody holds their rows.
	sweepPause = 200 * time.Millisecond
	// sweepRetry is when the next look is after one that failed.
	sweepRetry = time.Second
)

// sweepBy brings the next look for the silent forward to a time, if it is later.
func (s *Service) sweepBy(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.Before(s.sweepAt) {
		s.sweepAt = at
		s.wake()
	}
}

// sweep declares the silent missing. The next look is when the next life can be over. That misses those that begin meanwhile:
// ours bring it forward, and so do beats through us. What is left is a life with a time to live of less than SweepEvery that
// began with another service, has never beaten through us, and is lost together with that service: for that, there is SweepEvery.
func (s *Service) sweep(ctx context.Context) {
	// Before the statement: what is brought forward while it runs must not be put off again.
	s.mu.Lock()
	s.sweepAt = time.Now().Add(s.cfg.SweepEvery)
	s.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	sent := time.Now()
	swept, err := s.db.Sweep(limited, s.clock.belief(sent))
	if err != nil {
		if ctx.Err() == nil {
			s.log.WarnContext(ctx, "can't look for the silent", slog.Any("error", err))
		}
		s.sweepBy(time.Now().Add(sweepRetry))
		return
	}
	if swept.Alive {
		s.sweepBy(time.Now().Add(max(swept.Next+sweepLate, sweepPause)))
	}
	s.saw(ctx, sent, swept.At)
	s.metrics.declared(ctx, swept.Missing)
	executors := false
	for _, who := range swept.Missing {
		s.log.WarnContext(ctx, "declared missing", slog.String("app", who))
		executors = executors || strings.HasPrefix(who, kindWorker+" ")
	}
	if executors {
		s.hints.hint()
	}
}

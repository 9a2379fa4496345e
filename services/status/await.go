package status

import (
	"context"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Bounds of a wait by filter.
const (
	// maxAwaited is how many tasks one call waits for.
	maxAwaited = 100_000
	// maxAwaitedByAll is how many tasks all calls wait for, of some 100 bytes each. A call on its own is always let wait.
	maxAwaitedByAll = 1_000_000
	// awaitedShown is how many of those that are left are shown.
	awaitedShown = 100
	// awaitedLook is how many tasks a look asks about. It goes on with the next ones when all of them have ended, so of a task is asked
	// once when it has ended, and until then only if it is one of the oldest.
	awaitedLook = 1000
)

// awaitTasks returns when all tasks are final that matched and were not when it was called, or after limit.
func (s *Service) awaitTasks(ctx context.Context, limit time.Duration, filter *statusv1.Filter) (*statusv1.AwaitTasksResponse, error) {
	waitCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	left, err := s.watching.db.Unfinished(ctx, filter, maxAwaited)
	if err != nil {
		return nil, err
	}
	matched := int64(len(left))
	defer s.awaited.Add(-matched)
	if all := s.awaited.Add(matched); all > maxAwaitedByAll && all > matched && matched > 0 {
		full := errs.Oversize(errs.Overloaded, "%d tasks are waited for already", maxAwaitedByAll)
		full.RetryAfter = time.Second
		return nil, full
	}
	answer := &statusv1.AwaitTasksResponse{Matched: matched}
	for len(left) > 0 {
		again, err := s.awaitSome(ctx, waitCtx, &left)
		if err != nil {
			return nil, err
		}
		if !again {
			break
		}
	}
	if left, err = s.leftOf(ctx, left, len(left)); err != nil {
		return nil, err
	}
	answer.Done, answer.Remaining = len(left) == 0, int64(len(left))
	answer.Tasks, err = s.shownOf(ctx, left[:min(len(left), awaitedShown)])
	return answer, err
}

// awaitSome looks, and waits for the next look. It reports whether there is to be one.
func (s *Service) awaitSome(ctx, waitCtx context.Context, left *[]Unfinished) (again bool, err error) {
	// The leader's word is only listened to for the last ones: each task that is listened to takes memory, and as long as there are
	// others the word of one ends nothing.
	var ids []string
	if len(*left) <= awaitedShown {
		for _, t := range *left {
			ids = append(ids, t.ID)
		}
	}
	w, leave := s.await(ids)
	defer leave()
	before := len(*left)
	if *left, err = s.leftOf(ctx, *left, awaitedLook); err != nil || len(*left) == 0 {
		return false, err
	}
	if before > awaitedShown && len(*left) <= awaitedShown {
		return true, nil // now they are few enough to be listened to
	}
	return s.next(waitCtx, w), nil
}

// leftOf leaves out what is final of the first ones, and goes on as long as all of them are.
func (s *Service) leftOf(ctx context.Context, tasks []Unfinished, at int) ([]Unfinished, error) {
	for len(tasks) > 0 {
		some := tasks[:min(at, len(tasks))]
		seqs := make([]int64, len(some))
		for i, t := range some {
			seqs[i] = t.Seq
		}
		living, err := s.watching.db.Living(ctx, seqs)
		if err != nil {
			return nil, err
		}
		if len(living) == 0 {
			tasks = tasks[len(some):]
			continue
		}
		kept := make([]Unfinished, 0, len(living)+len(tasks)-len(some))
		for _, t := range some {
			if living[t.Seq] {
				kept = append(kept, t)
			}
		}
		return append(kept, tasks[len(some):]...), nil
	}
	return nil, nil
}

// shownOf reads tasks. Those that were deleted meanwhile are left out. They were not final a moment ago, so they have no results, or
// only just.
func (s *Service) shownOf(ctx context.Context, some []Unfinished) ([]*taskv1.Task, error) {
	if len(some) == 0 {
		return nil, nil
	}
	ids := make([]string, len(some))
	for i, t := range some {
		ids[i] = t.ID
	}
	found, err := s.db.GetMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	shown := make([]*taskv1.Task, 0, len(found))
	for _, id := range ids {
		if t := found[id]; t != nil {
			one := wire.Task(t)
			one.ResultJson = ""
			shown = append(shown, one)
		}
	}
	return shown, nil
}

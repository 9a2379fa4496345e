package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	// cancelPage is how many members of a group one transaction changes: two thousand take some 50 ms, which is how long a tick may
	// have to wait for one of them.
	cancelPage = 2000
	// cancelRest is the longest pause before members are tried again that something else was changing; a tick takes some milliseconds.
	cancelRest = 20 * time.Millisecond
	// cancelTries is how often that is done. Who holds a row for longer than that is stuck, or stopped.
	cancelTries = 100
)

// GroupDatabase is the SQL for task groups.
type GroupDatabase interface {
	InsertGroup(ctx context.Context, id, domainID, description string) error
	// Unfinished lists the members of a group that wait or run, by their places in the order, and counts those that are canceling.
	// There is no such group: NotFound.
	Unfinished(ctx context.Context, id string) (seqs []int64, canceling int64, err error)
	// CancelMembers asks tasks to stop. It returns which of them this changed, and how many of those are canceled by that and not
	// canceling, and which are still as they were, because somebody else was about to change them.
	CancelMembers(ctx context.Context, seqs []int64) (changed []int64, canceled int64, left []int64, err error)
}

// NewGroup makes an empty task group.
func (s *Service) NewGroup(ctx context.Context, description string) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make a group id: %w", err)
	}
	return id.String(), s.db.InsertGroup(ctx, id.String(), task.DefaultDomainID, description)
}

// CancelGroup asks all members of a group to stop that are not final. It returns how many of them it canceled, because they had not
// started, and how many are asked to stop, by this call or before.
//
// A group of up to cancelPage members is one transaction; of a larger one the newest come first, so that nobody who waits begins
// because another member stopped. A tick locks rows in an order of its own: what is locked is passed over and tried again in a
// transaction of its own, and so nothing is ever waited for while something is held. What was canceled before an error stays so;
// asking again goes on from there.
func (s *Service) CancelGroup(ctx context.Context, id string) (canceled, canceling int64, err error) {
	begun := time.Now()
	seqs, canceling, err := s.db.Unfinished(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	for try := 0; len(seqs) > 0; try++ {
		if try == cancelTries {
			return 0, 0, errs.Away(errs.DatabaseAway, nil, "%d tasks of group %s are held by others at this moment: ask again", len(seqs), id)
		}
		if try > 0 && !run.Pause(ctx, rand.N(cancelRest)) {
			return 0, 0, ctx.Err()
		}
		slices.SortFunc(seqs, func(a, b int64) int { return int(b - a) })
		var left []int64
		for page := range slices.Chunk(seqs, cancelPage) {
			changed, ended, still, err := s.db.CancelMembers(ctx, page)
			if err != nil {
				return 0, 0, err
			}
			canceled, canceling, left = canceled+ended, canceling+int64(len(changed))-ended, append(left, still...)
			if len(changed) > 0 {
				s.leader.Offer()
			}
			if ended > 0 {
				s.traceCanceled(ctx, changed, begun)
			}
		}
		seqs = left
	}
	if canceled+canceling > 0 {
		s.log.InfoContext(ctx, "canceling a task group", slog.String("group_id", id),
			slog.Int64("canceled", canceled), slog.Int64("canceling", canceling))
	}
	return canceled, canceling, nil
}

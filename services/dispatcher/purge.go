package dispatcher

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	// purgePage is how many tasks one transaction looks at unless the caller says it. A thousand take some 30 ms.
	purgePage = 1000
	// retainPage is the same for what is purged in the background, retainEvery about how often that begins anew.
	retainPage  = 500
	retainEvery = time.Minute
	// retainRest is the least pause between two pages. A pause is as long as its page took, so that one dispatcher has the
	// database delete for half of the time at most.
	retainRest = 10 * time.Millisecond
	// purgeFor bounds one transaction.
	purgeFor = 30 * time.Second
)

// groupsToken begins the tokens of a purge that is done with the tasks; the id of a group follows.
const groupsToken = "group:"

// Purged is what one call of Purge removed.
type Purged struct {
	// Tasks are counted by the state they were in.
	Tasks map[task.State]int64
	// Groups had no members.
	Groups int64
}

// Purge removes some of the tasks that ended before a time and are in one of the states, none meaning every final one, from the
// place that token names on; and, after the last of them, groups that were made before the time and have no members. next is the
// token to go on with, "" when there is nothing more to look at.
func (s *Service) Purge(ctx context.Context, before time.Time, states []task.State, token string, most int) (purged Purged, next string, err error) {
	var after int64
	group, inGroups := strings.CutPrefix(token, groupsToken)
	switch {
	case inGroups:
		err = uuid.Validate(group)
	case token != "":
		after, err = strconv.ParseInt(token, 10, 64)
	}
	if err != nil || after < 0 {
		return Purged{}, "", errs.Invalid(errs.Violation{Field: "page_token", Rule: "must be one that was returned"})
	}
	if len(states) == 0 {
		states = finals()
	}
	most = cmp.Or(most, purgePage)
	ctx, cancel := context.WithTimeout(ctx, purgeFor)
	defer cancel()
	if !inGroups {
		var place *int64
		if purged.Tasks, place, err = s.db.Purge(ctx, before, states, after, most); err != nil {
			return Purged{}, "", err
		}
		if place != nil {
			return purged, strconv.FormatInt(*place, 10), nil
		}
		group = uuid.Nil.String()
	}
	purged.Groups, next, err = s.db.PurgeGroups(ctx, before, group, most)
	switch {
	case err != nil && len(purged.Tasks) > 0:
		// What was removed must be said; the rest is for the next call, which says the error if it is there to stay.
		return purged, groupsToken + group, nil
	case err != nil:
		return Purged{}, "", err
	case next != "":
		next = groupsToken + next
	}
	return purged, next, nil
}

// finals are the states that a task does not leave.
func finals() []task.State {
	var states []task.State
	for _, state := range task.States() {
		if state.Final() {
			states = append(states, state)
		}
	}
	return states
}

// retain purges what is older than tasks are kept, again and again until ctx ends. Several dispatchers can do it at once.
func (s *Service) retain(ctx context.Context) {
	for run.Pause(ctx, s.cfg.RetainEvery/2+rand.N(s.cfg.RetainEvery)) {
		removed, err := s.Retain(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.WarnContext(ctx, "can't remove old tasks; it will be tried again", slog.Any("error", err))
		case removed > 0:
			s.log.InfoContext(ctx, "removed old tasks", slog.Int64("tasks", removed), slog.Duration("kept", s.cfg.KeepTasks))
		}
	}
}

// Retain removes all tasks that ended longer ago than tasks are kept, in small pages with pauses between them. It returns how
// many it removed, also with an error.
func (s *Service) Retain(ctx context.Context) (removed int64, err error) {
	// By this machine's clock: being off by a minute does not matter to what is kept for hours.
	before, token := time.Now().Add(-s.cfg.KeepTasks), ""
	for {
		began := time.Now()
		purged, next, err := s.Purge(ctx, before, nil, token, retainPage)
		if err != nil {
			return removed, err
		}
		for _, n := range purged.Tasks {
			removed += n
		}
		if token = next; token == "" {
			return removed, nil
		}
		if !run.Pause(ctx, max(retainRest, time.Since(began))) {
			return removed, ctx.Err()
		}
	}
}

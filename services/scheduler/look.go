package scheduler

import (
	"context"
	"maps"
	"slices"
	"time"
)

// thoroughEvery is how often a look is thorough: it asks after the lives of all executors, and for wishes to cancel however old they
// are. The end of a life is noted where each look sees it; this is for what no note tells, a database that was restored, a row that
// somebody changed by hand, and for what comes late.
const thoroughEvery = 10 * time.Second

// planLook decides whether this tick looks around. If nothing is to be written and nothing is missing, a glance is enough.
func (l *leader) planLook(every time.Duration) {
	if !l.hinted && (!l.lookIsDue(every) || l.quiet()) {
		return
	}
	l.next.plan.Look, l.next.plan.LookLimit, l.next.plan.After = true, l.lookLimit, l.high
	l.next.plan.Gaps, l.next.plan.Late = l.gaps, l.late
	if now := l.now(); now.Sub(l.thoroughAt) >= thoroughEvery {
		l.next.plan.Thorough, l.next.plan.Owners, l.thoroughAt = true, l.lives(), now
	}
	if now := l.now(); now.Sub(l.dueAskedAt) >= every {
		l.next.plan.Due, l.dueAskedAt = true, now // a glance asks this, too; under load there is none, and looks may be many
	}
	l.hinted, l.lookedAt = false, l.now()
}

func (l *leader) lookIsDue(every time.Duration) bool { return l.now().Sub(l.lookedAt) >= every }

// quiet reports whether there is nothing to do but to look.
func (l *leader) quiet() bool {
	return !l.next.plan.writes() && len(l.next.outbox) == 0 && len(l.gaps) == 0 && l.late == nil
}

// lives lists the incarnations of all executors.
func (l *leader) lives() []string {
	return slices.AppendSeq([]string{}, maps.Keys(l.executors))
}

// glance asks, when a look is due, whether it would find anything, and when a schedule is due, in one statement, which also keeps the
// lease. If there is something the look follows at once.
func (l *leader) glance(ctx context.Context, every time.Duration) (stirs bool, err error) {
	if !l.lookIsDue(every) {
		return false, nil
	}
	sent := l.now()
	thorough := sent.Sub(l.thoroughAt) >= thoroughEvery
	var owners []string
	if thorough {
		owners = l.lives()
	}
	found, err := l.store.Glance(ctx, l.epoch, l.high, owners)
	if err != nil {
		return false, err
	}
	l.lookedAt, l.dueAskedAt, l.clock = sent, sent, found.Now-sent.UnixMicro()
	l.expect(found.Due, found.Now)
	l.takeStock(every)
	if thorough && !found.Stirs {
		l.thoroughAt = sent // or the look that follows is
	}
	l.hinted = found.Stirs
	return found.Stirs || l.scheduleIsDue(), nil
}

// takeStock counts what there is, and forgets what need not be remembered any longer.
func (l *leader) takeStock(every time.Duration) {
	now := l.now()
	if l.surveyed == nil || now.Sub(l.countedAt) < every {
		return
	}
	l.countedAt = now
	maps.DeleteFunc(l.over, func(_ string, since time.Time) bool { return now.Sub(since) > rememberOver })
	counted := l.survey()
	l.surveyed(&counted)
}

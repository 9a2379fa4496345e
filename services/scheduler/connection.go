package scheduler

import (
	"log/slog"
	"time"
)

// heard takes over what an executor has acknowledged since the leader last looked.
func (l *leader) heard(x *executor) {
	if x.line == nil {
		return
	}
	for _, r := range x.line.acknowledged() {
		if r.task.owner == x && r.task.claim == r.claim {
			r.task.known = true
		}
	}
}

// cut ends an executor's line, if it has one. The order matters: only when the line is closed it is certain what was
// acknowledged on it.
func (l *leader) cut(x *executor, why error) {
	if x.line == nil {
		return
	}
	x.line.close(why)
	l.heard(x)
	x.line = nil
}

// disconnect notes that an executor has no line any more. What it has acknowledged stays its own: it may be back in a moment.
// The rest did not begin, and waits for nobody.
func (l *leader) disconnect(x *executor, why error) {
	l.dismiss(x)
	l.cut(x, why)
	for _, t := range bySeq(x.claims) {
		if !t.known {
			l.requeue(t)
		}
	}
	if len(x.claims) == 0 {
		delete(l.executors, x.incarnation)
	}
}

// delivery is an assignment that was sent.
type delivery struct {
	seq, claim int64
	at         time.Time
}

// acknowledgeWithin is how long an executor has to acknowledge an assignment. It does so before anything else, so one that does
// not is deaf, and holds up everything that was given to it.
const acknowledgeWithin = 5 * time.Second

// hurry breaks the lines of executors that did not acknowledge what they were given in time.
func (l *leader) hurry() {
	overdue := l.now().Add(-acknowledgeWithin)
	for len(l.sent) > 0 && l.sent[0].at.Before(overdue) {
		t, claim := l.tasks[l.sent[0].seq], l.sent[0].claim
		l.sent = l.sent[1:]
		if t == nil || t.claim != claim || t.owner == nil {
			continue
		}
		x := t.owner
		if l.heard(x); t.known {
			continue
		}
		l.log.Warn("an executor does not acknowledge what it was given, its line is cut", append(t.about(), slog.String("executor", x.name))...)
		l.disconnect(x, errDeaf)
	}
}

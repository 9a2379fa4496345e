package scheduler

import "slices"

// ask notes that an executor wants to hear when there is nothing left for it: it has come, or was given a task. What was found
// before does not count any more: its last task may have dispatched others, and the word of them be lost.
func (l *leader) ask(x *executor) {
	x.searched = false
	if x.crew != nil {
		l.bursts[x] = struct{}{}
	}
}

// nothingLeft tells those that there is nothing left for who asked and have no task, once a look has found all there was. The
// decision is made before a commit and leaves after it, like a match: what comes in between is for the next tick. What waits
// for the end of others' runs does not count: they might take for ever, and Pulp's workers don't wait for it either.
func (l *leader) nothingLeft() {
	for x := range l.bursts {
		switch {
		case len(x.claims) > 0:
		case !x.searched:
			l.hinted = true
			l.next.plan.searching = append(l.next.plan.searching, x)
		case !l.anythingFor(x):
			l.tell(x.line, order{nothingLeft: true})
			delete(l.bursts, x)
		}
	}
}

// someoneIsDone reports whether the next tick has something to do for those who asked.
func (l *leader) someoneIsDone() bool {
	for x := range l.bursts {
		if len(x.claims) == 0 && (!x.searched || !l.anythingFor(x)) {
			return true
		}
	}
	return false
}

// searched notes for whom a look has found all there was.
func (l *leader) searched(by []*executor) {
	for _, x := range by {
		x.searched = len(x.claims) == 0
	}
}

// anythingFor reports whether there is something that an executor could run now, after a rest, or when it is back in its lane
// after the next commit.
func (l *leader) anythingFor(x *executor) bool {
	for k := range kinds {
		if x.slots[k] > 0 && x.crew.oldest(k) != nil {
			return true
		}
	}
	able := func(t *live) bool { return x.able(t.lane, t.kind()) }
	return slices.ContainsFunc(l.resting, able) || slices.ContainsFunc(l.next.plan.returned, able) || slices.ContainsFunc(l.next.plan.retried, able)
}

package scheduler

import (
	"cmp"
	"slices"
	"time"
)

// waits tells who has been in a phase for longest, without a search for it each time: tasks in the order in which they began to wait.
// Those that do not any more stay until they come to the front, or until they are most of it.
type waits struct {
	phase phase
	list  []wait
}

type wait struct {
	task  *live
	since int64 // microseconds since 1970 by the database's clock
	claim int64 // the latest one when it began: one that waits again has had another
}

// lasts reports whether the task still waits, and has since then.
func (w *waits) lasts(o wait) bool { return o.task.phase == w.phase && o.task.claim == o.claim }

func (w *waits) add(t *live, since int64) {
	w.list = append(w.list, wait{task: t, since: since, claim: t.claim})
}

// sort is for what was not added in order.
func (w *waits) sort() {
	slices.SortFunc(w.list, func(a, b wait) int { return cmp.Compare(a.since, b.since) })
}

// staleAbove is how many may be on the list, beyond as many again as wait, before it is searched for those that do not.
const staleAbove = 1000

// longest returns for how long the one has waited that has for longest; 0 if none waits. n is how many do.
func (w *waits) longest(n int, now int64) time.Duration {
	for len(w.list) > 0 && !w.lasts(w.list[0]) {
		w.list[0], w.list = wait{}, w.list[1:]
	}
	if len(w.list) == 0 {
		w.list = nil // or the largest backlog would stay in memory
		return 0
	}
	if len(w.list) > 2*n+staleAbove {
		w.list = slices.Clone(slices.DeleteFunc(w.list, func(o wait) bool { return !w.lasts(o) }))
	}
	return time.Duration(max(0, now-w.list[0].since)) * time.Microsecond
}

// older returns about how many have waited since a moment or longer; n is how many wait. On a long list it counts those that do not any
// more along, and then what it finds is a share of n.
func (w *waits) older(than int64, n int) int {
	if len(w.list) > countedAbove {
		until, _ := slices.BinarySearchFunc(w.list, than, func(o wait, at int64) int { return cmp.Compare(o.since, at+1) })
		return int(int64(until) * int64(n) / int64(len(w.list)))
	}
	count := 0
	for _, o := range w.list {
		if o.since > than {
			break
		}
		if w.lasts(o) {
			count++
		}
	}
	return count
}

// countedAbove is how long the list is from which nobody counts it one by one each second.
const countedAbove = 10_000

// time is the database's clock, in microseconds since 1970.
func (l *leader) time() int64 { return l.now().UnixMicro() + l.clock }

// since is when a task joined the queues of its resources: when it was dispatched, or, for one that a former leader had unblocked,
// when that was.
func (r *Row) since() int64 {
	if r.UnblockedAt > 0 {
		return r.UnblockedAt
	}
	return r.CreatedAt.UnixMicro()
}

// readySince is when a task that is ready became so: now, unless a former leader had unblocked it.
func (l *leader) readySince(t *live) int64 {
	if t.ready > 0 && t.claim == 0 {
		return t.ready
	}
	return l.time()
}

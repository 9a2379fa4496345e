package lock

import (
	"cmp"
	"slices"
)

// Hold is the time for which a task had a resource.
type Hold struct {
	Seq int64
	// Name is what Release was told; empty for a task that has not been released.
	Name     string
	Resource string
	// From is when it was granted, To when it was released, both in microseconds as the owner of the table counts.
	From, To int64
}

func (h *Hold) length() int64 { return h.To - h.From }

// since is how much of the hold was after a moment.
func (h *Hold) since(at int64) int64 { return h.To - max(h.From, at) }

// Blocker is the hold that kept a task waiting for longest: the one that covers most of the time for which the task waited for that
// resource. nil if the task never waited, or still does and has been granted nothing. Where more than sixteen holds ended while somebody
// waited, each shorter than the one before, not all are remembered, and another one is named that was about as long.
func (t *Table) Blocker(seq int64) *Hold {
	if k, ok := t.tasks[seq]; ok {
		return k.blocker
	}
	return nil
}

// remember keeps a hold that ends while somebody waits.
func (t *Table) remember(r *request, name string) {
	q := r.queue
	p := t.pasts[q]
	if p == nil {
		p = &past{}
		t.pasts[q] = p
	}
	p.add(&Hold{Seq: r.task.seq, Name: name, Resource: q.name, From: r.since, To: max(t.now, r.since)}, q.waiting.task.at)
}

// forget drops what is kept for a queue where nobody waits any more.
func (t *Table) forget(q *queue) {
	if len(t.pasts) > 0 { // for most it is not worth a search
		delete(t.pasts, q)
	}
}

// blame finds out what a task has waited for that gets what it waited for.
func (t *Table) blame(r *request) {
	k, q := r.task, r.queue
	longest := k.blocker
	take := func(h *Hold) {
		if length := h.since(k.at); length > 0 && (longest == nil || length > longest.since(k.at)) {
			longest = h
		}
	}
	if p := t.pasts[q]; p != nil {
		p.candidates(k.at, take)
	}
	if h := q.head; h != r && h.since < t.now {
		// What stood between them was canceled: the holder was in the way, and is there still.
		take(&Hold{Seq: h.task.seq, Resource: q.name, From: h.since, To: t.now})
	}
	k.blocker = longest
}

// maxPast is how many holds are kept for a queue.
const maxPast = 16

// past is holds of a queue that have ended, in that order: those that may be what somebody who waits has waited for longest. A hold
// that is followed by one that was as long is not: whatever part of it a task has seen, it has seen as much of the other. So each is
// shorter than the one before it, and has therefore begun later, too.
type past struct{ holds []held }

// held is a hold, and the longest of those in whose place it stands.
type held struct {
	*Hold
	standsFor int64
}

// add appends a hold. Whoever waits has not waited since before the moment given.
func (p *past) add(h *Hold, since int64) {
	if n := len(p.holds); n > 0 {
		h.To = max(h.To, p.holds[n-1].To) // the owner's time may go back
	}
	seen := 0
	for seen < len(p.holds) && p.holds[seen].To <= since {
		seen++
	}
	last := len(p.holds)
	for last > seen && p.holds[last-1].length() <= h.length() {
		last--
	}
	p.holds = append(slices.Delete(slices.Delete(p.holds, last, len(p.holds)), 0, seen), held{h, h.length()})
	if len(p.holds) > maxPast {
		p.thin()
	}
}

// thin drops the hold whose place the next one takes best.
func (p *past) thin() {
	best := 0
	for i := range len(p.holds) - 1 {
		if p.shrinks(i) < p.shrinks(best) {
			best = i
		}
	}
	next := &p.holds[best+1]
	next.standsFor = max(next.standsFor, p.holds[best].standsFor)
	p.holds = slices.Delete(p.holds, best, best+1)
}

// shrinks is how many times longer a hold was, or one in whose place it stands, than the next one.
func (p *past) shrinks(i int) float64 {
	return float64(p.holds[i].standsFor) / float64(max(1, p.holds[i+1].length()))
}

// candidates finds the hold of which there was most after a moment. Of those that began later it is the first, which is the longest;
// of those that had begun before, the last, which ended last.
func (p *past) candidates(since int64, take func(*Hold)) {
	later, _ := slices.BinarySearchFunc(p.holds, since, func(h held, at int64) int { return cmp.Compare(h.From, at) })
	if later < len(p.holds) {
		take(p.holds[later].Hold)
	}
	if later > 0 {
		take(p.holds[later-1].Hold)
	}
}

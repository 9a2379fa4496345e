package lock

import "fmt"

// Check walks over the whole table and returns the first thing that does not fit together. It is for tests: it costs as
// much as the table is large, and shares no code with what it checks.
func (t *Table) Check() error {
	requests, blocked := 0, 0
	for seq, k := range t.tasks {
		lacking := int32(0)
		named := map[*queue]bool{}
		for i := range k.requests {
			r := &k.requests[i]
			if r.task != k || t.queues[r.queue.name] != r.queue {
				return fmt.Errorf("task %d: request for %q belongs to another task or queue", seq, r.queue.name)
			}
			if named[r.queue] {
				return fmt.Errorf("task %d: %q is requested twice", seq, r.queue.name)
			}
			named[r.queue] = true
			if !r.granted {
				lacking++
			}
		}
		if k.seq != seq || k.lacking != lacking {
			return fmt.Errorf("task %d: seq %d, lacking %d, waiting requests %d", seq, k.seq, k.lacking, lacking)
		}
		if lacking > 0 {
			blocked++
		}
		requests += len(k.requests)
	}
	if t.blocked != blocked {
		return fmt.Errorf("blocked is %d, blocked tasks %d", t.blocked, blocked)
	}

	for q, p := range t.pasts {
		if t.queues[q.name] != q || q.waiting == nil {
			return fmt.Errorf("resource %q: what is past is kept, and nobody waits", q.name)
		}
		if err := p.check(); err != nil {
			return fmt.Errorf("resource %q: %w", q.name, err)
		}
	}

	queued := 0
	for name, q := range t.queues {
		n, err := q.check()
		if err != nil {
			return fmt.Errorf("resource %q: %w", name, err)
		}
		if q.name != name {
			return fmt.Errorf("resource %q: queue is called %q", name, q.name)
		}
		queued += n
	}
	if queued != requests {
		return fmt.Errorf("%d requests in queues, %d in tasks", queued, requests)
	}
	return nil
}

// check returns what is wrong with the order of what is past.
func (p *past) check() error {
	for i, h := range p.holds {
		if i > 0 && (h.length() >= p.holds[i-1].length() || h.From <= p.holds[i-1].From || h.To < p.holds[i-1].To) {
			return fmt.Errorf("hold %+v follows on %+v", *h.Hold, *p.holds[i-1].Hold)
		}
	}
	if len(p.holds) == 0 || len(p.holds) > maxPast {
		return fmt.Errorf("%d holds are kept", len(p.holds))
	}
	return nil
}

// check returns the length of the queue.
func (q *queue) check() (n int, err error) {
	var prev, waiting *request
	var exclusive, holders, waiters int32
	for r := q.head; r != nil; r = r.next {
		switch {
		case r.queue != q:
			return n, fmt.Errorf("task %d stands in the wrong queue", r.task.seq)
		case r.prev != prev:
			return n, fmt.Errorf("task %d: prev is wrong", r.task.seq)
		case prev != nil && prev.task.place >= r.task.place:
			return n, fmt.Errorf("task %d stands in front of older task %d", prev.task.seq, r.task.seq)
		case r.granted && waiting != nil:
			return n, fmt.Errorf("task %d is granted behind waiting task %d", r.task.seq, waiting.task.seq)
		case r.granted:
			holders++
			if r.mode == Exclusive {
				exclusive++
			}
		default:
			waiters++
			if waiting == nil {
				waiting = r
			}
		}
		prev = r
		n++
	}
	switch {
	case holders == 0:
		return n, fmt.Errorf("no holder")
	case exclusive > 0 && holders > 1:
		return n, fmt.Errorf("%d holders, %d of them exclusive", holders, exclusive)
	case waiting != nil && waiting.mode == Shared && exclusive == 0:
		return n, fmt.Errorf("shared task %d waits behind shared holders only", waiting.task.seq)
	case q.tail != prev, q.waiting != waiting, q.holders != holders, q.waiters != waiters:
		return n, fmt.Errorf("tail, waiting or counts are wrong (holders %d, waiters %d)", q.holders, q.waiters)
	}
	return n, nil
}

// Peak tells the peak since the table's maps were made, so that a test sees them given back.
func (t *Table) Peak() int { return t.peak }

const (
	ShrinkAbove = shrinkAbove
	WalkLimit   = walkLimit
	MaxPast     = maxPast
)

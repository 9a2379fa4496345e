package lock

import (
	"cmp"
	"slices"
)

// walkLimit is how many requests one Explain steps over to count who is ahead. At a million waiting tasks each step is a
// cache miss, about 0.1 µs, so that curiosity costs the owner of the table about a millisecond and no more.
const walkLimit = 10_000

// Wait is one reason why a task is blocked: a resource it asked for and was not granted yet.
type Wait struct {
	Resource string
	Mode     Mode // what the task asks for

	// Held is the mode of the holders. If both modes are shared, the task does not wait for the holders as such but for
	// an exclusive request that stands between them and it.
	Held        Mode
	Holders     []Request // the oldest ones, in order of admission; a holder may itself be blocked on another resource
	HolderCount int       // all of them

	// Ahead counts the tasks in this queue that must go before this task gets the resource: all holders, and those in
	// front of it that wait and conflict, directly or through others. The shared requests right in front of a shared
	// one are not counted, as they will be granted together with it.
	Ahead int
	// AtLeast is set when the queue was too long to count to the end (Explain looks at 10,000 waiting requests in all):
	// Ahead is then a lower bound.
	AtLeast bool
	// Waiters are the first of those ahead that wait, in the order in which they will be granted.
	Waiters []Request
}

// Request is a task's request as seen in a queue.
type Request struct {
	Seq   int64
	Mode  Mode
	Since int64 // when it was granted, or admitted if it still waits; in microseconds as the owner of the table counts
}

// Resource is the queue at one resource: several shared holders or one exclusive, and who waits behind them.
type Resource struct {
	Name        string
	Held        Mode      // mode of the holders
	Holders     []Request // the first of them, in order of admission
	HolderCount int       // all of them, at least 1
	Waiters     []Request // the first of them, in the order in which they will be granted
	WaiterCount int       // all of them
	// HeldSince is when the oldest holder was granted it, WaitingSince when the first waiter was admitted, 0 if there is none.
	HeldSince, WaitingSince int64
}

// Link is a task that is in the way of another.
type Link struct {
	Resource string // what the other one waits for
	Request         // the task
	Granted  bool   // it holds the resource; else it waits for it, too, in front of the other one
	Blocked  bool   // it waits for something itself
}

// Explain says what the task waits for: one entry for each resource it still lacks, the exclusive ones first, in the
// order in which Admit got them. At most limit holders and waiters are listed for each; none if limit is 0 or less. It
// returns nil for a task that is unblocked or not in the table.
func (t *Table) Explain(seq int64, limit int) []Wait {
	k, ok := t.tasks[seq]
	if !ok || k.lacking == 0 {
		return nil
	}
	waits := make([]Wait, 0, k.lacking)
	steps := walkLimit
	for i := range k.requests {
		r := &k.requests[i]
		if r.granted {
			continue
		}
		q := r.queue
		w := Wait{
			Resource:    q.name,
			Mode:        r.mode,
			Held:        q.head.mode,
			Holders:     q.firstHolders(limit),
			HolderCount: int(q.holders),
		}
		waiting, complete := r.waitingAhead(&steps)
		w.Ahead = w.HolderCount + waiting
		w.AtLeast = !complete
		w.Waiters = q.firstWaiters(min(limit, waiting))
		waits = append(waits, w)
	}
	return waits
}

// waitingAhead counts the waiting requests that must go before r, walking from r towards the head while steps last;
// complete is false if they did not. The holders are not walked over: their number is known, and all of them must go, or
// r would have been granted.
func (r *request) waitingAhead(steps *int) (n int, complete bool) {
	together := r.mode == Shared // still in the run of shared requests that will be granted with r
	for p := r.prev; !p.granted; p = p.prev {
		if *steps == 0 {
			return n, false
		}
		*steps--
		together = together && p.mode == Shared
		if !together {
			n++
		}
	}
	return n, true
}

// Chain says who waits for whom: the first link is in the way of the task, the second in the way of the first, down to one that lacks
// nothing, or to the limit. Where several are, it is the one that has held its resource for longest, or stood in front for longest. It
// costs the number of resources of each task in it, and returns nil for a task that is unblocked or not in the table.
func (t *Table) Chain(seq int64, limit int) (chain []Link) {
	k := t.tasks[seq]
	for k != nil && k.lacking > 0 && len(chain) < limit {
		// Each link was admitted before the one that waits for it, so the chain has an end.
		var first *request
		for i := range k.requests {
			if r := &k.requests[i]; !r.granted {
				if other := r.inTheWay(); first == nil || other.begun() < first.begun() {
					first = other
				}
			}
		}
		chain = append(chain, Link{
			Resource: first.queue.name, Request: first.describe(), Granted: first.granted, Blocked: first.task.lacking > 0,
		})
		k = first.task
	}
	return chain
}

// inTheWay returns the oldest holder if it conflicts with r, which waits; else the exclusive request that waits between them.
func (r *request) inTheWay() *request {
	if q := r.queue; r.mode == Exclusive || q.head.mode == Exclusive {
		return q.head
	}
	return r.queue.waiting
}

func (r *request) describe() Request { return Request{Seq: r.task.seq, Mode: r.mode, Since: r.begun()} }

// Resource returns the queue at the named resource, with at most limit holders and limit waiters; ok is false if no task
// in the table names it.
func (t *Table) Resource(name string, limit int) (res Resource, ok bool) {
	q, ok := t.queues[name]
	if !ok {
		return Resource{}, false
	}
	return q.describe(limit), true
}

// Busiest lists at most limit resources, those with the most waiters first, then by name. Counts only: for holders and
// waiters ask [Table.Resource].
//
// Unlike everything else here it looks at every resource, at 0.1 to 0.3 µs each: a millisecond or two for ten thousand
// of them, 0.3 s for a million. Keeping them ranked would make every task pay for a list that is rarely asked for; who
// shows it often should keep the answer for some seconds.
func (t *Table) Busiest(limit int) []Resource {
	limit = min(limit, len(t.queues))
	if limit <= 0 {
		return nil
	}
	// Collect up to twice the limit, then keep the best: O(resources × log limit) at worst. What ranks below the last of
	// those is passed over at once, so in practice nearly all of them.
	top := make([]*queue, 0, 2*limit)
	var last *queue
	for _, q := range t.queues {
		if last != nil && busier(q, last) > 0 {
			continue
		}
		top = append(top, q)
		if len(top) == 2*limit {
			slices.SortFunc(top, busier)
			top = top[:limit]
			last = top[limit-1]
		}
	}
	slices.SortFunc(top, busier)
	list := make([]Resource, min(limit, len(top)))
	for i := range list {
		list[i] = top[i].describe(0)
	}
	return list
}

// busier orders queues by falling number of waiters, then by name.
func busier(a, b *queue) int {
	return cmp.Or(cmp.Compare(b.waiters, a.waiters), cmp.Compare(a.name, b.name))
}

func (q *queue) describe(limit int) Resource {
	res := Resource{
		Name:        q.name,
		Held:        q.head.mode,
		Holders:     q.firstHolders(limit),
		HolderCount: int(q.holders),
		Waiters:     q.firstWaiters(limit),
		WaiterCount: int(q.waiters),
		HeldSince:   q.head.since,
	}
	if q.waiting != nil {
		res.WaitingSince = q.waiting.task.at
	}
	return res
}

func (q *queue) firstHolders(limit int) []Request { return first(q.head, min(limit, int(q.holders))) }

func (q *queue) firstWaiters(limit int) []Request {
	return first(q.waiting, min(limit, int(q.waiters)))
}

// first describes n requests from r on.
func first(r *request, n int) []Request {
	if n <= 0 {
		return nil
	}
	list := make([]Request, 0, n)
	for ; len(list) < n; r = r.next {
		list = append(list, r.describe())
	}
	return list
}

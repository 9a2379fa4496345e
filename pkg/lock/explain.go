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
	Holders     []int64 // the oldest ones, in order of admission; a holder may itself be blocked on another resource
	HolderCount int     // all of them

	// Ahead counts the tasks in this queue that must go before this task gets the resource: all holders, and those in
	// front of it that wait and conflict, directly or through others. The shared requests right in front of a shared
	// one are not counted, as they will be granted together with it.
	Ahead int
	// AtLeast is set when the queue was too long to count to the end (Explain looks at 10,000 waiting requests in all):
	// Ahead is then a lower bound.
	AtLeast bool
}

// Request is a task's request as seen in a queue.
type Request struct {
	Seq  int64
	Mode Mode
}

// Resource is the queue at one resource: several shared holders or one exclusive, and who waits behind them.
type Resource struct {
	Name        string
	Held        Mode      // mode of the holders
	Holders     []int64   // the first of them, in order of admission
	HolderCount int       // all of them, at least 1
	Waiters     []Request // the first of them, in the order in which they will be granted
	WaiterCount int       // all of them
}

// Explain says what the task waits for: one entry for each resource it still lacks, the exclusive ones first, in the
// order in which Admit got them. At most limit holders are listed for each; none if limit is 0 or less. It returns
// nil for a task that is unblocked or not in the table.
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
	return Resource{
		Name:        q.name,
		Held:        q.head.mode,
		Holders:     q.firstHolders(limit),
		HolderCount: int(q.holders),
		Waiters:     q.firstWaiters(limit),
		WaiterCount: int(q.waiters),
	}
}

func (q *queue) firstHolders(limit int) []int64 {
	n := min(limit, int(q.holders))
	if n <= 0 {
		return nil
	}
	seqs := make([]int64, 0, n)
	for r := q.head; len(seqs) < n; r = r.next {
		seqs = append(seqs, r.task.seq)
	}
	return seqs
}

func (q *queue) firstWaiters(limit int) []Request {
	n := min(limit, int(q.waiters))
	if n <= 0 {
		return nil
	}
	waiters := make([]Request, 0, n)
	for r := q.waiting; len(waiters) < n; r = r.next {
		waiters = append(waiters, Request{Seq: r.task.seq, Mode: r.mode})
	}
	return waiters
}

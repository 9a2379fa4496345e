package lock

// Mode says how a task uses a resource.
type Mode uint8

// The two ways to use a resource.
const (
	Shared    Mode = iota // beside other shared ones
	Exclusive             // alone
)

// String returns "shared" or "exclusive".
func (m Mode) String() string {
	if m == Exclusive {
		return "exclusive"
	}
	return "shared"
}

// task is one admitted task. Its requests live in one array that never grows, because their neighbours in the queues
// point into it.
type task struct {
	seq      int64
	place    uint64 // order of admission, the order of every queue; seq is not, a row may become visible late
	requests []request
	at       int64 // when it was admitted, in microseconds
	blocker  *Hold // what it has waited for longest so far, of what it was granted; nil for nothing
	lacking  int32 // requests not granted yet; 0 = unblocked
}

// request is one task's place in one queue. The links are part of it, so that a task leaves the middle of a line of a
// million without anyone searching for it.
type request struct {
	task       *task
	queue      *queue
	prev, next *request
	since      int64 // when it was granted, in microseconds; 0 while it waits
	mode       Mode
	granted    bool
}

// begun is since when it waits, or holds the resource.
func (r *request) begun() int64 {
	if r.granted {
		return r.since
	}
	return r.task.at
}

// queue is the line at one resource, in order of admission. The granted requests are always a prefix of it, and waiting
// is the bar that divides them from the rest:
//
//	head                      waiting                tail
//	granted <-> granted <-> | waiting <-> waiting <-> waiting
//
// A queue is never empty: the table drops it with its last request. So its head is always granted. The counts are 32
// bits wide to keep it at 48 bytes; a deployment may have as many resources as it has tasks.
type queue struct {
	name       string
	head, tail *request
	waiting    *request // nil: all are granted
	holders    int32    // length of the granted prefix
	waiters    int32    // length of the rest
}

// push puts r at the end of the line, waiting.
func (q *queue) push(r *request) {
	r.prev = q.tail
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail = r
	if q.waiting == nil {
		q.waiting = r
	}
	q.waiters++
	r.task.lacking++
}

// remove takes r out of the line, wherever it stands. What that makes grantable is for grantNext to find.
func (q *queue) remove(r *request) {
	if r.granted {
		q.holders--
	} else {
		q.waiters--
	}
	if q.waiting == r {
		q.waiting = r.next
	}
	if r.prev == nil {
		q.head = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		q.tail = r.prev
	} else {
		r.next.prev = r.prev
	}
}

// grantNext moves the bar past the first waiting request if the holders allow it, and returns it; nil when it has to
// wait on, or nobody waits. This is the only place where anything is granted: at admission, at release, and when an
// exclusive request that stood between shared ones is canceled.
func (q *queue) grantNext(now int64) *request {
	r := q.waiting
	if r == nil || !q.admits(r.mode) {
		return nil
	}
	r.granted, r.since = true, max(now, r.task.at)
	r.task.lacking--
	q.waiting = r.next
	q.holders++
	q.waiters--
	return r
}

// admits tells whether one more holder of this mode may stand beside those there are. They all have the mode of the
// head: several shared ones, or one exclusive.
func (q *queue) admits(m Mode) bool {
	return q.holders == 0 || m == Shared && q.head.mode == Shared
}

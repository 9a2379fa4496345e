package lock

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Table holds all tasks that are not finished, and the queue at each resource they name. Make one with [New]. It is not
// safe for concurrent use.
type Table struct {
	tasks    map[int64]*task
	queues   map[string]*queue // one for each resource that some task names, never an empty one
	pasts    map[*queue]*past  // of queues where somebody waits and a hold has ended since
	now      int64             // microseconds, as the owner tells
	admitted uint64            // tasks ever admitted: the next task's place
	blocked  int               // tasks that lack something
	peak     int               // most tasks since the maps were made
}

// New returns an empty table, at time 0.
func New() *Table {
	return &Table{tasks: make(map[int64]*task), queues: make(map[string]*queue), pasts: make(map[*queue]*past)}
}

// At tells the table what time it is, in microseconds since whenever the owner counts from: what it does next happens then. The
// time decides nothing, it only answers since when; it may stand still or go back.
func (t *Table) At(now int64) *Table {
	t.now = now
	return t
}

// Admit puts the task at the end of the queue of every resource it names, and tells whether it is unblocked at once. A
// task that names nothing is. Order of admission is the order in which conflicting tasks run; seq is only the task's
// name here.
//
// A resource named twice is taken once, and a resource named in both ways is taken exclusively. Names are compared byte
// by byte. The table keeps neither slice, and its own copy of each name.
//
// Admitting a seq that is in the table panics: the task would wait for itself for ever. A caller that may hear of a task
// twice asks [Table.Has] first.
func (t *Table) Admit(seq int64, exclusive, shared []string) (unblocked bool) {
	if t.Has(seq) {
		panic(fmt.Sprintf("lock: task %d is admitted already", seq))
	}
	k := &task{seq: seq, place: t.admitted, at: t.now}
	if n := len(exclusive) + len(shared); n > 0 {
		k.requests = make([]request, 0, n)
	}
	t.tasks[seq] = k
	t.admitted++
	t.peak = max(t.peak, len(t.tasks))

	for _, name := range exclusive {
		t.request(k, name, Exclusive)
	}
	for _, name := range shared {
		t.request(k, name, Shared)
	}
	if k.lacking > 0 {
		t.blocked++
		return false
	}
	return true
}

// request queues k for the resource, unless k is there already. Then it is the last in that line, for nobody came in
// between: so duplicates are found without a set, and since the exclusive names come first, exclusive wins.
func (t *Table) request(k *task, name string, mode Mode) {
	q := t.queue(name)
	if q.tail != nil && q.tail.task == k {
		return
	}
	k.requests = append(k.requests, request{task: k, queue: q, mode: mode})
	q.push(&k.requests[len(k.requests)-1])
	q.grantNext(t.now) // itself or nobody: what stood there before could not be granted
}

// queue returns the queue of the resource and opens it if need be. The name is copied, because a caller's string may be
// a slice of a whole message, which the table would keep alive as long as anybody names the resource.
func (t *Table) queue(name string) *queue {
	if q, ok := t.queues[name]; ok {
		return q
	}
	q := &queue{name: strings.Clone(name)}
	t.queues[q.name] = q
	return q
}

// Release removes the task, whatever its place: it finished, or was canceled while running or waiting. It returns the
// tasks that this unblocks, in order of admission; nil if there are none or seq is not in the table. It costs the number
// of the task's own resources plus the requests it grants. name is what [Table.Blocker] calls it where somebody waited for it.
func (t *Table) Release(seq int64, name string) (unblocked []int64) {
	k, ok := t.tasks[seq]
	if !ok {
		return nil
	}
	delete(t.tasks, seq)
	if k.lacking > 0 {
		t.blocked--
	}
	var few [8]*task // most releases unblock a handful: no allocation for them
	next := few[:0]
	for i := range k.requests {
		next = t.leave(&k.requests[i], name, next)
	}
	t.blocked -= len(next)
	t.shrink()
	return inOrder(next)
}

// leave takes r out of its queue, grants what that allows, and appends the tasks which now lack nothing.
func (t *Table) leave(r *request, name string, unblocked []*task) []*task {
	q := r.queue
	q.remove(r)
	if q.head == nil {
		t.forget(q)
		delete(t.queues, q.name)
		return unblocked
	}
	if q.waiting == nil {
		t.forget(q)
		return unblocked
	}
	if r.granted {
		t.remember(r, name)
	}
	for g := q.grantNext(t.now); g != nil; g = q.grantNext(t.now) {
		t.blame(g)
		if g.task.lacking == 0 {
			unblocked = append(unblocked, g.task)
		}
	}
	if q.waiting == nil {
		t.forget(q)
	}
	return unblocked
}

// inOrder returns the seqs of the tasks by order of admission. Each queue is in that order, but a task that leaves
// several of them collects from one after the other.
func inOrder(tasks []*task) []int64 {
	if len(tasks) == 0 {
		return nil
	}
	slices.SortFunc(tasks, func(a, b *task) int { return cmp.Compare(a.place, b.place) })
	seqs := make([]int64, len(tasks))
	for i, k := range tasks {
		seqs[i] = k.seq
	}
	return seqs
}

// shrinkAbove is the peak, in tasks, from which an empty table gives its maps back. Below it the maps are small, and
// making them again each time the last task ends would cost more than they hold.
const shrinkAbove = 10_000

// shrink starts afresh after a large backlog was drained. A Go map never gives memory back by itself: a leader that once
// saw a million tasks would hold some 40 MB or more for good.
func (t *Table) shrink() {
	if len(t.tasks) == 0 && t.peak > shrinkAbove {
		*t = *New()
	}
}

// Has tells whether the task is in the table.
func (t *Table) Has(seq int64) bool {
	_, ok := t.tasks[seq]
	return ok
}

// Unblocked tells whether the task is in the table and has everything it asked for.
func (t *Table) Unblocked(seq int64) bool {
	k, ok := t.tasks[seq]
	return ok && k.lacking == 0
}

// Requests calls do for each resource that the task names, granted or not, until do returns false. It reports whether do never did.
func (t *Table) Requests(seq int64, do func(name string, mode Mode) bool) bool {
	k, ok := t.tasks[seq]
	if !ok {
		return true
	}
	for i := range k.requests {
		if !do(k.requests[i].queue.name, k.requests[i].mode) {
			return false
		}
	}
	return true
}

// Len returns the number of tasks in the table.
func (t *Table) Len() int { return len(t.tasks) }

// Blocked returns the number of tasks that wait for a resource. Len minus Blocked is how many tasks could run at the
// same time under the reservations, were there workers enough: the figure to scale workers by.
func (t *Table) Blocked() int { return t.blocked }

// Resources returns the number of resources that the tasks in the table name.
func (t *Table) Resources() int { return len(t.queues) }

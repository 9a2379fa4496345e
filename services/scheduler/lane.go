package scheduler

import (
	"container/heap"
	"maps"
	"slices"
	"strings"
	"time"
)

// kind is which of an executor's two sets of slots a task takes: neither kind ever holds up the other.
type kind int

const (
	immediately kind = iota
	ordinarily
	kinds
)

// lane holds the ready tasks that the same executors can run: one name, one set of versions. A task that nobody can run
// waits in its own lane and holds up no other.
type lane struct {
	key      string
	name     string
	versions map[string]string
	// live counts the tasks of the lane, ready or not: when the last has ended, the lane goes too.
	live int
	// waiting counts what is ready, by kind.
	waiting [kinds]int
	// posts are the lane's places with the crews that can run its tasks.
	posts []*post
	// Entries that are no longer ready stay until they come to the front: removing from the middle would cost a search.
	ready [kinds]readyHeap
	// unableSince is when a look first found that nobody can run what is ready here, noticed that it was logged.
	unableSince time.Time
	noticed     bool
}

// laneKey names a lane.
func laneKey(name string, versions map[string]string) string {
	if len(versions) == 0 {
		return name
	}
	var key strings.Builder
	key.WriteString(name)
	for _, component := range slices.Sorted(maps.Keys(versions)) {
		key.WriteString("\x00" + component + "\x00" + versions[component])
	}
	return key.String()
}

// push adds a task that became ready.
func (w *lane) push(t *live) {
	k := t.kind()
	heap.Push(&w.ready[k], t)
	w.moved(k)
}

// pop takes the oldest ready task out, which must be there.
func (w *lane) pop(k kind) *live {
	t := heap.Pop(&w.ready[k]).(*live)
	w.moved(k)
	return t
}

// head returns the oldest task that is still ready, nil if there is none.
func (w *lane) head(k kind) *live {
	tasks := &w.ready[k]
	for len(*tasks) > 0 {
		if t := (*tasks)[0]; t.phase == ready {
			return t
		}
		heap.Pop(tasks)
	}
	return nil
}

// fewer notes that a task is not ready any more. Where nobody can run the oldest, what was canceled behind it would never come
// to the front: when that is the most of it, all are searched.
func (w *lane) fewer(k kind) {
	w.waiting[k]--
	if stale := len(w.ready[k]) - w.waiting[k]; stale > 100 && stale > w.waiting[k] {
		w.ready[k] = slices.DeleteFunc(w.ready[k], func(t *live) bool { return t.phase != ready })
		heap.Init(&w.ready[k])
	}
}

// moved tells all crews that the lane's oldest ready task is another one.
func (w *lane) moved(k kind) {
	head := w.head(k)
	for _, p := range w.posts {
		p.crew.place(p, k, head)
	}
}

// able reports whether somebody connected has slots for what is in the lane, free or not.
func (w *lane) able(k kind) bool {
	return slices.ContainsFunc(w.posts, func(p *post) bool { return p.crew.slots[k] > 0 })
}

// readyHeap orders tasks by seq, the oldest first.
type readyHeap []*live

func (h readyHeap) Len() int           { return len(h) }
func (h readyHeap) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h readyHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop are for container/heap.
func (h *readyHeap) Push(t any) { *h = append(*h, t.(*live)) }

// Pop removes the last element.
func (h *readyHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

package scheduler

import (
	"container/heap"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// lane holds the ready tasks that the same executors can run: one name, one set of versions. A task that nobody can run
// waits in its own lane and holds up no other.
type lane struct {
	name     string
	versions map[string]string
	// Entries that are no longer ready stay until they come to the front: removing from the middle would cost a search.
	immediate, ordinary readyHeap
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

func (l *lane) push(t *live) {
	if t.immediate {
		heap.Push(&l.immediate, t)
	} else {
		heap.Push(&l.ordinary, t)
	}
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

// head returns the oldest task that is still ready, nil if there is none.
func (h *readyHeap) head() *live {
	for h.Len() > 0 {
		if t := (*h)[0]; t.phase == ready {
			return t
		}
		heap.Pop(h)
	}
	return nil
}

// executor is one life of an executor, as the leader knows it.
type executor struct {
	name, incarnation string
	// line is nil while it is not connected. Its claims stay its own until it is declared missing.
	line             *line
	slots            int
	immediateSlots   int
	names            map[string]bool
	versions         map[string]string
	draining         bool
	claims           map[int64]*live
	immediateRunning int
}

// free counts the slots for a kind of task. The two kinds never take each other's.
func (e *executor) free(immediate bool) int {
	switch {
	case e.line == nil || e.draining:
		return 0
	case immediate:
		return max(0, e.immediateSlots-e.immediateRunning)
	default:
		return max(0, e.slots-(len(e.claims)-e.immediateRunning))
	}
}

// able reports whether the executor is there to run what is in the lane, be it when a slot gets free.
func (e *executor) able(where *lane, immediate bool) bool {
	slots := e.slots
	if immediate {
		slots = e.immediateSlots
	}
	return e.line != nil && !e.draining && slots > 0 && e.names[where.name] && task.Satisfies(e.versions, where.versions)
}

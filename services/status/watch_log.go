package status

import (
	"sort"
	"sync"
	"time"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// Bounds of what is remembered for watchers that are behind.
const (
	// keptChanges is how many tasks; a change takes about 200 bytes.
	keptChanges = 100_000
	// keptBytes is how much of the tasks themselves. What has no room is read again by who comes to it.
	keptBytes = 16 << 20
)

// change is that a task has changed, or what it has told of its work.
type change struct {
	number uint64
	id     string
	report bool
	// updated is when the task last changed: the same change that is heard of twice is told once.
	updated time.Time
	// shown is the task as it was read, nil if that was not kept. Watchers share it and must not write to it.
	shown *taskv1.Task
	bytes int
	// size is what bytes was when the task was read: about what it takes again for who has to read it himself.
	size int
	// judged are the filters that the task was read with, and matched those of them that it matches.
	judged, matched map[*choice]struct{}
	// over: there is a later one about the same task.
	over bool
}

// changeLog remembers each task that changed once, at its latest change. A watcher is a place in it, so one that is slow costs
// nothing; one whose place has been forgotten is told so.
type changeLog struct {
	mu sync.Mutex
	// head is the number of the latest change, forgotten that of the latest that is not remembered.
	head, forgotten uint64
	changes         []*change // by number
	latest          map[changeKey]*change
	over            int // of changes
	bytes, bare     int // of what is shown; all changes before index bare show nothing
	more            chan struct{}
	most, mostBytes int
}

type changeKey struct {
	id     string
	report bool
}

func newChangeLog(most, mostBytes int) *changeLog {
	return &changeLog{latest: map[changeKey]*change{}, more: make(chan struct{}), most: most, mostBytes: mostBytes}
}

// add appends changes, unless they have been told.
func (l *changeLog) add(changes ...*change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	added := false
	for _, c := range changes {
		key := changeKey{c.id, c.report}
		before := l.latest[key]
		if before != nil && !c.report && before.updated.Equal(c.updated) {
			continue
		}
		if before != nil {
			l.end(before)
		}
		l.head++
		c.number, c.size = l.head, c.bytes
		l.latest[key] = c
		l.changes = append(l.changes, c)
		l.bytes += c.bytes
		added = true
	}
	if !added {
		return
	}
	l.trim()
	l.wake()
}

// end makes a change one that is over.
func (l *changeLog) end(c *change) {
	c.over = true
	l.over++
	l.strip(c)
}

func (l *changeLog) strip(c *change) {
	l.bytes -= c.bytes
	c.bytes, c.shown, c.judged, c.matched = 0, nil, nil, nil
}

// trim keeps the bounds.
func (l *changeLog) trim() {
	for i := 0; len(l.latest) > l.most; i++ {
		if c := l.changes[i]; !c.over {
			delete(l.latest, changeKey{c.id, c.report})
			l.forgotten = c.number
			l.end(c)
		}
	}
	for len(l.changes) > 0 && l.changes[0].over {
		l.changes[0] = nil
		l.changes, l.over, l.bare = l.changes[1:], l.over-1, max(0, l.bare-1)
	}
	for ; l.bytes > l.mostBytes; l.bare++ {
		l.strip(l.changes[l.bare])
	}
	if l.over <= len(l.changes)/2 {
		return
	}
	kept := make([]*change, 0, 2*len(l.latest))
	for _, c := range l.changes {
		if !c.over {
			kept = append(kept, c)
		}
	}
	l.changes, l.over, l.bare = kept, 0, 0
}

func (l *changeLog) wake() {
	close(l.more)
	l.more = make(chan struct{})
}

// forget forgets all changes: whoever has a place is told that some may be missing.
func (l *changeLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head++
	l.forgotten = l.head
	l.changes, l.over, l.bytes, l.bare = nil, 0, 0, 0
	clear(l.latest)
	l.wake()
}

// place is where a watcher begins that wants what comes from now on.
func (l *changeLog) place() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// remembers reports whether all changes after a place are still known.
func (l *changeLog) remembers(place uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return place >= l.forgotten && place <= l.head
}

// after returns copies of some changes that come after a place, in their order, with the place after them; ok is false if some
// have been forgotten. Without any, more is closed when there is one.
func (l *changeLog) after(place uint64, most, mostBytes int) (changes []change, next uint64, more <-chan struct{}, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if place < l.forgotten || place > l.head {
		return nil, l.head, l.more, false
	}
	from := sort.Search(len(l.changes), func(i int) bool { return l.changes[i].number > place })
	bytes := 0
	for _, c := range l.changes[from:] {
		if len(changes) == most || bytes > mostBytes {
			return changes, place, l.more, true
		}
		if place = c.number; !c.over {
			changes = append(changes, *c)
			bytes += c.size // also of what is not kept: a watcher must not have a hundred large tasks in hand
		}
	}
	return changes, l.head, l.more, true
}

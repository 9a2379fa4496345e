package scheduler

import (
	"container/heap"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// crew is the connected executors that can run the same tasks: the same names, the same versions. Most installations have one
// or two, however many executors there are. What a task costs to match depends on the number of crews, not on that of
// executors, of task names or of waiting tasks.
type crew struct {
	key      string
	names    map[string]bool
	versions map[string]string
	// slots counts those of all members, taken or not.
	slots [kinds]int
	// free has all members, those with most free slots first.
	free [kinds]ranking[*executor]
	// work has the lanes with something ready that the crew can run, that with the oldest first.
	work [kinds]ranking[*post]
}

// post is one lane's place with one crew.
type post struct {
	lane *lane
	crew *crew
	seq  [kinds]int64 // of the lane's oldest ready task
	at   [kinds]int   // index in crew.work, -1 if there is nothing ready
}

// canRun reports whether the crew's executors have what the tasks of a lane need, slots aside.
func (c *crew) canRun(w *lane) bool { return c.names[w.name] && task.Satisfies(c.versions, w.versions) }

// place moves a lane to where its oldest ready task belongs; head is nil if there is none.
func (c *crew) place(p *post, k kind, head *live) {
	switch {
	case head == nil && p.at[k] >= 0:
		heap.Remove(&c.work[k], p.at[k])
	case head == nil:
	case p.at[k] < 0:
		p.seq[k] = head.seq
		heap.Push(&c.work[k], p)
	case p.seq[k] != head.seq:
		p.seq[k] = head.seq
		heap.Fix(&c.work[k], p.at[k])
	}
}

// oldest returns the lane with the oldest ready task of a kind that the crew can run, nil if there is none.
func (c *crew) oldest(k kind) *lane {
	for len(c.work[k].items) > 0 {
		p := c.work[k].items[0]
		head := p.lane.head(k)
		if head != nil && head.seq == p.seq[k] {
			return p.lane
		}
		p.lane.moved(k) // its head was canceled while it waited
	}
	return nil
}

// idle returns the member with most free slots, nil if all are taken.
func (c *crew) idle(k kind) *executor {
	if len(c.free[k].items) == 0 {
		return nil
	}
	if x := c.free[k].items[0]; x.free(k) > 0 {
		return x
	}
	return nil
}

// executor is one life of an executor, as the leader knows it.
type executor struct {
	name, incarnation string
	// line is nil while it is not connected. Its claims stay its own until it is declared missing.
	line     *line
	hello    int64 // number of the latest
	names    map[string]bool
	versions map[string]string
	draining bool
	burst    bool // it wants to be told when there is nothing left for it
	searched bool // since it has no task, a look has found all there was
	claims   map[int64]*live
	// slots and running are counted by kind.
	slots, running [kinds]int
	// crew is nil while it takes no tasks: not connected, or draining.
	crew *crew
	at   [kinds]int // index in crew.free
}

// free counts the slots that are not taken.
func (x *executor) free(k kind) int { return max(0, x.slots[k]-x.running[k]) }

// able reports whether the executor is there to run what is in the lane, be it when a slot gets free.
func (x *executor) able(w *lane, k kind) bool {
	return x.crew != nil && x.slots[k] > 0 && x.crew.canRun(w)
}

// counted adds to what an executor runs.
func (x *executor) counted(k kind, n int) {
	x.running[k] += n
	if x.crew != nil {
		heap.Fix(&x.crew.free[k], x.at[k])
	}
}

// enlist puts a connected executor into the crew of its like.
func (l *leader) enlist(x *executor) {
	key := crewKey(x.names, x.versions)
	c := l.crews[key]
	if c == nil {
		c = &crew{key: key, names: x.names, versions: x.versions}
		for k := range kinds {
			c.free[k].kind, c.work[k].kind = k, k
		}
		l.crews[key] = c
		for _, w := range l.lanes {
			l.post(w, c)
		}
	}
	x.crew, x.names, x.versions = c, c.names, c.versions
	for k := range kinds {
		c.slots[k] += x.slots[k]
		heap.Push(&c.free[k], x)
	}
	l.uncertain = true
	if x.burst {
		l.ask(x)
	}
}

// dismiss takes an executor that takes no more tasks out of its crew.
func (l *leader) dismiss(x *executor) {
	c := x.crew
	if c == nil {
		return
	}
	x.crew = nil
	delete(l.bursts, x)
	for k := range kinds {
		c.slots[k] -= x.slots[k]
		heap.Remove(&c.free[k], x.at[k])
	}
	l.uncertain = true
	if len(c.free[ordinarily].items) > 0 {
		return
	}
	delete(l.crews, c.key)
	for _, w := range l.lanes {
		w.posts = slices.DeleteFunc(w.posts, func(p *post) bool { return p.crew == c })
	}
}

// post lets a crew know of a lane, if it can run what is in it.
func (l *leader) post(w *lane, c *crew) {
	if !c.canRun(w) {
		return
	}
	p := &post{lane: w, crew: c, at: [kinds]int{-1, -1}}
	w.posts = append(w.posts, p)
	for k := range kinds {
		c.place(p, k, w.head(k))
	}
}

// laneOf finds or makes the lane of a task.
func (l *leader) laneOf(name string, versions map[string]string) *lane {
	key := laneKey(name, versions)
	if w := l.lanes[key]; w != nil {
		return w
	}
	w := &lane{key: strings.Clone(key), name: strings.Clone(name), versions: maps.Clone(versions)}
	l.lanes[w.key] = w
	for _, c := range l.crews {
		l.post(w, c)
	}
	return w
}

// left notes the end of a task of a lane.
func (l *leader) left(w *lane) {
	if w.live--; w.live > 0 {
		return
	}
	delete(l.lanes, w.key)
	for _, p := range w.posts {
		for k := range kinds {
			p.crew.place(p, k, nil)
		}
	}
	w.posts = nil
}

// crewKey names what executors of one crew have in common.
func crewKey(names map[string]bool, versions map[string]string) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		text.WriteString(name + "\x00")
	}
	text.WriteString("\x01")
	for _, component := range slices.Sorted(maps.Keys(versions)) {
		text.WriteString(component + "\x00" + versions[component] + "\x00")
	}
	return text.String()
}

// before reports whether a task goes to x rather than to y: to the one with more free slots, of equals to the first by name, so
// that the choice is the same each time.
func (x *executor) before(y *executor, k kind) bool {
	if n, m := x.free(k), y.free(k); n != m {
		return n > m
	}
	return x.name < y.name
}

func (x *executor) index(k kind) *int { return &x.at[k] }

// before reports whether a lane has the older ready task.
func (p *post) before(q *post, k kind) bool { return p.seq[k] < q.seq[k] }

func (p *post) index(k kind) *int { return &p.at[k] }

// ranking is a heap of what knows its own place in it, so that it can be moved when it changes.
type ranking[T ranked[T]] struct {
	kind  kind
	items []T
}

type ranked[T any] interface {
	before(other T, k kind) bool
	// index is where it stands in the ranking, -1 if it does not.
	index(k kind) *int
}

func (r *ranking[T]) Len() int           { return len(r.items) }
func (r *ranking[T]) Less(i, j int) bool { return r.items[i].before(r.items[j], r.kind) }

func (r *ranking[T]) Swap(i, j int) {
	r.items[i], r.items[j] = r.items[j], r.items[i]
	*r.items[i].index(r.kind), *r.items[j].index(r.kind) = i, j
}

// Push and Pop are for container/heap.
func (r *ranking[T]) Push(item any) {
	t := item.(T)
	*t.index(r.kind) = len(r.items)
	r.items = append(r.items, t)
}

// Pop removes the last element.
func (r *ranking[T]) Pop() any {
	last := len(r.items) - 1
	t := r.items[last]
	r.items = slices.Delete(r.items, last, last+1)
	*t.index(r.kind) = -1
	return t
}

package scheduler

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"
)

// check counts again everything that the leader keeps count of, between two ticks, and says what differs.
func check(l *leader) error {
	c := &checker{l: l}
	c.tasks()
	c.lanes()
	c.crews()
	c.executors()
	c.numbers()
	c.stamps()
	c.rests()
	c.bursts()
	c.flights()
	return errors.Join(c.wrong...)
}

type checker struct {
	l     *leader
	wrong []error
}

func (c *checker) must(holds bool, format string, args ...any) {
	if !holds {
		c.wrong = append(c.wrong, fmt.Errorf(format, args...))
	}
}

// same compares two counts or lists.
func (c *checker) same(what string, got, want any) {
	if diff := cmp.Diff(want, got); diff != "" {
		c.wrong = append(c.wrong, fmt.Errorf("%s: -want +got\n%s", what, diff))
	}
}

func (c *checker) tasks() {
	l := c.l
	c.same("tasks by id", len(l.seqs), len(l.tasks))
	c.same("tasks in the lock table", l.locks.Len(), len(l.tasks))
	for seq, t := range l.tasks {
		c.must(t.seq == seq && l.seqs[t.id] == seq, "task %d is kept as %d and %d", t.seq, seq, l.seqs[t.id])
		c.must(l.lanes[t.lane.key] == t.lane, "task %d is in a lane that is gone", seq)
		c.must(l.locks.Has(seq) && l.locks.Unblocked(seq) == (t.phase != blocked), "task %d is in phase %d, and the lock table disagrees", seq, t.phase)
		switch {
		case t.owner != nil:
			c.must(t.phase == claimed && t.owner.claims[seq] == t, "task %d has an owner that does not know it", seq)
			c.must(l.executors[t.owner.incarnation] == t.owner, "task %d belongs to an executor that is gone", seq)
		case t.phase == claimed:
			c.must(slices.Contains(l.next.plan.returned, t) || slices.Contains(l.next.plan.retried, t) ||
				c.aloft(func(f *flight) []*live { return f.plan.retried }, t), "task %d is claimed by nobody", seq)
		}
	}
}

func (c *checker) lanes() {
	l := c.l
	live, waiting := map[*lane]int{}, map[*lane][kinds]int{}
	for _, t := range l.tasks {
		live[t.lane]++
		if t.phase == ready {
			n := waiting[t.lane]
			n[t.kind()]++
			waiting[t.lane] = n
		}
	}
	c.same("lanes", len(l.lanes), len(live))
	for key, w := range l.lanes {
		c.must(w.key == key && laneKey(w.name, w.versions) == key, "lane %q is kept as %q", w.key, key)
		c.same(fmt.Sprintf("live tasks of lane %q", key), w.live, live[w])
		c.same(fmt.Sprintf("ready tasks of lane %q", key), w.waiting, waiting[w])
		for k := range kinds {
			c.heap(fmt.Sprintf("lane %q", key), len(w.ready[k]), w.ready[k].Less)
			in := 0
			for i, t := range w.ready[k] {
				c.must(t.lane == w && t.kind() == k, "task %d stands in a lane that is not its own", t.seq)
				c.must(!slices.Contains(w.ready[k][:i], t) || t.phase != ready, "task %d stands in its lane twice", t.seq)
				if t.phase == ready {
					in++
				}
			}
			c.same(fmt.Sprintf("ready tasks in the queue of lane %q", key), in, waiting[w][k])
		}
		c.posts(w)
	}
}

// posts checks that a lane has a place with each crew that can run it, and that the crew knows what is ready.
func (c *checker) posts(w *lane) {
	able := 0
	for _, crew := range c.l.crews {
		if crew.canRun(w) {
			able++
		}
	}
	c.same(fmt.Sprintf("places of lane %q", w.key), len(w.posts), able)
	for i, p := range w.posts {
		c.must(p.lane == w && p.crew.canRun(w), "lane %q has a place where it can't be run", w.key)
		c.must(c.l.crews[crewKey(p.crew.names, p.crew.versions)] == p.crew, "lane %q has a place with a crew that is gone", w.key)
		c.must(!slices.ContainsFunc(w.posts[:i], func(q *post) bool { return q.crew == p.crew }), "lane %q has two places with one crew", w.key)
		for k := range kinds {
			var head *live
			for _, t := range w.ready[k] {
				if t.phase == ready && (head == nil || t.seq < head.seq) {
					head = t
				}
			}
			at, work := p.at[k], p.crew.work[k].items
			if at < 0 {
				c.must(head == nil, "lane %q has something ready, and a crew that could run it does not know", w.key)
				c.must(!slices.Contains(work, p), "lane %q is with a crew and believes that it is not", w.key)
				continue
			}
			c.must(at < len(work) && work[at] == p, "lane %q is not where it believes to be with a crew", w.key)
			// Its place can be that of an older task that was canceled: then it is put right when it comes to the front.
			c.must(head == nil || p.seq[k] <= head.seq, "lane %q stands with a crew as %d, behind its oldest, %d", w.key, p.seq[k], headSeq(head))
		}
	}
}

func headSeq(t *live) int64 {
	if t == nil {
		return 0
	}
	return t.seq
}

func (c *checker) crews() {
	l := c.l
	members := map[*crew][]*executor{}
	for _, x := range l.executors {
		if x.crew != nil {
			members[x.crew] = append(members[x.crew], x)
		}
	}
	c.same("crews", len(l.crews), len(members))
	for key, crew := range l.crews {
		c.must(crewKey(crew.names, crew.versions) == key, "a crew is kept under a wrong name")
		for k := range kinds {
			slots := 0
			for _, x := range members[crew] {
				slots += x.slots[k]
				c.must(x.at[k] < len(crew.free[k].items) && crew.free[k].items[x.at[k]] == x, "%s is not where it believes to be in its crew", x.name)
			}
			c.same("slots of a crew", crew.slots[k], slots)
			c.same("members of a crew by free slots", len(crew.free[k].items), len(members[crew]))
			c.heap("members by free slots", crew.free[k].Len(), crew.free[k].Less)
			c.heap("lanes by age", crew.work[k].Len(), crew.work[k].Less)
			for i, p := range crew.work[k].items {
				c.must(p.at[k] == i && p.crew == crew, "a crew has the place of lane %q at a wrong index", p.lane.key)
				c.must(l.lanes[p.lane.key] == p.lane && slices.Contains(p.lane.posts, p), "a crew has work of lane %q, which is gone", p.lane.key)
			}
		}
	}
}

func (c *checker) heap(what string, n int, less func(i, j int) bool) {
	for i := 1; i < n; i++ {
		c.must(!less(i, (i-1)/2), "%s: element %d is out of order", what, i)
	}
}

func (c *checker) executors() {
	l := c.l
	for incarnation, x := range l.executors {
		c.must(x.incarnation == incarnation, "%s is kept under a wrong name", x.name)
		c.must(x.line != nil || len(x.claims) > 0, "%s is not connected, has nothing, and is kept", x.name)
		c.must((x.crew != nil) == (x.line != nil && !x.draining), "%s: connected %v, draining %v, in a crew %v", x.name, x.line != nil, x.draining, x.crew != nil)
		var running [kinds]int
		for seq, t := range x.claims {
			running[t.kind()]++
			c.must(t.owner == x && t.seq == seq && l.tasks[seq] == t, "%s has task %d, which does not know", x.name, seq)
			c.must(t.known || x.line != nil, "%s is gone, has not acknowledged task %d, and keeps it", x.name, seq)
			c.must(t.unnumbered() == c.aloft(func(f *flight) []*live { return f.giving }, t), "task %d has claim number %d", seq, t.claim)
			if t.unnumbered() {
				continue
			}
			broken := slices.Contains(l.broken, breach{x: x, line: x.line})
			c.must(t.known || x.line == nil || broken || c.awaited(x, t), "nobody waits for %s to acknowledge task %d", x.name, seq)
		}
		c.same("tasks of "+x.name, x.running, running)
		if x.crew != nil {
			c.must(maps.Equal(x.names, x.crew.names) && maps.Equal(x.versions, x.crew.versions), "%s is in a wrong crew", x.name)
		}
	}
}

// aloft reports whether a task is among those of a flight.
func (c *checker) aloft(of func(*flight) []*live, t *live) bool {
	return slices.ContainsFunc(c.l.flights, func(f *flight) bool { return slices.Contains(of(f), t) })
}

// awaited reports whether what an executor says of a task will be heard: that it has it, or, in time, that it does not say so.
func (c *checker) awaited(x *executor, t *live) bool {
	told := x.line.given[claimKey{t.id, t.claim}] == t || slices.Contains(x.line.receipts, receipt{task: t, claim: t.claim})
	return told && slices.ContainsFunc(c.l.sent, func(d delivery) bool { return d.seq == t.seq && d.claim == t.claim })
}

// numbers checks what is remembered of numbers that were not seen.
func (c *checker) numbers() {
	l, last := c.l, int64(0)
	for _, g := range l.gaps {
		c.must(last < g.From && g.From <= g.To && g.To < l.high, "gap %d to %d after %d, below %d", g.From, g.To, last, l.high)
		last = g.To
		for seq := g.From; seq <= g.To; seq++ {
			c.must(l.tasks[seq] == nil, "task %d is known and missing", seq)
		}
	}
	for seq, row := range l.offered {
		missing := slices.ContainsFunc(l.gaps, func(g Gap) bool { return g.From <= seq && seq <= g.To })
		c.must(row.Seq == seq && (seq > l.high || missing), "task %d is kept as offered, and was seen", seq)
	}
}

// flights checks that what is under way side by side may be.
func (c *checker) flights() {
	l, dating := c.l, map[*live]bool{}
	for i, f := range l.flights {
		c.must(f.light(), "flight %d of %d is to be alone: %+v", i, len(l.flights), f.plan)
		c.must(i == 0 || f.plan.Beside, "flight %d may change the lease", i)
		for _, t := range f.undated {
			dating[t] = true
		}
	}
	for _, t := range l.tasks {
		c.must(t.dating == dating[t], "task %d is to be dated %v", t.seq, t.dating)
	}
}

// rests checks that the tasks that rest are those that will be woken, each once.
func (c *checker) rests() {
	l, rest := c.l, 0
	c.heap("resting tasks", l.resting.Len(), l.resting.Less)
	for i, t := range l.resting {
		c.must(t.phase == resting && l.tasks[t.seq] == t && t.attempts.at == i, "task %d is kept as resting at %d, is in phase %d", t.seq, i, t.phase)
	}
	for _, t := range l.tasks {
		if t.phase == resting {
			rest++
		}
	}
	c.same("resting tasks", len(l.resting), rest)
}

// bursts checks who is to be told that nothing is left.
func (c *checker) bursts() {
	for x := range c.l.bursts {
		c.must(x.burst && x.crew != nil && c.l.executors[x.incarnation] == x, "%s is to be told that nothing is left: asked %v, connected %v", x.name, x.burst, x.crew != nil)
	}
	for _, x := range c.l.executors {
		_, asks := c.l.bursts[x]
		given := slices.ContainsFunc(slices.Collect(maps.Values(x.claims)), func(t *live) bool { return !t.unnumbered() })
		c.must(!x.burst || x.crew == nil || !given || asks, "nobody remembers to tell %s when nothing is left", x.name)
	}
}

// stamps checks that nothing that is unblocked is forgotten.
func (c *checker) stamps() {
	count, last := map[*live]int{}, int64(0)
	for _, t := range c.l.fresh {
		count[t]++
		c.must(t.unblocked >= last, "task %d was unblocked before the one in front of it", t.seq)
		last = t.unblocked
	}
	for seq, t := range c.l.tasks {
		if t.phase == ready && !t.stamped {
			c.must(count[t] == 1, "task %d is unblocked, its row does not say so, and it is %d times among those that will be stamped", seq, count[t])
		}
	}
}

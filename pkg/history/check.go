package history

import (
	"cmp"
	"slices"
	"time"
)

// Check returns the violations in a history, ordered by kind and time. It takes about a second for a million tasks.
func Check(tasks []Task) []Violation {
	c := &checker{tasks: tasks}
	c.lives()
	c.reserve()
	c.overlaps()
	c.order()
	slices.SortStableFunc(c.violations, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.At, b.At))
	})
	return c.violations
}

// checker collects the violations of one history. Tasks and resources are numbers in here: with a million tasks, names are
// looked up once.
type checker struct {
	tasks      []Task
	violations []Violation
	// names are the resources. Those of task i are held[from[i]:from[i+1]].
	names []string
	held  []reservation
	from  []int
}

type reservation struct {
	resource  int32
	exclusive bool
}

// moment is something that happens to a task. Where runs are meant, until is their end.
type moment struct {
	at, until time.Duration
	task      int
}

// line is what a resource remembers: the latest end of all that was granted it so far, and of the exclusive ones among that.
type line struct{ any, exclusive moment }

var unused = line{any: moment{until: -Never}, exclusive: moment{until: -Never}}

// conflicting is the latest end among those that conflict with a reservation.
func (l *line) conflicting(exclusive bool) moment {
	if exclusive {
		return l.any
	}
	return l.exclusive
}

func (l *line) add(m moment, exclusive bool) {
	if m.until > l.any.until {
		l.any = m
	}
	if exclusive && m.until > l.exclusive.until {
		l.exclusive = m
	}
}

func (c *checker) add(kind Kind, task int, at time.Duration) {
	c.violations = append(c.violations, Violation{Kind: kind, Task: c.tasks[task].ID, At: at})
}

func (c *checker) between(kind Kind, task int, at time.Duration, other int, resource int32) {
	c.violations = append(c.violations, Violation{
		Kind: kind, Task: c.tasks[task].ID, At: at, Other: c.tasks[other].ID, Resource: c.names[resource],
	})
}

// lives looks at each task by itself.
func (c *checker) lives() {
	for i := range c.tasks {
		c.life(i, &c.tasks[i])
	}
}

func (c *checker) life(i int, t *Task) {
	first, ran := t.first()
	for _, r := range t.Runs {
		if t.Called == Never || r.Started == Never {
			c.add(Unknown, i, min(r.Started, r.Ended))
			break
		}
	}
	if t.Called == Never {
		return
	}
	if starts := t.starts(); len(starts) > 1 {
		c.add(Twice, i, starts[1])
	}
	switch {
	case !ran && t.Returned != Never && (t.State == "" || t.State == completed):
		c.add(NeverRan, i, t.Called)
	case ran && (first.Ended == Never || t.State == ""):
		c.add(NeverEnded, i, first.Started)
	case ran && t.State == completed && t.Final < first.Ended:
		c.add(Early, i, t.Final)
	}
}

// starts are the times at which a task was started, in order.
func (t *Task) starts() []time.Duration {
	if len(t.Runs) < 2 {
		return nil
	}
	var starts []time.Duration
	for _, r := range t.Runs {
		if r.Started != Never {
			starts = append(starts, r.Started)
		}
	}
	slices.Sort(starts)
	return starts
}

// reserve numbers the resources.
func (c *checker) reserve() {
	numbers := map[string]int32{}
	number := func(name string) int32 {
		n, known := numbers[name]
		if !known {
			n = int32(len(c.names))
			numbers[name] = n
			c.names = append(c.names, name)
		}
		return n
	}
	total := 0
	for i := range c.tasks {
		total += len(c.tasks[i].Exclusive) + len(c.tasks[i].Shared)
	}
	c.held = make([]reservation, 0, total)
	c.from = make([]int, 0, len(c.tasks)+1)
	for i := range c.tasks {
		c.from = append(c.from, len(c.held))
		for _, name := range c.tasks[i].Exclusive {
			c.held = append(c.held, reservation{number(name), true})
		}
		for _, name := range c.tasks[i].Shared {
			c.held = append(c.held, reservation{number(name), false})
		}
	}
	c.from = append(c.from, len(c.held))
}

func (c *checker) reservations(task int) []reservation { return c.held[c.from[task]:c.from[task+1]] }

// lines makes one line for each resource.
func (c *checker) lines() []line {
	made := make([]line, len(c.names))
	for i := range made {
		made[i] = unused
	}
	return made
}

// overlaps looks at all runs in the order of their starts. Of two that overlap the later one is reported. A task that runs
// beside itself overlaps too.
func (c *checker) overlaps() {
	var runs []moment
	for i := range c.tasks {
		t := &c.tasks[i]
		for _, r := range t.Runs {
			switch {
			case r.Started == Never:
			case r.Ended == Never && t.Lost:
				runs = append(runs, moment{at: r.Started, until: r.Started, task: i})
			default:
				runs = append(runs, moment{at: r.Started, until: r.Ended, task: i})
			}
		}
	}
	// Of those that start together the shortest first: one of no length does not reach into the others.
	slices.SortFunc(runs, func(a, b moment) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.until, b.until), cmp.Compare(a.task, b.task))
	})
	lines := c.lines()
	reported := map[int]bool{}
	for _, run := range runs {
		// All are looked at before the run is added, for a task may name a resource twice.
		for _, r := range c.reservations(run.task) {
			if before := lines[r.resource].conflicting(r.exclusive); before.until > run.at && !reported[run.task] {
				reported[run.task] = true
				c.between(Overlap, run.task, run.at, before.task, r.resource)
			}
		}
		for _, r := range c.reservations(run.task) {
			lines[r.resource].add(run, r.exclusive)
		}
	}
}

// order looks at all calls in their order, each after the returns that came before it: what had been returned by then must be
// over before the task of the call starts.
func (c *checker) order() {
	var calls, returns []moment
	for i := range c.tasks {
		t := &c.tasks[i]
		if t.Called != Never {
			run, _ := t.first() // one that never ran starts never, and is in the way of those behind it in its batch
			calls = append(calls, moment{at: t.Called, until: run.Started, task: i})
		}
		if over, counts := t.over(); counts && t.Returned != Never && t.Called <= t.Returned {
			returns = append(returns, moment{at: t.Returned, until: over, task: i})
		}
	}
	slices.SortFunc(calls, func(a, b moment) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(c.tasks[a.task].Batch, c.tasks[b.task].Batch), cmp.Compare(a.task, b.task))
	})
	slices.SortFunc(returns, func(a, b moment) int { return cmp.Compare(a.at, b.at) })

	lines, own := c.lines(), make([]batchLine, len(c.names))
	next := 0
	for _, call := range calls {
		for ; next < len(returns) && returns[next].at < call.at; next++ {
			for _, r := range c.reservations(returns[next].task) {
				lines[r.resource].add(returns[next], r.exclusive)
			}
		}
		c.place(call, lines, own)
	}
}

// batchLine is the line of a resource within one batch.
type batchLine struct {
	line

	batch int
}

// place reports a task that started, which is what until means here, while one that it had to let pass was not over.
func (c *checker) place(call moment, lines []line, own []batchLine) {
	t := &c.tasks[call.task]
	over, counts := t.over()
	held := c.reservations(call.task)
	for _, r := range held {
		before := lines[r.resource].conflicting(r.exclusive)
		if b := &own[r.resource]; t.Batch != 0 && b.batch == t.Batch {
			if inBatch := b.conflicting(r.exclusive); inBatch.until > before.until {
				before = inBatch
			}
		}
		if before.until > call.until {
			c.between(Disorder, call.task, call.until, before.task, r.resource)
			break
		}
	}
	if t.Batch == 0 || !counts || t.Returned == Never {
		return
	}
	for _, r := range held {
		b := &own[r.resource]
		if b.batch != t.Batch {
			*b = batchLine{line: unused, batch: t.Batch}
		}
		b.add(moment{at: call.at, until: over, task: call.task}, r.exclusive)
	}
}

package scheduler

import "github.com/sluice-tasks/sluice/pkg/task"

// witness is told what became of tasks, after it was committed: who traces, who counts, who measures. It is called by the goroutine
// that owns the leader's memory, once for each task and event, so it must be quick and must not wait for anything. Times are in
// microseconds since 1970 by the database's clock.
type witness interface {
	// started: an executor is given the task. When it was unblocked and when this was stands in its story.
	started(t *live, c *Claimed)
	// failed: an attempt failed, and there is to be another.
	failed(t *live, a Again, at int64)
	// ended: the task is final. end is what its run reported; it has no State if it never ran.
	ended(t *live, end End, state task.State, at int64)
}

// story is what happened to a task, apart from what its leader needs to know: those who wait by the million have none yet.
type story struct {
	// unblocked is when it had all its resources for the first time, begun when it was given away last; 0 for never.
	unblocked, begun int64
	// trace is nil unless it is wanted, and until the task is claimed.
	trace *traced
}

// told is the story of a task, begun if it has none yet.
func (t *live) told() *story {
	if t.story == nil {
		t.story = &story{}
	}
	return t.story
}

// sawStart notes when a task was given away, and tells the witnesses.
func (l *leader) sawStart(t *live, c *Claimed, at int64) {
	story := t.told()
	story.begun = at
	if story.unblocked == 0 {
		story.unblocked = at // by the very transaction that gave it away, if not before
		if t.ready > 0 {
			story.unblocked = min(t.ready, at)
		}
	}
	for _, w := range l.witnesses {
		w.started(t, c)
	}
}

func (l *leader) sawFailure(t *live, a Again, at int64) {
	for _, w := range l.witnesses {
		w.failed(t, a, at)
	}
}

func (l *leader) sawEnd(t *live, end End, state task.State, at int64) {
	for _, w := range l.witnesses {
		w.ended(t, end, state, at)
	}
}

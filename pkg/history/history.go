package history

import (
	"fmt"
	"math"
	"time"
)

// Never is the time of what did not happen or was not seen.
const Never = time.Duration(math.MaxInt64)

// Task is all that was seen of one task. Times count from a moment that is the same for all tasks.
type Task struct {
	// ID is its UUID, or whatever else is to name it in a violation.
	ID string
	// Exclusive and Shared are what it reserves. A resource that is in both is exclusive.
	Exclusive, Shared []string
	// Called is when the call that dispatched it began, Never if it is not known to have been dispatched. Returned is when
	// that call brought the task's id, Never if it brought none.
	Called, Returned time.Duration
	// Batch is a number, not 0, that the tasks of one call have in common: they also keep the order in which they stand in
	// the list that is checked.
	Batch int
	// Runs are its starts. There should be one.
	Runs []Run
	// State is the final state that was seen, empty if none was; Final is when.
	State string
	Final time.Duration
	// Lost says that its executor is gone. A run of it that has no end is then taken to have ended as soon as it began.
	Lost bool
}

// Run is one start of a task.
type Run struct {
	// Claim is the number of the claim that it ran under.
	Claim int64
	// Started and Ended are by the handler, at its first and its last breath. Never: it was not seen.
	Started, Ended time.Duration
}

// Kind is a promise that was broken.
type Kind string

// The ways to break a promise.
const (
	// Overlap: it ran while a conflicting task did.
	Overlap Kind = "overlap"
	// Disorder: it started while a conflicting task, whose dispatch had returned before its own was called, had not started
	// or not ended.
	Disorder Kind = "disorder"
	// Twice: it was started more than once.
	Twice Kind = "twice"
	// NeverRan: it was dispatched and did not run, though it was not ended otherwise.
	NeverRan Kind = "never ran"
	// NeverEnded: it was started, and no end or no final state was seen.
	NeverEnded Kind = "never ended"
	// Early: it was seen as completed before its run had ended.
	Early Kind = "early"
	// Unknown: it ran and nobody had dispatched it, or a run ended that nobody saw begin.
	Unknown Kind = "unknown"
)

// Violation is one broken promise.
type Violation struct {
	// Kind says which.
	Kind Kind
	// Task is the ID of the task that should not have done this.
	Task string
	// Other is the ID of a task that it concerns and Resource what they conflict over; empty where there is none.
	Other, Resource string
	// At is when it happened, by the clock of the history.
	At time.Duration
}

// String is a sentence.
func (v Violation) String() string {
	switch v.Kind {
	case Overlap:
		return fmt.Sprintf("%s: task %s started on %s while %s ran", v.At, v.Task, v.Resource, v.Other)
	case Disorder:
		return fmt.Sprintf("%s: task %s started on %s before %s, which was dispatched earlier, had ended", v.At, v.Task, v.Resource, v.Other)
	case Twice:
		return fmt.Sprintf("%s: task %s was started again", v.At, v.Task)
	case NeverRan:
		return fmt.Sprintf("task %s, dispatched at %s, never ran", v.Task, v.At)
	case NeverEnded:
		return fmt.Sprintf("task %s, started at %s, never ended", v.Task, v.At)
	case Early:
		return fmt.Sprintf("%s: task %s was seen as completed while it ran", v.At, v.Task)
	case Unknown:
		return fmt.Sprintf("%s: task %s ran, and is not known to have been dispatched or started", v.At, v.Task)
	default:
		return fmt.Sprintf("%s: task %s: %s", v.At, v.Task, string(v.Kind))
	}
}

// completed is the one final state that a task can't reach without a run.
const completed = "completed"

// first is the run that counts; further ones are violations of their own. It is false if there is none that began.
func (t *Task) first() (Run, bool) {
	first, any := Run{Started: Never}, false
	for _, r := range t.Runs {
		if r.Started < first.Started {
			first, any = r, true
		}
	}
	if first.Ended == Never && t.Lost {
		first.Ended = first.Started
	}
	return first, any
}

// over is when the task can hold nothing up any more: the end of its first run. It is false if it never can, because it
// ended without a run.
func (t *Task) over() (time.Duration, bool) {
	if run, ran := t.first(); ran {
		return run.Ended, true
	}
	return Never, t.State == "" || t.State == completed
}

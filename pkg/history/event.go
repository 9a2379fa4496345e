package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// EventKind is what happened.
type EventKind string

// The things that happen to a task.
const (
	// Called: a call that dispatches began. It has a Call and nothing else.
	Called EventKind = "called"
	// Returned: the call Call brought the id of a task and what it reserves. One event for each task of a batch.
	Returned EventKind = "returned"
	// Started and Ended: by the handler, with the task's id and the claim.
	Started EventKind = "started"
	Ended   EventKind = "ended"
	// Final: a final state was seen.
	Final EventKind = "final"
	// ExecutorLost: the executor of the task is gone; a run that has no end may have none.
	ExecutorLost EventKind = "executor lost"
)

// Event is one thing that happened. Which fields are set depends on the kind.
type Event struct {
	Kind EventKind `json:"event"`
	// At is when it happened, in nanoseconds by a clock that all events have in common.
	At time.Duration `json:"at"`
	// Call is a number of the call that dispatched, not 0 and not used twice.
	Call      int      `json:"call,omitempty"`
	Task      string   `json:"task,omitempty"`
	Claim     int64    `json:"claim,omitempty"`
	Exclusive []string `json:"exclusive,omitempty"`
	Shared    []string `json:"shared,omitempty"`
	State     string   `json:"state,omitempty"`
}

// Read reads events from a file: one JSON object after the other, as json.Encoder writes them.
func Read(r io.Reader) ([]Event, error) {
	var events []Event
	for decoder := json.NewDecoder(r); ; {
		var e Event
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read event %d of the history: %w", len(events)+1, err)
		}
		events = append(events, e)
	}
}

// Gather makes tasks of events. The order of events does not matter, except that the tasks of one call stand in the order
// that they were dispatched in. A run ends with the end that has its claim.
func Gather(events iter.Seq[Event]) []Task {
	g := gatherer{calls: map[int]time.Duration{}, tasks: map[string]int{}}
	var ends []Event
	for e := range events {
		switch e.Kind {
		case Called:
			g.calls[e.Call] = e.At
		case Returned:
			t := g.task(e.Task)
			t.Exclusive, t.Shared, t.Returned, t.Batch = e.Exclusive, e.Shared, e.At, e.Call
		case Started:
			t := g.task(e.Task)
			t.Runs = append(t.Runs, Run{Claim: e.Claim, Started: e.At, Ended: Never})
		case Ended:
			ends = append(ends, e)
		case Final:
			t := g.task(e.Task)
			t.State, t.Final = e.State, e.At
		case ExecutorLost:
			g.task(e.Task).Lost = true
		}
	}
	for _, e := range ends {
		g.end(e)
	}
	for i := range g.made {
		if at, known := g.calls[g.made[i].Batch]; known {
			g.made[i].Called = at
		}
	}
	return g.made
}

// gatherer finds what belongs together.
type gatherer struct {
	calls map[int]time.Duration
	tasks map[string]int
	made  []Task
}

func (g *gatherer) task(id string) *Task {
	i, known := g.tasks[id]
	if !known {
		i = len(g.made)
		g.tasks[id] = i
		g.made = append(g.made, Task{ID: id, Called: Never, Returned: Never, Final: Never})
	}
	return &g.made[i]
}

// end gives an end to the run that it belongs to, or, if there is none, a run without a beginning.
func (g *gatherer) end(e Event) {
	t := g.task(e.Task)
	for i := range t.Runs {
		if r := &t.Runs[i]; r.Claim == e.Claim && r.Ended == Never {
			r.Ended = e.At
			return
		}
	}
	t.Runs = append(t.Runs, Run{Claim: e.Claim, Started: Never, Ended: e.At})
}

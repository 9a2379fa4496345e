package worker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// progressInterval is how long changes of progress are collected before they are sent. What people see of it is stored half a
// second apart at best, so more messages would be wasted.
const progressInterval = 100 * time.Millisecond

// errOver is what one gets who reports when the handler has returned.
var errOver = errors.New("the run has ended")

// report is what a run has to say about itself while it goes on. Progress is collected: a change only marks its part, and a
// timer sends what is marked. Between two firings there is no goroutine.
type report struct {
	calls Calls // nil: nobody listens

	// sending takes one token, from who hands something over: so it arrives in order, and nothing after the end. Taken before
	// mu. A channel, because tests with a clock of their own can't wait for what waits for a mutex.
	sending chan struct{}

	mu      sync.Mutex
	parts   map[string]*Progress // the latest of each code
	changed []*Progress          // of these, those that are to be sent
	groups  map[string]*GroupProgress
	added   []*GroupProgress // of these, those that are to be sent
	timer   *time.Timer      // nil until there was something to send
	armed   bool             // the timer fires, or has fired and is not heard yet
	created map[string]struct{}
	over    bool
}

func newReport(calls Calls) *report { return &report{calls: calls, sending: make(chan struct{}, 1)} }

// add begins a part, in place of an older one with its code.
func (r *report) add(p *Progress) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	code := p.state.GetCode()
	older, again := r.parts[code]
	switch {
	case r.over:
		return errOver
	case !again && len(r.parts) == limits.MaxParts:
		return fmt.Errorf("a task has at most %d parts", limits.MaxParts)
	case r.parts == nil:
		r.parts = map[string]*Progress{}
	}
	r.parts[code] = p
	if again && older.marked {
		// In its place: a handler that begins a part faster than it is sent must not fill the memory.
		older.marked, p.marked = false, true
		r.changed[slices.Index(r.changed, older)] = p
		return nil
	}
	r.changeLocked(p)
	return nil
}

// join begins to add to a part of the group's progress, or goes on with it.
func (r *report) join(p *GroupProgress) (*GroupProgress, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	code := p.state.GetCode()
	known := r.groups[code]
	switch {
	case r.over:
		return nil, errOver
	case known != nil:
		known.state.Total = counted(known.state.GetTotal(), p.state.GetTotal())
		p = known
	case len(r.groups) == limits.MaxParts:
		return nil, fmt.Errorf("a task adds to at most %d parts", limits.MaxParts)
	case r.groups == nil:
		r.groups = map[string]*GroupProgress{}
	}
	r.groups[code] = p
	r.addedLocked(p)
	return p, nil
}

// addedLocked notes that a part of the group's progress is to be sent.
func (r *report) addedLocked(p *GroupProgress) {
	if p.marked || r.over || r.calls == nil {
		return
	}
	p.marked = true
	r.added = append(r.added, p)
	r.armLocked()
}

// changeLocked notes that a part is to be sent.
func (r *report) changeLocked(p *Progress) {
	if p.marked || r.over || r.calls == nil || r.parts[p.state.GetCode()] != p {
		return
	}
	p.marked = true
	r.changed = append(r.changed, p)
	r.armLocked()
}

// armLocked has what is marked sent. The first change goes out at once, those that follow wait for each other.
func (r *report) armLocked() {
	switch {
	case r.armed:
		return
	case r.timer == nil:
		r.timer = time.AfterFunc(0, r.tick)
	default:
		r.timer.Reset(0)
	}
	r.armed = true
}

// tick sends what has changed, and looks again an interval later. If nothing has changed, it rests.
func (r *report) tick() {
	r.sending <- struct{}{} // a slow receiver holds up the next tick, not the handler
	defer func() { <-r.sending }()
	r.mu.Lock()
	states := r.takeLocked()
	r.armed = !states.empty() && !r.over
	if r.armed {
		r.timer.Reset(progressInterval)
	}
	r.mu.Unlock()
	r.send(states)
}

// states are what is to be sent.
type states struct {
	parts []*taskv1.Progress
	added []*taskv1.GroupProgress
}

func (s states) empty() bool { return len(s.parts) == 0 && len(s.added) == 0 }

// takeLocked copies the states of what has changed since it was sent.
func (r *report) takeLocked() (taken states) {
	for _, p := range r.changed {
		p.marked = false
		taken.parts = append(taken.parts, p.copyLocked())
	}
	for _, p := range r.added {
		p.marked = false
		taken.added = append(taken.added, proto.CloneOf(p.state))
	}
	r.changed, r.added = r.changed[:0], r.added[:0]
	return taken
}

func (r *report) send(s states) {
	for _, state := range s.parts {
		r.calls.Progress(state)
	}
	for _, state := range s.added {
		r.calls.GroupProgress(state)
	}
}

// make hands over what the task made. It does not wait for others: what is not told can't be deleted.
func (r *report) make(c *taskv1.CreatedResource) error {
	r.sending <- struct{}{}
	defer func() { <-r.sending }()
	r.mu.Lock()
	_, again := r.created[c.GetResource()]
	full, over := !again && len(r.created) == limits.MaxCreated, r.over
	if !full && !over {
		if r.created == nil {
			r.created = map[string]struct{}{}
		}
		r.created[c.GetResource()] = struct{}{}
	}
	r.mu.Unlock()
	switch {
	case over:
		return errOver
	case full:
		return fmt.Errorf("a task makes at most %d resources", limits.MaxCreated)
	}
	r.calls.Created(c)
	return nil
}

// close sends what has not been sent. When it returns, nothing more will be.
func (r *report) close() {
	r.mu.Lock()
	states := r.takeLocked()
	r.over = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.sending <- struct{}{} // a tick that has begun carries older states
	defer func() { <-r.sending }()
	r.send(states)
}

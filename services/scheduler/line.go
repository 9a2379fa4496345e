package scheduler

import (
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// claimKey names one claim on one task.
type claimKey struct {
	id     string // of the task
	number int64
}

func keyOf(c *schedulerv1.Claim) claimKey { return claimKey{c.GetTaskId(), c.GetClaim()} }

// line is the way to one executor: what the leader puts in, the executor's stream sends. What the executor says goes into the
// leader's inbox, all but acknowledgements: those are answered here and now, so that a start never waits for a tick, and its
// lock decides between an acknowledgement and the end of the line. What was acknowledged before the end may have begun, and
// everything else never will, so it can be given to others at once, whatever became of the executor.
//
// An acknowledgement need not wait for the commit either. While that is under way the line announces what it is to assign, and
// what the executor has acknowledged by then may begin as it comes: a start takes one way instead of three.
type line struct {
	queue[order]
	// announced are claims that are about to be assigned, and whether the executor has acknowledged that.
	announced map[claimKey]bool
	// given are the assignments that were put in and not acknowledged.
	given map[claimKey]*live
	// receipts are for those that were acknowledged since the leader last looked.
	receipts []receipt
	// welcomed says that the hello was answered: nothing may be said before.
	welcomed bool
	pulses   int64
}

// receipt says that the executor has a task, and may begin it. The task is the leader's: here it is only handed back.
type receipt struct {
	task  *live
	claim int64
}

func newLine() *line {
	return &line{queue: *newQueue[order](), announced: map[claimKey]bool{}, given: map[claimKey]*live{}}
}

// announce says that claims are about to be assigned. Each must be put or withdrawn when it is known what became of it.
func (w *line) announce(claims ...claimKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range claims {
		if w.add(order{announced: &schedulerv1.Claim{TaskId: c.id, Claim: c.number}}) {
			w.announced[c] = false
		}
	}
}

// withdraw forgets the announcement of a claim that came to nothing. The executor need not hear of it.
func (w *line) withdraw(c claimKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.announced, c)
}

// announce tells executors what the tick that is about to be written gives them, while it is written.
func (l *leader) announce(giving []*live) {
	claims := map[*line][]claimKey{}
	for _, t := range giving {
		if to := t.owner.line; to != nil {
			claims[to] = append(claims[to], t.announced())
		}
	}
	for to, announced := range claims {
		to.announce(announced...)
	}
}

// withdraw forgets what was announced of a task that was not given.
func (l *leader) withdraw(t *live) {
	if to := t.owner.line; to != nil {
		to.withdraw(t.announced())
	}
}

// put adds orders, all or none. It reports false when the line has ended.
func (w *line) put(orders ...order) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	for _, o := range orders {
		w.welcomed = w.welcomed || o.welcome != nil
		if o.assign != nil {
			o.run = w.assigned(claimKey{o.assign.GetTaskId(), o.assign.GetClaim()}, o.task)
		}
		w.add(o)
	}
	return true
}

// assigned notes an assignment, and reports whether it may begin as it comes. Then it counts as acknowledged from here on.
func (w *line) assigned(key claimKey, t *live) bool {
	w.given[key] = t
	acknowledged := w.announced[key]
	delete(w.announced, key)
	return acknowledged && w.received(key)
}

// beat adds a sign of life, if the hello was answered, and reports whether it did and whether there can be more.
func (w *line) beat() (said, open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.welcomed || w.closed {
		return false, !w.closed
	}
	w.pulses++
	return w.add(order{pulse: w.pulses}), true
}

// hear notes what a report says of assignments, and lets the executor begin what it has acknowledged. On a line that has ended it
// changes nothing. What was not given on this line, or acknowledged before, is passed over: of what an executor had before its
// hello, the answer to the hello speaks.
func (w *line) hear(r *schedulerv1.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	for _, claim := range r.GetAcknowledged() {
		key := keyOf(claim)
		if _, early := w.announced[key]; early {
			w.announced[key] = true
		} else if w.received(key) {
			w.add(order{begin: claim})
		}
	}
	for _, finish := range r.GetFinished() {
		w.received(keyOf(finish.GetClaim())) // it was canceled before it began, and the end says it all
	}
}

// received notes that the executor has an assignment, and reports whether that is news.
func (w *line) received(key claimKey) bool {
	t := w.given[key]
	if t == nil {
		return false
	}
	delete(w.given, key)
	w.receipts = append(w.receipts, receipt{task: t, claim: key.number})
	return true
}

// acknowledged returns what was acknowledged since the last call. Of a line that was closed before it is the last word.
func (w *line) acknowledged() []receipt {
	w.mu.Lock()
	defer w.mu.Unlock()
	receipts := w.receipts
	w.receipts = nil
	return receipts
}

// order is one thing to tell an executor.
type order struct {
	welcome *schedulerv1.Welcome
	task    *live // of assign: the leader's, for no one else
	assign  *taskv1.Assignment
	// run says that what is assigned may begin as it comes.
	run       bool
	announced *schedulerv1.Claim
	cancel    *schedulerv1.Claim
	finished  *schedulerv1.Claim
	refused   *schedulerv1.Refused
	begin     *schedulerv1.Claim
	pulse     int64 // number of a sign of life, from 1
	// nothingLeft says that there is nothing left for it to run.
	nothingLeft bool
}

// messageBytes is how large the arguments in one message may get, before another is begun.
const messageBytes = 1 << 20

// pack makes few messages of many orders. A message is read kind by kind: assignments first, then cancels, and what may begin
// last. So it must not hold what came before the assignment of the same claim, and can't: a claim is assigned once, and then
// canceled or begun. What is canceled after it may begin, in one message, never begins.
func pack(orders []order, send func(*schedulerv1.AcquireResponse) error) error {
	var open *schedulerv1.Orders
	size := 0
	flush := func() error {
		if open == nil {
			return nil
		}
		message := &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Orders{Orders: open}}
		open, size = nil, 0
		return send(message)
	}
	for _, o := range orders {
		if message := alone(o); message != nil {
			if err := flush(); err != nil {
				return err
			}
			if err := send(message); err != nil {
				return err
			}
			continue
		}
		if open == nil {
			open = &schedulerv1.Orders{}
		}
		switch {
		case o.assign != nil:
			if o.run {
				open.Run = append(open.Run, o.assign)
			} else {
				open.Assign = append(open.Assign, o.assign)
			}
			open.NothingLeft = false // it was true when it was said, and would be read as said after this
			size += len(o.assign.GetArgsJson()) + len(o.assign.GetKwargsJson())
		case o.cancel != nil:
			open.Cancel = append(open.Cancel, o.cancel)
		case o.finished != nil:
			open.Finished = append(open.Finished, o.finished)
		case o.refused != nil:
			open.Refused = append(open.Refused, o.refused)
		case o.announced != nil:
			open.Announced = append(open.Announced, o.announced)
		case o.begin != nil:
			open.Begin = append(open.Begin, o.begin)
		case o.nothingLeft:
			open.NothingLeft = true
		}
		if size += orderBytes; size > messageBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// alone makes the message of what is one by itself, nil of anything else.
func alone(o order) *schedulerv1.AcquireResponse {
	switch {
	case o.welcome != nil:
		return &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Welcome{Welcome: o.welcome}}
	case o.pulse != 0:
		return &schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Pulse{Pulse: &schedulerv1.Pulse{Number: o.pulse}}}
	default:
		return nil
	}
}

// orderBytes is about what an order takes without the arguments of its task.
const orderBytes = 300

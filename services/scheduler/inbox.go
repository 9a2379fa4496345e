package scheduler

import "sync/atomic"

// inbox takes what the leader is to apply. It is emptied by every tick, and one that hangs on a slow database must not fill the
// memory meanwhile: what can be found by a look is not kept above a bound, and who asks is turned away above another.
type inbox struct {
	*queue[event]
	rows atomic.Int64 // told by dispatchers, and not yet applied
}

func newInbox() *inbox { return &inbox{queue: newQueue[event]()} }

// maxPending is how many events wait at most before callers are turned away. What executors say is always taken: they have no more
// to say than they have slots.
const maxPending = 50_000

// offer puts in what a dispatcher has to say. Rows that are too many are left out: then it is a hint, and a look finds them.
func (in *inbox) offer(e offerEvent) error {
	if in.length() >= maxPending {
		return errBusy()
	}
	if n := int64(len(e.rows)); in.rows.Add(n) > maxOffered {
		in.rows.Add(-n)
		e.rows = nil
	}
	if !in.put(e) {
		return errStandby()
	}
	return nil
}

// applied notes that events have been applied.
func (in *inbox) applied(events []event) {
	for _, e := range events {
		if offer, ok := e.(offerEvent); ok {
			in.rows.Add(-int64(len(offer.rows)))
		}
	}
}

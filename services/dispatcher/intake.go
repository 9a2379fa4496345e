package dispatcher

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"
)

// intake stores what concurrent calls bring, many calls to a transaction. It never waits for more to come: it stores what has
// arrived when the transaction before has returned. So a lone call is stored at once, and under load a commit is shared.
//
// One transaction at a time, so that the numbers of this dispatcher's tasks become visible in their order.
type intake struct {
	db    Database
	offer func(...*New)
	// stored, if set, is told of each transaction that stored tasks: how many they were, and how many of them were there already.
	stored   func(tasks, repeated int, took time.Duration)
	most     int
	maxBytes int64

	mu      sync.Mutex
	waiting []*unit
	busy    bool
	// tasks and bytes are what waits and what is under way.
	tasks int
	bytes int64
	// pace is how long a task took lately, at is when the transaction that is under way began.
	pace time.Duration
	at   time.Time
}

// unit is what one call brings: all of it is stored or nothing.
type unit struct {
	ctx   context.Context //nolint:containedctx // of the call that waits for it
	tasks []*New
	bytes int64
	// done gets the one answer.
	done chan error
}

const (
	// storeFor bounds one transaction. On a connection that is dead, and nobody says so, all dispatches wait for that long.
	storeFor = 10 * time.Second
	// maxRows and maxBytes bound what calls together put into one transaction. One call alone may be larger.
	maxRows  = 2000
	maxBytes = 16 << 20
)

func newIntake(db Database, offer func(...*New), most int, maxBytes int64) *intake {
	return &intake{db: db, offer: offer, most: most, maxBytes: maxBytes}
}

// store returns when the tasks are committed, with their numbers and times set, or not stored. An error that is neither
// ErrRefused nor ErrMissing nor ErrReused leaves that open, as does the end of ctx while the transaction is under way. Tasks that
// would not wait are the exception: of them the caller learns what became, however late, because it must see to it that they do
// not. When there is no room for them, nothing is stored and the error says so.
func (q *intake) store(ctx context.Context, tasks []*New) error {
	u := &unit{ctx: ctx, tasks: tasks, done: make(chan error, 1)}
	for _, t := range tasks {
		u.bytes += int64(len(t.Args) + len(t.Kwargs) + size(t))
	}
	q.mu.Lock()
	// Alone a call passes whatever its size: it would never pass otherwise.
	if q.tasks > 0 && (q.tasks+len(tasks) > q.most || q.bytes+u.bytes > q.maxBytes) {
		err := overloaded(q.drained(), "%d tasks (%d bytes) wait to be stored already", q.tasks, q.bytes)
		q.mu.Unlock()
		return err
	}
	q.tasks += len(tasks)
	q.bytes += u.bytes
	q.waiting = append(q.waiting, u)
	if !q.busy {
		q.busy = true
		go q.work()
	}
	q.mu.Unlock()
	select {
	case err := <-u.done:
		return err
	case <-ctx.Done():
	}
	wouldNotWait := slices.ContainsFunc(tasks, func(t *New) bool { return !t.Deferred })
	if q.withdraw(u) || !wouldNotWait {
		return ctx.Err()
	}
	return <-u.done
}

// withdraw takes back what is not under way yet. It reports false when it is.
func (q *intake) withdraw(u *unit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, u)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	q.leave(u)
	return true
}

// load is what waits and what is under way.
func (q *intake) load() (tasks int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tasks, q.bytes
}

// leave counts out a call. The lock must be held.
func (q *intake) leave(u *unit) {
	q.tasks -= len(u.tasks)
	q.bytes -= u.bytes
}

// answer ends a call.
func (q *intake) answer(u *unit, err error) {
	q.mu.Lock()
	q.leave(u)
	q.mu.Unlock()
	u.done <- err
}

// drained is about when all that is here will have been stored. The lock must be held.
func (q *intake) drained() time.Duration {
	return max(q.pace*time.Duration(q.tasks), time.Since(q.at))
}

// took notes how long tasks took.
func (q *intake) took(tasks int, took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// An average over the last few transactions: one is small, the next one large.
	q.pace += (took/time.Duration(max(tasks, 1)) - q.pace) / 8
}

// work stores until nothing waits.
func (q *intake) work() {
	for {
		// Calls that are about to come in come first. It is no delay: with none there is nothing to wait for.
		runtime.Gosched()
		units := q.take()
		if len(units) == 0 {
			return
		}
		q.insert(units)
	}
}

// take returns what fits into a transaction, or nothing and ends the work.
func (q *intake) take() []*unit {
	q.mu.Lock()
	defer q.mu.Unlock()
	rows, bytes, n := 0, int64(0), 0
	for _, u := range q.waiting {
		rows += len(u.tasks)
		bytes += u.bytes
		if n > 0 && (rows > maxRows || bytes > maxBytes) {
			break
		}
		n++
	}
	units := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	q.busy, q.at = n > 0, time.Now()
	return units
}

// insert stores units together. If the database refuses them, each is tried by itself: one call's mistake is not another's.
func (q *intake) insert(units []*unit) {
	units, later := agree(units)
	if len(later) > 0 {
		defer q.insert(later)
	}
	var tasks []*New
	for _, u := range units {
		tasks = append(tasks, u.tasks...)
	}
	// A caller that goes away must not take the others' tasks along.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(units[0].ctx), storeFor)
	began := time.Now()
	err := q.db.Insert(ctx, tasks)
	cancel()
	took := time.Since(began)
	q.took(len(tasks), took)
	switch {
	case err == nil:
		total := len(tasks) // before the repeated ones are left out
		fresh := slices.DeleteFunc(tasks, func(t *New) bool { return t.Repeated })
		if q.stored != nil {
			q.stored(total, total-len(fresh), took)
		}
		if len(fresh) > 0 {
			q.offer(fresh...)
		}
	case errors.Is(err, ErrReused):
		// It is known whose mistake it is.
		if good := q.sort(units, err); len(good) > 0 {
			q.insert(good)
		}
		return
	case len(units) > 1 && (errors.Is(err, ErrRefused) || errors.Is(err, ErrMissing)):
		for _, u := range units {
			q.insert([]*unit{u})
		}
		return
	}
	for _, u := range units {
		q.answer(u, err)
	}
}

// agree puts off what has the request id of another call's task and is not the same: which of the two is right depends on what
// is stored already, and that shows when the first of them was tried.
func agree(units []*unit) (now, later []*unit) {
	byRequest := map[string]*New{}
	differs := func(t *New) bool {
		first := byRequest[t.DomainID+t.RequestID]
		return t.RequestID != "" && first != nil && first.difference(t) != ""
	}
	for _, u := range units {
		if slices.ContainsFunc(u.tasks, differs) {
			later = append(later, u)
			continue
		}
		now = append(now, u)
		for _, t := range u.tasks {
			if t.RequestID != "" && byRequest[t.DomainID+t.RequestID] == nil {
				byRequest[t.DomainID+t.RequestID] = t
			}
		}
	}
	return now, later
}

// sort answers those that reuse a request id, and returns the others.
func (q *intake) sort(units []*unit, err error) (good []*unit) {
	for _, u := range units {
		if slices.ContainsFunc(u.tasks, func(t *New) bool { return t.Reused != "" }) {
			q.answer(u, err)
			continue
		}
		good = append(good, u)
	}
	if len(good) == len(units) { // an error that names nobody must not be tried for ever
		for _, u := range units {
			q.answer(u, err)
		}
		return nil
	}
	return good
}

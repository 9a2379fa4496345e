package dispatcher

import (
	"context"
	"errors"
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

	mu      sync.Mutex
	waiting []*unit
	busy    bool
}

// unit is what one call brings: all of it is stored or nothing.
type unit struct {
	ctx   context.Context //nolint:containedctx // of the call that waits for it
	tasks []*New
	// done gets the one answer.
	done chan error
}

const (
	// storeFor bounds one transaction.
	storeFor = 30 * time.Second
	// maxRows and maxBytes bound what calls together put into one transaction. One call alone may be larger.
	maxRows  = 2000
	maxBytes = 16 << 20
)

func newIntake(db Database, offer func(...*New)) *intake { return &intake{db: db, offer: offer} }

// store returns when the tasks are committed, with their numbers and times set, or not stored. An error that is neither
// ErrRefused nor ErrMissing leaves that open, as does the end of ctx while the transaction is under way. Tasks that would not
// wait are the exception: of them the caller learns what became, however late, because it must see to it that they do not.
func (q *intake) store(ctx context.Context, tasks []*New) error {
	u := &unit{ctx: ctx, tasks: tasks, done: make(chan error, 1)}
	q.mu.Lock()
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
	return true
}

// work stores until nothing waits.
func (q *intake) work() {
	for {
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
	rows, bytes, n := 0, 0, 0
	for _, u := range q.waiting {
		rows += len(u.tasks)
		for _, t := range u.tasks {
			bytes += len(t.Args) + len(t.Kwargs) + size(t)
		}
		if n > 0 && (rows > maxRows || bytes > maxBytes) {
			break
		}
		n++
	}
	units := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	q.busy = n > 0
	return units
}

// insert stores units together. If the database refuses them, each is tried by itself: one call's mistake is not another's.
func (q *intake) insert(units []*unit) {
	var tasks []*New
	for _, u := range units {
		tasks = append(tasks, u.tasks...)
	}
	// A caller that goes away must not take the others' tasks along.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(units[0].ctx), storeFor)
	err := q.db.Insert(ctx, tasks)
	cancel()
	if len(units) > 1 && (errors.Is(err, ErrRefused) || errors.Is(err, ErrMissing)) {
		for _, u := range units {
			q.insert([]*unit{u})
		}
		return
	}
	if err == nil {
		q.offer(tasks...)
	}
	for _, u := range units {
		u.done <- err
	}
}

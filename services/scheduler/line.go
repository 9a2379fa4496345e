package scheduler

import (
	"sync"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// queue hands values from one goroutine to another without ever making the giver wait: the leader must not hang on a slow
// executor, nor an executor's stream on a leader that waits for a commit.
type queue[T any] struct {
	mu     sync.Mutex
	values []T
	err    error
	closed bool
	// signal holds one token while there may be something to take.
	signal chan struct{}
	// ended is closed with the queue.
	ended chan struct{}
}

func newQueue[T any]() *queue[T] {
	return &queue[T]{signal: make(chan struct{}, 1), ended: make(chan struct{})}
}

// put adds values. It reports false when the queue was closed.
func (q *queue[T]) put(values ...T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.values = append(q.values, values...)
	q.wake()
	return true
}

// take empties the queue. When it was closed, the error it was closed with comes with the last values.
func (q *queue[T]) take() (values []T, closed bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	values, q.values = q.values, nil
	return values, q.closed, q.err
}

// close ends the queue; the first error stays.
func (q *queue[T]) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed, q.err = true, err
		close(q.ended)
		q.wake()
	}
}

// length is how many values wait to be taken.
func (q *queue[T]) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.values)
}

// wake must be called with mu held.
func (q *queue[T]) wake() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// line is the way to one executor: what the leader puts in, the executor's stream sends.
type line = queue[order]

// order is one thing to tell an executor.
type order struct {
	welcome  *schedulerv1.Welcome
	task     *live // of assign: the leader's, for no one else
	assign   *taskv1.Assignment
	cancel   *schedulerv1.Claim
	finished *schedulerv1.Claim
	refused  *schedulerv1.Refused
	// nothingLeft says that there is nothing left for it to run.
	nothingLeft bool
}

// messageBytes is how large the arguments in one message may get, before another is begun.
const messageBytes = 1 << 20

// pack makes few messages of many orders. A message is read kind by kind, so it must not hold a cancel before the assignment
// that came later with the same claim; that can't be: a claim is assigned once, and canceled after that.
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
		if o.welcome != nil {
			if err := flush(); err != nil {
				return err
			}
			if err := send(&schedulerv1.AcquireResponse{Message: &schedulerv1.AcquireResponse_Welcome{Welcome: o.welcome}}); err != nil {
				return err
			}
			continue
		}
		if open == nil {
			open = &schedulerv1.Orders{}
		}
		switch {
		case o.assign != nil:
			open.Assign = append(open.Assign, o.assign)
			open.NothingLeft = false // it was true when it was said, and would be read as said after this
			size += len(o.assign.GetArgsJson()) + len(o.assign.GetKwargsJson())
		case o.cancel != nil:
			open.Cancel = append(open.Cancel, o.cancel)
		case o.finished != nil:
			open.Finished = append(open.Finished, o.finished)
		case o.refused != nil:
			open.Refused = append(open.Refused, o.refused)
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

// orderBytes is about what an order takes without the arguments of its task.
const orderBytes = 300

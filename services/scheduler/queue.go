package scheduler

import "sync"

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
	return q.add(values...)
}

// add is put with mu held.
func (q *queue[T]) add(values ...T) bool {
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

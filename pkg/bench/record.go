package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/history"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// record is what happened to each task of a run, by its number. It is all there before the clock starts: no table grows in
// the middle of a measurement. Times are nanoseconds since the record was made, 0 for what has not happened.
type record struct {
	began time.Time
	// mark is what all correlation ids of the run begin with; the rest is the number of the task.
	mark string

	// By the dispatcher that has the task, and read when all of them have ended.
	called, returned []int64
	// By the handler; ended is read when the executor has ended.
	ended []int64

	mu sync.Mutex
	// By the handler, and by whoever learns of the id first.
	ids     []uuid.UUID
	started []int64
	claims  []int64
	// By whoever sees the end.
	final  []int64
	states []uint8
	// running finds the number of a task that was started and whose end was not seen.
	running map[uuid.UUID]int
	// again are starts of tasks that had been started before, strays starts of what should not run.
	again  map[int][]*history.Run
	strays []*stray

	// taken is how many tasks dispatchers have begun with, completed how many have ended; progress is when anything last moved.
	taken, completed int
	progress         int64
	// moved wakes those who wait until there are fewer in flight.
	moved *sync.Cond
	// reached is closed when target tasks have ended.
	target  int
	reached chan struct{}
}

// stray is a run of a task that is not one of ours, or that should wait.
type stray struct {
	id  string
	run history.Run
}

// markLength is the part of a UUID in front of its last group, which has room for the number.
const markLength = len("01234567-89ab-7def-8123-")

func newRecord(tasks, inFlight int) *record {
	r := &record{
		began: time.Now(), mark: uuid.NewString()[:markLength],
		called: make([]int64, tasks), returned: make([]int64, tasks), ended: make([]int64, tasks),
		ids: make([]uuid.UUID, tasks), started: make([]int64, tasks), claims: make([]int64, tasks),
		final: make([]int64, tasks), states: make([]uint8, tasks),
		running: make(map[uuid.UUID]int, min(inFlight, tasks)),
		again:   map[int][]*history.Run{},
	}
	r.moved = sync.NewCond(&r.mu)
	return r
}

// now is never 0.
func (r *record) now() int64 { return int64(time.Since(r.began)) + 1 }

// correlation carries the number of a task to its handler, which may run before the dispatcher knows the task's id.
func (r *record) correlation(n int) string { return fmt.Sprintf("%s%012x", r.mark, n) }

// number is the reverse; false for what is not of this run.
func (r *record) number(correlation string) (int, bool) {
	if len(correlation) <= markLength || correlation[:markLength] != r.mark {
		return 0, false
	}
	n, err := strconv.ParseUint(correlation[markLength:], 16, 48)
	return int(n), err == nil
}

type nothing struct{}

// noop is test.noop, and nothing else, between two looks at the clock.
func (r *record) noop(ctx context.Context, _ nothing) (worker.None, error) {
	at := r.now()
	task := worker.Current(ctx)
	end := r.start(task, at)
	*end = r.now()
	return worker.None{}, nil
}

// start notes a start and returns where its end is to be noted.
func (r *record) start(task worker.Task, at int64) *int64 {
	n, ours := r.number(task.CorrelationID)
	id, err := uuid.Parse(task.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	run := func() *history.Run {
		return &history.Run{Claim: task.Claim, Started: time.Duration(at), Ended: history.Never}
	}
	switch {
	case !ours || err != nil || n >= len(r.ids):
		s := &stray{id: task.ID, run: *run()}
		r.strays = append(r.strays, s)
		return (*int64)(&s.run.Ended)
	case r.started[n] != 0:
		more := run()
		r.again[n] = append(r.again[n], more)
		return (*int64)(&more.Ended)
	}
	r.ids[n], r.started[n], r.claims[n] = id, at, task.Claim
	if r.final[n] == 0 {
		r.running[id] = n
	}
	return &r.ended[n]
}

// stored notes the ids that a call of Dispatch brought.
func (r *record) stored(from int, tasks []*taskv1.Task, at int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, t := range tasks {
		id, err := uuid.Parse(t.GetId())
		if err != nil {
			return fmt.Errorf("dispatch answered with the id %q: %w", t.GetId(), err)
		}
		r.ids[from+i], r.returned[from+i] = id, at
	}
	r.progress = at
	return nil
}

// take waits until n more tasks may be in flight. It is false when ctx has ended.
func (r *record) take(ctx context.Context, n, limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.taken+n-r.completed > limit && ctx.Err() == nil {
		r.moved.Wait()
	}
	r.taken += n
	return ctx.Err() == nil
}

// wake lets those who wait look at their contexts.
func (r *record) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved.Broadcast()
}

// await returns a channel that is closed when n tasks have ended.
func (r *record) await(n int) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.reached = n, make(chan struct{})
	if r.completed >= n {
		close(r.reached)
	}
	r.progress = r.now()
	return r.reached
}

// idle is for how long nothing has moved.
func (r *record) idle() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(r.now() - r.progress)
}

// saw notes the final ones among the states that were seen. What was not started here is passed over: it is not ours, or it
// will be asked for.
func (r *record) saw(changes []*schedulerv1.Change) {
	at := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		if !final(c.GetState()) {
			continue
		}
		id, err := uuid.Parse(c.GetTaskId())
		if err != nil {
			continue
		}
		if n, running := r.running[id]; running {
			r.end(n, c.GetState(), at)
		}
	}
	r.moved.Broadcast()
}

// looked notes the states of tasks that were asked for by their numbers.
func (r *record) looked(numbers []int, tasks []*taskv1.Task) {
	at := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, t := range tasks {
		if final(t.GetState()) {
			r.end(numbers[i], t.GetState(), at)
		}
	}
	r.moved.Broadcast()
}

func (r *record) end(n int, state taskv1.State, at int64) {
	if r.final[n] != 0 {
		return
	}
	delete(r.running, r.ids[n])
	r.final[n], r.states[n] = at, uint8(state)
	r.completed++
	r.progress = at
	if r.completed == r.target {
		close(r.reached)
	}
}

func final(state taskv1.State) bool { return wire.FromState(state).Final() }

// open lists up to limit tasks from number from on whose ids are known and whose ends are not, and where to go on.
func (r *record) open(from, limit int) (numbers []int, next int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for next = from; next < len(r.ids) && len(numbers) < limit; next++ {
		if r.final[next] == 0 && r.ids[next] != uuid.Nil {
			numbers = append(numbers, next)
		}
	}
	return numbers, next
}

// openIDs are the ids of all tasks whose ends were not seen.
func (r *record) openIDs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for n, id := range r.ids {
		if r.final[n] == 0 && id != uuid.Nil {
			ids = append(ids, id.String())
		}
	}
	return ids
}

func (r *record) id(n int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[n].String()
}

// completedWell is asked under the lock.
func (r *record) completedWell(n int) bool {
	return r.final[n] != 0 && taskv1.State(r.states[n]) == taskv1.State_STATE_COMPLETED
}

// history is the record in the form in which it is checked. Everything must have come to rest.
func (r *record) history(w *workload, batchOf func(int) int) []history.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	when := func(at int64) time.Duration {
		if at == 0 {
			return history.Never
		}
		return time.Duration(at)
	}
	tasks := make([]history.Task, 0, len(r.ids)+len(r.strays))
	runs := make([]history.Run, len(r.ids))
	for n := range r.ids {
		if r.called[n] == 0 {
			continue
		}
		reserved := w.reservation(n)
		t := history.Task{
			ID: r.ids[n].String(), Exclusive: reserved.exclusive, Shared: reserved.shared,
			Called: when(r.called[n]), Returned: when(r.returned[n]), Batch: batchOf(n) + 1, Final: when(r.final[n]),
		}
		if r.final[n] != 0 {
			t.State = string(wire.FromState(taskv1.State(r.states[n])))
		}
		if r.started[n] != 0 {
			runs[n] = history.Run{Claim: r.claims[n], Started: when(r.started[n]), Ended: when(r.ended[n])}
			t.Runs = runs[n : n+1 : n+1]
		}
		for _, more := range r.again[n] {
			t.Runs = append(t.Runs, *more)
		}
		tasks = append(tasks, t)
	}
	for _, s := range r.strays {
		tasks = append(tasks, history.Task{
			ID: s.id, Called: history.Never, Returned: history.Never, Final: history.Never, Runs: []history.Run{s.run},
		})
	}
	return tasks
}

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// modelRow is a row of the model database. Times are in microseconds since 1970 by its clock, 0 for null.
type modelRow struct {
	Row

	final                           bool
	xact                            uint64
	createdAt, unblockedAt, startAt int64
	failures                        []failure   // attempts that failed and were retried
	failure                         *task.Error // of the last one, if it failed for good
}

// failure is an attempt that is recorded.
type failure struct {
	attempt int32
	claim   int64
	code    string
}

// transaction is one of a dispatcher: it has an id, takes numbers one by one, and makes its rows visible all at once.
type transaction struct {
	xact uint64
	rows []*modelRow
}

// modelDatabase behaves like the statements in store.go, in memory: same guards, same order, all or nothing. Rows are hidden
// until their transaction commits, which may be later than that of a higher seq.
type modelDatabase struct {
	rows    map[int64]*modelRow
	open    []*transaction
	cancels map[int64]int64 // when they were wished, by seq
	gone    map[string]Gone
	notes   map[string]bool // of lives that are over
	// schedules are in the order in which they are dispatched; fired hears of each task of theirs.
	schedules []*modelSchedule
	fired     func(*modelRow)
	epoch     int64
	next      int64  // the highest number that was given out
	xact      uint64 // the next transaction id
	ticks     int    // how many plans came
	glances   int
	// now is its clock.
	now func() int64
	// snapshots remembers what was visible, by the text that stands for it.
	snapshots map[string]map[int64]bool
	// planned sees each plan before anything is done with it.
	planned func(*Plan)
	// between happens once, after the next tick has taken its transaction id and before it writes and looks.
	between func()
	// within happens once, between the two statements of the next look: new tasks, then wishes to cancel.
	within func()
	// loading happens once, in the next load: after it has read the living, and before it reads the highest number.
	loading func()
	// fail is consumed by the next tick: it says whether the transaction has an effect although it reports an error.
	fail *bool
}

var errModel = errors.New("connection reset")

func newModel() *modelDatabase {
	return &modelDatabase{
		rows: map[int64]*modelRow{}, cancels: map[int64]int64{}, gone: map[string]Gone{}, notes: map[string]bool{},
		snapshots: map[string]map[int64]bool{}, xact: 1, now: func() int64 { return 0 }, planned: func(*Plan) {},
		fired: func(*modelRow) {},
	}
}

func (m *modelDatabase) seqs() []int64 { return slices.Sorted(maps.Keys(m.rows)) }

// once empties a hook and calls what was in it.
func once(hook *func()) {
	if do := *hook; do != nil {
		*hook = nil
		do()
	}
}

// oldestOpen is the oldest transaction that has not ended, the asking one among them.
func (m *modelDatabase) oldestOpen(own uint64) uint64 {
	oldest := own
	for _, x := range m.open {
		oldest = min(oldest, x.xact)
	}
	return oldest
}

// id gives out a transaction id.
func (m *modelDatabase) id() uint64 {
	m.xact++
	return m.xact - 1
}

// begin opens a transaction of a dispatcher.
func (m *modelDatabase) begin() *transaction {
	x := &transaction{xact: m.id()}
	m.open = append(m.open, x)
	return x
}

// insert gives a row of an open transaction its number.
func (m *modelDatabase) insert(x *transaction, row Row) *modelRow {
	m.next++
	row.Seq, row.ID, row.State = m.next, fmt.Sprintf("task-%d", m.next), task.Waiting
	r := &modelRow{Row: row, xact: x.xact, createdAt: m.now()}
	x.rows = append(x.rows, r)
	return r
}

// commit makes the rows of a transaction visible.
func (m *modelDatabase) commit(x *transaction) {
	m.rollBack(x)
	for _, r := range x.rows {
		m.rows[r.Seq] = r
	}
}

// rollBack ends a transaction whose rows were never there.
func (m *modelDatabase) rollBack(x *transaction) {
	m.open = slices.DeleteFunc(m.open, func(y *transaction) bool { return x == y })
}

// add dispatches one task, in a transaction of its own.
func (m *modelDatabase) add(row Row) *modelRow {
	x := m.begin()
	r := m.insert(x, row)
	m.commit(x)
	return r
}

// cancel does what the dispatcher's statement does.
func (m *modelDatabase) cancel(seq int64) {
	row := m.rows[seq]
	switch row.State {
	case task.Waiting:
		row.State, row.final = task.Canceled, true
		m.cancels[seq] = m.now()
	case task.Running:
		row.State = task.Canceling
		m.cancels[seq] = m.now()
	case task.Skipped, task.Completed, task.Failed, task.Canceled, task.Canceling:
	}
}

// end ends a life, as the heartbeat service does.
func (m *modelDatabase) end(g Gone) {
	m.gone[g.Incarnation], m.notes[g.Incarnation] = g, true
}

func (m *modelDatabase) Load(_ context.Context, epoch int64, admit func(Row)) (Loaded, error) {
	if epoch != m.epoch {
		return Loaded{}, ErrDeposed
	}
	snapshot := fmt.Sprint(len(m.snapshots))
	m.snapshots[snapshot] = map[int64]bool{}
	for seq := range m.rows {
		m.snapshots[snapshot][seq] = true
	}
	for _, unblocked := range []bool{true, false} {
		for _, seq := range m.seqs() {
			if r := m.rows[seq]; !r.final && r.Unblocked == unblocked {
				admit(r.loaded())
			}
		}
	}
	once(&m.loading)
	return Loaded{Snapshot: snapshot, High: m.next, Now: m.now()}, nil
}

func (m *modelDatabase) Tick(_ context.Context, epoch int64, plan *Plan) (*Report, error) {
	m.ticks++
	if epoch != m.epoch {
		return nil, ErrDeposed
	}
	m.planned(plan)
	fail := m.fail
	m.fail = nil
	if fail != nil && !*fail {
		return nil, errModel
	}
	report := m.apply(plan)
	if fail != nil {
		return nil, errModel
	}
	return report, nil
}

// find returns a row that a statement's guards let through.
func (m *modelDatabase) find(seq int64, states ...task.State) *modelRow {
	if r := m.rows[seq]; r != nil && slices.Contains(states, r.State) {
		return r
	}
	return nil
}

// unblock writes when a task was unblocked, within what is possible.
func (m *modelDatabase) unblock(r *modelRow, at int64) {
	if !r.Unblocked {
		r.Unblocked, r.unblockedAt = true, min(max(at, r.createdAt), m.now())
	}
}

func (m *modelDatabase) apply(plan *Plan) *Report {
	own := m.id()
	report := &Report{Xact: own, Now: m.now(), Finished: map[int64]task.State{}, Requeued: map[int64]task.State{}, Claimed: map[int64]*Claimed{}, Retried: map[int64]task.State{}}
	once(&m.between)
	for _, end := range plan.Finish {
		if r := m.find(end.Seq, task.Running, task.Canceling); r != nil && r.Claim == end.Claim {
			if r.State == task.Canceling {
				end.State, end.Error = task.Canceled, nil
			}
			r.State, r.final, r.failure = end.State, true, end.Error
			report.Finished[end.Seq] = end.State
		}
	}
	for _, back := range plan.Requeue {
		if r := m.find(back.Seq, task.Running, task.Canceling); r != nil && r.Claim == back.Claim {
			r.Attempt--
			r.startAt = 0
			if r.State == task.Canceling {
				r.State, r.final = task.Canceled, true
			} else {
				r.State, r.Executor, r.Incarnation = task.Waiting, "", ""
			}
			report.Requeued[back.Seq] = r.State
		}
	}
	for _, a := range plan.Retry {
		if r := m.find(a.Seq, task.Running, task.Canceling); r != nil && r.Claim == a.Claim {
			m.retry(r, a)
			report.Retried[a.Seq] = r.State
		}
	}
	for _, seq := range plan.Reject {
		if r := m.find(seq, task.Waiting); r != nil {
			r.State, r.final = task.Canceled, true
		}
	}
	for _, stamp := range plan.Unblock {
		if r := m.find(stamp.Seq, task.Waiting); r != nil {
			m.unblock(r, stamp.At)
		}
	}
	for _, give := range plan.Claim {
		if r := m.find(give.Seq, task.Waiting); r != nil {
			if give.Unblocked == 0 {
				give.Unblocked = m.now()
			}
			m.unblock(r, give.Unblocked)
			r.State, r.Executor, r.Incarnation, r.startAt = task.Running, give.Executor, give.Incarnation, m.now()
			r.Claim++
			r.Attempt++
			report.Claimed[give.Seq] = &Claimed{Seq: give.Seq, Claim: r.Claim, Attempt: r.Attempt, Args: "[]", Kwargs: "{}", Options: task.Options{Retry: r.Retry}}
		}
	}
	for _, seq := range plan.ForgetCancels {
		delete(m.cancels, seq)
	}
	for _, life := range plan.ForgetLives {
		delete(m.notes, life)
	}
	if plan.Look {
		m.look(plan, report, own)
	}
	if plan.Due {
		report.Due = m.due()
	}
	return report
}

func (m *modelDatabase) retry(r *modelRow, a Again) {
	if r.State == task.Canceling {
		r.State, r.final = task.Canceled, true
		return
	}
	r.failures = append(r.failures, failure{attempt: r.Attempt, claim: r.Claim, code: a.Error.Code})
	at := time.UnixMicro(m.now() + a.Pause)
	r.State, r.Executor, r.Incarnation, r.startAt, r.RetryAt = task.Waiting, "", "", 0, &at
}

func (m *modelDatabase) look(plan *Plan, report *Report, own uint64) {
	report.OldestOpen = m.oldestOpen(own)
	after := 0
	for _, seq := range m.seqs() {
		r := m.rows[seq]
		wanted := slices.ContainsFunc(plan.Gaps, func(g Gap) bool { return g.From <= seq && seq <= g.To }) ||
			plan.Late != nil && seq <= plan.Late.High && !m.snapshots[plan.Late.Snapshot][seq]
		if !r.final && seq > plan.After && after < plan.LookLimit {
			after++
			wanted = true
		}
		if !r.final && wanted {
			report.New = append(report.New, r.Row)
		}
	}
	once(&m.within)
	report.Cancels = m.wishes(plan.Thorough)
	report.Cancels = report.Cancels[:min(len(report.Cancels), plan.LookLimit)]
	for _, life := range slices.Sorted(maps.Keys(m.notes))[:min(len(m.notes), plan.LookLimit)] {
		report.Gone = append(report.Gone, Gone{Incarnation: life, InOrder: m.gone[life].InOrder, Noted: true})
	}
	for _, owner := range plan.Owners {
		if gone, over := m.gone[owner]; over {
			report.Gone = append(report.Gone, gone)
		}
	}
}

// wishes lists those to cancel, of the last minute or all.
func (m *modelDatabase) wishes(thorough bool) (seqs []int64) {
	for _, seq := range slices.Sorted(maps.Keys(m.cancels)) {
		if thorough || m.cancels[seq] > m.now()-time.Minute.Microseconds() {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

func (m *modelDatabase) Glance(_ context.Context, epoch, high int64, owners []string) (Glimpse, error) {
	if epoch != m.epoch {
		return Glimpse{}, ErrDeposed
	}
	m.glances++
	if m.fail != nil {
		m.fail = nil
		return Glimpse{}, errModel
	}
	stirs := len(m.wishes(owners != nil))+len(m.notes) > 0 || slices.ContainsFunc(owners, func(life string) bool { return m.gone[life].Incarnation != "" })
	for seq, r := range m.rows {
		stirs = stirs || seq > high && !r.final
	}
	return Glimpse{Stirs: stirs, Now: m.now(), Due: m.due()}, nil
}

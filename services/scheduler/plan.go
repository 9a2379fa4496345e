package scheduler

import (
	"errors"
	"time"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// ErrDeposed says that the lease has another epoch: this leadership is over, and nothing of the transaction was written.
var ErrDeposed = errors.New("another scheduler leads")

// Row is what the leader reads of a task.
type Row struct {
	Seq         int64
	ID          string
	Name        string
	State       task.State
	Exclusive   []string
	Shared      []string
	Immediate   bool
	Deferred    bool
	Versions    map[string]string
	CreatedAt   time.Time
	Unblocked   bool
	Executor    string
	Incarnation string
	Claim       int64
	Attempt     int32
	Retry       *task.Retry // nil if failures are not retried
	RetryAt     *time.Time  // when the next attempt begins at the earliest; nil if none failed

	// UnblockedAt and StartedAt are in microseconds since 1970, 0 for never. They are read by a load only: what a look finds is new.
	UnblockedAt, StartedAt int64
	// CorrelationID, Traceparent and Tracestate a load reads of what runs.
	CorrelationID, Traceparent, Tracestate string
}

// Plan is what one tick writes and what it looks for.
type Plan struct {
	Finish        []End
	Requeue       []Back
	Retry         []Again
	Reject        []int64 // immediate tasks that can't run at once and would not wait
	Unblock       []Stamp // got their resources some time ago, and no slot yet
	Claim         []Give
	ForgetCancels []int64  // wishes that were acted on
	ForgetLives   []string // notes of lives that are over, whose tasks this plan settles
	// The tasks behind Finish, Requeue, Retry and Reject, for what is let out after the commit.
	ended, returned, retried, rejected []*live
	// searching are the executors for which this tick looks whether anything is left.
	searching []*executor

	// Beside says that another tick is under way, which may have locked the lease's row, too: of two that share it none may wait for
	// the other's end to change it. So this one does not renew the lease.
	Beside bool

	Look      bool
	LookLimit int
	After     int64   // highest seq seen
	Gaps      []Gap   // lower ones that were not seen and may still come
	Late      *Window // after a takeover: what could not be seen by the load
	// Thorough asks for what no look usually misses: wishes to cancel that are older than a minute, and whether the Owners live,
	// whose ends are noted.
	Thorough bool
	Owners   []string
	// Due asks when the next schedule is due.
	Due bool
}

// Gap is a run of numbers, From to To, that were not seen when a higher one was.
type Gap struct {
	From, To int64
	// until is a transaction id that was given out after the gap was noticed, 0 until there was one: once all transactions
	// before it have ended, what is missing was rolled back.
	until uint64
}

// Window is what a load could not see: rows up to High of transactions that were open at its snapshot.
type Window struct {
	High     int64
	Snapshot string
	until    uint64
}

// End is the end of one run.
type End struct {
	Seq, Claim int64
	State      task.State
	Result     string // JSON, empty for none
	Error      *task.Error
}

// Back is an assignment that never reached its executor.
type Back struct{ Seq, Claim int64 }

// Again is a run that failed and is not the last of its task.
type Again struct {
	Seq, Claim int64
	Pause      int64 // before the next attempt, in microseconds
	Error      *task.Error
}

// Give is a task for a slot.
type Give struct {
	Seq                   int64
	Executor, Incarnation string
	Unblocked             int64 // microseconds since 1970 by the database's clock; 0 for now, or if the row says it already
}

// Stamp is when a task was unblocked, in microseconds since 1970 by the database's clock.
type Stamp struct{ Seq, At int64 }

// Loaded is what a load found beside the tasks.
type Loaded struct {
	// Snapshot is from before the load: what it could not see, the load may have missed.
	Snapshot string
	// High is the highest seq that was given out, be it to a task that has ended or to a transaction that is open.
	High int64
	// Now is the database's clock, in microseconds since 1970.
	Now int64
}

// writes reports whether the plan changes anything.
func (p *Plan) writes() bool {
	return len(p.Finish)+len(p.Requeue)+len(p.Retry)+len(p.Reject)+len(p.Unblock)+len(p.Claim)+len(p.ForgetCancels)+len(p.ForgetLives) > 0
}

// until is the transaction up to which all must have ended before nothing more can come of what the plan looks for.
func (p *Plan) until() int64 {
	var last uint64
	for _, gap := range p.Gaps {
		last = max(last, gap.until)
	}
	if p.Late != nil {
		last = max(last, p.Late.until)
	}
	return int64(last)
}

// Report is what one tick found. All of it is committed.
type Report struct {
	Finished map[int64]task.State
	Requeued map[int64]task.State
	Retried  map[int64]task.State // waiting, or canceled if somebody wished it meanwhile
	Claimed  map[int64]*Claimed   // by seq
	New      []Row
	Cancels  []int64
	Gone     []Gone
	// Xact is the id of the tick's own transaction, OldestOpen that of the oldest one that was open before the look, or may be:
	// it is not above that of any that may still bring a task.
	Xact, OldestOpen uint64
	// Now is the database's clock at the begin of the transaction, in microseconds since 1970.
	Now int64
	// Due is when the next schedule is due by it, nil if none ever is, or nobody asked.
	Due *int64
}

// Glimpse is what a glance found.
type Glimpse struct {
	// Stirs says that there is something to look for.
	Stirs bool
	// Now is the database's clock, in microseconds since 1970; Due is when the next schedule is due by it, nil if none ever is.
	Now int64
	Due *int64
}

// Gone is a life of an executor that is over.
type Gone struct {
	Incarnation string
	// InOrder says that it ended by its own word. It gives that only when all it had taken over was accepted, so what else it
	// was given it never took.
	InOrder bool
	// Noted says that there is a note of it, to be removed.
	Noted bool
}

// Claimed is a task as its executor gets it.
type Claimed struct {
	Seq, Claim    int64
	Attempt       int32
	Args, Kwargs  string
	CorrelationID string
	Traceparent   string
	Tracestate    string
	GroupID       string
	Options       task.Options
}

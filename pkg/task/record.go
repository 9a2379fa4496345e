package task

import "time"

// Task is one task as it is stored, without its arguments: only who runs it needs those.
type Task struct {
	ID            string
	Seq           int64
	Name          string
	State         State
	Domain        string
	Reserved      Reservation
	Immediate     bool
	Deferred      bool
	Versions      map[string]string
	ParentID      string // "" for none
	GroupID       string // "" for none
	CorrelationID string
	CreatedAt     time.Time
	UpdatedAt     time.Time
	UnblockedAt   *time.Time
	StartedAt     *time.Time
	FinishedAt    *time.Time
	Executor      string // "" before its first start
	Incarnation   string // of the executor (UUID), "" before its first start
	Attempt       int32
	Claim         int64
	Result        string // JSON, "" unless completed
	Error         *Error
	Options       Options
	// RetryAt is when the next attempt begins at the earliest, while the task waits for that.
	RetryAt *time.Time
}

package client

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Retry says which failures are worth another attempt.
type Retry struct {
	// MaxAttempts is how many there are at most, the first one included: 1 to 100.
	MaxAttempts int
	// Backoff is the pause before the second attempt, doubled before each one after it. The pause taken is between half of that
	// and all of it. 0 means a second, a negative one means none.
	Backoff time.Duration
	// MaxBackoff is what the pause does not grow beyond. 0 means a minute, or Backoff if that is longer.
	MaxBackoff time.Duration
	// On are the codes of the errors that are retried; none means all but PERMANENT.
	On []string
}

func (r *Retry) wire() *taskv1.RetryPolicy {
	if r == nil {
		return nil
	}
	// Cut, not wrapped: the server says how many there may be.
	most := int32(max(math.MinInt32, min(r.MaxAttempts, math.MaxInt32)))
	return &taskv1.RetryPolicy{MaxAttempts: most, Backoff: pauseOf(r.Backoff), MaxBackoff: pauseOf(r.MaxBackoff), On: r.On}
}

// pauseOf leaves unset what the server has a default for.
func pauseOf(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(max(d, 0))
}

// fromRetry is the inverse of wire: no pause is a negative one here too.
func fromRetry(r *taskv1.RetryPolicy) *Retry {
	if r == nil {
		return nil
	}
	fromPause := func(d *durationpb.Duration) time.Duration {
		if d != nil && d.AsDuration() == 0 {
			return -1
		}
		return d.AsDuration()
	}
	return &Retry{MaxAttempts: int(r.GetMaxAttempts()), Backoff: fromPause(r.GetBackoff()), MaxBackoff: fromPause(r.GetMaxBackoff()), On: r.GetOn()}
}

// Report is what a task has told of its work.
type Report struct {
	// Progress is how far the parts of its work are, Created what it made, both in the order in which they were first told.
	Progress []Progress
	Created  []Created
}

// Progress is how far one part of a task's work is.
type Progress struct {
	// Code names the part for programs, Message for people; Message may be empty.
	Code, Message string
	// State of the part. What a task that has ended left open has the state of the task.
	State task.State
	// Total is how much there is to do, nil if that is not known. Done is how much is done.
	Total *int64
	Done  int64
	// Suffix says what is counted; it may be empty.
	Suffix string
}

// Created is something that a task made.
type Created struct {
	// Resource is its name.
	Resource string
	// Incomplete: it is not to be used yet.
	Incomplete bool
}

func fromReport(r *statusv1.TaskReport) Report {
	made := Report{Progress: fromProgress(r.GetProgress())}
	for _, c := range r.GetCreated() {
		made.Created = append(made.Created, Created{Resource: c.GetResource(), Incomplete: c.GetIncomplete()})
	}
	return made
}

func fromProgress(parts []*taskv1.Progress) (made []Progress) {
	for _, p := range parts {
		made = append(made, Progress{
			Code: p.GetCode(), Message: p.GetMessage(), State: wire.FromState(p.GetState()), Total: p.Total, Done: p.GetDone(), Suffix: p.GetSuffix(),
		})
	}
	return made
}

// Attempt is one that failed and was retried.
type Attempt struct {
	// Number counts from 1, Claim is the number of its claim.
	Number int
	Claim  int64
	// Executor ran it.
	Executor           string
	StartedAt, EndedAt time.Time
	// Error says why it failed.
	Error *task.Error
}

func fromAttempts(attempts []*statusv1.Attempt) []Attempt {
	var made []Attempt
	for _, a := range attempts {
		made = append(made, Attempt{
			Number: int(a.GetAttempt()), Claim: a.GetClaim(), Executor: a.GetExecutor(),
			StartedAt: a.GetStartedAt().AsTime(), EndedAt: a.GetEndedAt().AsTime(), Error: wire.FromError(a.GetError()),
		})
	}
	return made
}

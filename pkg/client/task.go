package client

import (
	"encoding/json"
	"fmt"
	"time"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Task is a task as it was when the server answered. Times are by the database's clock.
type Task struct {
	// ID is a UUID in lower case.
	ID string
	// Seq is its place in the order of dispatch.
	Seq int64
	// Name says what is run.
	Name string
	// State is where it is in its life.
	State task.State
	// Domain is the tenant it belongs to.
	Domain string
	// Exclusive and Shared are the resources it reserves, its domain among the shared ones.
	Exclusive, Shared []string
	// Immediate and Deferred are as it was dispatched.
	Immediate, Deferred bool
	// Versions maps a component to the lowest version that an executor must have.
	Versions map[string]string
	// ParentID, GroupID and CorrelationID are empty where there is none.
	ParentID, GroupID, CorrelationID string
	// CreatedAt is when it was dispatched, UpdatedAt when its row last changed.
	CreatedAt, UpdatedAt time.Time
	// UnblockedAt is when it had all its resources, StartedAt when an executor was given it, FinishedAt when it reached a
	// final state. Each is nil until then, and for ever if it was skipped.
	UnblockedAt, StartedAt, FinishedAt *time.Time
	// Executor runs or ran it; empty if none did.
	Executor string
	// Attempt counts its starts, Claim is the number of the latest one.
	Attempt int
	Claim   int64
	// Result is what the handler returned, as JSON; nil unless completed.
	Result json.RawMessage
	// Error says why it failed or was canceled; nil otherwise.
	Error *task.Error
	// Timeout, Retry, ProfileOptions and Files are as it was dispatched, with what the server added to Retry.
	Timeout               time.Duration
	Retry                 *Retry
	ProfileOptions, Files []string
	// CreatedBy is the number of the user on whose behalf it was dispatched, 0 if nobody said.
	CreatedBy int64
	// RetryAt is when the next attempt begins at the earliest; nil unless it waits for that.
	RetryAt *time.Time
	// Report is what it has told of its work. Only Get, GetWithChildren, and List with Filter.Reports fill it.
	Report
	// Attempts are those that failed and were retried, the first one first. Only Get and GetWithChildren fill it.
	Attempts []Attempt
}

// MaxAttempts is how many times it is started at most, 1 unless failures are retried.
func (t Task) MaxAttempts() int {
	if t.Retry == nil {
		return 1
	}
	return t.Retry.MaxAttempts
}

// Final reports whether the task never changes again.
func (t Task) Final() bool { return t.State.Final() }

// Err is nil unless the task failed or was canceled; then it says which, and why.
func (t Task) Err() error {
	if t.State != task.Failed && t.State != task.Canceled {
		return nil
	}
	if why := t.Error.String(); why != "" {
		return fmt.Errorf("task %s %s: %s", t.ID, t.State, why)
	}
	return fmt.Errorf("task %s %s", t.ID, t.State)
}

func fromTask(t *taskv1.Task) Task {
	made := Task{
		ID:            t.GetId(),
		Seq:           t.GetSeq(),
		Name:          t.GetName(),
		State:         wire.FromState(t.GetState()),
		Domain:        t.GetDomain(),
		Exclusive:     t.GetExclusiveResources(),
		Shared:        t.GetSharedResources(),
		Immediate:     t.GetImmediate(),
		Deferred:      t.GetDeferred(),
		Versions:      t.GetVersions(),
		ParentID:      t.GetParentId(),
		GroupID:       t.GetGroupId(),
		CorrelationID: t.GetCorrelationId(),
		CreatedAt:     t.GetCreatedAt().AsTime(),
		UpdatedAt:     t.GetUpdatedAt().AsTime(),
		UnblockedAt:   wire.FromTime(t.GetUnblockedAt()),
		StartedAt:     wire.FromTime(t.GetStartedAt()),
		FinishedAt:    wire.FromTime(t.GetFinishedAt()),
		Executor:      t.GetExecutor(),
		Attempt:       int(t.GetAttempt()),
		Claim:         t.GetClaim(),
		Error:         wire.FromError(t.GetError()),

		Timeout:        t.GetTimeout().AsDuration(),
		Retry:          fromRetry(t.GetRetry()),
		ProfileOptions: t.GetProfileOptions(),
		Files:          t.GetFileIds(),
		CreatedBy:      t.GetCreatedBy(),
		RetryAt:        wire.FromTime(t.GetRetryAt()),
	}
	if text := t.GetResultJson(); text != "" {
		made.Result = json.RawMessage(text)
	}
	return made
}

func fromTasks(tasks []*taskv1.Task) []Task {
	made := make([]Task, len(tasks))
	for i, t := range tasks {
		made[i] = fromTask(t)
	}
	return made
}

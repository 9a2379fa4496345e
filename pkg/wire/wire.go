// Package wire translates the shared nouns between their form on the wire (pkg/pb) and the words of pkg/task.
//
// # Owns
//
// The mapping of states, errors and times. Both directions are total: what the other side can't say becomes the zero value.
//
// # Failure
//
// None: validity is the business of pkg/limits, which looks at requests before anything here does.
package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// State gives a state its number on the wire.
func State(s task.State) taskv1.State {
	switch s {
	case task.Waiting:
		return taskv1.State_STATE_WAITING
	case task.Skipped:
		return taskv1.State_STATE_SKIPPED
	case task.Running:
		return taskv1.State_STATE_RUNNING
	case task.Completed:
		return taskv1.State_STATE_COMPLETED
	case task.Failed:
		return taskv1.State_STATE_FAILED
	case task.Canceled:
		return taskv1.State_STATE_CANCELED
	case task.Canceling:
		return taskv1.State_STATE_CANCELING
	default:
		return taskv1.State_STATE_UNSPECIFIED
	}
}

// FromState is the inverse of State; "" for a number that is no state.
func FromState(s taskv1.State) task.State {
	switch s {
	case taskv1.State_STATE_WAITING:
		return task.Waiting
	case taskv1.State_STATE_SKIPPED:
		return task.Skipped
	case taskv1.State_STATE_RUNNING:
		return task.Running
	case taskv1.State_STATE_COMPLETED:
		return task.Completed
	case taskv1.State_STATE_FAILED:
		return task.Failed
	case taskv1.State_STATE_CANCELED:
		return task.Canceled
	case taskv1.State_STATE_CANCELING:
		return task.Canceling
	case taskv1.State_STATE_UNSPECIFIED:
		return ""
	default:
		return ""
	}
}

// Error puts a task's error on the wire; nil stays nil.
func Error(e *task.Error) *taskv1.TaskError {
	if e == nil {
		return nil
	}
	return &taskv1.TaskError{Description: e.Description, Traceback: e.Traceback, Reason: e.Reason, Code: e.Code}
}

// FromError is the inverse of Error.
func FromError(e *taskv1.TaskError) *task.Error {
	if e == nil {
		return nil
	}
	return &task.Error{Description: e.GetDescription(), Traceback: e.GetTraceback(), Reason: e.GetReason(), Code: e.GetCode()}
}

// Time puts a time on the wire; one that has not come yet stays unset.
func Time(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// FromTime is the inverse of Time.
func FromTime(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

// Task puts a task on the wire.
func Task(t *task.Task) *taskv1.Task {
	return &taskv1.Task{
		Id:                 t.ID,
		Seq:                t.Seq,
		Name:               t.Name,
		State:              State(t.State),
		Domain:             t.Domain,
		ExclusiveResources: t.Reserved.Exclusive,
		SharedResources:    t.Reserved.Shared,
		Immediate:          t.Immediate,
		Deferred:           t.Deferred,
		Versions:           t.Versions,
		ParentId:           t.ParentID,
		GroupId:            t.GroupID,
		CorrelationId:      t.CorrelationID,
		CreatedAt:          timestamppb.New(t.CreatedAt),
		UpdatedAt:          timestamppb.New(t.UpdatedAt),
		UnblockedAt:        Time(t.UnblockedAt),
		StartedAt:          Time(t.StartedAt),
		FinishedAt:         Time(t.FinishedAt),
		Executor:           t.Executor,
		Incarnation:        t.Incarnation,
		Attempt:            t.Attempt,
		Claim:              t.Claim,
		ResultJson:         t.Result,
		Error:              Error(t.Error),
		Timeout:            Duration(t.Options.Timeout),
		Retry:              Retry(t.Options.Retry),
		RetryAt:            Time(t.RetryAt),
		ProfileOptions:     t.Options.Profile,
		FileIds:            t.Options.Files,
		CreatedBy:          t.Options.CreatedBy,
	}
}

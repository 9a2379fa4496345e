package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// errNoGroup is what one gets who wants to add to the progress of a group that there is not.
var errNoGroup = errors.New("the task is in no group")

// GroupProgress is what the running task has added to one part of the progress of its task group, which is the sum of what all members
// have added. Its methods are safe for concurrent use and cheap: changes are collected and sent a few times a second, the last ones
// before the end of the task is reported. All of them do nothing on a nil GroupProgress.
//
// What a run has added stays, however it ends and also when its task is removed; but when the task is tried again, the next attempt
// begins with nothing, and what this one added no longer counts.
type GroupProgress struct {
	report *report

	// Under the lock of the report.
	state  *taskv1.GroupProgress
	marked bool // it is to be sent
}

// NewGroupProgress adds the total of a part to the progress of the running task's group, and returns what adds to what is done of it.
// Whoever has the whole of the work in view can add the total, and all members what they did of it, with a total of 0. Asked for again
// with the same code, it adds its total and returns the same GroupProgress. A task adds to at most 100 parts. Message and suffix are
// those that a member said first.
//
// With an error, as there is for a task without a group, it returns nil, which is as good as any other GroupProgress, but goes nowhere.
func NewGroupProgress(ctx context.Context, part Part) (*GroupProgress, error) {
	s, inside := scopeOf(ctx)
	if !inside || s.report == nil {
		return nil, fmt.Errorf("report progress of the group: %w", errOutside)
	}
	if s.task.GroupID == "" {
		return nil, fmt.Errorf("report progress of the group: %w", errNoGroup)
	}
	state := &taskv1.GroupProgress{Code: part.Code, Message: part.Message, Total: part.Total, Suffix: part.Suffix}
	if err := limits.CheckGroupProgress(state); err != nil {
		return nil, fmt.Errorf("report progress of the group: %w", err)
	}
	p, err := s.report.join(&GroupProgress{report: s.report, state: state})
	if err != nil {
		return nil, fmt.Errorf("report progress of the group: %w", err)
	}
	return p, nil
}

// Add adds to what is done. A negative number takes back what this run added before, and nothing else.
func (p *GroupProgress) Add(n int64) {
	p.change(func(state *taskv1.GroupProgress) { state.Done = counted(state.GetDone(), n) })
}

// AddTotal adds to what there is to do, or takes back.
func (p *GroupProgress) AddTotal(n int64) {
	p.change(func(state *taskv1.GroupProgress) { state.Total = counted(state.GetTotal(), n) })
}

// counted is a sum between nothing and the most that is counted.
func counted(before, n int64) int64 {
	if n > limits.MaxCounted-before {
		return limits.MaxCounted
	}
	return max(0, before+n)
}

func (p *GroupProgress) change(apply func(state *taskv1.GroupProgress)) {
	if p == nil {
		return
	}
	p.report.mu.Lock()
	defer p.report.mu.Unlock()
	apply(p.state)
	p.report.addedLocked(p)
}

package worker

import (
	"context"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// Part is one part of a task's work, of which people want to know how far it is.
type Part struct {
	// Code names it for programs: 1 to 255 bytes without control characters, for example "sync.downloading".
	Code string
	// Message names it for people, at most 1,024 bytes without control characters.
	Message string
	// Total is how much there is to do. 0: that is not known yet.
	Total int64
	// Suffix is what is counted, for people: at most 255 bytes without control characters, for example "bytes".
	Suffix string
}

// Progress is how far a part is. Its methods are safe for concurrent use and cheap: changes are collected and sent a few times
// a second, the last ones before the end of the task is reported. All of them do nothing on a nil Progress.
type Progress struct {
	report *report

	// Under the lock of the report.
	state  *taskv1.Progress
	marked bool // it is to be sent
}

// NewProgress begins a part of the running task's work. It replaces an older part with the same code, which has no say any
// more. A task has at most 100 parts. What is not done or failed when the handler returns gets the task's own end.
//
// With an error it returns nil, which is as good as any other Progress, but goes nowhere.
func NewProgress(ctx context.Context, part Part) (*Progress, error) {
	s, inside := scopeOf(ctx)
	if !inside || s.report == nil {
		return nil, fmt.Errorf("report progress: %w", errOutside)
	}
	state := &taskv1.Progress{
		Code: part.Code, Message: part.Message, State: taskv1.State_STATE_RUNNING, Suffix: part.Suffix,
	}
	if part.Total != 0 {
		state.Total = proto.Int64(part.Total)
	}
	if err := limits.CheckProgress(state); err != nil {
		return nil, fmt.Errorf("report %w", err)
	}
	p := &Progress{report: s.report, state: state}
	if err := s.report.add(p); err != nil {
		return nil, fmt.Errorf("report progress: %w", err)
	}
	return p, nil
}

// Add adds to what is done. More than the total may be done; less than nothing can't.
func (p *Progress) Add(n int64) {
	p.change(func(state *taskv1.Progress) {
		if done := state.GetDone(); n > math.MaxInt64-done {
			state.Done = math.MaxInt64
		} else {
			state.Done = max(0, done+n)
		}
	})
}

// Set says how much is done, at least 0.
func (p *Progress) Set(done int64) {
	p.change(func(state *taskv1.Progress) { state.Done = max(0, done) })
}

// SetTotal says how much there is to do. A negative number: that is not known.
func (p *Progress) SetTotal(total int64) {
	p.change(func(state *taskv1.Progress) {
		state.Total = nil
		if total >= 0 {
			state.Total = proto.Int64(total)
		}
	})
}

// SetSuffix says what is counted. A text that breaks the rule of [Part] changes nothing.
func (p *Progress) SetSuffix(suffix string) error {
	if err := limits.CheckProgress(&taskv1.Progress{Code: "x", Suffix: suffix}); err != nil {
		return fmt.Errorf("report %w", err)
	}
	p.change(func(state *taskv1.Progress) { state.Suffix = suffix })
	return nil
}

// Done says that the part is complete. Nothing changes it afterwards.
func (p *Progress) Done() { p.end(taskv1.State_STATE_COMPLETED) }

// Fail says that the part failed. Nothing changes it afterwards. The task may go on.
func (p *Progress) Fail() { p.end(taskv1.State_STATE_FAILED) }

func (p *Progress) end(how taskv1.State) {
	p.change(func(state *taskv1.Progress) { state.State = how })
}

func (p *Progress) change(apply func(state *taskv1.Progress)) {
	if p == nil {
		return
	}
	p.report.mu.Lock()
	defer p.report.mu.Unlock()
	if p.state.GetState() != taskv1.State_STATE_RUNNING {
		return
	}
	apply(p.state)
	p.report.changeLocked(p)
}

// copyLocked is the state as it is now, for others to keep.
func (p *Progress) copyLocked() *taskv1.Progress { return proto.CloneOf(p.state) }

// Creating says, before the running task makes a resource, that it is going to: until [Created] says that it is complete it is
// not to be used. If the task does not complete, however it ends, the executor has it deleted by what the handler declared
// with [Discards]; only when the executor itself dies it stays, incomplete. Resource is a path of the application's API or
// another name that it knows: 1 to 1,024 bytes without control characters. A task can name 1,000.
func Creating(ctx context.Context, resource string) error { return create(ctx, resource, true) }

// Created says that the running task has made a resource, and that it is complete: it stays, however the task ends.
func Created(ctx context.Context, resource string) error { return create(ctx, resource, false) }

func create(ctx context.Context, resource string, incomplete bool) error {
	s, inside := scopeOf(ctx)
	if !inside || s.report == nil || s.calls == nil {
		return fmt.Errorf("report a created resource: %w", errOutside)
	}
	if err := limits.CheckCreated(resource); err != nil {
		return fmt.Errorf("report a created resource: %w", err)
	}
	if err := s.report.make(&taskv1.CreatedResource{Resource: resource, Incomplete: incomplete}); err != nil {
		return fmt.Errorf("report a created resource: %w", err)
	}
	return nil
}

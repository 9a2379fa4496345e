package status

import (
	"context"
	"slices"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// ReportDatabase is the SQL for what tasks tell of their work.
type ReportDatabase interface {
	PutReport(ctx context.Context, id string, r Report, discarded []string) error
}

// Report is what a task has told of its work.
type Report struct {
	// Claim is that of the run that told the progress. What was created is of all runs.
	Claim    int64
	Progress []Progress
	Created  []Created
	// Group is all that the run has added to the progress of its group. It is stored, and not read again.
	Group []GroupPart
	// bytes is about what it takes in a message.
	bytes int
}

// Progress is how far one part of a task's work is, in the form in which it is stored.
type Progress struct {
	Code    string     `json:"code"`
	Message string     `json:"message,omitempty"`
	State   task.State `json:"state,omitempty"`
	Total   *int64     `json:"total,omitempty"`
	Done    int64      `json:"done,omitempty"`
	Suffix  string     `json:"suffix,omitempty"`
}

// Created is something that a task made, in the form in which it is stored.
type Created struct {
	Resource   string `json:"resource"`
	Incomplete bool   `json:"incomplete,omitempty"`
}

// GroupPart is what a run has added to one part of the progress of its group, in the form in which it is stored. Numbers stand there
// even if they are zero: that is how the database tells a part that is new.
type GroupPart struct {
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
	Suffix  string `json:"suffix,omitempty"`
	Total   int64  `json:"total"`
	Done    int64  `json:"done"`
}

// PutTaskReport stores what a run has told.
func (s server) PutTaskReport(ctx context.Context, req *statusv1.PutTaskReportRequest) (*statusv1.PutTaskReportResponse, error) {
	if err := s.service.db.PutReport(ctx, req.GetTaskId(), reportOf(req), req.GetDiscarded()); err != nil {
		return nil, err
	}
	return &statusv1.PutTaskReportResponse{}, nil
}

// reportOf takes a report from the wire. The statement that stores it relies on each name and each code standing there once.
func reportOf(req *statusv1.PutTaskReportRequest) Report {
	r := Report{Claim: req.GetClaim(), Progress: []Progress{}, Created: []Created{}, Group: groupParts(req.GetGroupProgress())}
	for _, p := range req.GetProgress() {
		r.Progress = append(r.Progress, Progress{
			Code: p.GetCode(), Message: p.GetMessage(), State: wire.FromState(p.GetState()), Total: p.Total, Done: p.GetDone(), Suffix: p.GetSuffix(),
		})
	}
	places := map[string]int{}
	for _, made := range req.GetCreated() {
		place, again := places[made.GetResource()]
		switch {
		case again:
			r.Created[place].Incomplete = made.GetIncomplete()
		case !slices.Contains(req.GetDiscarded(), made.GetResource()):
			places[made.GetResource()] = len(r.Created)
			r.Created = append(r.Created, Created{Resource: made.GetResource(), Incomplete: made.GetIncomplete()})
		}
	}
	return r
}

// onWire shows the report of a task as it is now; nil for a task that has told nothing.
func (r *Report) onWire(t *task.Task) *statusv1.TaskReport {
	if r == nil {
		return nil
	}
	shown := &statusv1.TaskReport{}
	end := r.end(t)
	for _, p := range r.Progress {
		state := p.State
		if state == "" {
			state = task.Running
		}
		if end != "" && !state.Final() {
			state = end
		}
		shown.Progress = append(shown.Progress, &taskv1.Progress{
			Code: p.Code, Message: p.Message, State: wire.State(state), Total: p.Total, Done: p.Done, Suffix: p.Suffix,
		})
	}
	for _, made := range r.Created {
		shown.Created = append(shown.Created, &taskv1.CreatedResource{Resource: made.Resource, Incomplete: made.Incomplete})
	}
	return shown
}

// end is how the run ended that told the progress, "" while it goes on. A run that was killed could not tell it itself.
func (r *Report) end(t *task.Task) task.State {
	switch {
	case r.Claim > t.Claim: // it began after the task was read
		return ""
	case r.Claim < t.Claim, t.State == task.Waiting:
		return task.Failed // or there would be no other attempt
	case t.State.Final():
		return t.State
	default:
		return ""
	}
}

// room is how many of the tasks a page holds: the first one always, and others until half of a message is full.
func room(tasks []*task.Task, reports map[string]*Report) int {
	bytes := 0
	for i, t := range tasks {
		if bytes > pageBytes {
			return i
		}
		bytes += weight(t)
		if r := reports[t.ID]; r != nil {
			bytes += r.bytes
		}
	}
	return len(tasks)
}

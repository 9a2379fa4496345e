package gateway

import (
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// apiVersion is the REST version that every task was dispatched with; there is no other yet.
const apiVersion = "v3"

// task shows a task as Pulp does.
func (h hrefs) task(all *statusv1.GetTaskResponse) *pulpv3.Task {
	t := all.GetTask()
	shown := &pulpv3.Task{
		PulpHref:                h.of(collectionTasks, t.GetId()),
		Prn:                     prn(modelTask, t.GetId()),
		PulpCreated:             t.GetCreatedAt(),
		PulpLastUpdated:         t.GetUpdatedAt(),
		State:                   string(wire.FromState(t.GetState())),
		Name:                    t.GetName(),
		LoggingCid:              t.GetCorrelationId(),
		CreatedBy:               h.user(t.GetCreatedBy()),
		UnblockedAt:             t.GetUnblockedAt(),
		StartedAt:               t.GetStartedAt(),
		FinishedAt:              t.GetFinishedAt(),
		Error:                   shownError(t.GetState(), t.GetError()),
		Worker:                  h.optional(collectionWorkers, t.GetIncarnation()),
		ParentTask:              h.optional(collectionTasks, t.GetParentId()),
		TaskGroup:               h.optional(collectionGroups, t.GetGroupId()),
		ReservedResourcesRecord: task.Reservation{Exclusive: t.GetExclusiveResources(), Shared: t.GetSharedResources()}.Record(),
		PulpApiVersion:          apiVersion,
		Timeout:                 seconds(t.GetTimeout()),
		Retry:                   shownRetry(t.GetRetry()),
		RetryAt:                 t.GetRetryAt(),
		Attempt:                 t.GetAttempt(),
		Attempts:                shownAttempts(all.GetAttempts()),
		ProfileOptions:          t.GetProfileOptions(),
		Files:                   t.GetFileIds(),
	}
	for _, p := range all.GetReport().GetProgress() {
		shown.ProgressReports = append(shown.ProgressReports, shownProgress(p))
	}
	for _, made := range all.GetReport().GetCreated() {
		addCreated(shown, made)
	}
	for _, child := range all.GetChildIds() {
		shown.ChildTasks = append(shown.ChildTasks, h.of(collectionTasks, child))
	}
	if result := t.GetResultJson(); result != "" {
		shown.Result = &pulpv3.Json{Text: result}
	}
	return shown
}

// minimal shows a task as a member of a group.
func (h hrefs) minimal(t *taskv1.Task) *pulpv3.MinimalTask {
	full := h.task(&statusv1.GetTaskResponse{Task: t})
	return &pulpv3.MinimalTask{
		PulpHref: full.GetPulpHref(), Prn: full.GetPrn(), PulpCreated: full.GetPulpCreated(),
		PulpLastUpdated: full.GetPulpLastUpdated(), PulpApiVersion: full.GetPulpApiVersion(), Name: full.GetName(),
		State: full.GetState(), UnblockedAt: full.GetUnblockedAt(), StartedAt: full.GetStartedAt(),
		FinishedAt: full.GetFinishedAt(), Worker: full.Worker,
	}
}

// shownError is the error of a task. Pulp's command line stops with a traceback of its own when a failed or canceled task
// has none, and one web client only reads the description: so both states always have an object with a description.
func shownError(at taskv1.State, cause *taskv1.TaskError) *pulpv3.Json {
	state := wire.FromState(at)
	if state != task.Failed && state != task.Canceled {
		return nil
	}
	var shown struct {
		Reason      string  `json:"reason,omitempty"`
		Description string  `json:"description"`
		Traceback   *string `json:"traceback,omitempty"`
		ErrorCode   string  `json:"error_code,omitempty"`
	}
	shown.Reason, shown.Description, shown.ErrorCode = cause.GetReason(), cause.GetDescription(), cause.GetCode()
	switch {
	case shown.Description != "":
		traceback := cause.GetTraceback()
		shown.Traceback = &traceback
	case shown.Reason != "":
		shown.Description = shown.Reason
	case state == task.Canceled:
		shown.Reason, shown.Description = task.ReasonCanceled, task.ReasonCanceled
	default:
		shown.Description = "The task failed without saying why."
	}
	text, err := marshalJSON(shown)
	if err != nil {
		return &pulpv3.Json{Text: `{"description":"The error can't be shown."}`}
	}
	return &pulpv3.Json{Text: string(text)}
}

// worker shows an executor as a worker of Pulp.
func (h hrefs) worker(app *heartbeatv1.App) *pulpv3.Worker {
	shown := &pulpv3.Worker{
		PulpHref:        h.of(collectionWorkers, app.GetIncarnation()),
		Prn:             prn(modelWorker, app.GetIncarnation()),
		PulpCreated:     app.GetRegisteredAt(),
		PulpLastUpdated: app.GetLastBeatAt(),
		Name:            app.GetName(),
		LastHeartbeat:   app.GetLastBeatAt(),
		Versions:        app.GetVersions(),
	}
	if running := app.GetRunningTaskIds(); len(running) > 0 {
		shown.CurrentTask = h.optional(collectionTasks, running[0])
	}
	return shown
}

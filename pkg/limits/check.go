package limits

import (
	"maps"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// Check returns InvalidArgument with field violations when a request to one of Sluice's own services breaks a rule. A
// request type that it does not know is let pass: a test walks all services and makes sure that there is none.
func Check(request proto.Message) error {
	c := &checks{}
	c.request(request)
	return c.err()
}

// CheckOutcome returns InvalidArgument when an outcome breaks a rule that the report of it would be refused for.
func CheckOutcome(outcome *taskv1.Outcome) error {
	c := &checks{}
	c.outcome(at("outcome"), outcome)
	return c.err()
}

// request knows every request of every service; it reports false for a message that it does not know.
func (c *checks) request(request proto.Message) bool {
	switch r := request.(type) {
	case *dispatcherv1.DispatchRequest:
		c.spec(at("task"), r.GetTask())
	case *dispatcherv1.DispatchBatchRequest:
		c.within(at("tasks"), int64(len(r.GetTasks())), 1, MaxBatch)
		for i, spec := range r.GetTasks() {
			c.spec(at("tasks").item(i), spec)
		}
	case *dispatcherv1.CancelRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *dispatcherv1.DeleteRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *dispatcherv1.PurgeTasksRequest:
		c.purge(r)
	case *dispatcherv1.CreateTaskGroupRequest:
		c.text(at("description"), r.GetDescription(), MaxDescription)
	case *dispatcherv1.CancelTaskGroupRequest:
		c.id(at("group_id"), r.GetGroupId())
	case *dispatcherv1.CreateTaskScheduleRequest:
		c.schedule(r.GetSchedule())
	case *dispatcherv1.GetTaskScheduleRequest:
		c.id(at("schedule_id"), r.GetScheduleId())
	case *dispatcherv1.DeleteTaskScheduleRequest:
		c.id(at("schedule_id"), r.GetScheduleId())

	case *accessv1.AuthenticateRequest:
		c.credentials(r)
	case *accessv1.CreateTokenRequest:
		c.within(at("user_id"), r.GetUserId(), 1, math.MaxInt64)
	case *accessv1.DeleteTokenRequest:
		c.label(at("token"), r.GetToken(), MaxToken)
	case *accessv1.CreateUserRequest:
		c.username(at("username"), r.GetUsername())
		c.newPassword(at("password"), r.GetUsername(), r.GetPassword())
	case *accessv1.SetPasswordRequest:
		c.username(at("username"), r.GetUsername())
		c.newPassword(at("password"), r.GetUsername(), r.GetPassword())
	case *accessv1.DeleteUserRequest:
		c.username(at("username"), r.GetUsername())

	case *dispatcherv1.PutFileRequest:
		c.fileName(at("name"), r.GetName())
		c.within(at("data"), int64(len(r.GetData())), 0, MaxFilePart)
	case *dispatcherv1.GetFileRequest:
		c.id(at("file_id"), r.GetFileId())
	case *dispatcherv1.DeleteFileRequest:
		c.id(at("file_id"), r.GetFileId())

	case *executorv1.WorkRequest:
		c.work(r)

	case *schedulerv1.OfferRequest:
		c.ids(at("settle_task_ids"), r.GetSettleTaskIds(), 0)
		c.offered(r.GetTasks())
	case *schedulerv1.AcquireRequest:
		c.acquire(r)
	case *schedulerv1.ExplainRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *schedulerv1.ListResourcesRequest:
		c.within(at("page_size"), int64(r.GetPageSize()), 0, MaxPage)
	case *schedulerv1.GetResourceRequest:
		c.label(at("name"), r.GetName(), MaxResourceName)
		c.within(at("page_size"), int64(r.GetPageSize()), 0, MaxPage)

	case *statusv1.GetTaskRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *statusv1.ListTasksRequest:
		c.list(r)
	case *statusv1.WaitTasksRequest:
		c.ids(at("task_ids"), r.GetTaskIds(), 1)
		c.span(at("timeout"), r.GetTimeout(), 0, MaxWait)
	case *statusv1.WatchTaskRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *statusv1.AwaitTasksRequest:
		c.filter(at("filter"), r.GetFilter())
		c.span(at("timeout"), r.GetTimeout(), 0, MaxWait)
	case *statusv1.WatchTasksRequest:
		c.filter(at("filter"), r.GetFilter())
		c.text(at("resume"), r.GetResume(), MaxName)
	case *statusv1.ListTaskGroupsRequest:
		c.within(at("page_size"), int64(r.GetPageSize()), 0, MaxPage)
		c.within(at("offset"), int64(r.GetOffset()), 0, MaxOffset)
	case *statusv1.PutTaskArtifactRequest:
		c.artifact(r)
	case *statusv1.ListTaskArtifactsRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *statusv1.GetTaskArtifactRequest:
		c.id(at("task_id"), r.GetTaskId())
		c.label(at("name"), r.GetName(), MaxProfile)
		c.label(at("key"), r.GetKey(), MaxToken)
	case *statusv1.GetTaskGroupRequest:
		c.id(at("group_id"), r.GetGroupId())
	case *statusv1.GetTaskLogRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *statusv1.FollowTaskLogRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *statusv1.PutTaskLogRequest:
		c.id(at("task_id"), r.GetTaskId())
		c.within(at("claim"), r.GetClaim(), 1, 1<<62)
		c.size(at("text"), r.GetText(), MaxLog)
		c.within(at("written"), r.GetWritten(), 0, math.MaxInt64)
	case *statusv1.PutTaskReportRequest:
		c.taskReport(r)
	case *statusv1.GetStatsRequest:
		c.text(at("name"), r.GetName(), MaxName)
		c.span(at("since"), r.GetSince(), MinSince, MaxSince)
		c.text(at("domain"), r.GetDomain(), MaxName)

	case *heartbeatv1.RegisterRequest:
		c.register(r)
	case *heartbeatv1.BeatRequest:
		c.id(at("incarnation"), r.GetIncarnation())
		if h := r.GetHearing(); h != nil {
			c.within(at("hearing.epoch"), h.GetEpoch(), 1, math.MaxInt64)
			if h.GetSilentFor() == nil {
				c.fail(at("hearing.silent_for"), "is required")
			}
			c.span(at("hearing.silent_for"), h.GetSilentFor(), 0, maxSilence)
		}
	case *heartbeatv1.DeregisterRequest:
		c.id(at("incarnation"), r.GetIncarnation())
	case *heartbeatv1.ListAppsRequest:
		if _, known := heartbeatv1.Kind_name[int32(r.GetKind())]; !known {
			c.fail(at("kind"), "must be a known kind, is %d", r.GetKind())
		}

	case *schedulerv1.WatchLeadershipRequest, *schedulerv1.FollowRequest, *executorv1.ListRunningRequest, *executorv1.DrainRequest,
		*schedulerv1.GetLoadRequest, *schedulerv1.ListLatenciesRequest,
		*statusv1.GetSystemStatusRequest, *dispatcherv1.ListTaskSchedulesRequest, *accessv1.ListUsersRequest:
		// Nothing in them.
	default:
		return false
	}
	return true
}

func (c *checks) spec(at path, spec *taskv1.TaskSpec) {
	if spec == nil {
		c.fail(at, "is required")
		return
	}
	c.label(at.dot("name"), spec.GetName(), MaxName)
	c.json(at.dot("args_json"), spec.GetArgsJson(), '[')
	c.json(at.dot("kwargs_json"), spec.GetKwargsJson(), '{')
	if total := len(spec.GetExclusiveResources()) + len(spec.GetSharedResources()); total > MaxResources {
		c.fail(at.dot("exclusive_resources"), "and shared_resources must have at most %d entries together, have %d", MaxResources, total)
	} else {
		for i, name := range spec.GetExclusiveResources() {
			c.resource(at.dot("exclusive_resources").item(i), name)
		}
		for i, name := range spec.GetSharedResources() {
			c.resource(at.dot("shared_resources").item(i), name)
		}
	}
	if spec.Deferred != nil && !spec.GetDeferred() && !spec.GetImmediate() {
		c.fail(at.dot("deferred"), "must not be false unless immediate is true: a task must be at least one of immediate and deferred")
	}
	c.versions(at.dot("versions"), spec.GetVersions())
	c.optionalID(at.dot("parent_id"), spec.GetParentId())
	c.text(at.dot("request_id"), spec.GetRequestId(), MaxRequestID)
	c.optionalID(at.dot("group_id"), spec.GetGroupId())
	c.text(at.dot("correlation_id"), spec.GetCorrelationId(), MaxCorrelationID)
	c.span(at.dot("timeout"), spec.GetTimeout(), MinTimeout, MaxTimeout)
	if spec.GetRetry() != nil && spec.GetImmediate() {
		c.fail(at.dot("retry"), "must not be set for an immediate task, whose client waits")
	}
	c.retry(at.dot("retry"), spec.GetRetry())
	c.within(at.dot("profile_options"), int64(len(spec.GetProfileOptions())), 0, MaxProfiles)
	for i, option := range spec.GetProfileOptions() {
		c.label(at.dot("profile_options").item(i), option, MaxProfile)
	}
	c.within(at.dot("file_ids"), int64(len(spec.GetFileIds())), 0, MaxFiles)
	for i, id := range spec.GetFileIds() {
		c.id(at.dot("file_ids").item(i), id)
	}
	c.within(at.dot("created_by"), spec.GetCreatedBy(), 0, math.MaxInt64)
}

func (c *checks) retry(at path, r *taskv1.RetryPolicy) {
	if r == nil {
		return
	}
	c.within(at.dot("max_attempts"), int64(r.GetMaxAttempts()), 1, MaxAttempts)
	c.span(at.dot("backoff"), r.GetBackoff(), 0, MaxBackoff)
	c.span(at.dot("max_backoff"), r.GetMaxBackoff(), 0, MaxBackoff)
	c.within(at.dot("on"), int64(len(r.GetOn())), 0, MaxRetryCodes)
	for i, code := range r.GetOn() {
		c.code(at.dot("on").item(i), code)
	}
}

// code checks the code of an error.
func (c *checks) code(at path, code string) {
	if code == "" || len(code) > MaxCode || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		c.fail(at, "must be 1 to %d capital letters, digits and underscores", MaxCode)
	}
}

func (c *checks) fileName(at path, name string) {
	c.text(at, name, MaxName)
	if name == "." || name == ".." || strings.Contains(name, "/") {
		c.fail(at, "must be the name of a file, without a slash")
	}
}

// work checks what a worker says. Outcomes and what calls ask for are not looked at, see CheckOutcome and CheckCall: one that
// breaks a rule fails its task or is answered, and must not end the stream that others share.
func (c *checks) work(r *executorv1.WorkRequest) {
	switch m := r.GetMessage().(type) {
	case *executorv1.WorkRequest_Hello:
		c.workerHello(m.Hello)
	case *executorv1.WorkRequest_Started:
		c.id(at("started.task_id"), m.Started.GetTaskId())
	case *executorv1.WorkRequest_Ended:
		c.id(at("ended.task_id"), m.Ended.GetTaskId())
	case *executorv1.WorkRequest_Progress:
		c.id(at("progress.task_id"), m.Progress.GetTaskId())
		c.progress(at("progress.progress"), m.Progress.GetProgress())
	case *executorv1.WorkRequest_GroupProgress:
		c.id(at("group_progress.task_id"), m.GroupProgress.GetTaskId())
		c.groupProgress(at("group_progress.progress"), m.GroupProgress.GetProgress())
	case *executorv1.WorkRequest_Log:
		c.id(at("log.task_id"), m.Log.GetTaskId())
		c.size(at("log.text"), m.Log.GetText(), MaxLogText)
	case *executorv1.WorkRequest_Created:
		c.id(at("created.task_id"), m.Created.GetTaskId())
		c.label(at("created.created.resource"), m.Created.GetCreated().GetResource(), MaxResourceName)
	case *executorv1.WorkRequest_Call:
		c.id(at("call.task_id"), m.Call.GetTaskId())
	case *executorv1.WorkRequest_Discarded:
		c.id(at("discarded.task_id"), m.Discarded.GetTaskId())
		c.notDiscarded(at("discarded.failed"), m.Discarded.GetFailed())
	case *executorv1.WorkRequest_Drain:
	default:
		c.fail(at("message"), "is required")
	}
}

func (c *checks) workerHello(h *executorv1.WorkerHello) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	if len(h.GetName()) > MaxWorkerName || strings.Trim(h.GetName(), letters) != "" {
		c.fail(at("hello.name"), "must be at most %d letters, digits, hyphens, underscores and dots", MaxWorkerName)
	}
	c.within(at("hello.handlers"), int64(len(h.GetHandlers())), 1, MaxTaskNames)
	known := make(map[string]bool, len(h.GetHandlers()))
	for i, handler := range h.GetHandlers() {
		each := at("hello.handlers").item(i)
		c.label(each.dot("name"), handler.GetName(), MaxName)
		c.span(each.dot("timeout"), handler.GetTimeout(), 0, MaxTimeout)
		if known[handler.GetName()] {
			c.fail(each.dot("name"), "must not be given twice: %.40q", handler.GetName())
		}
		known[handler.GetName()] = true
	}
	c.within(at("hello.slots"), int64(h.GetSlots()), 0, MaxSlots)
	c.within(at("hello.immediate_slots"), int64(h.GetImmediateSlots()), 0, MaxSlots)
	c.versions(at("hello.versions"), h.GetVersions())
}

// notDiscarded checks reasons by names. They end in a log; what a handler says there may have several lines.
func (c *checks) notDiscarded(at path, failed map[string]string) {
	c.within(at, int64(len(failed)), 0, MaxCreated)
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		c.label(at.entry(name), name, MaxResourceName)
		c.size(at.entry(name), failed[name], MaxErrorText)
	}
}

// CheckCall returns InvalidArgument when a call asks for something that breaks a rule.
func CheckCall(call *executorv1.Call) error {
	c := &checks{}
	switch r := call.GetRequest().(type) {
	case *executorv1.Call_Dispatch:
		c.spec(at("dispatch"), r.Dispatch)
	case *executorv1.Call_NewGroup:
		c.text(at("new_group.description"), r.NewGroup.GetDescription(), MaxDescription)
	case *executorv1.Call_KeepFile:
		c.label(at("keep_file.path"), r.KeepFile.GetPath(), MaxPath)
	case *executorv1.Call_FetchFile:
		c.id(at("fetch_file.file_id"), r.FetchFile.GetFileId())
	default:
		c.fail(at("request"), "is required")
	}
	return c.err()
}

func (c *checks) progress(at path, p *taskv1.Progress) {
	c.label(at.dot("code"), p.GetCode(), MaxName)
	c.text(at.dot("message"), p.GetMessage(), MaxMessageText)
	if _, known := taskv1.State_name[int32(p.GetState())]; !known {
		c.fail(at.dot("state"), "must be a known state, is %d", p.GetState())
	}
	c.within(at.dot("total"), p.GetTotal(), 0, math.MaxInt64)
	c.within(at.dot("done"), p.GetDone(), 0, math.MaxInt64)
	c.text(at.dot("suffix"), p.GetSuffix(), MaxName)
}

// CheckProgress returns InvalidArgument when a report of progress breaks a rule.
func CheckProgress(p *taskv1.Progress) error {
	c := &checks{}
	c.progress(at("progress"), p)
	return c.err()
}

// CheckCreated returns InvalidArgument when the name of what a task made breaks a rule.
func CheckCreated(resource string) error {
	c := &checks{}
	c.label(at("resource"), resource, MaxResourceName)
	return c.err()
}

func (c *checks) taskReport(r *statusv1.PutTaskReportRequest) {
	c.id(at("task_id"), r.GetTaskId())
	c.within(at("claim"), r.GetClaim(), 1, 1<<62)
	c.within(at("progress"), int64(len(r.GetProgress())), 0, MaxParts)
	for i, p := range r.GetProgress() {
		c.progress(at("progress").item(i), p)
	}
	c.within(at("created"), int64(len(r.GetCreated())), 0, MaxCreated)
	for i, made := range r.GetCreated() {
		c.label(at("created").item(i).dot("resource"), made.GetResource(), MaxResourceName)
	}
	c.within(at("discarded"), int64(len(r.GetDiscarded())), 0, MaxCreated)
	for i, name := range r.GetDiscarded() {
		c.label(at("discarded").item(i), name, MaxResourceName)
	}
	c.within(at("group_progress"), int64(len(r.GetGroupProgress())), 0, MaxParts)
	for i, p := range r.GetGroupProgress() {
		c.groupProgress(at("group_progress").item(i), p)
	}
}

func (c *checks) groupProgress(at path, p *taskv1.GroupProgress) {
	c.label(at.dot("code"), p.GetCode(), MaxName)
	c.text(at.dot("message"), p.GetMessage(), MaxMessageText)
	c.within(at.dot("total"), p.GetTotal(), 0, MaxCounted)
	c.within(at.dot("done"), p.GetDone(), 0, MaxCounted)
	c.text(at.dot("suffix"), p.GetSuffix(), MaxName)
}

// CheckGroupProgress returns InvalidArgument when a report of a group's progress breaks a rule.
func CheckGroupProgress(p *taskv1.GroupProgress) error {
	c := &checks{}
	c.groupProgress(at("progress"), p)
	return c.err()
}

// artifact checks a diagnostic. Its name stands in a path.
func (c *checks) artifact(r *statusv1.PutTaskArtifactRequest) {
	c.id(at("task_id"), r.GetTaskId())
	c.within(at("claim"), r.GetClaim(), 1, 1<<62)
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	if name := r.GetName(); name == "" || len(name) > MaxProfile || strings.Trim(name, letters) != "" || strings.Trim(name, ".") == "" {
		c.fail(at("name"), "must be 1 to %d letters, digits, hyphens, underscores and dots, and not only dots", MaxProfile)
	}
	c.text(at("content_type"), r.GetContentType(), MaxName)
	c.within(at("data"), int64(len(r.GetData())), 0, MaxArtifact)
}

func (c *checks) ids(at path, ids []string, least int64) {
	c.within(at, int64(len(ids)), least, MaxPage)
	for i, id := range ids {
		c.id(at.item(i), id)
	}
}

func (c *checks) acquire(r *schedulerv1.AcquireRequest) {
	switch m := r.GetMessage().(type) {
	case *schedulerv1.AcquireRequest_Hello:
		h := m.Hello
		c.label(at("hello.executor"), h.GetExecutor(), MaxName)
		c.id(at("hello.incarnation"), h.GetIncarnation())
		c.within(at("hello.slots"), int64(h.GetSlots()), 0, MaxSlots)
		c.within(at("hello.immediate_slots"), int64(h.GetImmediateSlots()), 0, MaxSlots)
		c.within(at("hello.task_names"), int64(len(h.GetTaskNames())), 0, MaxTaskNames)
		for i, name := range h.GetTaskNames() {
			c.label(at("hello.task_names").item(i), name, MaxName)
		}
		c.versions(at("hello.versions"), h.GetVersions())
		for i, held := range h.GetHeld() {
			each := at("hello.held").item(i)
			c.id(each.dot("task_id"), held.GetTaskId())
		}
	case *schedulerv1.AcquireRequest_Report:
		c.report(m.Report)
	case *schedulerv1.AcquireRequest_Drain, *schedulerv1.AcquireRequest_Pulse:
	default:
		c.fail(at("message"), "is required")
	}
}

func (c *checks) report(r *schedulerv1.Report) {
	c.within(at("report.acknowledged"), int64(len(r.GetAcknowledged())), 0, MaxSlots)
	for i, claim := range r.GetAcknowledged() {
		each := at("report.acknowledged").item(i)
		c.id(each.dot("task_id"), claim.GetTaskId())
	}
	c.within(at("report.finished"), int64(len(r.GetFinished())), 0, MaxSlots)
	for i, finish := range r.GetFinished() {
		each := at("report.finished").item(i)
		c.id(each.dot("claim.task_id"), finish.GetClaim().GetTaskId())
		c.outcome(each.dot("outcome"), finish.GetOutcome())
	}
}

// offered checks what a dispatcher says of tasks that it has stored. What may stand in them was checked before that; here
// it is about sizes, and about what would make no sense.
func (c *checks) offered(tasks []*schedulerv1.OfferedTask) {
	c.within(at("tasks"), int64(len(tasks)), 0, MaxOffered)
	for i, t := range tasks {
		each := at("tasks").item(i)
		c.within(each.dot("seq"), t.GetSeq(), 1, math.MaxInt64)
		c.id(each.dot("task_id"), t.GetTaskId())
		c.within(each.dot("name"), int64(len(t.GetName())), 1, MaxName)
		c.within(each.dot("exclusive_resources"), int64(len(t.GetExclusiveResources())+len(t.GetSharedResources())), 0, MaxResources+1)
		for j, name := range t.GetExclusiveResources() {
			c.size(each.dot("exclusive_resources").item(j), name, MaxResourceName)
		}
		for j, name := range t.GetSharedResources() {
			c.size(each.dot("shared_resources").item(j), name, MaxResourceName)
		}
		c.versions(each.dot("versions"), t.GetVersions())
		c.retry(each.dot("retry"), t.GetRetry())
	}
}

func (c *checks) outcome(at path, o *taskv1.Outcome) {
	if o == nil {
		c.fail(at, "is required")
		return
	}
	switch o.GetState() {
	case taskv1.State_STATE_COMPLETED:
		if o.GetError() != nil {
			c.fail(at.dot("error"), "must not be set for a completed task")
		}
	case taskv1.State_STATE_FAILED, taskv1.State_STATE_CANCELED:
		if o.GetError() == nil {
			c.fail(at.dot("error"), "is required unless the task completed")
		}
		if o.GetResultJson() != "" {
			c.fail(at.dot("result_json"), "must not be set unless the task completed")
		}
	default:
		c.fail(at.dot("state"), "must be completed, failed or canceled")
	}
	c.json(at.dot("result_json"), o.GetResultJson(), 0)
	c.size(at.dot("error.description"), o.GetError().GetDescription(), MaxErrorText)
	c.size(at.dot("error.traceback"), o.GetError().GetTraceback(), MaxErrorText)
	c.size(at.dot("error.reason"), o.GetError().GetReason(), MaxErrorText)
	if code := o.GetError().GetCode(); code != "" {
		c.code(at.dot("error.code"), code)
	}
}

func (c *checks) list(r *statusv1.ListTasksRequest) {
	for i, state := range r.GetStates() {
		if _, known := taskv1.State_name[int32(state)]; !known || state == taskv1.State_STATE_UNSPECIFIED {
			c.fail(at("states").item(i), "must be a known state, is %d", state)
		}
	}
	c.text(at("name"), r.GetName(), MaxName)
	c.text(at("correlation_id"), r.GetCorrelationId(), MaxCorrelationID)
	c.optionalID(at("group_id"), r.GetGroupId())
	c.optionalID(at("parent_id"), r.GetParentId())
	c.within(at("resources"), int64(len(r.GetResources())), 0, 100)
	for i, name := range r.GetResources() {
		c.label(at("resources").item(i), name, MaxResourceName)
	}
	c.within(at("page_size"), int64(r.GetPageSize()), 0, MaxPage)
	c.text(at("page_token"), r.GetPageToken(), MaxName)
	c.filter(at("filter"), r.GetFilter())
	c.order(at("order"), r.GetOrder())
	if len(r.GetOrder()) > 0 && r.GetPageToken() != "" {
		c.fail(at("order"), "must not be given together with page_token")
	}
	c.within(at("offset"), int64(r.GetOffset()), 0, MaxOffset)
	if r.GetOffset() > 0 && r.GetPageToken() != "" {
		c.fail(at("offset"), "must not be given together with page_token")
	}
}

func (c *checks) purge(r *dispatcherv1.PurgeTasksRequest) {
	switch before := r.GetFinishedBefore(); {
	case before == nil:
		c.fail(at("finished_before"), "is required")
	case before.CheckValid() != nil:
		c.fail(at("finished_before"), "must be a valid time")
	}
	for i, state := range r.GetStates() {
		switch state {
		case taskv1.State_STATE_COMPLETED, taskv1.State_STATE_FAILED, taskv1.State_STATE_CANCELED, taskv1.State_STATE_SKIPPED:
		default:
			c.fail(at("states").item(i), "must be a final state: completed, failed, canceled or skipped")
		}
	}
	c.within(at("page_size"), int64(r.GetPageSize()), 0, MaxPurge)
	c.text(at("page_token"), r.GetPageToken(), MaxName)
}

func (c *checks) register(r *heartbeatv1.RegisterRequest) {
	c.label(at("name"), r.GetName(), MaxName)
	if _, known := heartbeatv1.Kind_name[int32(r.GetKind())]; !known || r.GetKind() == heartbeatv1.Kind_KIND_UNSPECIFIED {
		c.fail(at("kind"), "is required")
	}
	c.versions(at("versions"), r.GetVersions())
	if r.GetTtl() == nil {
		c.fail(at("ttl"), "is required")
	}
	c.span(at("ttl"), r.GetTtl(), MinTTL, MaxTTL)
	c.optionalID(at("replaces"), r.GetReplaces())
}

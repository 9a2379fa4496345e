package limits

import (
	"math"

	"google.golang.org/protobuf/proto"

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
	case *dispatcherv1.CreateTaskGroupRequest:
		c.text(at("description"), r.GetDescription(), MaxDescription)

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
	case *statusv1.GetTaskGroupRequest:
		c.id(at("group_id"), r.GetGroupId())
	case *statusv1.GetTaskLogRequest:
		c.id(at("task_id"), r.GetTaskId())
	case *statusv1.PutTaskLogRequest:
		c.id(at("task_id"), r.GetTaskId())
		c.within(at("claim"), r.GetClaim(), 1, 1<<62)
		c.size(at("text"), r.GetText(), MaxLog)
	case *statusv1.GetStatsRequest:
		c.text(at("name"), r.GetName(), MaxName)
		c.span(at("since"), r.GetSince(), MinSince, MaxSince)

	case *heartbeatv1.RegisterRequest:
		c.register(r)
	case *heartbeatv1.BeatRequest:
		c.id(at("incarnation"), r.GetIncarnation())
	case *heartbeatv1.DeregisterRequest:
		c.id(at("incarnation"), r.GetIncarnation())
	case *heartbeatv1.ListAppsRequest:
		if _, known := heartbeatv1.Kind_name[int32(r.GetKind())]; !known {
			c.fail(at("kind"), "must be a known kind, is %d", r.GetKind())
		}

	case *schedulerv1.WatchLeadershipRequest, *schedulerv1.FollowRequest, *executorv1.ListRunningRequest, *executorv1.DrainRequest,
		*statusv1.GetSystemStatusRequest:
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
	c.optionalID(at.dot("group_id"), spec.GetGroupId())
	c.text(at.dot("correlation_id"), spec.GetCorrelationId(), MaxCorrelationID)
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
	case *schedulerv1.AcquireRequest_Drain:
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
	c.within(at("offset"), int64(r.GetOffset()), 0, MaxOffset)
	if r.GetOffset() > 0 && r.GetPageToken() != "" {
		c.fail(at("offset"), "must not be given together with page_token")
	}
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
}

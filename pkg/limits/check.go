package limits

import (
	"fmt"

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

// request knows every request of every service; it reports false for a message that it does not know.
func (c *checks) request(request proto.Message) bool {
	switch r := request.(type) {
	case *dispatcherv1.DispatchRequest:
		c.spec("task", r.GetTask())
	case *dispatcherv1.CancelRequest:
		c.id("task_id", r.GetTaskId())
	case *dispatcherv1.DeleteRequest:
		c.id("task_id", r.GetTaskId())
	case *dispatcherv1.CreateTaskGroupRequest:
		c.text("description", r.GetDescription(), MaxDescription)

	case *schedulerv1.OfferRequest:
		c.ids("settle_task_ids", r.GetSettleTaskIds(), 0)
	case *schedulerv1.AcquireRequest:
		c.acquire(r)
	case *schedulerv1.ExplainRequest:
		c.id("task_id", r.GetTaskId())
	case *schedulerv1.ListResourcesRequest:
		c.within("page_size", int64(r.GetPageSize()), 0, MaxPage)
	case *schedulerv1.GetResourceRequest:
		c.label("name", r.GetName(), MaxResourceName)
		c.within("page_size", int64(r.GetPageSize()), 0, MaxPage)

	case *statusv1.GetTaskRequest:
		c.id("task_id", r.GetTaskId())
	case *statusv1.ListTasksRequest:
		c.list(r)
	case *statusv1.WaitTasksRequest:
		c.ids("task_ids", r.GetTaskIds(), 1)
		c.span("timeout", r.GetTimeout(), 0, MaxWait)
	case *statusv1.WatchTaskRequest:
		c.id("task_id", r.GetTaskId())
	case *statusv1.GetTaskGroupRequest:
		c.id("group_id", r.GetGroupId())
	case *statusv1.GetTaskLogRequest:
		c.id("task_id", r.GetTaskId())
	case *statusv1.PutTaskLogRequest:
		c.id("task_id", r.GetTaskId())
		c.within("claim", r.GetClaim(), 1, 1<<62)
		c.size("text", r.GetText(), MaxLog)
	case *statusv1.GetStatsRequest:
		c.text("name", r.GetName(), MaxName)
		c.span("since", r.GetSince(), MinSince, MaxSince)

	case *heartbeatv1.RegisterRequest:
		c.register(r)
	case *heartbeatv1.BeatRequest:
		c.id("incarnation", r.GetIncarnation())
	case *heartbeatv1.DeregisterRequest:
		c.id("incarnation", r.GetIncarnation())
	case *heartbeatv1.ListAppsRequest:
		if _, known := heartbeatv1.Kind_name[int32(r.GetKind())]; !known {
			c.fail("kind", "must be a known kind, is %d", r.GetKind())
		}

	case *schedulerv1.FollowRequest, *executorv1.ListRunningRequest, *executorv1.DrainRequest, *statusv1.GetSystemStatusRequest:
		// Nothing in them.
	default:
		return false
	}
	return true
}

func (c *checks) spec(field string, spec *taskv1.TaskSpec) {
	if spec == nil {
		c.fail(field, "is required")
		return
	}
	under := func(name string) string { return field + "." + name }
	c.label(under("name"), spec.GetName(), MaxName)
	c.json(under("args_json"), spec.GetArgsJson(), '[')
	c.json(under("kwargs_json"), spec.GetKwargsJson(), '{')
	if total := len(spec.GetExclusiveResources()) + len(spec.GetSharedResources()); total > MaxResources {
		c.fail(under("exclusive_resources"), "and shared_resources must have at most %d entries together, have %d", MaxResources, total)
	} else {
		for i, name := range spec.GetExclusiveResources() {
			c.resource(fmt.Sprintf("%s[%d]", under("exclusive_resources"), i), name)
		}
		for i, name := range spec.GetSharedResources() {
			c.resource(fmt.Sprintf("%s[%d]", under("shared_resources"), i), name)
		}
	}
	if spec.Deferred != nil && !spec.GetDeferred() && !spec.GetImmediate() {
		c.fail(under("deferred"), "must not be false unless immediate is true: a task must be at least one of immediate and deferred")
	}
	c.versions(under("versions"), spec.GetVersions())
	c.optionalID(under("parent_id"), spec.GetParentId())
	c.optionalID(under("group_id"), spec.GetGroupId())
	c.text(under("correlation_id"), spec.GetCorrelationId(), MaxCorrelationID)
}

func (c *checks) ids(field string, ids []string, least int64) {
	c.within(field, int64(len(ids)), least, MaxPage)
	for i, id := range ids {
		c.id(fmt.Sprintf("%s[%d]", field, i), id)
	}
}

func (c *checks) acquire(r *schedulerv1.AcquireRequest) {
	switch m := r.GetMessage().(type) {
	case *schedulerv1.AcquireRequest_Hello:
		h := m.Hello
		c.label("hello.executor", h.GetExecutor(), MaxName)
		c.id("hello.incarnation", h.GetIncarnation())
		c.within("hello.slots", int64(h.GetSlots()), 0, MaxSlots)
		c.within("hello.immediate_slots", int64(h.GetImmediateSlots()), 0, MaxSlots)
		c.within("hello.task_names", int64(len(h.GetTaskNames())), 0, MaxTaskNames)
		for i, name := range h.GetTaskNames() {
			c.label(fmt.Sprintf("hello.task_names[%d]", i), name, MaxName)
		}
		c.versions("hello.versions", h.GetVersions())
		for i, held := range h.GetHeld() {
			c.id(fmt.Sprintf("hello.held[%d].task_id", i), held.GetTaskId())
		}
	case *schedulerv1.AcquireRequest_Acknowledge:
		c.id("acknowledge.claim.task_id", m.Acknowledge.GetClaim().GetTaskId())
	case *schedulerv1.AcquireRequest_Finish:
		c.id("finish.claim.task_id", m.Finish.GetClaim().GetTaskId())
		c.outcome("finish.outcome", m.Finish.GetOutcome())
	case *schedulerv1.AcquireRequest_Drain:
	default:
		c.fail("message", "is required")
	}
}

func (c *checks) outcome(field string, o *taskv1.Outcome) {
	if o == nil {
		c.fail(field, "is required")
		return
	}
	switch o.GetState() {
	case taskv1.State_STATE_COMPLETED:
		if o.GetError() != nil {
			c.fail(field+".error", "must not be set for a completed task")
		}
	case taskv1.State_STATE_FAILED, taskv1.State_STATE_CANCELED:
		if o.GetError() == nil {
			c.fail(field+".error", "is required unless the task completed")
		}
		if o.GetResultJson() != "" {
			c.fail(field+".result_json", "must not be set unless the task completed")
		}
	default:
		c.fail(field+".state", "must be completed, failed or canceled")
	}
	c.json(field+".result_json", o.GetResultJson(), 0)
	c.size(field+".error.description", o.GetError().GetDescription(), MaxErrorText)
	c.size(field+".error.traceback", o.GetError().GetTraceback(), MaxErrorText)
	c.size(field+".error.reason", o.GetError().GetReason(), MaxErrorText)
}

func (c *checks) list(r *statusv1.ListTasksRequest) {
	for i, state := range r.GetStates() {
		if _, known := taskv1.State_name[int32(state)]; !known || state == taskv1.State_STATE_UNSPECIFIED {
			c.fail(fmt.Sprintf("states[%d]", i), "must be a known state, is %d", state)
		}
	}
	c.text("name", r.GetName(), MaxName)
	c.text("correlation_id", r.GetCorrelationId(), MaxCorrelationID)
	c.optionalID("group_id", r.GetGroupId())
	c.optionalID("parent_id", r.GetParentId())
	c.within("resources", int64(len(r.GetResources())), 0, 100)
	for i, name := range r.GetResources() {
		c.label(fmt.Sprintf("resources[%d]", i), name, MaxResourceName)
	}
	c.within("page_size", int64(r.GetPageSize()), 0, MaxPage)
	c.text("page_token", r.GetPageToken(), MaxName)
	c.within("offset", int64(r.GetOffset()), 0, MaxOffset)
	if r.GetOffset() > 0 && r.GetPageToken() != "" {
		c.fail("offset", "must not be given together with page_token")
	}
}

func (c *checks) register(r *heartbeatv1.RegisterRequest) {
	c.label("name", r.GetName(), MaxName)
	if _, known := heartbeatv1.Kind_name[int32(r.GetKind())]; !known || r.GetKind() == heartbeatv1.Kind_KIND_UNSPECIFIED {
		c.fail("kind", "is required")
	}
	c.versions("versions", r.GetVersions())
	if r.GetTtl() == nil {
		c.fail("ttl", "is required")
	}
	c.span("ttl", r.GetTtl(), MinTTL, MaxTTL)
}

package gateway

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	// purgeTask is the task that every executor has, which deletes finished tasks.
	purgeTask = "sluice.purge_tasks"
	// purgeAge is how long ago tasks ended that are purged unless a client says otherwise.
	purgeAge = 30 * 24 * time.Hour
)

// CreateTask dispatches a task.
func (s *tasks) CreateTask(ctx context.Context, r *pulpv3.CreateTaskRequest) (*pulpv3.CreateTaskResponse, error) {
	h := s.hrefs.at(ctx)
	spec, broken := taskSpec(ctx, h, r)
	if len(broken) > 0 {
		return nil, errs.Invalid(broken...)
	}
	spec.RequestId = received(ctx, metaIdempotency)
	id, err := s.dispatch(ctx, spec)
	if err != nil {
		return nil, renamed(err, createNames)
	}
	return &pulpv3.CreateTaskResponse{Task: h.of(collectionTasks, id)}, nil
}

// CreateTasks dispatches several tasks, all or none.
func (s *tasks) CreateTasks(ctx context.Context, r *pulpv3.CreateTasksRequest) (*pulpv3.CreateTasksResponse, error) {
	h := s.hrefs.at(ctx)
	key := received(ctx, metaIdempotency)
	if longest := limits.MaxRequestID - len("/999"); len(key) > longest {
		return nil, errs.Invalid(errs.Violation{Field: headerIdempotency, Rule: fmt.Sprintf("Must be at most %d bytes for a batch.", longest)})
	}
	specs := make([]*taskv1.TaskSpec, len(r.GetTasks()))
	var broken []errs.Violation
	for i, one := range r.GetTasks() {
		spec, violations := taskSpec(ctx, h, one)
		for _, v := range violations {
			broken = append(broken, errs.Violation{Field: fmt.Sprintf("tasks[%d].%s", i, v.Field), Rule: v.Rule})
		}
		if key != "" {
			// Each task has a request id of its own, which is the same again when the batch is.
			spec.RequestId = key + "/" + strconv.Itoa(i)
		}
		specs[i] = spec
	}
	if len(broken) > 0 {
		return nil, errs.Invalid(broken...)
	}
	made, err := client.ForwardTasks(forwarded(ctx), s.dispatcher, specs)
	if err != nil {
		return nil, renamed(reused(ctx, err), createNames)
	}
	response := &pulpv3.CreateTasksResponse{}
	for _, t := range made {
		response.Tasks = append(response.GetTasks(), h.of(collectionTasks, t.GetId()))
	}
	return response, nil
}

// PurgeTasks dispatches the task that deletes finished tasks. What it is told is checked here, so that a mistake is not found later by a
// task that fails.
func (s *tasks) PurgeTasks(ctx context.Context, r *pulpv3.PurgeTasksRequest) (*pulpv3.PurgeTasksResponse, error) {
	bad := &filters{}
	// At midnight, as in Pulp: asking twice on a day, under one idempotency key, is asking for the same.
	before := time.Now().UTC().Add(-purgeAge).Truncate(24 * time.Hour)
	if r.GetFinishedBefore() != "" {
		var err error
		if before, err = parseTime(r.GetFinishedBefore()); err != nil {
			bad.fail("finished_before", "Datetime has wrong format. Use one of these formats instead: "+
				"YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].")
		}
	}
	states := []string{string(task.Completed)}
	if len(r.GetStates()) > 0 {
		states = nil
	}
	for _, state := range r.GetStates() {
		if !task.State(state).Final() {
			bad.fail("states", fmt.Sprintf("%q is not a valid choice.", state))
		}
		states = append(states, state)
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	kwargs, err := marshalJSON(map[string]any{"finished_before": before.Format(timeLayout), "states": states})
	if err != nil {
		return nil, err
	}
	spec := taskOf(ctx)
	spec.Name, spec.KwargsJson, spec.RequestId = purgeTask, string(kwargs), received(ctx, metaIdempotency)
	id, err := s.dispatch(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &pulpv3.PurgeTasksResponse{Task: s.hrefs.at(ctx).of(collectionTasks, id)}, nil
}

func (s *tasks) dispatch(ctx context.Context, spec *taskv1.TaskSpec) (id string, err error) {
	made, err := client.ForwardTask(forwarded(ctx), s.dispatcher, spec)
	return made.GetId(), reused(ctx, err)
}

// reused says which header was wrong, when the client sent the request id.
func reused(ctx context.Context, err error) error {
	if received(ctx, metaIdempotency) != "" && errs.Is(err, errs.RequestIDReused) {
		return errs.Exists(errs.RequestIDReused, "this %s has been used for another task", headerIdempotency)
	}
	return err
}

// forwarded passes the trace context on.
func forwarded(ctx context.Context) context.Context {
	for _, key := range []string{metaTraceparent, metaTracestate} {
		if value := received(ctx, key); value != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, key, value)
		}
	}
	return ctx
}

// taskOf is a task as far as the request says it by its headers.
func taskOf(ctx context.Context) *taskv1.TaskSpec {
	by, _ := strconv.ParseInt(received(ctx, metaCaller), 10, 64) // written by outgoing
	return &taskv1.TaskSpec{
		CorrelationId: received(ctx, metaCorrelation), CreatedBy: by, ProfileOptions: split(received(ctx, metaDiagnostics)),
	}
}

// taskSpec translates a task; broken is what is wrong with it, in REST's names.
func taskSpec(ctx context.Context, h hrefs, r *pulpv3.CreateTaskRequest) (spec *taskv1.TaskSpec, broken []errs.Violation) {
	spec = taskOf(ctx)
	spec.Name = r.GetName()
	spec.ArgsJson, spec.KwargsJson = r.GetArgs().GetText(), r.GetKwargs().GetText()
	spec.ExclusiveResources, spec.SharedResources = r.GetExclusiveResources(), r.GetSharedResources()
	spec.Immediate, spec.Deferred = r.GetImmediate(), r.Deferred
	spec.Versions, spec.FileIds, spec.Retry = r.GetVersions(), r.GetFiles(), retryPolicy(r.GetRetry())
	if r.Timeout != nil {
		spec.Timeout = duration(r.GetTimeout())
	}
	if len(r.GetProfileOptions()) > 0 {
		spec.ProfileOptions = r.GetProfileOptions()
	}
	if r.GetTaskGroup() != "" {
		id, ok := h.id(collectionGroups, modelGroup, r.GetTaskGroup())
		if !ok {
			broken = append(broken, errs.Violation{Field: "task_group", Rule: "Must be the href or the UUID of a task group."})
		}
		spec.GroupId = id
	}
	return spec, broken
}

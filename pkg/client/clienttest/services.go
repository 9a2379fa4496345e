package clienttest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

func missing(id string) error {
	return errs.NotFound(errs.TaskNotFound, "there is no task %s", id)
}

// find returns a copy of a task, and a channel that is closed when anything changes after.
func (s *Server) find(id string) (*taskv1.Task, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, known := s.tasks[id]
	if !known {
		return nil, nil, missing(id)
	}
	return proto.CloneOf(t), s.changed, nil
}

func final(t *taskv1.Task) bool { return wire.FromState(t.GetState()).Final() }

type dispatcher struct {
	dispatcherv1.UnimplementedDispatcherServiceServer
	*Server
}

func (d dispatcher) Dispatch(_ context.Context, r *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	t, err := d.store(r.GetTask())
	return &dispatcherv1.DispatchResponse{Task: t}, err
}

func (d dispatcher) DispatchBatch(_ context.Context, r *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error) {
	answer := &dispatcherv1.DispatchBatchResponse{}
	for _, spec := range r.GetTasks() {
		t, err := d.store(spec)
		if err != nil {
			return nil, err
		}
		t.ResultJson = ""
		answer.Tasks = append(answer.GetTasks(), t)
	}
	return answer, nil
}

func (d dispatcher) store(spec *taskv1.TaskSpec) (*taskv1.Task, error) {
	reservation := task.Reserve(spec.GetExclusiveResources(), spec.GetSharedResources(), task.DefaultDomainID)
	t := &taskv1.Task{
		Name:               spec.GetName(),
		ExclusiveResources: reservation.Exclusive,
		SharedResources:    reservation.Shared,
		Immediate:          spec.GetImmediate(),
		Deferred:           spec.Deferred == nil || spec.GetDeferred(),
		Versions:           spec.GetVersions(),
		ParentId:           spec.GetParentId(),
		GroupId:            spec.GetGroupId(),
		CorrelationId:      spec.GetCorrelationId(),
		Timeout:            spec.GetTimeout(),
		Retry:              wire.Retry(wire.FromRetry(spec.GetRetry())),
		ProfileOptions:     spec.GetProfileOptions(),
		FileIds:            spec.GetFileIds(),
	}
	request := spec.GetRequestId()
	d.mu.Lock()
	d.requested = append(d.requested, request)
	first, known := d.requests[request]
	if !known {
		spec = proto.CloneOf(spec)
		spec.RequestId = ""
		d.specs = append(d.specs, spec)
	}
	d.mu.Unlock()
	if known {
		t, _, err := d.find(first)
		return t, err
	}
	t = d.Put(t)
	if request != "" {
		d.mu.Lock()
		d.requests[request] = t.GetId()
		d.mu.Unlock()
	}
	if d.OnDispatch != nil {
		d.Change(t.GetId(), d.OnDispatch)
	}
	t, _, err := d.find(t.GetId())
	return t, err
}

func (d dispatcher) Cancel(_ context.Context, r *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
	t, _, err := d.find(r.GetTaskId())
	if err != nil {
		return nil, err
	}
	switch t.GetState() {
	case taskv1.State_STATE_WAITING:
		d.Change(t.GetId(), func(t *taskv1.Task) {
			t.State = taskv1.State_STATE_CANCELED
			t.Error = &taskv1.TaskError{Reason: task.ReasonCanceled}
			t.FinishedAt = t.GetUpdatedAt()
		})
	case taskv1.State_STATE_RUNNING:
		d.Change(t.GetId(), func(t *taskv1.Task) { t.State = taskv1.State_STATE_CANCELING })
	case taskv1.State_STATE_COMPLETED, taskv1.State_STATE_FAILED, taskv1.State_STATE_SKIPPED:
		return nil, errs.Precondition(errs.TaskFinal, "task %s is %s and can't be canceled", t.GetId(), wire.FromState(t.GetState()))
	case taskv1.State_STATE_UNSPECIFIED, taskv1.State_STATE_CANCELED, taskv1.State_STATE_CANCELING:
	}
	t, _, err = d.find(t.GetId())
	return &dispatcherv1.CancelResponse{Task: t}, err
}

func (d dispatcher) Delete(_ context.Context, r *dispatcherv1.DeleteRequest) (*dispatcherv1.DeleteResponse, error) {
	t, _, err := d.find(r.GetTaskId())
	if err != nil {
		return nil, err
	}
	if !final(t) {
		return nil, errs.Precondition(errs.TaskNotFinal, "task %s is %s and can't be deleted before it has ended", t.GetId(), wire.FromState(t.GetState()))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tasks, t.GetId())
	d.announce()
	return &dispatcherv1.DeleteResponse{}, nil
}

// PurgeTasks removes nothing by itself.
func (d dispatcher) PurgeTasks(_ context.Context, r *dispatcherv1.PurgeTasksRequest) (*dispatcherv1.PurgeTasksResponse, error) {
	if d.OnPurge == nil {
		return &dispatcherv1.PurgeTasksResponse{}, nil
	}
	return d.OnPurge(r)
}

func (d dispatcher) CreateTaskGroup(context.Context, *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error) {
	return &dispatcherv1.CreateTaskGroupResponse{GroupId: ID(900)}, nil
}

// CancelTaskGroup does to the members what Cancel does to one task.
func (d dispatcher) CancelTaskGroup(_ context.Context, r *dispatcherv1.CancelTaskGroupRequest) (*dispatcherv1.CancelTaskGroupResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &dispatcherv1.CancelTaskGroupResponse{}
	for _, t := range d.tasks {
		switch {
		case t.GetGroupId() != r.GetGroupId() || final(t):
		case t.GetState() == taskv1.State_STATE_WAITING:
			t.State = taskv1.State_STATE_CANCELED
			answer.Canceled++
		default:
			t.State = taskv1.State_STATE_CANCELING
			answer.Canceling++
		}
	}
	d.announce()
	return answer, nil
}

type status struct {
	statusv1.UnimplementedStatusServiceServer
	*Server
}

func (s status) GetTask(_ context.Context, r *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
	t, _, err := s.find(r.GetTaskId())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.told[t.GetId()]
	answer := &statusv1.GetTaskResponse{Task: t, Report: proto.CloneOf(told.GetReport()), Attempts: told.GetAttempts()}
	for id, other := range s.tasks {
		if other.GetParentId() == t.GetId() {
			answer.ChildIds = append(answer.GetChildIds(), id)
		}
	}
	slices.Sort(answer.GetChildIds())
	return answer, nil
}

func (s status) ListTasks(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*taskv1.Task
	ids := r.GetFilter().GetCondition().GetValues() // clients of ours ask for nothing else by it
	for _, t := range s.tasks {
		held := append(slices.Clone(t.GetExclusiveResources()), t.GetSharedResources()...)
		switch {
		case len(r.GetStates()) > 0 && !slices.Contains(r.GetStates(), t.GetState()),
			r.GetName() != "" && r.GetName() != t.GetName(),
			r.GetCorrelationId() != "" && r.GetCorrelationId() != t.GetCorrelationId(),
			r.GetGroupId() != "" && r.GetGroupId() != t.GetGroupId(),
			r.GetParentId() != "" && r.GetParentId() != t.GetParentId(),
			len(ids) > 0 && !slices.Contains(ids, t.GetId()),
			slices.ContainsFunc(r.GetResources(), func(name string) bool { return !slices.Contains(held, name) }):
		default:
			found = append(found, proto.CloneOf(t))
		}
	}
	slices.SortFunc(found, func(a, b *taskv1.Task) int { return int(b.GetSeq() - a.GetSeq()) })
	from, _ := strconv.Atoi(r.GetPageToken())
	to := min(from+int(r.GetPageSize()), len(found))
	answer := &statusv1.ListTasksResponse{Tasks: found[from:to], Total: int64(len(found))}
	if r.GetIncludeReports() {
		answer.Reports = map[string]*statusv1.TaskReport{}
		for _, t := range answer.GetTasks() {
			if told := s.told[t.GetId()]; told.GetReport() != nil {
				answer.Reports[t.GetId()] = proto.CloneOf(told.GetReport())
			}
		}
	}
	if to < len(found) {
		answer.NextPageToken = strconv.Itoa(to)
	}
	return answer, nil
}

func (s status) WaitTasks(ctx context.Context, r *statusv1.WaitTasksRequest) (*statusv1.WaitTasksResponse, error) {
	timer := time.NewTimer(r.GetTimeout().AsDuration())
	defer timer.Stop()
	for {
		answer := &statusv1.WaitTasksResponse{Done: true}
		var changed <-chan struct{}
		for _, id := range r.GetTaskIds() {
			t, c, err := s.find(id)
			if err != nil {
				return nil, err
			}
			if changed == nil {
				changed = c
			}
			answer.Tasks = append(answer.GetTasks(), t)
			answer.Done = answer.GetDone() && final(t)
		}
		if answer.GetDone() {
			return answer, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return answer, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s status) WatchTask(r *statusv1.WatchTaskRequest, stream statusv1.StatusService_WatchTaskServer) error {
	last := taskv1.State_STATE_UNSPECIFIED
	for {
		t, changed, err := s.find(r.GetTaskId())
		if err != nil {
			return err
		}
		if t.GetState() != last {
			last = t.GetState()
			if err := stream.Send(&statusv1.WatchTaskResponse{Task: t}); err != nil {
				return fmt.Errorf("send task: %w", err)
			}
			s.sent <- sent{id: t.GetId(), state: t.GetState()}
		}
		if final(t) {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s status) GetTaskGroup(_ context.Context, r *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.Groups {
		if g.GetId() == r.GetGroupId() {
			return g, nil
		}
	}
	counts := map[taskv1.State]int64{}
	for _, t := range s.tasks {
		if t.GetGroupId() == r.GetGroupId() {
			counts[t.GetState()]++
		}
	}
	answer := &statusv1.GetTaskGroupResponse{Id: r.GetGroupId()}
	for state, n := range counts {
		answer.Counts = append(answer.GetCounts(), &statusv1.StateCount{State: state, Count: n})
	}
	return answer, nil
}

func (s status) ListTaskGroups(_ context.Context, r *statusv1.ListTaskGroupsRequest) (*statusv1.ListTaskGroupsResponse, error) {
	from := min(int(r.GetOffset()), len(s.Groups))
	to := min(from+int(r.GetPageSize()), len(s.Groups))
	return &statusv1.ListTaskGroupsResponse{Groups: s.Groups[from:to], Total: int64(len(s.Groups))}, nil
}

func (s status) GetTaskLog(_ context.Context, r *statusv1.GetTaskLogRequest) (*statusv1.GetTaskLogResponse, error) {
	if _, _, err := s.find(r.GetTaskId()); err != nil {
		return nil, err
	}
	return s.Log, nil
}

// FollowTaskLog streams what Print prints.
func (s status) FollowTaskLog(r *statusv1.FollowTaskLogRequest, stream statusv1.StatusService_FollowTaskLogServer) error {
	last, began, at := taskv1.State_STATE_UNSPECIFIED, int32(0), 0
	for {
		t, changed, err := s.find(r.GetTaskId())
		if err != nil {
			return err
		}
		text := s.printed(t.GetId(), t.GetAttempt())
		news := t.GetState() != last
		if t.GetAttempt() != began {
			began, at, news = t.GetAttempt(), 0, true
		}
		if news || len(text) > at {
			if err := stream.Send(&statusv1.FollowTaskLogResponse{Text: text[at:], Skipped: s.Skips, Attempt: t.GetAttempt(), State: t.GetState()}); err != nil {
				return fmt.Errorf("send the log: %w", err)
			}
			last, at = t.GetState(), len(text)
		}
		if final(t) {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s status) GetStats(context.Context, *statusv1.GetStatsRequest) (*statusv1.GetStatsResponse, error) {
	return s.Stats, nil
}

func (s status) GetSystemStatus(context.Context, *statusv1.GetSystemStatusRequest) (*statusv1.GetSystemStatusResponse, error) {
	return s.System, nil
}

type scheduler struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	*Server
}

func (s scheduler) Explain(_ context.Context, r *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
	if _, _, err := s.find(r.GetTaskId()); err != nil {
		return nil, err
	}
	return s.Explanation, nil
}

func (s scheduler) ListResources(context.Context, *schedulerv1.ListResourcesRequest) (*schedulerv1.ListResourcesResponse, error) {
	return s.Resources, nil
}

func (s scheduler) GetResource(_ context.Context, r *schedulerv1.GetResourceRequest) (*schedulerv1.GetResourceResponse, error) {
	if s.Resource.GetResource().GetName() != r.GetName() {
		return nil, errs.NotFound(errs.ResourceUnknown, "no task holds %q or waits for it", r.GetName())
	}
	return s.Resource, nil
}

// GetLoad is not there until a test says what it is.
func (s scheduler) GetLoad(context.Context, *schedulerv1.GetLoadRequest) (*schedulerv1.GetLoadResponse, error) {
	if s.Load == nil {
		return nil, errs.Away(errs.NotLeading, nil, "no scheduler leads")
	}
	return s.Load, nil
}

type heartbeat struct {
	heartbeatv1.UnimplementedHeartbeatServiceServer
	*Server
}

func (h heartbeat) ListApps(context.Context, *heartbeatv1.ListAppsRequest) (*heartbeatv1.ListAppsResponse, error) {
	return h.Apps, nil
}

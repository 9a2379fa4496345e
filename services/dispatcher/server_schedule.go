package dispatcher

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// CreateTaskSchedule stores a schedule.
func (s server) CreateTaskSchedule(ctx context.Context, req *dispatcherv1.CreateTaskScheduleRequest) (*dispatcherv1.CreateTaskScheduleResponse, error) {
	asked := req.GetSchedule()
	parent, state := traceContext(ctx)
	made := &Schedule{
		Name: asked.GetName(), Task: fromSpec("schedule.task", asked.GetTask(), parent, state),
		Interval: asked.GetDispatchInterval().AsDuration(), Next: wire.FromTime(asked.GetNextDispatch()),
	}
	if err := s.service.CreateSchedule(ctx, made); err != nil {
		return nil, err
	}
	return &dispatcherv1.CreateTaskScheduleResponse{Schedule: onWire(made)}, nil
}

// ListTaskSchedules returns all schedules.
func (s server) ListTaskSchedules(ctx context.Context, _ *dispatcherv1.ListTaskSchedulesRequest) (*dispatcherv1.ListTaskSchedulesResponse, error) {
	all, err := s.service.db.Schedules(ctx)
	if err != nil {
		return nil, err
	}
	answer := &dispatcherv1.ListTaskSchedulesResponse{Schedules: make([]*dispatcherv1.TaskSchedule, len(all))}
	for i, found := range all {
		answer.Schedules[i] = onWire(found)
	}
	return answer, nil
}

// GetTaskSchedule returns one schedule.
func (s server) GetTaskSchedule(ctx context.Context, req *dispatcherv1.GetTaskScheduleRequest) (*dispatcherv1.GetTaskScheduleResponse, error) {
	found, err := s.service.db.Schedule(ctx, req.GetScheduleId())
	if err != nil {
		return nil, err
	}
	return &dispatcherv1.GetTaskScheduleResponse{Schedule: onWire(found)}, nil
}

// DeleteTaskSchedule removes a schedule.
func (s server) DeleteTaskSchedule(ctx context.Context, req *dispatcherv1.DeleteTaskScheduleRequest) (*dispatcherv1.DeleteTaskScheduleResponse, error) {
	if err := s.service.DeleteSchedule(ctx, req.GetScheduleId()); err != nil {
		return nil, err
	}
	return &dispatcherv1.DeleteTaskScheduleResponse{}, nil
}

// onWire puts a schedule on the wire, with its task as it was asked for: every task shares its domain without being asked.
func onWire(s *Schedule) *dispatcherv1.TaskSchedule {
	t := s.Task
	domain := task.DomainResource(t.DomainID)
	return &dispatcherv1.TaskSchedule{
		Id: s.ID, Name: s.Name, DispatchInterval: wire.Duration(s.Interval), NextDispatch: wire.Time(s.Next), LastTaskId: s.LastTaskID,
		CreatedAt: timestamppb.New(s.CreatedAt), UpdatedAt: timestamppb.New(s.UpdatedAt),
		Task: &taskv1.TaskSpec{
			Name: t.Name, ArgsJson: t.Args, KwargsJson: t.Kwargs, Deferred: proto.Bool(true), Versions: t.Versions,
			ExclusiveResources: t.Reserved.Exclusive,
			SharedResources:    slices.DeleteFunc(slices.Clone(t.Reserved.Shared), func(name string) bool { return name == domain }),
			CorrelationId:      t.CorrelationID, Timeout: wire.Duration(t.Options.Timeout), Retry: wire.Retry(t.Options.Retry),
			ProfileOptions: t.Options.Profile, CreatedBy: t.Options.CreatedBy,
		},
	}
}

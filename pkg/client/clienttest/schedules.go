package clienttest

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// ScheduleID is the id of the n-th schedule that is made.
func ScheduleID(n int) string { return ID(700 + n) }

// CreateTaskSchedule keeps a schedule, which nobody ever dispatches. Unless it says when it is due, that is at Epoch.
func (d dispatcher) CreateTaskSchedule(_ context.Context, r *dispatcherv1.CreateTaskScheduleRequest) (*dispatcherv1.CreateTaskScheduleResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	made := proto.CloneOf(r.GetSchedule())
	if slices.ContainsFunc(d.schedules, func(s *dispatcherv1.TaskSchedule) bool { return s.GetName() == made.GetName() }) {
		return nil, errs.Exists(errs.ScheduleExists, "there is a schedule %q already", made.GetName())
	}
	made.Id, made.CreatedAt, made.UpdatedAt = ScheduleID(len(d.schedules)+1), timestamppb.New(Epoch), timestamppb.New(Epoch)
	made.NextDispatch = cmp.Or(made.GetNextDispatch(), made.GetCreatedAt())
	made.Task.ArgsJson, made.Task.KwargsJson = cmp.Or(made.GetTask().GetArgsJson(), "[]"), cmp.Or(made.GetTask().GetKwargsJson(), "{}")
	d.schedules = append(d.schedules, made)
	return &dispatcherv1.CreateTaskScheduleResponse{Schedule: made}, nil
}

func (d dispatcher) ListTaskSchedules(context.Context, *dispatcherv1.ListTaskSchedulesRequest) (*dispatcherv1.ListTaskSchedulesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &dispatcherv1.ListTaskSchedulesResponse{}
	for _, s := range d.schedules {
		listed := proto.CloneOf(s)
		listed.Task.ArgsJson, listed.Task.KwargsJson = "", ""
		answer.Schedules = append(answer.GetSchedules(), listed)
	}
	slices.SortFunc(answer.GetSchedules(), func(a, b *dispatcherv1.TaskSchedule) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return answer, nil
}

func (d dispatcher) GetTaskSchedule(_ context.Context, r *dispatcherv1.GetTaskScheduleRequest) (*dispatcherv1.GetTaskScheduleResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.schedules {
		if s.GetId() == r.GetScheduleId() {
			return &dispatcherv1.GetTaskScheduleResponse{Schedule: s}, nil
		}
	}
	return nil, errs.NotFound(errs.ScheduleNotFound, "no task schedule %s", r.GetScheduleId())
}

func (d dispatcher) DeleteTaskSchedule(ctx context.Context, r *dispatcherv1.DeleteTaskScheduleRequest) (*dispatcherv1.DeleteTaskScheduleResponse, error) {
	if _, err := d.GetTaskSchedule(ctx, &dispatcherv1.GetTaskScheduleRequest{ScheduleId: r.GetScheduleId()}); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.schedules = slices.DeleteFunc(d.schedules, func(s *dispatcherv1.TaskSchedule) bool { return s.GetId() == r.GetScheduleId() })
	return &dispatcherv1.DeleteTaskScheduleResponse{}, nil
}

// ChangeSchedules changes the schedules behind the clients' backs.
func (s *Server) ChangeSchedules(change func(*dispatcherv1.TaskSchedule)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, schedule := range s.schedules {
		change(schedule)
	}
}

package gateway_test

import (
	"context"

	"google.golang.org/grpc"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// hooks are what the fakes answer about watches, groups and schedules. Without one it is not implemented.
type hooks struct {
	watchTasks     func(*statusv1.WatchTasksRequest, grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error
	awaitTasks     func(context.Context, *statusv1.AwaitTasksRequest) (*statusv1.AwaitTasksResponse, error)
	getGroup       func(context.Context, *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error)
	listGroups     func(context.Context, *statusv1.ListTaskGroupsRequest) (*statusv1.ListTaskGroupsResponse, error)
	createGroup    func(context.Context, *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error)
	cancelGroup    func(context.Context, *dispatcherv1.CancelTaskGroupRequest) (*dispatcherv1.CancelTaskGroupResponse, error)
	listSchedules  func(context.Context, *dispatcherv1.ListTaskSchedulesRequest) (*dispatcherv1.ListTaskSchedulesResponse, error)
	getSchedule    func(context.Context, *dispatcherv1.GetTaskScheduleRequest) (*dispatcherv1.GetTaskScheduleResponse, error)
	createSchedule func(context.Context, *dispatcherv1.CreateTaskScheduleRequest) (*dispatcherv1.CreateTaskScheduleResponse, error)
	deleteSchedule func(context.Context, *dispatcherv1.DeleteTaskScheduleRequest) (*dispatcherv1.DeleteTaskScheduleResponse, error)
}

func (n *native) WatchTasks(r *statusv1.WatchTasksRequest, s grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
	n.count()
	if n.watchTasks != nil {
		return n.watchTasks(r, s)
	}
	return n.UnimplementedStatusServiceServer.WatchTasks(r, s)
}

// answered is the answer of a hook, or of a server without one.
func answered[Q, A any](ctx context.Context, n *native, hook, none func(context.Context, Q) (A, error), r Q) (A, error) {
	n.count()
	if hook != nil {
		return hook(ctx, r)
	}
	return none(ctx, r)
}

func (n *native) AwaitTasks(ctx context.Context, r *statusv1.AwaitTasksRequest) (*statusv1.AwaitTasksResponse, error) {
	return answered(ctx, n, n.awaitTasks, n.UnimplementedStatusServiceServer.AwaitTasks, r)
}

func (n *native) ListTaskGroups(ctx context.Context, r *statusv1.ListTaskGroupsRequest) (*statusv1.ListTaskGroupsResponse, error) {
	return answered(ctx, n, n.listGroups, n.UnimplementedStatusServiceServer.ListTaskGroups, r)
}

func (n *native) CreateTaskGroup(ctx context.Context, r *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error) {
	return answered(ctx, n, n.createGroup, n.UnimplementedDispatcherServiceServer.CreateTaskGroup, r)
}

func (n *native) CancelTaskGroup(ctx context.Context, r *dispatcherv1.CancelTaskGroupRequest) (*dispatcherv1.CancelTaskGroupResponse, error) {
	return answered(ctx, n, n.cancelGroup, n.UnimplementedDispatcherServiceServer.CancelTaskGroup, r)
}

func (n *native) ListTaskSchedules(ctx context.Context, r *dispatcherv1.ListTaskSchedulesRequest) (*dispatcherv1.ListTaskSchedulesResponse, error) {
	return answered(ctx, n, n.listSchedules, n.UnimplementedDispatcherServiceServer.ListTaskSchedules, r)
}

func (n *native) GetTaskSchedule(ctx context.Context, r *dispatcherv1.GetTaskScheduleRequest) (*dispatcherv1.GetTaskScheduleResponse, error) {
	return answered(ctx, n, n.getSchedule, n.UnimplementedDispatcherServiceServer.GetTaskSchedule, r)
}

func (n *native) CreateTaskSchedule(ctx context.Context, r *dispatcherv1.CreateTaskScheduleRequest) (*dispatcherv1.CreateTaskScheduleResponse, error) {
	return answered(ctx, n, n.createSchedule, n.UnimplementedDispatcherServiceServer.CreateTaskSchedule, r)
}

func (n *native) DeleteTaskSchedule(ctx context.Context, r *dispatcherv1.DeleteTaskScheduleRequest) (*dispatcherv1.DeleteTaskScheduleResponse, error) {
	return answered(ctx, n, n.deleteSchedule, n.UnimplementedDispatcherServiceServer.DeleteTaskSchedule, r)
}

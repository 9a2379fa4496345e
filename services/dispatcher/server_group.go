package dispatcher

import (
	"context"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// CreateTaskGroup makes a group.
func (s server) CreateTaskGroup(ctx context.Context, req *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error) {
	id, err := s.service.NewGroup(ctx, req.GetDescription())
	if err != nil {
		return nil, err
	}
	return &dispatcherv1.CreateTaskGroupResponse{GroupId: id}, nil
}

// CancelTaskGroup asks the members of a group to stop.
func (s server) CancelTaskGroup(ctx context.Context, req *dispatcherv1.CancelTaskGroupRequest) (*dispatcherv1.CancelTaskGroupResponse, error) {
	canceled, canceling, err := s.service.CancelGroup(ctx, req.GetGroupId())
	if err != nil {
		return nil, err
	}
	return &dispatcherv1.CancelTaskGroupResponse{Canceled: canceled, Canceling: canceling}, nil
}

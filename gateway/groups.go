package gateway

import (
	"context"
	"slices"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// groups answers pulp.v3.TaskGroupsService by asking the dispatcher and the status service.
type groups struct {
	pulpv3.UnimplementedTaskGroupsServiceServer

	dispatcher dispatcherv1.DispatcherServiceClient
	status     statusv1.StatusServiceClient
	roster     *roster
	hrefs      hrefs
}

func noGroup() error {
	return errs.NotFound(errs.GroupNotFound, "No TaskGroup matches the given query.")
}

// ReadTaskGroup returns a group with its members.
func (s *groups) ReadTaskGroup(ctx context.Context, r *pulpv3.ReadTaskGroupRequest) (*pulpv3.ReadTaskGroupResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noGroup()
	}
	response, err := s.status.GetTaskGroup(ctx, &statusv1.GetTaskGroupRequest{GroupId: id})
	if err != nil {
		return nil, notFoundAs(err, noGroup())
	}
	members, err := listAll(ctx, s.status, &statusv1.ListTasksRequest{GroupId: id, PageSize: limits.MaxPage})
	if err != nil {
		return nil, err
	}
	shown := &pulpv3.TaskGroup{
		PulpHref:           s.hrefs.of(collectionGroups, id),
		Prn:                prn(modelGroup, id),
		Description:        response.GetDescription(),
		AllTasksDispatched: true,
	}
	count(shown, response.GetCounts())
	for _, t := range slices.Backward(members.GetTasks()) {
		shown.Tasks = append(shown.Tasks, s.hrefs.minimal(t, s.roster.incarnation(ctx, t.GetExecutor())))
	}
	return &pulpv3.ReadTaskGroupResponse{TaskGroup: shown}, nil
}

func count(group *pulpv3.TaskGroup, counts []*statusv1.StateCount) {
	for _, c := range counts {
		switch c.GetState() {
		case taskv1.State_STATE_WAITING:
			group.Waiting = c.GetCount()
		case taskv1.State_STATE_SKIPPED:
			group.Skipped = c.GetCount()
		case taskv1.State_STATE_RUNNING:
			group.Running = c.GetCount()
		case taskv1.State_STATE_COMPLETED:
			group.Completed = c.GetCount()
		case taskv1.State_STATE_CANCELED:
			group.Canceled = c.GetCount()
		case taskv1.State_STATE_FAILED:
			group.Failed = c.GetCount()
		case taskv1.State_STATE_CANCELING:
			group.Canceling = c.GetCount()
		case taskv1.State_STATE_UNSPECIFIED:
		}
	}
}

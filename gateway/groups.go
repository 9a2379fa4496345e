package gateway

import (
	"context"
	"slices"
	"sync"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	// membersListed is how many of its tasks a group shows in a list of groups, limits.MaxPage of them when it is read alone.
	membersListed = 100
	// groupsAtOnce is how many groups of a list are asked for their members at the same time.
	groupsAtOnce = 8
)

// groups answers pulp.v3.TaskGroupsService by asking the dispatcher and the status service.
type groups struct {
	pulpv3.UnimplementedTaskGroupsServiceServer

	dispatcher dispatcherv1.DispatcherServiceClient
	status     statusv1.StatusServiceClient
	hrefs      hrefs
}

func noGroup() error {
	return errs.NotFound(errs.GroupNotFound, "No TaskGroup matches the given query.")
}

// ListTaskGroups returns a page.
func (s *groups) ListTaskGroups(ctx context.Context, r *pulpv3.ListTaskGroupsRequest) (*pulpv3.ListTaskGroupsResponse, error) {
	size, skip := window(r.GetLimit(), r.GetOffset())
	found, err := s.status.ListTaskGroups(ctx, &statusv1.ListTaskGroupsRequest{PageSize: size, Offset: skip})
	if err != nil {
		return nil, renamed(err, listNames)
	}
	shows := chosen(r.GetFields(), r.GetExcludeFields(), "")
	page := &pulpv3.ListTaskGroupsResponse{Count: found.GetTotal(), Results: make([]*pulpv3.TaskGroup, len(found.GetGroups()))}
	failures := make([]error, len(page.GetResults()))
	places := make(chan int)
	var asking sync.WaitGroup
	for range min(groupsAtOnce, len(page.GetResults())) {
		asking.Go(func() {
			for i := range places {
				page.Results[i], failures[i] = s.shown(ctx, found.GetGroups()[i], membersListed, shows)
			}
		})
	}
	for i := range page.GetResults() {
		places <- i
	}
	close(places)
	asking.Wait()
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	return page, nil
}

// CreateTaskGroup makes an empty group.
func (s *groups) CreateTaskGroup(ctx context.Context, r *pulpv3.CreateTaskGroupRequest) (*pulpv3.CreateTaskGroupResponse, error) {
	made, err := s.dispatcher.CreateTaskGroup(ctx, &dispatcherv1.CreateTaskGroupRequest{Description: r.GetDescription()})
	if err != nil {
		return nil, renamed(err, nil)
	}
	// As it was made: reading it again could fail, and then the client would not know that it is there.
	shown, err := s.shown(ctx, &statusv1.GetTaskGroupResponse{Id: made.GetGroupId(), Description: r.GetDescription()}, 0, nil)
	if err != nil {
		return nil, err
	}
	return &pulpv3.CreateTaskGroupResponse{TaskGroup: shown}, nil
}

// ReadTaskGroup returns a group with its members.
func (s *groups) ReadTaskGroup(ctx context.Context, r *pulpv3.ReadTaskGroupRequest) (*pulpv3.ReadTaskGroupResponse, error) {
	shown, err := s.read(ctx, r.GetPulpId(), chosen(r.GetFields(), r.GetExcludeFields(), ""))
	if err != nil {
		return nil, err
	}
	return &pulpv3.ReadTaskGroupResponse{TaskGroup: shown}, nil
}

// CancelTaskGroup asks all members to stop. The wish is checked before the group is looked for, as for tasks.
func (s *groups) CancelTaskGroup(ctx context.Context, r *pulpv3.CancelTaskGroupRequest) (*pulpv3.CancelTaskGroupResponse, error) {
	if r.GetState() != string(task.Canceled) {
		return nil, errs.Invalid(errs.Violation{Field: "state", Rule: "The only acceptable value for 'state' is 'canceled'."})
	}
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noGroup()
	}
	if _, err := s.dispatcher.CancelTaskGroup(ctx, &dispatcherv1.CancelTaskGroupRequest{GroupId: id}); err != nil {
		return nil, notFoundAs(err, noGroup())
	}
	shown, err := s.read(ctx, id, nil)
	if err != nil {
		return nil, err
	}
	// One that joined meanwhile, for example: the client may ask again.
	return &pulpv3.CancelTaskGroupResponse{TaskGroup: shown, Conflict: shown.GetWaiting()+shown.GetRunning() > 0}, nil
}

func (s *groups) read(ctx context.Context, reference string, shows func(string) bool) (*pulpv3.TaskGroup, error) {
	id, ok := canonicalID(reference)
	if !ok {
		return nil, noGroup()
	}
	response, err := s.status.GetTaskGroup(ctx, &statusv1.GetTaskGroupRequest{GroupId: id})
	if err != nil {
		return nil, notFoundAs(err, noGroup())
	}
	return s.shown(ctx, response, limits.MaxPage, shows)
}

// shown shows a group as Pulp does, with the newest of its members, the oldest of these first.
func (s *groups) shown(ctx context.Context, group *statusv1.GetTaskGroupResponse, members int32, shows func(string) bool) (*pulpv3.TaskGroup, error) {
	h := s.hrefs.at(ctx)
	shown := &pulpv3.TaskGroup{
		PulpHref:           h.of(collectionGroups, group.GetId()),
		Prn:                prn(modelGroup, group.GetId()),
		Description:        group.GetDescription(),
		AllTasksDispatched: true,
	}
	count(shown, group.GetCounts())
	for _, p := range group.GetProgress() {
		report := &pulpv3.GroupProgressReport{Message: p.GetMessage(), Code: p.GetCode(), Total: p.GetTotal(), Done: p.GetDone()}
		if suffix := p.GetSuffix(); suffix != "" {
			report.Suffix = &suffix
		}
		shown.GroupProgressReports = append(shown.GetGroupProgressReports(), report)
	}
	if !slices.ContainsFunc(group.GetCounts(), func(c *statusv1.StateCount) bool { return c.GetCount() > 0 }) || shows != nil && !shows("tasks") {
		return shown, nil
	}
	found, err := listAll(ctx, s.status, &statusv1.ListTasksRequest{
		GroupId: group.GetId(), PageSize: members, OmitResults: true, OmitErrors: true,
	})
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Backward(found.GetTasks()) {
		shown.Tasks = append(shown.GetTasks(), h.minimal(t))
	}
	return shown, nil
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

package gateway

import (
	"context"
	"fmt"
	"slices"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// What can be given on a task and on a schedule, by Pulp's names.
var (
	taskRoles     = []string{"core.task_owner", "core.task_viewer"}
	scheduleRoles = []string{"core.taskschedule_owner", "core.taskschedule_viewer"}

	taskPermissions = []string{
		"core.change_task", "core.delete_task", "core.manage_roles_task", "core.view_task", "core.view_task_profile_artifacts",
	}
	schedulePermissions = []string{
		"core.change_taskschedule", "core.delete_taskschedule", "core.manage_roles_taskschedule", "core.view_taskschedule",
	}
)

// dispatcherRole says in Pulp who dispatched a task. Nobody can be given it.
const dispatcherRole = "core.task_user_dispatcher"

// grant is who is to have a role, or no longer.
type grant interface {
	GetRole() string
	GetUsers() []string
	GetGroups() []string
}

// checkGrant checks a grant in Django's words. It is not stored: every user is an administrator, and may do everything already.
func checkGrant(ctx context.Context, access accessv1.AccessServiceClient, g grant, roles, others []string) error {
	bad := &filters{}
	switch role := g.GetRole(); {
	case role == dispatcherRole:
		bad.fail("role", fmt.Sprintf("The role %s can't be given or taken away.", role))
	case slices.Contains(others, role):
		bad.fail("role", fmt.Sprintf("The role %s does not carry any permission for that object.", role))
	case !slices.Contains(roles, role):
		bad.fail("role", fmt.Sprintf("Object with name=%s does not exist.", role))
	}
	known := []string{administrator.name}
	if access != nil && len(g.GetUsers()) > 0 {
		response, err := access.ListUsers(ctx, &accessv1.ListUsersRequest{})
		if err != nil {
			return err
		}
		known = nil
		for _, user := range response.GetUsers() {
			known = append(known, user.GetUsername())
		}
	}
	for _, name := range g.GetUsers() {
		if !slices.Contains(known, name) {
			bad.fail("users", fmt.Sprintf("Object with username=%s does not exist.", name))
		}
	}
	for _, name := range g.GetGroups() { // there are none
		bad.fail("groups", fmt.Sprintf("Object with name=%s does not exist.", name))
	}
	if most := maxReported; len(bad.violations) > most {
		bad.violations = bad.violations[:most]
	}
	return bad.err()
}

// exists makes sure that a task does.
func (s *tasks) exists(ctx context.Context, reference string) error {
	id, ok := canonicalID(reference)
	if !ok {
		return noTask()
	}
	found, err := s.status.ListTasks(ctx, &statusv1.ListTasksRequest{
		Filter: tasksOf(id), PageSize: 1, OmitResults: true, OmitErrors: true,
	})
	if err == nil && len(found.GetTasks()) == 0 {
		return noTask()
	}
	return err
}

func (s *tasks) grant(ctx context.Context, id string, g grant) error {
	if err := s.exists(ctx, id); err != nil {
		return err
	}
	return checkGrant(ctx, s.access, g, taskRoles, scheduleRoles)
}

// ListTaskRoles lists nobody: every user is an administrator, and needs no role.
func (s *tasks) ListTaskRoles(ctx context.Context, r *pulpv3.ListTaskRolesRequest) (*pulpv3.ListTaskRolesResponse, error) {
	return &pulpv3.ListTaskRolesResponse{}, s.exists(ctx, r.GetPulpId())
}

// ReadTaskPermissions lists all that there is.
func (s *tasks) ReadTaskPermissions(ctx context.Context, r *pulpv3.ReadTaskPermissionsRequest) (*pulpv3.ReadTaskPermissionsResponse, error) {
	return &pulpv3.ReadTaskPermissionsResponse{Permissions: taskPermissions}, s.exists(ctx, r.GetPulpId())
}

// AddTaskRole checks what it is asked for.
func (s *tasks) AddTaskRole(ctx context.Context, r *pulpv3.AddTaskRoleRequest) (*pulpv3.AddTaskRoleResponse, error) {
	return &pulpv3.AddTaskRoleResponse{Role: r.GetRole(), Users: r.GetUsers(), Groups: r.GetGroups()}, s.grant(ctx, r.GetPulpId(), r)
}

// RemoveTaskRole checks what it is asked for.
func (s *tasks) RemoveTaskRole(ctx context.Context, r *pulpv3.RemoveTaskRoleRequest) (*pulpv3.RemoveTaskRoleResponse, error) {
	return &pulpv3.RemoveTaskRoleResponse{Role: r.GetRole(), Users: r.GetUsers(), Groups: r.GetGroups()}, s.grant(ctx, r.GetPulpId(), r)
}

func (s *schedules) grant(ctx context.Context, id string, g grant) error {
	if _, err := s.read(ctx, id); err != nil {
		return err
	}
	return checkGrant(ctx, s.access, g, scheduleRoles, taskRoles)
}

// ListTaskScheduleRoles lists nobody, as for tasks.
func (s *schedules) ListTaskScheduleRoles(ctx context.Context, r *pulpv3.ListTaskScheduleRolesRequest) (*pulpv3.ListTaskScheduleRolesResponse, error) {
	_, err := s.read(ctx, r.GetPulpId())
	return &pulpv3.ListTaskScheduleRolesResponse{}, err
}

// ReadTaskSchedulePermissions lists all that there is.
func (s *schedules) ReadTaskSchedulePermissions(
	ctx context.Context, r *pulpv3.ReadTaskSchedulePermissionsRequest,
) (*pulpv3.ReadTaskSchedulePermissionsResponse, error) {
	_, err := s.read(ctx, r.GetPulpId())
	return &pulpv3.ReadTaskSchedulePermissionsResponse{Permissions: schedulePermissions}, err
}

// AddTaskScheduleRole checks what it is asked for.
func (s *schedules) AddTaskScheduleRole(ctx context.Context, r *pulpv3.AddTaskScheduleRoleRequest) (*pulpv3.AddTaskScheduleRoleResponse, error) {
	return &pulpv3.AddTaskScheduleRoleResponse{Role: r.GetRole(), Users: r.GetUsers(), Groups: r.GetGroups()}, s.grant(ctx, r.GetPulpId(), r)
}

// RemoveTaskScheduleRole checks what it is asked for.
func (s *schedules) RemoveTaskScheduleRole(ctx context.Context, r *pulpv3.RemoveTaskScheduleRoleRequest) (*pulpv3.RemoveTaskScheduleRoleResponse, error) {
	return &pulpv3.RemoveTaskScheduleRoleResponse{Role: r.GetRole(), Users: r.GetUsers(), Groups: r.GetGroups()}, s.grant(ctx, r.GetPulpId(), r)
}

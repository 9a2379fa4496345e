package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/gateway"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

func TestRolesAreCheckedAndNobodyNeedsOne(t *testing.T) {
	n := timetable(aSchedule(1, "s", "t", 0))
	f := newFace(t, n, gateway.Config{})
	for _, c := range []struct{ path, owner, other, permissions string }{
		{
			"/pulp/api/v3/tasks/" + taskID + "/", "core.task_owner", "core.taskschedule_owner",
			`{"permissions":["core.change_task","core.delete_task","core.manage_roles_task","core.view_task","core.view_task_profile_artifacts"]}`,
		},
		{
			schedulesPath + scheduleID(1) + "/", "core.taskschedule_owner", "core.task_owner",
			`{"permissions":["core.change_taskschedule","core.delete_taskschedule","core.manage_roles_taskschedule","core.view_taskschedule"]}`,
		},
	} {
		want(t, f.do(t, http.MethodGet, c.path+"list_roles/", ""), http.StatusOK, `{"roles":[]}`)
		want(t, f.do(t, http.MethodGet, c.path+"my_permissions/", ""), http.StatusOK, c.permissions)
		for _, action := range []string{"add_role/", "remove_role/"} {
			do := func(body string) (int, string) {
				w := f.do(t, http.MethodPost, c.path+action, body)
				return w.Code, w.Body.String()
			}
			for body, answer := range map[string]string{
				`{"role":"` + c.owner + `","users":["admin"],"groups":[]}`: `{"role":"` + c.owner + `","users":["admin"],"groups":[]}`,
				`{"role":"` + c.owner + `"}`:                               `{"role":"` + c.owner + `","users":[],"groups":[]}`,
			} {
				if code, got := do(body); code != http.StatusCreated || got != answer {
					t.Errorf("%s%s: %d %s", c.path, action, code, got)
				}
			}
			for body, answer := range map[string]string{
				`{}`: `{"role":["This field is required."]}`,
				`{"role":"core.task_user_dispatcher","users":["admin"]}`: `{"role":["The role core.task_user_dispatcher can't be given or taken away."]}`,
				`{"role":"` + c.other + `","users":["admin"]}`:           `{"role":["The role ` + c.other + ` does not carry any permission for that object."]}`,
				`{"role":"nope"}`: `{"role":["Object with name=nope does not exist."]}`,
				`{"role":"` + c.owner + `","users":["admin","eve"],"groups":["g"]}`: `{"groups":["Object with name=g does not exist."],"users":["Object with username=eve does not exist."]}`,
			} {
				if code, got := do(body); code != http.StatusBadRequest || got != answer {
					t.Errorf("%s%s: %d %s", c.path, action, code, got)
				}
			}
		}
	}
}

func TestRolesOfWhatIsNotThere(t *testing.T) {
	n := timetable(aSchedule(1, "s", "t", 0))
	n.list = func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		return &statusv1.ListTasksResponse{}, nil
	}
	f := newFace(t, n, gateway.Config{})
	for _, id := range []string{otherID, "nonsense"} {
		for _, path := range []string{"/pulp/api/v3/tasks/" + id + "/", schedulesPath + id + "/"} {
			words := `{"detail":"No Task matches the given query."}`
			if strings.HasPrefix(path, schedulesPath) {
				words = `{"detail":"No TaskSchedule matches the given query."}`
			}
			want(t, f.do(t, http.MethodGet, path+"list_roles/", ""), http.StatusNotFound, words)
			want(t, f.do(t, http.MethodGet, path+"my_permissions/", ""), http.StatusNotFound, words)
			want(t, f.do(t, http.MethodPost, path+"add_role/", `{"role":"nope"}`), http.StatusNotFound, words)
			want(t, f.do(t, http.MethodPost, path+"remove_role/", `{"role":"nope"}`), http.StatusNotFound, words)
		}
	}
}

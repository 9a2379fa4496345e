package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const groupsPath = "/pulp/api/v3/task-groups/"

// groupOf is a group with its members by state.
func groupOf(id string, counts map[taskv1.State]int64) *statusv1.GetTaskGroupResponse {
	g := &statusv1.GetTaskGroupResponse{Id: id, Description: "a group"}
	for state, n := range counts {
		g.Counts = append(g.Counts, &statusv1.StateCount{State: state, Count: n})
	}
	return g
}

func TestAGroupShowsItsProgress(t *testing.T) {
	g := groupOf(groupID, map[taskv1.State]int64{taskv1.State_STATE_CANCELING: 2})
	g.Progress = []*taskv1.GroupProgress{{Code: "a", Message: "A", Total: 10, Done: 4}, {Code: "b", Message: "B", Done: 1, Suffix: "files"}}
	n := &native{hooks: hooks{getGroup: func(context.Context, *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error) {
		return g, nil
	}}}
	f := newFace(t, n, gateway.Config{})
	got := object(t, f.do(t, http.MethodGet, groupsPath+groupID+"/", ""))
	if diff := cmp.Diff([]any{
		map[string]any{"message": "A", "code": "a", "total": 10.0, "done": 4.0, "suffix": nil},
		map[string]any{"message": "B", "code": "b", "total": 0.0, "done": 1.0, "suffix": "files"},
	}, got["group_progress_reports"]); diff != "" {
		t.Error(diff)
	}
	if got["canceling"] != 2.0 || got["waiting"] != 0.0 || got["all_tasks_dispatched"] != true || len(got["tasks"].([]any)) != 1 {
		t.Errorf("got %v", got)
	}
	// Members that nobody wants to see are not asked for.
	n.list = func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		return nil, fmt.Errorf("nobody wants to know")
	}
	want(t, f.do(t, http.MethodGet, groupsPath+groupID+"/?fields=description,canceling", ""), http.StatusOK, `{"description":"a group","canceling":2}`)
}

func TestGroupsAreListedWithSomeOfTheirMembers(t *testing.T) {
	const many = 25
	n := &native{hooks: hooks{listGroups: func(_ context.Context, r *statusv1.ListTaskGroupsRequest) (*statusv1.ListTaskGroupsResponse, error) {
		if r.GetPageSize() != many || r.GetOffset() != 10 {
			return nil, fmt.Errorf("asked for %v", r)
		}
		page := &statusv1.ListTaskGroupsResponse{Total: 100}
		for i := range many {
			page.Groups = append(page.Groups, groupOf(fmt.Sprintf("019412ab-0000-7000-8000-%012d", i), map[taskv1.State]int64{taskv1.State_STATE_RUNNING: int64(i)}))
		}
		return page, nil
	}}}
	n.list = func(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		if r.GetPageSize() != 100 || r.GetCount() {
			return nil, fmt.Errorf("asked for %v", r)
		}
		member := runningTask()
		member.Name = r.GetGroupId()
		return &statusv1.ListTasksResponse{Tasks: []*taskv1.Task{member}}, nil
	}
	f := newFace(t, n, gateway.Config{})
	page := object(t, f.do(t, http.MethodGet, groupsPath+"?limit=25&offset=10", ""))
	if page["count"] != 100.0 || page["next"] != "http://localhost:24817"+groupsPath+"?limit=25&offset=35" ||
		page["previous"] != "http://localhost:24817"+groupsPath+"?limit=25" {
		t.Errorf("got %v, %v, %v", page["count"], page["next"], page["previous"])
	}
	for i, one := range page["results"].([]any) {
		group := one.(map[string]any)
		id := fmt.Sprintf("019412ab-0000-7000-8000-%012d", i)
		members := group["tasks"].([]any)
		if group["pulp_href"] != groupsPath+id+"/" || group["running"] != float64(i) || len(members) != min(i, 1) ||
			i > 0 && members[0].(map[string]any)["name"] != id {
			t.Errorf("group %d: %v", i, group)
		}
	}
	want(t, f.do(t, http.MethodGet, groupsPath+"?state=running", ""), http.StatusBadRequest, `{"errors":["Invalid Filter: 'state'"]}`)
	n.list = func(context.Context, *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		return nil, errs.Away(errs.DatabaseAway, nil, "the database can't be reached")
	}
	if w := f.do(t, http.MethodGet, groupsPath+"?limit=25&offset=10", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("members can't be read: %d %s", w.Code, w.Body)
	}
}

func TestAGroupIsMade(t *testing.T) {
	n := &native{hooks: hooks{createGroup: func(_ context.Context, r *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error) {
		if r.GetDescription() != "what for" {
			return nil, fmt.Errorf("asked for %v", r)
		}
		return &dispatcherv1.CreateTaskGroupResponse{GroupId: groupID}, nil
	}}}
	f := newFace(t, n, gateway.Config{})
	w := f.do(t, http.MethodPost, groupsPath, `{"description":"what for"}`)
	got := object(t, w)
	if w.Code != http.StatusCreated || w.Header().Get("Location") != groupsPath+groupID+"/" || got["description"] != "what for" ||
		got["waiting"] != 0.0 || len(got["tasks"].([]any)) != 0 || got["prn"] != "prn:core.taskgroup:"+groupID {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	want(t, f.do(t, http.MethodPost, groupsPath, `{"name":"x"}`), http.StatusBadRequest, `{"name":["Unexpected field"]}`)
}

func TestCancelOfAGroupSaysWhetherSomeAreLeft(t *testing.T) {
	var canceled int
	left := map[taskv1.State]int64{taskv1.State_STATE_CANCELING: 1, taskv1.State_STATE_CANCELED: 3, taskv1.State_STATE_COMPLETED: 1}
	n := &native{hooks: hooks{
		cancelGroup: func(_ context.Context, r *dispatcherv1.CancelTaskGroupRequest) (*dispatcherv1.CancelTaskGroupResponse, error) {
			if r.GetGroupId() != groupID {
				return nil, errs.NotFound(errs.GroupNotFound, "no task group")
			}
			canceled++
			return &dispatcherv1.CancelTaskGroupResponse{Canceled: 3, Canceling: 1}, nil
		},
		getGroup: func(context.Context, *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error) {
			return groupOf(groupID, left), nil
		},
	}}
	f := newFace(t, n, gateway.Config{})
	cancel := func(id, body string) (int, string) {
		w := f.do(t, http.MethodPatch, groupsPath+id+"/", body)
		return w.Code, w.Body.String()
	}
	// The wish is checked first, also where there is no such group.
	for _, id := range []string{groupID, otherID, "nonsense"} {
		if code, body := cancel(id, `{"state":"completed"}`); code != http.StatusBadRequest || body != `{"state":["The only acceptable value for 'state' is 'canceled'."]}` {
			t.Errorf("%d %s", code, body)
		}
		if code, body := cancel(id, `{}`); code != http.StatusBadRequest || body != `{"state":["This field is required."]}` {
			t.Errorf("%d %s", code, body)
		}
	}
	if canceled != 0 {
		t.Error("it was canceled")
	}
	for _, id := range []string{otherID, "nonsense"} {
		if code, body := cancel(id, `{"state":"canceled"}`); code != http.StatusNotFound || body != `{"detail":"No TaskGroup matches the given query."}` {
			t.Errorf("%d %s", code, body)
		}
	}
	if code, body := cancel(groupID, `{"state":"canceled"}`); code != http.StatusOK || canceled != 1 {
		t.Errorf("%d %s", code, body)
	}
	for _, state := range []taskv1.State{taskv1.State_STATE_RUNNING, taskv1.State_STATE_WAITING} {
		left = map[taskv1.State]int64{state: 1}
		if code, body := cancel(groupID, `{"state":"canceled"}`); code != http.StatusConflict {
			t.Errorf("%d %s", code, body)
		}
	}
}

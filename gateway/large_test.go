package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/gateway"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// A result can be a mebibyte. A client that waits for a group reads it each second, and gets no result of its thousand members.
func TestResultsAreReadOnlyWhereTheyAreShown(t *testing.T) {
	counted := func(context.Context, *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error) {
		return &statusv1.GetTaskGroupResponse{Id: groupID, Counts: []*statusv1.StateCount{{State: taskv1.State_STATE_FAILED, Count: 1}}}, nil
	}
	for target, want := range map[string]struct{ results, errors bool }{
		tasksPath:                             {},
		tasksPath + "?fields=result":          {errors: true},
		tasksPath + "?fields=name,error":      {results: true},
		tasksPath + "?exclude_fields=result":  {results: true},
		tasksPath + "?minimal=true":           {true, true},
		taskPath + "list_roles/":              {true, true},
		root + "task-groups/" + groupID + "/": {true, true},
	} {
		f := newFace(t, &native{hooks: hooks{getGroup: counted}}, gateway.Config{})
		if w := f.do(t, http.MethodGet, target, ""); w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
		if f.listed.GetOmitResults() != want.results || f.listed.GetOmitErrors() != want.errors {
			t.Errorf("%s asked for %v", target, f.listed)
		}
	}
}

// A page of the largest results is some times its size on its way: one request of a thousand took the memory of a whole machine.
func TestAPageOfResultsHasABound(t *testing.T) {
	result := `"` + strings.Repeat("x", 1<<20-2) + `"`
	given := 0
	n := &native{list: func(_ context.Context, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
		if given > 0 && r.GetPageSize() > 6 {
			t.Errorf("%d more were asked for where three had room", r.GetPageSize())
		}
		answer := &statusv1.ListTasksResponse{More: true, NextPageToken: "more"}
		for range min(3, r.GetPageSize()) {
			given++
			answer.Tasks = append(answer.Tasks, &taskv1.Task{Id: taskID, State: taskv1.State_STATE_COMPLETED, ResultJson: result})
		}
		return answer, nil
	}}
	f := newFace(t, n, gateway.Config{}).unjudged() // which would take a minute
	want(t, f.do(t, http.MethodGet, tasksPath+"?limit=1000", ""), http.StatusBadRequest, `{"detail":"The results of so many tasks are too `+
		`large for one page: ask for fewer with limit, or leave them out with exclude_fields=result."}`)
	if given > 200 {
		t.Errorf("%d results of a mebibyte were read before it was refused", given)
	}
	given = 0
	if w := f.do(t, http.MethodGet, tasksPath+"?limit=20", ""); w.Code != http.StatusOK || w.Body.Len() < 20<<20 {
		t.Errorf("a small page: status %d, %d bytes", w.Code, w.Body.Len())
	}
}

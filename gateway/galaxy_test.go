package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/gateway"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

func TestGalaxysClientsGetATokenForAPasswordAndCanEndIt(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	for _, alias := range []string{"/api/galaxy/", "/api/automation-hub/", "/api//galaxy/"} {
		path := alias + "v3/auth/token/"
		want(t, h.knock(http.MethodPost, path, basic("ada:correct:horse")), http.StatusOK, `{"token":"token-of-7"}`)
		want(t, h.knock(http.MethodPost, path, basic("ada:wrong")), http.StatusUnauthorized, `{"detail":"Invalid username/password."}`)
	}
	const path = "/api/galaxy/v3/auth/token/"
	w := h.knock(http.MethodGet, path, basic("ada:correct:horse"))
	want(t, w, http.StatusMethodNotAllowed, `{"detail":"Method \"GET\" not allowed."}`)
	if got := w.Header().Get("Allow"); got != "DELETE, OPTIONS, POST" {
		t.Errorf("Allow %q", got)
	}
	want(t, h.knock(http.MethodDelete, path, "Token wrong"), http.StatusUnauthorized, `{"detail":"Invalid token."}`)
	if w := h.knock(http.MethodDelete, path, basic("ada:correct:horse")); w.Code != http.StatusBadRequest {
		t.Errorf("without a token: %d %s", w.Code, w.Body)
	}
	if len(h.deleted) != 0 {
		t.Errorf("deleted %v", h.deleted)
	}
	want(t, h.knock(http.MethodDelete, path, "Token ada-token"), http.StatusNoContent, "")
	if diff := cmp.Diff([]string{"ada-token"}, h.deleted); diff != "" {
		t.Error(diff)
	}
}

// What was remembered must not be of use for more than it was given for: a token outlives the half minute by a month.
func TestATokenIsNotGivenForAPasswordThatWasRightBefore(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	h.knock(http.MethodGet, root+"tasks/", basic("ada:correct:horse"))
	h.knock(http.MethodPost, "/api/galaxy/v3/auth/token/", basic("ada:correct:horse"))
	if n := h.questions(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

func TestATokenThatWasEndedIsAskedAboutAgain(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	spellings := []string{"Token ada-token", "token ada-token", "Bearer ada-token", "Token   ada-token"}
	for _, header := range spellings {
		h.knock(http.MethodGet, root+"tasks/", header)
	}
	h.knock(http.MethodDelete, "/api/galaxy/v3/auth/token/", "Token ada-token")
	for _, header := range spellings {
		before := h.questions()
		h.knock(http.MethodGet, root+"tasks/", header)
		if h.questions() != before+1 {
			t.Errorf("%q was still taken for right", header)
		}
		h.knock(http.MethodDelete, "/api/galaxy/v3/auth/token/", header)
	}
}

func TestWithoutUsersGalaxysClientsGetAnyToken(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	var answer struct{ Token string }
	w := f.do(t, http.MethodPost, "/api/galaxy/v3/auth/token/", "")
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK || len(answer.Token) < 40 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	want(t, f.do(t, http.MethodDelete, "/api/galaxy/v3/auth/token/", "", "Authorization", "Token "+answer.Token), http.StatusNoContent, "")
}

func TestGalaxysClientsSeeTasksWithIdsWherePulpHasHrefs(t *testing.T) {
	total, suffix := int64(10), "files"
	n := &native{getTask: func(_ context.Context, r *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		running := runningTask()
		running.Id = r.GetTaskId()
		if r.GetTaskId() == otherID {
			running.State, running.Executor, running.Incarnation, running.ParentId, running.FinishedAt = taskv1.State_STATE_FAILED, "", "", "", at(9)
			running.Error = &taskv1.TaskError{Description: "it broke", Code: "ERROR"}
			return &statusv1.GetTaskResponse{Task: running}, nil
		}
		return &statusv1.GetTaskResponse{Task: running, ChildIds: []string{childID}, Report: &statusv1.TaskReport{Progress: []*taskv1.Progress{
			{Message: "copying", Code: "copy", State: taskv1.State_STATE_RUNNING, Total: &total, Done: 3, Suffix: suffix},
		}}}, nil
	}}
	h := newHouse(t, n, &doorman{}, gateway.Config{})
	want(t, h.knock(http.MethodGet, "/api/galaxy/v3/tasks/"+taskID+"/", "Token ada-token"), http.StatusOK,
		`{"pulp_id":"`+taskID+`","name":"test.echo","created_at":"2026-11-22T10:15:00.120000Z","updated_at":"2026-11-22T10:15:03.120000Z",`+
			`"finished_at":null,"started_at":"2026-11-22T10:15:02.120000Z","state":"running","error":null,`+
			`"worker":{"name":"executor-1","missing":false,"last_heartbeat":"2026-11-22T10:15:05.120000Z"},"parent_task":"`+parentID+`",`+
			`"child_tasks":["`+childID+`"],"progress_reports":[{"message":"copying","code":"copy","state":"running","total":10,"done":3,"suffix":"files"}]}`)
	want(t, h.knock(http.MethodGet, "/api/galaxy/v3/tasks/"+otherID, "Token ada-token"), http.StatusOK,
		`{"pulp_id":"`+otherID+`","name":"test.echo","created_at":"2026-11-22T10:15:00.120000Z","updated_at":"2026-11-22T10:15:03.120000Z",`+
			`"finished_at":"2026-11-22T10:15:09.120000Z","started_at":"2026-11-22T10:15:02.120000Z","state":"failed",`+
			`"error":{"description":"it broke","traceback":"","error_code":"ERROR"},"worker":null,"parent_task":null,"child_tasks":[],"progress_reports":[]}`)
}

func TestGalaxysTasksAreReadOnly(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/api/galaxy/v3/tasks/" + otherID + "/", http.StatusNotFound},
		{http.MethodGet, "/api/galaxy/v3/tasks/x/", http.StatusNotFound},
		{http.MethodGet, "/api/galaxy/v3/tasks/", http.StatusNotFound},
		{http.MethodGet, "/api/galaxy/v3/else/", http.StatusNotFound},
		{http.MethodDelete, "/api/galaxy/v3/tasks/" + taskID + "/", http.StatusMethodNotAllowed},
		{http.MethodPatch, "/api/galaxy/v3/tasks/" + taskID + "/", http.StatusMethodNotAllowed},
		{http.MethodHead, "/api/galaxy/v3/tasks/" + taskID + "/", http.StatusOK},
	} {
		if w := h.knock(c.method, c.path, "Token ada-token"); w.Code != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.status)
		}
	}
}

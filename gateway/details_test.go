package gateway_test

import (
	"context"
	"testing"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const explainPath = taskPath + "explain/"

func TestProfileArtifactsAreWholeURLsWithAKey(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", taskPath+"profile_artifacts/", ""), 200, `{"urls":{}}`)
	n.named = func(_ context.Context, r *statusv1.ListTaskArtifactsRequest) (*statusv1.ListTaskArtifactsResponse, error) {
		if r.GetTaskId() != taskID {
			return nil, errs.NotFound(errs.TaskNotFound, "no task")
		}
		return &statusv1.ListTaskArtifactsResponse{Artifacts: []*statusv1.TaskArtifact{{Name: "memory_profile", Key: "k+/="}, {Name: "cpu.pprof", Key: "x"}}}, nil
	}
	want(t, f.do(t, "GET", taskPath+"profile_artifacts/", ""), 200, `{"urls":{`+
		`"cpu.pprof":"http://localhost:24817`+taskPath+`profile_artifacts/cpu.pprof/?key=x",`+
		`"memory_profile":"http://localhost:24817`+taskPath+`profile_artifacts/memory_profile/?key=k%2B%2F%3D"}}`)
	got := object(t, f.do(t, "GET", "/api/galaxy"+taskPath+"profile_artifacts/", "", "X-Forwarded-Proto", "https"))
	if urls, _ := got["urls"].(map[string]any); urls["cpu.pprof"] != "https://localhost:24817/api/galaxy"+taskPath+"profile_artifacts/cpu.pprof/?key=x" {
		t.Errorf("by an alias, behind TLS: %v", got)
	}
	for _, id := range []string{otherID, "x"} {
		want(t, f.do(t, "GET", tasksPath+id+"/profile_artifacts/", ""), 404, `{"detail":"No Task matches the given query."}`)
	}
}

func TestADiagnosticIsDownloadedByItsKey(t *testing.T) {
	n := &native{artifact: func(_ context.Context, r *statusv1.GetTaskArtifactRequest) (*statusv1.GetTaskArtifactResponse, error) {
		if r.GetTaskId() != taskID || r.GetName() != "page" || r.GetKey() != "k+/=" {
			return nil, errs.NotFound(errs.ArtifactNotFound, "no such diagnostic")
		}
		return &statusv1.GetTaskArtifactResponse{ContentType: "text/html", Data: []byte("<script>\x00")}, nil
	}}
	f := newFace(t, n, gateway.Config{}).unjudged()
	path := taskPath + "profile_artifacts/page/"
	w := f.do(t, "GET", path+"?key=k%2B%2F%3D", "")
	if w.Code != 200 || w.Body.String() != "<script>\x00" {
		t.Fatalf("%d %q", w.Code, w.Body)
	}
	for name, value := range map[string]string{
		"Content-Type": "text/html", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox",
		"Content-Disposition": "attachment; filename=page", "Content-Length": "9", "Cache-Control": "private, no-store",
	} {
		if got := w.Header().Get(name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	for _, target := range []string{
		path, path + "?key=", path + "?key=wrong", path + "?kez=x", taskPath + "profile_artifacts/other/?key=k%2B%2F%3D",
		tasksPath + "x/profile_artifacts/page/?key=k%2B%2F%3D", tasksPath + otherID + "/profile_artifacts/page/?key=k%2B%2F%3D", path + "?key=%00",
	} {
		want(t, f.do(t, "GET", target, ""), 404, notFound)
	}
	want(t, f.do(t, "POST", path, `{}`), 405, `{"detail":"Method \"POST\" not allowed."}`)
	// As an executor that says nothing of the type stores it.
	n.artifact = func(context.Context, *statusv1.GetTaskArtifactRequest) (*statusv1.GetTaskArtifactResponse, error) {
		return &statusv1.GetTaskArtifactResponse{Data: []byte("top")}, nil
	}
	if w := f.do(t, "GET", path+"?key=k", ""); w.Header().Get("Content-Type") != "text/plain; charset=utf-8" || w.Body.String() != "top" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

func TestExplainSaysWhatATaskWaitsFor(t *testing.T) {
	n := &native{
		getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
			return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_WAITING}}, nil
		},
		explain: func(_ context.Context, r *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
			return &schedulerv1.ExplainResponse{
				Live: true, Summary: "It waits for a.", ExecutorsWithName: 3, ExecutorsWithVersions: 2, FreeSlots: 7, RetryAt: at(9),
				Waits: []*schedulerv1.ResourceWait{{Resource: "a", Exclusive: true, Holders: []*schedulerv1.ResourceUse{{TaskId: otherID}}, HolderCount: 1, Ahead: 4}},
			}, nil
		},
	}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", explainPath, ""), 200, `{"state":"waiting","summary":"It waits for a.","unblocked":false,`+
		`"waits":[{"resource":"a","exclusive":true,"held_by":["`+tasksPath+otherID+`/"],"ahead":4}],`+
		`"executors_with_name":3,"executors_with_versions":2,"free_slots":7,"retry_at":"2026-11-22T10:15:09.120000Z"}`)
}

func TestExplainOfAFinalTaskAsksNoScheduler(t *testing.T) {
	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_FAILED, UnblockedAt: at(1)}}, nil
	}}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", explainPath, ""), 200, `{"state":"failed","summary":"It is failed: nothing is left to wait for.","unblocked":true,`+
		`"waits":[],"executors_with_name":0,"executors_with_versions":0,"free_slots":0,"retry_at":null}`)
	if n.calls != 1 {
		t.Errorf("%d calls", n.calls)
	}
}

func TestExplainWithoutALeader(t *testing.T) {
	n := &native{explain: func(context.Context, *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
		return nil, errs.Away(errs.NotLeading, nil, "no scheduler leads")
	}}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", explainPath, ""), 503, `{"detail":"No scheduler leads."}`)
	for _, id := range []string{otherID, "x"} {
		want(t, f.do(t, "GET", tasksPath+id+"/explain/", ""), 404, `{"detail":"No Task matches the given query."}`)
	}
}

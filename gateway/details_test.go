package gateway_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

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

// use is a task in a queue, as the scheduler shows it.
func use(id string, granted bool, executor string) *schedulerv1.ResourceUse {
	return &schedulerv1.ResourceUse{
		TaskId: id, Name: "test.sleep", Exclusive: true, Granted: granted, CreatedAt: at(1), Since: at(2),
		State: map[bool]taskv1.State{true: taskv1.State_STATE_RUNNING, false: taskv1.State_STATE_WAITING}[executor != ""], Executor: executor,
	}
}

const (
	otherHolds = `{"task":"` + tasksPath + otherID + `/","name":"test.sleep","exclusive":true,"granted":true,"since":"2026-11-22T10:15:02.120000Z","state":"running","executor":"x"}`
	childWaits = `{"task":"` + tasksPath + childID + `/","name":"test.sleep","exclusive":true,"granted":false,"since":"2026-11-22T10:15:02.120000Z","state":"waiting","executor":null}`
)

func TestExplainSaysWhatATaskWaitsFor(t *testing.T) {
	n := &native{
		getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
			return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_WAITING}}, nil
		},
		explain: func(_ context.Context, r *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
			return &schedulerv1.ExplainResponse{
				Live: true, State: taskv1.State_STATE_WAITING, CreatedAt: at(0), Summary: "It waits for a.", ExecutorsWithName: 3, ExecutorsWithVersions: 2,
				FreeSlots: 7, RetryAt: at(9),
				Waits: []*schedulerv1.ResourceWait{{
					Resource: "a", Exclusive: true, Holders: []*schedulerv1.ResourceUse{use(otherID, true, "x")}, HolderCount: 1, Ahead: 4,
					WaitingAhead: []*schedulerv1.ResourceUse{use(childID, false, "")}, AheadAtLeast: true,
				}},
				Chain: []*schedulerv1.BlockerLink{{Resource: "a", Task: use(otherID, true, "x"), Standing: "runs on x"}},
			}, nil
		},
	}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", explainPath, ""), 200, `{"state":"waiting","summary":"It waits for a.","unblocked":false,`+
		`"waits":[{"resource":"a","exclusive":true,"held_by":["`+tasksPath+otherID+`/"],"ahead":4,"holders":[`+otherHolds+`],"waiting_ahead":[`+childWaits+`],"ahead_at_least":true}],`+
		`"executors_with_name":3,"executors_with_versions":2,"free_slots":7,"retry_at":"2026-11-22T10:15:09.120000Z",`+
		`"chain":[{"resource":"a","task":`+otherHolds+`,"standing":"runs on x"}],"nearest":[],"ready_ahead":0,"estimate":null,`+
		`"executor":null,"started_at":null,"last_beat_at":null,"progress_at":null,"progress_reports":[],`+
		`"pulp_created":"2026-11-22T10:15:00.120000Z","unblocked_at":null,"finished_at":null}`)
}

func TestExplainSaysWhatATaskNeedsOfAnExecutorAndHowItsRunIs(t *testing.T) {
	n := &native{explain: func(_ context.Context, r *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
		return &schedulerv1.ExplainResponse{
			Live: true, Summary: "s", Unblocked: true, ReadyAhead: 2, Estimate: durationpb.New(1500 * time.Millisecond),
			Nearest:  []*schedulerv1.NearExecutor{{Executor: "x", Gaps: []*schedulerv1.VersionGap{{Component: "core", Wanted: "3.10"}}}},
			Executor: "x", StartedAt: at(2), UnblockedAt: at(1), LastBeatAt: at(4), ProgressAt: at(3),
			Progress: []*taskv1.Progress{{Code: "sync", Message: "Syncing", State: taskv1.State_STATE_RUNNING, Done: 3}},
		}, nil
	}}
	f := newFace(t, n, gateway.Config{})
	// The rest is what a scheduler of an older version says.
	want(t, f.do(t, "GET", explainPath, ""), 200, `{"state":"running","summary":"s","unblocked":true,"waits":[],`+
		`"executors_with_name":0,"executors_with_versions":0,"free_slots":0,"retry_at":null,"chain":[],`+
		`"nearest":[{"executor":"x","gaps":[{"component":"core","wanted":"3.10","has":""}]}],"ready_ahead":2,"estimate":1.5,`+
		`"executor":"x","started_at":"2026-11-22T10:15:02.120000Z","last_beat_at":"2026-11-22T10:15:04.120000Z","progress_at":"2026-11-22T10:15:03.120000Z",`+
		`"progress_reports":[{"message":"Syncing","code":"sync","state":"running","total":null,"done":3,"suffix":null}],`+
		`"pulp_created":"2026-11-22T10:15:00.120000Z","unblocked_at":"2026-11-22T10:15:01.120000Z","finished_at":null}`)
}

func TestExplainOfAFinalTaskAsksNoScheduler(t *testing.T) {
	n := &native{getTask: func(context.Context, *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
		return &statusv1.GetTaskResponse{Task: &taskv1.Task{Id: taskID, State: taskv1.State_STATE_FAILED, CreatedAt: at(0), UnblockedAt: at(1)}}, nil
	}}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", explainPath, ""), 200, `{"state":"failed","summary":"It is failed: nothing is left to wait for.","unblocked":true,`+
		`"waits":[],"executors_with_name":0,"executors_with_versions":0,"free_slots":0,"retry_at":null,"chain":[],"nearest":[],"ready_ahead":0,`+
		`"estimate":null,"executor":null,"started_at":null,"last_beat_at":null,"progress_at":null,"progress_reports":[],`+
		`"pulp_created":"2026-11-22T10:15:00.120000Z","unblocked_at":"2026-11-22T10:15:01.120000Z","finished_at":null}`)
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

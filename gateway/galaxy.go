package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// galaxy answers what Ansible Galaxy's clients ask for below an alias root: path is what comes after the root, with a slash
// in front and none at the end ("/v3/auth/token"). It reports false for a path that is none of theirs.
func (g *Gateway) galaxy(w http.ResponseWriter, r *http.Request, path, _ string) (handled bool) {
	if path == "/v3/auth/token" {
		g.galaxyToken(w, r)
		return true
	}
	if id, found := strings.CutPrefix(path, "/v3/tasks/"); found && id != "" && !strings.Contains(id, "/") {
		g.galaxyTask(w, r, path, id)
		return true
	}
	return false
}

// galaxyToken gives tokens and ends them.
func (g *Gateway) galaxyToken(w http.ResponseWriter, r *http.Request) {
	const allow = "DELETE, OPTIONS, POST"
	ctx := r.Context()
	switch r.Method {
	case http.MethodPost:
		token, refused := g.callers.newToken(r)
		if refused == nil {
			w.Header().Set("Cache-Control", "no-store")
			refused = &refusal{status: http.StatusOK, body: map[string]string{"token": token}}
		}
		g.refuse(ctx, w, refused)
	case http.MethodDelete:
		refused := g.callers.deleteToken(r)
		if refused == nil {
			refused = &refusal{status: http.StatusNoContent}
		}
		g.refuse(ctx, w, refused)
	case http.MethodOptions:
		w.Header().Set("Allow", allow)
		w.WriteHeader(http.StatusNoContent)
	default:
		g.refuse(ctx, w, notAllowed(w, r.Method, allow))
	}
}

// galaxyTask shows a task as Galaxy's servers do: with ids where Pulp has hrefs.
func (g *Gateway) galaxyTask(w http.ResponseWriter, r *http.Request, path, id string) {
	ctx, cancel := context.WithTimeout(r.Context(), requestWait)
	defer cancel()
	if _, refused := g.callers.identify(r, path); refused != nil {
		g.refuse(ctx, w, refused)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		g.page(w, r, nil) // which allows these two only
		return
	}
	canonical, ok := canonicalID(id)
	if !ok {
		g.refuse(ctx, w, notFound())
		return
	}
	found, err := g.status.GetTask(ctx, &statusv1.GetTaskRequest{TaskId: canonical})
	switch {
	case errs.Is(err, errs.TaskNotFound):
		g.refuse(ctx, w, notFound())
	case err != nil:
		g.refuse(ctx, w, g.refusalOf(ctx, r.Method, err))
	default:
		g.refuse(ctx, w, &refusal{status: http.StatusOK, body: shownInGalaxy(found, g.galaxyWorker(ctx, found.GetTask()))})
	}
}

type galaxyTask struct {
	ID         string           `json:"pulp_id"`
	Name       string           `json:"name"`
	CreatedAt  *string          `json:"created_at"`
	UpdatedAt  *string          `json:"updated_at"`
	FinishedAt *string          `json:"finished_at"`
	StartedAt  *string          `json:"started_at"`
	State      string           `json:"state"`
	Error      any              `json:"error"`
	Worker     *galaxyWorker    `json:"worker"`
	Parent     *string          `json:"parent_task"`
	Children   []string         `json:"child_tasks"`
	Progress   []galaxyProgress `json:"progress_reports"`
}

type galaxyWorker struct {
	Name          string  `json:"name"`
	Missing       bool    `json:"missing"`
	LastHeartbeat *string `json:"last_heartbeat"`
}

type galaxyProgress struct {
	Message string  `json:"message"`
	Code    string  `json:"code"`
	State   string  `json:"state"`
	Total   *int64  `json:"total"`
	Done    int64   `json:"done"`
	Suffix  *string `json:"suffix"`
}

func shownInGalaxy(all *statusv1.GetTaskResponse, worker *galaxyWorker) galaxyTask {
	t := all.GetTask()
	shown := galaxyTask{
		ID: t.GetId(), Name: t.GetName(), State: string(wire.FromState(t.GetState())), Worker: worker,
		CreatedAt: moment(t.GetCreatedAt()), UpdatedAt: moment(t.GetUpdatedAt()),
		FinishedAt: moment(t.GetFinishedAt()), StartedAt: moment(t.GetStartedAt()),
		Children: append([]string{}, all.GetChildIds()...), Progress: []galaxyProgress{}, // lists are never null
	}
	if cause := shownError(t.GetState(), t.GetError()); cause != nil {
		shown.Error = json.RawMessage(cause.GetText())
	}
	if parent := t.GetParentId(); parent != "" {
		shown.Parent = &parent
	}
	for _, p := range all.GetReport().GetProgress() {
		q := shownProgress(p)
		shown.Progress = append(shown.Progress, galaxyProgress{
			Message: q.GetMessage(), Code: q.GetCode(), State: q.GetState(), Total: q.Total, Done: q.GetDone(), Suffix: q.Suffix,
		})
	}
	return shown
}

// moment shows a time as Pulp does, null for none.
func moment(t *timestamppb.Timestamp) *string {
	if t == nil {
		return nil
	}
	text := t.AsTime().UTC().Format(timeLayout)
	return &text
}

// galaxyWait bounds the question about a task's worker.
const galaxyWait = 250 * time.Millisecond

// galaxyWorker shows the life of an executor that runs or ran a task, null if none did. One that nobody remembers is missing.
func (g *Gateway) galaxyWorker(ctx context.Context, t *taskv1.Task) *galaxyWorker {
	if t.GetIncarnation() == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, galaxyWait)
	defer cancel()
	response, err := g.heartbeat.ListApps(ctx, &heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER, IncludeGone: true})
	if err != nil {
		return nil // a task is shown without its worker rather than late
	}
	for _, app := range response.GetApps() {
		if app.GetIncarnation() == t.GetIncarnation() {
			return &galaxyWorker{Name: app.GetName(), Missing: app.GetMissing(), LastHeartbeat: moment(app.GetLastBeatAt())}
		}
	}
	return &galaxyWorker{Name: t.GetExecutor(), Missing: true}
}

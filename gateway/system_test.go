package gateway_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

const (
	workersPath = "/pulp/api/v3/workers/"

	goldenWorker = `{"pulp_href":"/pulp/api/v3/workers/019412ab-0000-7000-8000-0000000000bb/",` +
		`"prn":"prn:core.appstatus:019412ab-0000-7000-8000-0000000000bb",` +
		`"pulp_created":"2026-11-22T10:15:00.120000Z","pulp_last_updated":"2026-11-22T10:15:05.120000Z","name":"executor-1",` +
		`"last_heartbeat":"2026-11-22T10:15:05.120000Z","versions":{"core":"3.117.0","sluice":"0.1.0"},` +
		`"current_task":"/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000001/"}`
	goldenGone = `{"pulp_href":"/pulp/api/v3/workers/019412ab-0000-7000-8000-000000000003/",` +
		`"prn":"prn:core.appstatus:019412ab-0000-7000-8000-000000000003",` +
		`"pulp_created":"2026-11-22T10:15:00.120000Z","pulp_last_updated":"2026-11-22T10:15:02.120000Z","name":"executor-0",` +
		`"last_heartbeat":"2026-11-22T10:15:02.120000Z","versions":{},"current_task":null}`

	versions = `"versions":[{"component":"core","version":"3.117.0","package":"pulpcore","module":"pulpcore.app","domain_compatible":true},` +
		`{"component":"sluice","version":"0.1.0","package":"sluice","module":"sluice","domain_compatible":true}]`
	afterDatabase = `"redis_connection":{"connected":false},"storage":null,"content_settings":{"content_origin":"","content_path_prefix":""},"domain_enabled":false}`
)

func TestWorkers(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	page := func(count, workers string) string {
		return `{"count":` + count + `,"next":null,"previous":null,"results":[` + workers + `]}`
	}
	for target, answer := range map[string]string{
		workersPath:                              page("1", goldenWorker),
		workersPath + "?online=true":             page("1", goldenWorker),
		workersPath + "?missing=false":           page("1", goldenWorker),
		workersPath + "?name=executor-1&limit=1": page("1", goldenWorker),
		workersPath + "?name=nobody":             page("0", ""),
		workersPath + "?missing=true":            page("1", goldenGone),
		workersPath + "?online=false":            page("1", goldenGone),
		workersPath + "?offset=5":                `{"count":1,"next":null,"previous":"http://localhost:24817/pulp/api/v3/workers/?limit=100","results":[]}`,
		workersPath + workerID + "/":             goldenWorker,
		workersPath + parentID + "/":             goldenGone,
	} {
		t.Run(target, func(t *testing.T) { want(t, f.do(t, "GET", target, ""), 200, answer) })
	}
	want(t, f.do(t, "GET", workersPath+"?online=maybe", ""), 400, `{"online":["Must be a valid boolean."]}`)
	want(t, f.do(t, "GET", workersPath+"?nme=x", ""), 400, `{"errors":["Invalid Filter: 'nme'"]}`)
	for _, id := range []string{otherID, "executor-1"} { // otherID is an API app
		want(t, f.do(t, "GET", workersPath+id+"/", ""), 404, `{"detail":"No AppStatus matches the given query."}`)
	}
}

func TestTaskGroup(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	want(t, f.do(t, "GET", "/pulp/api/v3/task-groups/"+groupID+"/", ""), 200,
		`{"pulp_href":"/pulp/api/v3/task-groups/019412ab-0000-7000-8000-0000000000aa/","prn":"prn:core.taskgroup:019412ab-0000-7000-8000-0000000000aa",`+
			`"description":"a group","all_tasks_dispatched":true,"waiting":0,"skipped":0,"running":1,"completed":0,"canceled":0,"failed":7,"canceling":0,`+
			`"group_progress_reports":[],"tasks":[{"pulp_href":"/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000001/","prn":"prn:core.task:019412ab-0000-7000-8000-000000000001",`+
			`"pulp_created":"2026-11-22T10:15:00.120000Z","pulp_last_updated":"2026-11-22T10:15:03.120000Z","pulp_api_version":"v3","name":"test.echo","state":"running",`+
			`"unblocked_at":"2026-11-22T10:15:01.120000Z","started_at":"2026-11-22T10:15:02.120000Z","finished_at":null,"worker":"/pulp/api/v3/workers/019412ab-0000-7000-8000-0000000000bb/"}]}`)
	for _, id := range []string{otherID, "x"} {
		want(t, f.do(t, "GET", "/pulp/api/v3/task-groups/"+id+"/", ""), 404, `{"detail":"No TaskGroup matches the given query."}`)
	}
}

func TestStatus(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", "/pulp/api/v3/status/", ""), 200, `{`+versions+`,`+
		`"online_workers":[{"name":"executor-1","last_heartbeat":"2026-11-22T10:15:05.120000Z","versions":{"core":"3.117.0","sluice":"0.1.0"}}],`+
		`"online_api_apps":[{"name":"api","last_heartbeat":"2026-11-22T10:15:01.120000Z","versions":{}}],"online_content_apps":[],`+
		`"database_connection":{"connected":true},`+afterDatabase)

	n.system = func(context.Context, *statusv1.GetSystemStatusRequest) (*statusv1.GetSystemStatusResponse, error) {
		return nil, errs.Precondition(errs.BadProtocol, "broken")
	}
	n.apps = func(context.Context, *heartbeatv1.ListAppsRequest) (*heartbeatv1.ListAppsResponse, error) {
		return nil, errs.Precondition(errs.BadProtocol, "broken")
	}
	want(t, f.do(t, "GET", "/pulp/api/v3/status/", ""), 200, `{`+versions+`,`+
		`"online_workers":[],"online_api_apps":[],"online_content_apps":[],"database_connection":{"connected":false},`+afterDatabase)
}

func TestLivezAsksNobody(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", "/pulp/api/v3/livez/", ""), 200, "")
	want(t, f.do(t, "POST", "/pulp/api/v3/livez/", ""), 405, `{"detail":"Method \"POST\" not allowed."}`)
	if n.calls > 0 {
		t.Errorf("%d calls reached the services", n.calls)
	}
}

func TestGatewayNeedsAllConnections(t *testing.T) {
	if _, err := gateway.New(gateway.Config{}, gateway.Services{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a gateway without services was made")
	}
}

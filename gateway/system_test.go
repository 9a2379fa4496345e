package gateway_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
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

// fleet is three executors, of which two live.
func fleet() *native {
	return &native{apps: func(_ context.Context, r *heartbeatv1.ListAppsRequest) (*heartbeatv1.ListAppsResponse, error) {
		response := &heartbeatv1.ListAppsResponse{}
		for _, app := range []*heartbeatv1.App{
			{Incarnation: taskID, Name: "Alpha-1", Online: true, RegisteredAt: at(3), LastBeatAt: at(20), Versions: map[string]string{"core": "3.1"}},
			{Incarnation: childID, Name: "alpha-2", Online: true, RegisteredAt: at(2), LastBeatAt: at(30), Versions: map[string]string{"core": "3.0"}},
			{Incarnation: parentID, Name: "beta.1", Missing: true, RegisteredAt: at(1), LastBeatAt: at(10)},
		} {
			if app.Kind = heartbeatv1.Kind_KIND_WORKER; app.GetOnline() || r.GetIncludeGone() {
				response.Apps = append(response.Apps, app)
			}
		}
		return response, nil
	}}
}

func TestEveryFilterAndOrderOfWorkers(t *testing.T) {
	f := newFace(t, fleet(), gateway.Config{}).unjudged()
	seen := map[string]bool{}
	for query, names := range map[string]string{
		"":                            "Alpha-1 alpha-2",
		"name=alpha-2":                "alpha-2",
		"name=alpha":                  "",
		"name__iexact=ALPHA-2":        "alpha-2",
		"name__in=alpha-2,Alpha-1,x":  "Alpha-1 alpha-2",
		"name__in=,":                  "Alpha-1 alpha-2",
		"name__contains=lpha-1":       "Alpha-1",
		"name__contains=LPHA":         "",
		"name__icontains=LPHA":        "Alpha-1 alpha-2",
		"name__startswith=alpha":      "alpha-2",
		"name__istartswith=aLPHA":     "Alpha-1 alpha-2",
		"name__regex=^[a-z]+-[0-9]$":  "alpha-2",
		"name__iregex=^[a-z]+-[0-9]$": "Alpha-1 alpha-2",
		"online=true":                 "Alpha-1 alpha-2",
		"online=false":                "beta.1",
		"missing=1":                   "beta.1",
		"missing=0":                   "Alpha-1 alpha-2",
		"last_heartbeat=2026-11-22T10:15:20.120000Z":                               "Alpha-1",
		"last_heartbeat__lt=2026-11-22T10:15:20.120000Z":                           "",
		"last_heartbeat__lte=2026-11-22T10:15:20.120000Z":                          "Alpha-1",
		"last_heartbeat__gt=2026-11-22T10:15:20.120000Z":                           "alpha-2",
		"last_heartbeat__gte=2026-11-22 10:15:20":                                  "Alpha-1 alpha-2",
		"last_heartbeat__range=2026-11-22 10:15:21,2027-01-01":                     "alpha-2",
		"last_heartbeat__isnull=true":                                              "",
		"last_heartbeat__isnull=false":                                             "Alpha-1 alpha-2",
		"prn__in=prn:core.appstatus:" + taskID + ",prn:core.appstatus:" + parentID: "Alpha-1 beta.1",
		"pulp_href__in=" + workersPath + childID + "/":                             "alpha-2",
		"pulp_id__in=" + parentID:                                                  "beta.1",
		"q=name=alpha-2 OR missing=true":                                           "alpha-2 beta.1",
		"q=NOT name__iexact=alpha-2":                                               "Alpha-1",
		"q=name=alpha-2 AND name=beta.1":                                           "",
		"ordering=-name":                                                           "alpha-2 Alpha-1",
		"ordering=name":                                                            "Alpha-1 alpha-2",
		"ordering=last_heartbeat":                                                  "Alpha-1 alpha-2",
		"ordering=-pulp_last_updated":                                              "alpha-2 Alpha-1",
		"ordering=pulp_created":                                                    "alpha-2 Alpha-1",
		"ordering=-pk":                                                             "alpha-2 Alpha-1",
		"ordering=pulp_id":                                                         "Alpha-1 alpha-2",
		"ordering=versions":                                                        "alpha-2 Alpha-1",
		"fields=name":                                                              "Alpha-1 alpha-2",
		"exclude_fields=versions":                                                  "Alpha-1 alpha-2",
		"limit=1":                                                                  "Alpha-1",
		"offset=1":                                                                 "alpha-2",
	} {
		name, value, _ := strings.Cut(query, "=")
		seen[name] = true
		target := workersPath
		if query != "" {
			target += "?" + name + "=" + url.QueryEscape(value)
		}
		w := f.do(t, "GET", target, "")
		var page struct{ Results []struct{ Name string } }
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
			continue
		}
		var got []string
		for _, worker := range page.Results {
			got = append(got, worker.Name)
		}
		if strings.Join(got, " ") != names {
			t.Errorf("%s: %q, want %q", query, got, names)
		}
	}
	fields := (&pulpv3.ListWorkersRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !seen[name] {
			t.Errorf("no test asks for %s", name)
		}
	}
}

func TestBadFiltersOfWorkers(t *testing.T) {
	f := newFace(t, fleet(), gateway.Config{})
	for query, answer := range map[string]string{
		"name__regex=(":                            `{"name__regex":["Enter a valid regular expression."]}`,
		"name__iregex=a{1001}":                     `{"name__iregex":["Enter a valid regular expression."]}`,
		"name__regex=(?=x)":                        `{"name__regex":["Enter a valid regular expression."]}`,
		"last_heartbeat__gte=soon":                 `{"last_heartbeat__gte":["Enter a valid date/time."]}`,
		"last_heartbeat__range=soon":               `{"last_heartbeat__range":["Range query expects two values."]}`,
		"last_heartbeat__isnull=soon":              `{"last_heartbeat__isnull":["Must be a valid boolean."]}`,
		"missing=maybe":                            `{"missing":["Must be a valid boolean."]}`,
		"pulp_id__in=x":                            `{"pulp_id__in":["Enter a valid UUID."]}`,
		"prn__in=prn:core.task:" + taskID:          `{"prn__in":["Must be of the form prn:core.appstatus:<uuid>."]}`,
		"pulp_href__in=" + taskPath:                `{"pulp_href__in":["Must be the href or the UUID of a worker."]}`,
		"ordering=state":                           `{"ordering":["Select a valid choice. state is not one of the available choices."]}`,
		"q=state=failed":                           `{"q":["Filter 'state' does not exist."]}`,
		"q=name__regex=\"(\"":                      `{"q":["name__regex: Enter a valid regular expression."]}`,
		"name__regex=" + strings.Repeat("x", 1025): `{"name__regex":["Must be at most 1024 bytes, has 1025."]}`,
	} {
		name, value, _ := strings.Cut(query, "=")
		want(t, f.do(t, "GET", workersPath+"?"+name+"="+url.QueryEscape(value), ""), 400, answer)
	}
}

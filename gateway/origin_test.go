package gateway_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/gateway"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// A browser sends the password that it knows also when a page of another site makes it send a request, and a purge needs no body, so
// nobody asks before.
func TestPagesOfOtherSitesChangeNothing(t *testing.T) {
	for name, c := range map[string]struct {
		method, target string
		headers        map[string]string
		status         int
	}{
		"another site":         {http.MethodPost, root + "tasks/purge/", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"another subdomain":    {http.MethodPost, root + "tasks/purge/", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		"an old browser":       {http.MethodPost, root + "tasks/purge/", map[string]string{"Origin": "https://elsewhere.example"}, 403},
		"a sandboxed page":     {http.MethodPost, root + "tasks/purge/", map[string]string{"Origin": "null"}, 403},
		"a token":              {http.MethodPost, "/api/galaxy/v3/auth/token/", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"the end of a task":    {http.MethodDelete, taskPath, map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"its own page":         {http.MethodPost, root + "tasks/purge/", map[string]string{"Sec-Fetch-Site": "same-origin"}, 202},
		"its own, old browser": {http.MethodPost, root + "tasks/purge/", map[string]string{"Origin": "http://localhost:24817"}, 202},
		"no browser":           {http.MethodPost, root + "tasks/purge/", nil, 202},
		"reading":              {http.MethodGet, taskPath, map[string]string{"Sec-Fetch-Site": "cross-site"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFace(t, &native{}, gateway.Config{}).unjudged()
			r := httptest.NewRequest(c.method, c.target, nil)
			r.Host = "localhost:24817"
			for key, value := range c.headers {
				r.Header.Set(key, value)
			}
			w := httptest.NewRecorder()
			f.handler.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Errorf("status %d, want %d; body %s", w.Code, c.status, w.Body)
			}
			if w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Error("a browser may take the answer for what it is not")
			}
			if len(f.dispatched) > 0 != (c.status == 202) {
				t.Errorf("%d tasks were dispatched", len(f.dispatched))
			}
		})
	}
}

// What can't be taken apart must not be left out: without its filter a list is one of everything.
func TestAQueryThatCannotBeTakenApartIsRefused(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	for query, why := range map[string]string{
		"state=failed;name=x": "invalid semicolon separator in query",
		"state=%zz":           `invalid URL escape \"%zz\"`,
		"%=1":                 `invalid URL escape \"%\"`,
	} {
		for _, path := range []string{tasksPath, root + "tasks/watch/", root + "tasks/wait/", root + "workers/", taskPath} {
			want(t, f.do(t, http.MethodGet, path+"?"+query, ""), 400, `{"detail":"Malformed query: `+why+`."}`)
		}
	}
	if f.listed != nil {
		t.Errorf("it was asked for %v", f.listed)
	}
}

// lastly is a listener whose connections tell when writing has to have ended.
type lastly struct {
	net.Listener
	deadlines chan time.Time
}

func (l lastly) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return lastlyConn{conn, l.deadlines}, err
}

type lastlyConn struct {
	net.Conn
	deadlines chan time.Time
}

func (c lastlyConn) SetWriteDeadline(at time.Time) error {
	select {
	case c.deadlines <- at:
	default: // nobody wants to know any more
	}
	return c.Conn.SetWriteDeadline(at)
}

// An answer that nobody takes must not be kept for ever, and a stream must not be cut for lasting.
func TestAnAnswerThatNobodyTakesIsGivenUp(t *testing.T) {
	for target, renewed := range map[string]bool{
		root + "status/":                       false,
		root + "tasks/wait/?timeout=0":         true,
		taskPath + "profile_artifacts/x?key=k": true,
		taskPath + "watch/":                    true, // for each event
	} {
		t.Run(target, func(t *testing.T) {
			n := quiet(&native{})
			n.awaitTasks = func(context.Context, *statusv1.AwaitTasksRequest) (*statusv1.AwaitTasksResponse, error) {
				return &statusv1.AwaitTasksResponse{Done: true}, nil
			}
			n.artifact = func(context.Context, *statusv1.GetTaskArtifactRequest) (*statusv1.GetTaskArtifactResponse, error) {
				return &statusv1.GetTaskArtifactResponse{}, nil
			}
			n.watchTasks = func(_ *statusv1.WatchTasksRequest, s grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
				return s.Send(&statusv1.WatchTasksResponse{Resume: "i.1"})
			}
			deadlines := make(chan time.Time, 100)
			_, stop, addr := runOn(t, n, gateway.Config{}, func(l net.Listener) net.Listener { return lastly{l, deadlines} })
			response, err := http.Get("http://" + addr + target)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			stop()
			var all []time.Time
			for len(deadlines) > 0 {
				all = append(all, <-deadlines)
			}
			if len(all) == 0 || all[0].IsZero() {
				t.Fatalf("there was no end to writing: %v", all)
			}
			if got := len(all) > 2 && all[1].IsZero() && !all[2].IsZero(); got != renewed {
				t.Errorf("the times for writing were %v", all)
			}
		})
	}
}

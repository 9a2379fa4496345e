package gateway_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
)

// doorman plays the access service: ada's password is "correct:horse", her token "ada-token". A hook that is set answers instead.
type doorman struct {
	accessv1.UnimplementedAccessServiceServer

	authenticate func(context.Context, *accessv1.AuthenticateRequest) (*accessv1.AuthenticateResponse, error)
	wellKnown    bool

	mu      sync.Mutex
	asked   []*accessv1.AuthenticateRequest
	deleted []string
}

func (d *doorman) Authenticate(ctx context.Context, r *accessv1.AuthenticateRequest) (*accessv1.AuthenticateResponse, error) {
	d.mu.Lock()
	d.asked = append(d.asked, r)
	d.mu.Unlock()
	if d.authenticate != nil {
		return d.authenticate(ctx, r)
	}
	p := r.GetPassword()
	if r.GetToken() != "ada-token" && (p.GetUsername() != "ada" || p.GetPassword() != "correct:horse") {
		return nil, errs.Denied(errs.BadCredentials, "wrong credentials")
	}
	return &accessv1.AuthenticateResponse{User: &accessv1.User{Id: 7, Username: "ada", WellKnownPassword: d.wellKnown}}, nil
}

func (d *doorman) CreateToken(_ context.Context, r *accessv1.CreateTokenRequest) (*accessv1.CreateTokenResponse, error) {
	return &accessv1.CreateTokenResponse{Token: fmt.Sprint("token-of-", r.GetUserId())}, nil
}

func (d *doorman) DeleteToken(_ context.Context, r *accessv1.DeleteTokenRequest) (*accessv1.DeleteTokenResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deleted = append(d.deleted, r.GetToken())
	return &accessv1.DeleteTokenResponse{}, nil
}

func (d *doorman) questions() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}

// house is a gateway with a doorman.
type house struct {
	*native
	*doorman

	handler http.Handler
	plain   http.Handler // which nobody judges: for answers that the document does not foresee
	stop    func()       // takes the doorman away
	logs    *logs
}

func newHouse(t *testing.T, n *native, d *doorman, config gateway.Config) *house {
	t.Helper()
	work, _ := rpctest.Serve(t, func(r grpc.ServiceRegistrar) {
		dispatcherv1.RegisterDispatcherServiceServer(r, n)
		statusv1.RegisterStatusServiceServer(r, n)
		heartbeatv1.RegisterHeartbeatServiceServer(r, n)
	})
	access, stop := rpctest.Serve(t, func(r grpc.ServiceRegistrar) { accessv1.RegisterAccessServiceServer(r, d) })
	lines := &logs{}
	g, err := gateway.New(config, gateway.Services{Dispatcher: work, Status: work, Heartbeat: work, Access: access},
		slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return &house{native: n, doorman: d, handler: judged(t, g), plain: g.Handler(), stop: stop, logs: lines}
}

const root = "/pulp/api/v3/"

func basic(credentials string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))
}

// knock sends a request with an Authorization header, unless that is empty. pairs are further headers.
func (h *house) knock(method, path, authorization string, pairs ...string) *httptest.ResponseRecorder {
	var body io.Reader
	if method == http.MethodPost || method == http.MethodPatch {
		body = strings.NewReader(`{"name": "test.noop"}`)
	}
	r := httptest.NewRequest(method, path, body)
	r.Host = "localhost"
	r.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Add(pairs[i], pairs[i+1])
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	return w
}

func TestCredentialsAreNeededForEverythingButWhatAnybodyMayAsk(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	h.handler = h.plain
	for _, c := range []struct {
		method, path string
		open         bool
	}{
		{http.MethodGet, "/", true},
		{http.MethodGet, root, true},
		{http.MethodGet, root + "status/", true},
		{http.MethodGet, "/pulp/api/v4/status/", true},
		{http.MethodGet, root + "livez/", true},
		{http.MethodGet, root + "docs/", true},
		{http.MethodGet, root + "docs/api.json", true},
		{http.MethodGet, root + "docs/api.yaml", true},
		{http.MethodGet, "/pulp/api/v4/docs/api.json", true},
		{http.MethodGet, "/api/galaxy/pulp/api/v3/status/", true},
		{http.MethodGet, root + "tasks/" + taskID + "/profile_artifacts/memory/?key=x", true},

		{http.MethodGet, root + "tasks/" + taskID + "/profile_artifacts/memory/", false},
		{http.MethodGet, root + "tasks/" + taskID + "/profile_artifacts/?key=x", false},
		{http.MethodGet, root + "tasks/", false},
		{http.MethodHead, root + "tasks/", false},
		{http.MethodOptions, root + "tasks/", false},
		{http.MethodPost, root + "tasks/", false},
		{http.MethodPut, root + "tasks/", false}, // which is not allowed: that is not told to everybody
		{http.MethodGet, root + "tasks/" + taskID + "/", false},
		{http.MethodGet, root + "tasks//" + taskID, false},
		{http.MethodPatch, root + "tasks/" + taskID + "/", false},
		{http.MethodDelete, root + "tasks/" + taskID + "/", false},
		{http.MethodGet, root + "tasks/watch/", false},
		{http.MethodGet, root + "tasks/wait/", false},
		{http.MethodGet, root + "tasks/" + taskID + "/watch/", false},
		{http.MethodGet, root + "workers/", false},
		{http.MethodGet, root + "task-groups/" + groupID + "/", false},
		{http.MethodGet, root + "task-schedules/", false},
		{http.MethodGet, "/api/galaxy/pulp/api/v3/tasks/", false},
		{http.MethodGet, "/api/galaxy/v3/tasks/" + taskID + "/", false},
		{http.MethodPost, "/api/galaxy/v3/auth/token/", false},
		{http.MethodDelete, "/api/galaxy/v3/auth/token/", false},
	} {
		before := h.calls
		w := h.knock(c.method, c.path, "")
		switch {
		case c.open && w.Code == http.StatusUnauthorized:
			t.Errorf("%s %s: %d, but anybody may ask for it", c.method, c.path, w.Code)
		case !c.open && c.method == http.MethodHead && w.Code == http.StatusUnauthorized:
		case !c.open:
			if h.calls != before {
				t.Errorf("%s %s reached the services", c.method, c.path)
			}
			if got := w.Header().Get("WWW-Authenticate"); got != `Basic realm="api"` {
				t.Errorf("%s %s: WWW-Authenticate %q", c.method, c.path, got)
			}
			want(t, w, http.StatusUnauthorized, `{"detail":"Authentication credentials were not provided."}`)
		}
	}
	if n := h.questions(); n != 0 {
		t.Errorf("the access service was asked %d times about nothing", n)
	}
	if w := h.knock(http.MethodGet, root+"status/", basic("ada:wrong")); w.Code != http.StatusOK || h.questions() != 0 {
		t.Errorf("%d: credentials count where none are needed", w.Code)
	}
}

func TestCredentialsComeAsPasswordOrAsToken(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	for _, header := range []string{
		basic("ada:correct:horse"), "basic " + strings.TrimPrefix(basic("ada:correct:horse"), "Basic "), "  " + basic("ada:correct:horse"),
		"Token ada-token", "token ada-token", "Token   ada-token", "Bearer ada-token", "bearer ada-token",
	} {
		if w := h.knock(http.MethodGet, root+"tasks/", header); w.Code != http.StatusOK {
			t.Errorf("%q: %d %s", header, w.Code, w.Body)
		}
	}
}

func TestRefusalsSayWhatIsWrongInDjangosWords(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	const missing = "Authentication credentials were not provided."
	for header, text := range map[string]string{
		"":                                    missing,
		"Digest x":                            missing,
		"ada-token":                           missing,
		"Basic":                               "Invalid basic header. No credentials provided.",
		"Basic a b":                           "Invalid basic header. Credentials string should not contain spaces.",
		"Basic %%%":                           "Invalid basic header. Credentials not correctly base64 encoded.",
		basic("ada"):                          "Invalid username/password.",
		basic("ada:wrong"):                    "Invalid username/password.",
		basic(":"):                            "Invalid username/password.",
		basic("\xe4da:\xff"):                  "Invalid username/password.",
		basic(strings.Repeat("x", 151) + ":"): "Invalid username/password.",
		basic("ada:" + strings.Repeat("x", 1025)): "Invalid username/password.",
		"Token":                             "Invalid token header. No credentials provided.",
		"Token a b":                         "Invalid token header. Token string should not contain spaces.",
		"Token wrong":                       "Invalid token.",
		"Bearer wrong":                      "Invalid token.",
		"Token \xff":                        "Invalid token.",
		"Token " + strings.Repeat("x", 256): "Invalid token.",
	} {
		w := h.knock(http.MethodGet, root+"tasks/", header)
		if w.Header().Get("WWW-Authenticate") != `Basic realm="api"` {
			t.Errorf("%q: WWW-Authenticate %q", header, w.Header().Get("WWW-Authenticate"))
		}
		want(t, w, http.StatusUnauthorized, fmt.Sprintf(`{"detail":%q}`, text))
		// A page's script asks by itself; the browser must not show a dialog of its own.
		w = h.knock(http.MethodGet, root+"tasks/", header, "X-Requested-With", "XMLHttpRequest")
		if w.Header().Get("WWW-Authenticate") != `xBasic realm="api"` {
			t.Errorf("%q, by a script: WWW-Authenticate %q", header, w.Header().Get("WWW-Authenticate"))
		}
	}
	if said := h.logs.String(); strings.Contains(said, "wrong") || strings.Contains(said, "horse") {
		t.Errorf("credentials are logged:\n%s", said)
	}
}

func TestTheDelayOfTheAccessServiceReachesTheClient(t *testing.T) {
	d := &doorman{authenticate: func(context.Context, *accessv1.AuthenticateRequest) (*accessv1.AuthenticateResponse, error) {
		return nil, &errs.Error{Code: codes.ResourceExhausted, Reason: errs.Overloaded, Message: "x", RetryAfter: 6500 * time.Millisecond}
	}}
	h := newHouse(t, &native{}, d, gateway.Config{})
	w := h.knock(http.MethodGet, root+"tasks/", basic("ada:x"))
	want(t, w, http.StatusTooManyRequests, `{"detail":"Too many wrong passwords. Try again later."}`)
	if got := w.Header().Get("Retry-After"); got != "7" {
		t.Errorf("Retry-After %q", got)
	}
}

func TestWhileTheAccessServiceIsAwayOnlyTheKnownGetIn(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	if w := h.knock(http.MethodGet, root+"tasks/", "Token ada-token"); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	h.stop()
	if w := h.knock(http.MethodGet, root+"tasks/", "Token ada-token"); w.Code != http.StatusOK {
		t.Errorf("who is known: %d %s", w.Code, w.Body)
	}
	w := h.knock(http.MethodGet, root+"tasks/", basic("ada:correct:horse"))
	want(t, w, http.StatusServiceUnavailable, `{"detail":"It can't be told right now who you are."}`)
	if after, err := strconv.Atoi(w.Header().Get("Retry-After")); err != nil || after < 1 {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	if w := h.knock(http.MethodGet, root+"status/", basic("ada:correct:horse")); w.Code != http.StatusOK {
		t.Errorf("what anybody may ask: %d", w.Code)
	}
}

func TestRightCredentialsAreAskedAboutOnceAndWrongOnesEachTime(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
	for range 5 {
		h.knock(http.MethodGet, root+"tasks/", basic("ada:correct:horse"))
	}
	if n := h.questions(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	for range 3 {
		if w := h.knock(http.MethodGet, root+"tasks/", basic("ada:wrong")); w.Code != http.StatusUnauthorized {
			t.Errorf("%d", w.Code)
		}
	}
	if n := h.questions(); n != 4 {
		t.Errorf("asked %d times, want 4", n)
	}
}

func TestTheSameCredentialsAtTheSameTimeAreAskedAboutOnce(t *testing.T) {
	arrived, answer := make(chan struct{}, 100), make(chan struct{})
	d := &doorman{authenticate: func(context.Context, *accessv1.AuthenticateRequest) (*accessv1.AuthenticateResponse, error) {
		arrived <- struct{}{}
		<-answer
		return &accessv1.AuthenticateResponse{User: &accessv1.User{Id: 7, Username: "ada"}}, nil
	}}
	h := newHouse(t, &native{}, d, gateway.Config{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if w := h.knock(http.MethodGet, root+"tasks/", basic("ada:correct:horse")); w.Code != http.StatusOK {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	<-arrived
	close(answer)
	all.Wait()
	// Those that came late found what was remembered, or asked together.
	if n := h.questions(); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestWhoGoesAwayDoesNotTakeTheAnswerFromOthers(t *testing.T) {
	arrived, answer := make(chan struct{}, 2), make(chan struct{})
	d := &doorman{authenticate: func(ctx context.Context, _ *accessv1.AuthenticateRequest) (*accessv1.AuthenticateResponse, error) {
		arrived <- struct{}{}
		select {
		case <-answer:
			return &accessv1.AuthenticateResponse{User: &accessv1.User{Id: 7, Username: "ada"}}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	h := newHouse(t, &native{}, d, gateway.Config{})
	h.handler = h.plain
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan int)
	go func() {
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, root+"tasks/", nil)
		r.Host = "localhost"
		r.Header.Set("Authorization", basic("ada:correct:horse"))
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		gone <- w.Code
	}()
	<-arrived
	leave()
	if code := <-gone; code != 499 {
		t.Errorf("who went away: %d", code)
	}
	close(answer)
	if w := h.knock(http.MethodGet, root+"tasks/", basic("ada:correct:horse")); w.Code != http.StatusOK {
		t.Errorf("who stayed: %d %s", w.Code, w.Body)
	}
}

func TestWhatWasRightIsBelievedForHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		known := gateway.NewCallers(func() error { asked++; return nil })
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{0, 1}, {29 * time.Second, 1}, {2 * time.Second, 2}, {29 * time.Second, 2}} {
			<-time.After(step.wait) // by the clock of the bubble
			if !known("Token x") || asked != step.want {
				t.Errorf("after another %s: asked %d times, want %d", step.wait, asked, step.want)
			}
		}
	})
}

func TestWhatIsRememberedOfCallersIsBounded(t *testing.T) {
	failing := errors.New("must not be asked")
	var err error
	known := gateway.NewCallers(func() error { return err })
	for i := range 3 * gateway.MostKnown {
		if !known(fmt.Sprint("Token x", i)) {
			t.Fatal("not recognized")
		}
	}
	err = failing
	remembered := 0
	for i := range 3 * gateway.MostKnown {
		if known(fmt.Sprint("Token x", i)) {
			remembered++
		}
	}
	if remembered != gateway.MostKnown {
		t.Errorf("%d are remembered, want %d", remembered, gateway.MostKnown)
	}
}

func TestTheAccessServiceIsToldWhereARequestComesFrom(t *testing.T) {
	for _, c := range []struct{ peer, forwarded, want string }{
		{"203.0.113.9:4711", "", "203.0.113.9"},
		{"203.0.113.9:4711", "198.51.100.1", "203.0.113.9"}, // anybody can say that
		{"127.0.0.1:4711", "", "127.0.0.1"},
		{"127.0.0.1:4711", "10.0.0.1, 198.51.100.1", "198.51.100.1"},
		{"[::1]:4711", "2001:db8::1", "2001:db8::1"},
		{"127.0.0.1:4711", "unknown", "127.0.0.1"},
		{"@", "198.51.100.1", ""},
	} {
		h := newHouse(t, &native{}, &doorman{}, gateway.Config{})
		r := httptest.NewRequest(http.MethodGet, root+"tasks/", nil)
		r.Host, r.RemoteAddr = "localhost", c.peer
		r.Header.Set("Authorization", "Token ada-token")
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		h.handler.ServeHTTP(httptest.NewRecorder(), r)
		if h.questions() != 1 || h.asked[0].GetClient() != c.want {
			t.Errorf("%+v: told %v", c, h.asked)
		}
	}
}

func TestThePasswordThatEverybodyKnowsOpensNoGatewayThatRefusesIt(t *testing.T) {
	h := newHouse(t, &native{}, &doorman{wellKnown: true}, gateway.Config{RefuseWellKnown: true})
	for range 2 {
		want(t, h.knock(http.MethodGet, root+"tasks/", basic("ada:correct:horse")), http.StatusUnauthorized, `{"detail":"Invalid username/password."}`)
		want(t, h.knock(http.MethodGet, root+"tasks/", "Token ada-token"), http.StatusUnauthorized, `{"detail":"Invalid token."}`)
		want(t, h.knock(http.MethodPost, "/api/galaxy/v3/auth/token/", basic("ada:correct:horse")), http.StatusUnauthorized, `{"detail":"Invalid username/password."}`)
	}
	if !strings.Contains(h.logs.String(), "everybody knows") {
		t.Error("the operator is not told why")
	}
}

func TestTasksKnowOnWhoseBehalfTheyWereDispatched(t *testing.T) {
	h := newHouse(t, &native{dispatch: func(_ context.Context, r *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
		return &dispatcherv1.DispatchResponse{Task: &taskv1.Task{Id: taskID, CreatedBy: r.GetTask().GetCreatedBy()}}, nil
	}}, &doorman{}, gateway.Config{})
	if w := h.knock(http.MethodPost, root+"tasks/", "Token ada-token"); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got := h.dispatched[0].GetCreatedBy(); got != 7 {
		t.Errorf("created by %d, want 7", got)
	}
}

func TestAnAddressOfAllMachinesAnswersByAnyName(t *testing.T) {
	for any, want := range map[bool]int{true: http.StatusOK, false: http.StatusBadRequest} {
		h := newHouse(t, &native{}, &doorman{}, gateway.Config{AnyHost: any})
		r := httptest.NewRequest(http.MethodGet, root+"status/", nil)
		r.Host = "sluice.example.com"
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("any host %v: %d, want %d", any, w.Code, want)
		}
	}
}

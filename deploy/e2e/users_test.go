package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// createdBy hands in a task that hands in others.
func createdBy(s *system) {
	var made struct{ Task string }
	s.call(http.MethodPost, "tasks/", map[string]any{"name": "test.dummy_group", "args": []any{0, []int{0, 0}}}).decode(s.t, &made)
	parent := strings.TrimSuffix(strings.TrimPrefix(made.Task, "/pulp/api/v3/tasks/"), "/")
	s.end(parent)
	var shown struct {
		Children  []string `json:"child_tasks"`
		CreatedBy *string  `json:"created_by"`
	}
	s.call(http.MethodGet, made.Task, nil).decode(s.t, &shown)
	if len(shown.Children) == 0 {
		s.t.Fatalf("%s has no children", made.Task)
	}
	for _, one := range append(shown.Children, made.Task) {
		s.call(http.MethodGet, one, nil).decode(s.t, &shown)
		if shown.CreatedBy == nil || *shown.CreatedBy != "/pulp/api/v3/users/1/" {
			s.t.Errorf("%s was created by %v", one, shown.CreatedBy)
		}
	}
	byNobody := s.dispatch(client.Spec{Name: "test.noop"})
	shown.CreatedBy = nil
	s.call(http.MethodGet, href(byNobody.ID), nil).decode(s.t, &shown)
	if shown.CreatedBy != nil {
		s.t.Errorf("what came through gRPC was created by %s", *shown.CreatedBy)
	}
}

// logins makes a user, changes the password and deletes the user.
func logins(s *system) {
	name := fresh("ada")
	said := func(stdin string, code int, args ...string) {
		s.t.Helper()
		if got := s.cliWith(stdin, append([]string{"user"}, args...)...); got.code != code {
			s.t.Errorf("sluice user %v ended with %d: %s%s", args, got.code, got.stdout, got.stderr)
		}
	}
	// A gateway remembers for half a minute what was right, so nothing is used here that was right before.
	status := func(want int, path string, authorize func(*http.Request)) (body []byte) {
		s.t.Helper()
		method := http.MethodGet
		if strings.HasSuffix(path, "token/") {
			method = http.MethodPost
		}
		code, body := s.as(authorize, method, path)
		if code != want {
			s.t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
		return body
	}
	by := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(name, password) }
	}
	const tasks, tokens = "/pulp/api/v3/tasks/", "/api/galaxy/v3/auth/token/"
	status(http.StatusUnauthorized, tasks, func(*http.Request) {})
	status(http.StatusOK, "/pulp/api/v3/status/", func(*http.Request) {})
	said("correct horse", 0, "add", name, "--password-stdin")
	var made struct{ Token string }
	if err := json.Unmarshal(status(http.StatusOK, tokens, by("correct horse")), &made); err != nil {
		s.t.Fatal(err)
	}
	said("battery staple", 0, "password", name, "--password-stdin")
	status(http.StatusUnauthorized, tasks, func(r *http.Request) { r.Header.Set("Authorization", "Token "+made.Token) })
	status(http.StatusUnauthorized, tokens, by("correct horse"))
	if err := json.Unmarshal(status(http.StatusOK, tokens, by("battery staple")), &made); err != nil {
		s.t.Fatal(err)
	}
	status(http.StatusOK, tasks, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+made.Token) })
	said("", 0, "delete", name)
	status(http.StatusUnauthorized, tokens, by("battery staple"))
}

// as makes a request in somebody's name.
func (s *system) as(authorize func(*http.Request), method, path string) (code int, body []byte) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.soon(), method, s.rest+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	authorize(request)
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err = io.ReadAll(response.Body); err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, body
}

// TestAGatewayForOtherMachinesWantsPasswordsThatNobodyElseKnows has a gateway that any machine could reach.
func TestAGatewayForOtherMachinesWantsPasswordsThatNobodyElseKnows(t *testing.T) {
	t.Parallel()
	v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
	s := v.start(t).under(t)
	outside := map[string]string{"rest-addr": "0.0.0.0:0", "grpc-addr": "127.0.0.1:0"}
	refused := v.launch(t, "outside", "gateway", outside)
	if code := refused.wait(t); code != 1 || !strings.Contains(refused.stderr(), "everybody knows the password of admin") {
		t.Errorf("it ended with %d\n%s", code, refused.stderr())
	}
	if got := s.cliWith("correct horse", "user", "password", username, "--password-stdin"); got.code != 0 {
		t.Fatalf("%d %s", got.code, got.stderr)
	}
	opened := v.launch(t, "outside", "gateway", outside).ready(t, "sluice gateway is ready")
	if !strings.Contains(opened, "REST at http://[::]:") && !strings.Contains(opened, "REST at http://0.0.0.0:") {
		t.Errorf("it says %q", opened)
	}
}

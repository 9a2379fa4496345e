package gateway_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sluice-tasks/sluice/gateway"
)

// check says what every answer to a client's own mistake must be: never a 5xx, never a redirect, JSON if anything.
func check(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	switch {
	case w.Code >= 500 || w.Code/100 == 3:
		t.Errorf("%d %s", w.Code, w.Body)
	case w.Body.Len() > 0 && (!json.Valid(w.Body.Bytes()) || !utf8.Valid(w.Body.Bytes())):
		t.Errorf("%d with a body that is no JSON: %q", w.Code, w.Body)
	case w.Body.Len() > 0 && w.Header().Get("Content-Type") != "application/json":
		t.Errorf("content type %q", w.Header().Get("Content-Type"))
	}
}

func FuzzBody(f *testing.F) {
	for _, body := range []string{
		``, `{`, `[]`, `null`, `{"name":"n"}`, `{"name":"n","args":[1e999,"\ud800"],"kwargs":{"\u0000":1}}`,
		`{"name":"n","exclusive_resources":["a",1,null,"shared:x"],"versions":{"a":"1","b":2}}`,
		`{"name":"n","deferred":false,"immediate":null,"task_group":"//x"}`, `{"name":"\ud800","name":"m"} `, "\xef\xbb\xbf{}",
		`{"name":"n","timeout":1e308,"retry":{"max_attempts":-1e3,"on":[null]},"files":[""]}`, `{"name":"n","retry":{"retry":{"retry":{}}}}`,
		`{"state":"canceled"}`, `{"state":["canceled"]}`, `{"name":"n","args":[` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `]}`,
	} {
		f.Add(body)
	}
	n := &native{}
	face := newFace(f, n, gateway.Config{})
	f.Fuzz(func(t *testing.T, body string) {
		dispatched := len(n.dispatched)
		w := face.do(t, "POST", tasksPath, body)
		check(t, w)
		if (w.Code == http.StatusAccepted) != (len(n.dispatched) > dispatched) {
			t.Errorf("answered %d, but dispatched %d", w.Code, len(n.dispatched)-dispatched)
		}
		if w.Code == http.StatusAccepted {
			spec := n.dispatched[len(n.dispatched)-1]
			for _, text := range []string{spec.GetArgsJson(), spec.GetKwargsJson()} {
				if text != "" && (!json.Valid([]byte(text)) || !strings.Contains(body, text)) {
					t.Errorf("%q is not what was sent", text)
				}
			}
		}
		n.dispatched = nil
		check(t, face.do(t, "PATCH", taskPath, body))
	})
}

func FuzzRequest(f *testing.F) {
	for _, target := range []string{
		"/", "//", "/pulp/api/v3/tasks/", "//pulp//api/v3/tasks/x/", "/%2Fpulp%2Fapi%2Fv3%2Ftasks%2F", "/pulp/api/v3/tasks/%ff%00/", "/pulp/api/v3/tasks/a:b",
		"/pulp/api/v3/tasks/?limit=1;offset=2", "/pulp/api/v3/tasks/?limit=%zz&fields=%ff", "/pulp/api/v3/tasks/?name=%ff%00&state__in=,,", "/pulp/api/v3/tasks/?minimal=x&minimal=true",
		"/pulp/api/v3/tasks/?reserved_resources__in=" + strings.Repeat("a,", 200), "/pulp/api/v3/workers/?online=1&name=%f0", "/pulp/api/v3/task-groups/" + groupID, "/metrics", "*",
		"/pulp/api/v3/tasks/?task_group=http://h/pulp/api/v3/task-groups/" + groupID + "/", "/pulp/api/v3/tasks?offset=" + strings.Repeat("9", 30),
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "HEAD"} {
			f.Add(method, target, "Correlation-ID: \xff", `{"name":"n"}`)
		}
	}
	f.Add("POST", "/pulp/api/v3/tasks/", "Grpc-Timeout: 1n\r\ntraceparent: \xff", `{}`)
	f.Add("POST", "/pulp/api/v3/tasks/", "X-HTTP-Method-Override: DELETE\r\nContent-Type: application/x-www-form-urlencoded", "a=b")
	face := newFace(f, &native{}, gateway.Config{})
	f.Fuzz(func(t *testing.T, method, target, headers, body string) {
		// As net/http reads it from a connection: what it refuses never gets to the gateway.
		text := method + " " + target + " HTTP/1.1\r\nHost: h\r\n" + headers + "\r\nConnection: close\r\n\r\n"
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		w := httptest.NewRecorder()
		face.handler.ServeHTTP(w, r)
		check(t, w)
	})
}

package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/sluice-tasks/sluice/gateway"
)

// judge stands between the tests and the gateway, and holds all that goes through it against the document that the gateway
// itself serves: whatever a test is about, it also tests that the document is true.
type judge struct {
	testing.TB
	http.Handler
	// law finds the document of a version below an API root.
	law func(t testing.TB, root, version string) *statute

	// lenient holds names of query parameters that may be sent against the document and nevertheless be answered: the gateway reads
	// them as Django would, and the document says what a client should send.
	lenient []string
}

// lenient are limit and offset, of which Django takes anything, and minimal, which is a truth if it looks like one.
var lenient = []string{"limit", "offset", "minimal"}

// judged makes a handler that holds requests and answers against the document.
func judged(t testing.TB, g *gateway.Gateway) http.Handler {
	return &judge{
		TB: t, Handler: g.Handler(), lenient: lenient,
		law: func(t testing.TB, root, version string) *statute { return statuteOf(t, g, root, version) },
	}
}

// judgedFor names the test that sends a request, if it is another than the one that made the gateway: a fuzz target is.
func judgedFor(t testing.TB, r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), judgeKey{}, t))
}

type judgeKey struct{}

// of returns the judge that speaks to the test of a request.
func (j *judge) of(r *http.Request) *judge {
	if t, ok := r.Context().Value(judgeKey{}).(testing.TB); ok {
		return &judge{TB: t, Handler: j.Handler, law: j.law, lenient: j.lenient}
	}
	return j
}

// statutes are the documents that have been read, by their text: all gateways of a test process serve the same few.
var statutes struct {
	sync.Mutex
	read map[string]*statute
}

// statute is a document as it is, and as it is for answers of which the client wants a part.
type statute struct{ whole, partly *openapi3.T }

// below finds the API root and the version of a path.
var below = regexp.MustCompile(`^(/(?:.*/)?)api/(v[0-9]+)/`)

func (j *judge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	j = j.of(r)
	sent := r
	var body []byte
	if r.Body != nil && r.Body != http.NoBody {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			j.Handler.ServeHTTP(w, r) // a body that ends early is what this test is about
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		sent = r.Clone(context.WithoutCancel(r.Context()))
		sent.Body = io.NopCloser(bytes.NewReader(body))
	}
	seen := &witness{ResponseWriter: w, status: http.StatusOK}
	j.Handler.ServeHTTP(seen, r)
	j.look(sent, body, seen)
}

// look finds the law for a request that was answered.
func (j *judge) look(r *http.Request, body []byte, seen *witness) {
	path := regexp.MustCompile(`/+`).ReplaceAllString(r.URL.Path, "/")
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	root := below.FindStringSubmatch(path)
	if root == nil || r.Method == http.MethodOptions || strings.Contains(path, "/docs/") || seen.status == clientGone {
		return // no part of the API, or nobody is left who gets it
	}
	law := j.law(j.TB, root[1], root[2])
	if law == nil {
		if seen.status < 400 {
			j.Errorf("%s %s: %d, from below a root that has no document", r.Method, r.URL, seen.status)
		}
		return
	}
	document := law.whole
	query := r.URL.Query()
	if query.Get("fields") != "" || query.Get("exclude_fields") != "" || query.Get("minimal") != "" {
		document = law.partly
	}
	route, parameters := find(document, r.Method, path)
	if route == nil {
		if seen.status < 400 && !strings.HasSuffix(path, "/api/v3/") {
			j.Errorf("%s %s: %d, and the document has nothing there", r.Method, r.URL, seen.status)
		}
		return
	}
	j.judge(r, body, seen, route, parameters)
}

// clientGone is what is logged of a request whose client did not wait.
const clientGone = 499

// tolerated are faults of a request that is answered nevertheless: the validator reads numbers into 64 bits, where the gateway keeps their
// digits, and times in one form, where the gateway reads those that Django does.
var tolerated = regexp.MustCompile(`value out of range|doesn't match the format "date-time"`)

var timeFilter = regexp.MustCompile(`^(pulp_created|unblocked_at|started_at|finished_at|last_heartbeat)(__([lg]te?|range))?$`)

func (j *judge) judge(r *http.Request, body []byte, seen *witness, route *routers.Route, parameters map[string]string) {
	options := &openapi3filter.Options{
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, MultiError: true,
	}
	query := r.URL.Query()
	for name, values := range query {
		switch {
		case slices.Contains(j.lenient, name) || timeFilter.MatchString(name), // times are read in more forms than a document can say
			strings.Trim(strings.Join(values, ""), ", ") == "": // the command line sends filters that were not given as empty ones
			query.Del(name)
		case name == "ordering":
			query.Set(name, strings.ReplaceAll(values[len(values)-1], " ", ""))
		}
	}
	input := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: parameters, QueryParams: query, Route: route, Options: options,
	}
	if seen.status < 400 {
		// A test that sends what is wrong wants to be refused.
		if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil && !tolerated.MatchString(err.Error()) {
			j.Errorf("%s %s %s was answered with %d, and the document says: %v", r.Method, r.URL, body, seen.status, err)
		}
	}
	answer := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: seen.status, Header: seen.Header(), Options: options,
	}
	answer.SetBodyBytes(seen.body.Bytes())
	if r.Method == http.MethodHead {
		options.ExcludeResponseBody = true
	}
	if err := openapi3filter.ValidateResponse(r.Context(), answer); err != nil {
		j.Errorf("%s %s: %d %.2000s\nthe document says: %v", r.Method, r.URL, seen.status, seen.body.String(), err)
	}
}

// statuteOf reads the document of a root; nil if it has none. It is that of OpenAPI 3.0, which says the same as that of 3.1 and
// whose schemas the validator need not compile for each answer.
func statuteOf(t testing.TB, g *gateway.Gateway, root, version string) *statute {
	t.Helper()
	text := gateway.DocumentForTests(g, root, version)
	if text == nil {
		return nil
	}
	statutes.Lock()
	defer statutes.Unlock()
	if known := statutes.read[string(text)]; known != nil {
		return known
	}
	made := &statute{whole: load(t, edited(t, text, false)), partly: load(t, edited(t, text, true))}
	if statutes.read == nil {
		statutes.read = map[string]*statute{}
		openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.FileBodyDecoder)
	}
	statutes.read[string(text)] = made
	return made
}

func load(t testing.TB, text []byte) *openapi3.T {
	t.Helper()
	document, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := document.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return document
}

// edited makes a document fit for the validator, which takes a schema without a type to forbid null. If partly is set, it also takes the
// required fields out of the schemas of answers: a client can have left them out.
func edited(t testing.TB, text []byte, partly bool) []byte {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for name, schema := range document["components"].(map[string]any)["schemas"].(map[string]any) {
		allowNull(schema)
		if partly && strings.HasSuffix(name, "Response") {
			delete(schema.(map[string]any), "required")
		}
	}
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func allowNull(schema any) {
	s, ok := schema.(map[string]any)
	if !ok {
		return // additionalProperties may be false
	}
	if s["type"] == nil && s["$ref"] == nil && s["allOf"] == nil && s["oneOf"] == nil {
		s["nullable"] = true
	}
	for _, below := range []string{"items", "additionalProperties"} {
		if s[below] != nil {
			allowNull(s[below])
		}
	}
	if properties, ok := s["properties"].(map[string]any); ok {
		for _, property := range properties {
			allowNull(property)
		}
	}
}

// find returns the operation for a path, nil if there is none. A path that names more wins: tasks/purge is no task.
func find(document *openapi3.T, method, path string) (found *routers.Route, parameters map[string]string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for template, item := range document.Paths.Map() {
		values, ok := match(template, path)
		operation := item.GetOperation(method)
		if !ok || operation == nil || found != nil && len(values) >= len(parameters) {
			continue
		}
		found = &routers.Route{Spec: document, Path: template, PathItem: item, Method: method, Operation: operation}
		parameters = values
	}
	return found, parameters
}

func match(template, path string) (map[string]string, bool) {
	wanted, given := strings.Split(template, "/"), strings.Split(path, "/")
	if len(wanted) != len(given) {
		return nil, false
	}
	values := map[string]string{}
	for i, segment := range wanted {
		switch {
		case strings.HasPrefix(segment, "{") && given[i] != "":
			value, err := url.PathUnescape(given[i])
			if err != nil {
				return nil, false
			}
			values[strings.Trim(segment, "{}")] = value
		case segment != given[i]:
			return nil, false
		}
	}
	return values, true
}

// witness remembers an answer while it passes it on.
type witness struct {
	http.ResponseWriter
	status  int
	body    bytes.Buffer
	decided bool
}

func (w *witness) WriteHeader(status int) {
	if !w.decided && status >= 200 {
		w.status, w.decided = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *witness) Write(p []byte) (int, error) {
	w.decided = true
	w.body.Write(p)
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *witness) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// judgedFrom makes a transport that holds against the document what a client of a running Sluice sends and gets, whose address is base.
func judgedFrom(t testing.TB, base string, of http.RoundTripper) http.RoundTripper {
	t.Helper()
	laws := map[string]*statute{}
	for _, version := range []string{"v3", "v4"} {
		target := base + "/pulp/api/" + version + "/docs/api.json?pk_path=1&openapi=3.0.3"
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := of.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // it has been read
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("read %s: %d, %v", target, response.StatusCode, err)
		}
		laws[version] = &statute{whole: load(t, edited(t, text, false)), partly: load(t, edited(t, text, true))}
	}
	return &judgedTransport{RoundTripper: of, judge: &judge{
		TB: t, lenient: lenient,
		law: func(_ testing.TB, _, version string) *statute { return laws[version] },
	}}
}

type judgedTransport struct {
	http.RoundTripper
	judge *judge
}

func (j *judgedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	response, err := j.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	seen := &witness{ResponseWriter: httptest.NewRecorder(), status: response.StatusCode}
	if _, err = seen.body.ReadFrom(response.Body); err != nil {
		return nil, err
	}
	_ = response.Body.Close() // it has been read
	response.Body = io.NopCloser(bytes.NewReader(seen.body.Bytes()))
	for name, values := range response.Header {
		seen.Header()[name] = values
	}
	sent := r.Clone(context.WithoutCancel(r.Context()))
	sent.Body = io.NopCloser(bytes.NewReader(body))
	if r.URL.Path != "/pulp/" && strings.HasPrefix(r.URL.Path, "/pulp/") {
		j.judge.look(sent, body, seen)
	}
	return response, nil
}

// TestTheJudgeSees sends and answers what the document forbids, and looks whether the judge says so.
func TestTheJudgeSees(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	cases := map[string]struct {
		method, target, body string
		status               int
		answer               string
	}{
		"an answer with a status that is not declared":     {"GET", "/pulp/api/v3/tasks/" + taskID + "/", "", 418, `{"detail":"tea"}`},
		"an answer without what is promised":               {"GET", "/pulp/api/v3/tasks/" + taskID + "/", "", 200, `{"state":"running"}`},
		"an answer with a value of the wrong type":         {"GET", "/pulp/api/v3/tasks/" + taskID + "/", "", 200, `{"name":7,"logging_cid":""}`},
		"an answer with a state that there is not":         {"GET", "/pulp/api/v3/tasks/" + taskID + "/?fields=state", "", 200, `{"state":"napping"}`},
		"a list that is null":                              {"GET", "/pulp/api/v3/tasks/", "", 200, `{"count":0,"next":null,"previous":null,"results":null}`},
		"a refusal that is no object":                      {"GET", "/pulp/api/v3/tasks/", "", 400, `"no"`},
		"a body where there must be none":                  {"DELETE", "/pulp/api/v3/tasks/" + taskID + "/", "", 200, `{}`},
		"a query parameter of the wrong type that is read": {"GET", "/pulp/api/v3/tasks/?started_at__isnull=perhaps", "", 200, `{"count":0,"next":null,"previous":null,"results":[]}`},
		"a request body with a member that there is not":   {"POST", "/pulp/api/v3/tasks/", `{"name":"a","when":1}`, 202, `{"task":"/pulp/api/v3/tasks/x/"}`},
		"an answer for a path that is not documented":      {"GET", "/pulp/api/v3/repositories/", "", 200, `{}`},
		"an answer for a method that is not documented":    {"PUT", "/pulp/api/v3/tasks/", `{}`, 200, `{}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			said := &hushed{TB: t}
			law := func(_ testing.TB, root, version string) *statute { return statuteOf(t, f.gateway, root, version) }
			handler := &judge{TB: said, law: law, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.answer)
			})}
			r := httptest.NewRequest(c.method, c.target, strings.NewReader(c.body))
			r.Header.Set("Content-Type", "application/json")
			handler.ServeHTTP(httptest.NewRecorder(), r)
			if said.text == "" {
				t.Error("the judge saw nothing")
			}
			t.Log(said.text)
		})
	}
}

// hushed keeps what a test would fail with.
type hushed struct {
	testing.TB
	text string
}

func (h *hushed) Errorf(format string, args ...any) { h.text += fmt.Sprintf(format, args...) }

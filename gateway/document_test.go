package gateway_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sluice-tasks/sluice/gateway"
)

var update = flag.Bool("update", false, "write the golden files")

const docsPath = "/pulp/api/v3/docs/"

// fetch reads a flavour of the document.
func (f *face) fetch(t testing.TB, target string) []byte {
	t.Helper()
	w := f.do(t, "GET", target, "")
	if w.Code != 200 {
		t.Fatalf("%s: %d %s", target, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

func parse[T any](t testing.TB, text []byte) (value T) {
	t.Helper()
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("%.200s: %v", text, err)
	}
	return value
}

// written is a document as far as tests look into it.
type written struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Versions map[string]string `json:"x-pulp-app-versions"`
		Domains  *bool             `json:"x-pulp-domain-enabled"`
	}
	Paths      map[string]map[string]writtenOperation
	Components map[string]map[string]json.RawMessage
}

type writtenOperation struct {
	ID         string `json:"operationId"`
	Tags       []string
	Security   []map[string][]string
	Parameters []writtenParameter
	Body       *struct {
		Required bool
		Content  map[string]json.RawMessage
	} `json:"requestBody"`
	Responses map[string]struct {
		Description string
		Content     map[string]json.RawMessage
	}
}

type writtenParameter struct {
	Name, In, Style string
	Required        bool
	Explode         *bool
	Schema          struct {
		Type, Format string
		Enum         []string
		Items        struct {
			Type, Format string
			Enum         []string
		}
	}
}

// asItWas compares with a file in testdata; -update writes it.
func asItWas(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s is not what is served; if that is meant, run the test with -update (-want +got):\n%s", file, diff)
	}
}

// TestDocumentIsAsItWas keeps every flavour from changing unseen. One is kept whole, the others as far as they differ from it.
func TestDocumentIsAsItWas(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	asItWas(t, "openapi.yaml", f.fetch(t, docsPath+"api.yaml?pk_path=1"))
	asItWas(t, "openapi_v4.yaml", f.fetch(t, "/pulp/api/v4/docs/api.yaml?pk_path=1"))
	for name, target := range map[string]string{
		"operations_hrefs.txt":    docsPath + "api.json",
		"operations_bindings.txt": docsPath + "api.json?bindings",
		"operations_galaxy.txt":   "/api/galaxy/pulp/api/v3/docs/api.json?pk_path",
	} {
		asItWas(t, name, operations(parse[written](t, f.fetch(t, target))))
	}
	old := parse[map[string]any](t, f.fetch(t, docsPath+"api.json?pk_path=1&openapi=3.0.3"))
	schemas, err := yaml.Marshal(old["components"])
	if err != nil {
		t.Fatal(err)
	}
	asItWas(t, "components_3.0.yaml", schemas)
}

func operations(d written) []byte {
	var lines []string
	for path, item := range d.Paths {
		for method, operation := range item {
			var names []string
			for _, p := range operation.Parameters {
				if p.In == "path" {
					names = append(names, p.Name)
				}
			}
			lines = append(lines, fmt.Sprintf("%s %s %s %s %v", path, strings.ToUpper(method), operation.ID, operation.Tags[0], names))
		}
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, "\n") + "\n")
}

// pulps are the operations of Pulp's own document: id, method, path, tag, and the parameters beside those that a list has. A
// parameter is text unless a sign says otherwise: [] is a list with commas, [t] one of times, [o] of choices, [u] of UUIDs, [+] one that is
// given several times; # is a whole number, ? a truth, @ a time, ! a choice.
var pulps = []string{
	"status_read get /pulp/api/v3/status/ Status",
	"livez_read get /pulp/api/v3/livez/ Livez",
	"artifacts_read get {artifact_href} Artifacts",
	"tasks_list get /pulp/api/v3/tasks/ Tasks fields[+] exclude_fields[+] limit# offset# ordering[o] q child_tasks created_resources " +
		"exclusive_resources exclusive_resources__in[] shared_resources shared_resources__in[] reserved_resources reserved_resources__in[] " +
		"logging_cid logging_cid__contains name name__contains name__in[] name__ne state! state__in[] state__ne parent_task task_group " +
		"worker worker__in[] worker__isnull? prn__in[] pulp_href__in[] pulp_id__in[u] " + instants("pulp_created", "unblocked_at", "started_at", "finished_at"),
	"tasks_read get {task_href} Tasks fields[+] exclude_fields[+]",
	"tasks_cancel patch {task_href} Tasks",
	"tasks_delete delete {task_href} Tasks",
	"tasks_purge post /pulp/api/v3/tasks/purge/ Tasks",
	"tasks_profile_artifacts get {task_href}profile_artifacts/ Tasks fields[+] exclude_fields[+]",
	"tasks_list_roles get {task_href}list_roles/ Tasks fields[+] exclude_fields[+]",
	"tasks_my_permissions get {task_href}my_permissions/ Tasks fields[+] exclude_fields[+]",
	"tasks_add_role post {task_href}add_role/ Tasks",
	"tasks_remove_role post {task_href}remove_role/ Tasks",
	"task_groups_list get /pulp/api/v3/task-groups/ Task-Groups fields[+] exclude_fields[+] limit# offset#",
	"task_groups_read get {task_group_href} Task-Groups fields[+] exclude_fields[+]",
	"task_groups_cancel patch {task_group_href} Task-Groups",
	"task_schedules_list get /pulp/api/v3/task-schedules/ Task-Schedules fields[+] exclude_fields[+] limit# offset# ordering[o] q " +
		"name name__contains task_name task_name__contains prn__in[] pulp_href__in[] pulp_id__in[u]",
	"task_schedules_read get {task_schedule_href} Task-Schedules fields[+] exclude_fields[+]",
	"task_schedules_list_roles get {task_schedule_href}list_roles/ Task-Schedules fields[+] exclude_fields[+]",
	"task_schedules_my_permissions get {task_schedule_href}my_permissions/ Task-Schedules fields[+] exclude_fields[+]",
	"task_schedules_add_role post {task_schedule_href}add_role/ Task-Schedules",
	"task_schedules_remove_role post {task_schedule_href}remove_role/ Task-Schedules",
	"workers_list get /pulp/api/v3/workers/ Workers fields[+] exclude_fields[+] limit# offset# ordering[o] q missing? online? name name__contains " +
		"name__icontains name__iexact name__in[] name__iregex name__istartswith name__regex name__startswith prn__in[] pulp_href__in[] " +
		"pulp_id__in[u] " + instants("last_heartbeat"),
	"workers_read get {worker_href} Workers fields[+] exclude_fields[+]",
}

// instants are the lookups of times.
func instants(fields ...string) string {
	var all []string
	for _, f := range fields {
		all = append(all, f+"@", f+"__lt@", f+"__lte@", f+"__gt@", f+"__gte@", f+"__range[t]", f+"__isnull?")
	}
	return strings.Join(all, " ")
}

// pulpsOrderings are what Pulp's lists can be ordered by; its command line sends no other name than the document has.
var pulpsOrderings = map[string]string{
	"tasks_list": "deferred enc_args enc_kwargs error finished_at immediate logging_cid name pk pulp_created pulp_id pulp_last_updated " +
		"reserved_resources_record started_at state unblocked_at versions",
	"task_schedules_list": "dispatch_interval name next_dispatch pk pulp_created pulp_id pulp_last_updated task_name",
	"workers_list":        "last_heartbeat name pk pulp_created pulp_id pulp_last_updated versions",
}

func TestDocumentHasAllThatPulpHas(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	document := parse[written](t, f.fetch(t, docsPath+"api.json"))
	for _, line := range pulps {
		words := strings.Fields(line)
		id, method, path, tag := words[0], words[1], words[2], words[3]
		operation, found := document.Paths[path][method]
		if !found || operation.ID != id || !slices.Equal(operation.Tags, []string{tag}) {
			t.Errorf("%s %s is %s %v, want %s %s", method, path, operation.ID, operation.Tags, id, tag)
			continue
		}
		have := map[string]writtenParameter{}
		for _, p := range operation.Parameters {
			have[p.Name] = p
		}
		if name, inPath := strings.CutPrefix(path, "{"); inPath {
			name, _, _ = strings.Cut(name, "}")
			if p := have[name]; p.In != "path" || !p.Required || p.Schema.Type != "string" {
				t.Errorf("%s: the path parameter %s is %+v", id, name, p)
			}
		}
		for _, word := range words[4:] {
			name, _, _ := strings.Cut(strings.TrimRight(word, "#?@!"), "[")
			p, found := have[name]
			if got := name + signOf(p); !found || got != word || p.In != "query" || p.Required {
				t.Errorf("%s: the parameter %s is %s %+v", id, word, got, p)
			}
			for _, field := range strings.Fields(pulpsOrderings[id]) {
				if enum := p.Schema.Items.Enum; name == "ordering" && (!slices.Contains(enum, field) || !slices.Contains(enum, "-"+field)) {
					t.Errorf("%s can't be ordered by %s", id, field)
				}
			}
			if states := strings.Fields("canceled canceling completed failed running skipped waiting"); name == "state" && !slices.Equal(p.Schema.Enum, states) {
				t.Errorf("%s: the states are %v", id, p.Schema.Enum)
			}
		}
	}
}

func signOf(p writtenParameter) string {
	s := p.Schema
	switch {
	case s.Type == "array" && p.Style == "form" && p.Explode != nil && *p.Explode:
		return "[+]"
	case s.Type == "array" && p.Style == "form" && p.Explode != nil && s.Items.Type == "string":
		switch {
		case s.Items.Format == "date-time":
			return "[t]"
		case s.Items.Format == "uuid":
			return "[u]"
		case s.Items.Enum != nil:
			return "[o]"
		}
		return "[]"
	case s.Type == "integer":
		return "#"
	case s.Type == "boolean":
		return "?"
	case s.Type == "string" && s.Format == "date-time":
		return "@"
	case s.Type == "string" && s.Enum != nil:
		return "!"
	case s.Type == "string" && s.Format == "":
		return ""
	}
	return fmt.Sprintf(" %+v", s)
}

// TestDocumentHasNothingThatStopsPulpsCommandLine looks for all that its strict models do not take, or that makes it stop later.
func TestDocumentHasNothingThatStopsPulpsCommandLine(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for _, target := range []string{docsPath + "api.json", docsPath + "api.json?pk_path=1", docsPath + "api.json?openapi=3.0.3", "/pulp/api/v4/docs/api.json"} {
		text := f.fetch(t, target)
		whole := parse[map[string]any](t, text)
		keys(t, "document", whole, "openapi", "info", "tags", "paths", "components")
		keys(t, "info", whole["info"], "title", "version", "description", "license", "x-pulp-app-versions", "x-pulp-domain-enabled")
		ids := map[string]bool{}
		for path, item := range whole["paths"].(map[string]any) {
			keys(t, path, item, "get", "post", "patch", "put", "delete")
			if n := strings.Count(path, "{"); n > 1 && !strings.Contains(target, "pk_path") {
				t.Errorf("%s has %d parameters; Pulp's command line fills in one", path, n)
			}
			for method, operation := range item.(map[string]any) {
				at := method + " " + path
				keys(t, at, operation, "operationId", "summary", "description", "tags", "parameters", "requestBody", "security", "responses")
				o := operation.(map[string]any)
				id, _ := o["operationId"].(string)
				if id == "" || ids[id] {
					t.Errorf("%s: the id %q is missing or there twice", at, id)
				}
				ids[id] = true
				for _, p := range list(o["parameters"]) {
					keys(t, at+": a parameter", p, "name", "in", "description", "required", "style", "explode", "schema")
				}
				if body := o["requestBody"]; body != nil {
					keys(t, at+": body", body, "required", "content")
					keys(t, at+": body", body.(map[string]any)["content"], "application/json")
					if body.(map[string]any)["required"] != true {
						t.Errorf("%s: the body is not required", at)
					}
				}
				for status, response := range o["responses"].(map[string]any) {
					keys(t, at+" "+status, response, "description", "headers", "content")
					r := response.(map[string]any)
					if r["description"] == "" || r["description"] == nil {
						t.Errorf("%s %s has no description", at, status)
					}
					if status == "204" && r["content"] != nil {
						t.Errorf("%s: a 204 with content", at)
					}
					if content, ok := r["content"].(map[string]any); ok {
						if !strings.Contains(id, "watch") && id != "tasks_read_profile_artifact" || status[0] != '2' {
							keys(t, at+" "+status, content, "application/json")
						}
						for _, media := range content {
							keys(t, at+" "+status, media, "schema")
						}
					}
				}
				basic := 0
				for _, way := range list(o["security"]) {
					if len(way.(map[string]any)) == 0 {
						t.Errorf("%s: a security requirement that asks for nothing is the cheapest one, and no credentials are sent", at)
					}
					if _, ok := way.(map[string]any)["basicAuth"]; ok {
						basic++
					}
				}
				anonymous := slices.Contains([]string{"status_read", "livez_read", "tasks_read_profile_artifact"}, id)
				if want := map[bool]int{true: 0, false: 1}[anonymous]; basic != want {
					t.Errorf("%s: basic authentication is offered %d times", at, basic)
				}
			}
		}
		for _, word := range []string{`"examples"`, `"exclusiveMinimum"`, `"exclusiveMaximum"`, `"allowReserved"`, `"const"`, `/parameters/`, `/responses/`, `/requestBodies/`} {
			if bytes.Contains(text, []byte(word)) {
				t.Errorf("%s: %s is in it", target, word)
			}
		}
		schemes := whole["components"].(map[string]any)["securitySchemes"]
		if diff := cmp.Diff([]string{"basicAuth", "tokenAuth"}, slices.Sorted(maps.Keys(schemes.(map[string]any)))); diff != "" {
			t.Error(diff)
		}
	}
}

func list(of any) []any {
	all, _ := of.([]any)
	return all
}

// keys checks that an object has no other members than these.
func keys(t *testing.T, where string, of any, known ...string) {
	t.Helper()
	object, ok := of.(map[string]any)
	if !ok {
		t.Errorf("%s is %v", where, of)
	}
	for key := range object {
		if !slices.Contains(known, key) {
			t.Errorf("%s: %q is no key that every client knows", where, key)
		}
	}
}

func TestDocumentIsValidWhereItHasIDs(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for target, valid := range map[string]bool{
		docsPath + "api.json?pk_path=1":                             true,
		docsPath + "api.json?pk_path=1&openapi=3.0.3":               true,
		docsPath + "api.yaml?pk_path":                               true,
		"/pulp/api/v4/docs/api.json?pk_path":                        true,
		"/api/galaxy/pulp/api/v3/docs/api.json?pk_path":             true,
		docsPath + "api.json?pk_path&component=file":                true, // and empty
		docsPath + "api.json":                                       false,
		docsPath + "api.json?openapi=3.0.3&include_html&component=": false,
	} {
		document, err := openapi3.NewLoader().LoadFromData(f.fetch(t, target))
		if err != nil {
			t.Fatal(err)
		}
		if err := document.Validate(t.Context()); (err == nil) != valid {
			t.Errorf("%s: valid is %v, want %v: %v", target, err == nil, valid, err)
		}
	}
}

func TestDocumentAndStatusTellTheSameVersions(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{Version: "1.2.3"})
	document := parse[written](t, f.fetch(t, docsPath+"api.json"))
	status := parse[struct {
		Versions []struct{ Component, Version string }
		Domains  bool `json:"domain_enabled"`
	}](t, f.fetch(t, "/pulp/api/v3/status/"))
	told := map[string]string{}
	for _, v := range status.Versions {
		told[v.Component] = v.Version
	}
	if diff := cmp.Diff(told, document.Info.Versions); diff != "" || told["core"] != gateway.CoreVersion {
		t.Errorf("the versions differ, and Pulp's command line reads the document anew each time:\n%s", diff)
	}
	if d := document.Info.Domains; d == nil || *d != status.Domains {
		t.Errorf("domains are %v, and %v in the status", d, status.Domains)
	}
}

func TestDocumentIsServed(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	target := docsPath + "api.json"
	w := f.do(t, "GET", target, "")
	tag := w.Header().Get("ETag")
	if w.Header().Get("Content-Type") != "application/vnd.oai.openapi+json" || tag == "" || w.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("headers %v", w.Header())
	}
	if again := f.do(t, "GET", target, "", "If-None-Match", tag); again.Code != 304 || again.Body.Len() > 0 {
		t.Errorf("asked for a change it answered %d with %d bytes", again.Code, again.Body.Len())
	}
	if other := f.do(t, "GET", target+"?pk_path", "", "If-None-Match", tag); other.Code != 200 {
		t.Errorf("another flavour is the same: %d", other.Code)
	}
	if head := f.do(t, "HEAD", target, ""); head.Code != 200 || head.Body.Len() > 0 {
		t.Errorf("HEAD: %d with %d bytes", head.Code, head.Body.Len())
	}
	if options := f.do(t, "OPTIONS", target, ""); options.Code != 204 || options.Header().Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("OPTIONS: %d %v", options.Code, options.Header())
	}
	want(t, f.do(t, "POST", target, `{}`), 405, `{"detail":"Method \"POST\" not allowed."}`)
	want(t, f.do(t, "GET", target+"?openapi=2.0", ""), 400, `{"openapi":["Select a valid choice. 2.0 is not one of the available choices."]}`)
	if old := f.do(t, "GET", target+"?plugin=core", ""); old.Code != 400 {
		t.Errorf("?plugin: %d", old.Code)
	}
	want(t, f.do(t, "GET", docsPath+"api.xml", ""), 404, `{"detail":"Not found."}`)
	if n := len(parse[written](t, f.fetch(t, target+"?component=file")).Paths); n != 0 {
		t.Errorf("a component that is not here has %d paths", n)
	}
	if n := len(parse[written](t, f.fetch(t, target+"?component=file,core")).Paths); n == 0 {
		t.Error("the component core has no paths")
	}
}

// Old readers of YAML take some words for truths, and the names of two fields are among them.
func TestDocumentInYAMLSaysTheSame(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	text := f.fetch(t, docsPath+"api.yaml?pk_path=1")
	var got any
	if err := yaml.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(parse[any](t, f.fetch(t, docsPath+"api.json?pk_path=1")), parse[any](t, again)); diff != "" {
		t.Error(diff)
	}
	if bare := regexp.MustCompile(`(?m)^\s*(- )?(on|off|yes|no|y|n):`).Find(text); bare != nil {
		t.Errorf("%q without quotes", bare)
	}
}

func TestDocumentFollowsTheRoot(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{APIRoot: "/a/b/", Aliases: []string{"/hub/"}})
	for _, root := range []string{"/a/b/", "/hub/pulp/"} {
		document := parse[written](t, f.fetch(t, root+"api/v3/docs/api.json"))
		if document.Paths[root+"api/v3/tasks/"]["get"].ID != "tasks_list" {
			t.Errorf("below %s there are %v", root, slices.Sorted(maps.Keys(document.Paths)))
		}
		_, token := document.Paths["/hub/v3/auth/token/"]
		if token != (root == "/hub/pulp/") {
			t.Errorf("below %s, the token of Galaxy is there: %v", root, token)
		}
	}
	if w := f.do(t, "GET", docsPath+"api.json", ""); w.Code != 404 {
		t.Errorf("below a root that is none: %d", w.Code)
	}
}

// TestPageForPeople reads the page as a browser would that may do nothing but show it.
func TestPageForPeople(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	w := f.do(t, "GET", "/pulp/api/v3/docs", "")
	page := w.Body.String()
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	_, style, _ := strings.Cut(page, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	policy := w.Header().Get("Content-Security-Policy")
	if !strings.Contains(policy, "style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("the policy %q does not fit the page", policy)
	}
	for _, forbidden := range []string{"<script", "style=", "src=", "http://fonts", "https://", "@import", "url(", "ZgotmplZ"} {
		if strings.Contains(page, forbidden) {
			t.Errorf("%q is in the page", forbidden)
		}
	}
	anchors := map[string]bool{}
	for _, match := range regexp.MustCompile(`id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if anchors[match[1]] {
			t.Errorf("the anchor %s is there twice", match[1])
		}
		anchors[match[1]] = true
	}
	for _, match := range regexp.MustCompile(`href="#([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if !anchors[match[1]] {
			t.Errorf("a link leads to #%s, which is not there", match[1])
		}
	}
	for _, item := range parse[written](t, f.fetch(t, docsPath+"api.json?pk_path")).Paths {
		for _, operation := range item {
			if !anchors[operation.ID] {
				t.Errorf("%s is not in the page", operation.ID)
			}
		}
	}
	for _, match := range regexp.MustCompile(`href="(/[^"]+)"`).FindAllStringSubmatch(page, -1) {
		f.fetch(t, strings.ReplaceAll(match[1], "&amp;", "&"))
	}
	if !strings.Contains(page, "curl -u admin") {
		t.Error("there is no example")
	}
}

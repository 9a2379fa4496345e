package gateway_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/testkit/dev"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// TestConformance says of the built program what Pulp's own functional tests say of Pulp's tasking, workers, purge, schedules and
// status: in our words, and through REST, but for what Pulp's tests too do from inside.
//
// What they say and this does not, and why:
//
//	that users see and change only what they have a role for, from tasks to groups to purges:
//	    every user is an administrator; the endpoints for roles are there, and are tested
//	that schedules, storage and tasks of two domains are apart:
//	    there is one domain
//	that a resource named by its href is found by its PRN, and that content, repositories, distributions, imports, exports and
//	replication reserve, create and return what they should:
//	    Sluice has none of these; a resource is the name that the dispatcher gave it
//	that nonsense is refused as a created resource:
//	    for the same reason any name can be one
func TestConformance(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("tasks run on Linux only")
	}
	c := startConformance(t)
	t.Run("side by side", func(t *testing.T) {
		for _, says := range [][]conformanceClaim{claimsOfTasks, claimsOfResources, claimsOfImmediates, claimsOfGroups, claimsOfLists, claimsOfTheRest} {
			for _, one := range says {
				t.Run(one.says, func(t *testing.T) {
					t.Parallel()
					one.prove(c.under(t))
				})
			}
		}
	})
	// These delete what others would still look at.
	for _, one := range claimsOfPurge {
		t.Run(one.says, func(t *testing.T) { one.prove(c.under(t)) })
	}
}

// conformanceClaim is one sentence about Pulp that has to be true of Sluice.
type conformanceClaim struct {
	says  string
	prove func(*conformance)
}

// conformance is a running Sluice, as a test of one claim sees it.
type conformance struct {
	t      *testing.T
	dev    *dev.Dev
	http   *http.Client
	native *client.Client // for what can't be said through REST
}

// conformanceSlots are more than all claims together hold at a time.
const conformanceSlots = "24"

func startConformance(t *testing.T) *conformance {
	t.Helper()
	d := dev.Start(t, "--slots", conformanceSlots, "--immediate-slots", conformanceSlots, "--immediate-timeout", "2s")
	native, err := client.Dial(d.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = native.Close() }) // it only fails when closed twice
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &conformance{t: t, dev: d, http: &http.Client{Transport: judgedFrom(t, d.REST, transport)}, native: native}
}

func (c *conformance) under(t *testing.T) *conformance {
	mine := *c
	mine.t = t
	return &mine
}

// restAnswer is what the REST face answered.
type restAnswer struct {
	code   int
	header http.Header
	body   string
}

func (a restAnswer) decode(c *conformance, v any) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		c.t.Fatalf("%v in %d %s", err, a.code, a.body)
	}
}

// want fails the test if the code is another.
func (a restAnswer) want(c *conformance, code int) restAnswer {
	c.t.Helper()
	if a.code != code {
		c.t.Fatalf("got %d %s, want %d", a.code, a.body, code)
	}
	return a
}

// ask asks as the administrator, unless headers say otherwise. A path without a slash in front is below the API.
func (c *conformance) ask(method, path, body string, headers ...string) restAnswer {
	c.t.Helper()
	return c.askAs("admin", method, path, body, headers...)
}

// askAs asks as a user of `sluice dev`, and as nobody with an empty name.
func (c *conformance) askAs(user, method, path, body string, headers ...string) restAnswer {
	c.t.Helper()
	if !strings.HasPrefix(path, "/") {
		path = "/pulp/api/v3/" + path
	}
	// The context of a test has ended when it tidies up.
	request, err := http.NewRequestWithContext(context.WithoutCancel(c.t.Context()), method, c.dev.REST+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if user != "" {
		request.SetBasicAuth(user, "password")
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	response, err := c.http.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return restAnswer{response.StatusCode, response.Header, string(read)}
}

// restTask is a task as the REST face shows it.
type restTask struct {
	Href        string          `json:"pulp_href"`
	PRN         string          `json:"prn"`
	State       string          `json:"state"`
	Name        string          `json:"name"`
	CID         string          `json:"logging_cid"`
	CreatedBy   *string         `json:"created_by"`
	Created     time.Time       `json:"pulp_created"`
	UnblockedAt *time.Time      `json:"unblocked_at"`
	StartedAt   *time.Time      `json:"started_at"`
	FinishedAt  *time.Time      `json:"finished_at"`
	Error       *restError      `json:"error"`
	Result      json.RawMessage `json:"result"`
	Parent      *string         `json:"parent_task"`
	Children    []string        `json:"child_tasks"`
	Group       *string         `json:"task_group"`
	Resources   []string        `json:"created_resources"`
	Reserved    []string        `json:"reserved_resources_record"`
	Reports     []struct {
		Code  string `json:"code"`
		State string `json:"state"`
		Total *int64 `json:"total"`
		Done  int64  `json:"done"`
	} `json:"progress_reports"`
}

type restError struct {
	Description string `json:"description"`
	Reason      string `json:"reason"`
}

func (t restTask) final() bool {
	return slices.Contains([]string{"completed", "failed", "canceled", "skipped"}, t.State)
}

// why is what the task says about its end.
func (t restTask) why() string {
	if t.Error == nil {
		return ""
	}
	return t.Error.Description + " " + t.Error.Reason
}

// dispatch hands in a task, whose href it returns.
func (c *conformance) dispatch(spec string, headers ...string) string {
	c.t.Helper()
	return c.accepted(c.ask(http.MethodPost, "tasks/", spec, headers...))
}

// accepted is the task of an answer by which work was taken on. Its one key is how clients know it.
func (c *conformance) accepted(a restAnswer) string {
	c.t.Helper()
	var made map[string]string
	a.want(c, http.StatusAccepted).decode(c, &made)
	if len(made) != 1 || made["task"] == "" {
		c.t.Fatalf("got %s, want the task and nothing else", a.body)
	}
	return made["task"]
}

func (c *conformance) read(href string) restTask {
	c.t.Helper()
	var task restTask
	c.ask(http.MethodGet, href, "").want(c, http.StatusOK).decode(c, &task)
	return task
}

// becomes waits for a state, and stops waiting when it can no longer come.
func (c *conformance) becomes(href, state string) restTask {
	c.t.Helper()
	var task restTask
	probe.Eventually(c.t, "task "+href+" is "+state, func() bool {
		task = c.read(href)
		return task.State == state || task.final()
	})
	if task.State != state {
		c.t.Fatalf("task %s is %s: %s; want %s", task.Name, task.State, task.why(), state)
	}
	return task
}

// completes runs a task.
func (c *conformance) completes(spec string) restTask {
	c.t.Helper()
	return c.becomes(c.dispatch(spec), "completed")
}

// holds has a resource held exclusively by a running task until the test lets it go, or ends.
func (c *conformance) holds(resource string) (href string, letGo func()) {
	c.t.Helper()
	href = c.dispatch(fmt.Sprintf(`{"name": "test.sleep", "args": [600], "exclusive_resources": [%q]}`, resource))
	c.becomes(href, "running")
	letGo = func() { c.ask(http.MethodPatch, href, cancelBody) }
	c.t.Cleanup(letGo)
	return href, letGo
}

// cancelBody is the body that cancels.
const cancelBody = `{"state": "canceled"}`

// cancelAtTheEnd cancels a task at the latest when the test ends, so that nothing of it stays.
func (c *conformance) cancelAtTheEnd(href string) {
	c.t.Cleanup(func() { c.ask(http.MethodPatch, href, cancelBody) })
}

// restPage is what a list answers.
type restPage struct {
	Count   int
	Next    *string
	Results []restTask
}

func (p restPage) hrefs() []string {
	var hrefs []string
	for _, task := range p.Results {
		hrefs = append(hrefs, task.Href)
	}
	return hrefs
}

// list asks for tasks; query is what comes after the question mark.
func (c *conformance) list(query string) restPage {
	c.t.Helper()
	var found restPage
	c.ask(http.MethodGet, "tasks/?"+query, "").want(c, http.StatusOK).decode(c, &found)
	return found
}

// finds fails the test if the list has other tasks, or another order of them.
func (c *conformance) finds(query string, hrefs ...string) {
	c.t.Helper()
	found := c.list(query)
	if found.Count != len(hrefs) || !slices.Equal(found.hrefs(), hrefs) {
		c.t.Errorf("%s finds %d: %v, want %v", query, found.Count, found.hrefs(), hrefs)
	}
}

// keys of a JSON object.
func (c *conformance) keys(a restAnswer) []string {
	c.t.Helper()
	var object map[string]json.RawMessage
	a.want(c, http.StatusOK).decode(c, &object)
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// before fails the test unless one thing was over when the other began.
func (c *conformance) before(first, second restTask) {
	c.t.Helper()
	if first.FinishedAt == nil || second.StartedAt == nil || second.StartedAt.Before(*first.FinishedAt) {
		c.t.Errorf("%s ended at %v, and %s started at %v, want it after that", first.Href, first.FinishedAt, second.Href, second.StartedAt)
	}
}

// uniqueName makes a name that no other claim has.
func uniqueName(prefix string) string { return prefix + "-" + strings.ToLower(rand.Text()) }

// same compares JSON as values.
func (c *conformance) same(got json.RawMessage, want string) {
	c.t.Helper()
	var a, b any
	if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal([]byte(want), &b)); err != nil || !reflect.DeepEqual(a, b) {
		c.t.Errorf("got %s, want %s: %v", got, want, err)
	}
}

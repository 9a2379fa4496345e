package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

var claimsOfTasks = []conformanceClaim{
	{"a waiting task can't be deleted; canceled it never started, and has an end", (*conformance).waitingTask},
	{"a running task can't be deleted; canceled it has a start and an end", (*conformance).runningTask},
	{"a finished task can't be canceled, and can be deleted", (*conformance).finishedTask},
	{"canceling a canceled task changes nothing and is no error", (*conformance).canceledTwice},
	{"a task that is not there can't be canceled, read or deleted", (*conformance).missingTask},
	{"a cancel that wishes for another state is refused, also where there is no task", (*conformance).wrongState},
	{"a task that takes no notice of its cancel is canceled all the same", (*conformance).gooeyTask},
	{"who dispatched a task is told, and that it was nobody", (*conformance).createdBy},
	{"a task that needs versions which no worker has waits, and can be canceled", (*conformance).versions},
	{"a task whose worker is killed has failed, as the worker is missing, and frees its resource", (*conformance).missingWorker},
	{"a task that fails tells why", (*conformance).failing},
	{"what a task returns is its result", (*conformance).result},
	{"a task shows how far it is", (*conformance).progress},
	{"fields gives exactly these fields, separated by commas or repeated", (*conformance).fields},
	{"exclude_fields leaves exactly these fields out", (*conformance).excludeFields},
	{"a minimal task is without what is costly", (*conformance).minimal},
	{"diagnostics are made when a header asks for them, and not otherwise", (*conformance).diagnostics},
	{"the roles of a task can be listed, and the administrator may do everything", (*conformance).roles},
}

func (c *conformance) waitingTask() {
	resource := uniqueName("r")
	_, letGo := c.holds(resource)
	href := c.dispatch(fmt.Sprintf(`{"name": "test.noop", "exclusive_resources": [%q]}`, resource))
	c.cancelAtTheEnd(href)
	if refused := c.ask(http.MethodDelete, href, "").want(c, http.StatusConflict); refused.body != "" {
		c.t.Errorf("the refusal says %q, want nothing", refused.body)
	}
	if now := c.read(href); now.State != "waiting" {
		c.t.Fatalf("it is %s", now.State)
	}
	var canceled restTask
	c.ask(http.MethodPatch, href, cancelBody).want(c, http.StatusOK).decode(c, &canceled)
	if canceled.Href != href || canceled.State != "canceled" && canceled.State != "canceling" {
		c.t.Errorf("the cancel returns %+v", canceled)
	}
	// While the holder still holds: it has not waited for its turn.
	if ended := c.becomes(href, "canceled"); ended.StartedAt != nil || ended.FinishedAt == nil {
		c.t.Errorf("it started at %v and ended at %v, want no start and an end", ended.StartedAt, ended.FinishedAt)
	}
	letGo()
}

func (c *conformance) runningTask() {
	href, letGo := c.holds(uniqueName("r"))
	c.ask(http.MethodDelete, href, "").want(c, http.StatusConflict)
	letGo()
	ended := c.becomes(href, "canceled")
	if ended.StartedAt == nil || ended.FinishedAt == nil {
		c.t.Errorf("it started at %v and ended at %v, want both", ended.StartedAt, ended.FinishedAt)
	}
	if ended.Error == nil {
		c.t.Error("its error is null, which Pulp's client can't read in a group")
	}
}

func (c *conformance) finishedTask() {
	task := c.completes(`{"name": "test.noop"}`)
	var answered restTask
	c.ask(http.MethodPatch, task.Href, cancelBody).want(c, http.StatusConflict).decode(c, &answered)
	if answered.Href != task.Href || answered.State != "completed" {
		c.t.Errorf("the refusal shows %+v, want the task", answered)
	}
	c.ask(http.MethodDelete, task.Href, "").want(c, http.StatusNoContent)
	c.ask(http.MethodGet, task.Href, "").want(c, http.StatusNotFound)
}

func (c *conformance) canceledTwice() {
	href, letGo := c.holds(uniqueName("r"))
	letGo()
	first := c.becomes(href, "canceled")
	var second restTask
	c.ask(http.MethodPatch, href, cancelBody).want(c, http.StatusOK).decode(c, &second)
	if second.State != "canceled" || !second.FinishedAt.Equal(*first.FinishedAt) {
		c.t.Errorf("then it is %s since %v, before since %v", second.State, second.FinishedAt, first.FinishedAt)
	}
}

const noTask = "/pulp/api/v3/tasks/01900000-0000-7000-8000-000000000000/"

func (c *conformance) missingTask() {
	for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
		body := ""
		if method == http.MethodPatch {
			body = cancelBody
		}
		answer := c.ask(method, noTask, body).want(c, http.StatusNotFound)
		if !strings.Contains(answer.body, `"detail"`) {
			c.t.Errorf("%s answers %s", method, answer.body)
		}
	}
}

func (c *conformance) wrongState() {
	for _, body := range []string{`{"state": "running"}`, `{"state": "nope"}`, `{}`} {
		answer := c.ask(http.MethodPatch, noTask, body).want(c, http.StatusBadRequest)
		if !strings.Contains(answer.body, `"state"`) {
			c.t.Errorf("%s is refused with %s, want the field named", body, answer.body)
		}
	}
}

func (c *conformance) gooeyTask() {
	href := c.dispatch(`{"name": "test.gooey", "args": [600]}`)
	c.becomes(href, "running")
	c.ask(http.MethodPatch, href, cancelBody).want(c, http.StatusOK)
	c.becomes(href, "canceled")
}

func (c *conformance) createdBy() {
	mine := c.read(c.dispatch(`{"name": "test.noop"}`))
	if mine.CreatedBy == nil || !strings.HasSuffix(*mine.CreatedBy, "/users/1/") {
		c.t.Errorf("a task of the administrator was made by %v", mine.CreatedBy)
	}
	// Through gRPC nobody says who he is.
	nobodys, err := c.native.Dispatch(c.t.Context(), bareSpec("test.noop"))
	if err != nil {
		c.t.Fatal(err)
	}
	if task := c.read("/pulp/api/v3/tasks/" + nobodys.ID + "/"); task.CreatedBy != nil {
		c.t.Errorf("a task of nobody was made by %s", *task.CreatedBy)
	}
}

func (c *conformance) versions() {
	for _, versions := range []string{`{"core": "4.0.0"}`, `{"catdog": "0.0.1"}`} {
		href := c.dispatch(`{"name": "test.noop", "versions": ` + versions + `}`)
		c.cancelAtTheEnd(href)
		c.completes(`{"name": "test.noop"}`) // what came after it and could be run has been
		if now := c.read(href); now.State != "waiting" {
			c.t.Errorf("with %s it is %s", versions, now.State)
		}
		c.ask(http.MethodPatch, href, cancelBody).want(c, http.StatusOK)
		c.becomes(href, "canceled")
	}
}

func (c *conformance) missingWorker() {
	// The component has the task come to this one, so that no other dies.
	c.dev.Executor(c.t, "mortal", "--have", "mortality=1.0", "--worker-ttl", "5s")
	resource := uniqueName("r")
	killed := c.dispatch(fmt.Sprintf(`{"name": "test.kill_worker", "versions": {"mortality": "1.0"}, "exclusive_resources": [%q]}`, resource))
	after := c.dispatch(fmt.Sprintf(`{"name": "test.noop", "exclusive_resources": [%q]}`, resource))
	ended := c.becomes(killed, "failed")
	if why := strings.ToLower(ended.Error.Reason); !strings.Contains(why, "worker") || !strings.Contains(why, "missing") {
		c.t.Errorf("it failed as %+v", ended.Error)
	}
	c.before(ended, c.becomes(after, "completed"))
}

func (c *conformance) failing() {
	ended := c.becomes(c.dispatch(`{"name": "test.fail", "args": ["the printer is on fire"]}`), "failed")
	if !strings.Contains(ended.Error.Description, "the printer is on fire") {
		c.t.Errorf("it failed as %+v", ended.Error)
	}
}

func (c *conformance) result() {
	ended := c.completes(`{"name": "test.echo", "args": [1, "two"], "kwargs": {"three": null}}`)
	c.same(ended.Result, `{"args": [1, "two"], "kwargs": {"three": null}}`)
	c.same(c.completes(`{"name": "test.noop"}`).Result, `null`)
}

func (c *conformance) progress() {
	ended := c.completes(`{"name": "test.progress", "kwargs": {"steps": 5}}`)
	if len(ended.Reports) != 1 {
		c.t.Fatalf("it reports %+v", ended.Reports)
	}
	if report := ended.Reports[0]; report.Code != "test.progress" || report.State != "completed" || report.Done != 5 || report.Total == nil || *report.Total != 5 {
		c.t.Errorf("it reports %+v", report)
	}
}

func (c *conformance) fields() {
	href := c.completes(`{"name": "test.noop"}`).Href
	want := []string{"name", "pulp_href", "state"}
	for _, query := range []string{"fields=state,name,pulp_href", "fields=state&fields=name&fields=pulp_href"} {
		if got := c.keys(c.ask(http.MethodGet, href+"?"+query, "")); !slices.Equal(got, want) {
			c.t.Errorf("%s has %v, want %v", query, got, want)
		}
		var listed struct{ Results []map[string]json.RawMessage }
		c.ask(http.MethodGet, "tasks/?limit=1&"+query, "").want(c, http.StatusOK).decode(c, &listed)
		if len(listed.Results) != 1 || len(listed.Results[0]) != len(want) {
			c.t.Errorf("in the list, %s has %v, want %v", query, listed.Results, want)
		}
	}
}

func (c *conformance) excludeFields() {
	href := c.completes(`{"name": "test.noop"}`).Href
	all := c.keys(c.ask(http.MethodGet, href, ""))
	for _, query := range []string{"exclude_fields=created_resources,child_tasks", "exclude_fields=created_resources&exclude_fields=child_tasks"} {
		got := c.keys(c.ask(http.MethodGet, href+"?"+query, ""))
		want := slices.DeleteFunc(slices.Clone(all), func(key string) bool { return key == "created_resources" || key == "child_tasks" })
		if !slices.Equal(got, want) {
			c.t.Errorf("%s has %v, want %v", query, got, want)
		}
	}
}

func (c *conformance) minimal() {
	href := c.completes(`{"name": "test.noop"}`).Href
	keys := c.keys(c.ask(http.MethodGet, href+"?minimal=true", ""))
	for _, has := range []string{"pulp_href", "prn", "name", "state", "started_at", "finished_at", "unblocked_at", "worker"} {
		if !slices.Contains(keys, has) {
			c.t.Errorf("it has no %s", has)
		}
	}
	for _, not := range []string{"progress_reports", "parent_task", "error", "result", "child_tasks"} {
		if slices.Contains(keys, not) {
			c.t.Errorf("it has %s", not)
		}
	}
}

func (c *conformance) diagnostics() {
	urls := func(href string) map[string]string {
		var profile struct{ URLs map[string]string }
		answer := c.ask(http.MethodGet, href+"profile_artifacts/", "").want(c, http.StatusOK)
		answer.decode(c, &profile)
		if profile.URLs == nil {
			c.t.Errorf("it answers %s, want an object of urls", answer.body)
		}
		return profile.URLs
	}
	if got := urls(c.completes(`{"name": "test.noop"}`).Href); len(got) != 0 {
		c.t.Errorf("a task for which none was asked for has %v", got)
	}
	asked := c.becomes(c.dispatch(`{"name": "test.sleep", "args": [0.1]}`, "X-Task-Diagnostics", "memory"), "completed")
	url := urls(asked.Href)["memory_profile"]
	path, ours := strings.CutPrefix(url, c.dev.REST)
	if !ours {
		c.t.Fatalf("the profile is at %q, want a whole URL of this address", url)
	}
	// Whoever has the URL may have what is there: it is given to programs that have no password.
	if got := c.askAs("", http.MethodGet, path, "").want(c, http.StatusOK); got.body == "" {
		c.t.Error("the profile is empty")
	}
	if cut := strings.TrimRight(path, "/"); cut != "" {
		c.askAs("", http.MethodGet, cut[:len(cut)-4]+"ffff", "").want(c, http.StatusNotFound)
	}
}

func (c *conformance) roles() {
	href := c.completes(`{"name": "test.noop"}`).Href
	var listed struct{ Roles []json.RawMessage }
	c.ask(http.MethodGet, href+"list_roles/", "").want(c, http.StatusOK).decode(c, &listed)
	if listed.Roles == nil {
		c.t.Error("the roles are null, which Pulp's clients do not expect")
	}
	var mine struct{ Permissions []string }
	c.ask(http.MethodGet, href+"my_permissions/", "").want(c, http.StatusOK).decode(c, &mine)
	for _, want := range []string{"core.view_task", "core.change_task", "core.delete_task"} {
		if !slices.Contains(mine.Permissions, want) {
			c.t.Errorf("the administrator has %v, want %s", mine.Permissions, want)
		}
	}
	c.ask(http.MethodPost, href+"add_role/", `{"role": "core.task_user_dispatcher", "users": ["admin"]}`).want(c, http.StatusBadRequest)
}

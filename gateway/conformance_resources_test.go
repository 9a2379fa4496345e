package gateway_test

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// bareSpec is a task with nothing but a name.
func bareSpec(name string) client.Spec { return client.Spec{Name: name} }

var claimsOfResources = []conformanceClaim{
	{"tasks on several resources start in the order that these allow", (*conformance).multiResource},
	{"many tasks that wait for one resource do not keep an unrelated one from running", (*conformance).manyBlocked},
	{"a finalizer runs after all its siblings, also after one that something else holds up", (*conformance).finalizer},
}

func (c *conformance) multiResource() {
	a, b := uniqueName("a"), uniqueName("b")
	sleep := func(exclusive, shared string) string {
		return c.dispatch(fmt.Sprintf(`{"name": "test.sleep", "args": [0.2], "exclusive_resources": [%s], "shared_resources": [%s]}`, exclusive, shared))
	}
	quotedA, quotedB := fmt.Sprintf("%q", a), fmt.Sprintf("%q", b)
	dispatched := []string{sleep(quotedA, quotedB), sleep("", quotedA), sleep("", quotedA), sleep(quotedA, ""), sleep(quotedB, "")}
	var ended []restTask
	for _, href := range dispatched {
		ended = append(ended, c.becomes(href, "completed"))
	}
	for _, later := range []int{1, 2, 4} {
		c.before(ended[0], ended[later])
	}
	c.before(ended[1], ended[3])
	c.before(ended[2], ended[3])
}

func (c *conformance) manyBlocked() {
	resource := uniqueName("r")
	_, letGo := c.holds(resource)
	var blocked []string
	for range 25 {
		blocked = append(blocked, c.dispatch(fmt.Sprintf(`{"name": "test.noop", "exclusive_resources": [%q]}`, resource)))
	}
	c.completes(fmt.Sprintf(`{"name": "test.noop", "exclusive_resources": [%q]}`, uniqueName("unrelated")))
	for _, href := range blocked {
		if now := c.read(href); now.State != "waiting" {
			c.t.Errorf("a blocked one is %s", now.State)
		}
	}
	letGo()
	for _, href := range blocked {
		c.becomes(href, "completed")
	}
}

func (c *conformance) finalizer() {
	resource := uniqueName("r")
	_, letGo := c.holds(resource)
	parent := c.completes(fmt.Sprintf(`{"name": "test.group_with_finalizer", "args": [%q]}`, resource))
	if len(parent.Children) != 3 {
		c.t.Fatalf("it dispatched %v, want two members and the finalizer", parent.Children)
	}
	for _, child := range parent.Children {
		if now := c.read(child); now.State != "waiting" || now.Parent == nil || *now.Parent != parent.Href {
			c.t.Errorf("child %s of %v is %s", child, now.Parent, now.State)
		}
	}
	letGo()
	var members []restTask
	var last restTask
	for _, child := range parent.Children {
		if task := c.becomes(child, "completed"); task.Name == "test.noop" {
			last = task
		} else {
			members = append(members, task)
		}
	}
	for _, member := range members {
		c.before(member, last)
	}
}

var claimsOfImmediates = []conformanceClaim{
	{"an immediate task has ended when its dispatch is answered", (*conformance).immediate},
	{"an immediate task whose code is not made for it fails, and says so", (*conformance).immediateUnfit},
	{"an immediate task that takes too long fails, and says so", (*conformance).immediateTooLong},
	{"an immediate task that fails tells why", (*conformance).immediateFails},
	{"an immediate task whose resources are free takes them and need not wait", (*conformance).immediateResources},
	{"a blocked immediate task that may wait is run by a worker when its turn comes", (*conformance).immediateWaits},
	{"a blocked immediate task that may not wait is canceled, and says why", (*conformance).immediateMayNotWait},
	{"a blocked immediate task that takes too long then fails on the worker", (*conformance).immediateTooLongThen},
}

func (c *conformance) immediate() {
	if task := c.read(c.dispatch(`{"name": "test.asleep", "args": [0.2], "immediate": true}`)); task.State != "completed" {
		c.t.Errorf("it is %s: %s", task.State, task.why())
	}
}

func (c *conformance) immediateUnfit() {
	task := c.read(c.dispatch(`{"name": "test.sleep", "args": [0.1], "immediate": true}`))
	if task.State != "failed" || !strings.Contains(task.why(), "Immediate tasks must be async functions") {
		c.t.Errorf("it is %s: %s", task.State, task.why())
	}
}

func (c *conformance) immediateTooLong() {
	task := c.read(c.dispatch(`{"name": "test.asleep", "args": [600], "immediate": true}`))
	if task.State != "failed" || !strings.Contains(task.why(), "timed out after") {
		c.t.Errorf("it is %s: %s", task.State, task.why())
	}
}

func (c *conformance) immediateFails() {
	task := c.read(c.dispatch(`{"name": "test.afail", "args": ["no paper"], "immediate": true}`))
	if task.State != "failed" || !strings.Contains(task.Error.Description, "no paper") {
		c.t.Errorf("it is %s: %+v", task.State, task.Error)
	}
}

func (c *conformance) immediateResources() {
	task := c.read(c.dispatch(fmt.Sprintf(
		`{"name": "test.asleep", "args": [0], "immediate": true, "deferred": false, "exclusive_resources": [%q], "shared_resources": [%q]}`,
		uniqueName("a"), uniqueName("b"))))
	if task.State != "completed" || task.Error != nil {
		c.t.Errorf("it is %s: %s", task.State, task.why())
	}
}

func (c *conformance) immediateWaits() {
	resource := uniqueName("r")
	_, letGo := c.holds(resource)
	href := c.dispatch(fmt.Sprintf(`{"name": "test.asleep", "args": [0], "immediate": true, "exclusive_resources": [%q]}`, resource))
	if now := c.read(href); now.State != "waiting" {
		c.t.Errorf("at first it is %s", now.State)
	}
	letGo()
	c.becomes(href, "completed")
}

func (c *conformance) immediateMayNotWait() {
	resource := uniqueName("r")
	c.holds(resource)
	task := c.read(c.dispatch(fmt.Sprintf(
		`{"name": "test.asleep", "args": [0], "immediate": true, "deferred": false, "exclusive_resources": [%q]}`, resource)))
	if task.State != "canceled" || task.Error == nil || task.Error.Reason != "Resources temporarily unavailable." {
		c.t.Errorf("it is %s: %+v", task.State, task.Error)
	}
}

func (c *conformance) immediateTooLongThen() {
	resource := uniqueName("r")
	_, letGo := c.holds(resource)
	href := c.dispatch(fmt.Sprintf(`{"name": "test.asleep", "args": [600], "immediate": true, "exclusive_resources": [%q]}`, resource))
	letGo()
	if ended := c.becomes(href, "failed"); !strings.Contains(ended.why(), "timed out after") {
		c.t.Errorf("it failed as %s", ended.why())
	}
}

var claimsOfGroups = []conformanceClaim{
	{"the members of a group are counted by state, and the group ends with them", (*conformance).group},
	{"canceling a group cancels its members, and may be repeated", (*conformance).cancelGroup},
}

// restGroup is a group as the REST face shows it.
type restGroup struct {
	Href                                                              string `json:"pulp_href"`
	Waiting, Skipped, Running, Completed, Canceled, Failed, Canceling int
	Tasks                                                             []restTask
}

func (g restGroup) open() int { return g.Waiting + g.Running + g.Canceling }

func (c *conformance) readGroup(href string) restGroup {
	c.t.Helper()
	var group restGroup
	c.ask(http.MethodGet, href, "").want(c, http.StatusOK).decode(c, &group)
	return group
}

func (c *conformance) groupEnds(href string) (group restGroup) {
	c.t.Helper()
	probe.Eventually(c.t, "the group ends", func() bool {
		group = c.readGroup(href)
		return group.open() == 0
	})
	return group
}

func (c *conformance) group() {
	parent := c.completes(`{"name": "test.dummy_group", "kwargs": {"inbetween": 0, "intervals": [0, 0.1, 0.2]}}`)
	href := "/pulp/api/v3/task-groups/" + c.groupOf(parent) + "/"
	group := c.groupEnds(href)
	if group.Completed < 3 || group.Failed+group.Canceled+group.Skipped != 0 || len(group.Tasks) != group.Completed {
		c.t.Errorf("the group is %+v", group)
	}
	c.finds("ordering=pulp_created&task_group="+href, taskHrefs(group.Tasks)...)
}

func taskHrefs(tasks []restTask) []string { return restPage{Results: tasks}.hrefs() }

// groupOf is the id of the group that a task says it made.
func (c *conformance) groupOf(task restTask) string {
	c.t.Helper()
	var result struct{ Group string }
	restAnswer{body: string(task.Result)}.decode(c, &result)
	if result.Group == "" {
		c.t.Fatalf("its result is %s", task.Result)
	}
	return result.Group
}

func (c *conformance) cancelGroup() {
	resource := uniqueName("r")
	c.holds(resource)
	var group restGroup
	c.ask(http.MethodPost, "task-groups/", `{"description": "to be canceled"}`).want(c, http.StatusCreated).decode(c, &group)
	waits := c.dispatch(fmt.Sprintf(`{"name": "test.noop", "task_group": %q, "exclusive_resources": [%q]}`, group.Href, resource))
	runs := c.dispatch(fmt.Sprintf(`{"name": "test.sleep", "args": [600], "task_group": %q}`, group.Href))
	done := c.becomes(c.dispatch(fmt.Sprintf(`{"name": "test.noop", "task_group": %q}`, group.Href)), "completed")
	c.becomes(runs, "running")
	for range 2 {
		answer := c.ask(http.MethodPatch, group.Href, cancelBody)
		var after restGroup
		answer.want(c, http.StatusOK).decode(c, &after)
		if after.Href != group.Href || after.Waiting+after.Running != 0 {
			c.t.Errorf("the cancel returns %s", answer.body)
		}
	}
	for _, href := range []string{waits, runs} {
		if ended := c.becomes(href, "canceled"); ended.Error == nil {
			c.t.Error("the error of a canceled member is null, which Pulp's client can't read")
		}
	}
	if now := c.read(done.Href); now.State != "completed" {
		c.t.Errorf("the member that had ended is %s", now.State)
	}
	if ended := c.groupEnds(group.Href); ended.Canceled != 2 || ended.Completed != 1 {
		c.t.Errorf("the group is %+v", ended)
	}
	c.ask(http.MethodPatch, group.Href, `{"state": "running"}`).want(c, http.StatusBadRequest)
}

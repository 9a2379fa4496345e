package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var claimsOfLists = []conformanceClaim{
	{"a task is found by exactly when it started", (*conformance).startedAt},
	{"tasks are found by their name, and none by a name that none has", (*conformance).byName},
	{"older tasks and newer ones are told apart by when they were dispatched", (*conformance).byCreation},
	{"a task is found by what it created", (*conformance).byCreationOf},
	{"tasks are found by what they reserve, in which way, and by all of several", (*conformance).byReservation},
	{"a task is found by its correlation id, which is the one of the request", (*conformance).byCorrelation},
	{"tasks are found by state and href, and an expression puts filters together", (*conformance).byExpression},
	{"a filter that there is not, or a value that can't be, is refused", (*conformance).badFilters},
	{"pages follow each other until there is no next one", (*conformance).pages},
}

func (c *conformance) startedAt() {
	task := c.completes(fmt.Sprintf(`{"name": "test.noop", "exclusive_resources": [%q]}`, uniqueName("r")))
	var raw struct {
		StartedAt string `json:"started_at"`
	}
	c.ask(http.MethodGet, task.Href, "").decode(c, &raw)
	// Somebody else's may have started in the same microsecond.
	if found := c.list("started_at=" + url.QueryEscape(raw.StartedAt)).hrefs(); !slices.Contains(found, task.Href) {
		c.t.Errorf("started_at=%s finds %v, want %s", raw.StartedAt, found, task.Href)
	}
	c.finds("started_at=" + url.QueryEscape(task.StartedAt.Add(time.Microsecond).Format(time.RFC3339Nano)) + "&reserved_resources=" + task.Reserved[0])
}

func (c *conformance) byName() {
	c.completes(`{"name": "test.noop"}`)
	found := c.list("name=test.noop&limit=10")
	if found.Count == 0 {
		c.t.Error("none is found")
	}
	for _, task := range found.Results {
		if task.Name != "test.noop" {
			c.t.Errorf("%s is found", task.Name)
		}
	}
	c.finds("name=" + uniqueName("nobody.calls.it.this"))
}

func (c *conformance) byCreation() {
	mine := "&reserved_resources=" + uniqueName("r")
	_, resource, _ := strings.Cut(mine, "=")
	spec := fmt.Sprintf(`{"name": "test.noop", "shared_resources": [%q]}`, resource)
	older := c.completes(spec)
	newer := c.completes(spec)
	at := func(task restTask) string { return url.QueryEscape(task.Created.Format(time.RFC3339Nano)) }
	c.finds("pulp_created__gte="+at(newer)+mine, newer.Href)
	c.finds("pulp_created__lte="+at(older)+mine, older.Href)
	c.finds("pulp_created__gt="+at(older)+mine, newer.Href)
	c.finds("pulp_created__lt="+at(newer)+mine, older.Href)
	c.finds("pulp_created__range="+at(older)+","+at(newer)+mine, newer.Href, older.Href)
	c.finds("ordering=pulp_created"+mine, older.Href, newer.Href)
}

func (c *conformance) byCreationOf() {
	file := filepath.Join(c.dev.Dir, uniqueName("created"))
	task := c.completes(fmt.Sprintf(`{"name": "test.create", "kwargs": {"resources": [%q]}}`, file))
	c.finds("created_resources="+url.QueryEscape(file), task.Href)
	c.finds("created_resources=" + url.QueryEscape(file+"-not"))
	var listed struct{ Results []map[string]json.RawMessage }
	c.ask(http.MethodGet, "tasks/?fields=created_resources&created_resources="+url.QueryEscape(file), "").want(c, http.StatusOK).decode(c, &listed)
	if len(listed.Results) != 1 || len(listed.Results[0]) != 1 {
		c.t.Fatalf("with only that field, it finds %v", listed.Results)
	}
	c.same(listed.Results[0]["created_resources"], fmt.Sprintf("[%q]", file))
}

func (c *conformance) byReservation() {
	a, b := uniqueName("a"), uniqueName("b")
	both := c.completes(fmt.Sprintf(`{"name": "test.noop", "exclusive_resources": [%q], "shared_resources": [%q]}`, a, b))
	one := c.completes(fmt.Sprintf(`{"name": "test.noop", "shared_resources": [%q]}`, a))
	// All share the domain, too.
	for _, want := range []string{a, "shared:" + b} {
		if !slices.Contains(both.Reserved, want) {
			c.t.Errorf("its record is %v, want %s in it", both.Reserved, want)
		}
	}
	c.finds("reserved_resources="+a, one.Href, both.Href)
	c.finds("reserved_resources="+b, both.Href)
	c.finds("reserved_resources=" + uniqueName("nobodys"))
	c.finds("exclusive_resources="+a, both.Href)
	c.finds("shared_resources="+a, one.Href)
	// In spite of its name, it wants all of them.
	c.finds("reserved_resources__in="+a+","+b, both.Href)
	c.finds("exclusive_resources__in=" + a + "," + b)
	c.finds("exclusive_resources__in="+a+"&shared_resources__in="+b, both.Href)
}

func (c *conformance) byCorrelation() {
	const cid = "4b5a1b1e-7d1c-4c0e-8a57-6e2f1c9d3b70"
	answer := c.ask(http.MethodPost, "tasks/", `{"name": "test.noop"}`, "Correlation-ID", cid)
	if got := answer.header.Get("Correlation-ID"); got != cid {
		c.t.Errorf("the answer's is %q", got)
	}
	task := c.read(c.accepted(answer))
	if task.CID != cid {
		c.t.Errorf("the task's is %q", task.CID)
	}
	c.finds("logging_cid="+cid, task.Href)
	c.finds("logging_cid__contains="+cid, task.Href)
	if got := c.ask(http.MethodGet, task.Href, "", "Correlation-ID", "not-a-guid").header.Get("Correlation-ID"); got == "not-a-guid" || got == "" {
		c.t.Errorf("one that is no GUID is answered with %q, want a fresh one", got)
	}
}

func (c *conformance) byExpression() {
	resource := uniqueName("r")
	good := c.completes(fmt.Sprintf(`{"name": "test.noop", "shared_resources": [%q]}`, resource))
	bad := c.becomes(c.dispatch(fmt.Sprintf(`{"name": "test.fail", "shared_resources": [%q]}`, resource)), "failed")
	mine := "&reserved_resources=" + resource
	c.finds("state=failed"+mine, bad.Href)
	c.finds("state__in=failed,completed"+mine, bad.Href, good.Href)
	c.finds("state__ne=failed"+mine, good.Href)
	c.finds("name__in=test.noop,test.nothing"+mine, good.Href)
	c.finds("name__contains=.fai"+mine, bad.Href)
	c.finds("pulp_href__in="+good.Href, good.Href)
	c.finds("prn__in="+good.PRN+","+bad.PRN, bad.Href, good.Href)
	for expression, want := range map[string][]string{
		"state=failed OR name=test.noop":                        {bad.Href, good.Href},
		"NOT state=failed":                                      {good.Href},
		"(state=failed OR state=canceled) AND name='test.fail'": {bad.Href},
	} {
		c.finds("q="+url.QueryEscape(expression)+mine, want...)
	}
}

func (c *conformance) badFilters() {
	for query, says := range map[string]string{
		"catdog=1":             "Invalid Filter: 'catdog'",
		"state=nope":           "Select a valid choice. nope is not one of the available choices.",
		"started_at=yesterday": `"started_at"`,
		"q=state%3D":           `"q"`,
		"q=catdog%3D1":         `"q"`,
		"parent_task=nobody":   `"parent_task"`,
		"ordering=heart":       `"ordering"`,
	} {
		if answer := c.ask(http.MethodGet, "tasks/?"+query, "").want(c, http.StatusBadRequest); !strings.Contains(answer.body, says) {
			c.t.Errorf("%s is refused with %s, want %s in it", query, answer.body, says)
		}
	}
}

func (c *conformance) pages() {
	resource := uniqueName("r")
	var want []string
	for range 5 {
		want = append(want, c.completes(fmt.Sprintf(`{"name": "test.noop", "shared_resources": [%q]}`, resource)).Href)
	}
	slices.Reverse(want)
	var got []string
	query := "limit=2&reserved_resources=" + resource
	for range want {
		found := c.list(query)
		if found.Count != len(want) {
			c.t.Errorf("%s counts %d, want %d", query, found.Count, len(want))
		}
		got = append(got, found.hrefs()...)
		if found.Next == nil {
			break
		}
		next, whole := strings.CutPrefix(*found.Next, c.dev.REST+"/pulp/api/v3/tasks/?")
		if !whole {
			c.t.Fatalf("the next page is %s", *found.Next)
		}
		query = next
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("the pages have %v, want %v", got, want)
	}
	if found := c.list("offset=1000&reserved_resources=" + resource); len(found.Results) != 0 || found.Next != nil {
		c.t.Errorf("beyond the end there are %v, then %v", found.hrefs(), found.Next)
	}
}

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

var claimsOfTheRest = []conformanceClaim{
	{"workers can be listed, read and found by name and by their last beat, and not deleted", (*conformance).workers},
	{"a schedule without an interval dispatches once and then never again", (*conformance).scheduleOnce},
	{"a schedule with an interval knows when it dispatches next", (*conformance).scheduleAgain},
	{"the status tells who is there, whoever asks, and can't be written", (*conformance).status},
	{"livez answers anybody, with nothing", (*conformance).livez},
	{"the next version of the status says which versions there are, and others are none", (*conformance).apiVersions},
	{"without credentials, or with wrong ones, nothing is told", (*conformance).unauthenticated},
	{"what can't be done to a collection or to a task says so, and what can", (*conformance).methods},
}

func (c *conformance) workers() {
	type worker struct {
		Href          string             `json:"pulp_href"`
		Name          string             `json:"name"`
		LastHeartbeat string             `json:"last_heartbeat"`
		Versions      *map[string]string `json:"versions"`
		Current       *string            `json:"current_task"`
	}
	type workers struct {
		Count   int
		Results []worker
	}
	list := func(query string) (found workers) {
		c.ask(http.MethodGet, "workers/?"+query, "").want(c, http.StatusOK).decode(c, &found)
		return found
	}
	online := list("online=true")
	if online.Count == 0 {
		c.t.Fatal("no worker is online")
	}
	one := online.Results[0]
	var read map[string]json.RawMessage
	c.ask(http.MethodGet, one.Href, "").want(c, http.StatusOK).decode(c, &read)
	for field, value := range read {
		if string(value) == "null" && field != "last_heartbeat" && field != "current_task" {
			c.t.Errorf("%s is null", field)
		}
	}
	if by := list("name=" + url.QueryEscape(one.Name)); by.Count != 1 || by.Results[0].Href != one.Href {
		c.t.Errorf("by its name, %v is found, want %s", by, one.Href)
	}
	if by := list("last_heartbeat__gte=" + url.QueryEscape(one.LastHeartbeat) + "&name=" + url.QueryEscape(one.Name)); by.Count != 1 {
		c.t.Errorf("by its last beat %s, %v is found", one.LastHeartbeat, by)
	}
	if by := list("last_heartbeat__gte=" + url.QueryEscape(time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339))); by.Count != 0 {
		c.t.Errorf("by a beat of tomorrow, %v is found", by)
	}
	c.ask(http.MethodDelete, one.Href, "").want(c, http.StatusMethodNotAllowed)
}

type restSchedule struct {
	Href     string  `json:"pulp_href"`
	Name     string  `json:"name"`
	TaskName string  `json:"task_name"`
	Interval *string `json:"dispatch_interval"`
	Next     *string `json:"next_dispatch"`
	Last     *string `json:"last_task"`
}

// schedule makes one that is due in a moment, and waits until it has dispatched.
func (c *conformance) schedule(interval string) (restSchedule, restTask) {
	c.t.Helper()
	var made, now restSchedule
	due := time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)
	body := fmt.Sprintf(`{"name": %q, "task_name": "test.noop", "dispatch_interval": %s, "next_dispatch": %q}`, uniqueName("schedule"), interval, due)
	c.ask(http.MethodPost, "task-schedules/", body).want(c, http.StatusCreated).decode(c, &made)
	if made.Last != nil || made.Next == nil {
		c.t.Errorf("at first it is %+v", made)
	}
	probe.Eventually(c.t, "the schedule dispatches", func() bool {
		c.ask(http.MethodGet, made.Href, "").want(c, http.StatusOK).decode(c, &now)
		return now.Last != nil
	})
	var listed struct {
		Count   int
		Results []restSchedule
	}
	c.ask(http.MethodGet, "task-schedules/?name="+made.Name, "").want(c, http.StatusOK).decode(c, &listed)
	if listed.Count != 1 || listed.Results[0].Href != made.Href {
		c.t.Errorf("by its name, %+v is found", listed)
	}
	task := c.becomes(*now.Last, "completed")
	if now.TaskName != "test.noop" || task.Name != "test.noop" {
		c.t.Errorf("it dispatched %s as %s", task.Name, now.TaskName)
	}
	c.ask(http.MethodDelete, made.Href, "").want(c, http.StatusNoContent)
	c.ask(http.MethodGet, made.Href, "").want(c, http.StatusNotFound)
	c.read(task.Href) // it stays
	return now, task
}

func (c *conformance) scheduleOnce() {
	if now, _ := c.schedule(`null`); now.Next != nil || now.Interval != nil {
		c.t.Errorf("then it is %+v, want nothing to come", now)
	}
}

func (c *conformance) scheduleAgain() {
	now, task := c.schedule(`100`)
	if now.Interval == nil || *now.Interval != "00:01:40" || now.Next == nil {
		c.t.Fatalf("then it is %+v, want the next in 100 s", now)
	}
	if next, err := time.Parse(time.RFC3339Nano, *now.Next); err != nil || !next.After(task.Created) {
		c.t.Errorf("the next is at %s, %v, want it after %s", *now.Next, err, task.Created)
	}
}

func (c *conformance) status() {
	for _, user := range []string{"admin", ""} {
		var status struct {
			Versions []struct{ Component, Version string }
			Workers  []struct{ Name string }  `json:"online_workers"`
			APIs     []struct{ Name string }  `json:"online_api_apps"`
			Content  *[]json.RawMessage       `json:"online_content_apps"`
			Database struct{ Connected bool } `json:"database_connection"`
		}
		c.askAs(user, http.MethodGet, "status/", "").want(c, http.StatusOK).decode(c, &status)
		if len(status.Versions) == 0 || len(status.Workers) == 0 || len(status.APIs) == 0 || status.Content == nil || !status.Database.Connected {
			c.t.Errorf("user %q is told %+v", user, status)
		}
	}
	c.ask(http.MethodPost, "status/", `{}`).want(c, http.StatusMethodNotAllowed)
}

func (c *conformance) livez() {
	if answer := c.askAs("", http.MethodGet, "livez/", "").want(c, http.StatusOK); answer.body != "" {
		c.t.Errorf("it says %q", answer.body)
	}
}

func (c *conformance) apiVersions() {
	var third, fourth map[string]json.RawMessage
	c.askAs("", http.MethodGet, "/pulp/api/v3/status/", "").want(c, http.StatusOK).decode(c, &third)
	c.askAs("", http.MethodGet, "/pulp/api/v4/status/", "").want(c, http.StatusOK).decode(c, &fourth)
	for _, field := range []string{"pulp_api_version", "supported_pulp_api_versions"} {
		if third[field] != nil || fourth[field] == nil {
			c.t.Errorf("%s is %s and %s, want it in the fourth alone", field, third[field], fourth[field])
		}
	}
	if answer := c.askAs("", http.MethodGet, "/pulp/api/v5/status/", "").want(c, http.StatusNotFound); !strings.Contains(answer.body, "Invalid version in URL path.") {
		c.t.Errorf("the fifth answers %s", answer.body)
	}
}

func (c *conformance) unauthenticated() {
	for user, says := range map[string]string{
		"":         "Authentication credentials were not provided.",
		"stranger": "Invalid username/password.",
	} {
		answer := c.askAs(user, http.MethodGet, "tasks/", "").want(c, http.StatusUnauthorized)
		if !strings.Contains(answer.body, says) || answer.header.Get("WWW-Authenticate") != `Basic realm="api"` {
			c.t.Errorf("user %q is answered %s, %s", user, answer.body, answer.header)
		}
	}
	c.askAs("", http.MethodPost, "tasks/", `{"name": "test.noop"}`).want(c, http.StatusUnauthorized)
	c.askAs("", http.MethodPost, "tasks/purge/", `{}`).want(c, http.StatusUnauthorized)
}

func (c *conformance) methods() {
	href := c.completes(`{"name": "test.noop"}`).Href
	for _, one := range [][2]string{{http.MethodPut, "tasks/"}, {http.MethodDelete, "tasks/"}, {http.MethodPut, href}, {http.MethodPost, href}, {http.MethodPost, "workers/"}} {
		answer := c.ask(one[0], one[1], `{}`).want(c, http.StatusMethodNotAllowed)
		if want := fmt.Sprintf(`Method \"%s\" not allowed.`, one[0]); !strings.Contains(answer.body, want) || answer.header.Get("Allow") == "" {
			c.t.Errorf("%s %s answers %s, allows %q", one[0], one[1], answer.body, answer.header.Get("Allow"))
		}
	}
}

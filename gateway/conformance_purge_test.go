package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// claimsOfPurge are proved one after the other: they delete tasks, whosever they are.
var claimsOfPurge = []conformanceClaim{
	{"a purge of what ended before there were computers deletes nothing", (*conformance).purgeNothing},
	{"a purge that says nothing spares what has just ended", (*conformance).purgeDefaults},
	{"a purge spares what is not older than it says", (*conformance).purgeBetween},
	{"a purge of one state spares the others", (*conformance).purgeFailed},
	{"a purge of all final states up to some time in the future leaves nothing but what is not final", (*conformance).purgeAll},
	{"a purge before no date, or of a state that is none or not final, is refused", (*conformance).purgeRefused},
}

// purge has the tasks deleted, and returns how many it says it was.
func (c *conformance) purge(body string) (deleted int64) {
	c.t.Helper()
	task := c.becomes(c.accepted(c.ask(http.MethodPost, "tasks/purge/", body)), "completed")
	found := map[string]int64{}
	for _, report := range task.Reports {
		if report.Total == nil || report.State != "completed" || report.Done != *report.Total {
			c.t.Errorf("the purge reports %+v, want all done", report)
		}
		found[report.Code] = report.Done
	}
	total, has := found["purge.tasks.total"]
	tasks, hasTasks := found["purge.tasks.key.core.Task"]
	if !has || hasTasks && tasks > total {
		c.t.Errorf("the purge reports %v", found)
	}
	return total
}

func (c *conformance) gone(href string, want bool) {
	c.t.Helper()
	if answer := c.ask(http.MethodGet, href, ""); answer.code == http.StatusNotFound != want {
		c.t.Errorf("task %s: %d, want it gone: %t", href, answer.code, want)
	}
}

// twoTasks are one that completes and one that fails.
func (c *conformance) twoTasks() (good, bad restTask) {
	c.t.Helper()
	return c.completes(`{"name": "test.noop"}`), c.becomes(c.dispatch(`{"name": "test.fail"}`), "failed")
}

func (c *conformance) purgeNothing() {
	good, bad := c.twoTasks()
	if deleted := c.purge(`{"finished_before": "1970-01-01T00:00", "states": ["completed", "failed", "canceled", "skipped"]}`); deleted != 0 {
		c.t.Errorf("it deleted %d", deleted)
	}
	c.gone(good.Href, false)
	c.gone(bad.Href, false)
}

func (c *conformance) purgeDefaults() {
	good, bad := c.twoTasks()
	if deleted := c.purge(`{}`); deleted != 0 {
		c.t.Errorf("it deleted %d", deleted)
	}
	c.gone(good.Href, false)
	c.gone(bad.Href, false)
}

func (c *conformance) purgeBetween() {
	older := c.completes(`{"name": "test.noop"}`)
	newer := c.completes(`{"name": "test.noop"}`)
	c.purge(fmt.Sprintf(`{"finished_before": %q}`, newer.FinishedAt.Format(time.RFC3339Nano)))
	c.gone(older.Href, true)
	c.gone(newer.Href, false)
}

func (c *conformance) purgeFailed() {
	good, bad := c.twoTasks()
	c.purge(fmt.Sprintf(`{"finished_before": %q, "states": ["failed"]}`, time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339)))
	c.gone(good.Href, false)
	c.gone(bad.Href, true)
}

func (c *conformance) purgeAll() {
	good, bad := c.twoTasks()
	held, _ := c.holds(uniqueName("r"))
	before := c.list("state__in=completed,failed,canceled,skipped&limit=1").Count
	deleted := c.purge(fmt.Sprintf(`{"finished_before": %q, "states": ["completed", "failed", "canceled", "skipped"]}`,
		time.Now().Add(24*time.Hour).UTC().Format("2006-01-02T15:04")))
	if deleted != int64(before) || before < 2 {
		c.t.Errorf("it deleted %d of %d", deleted, before)
	}
	c.gone(good.Href, true)
	c.gone(bad.Href, true)
	if now := c.read(held); now.State != "running" {
		c.t.Errorf("the one that was running is %s", now.State)
	}
}

func (c *conformance) purgeRefused() {
	good, _ := c.twoTasks()
	for body, field := range map[string]string{
		`{"finished_before": "THISISNOTADATE"}`:                          "finished_before",
		`{"states": ["BAD STATE"]}`:                                      "states",
		`{"finished_before": "2100-01-01T00:00", "states": ["running"]}`: "states",
	} {
		if answer := c.ask(http.MethodPost, "tasks/purge/", body).want(c, http.StatusBadRequest); !strings.Contains(answer.body, `"`+field+`"`) {
			c.t.Errorf("%s is refused with %s, want %s named", body, answer.body, field)
		}
	}
	c.gone(good.Href, false)
}

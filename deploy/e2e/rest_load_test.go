package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

const (
	crowdReaders = 50
	crowdWriters = 20
	crowdGroups  = 5
	// crowdOpen is how many tasks each writer has that it does not know to be final. Beyond that it only looks after them.
	crowdOpen = 40
)

// TestACrowdOfReadersAndWritersMeetsNoErrorAtTheRESTFace takes a minute with SLUICE_E2E_FAULTS=1, and some seconds without. It is no fault, and
// `make faults` leaves it out: what is tried beside it is to be broken by nothing else.
func TestACrowdOfReadersAndWritersMeetsNoErrorAtTheRESTFace(t *testing.T) {
	t.Parallel()
	lasts := 5 * time.Second
	if patient() {
		lasts = time.Minute
	}
	c := newCrowd(newDev(t, pgtest.Dir(t), nil).start(t))
	over := time.Now().Add(lasts)
	var all sync.WaitGroup
	for range crowdReaders {
		all.Go(func() { c.during(over, c.reader()) })
	}
	writers := make([]*crowdWriter, crowdWriters)
	for i := range writers {
		writers[i] = &crowdWriter{crowd: c, mine: fmt.Sprintf("%s-%d", c.name, i)}
		all.Go(func() { c.during(over, writers[i].act) })
	}
	all.Wait()
	c.judge(writers)
}

// crowd is many clients of one REST face. Each step of each is one request, whose answer is checked.
type crowd struct {
	s      *system
	name   string // a resource that all its tasks share
	http   *http.Client
	groups []string // hrefs

	requests atomic.Int64
	// leaving are the hrefs of tasks that somebody has begun to delete: they may be there or not.
	leaving sync.Map

	mu     sync.Mutex
	wrong  []string // what was not as it should be
	failed atomic.Bool
}

func newCrowd(s *system) *crowd {
	s.t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: crowdReaders + crowdWriters}
	s.t.Cleanup(transport.CloseIdleConnections)
	c := &crowd{s: s, name: fresh("crowd"), http: &http.Client{Transport: transport}}
	for range crowdGroups {
		var made struct {
			Href string `json:"pulp_href"`
		}
		if code := c.ask(http.MethodPost, "task-groups/", map[string]any{"description": c.name}, &made); code != http.StatusCreated {
			s.t.Fatalf("making a group is answered with %d: %s", code, c.wrong)
		}
		c.groups = append(c.groups, made.Href)
	}
	return c
}

// during repeats a step until it is over, or somebody found something wrong.
func (c *crowd) during(over time.Time, step func()) {
	for time.Now().Before(over) && !c.failed.Load() {
		step()
	}
}

func (c *crowd) complain(format string, args ...any) {
	c.failed.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// ask makes a request and reads its answer, if that is JSON and good, into v. It returns the status, and complains about one that is
// neither good nor 404 nor 409: about these the caller knows more.
func (c *crowd) ask(method, path string, body, v any) int {
	if !strings.HasPrefix(path, "/") {
		path = "/pulp/api/v3/" + path
	}
	var text []byte
	if body != nil {
		text, _ = json.Marshal(body) // it is made of maps and strings
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.s.rest+path, bytes.NewReader(text))
	if err != nil {
		c.complain("%s %s: %v", method, path, err)
		return 0
	}
	request.SetBasicAuth(username, password)
	request.Header.Set("Content-Type", "application/json")
	c.requests.Add(1)
	response, err := c.http.Do(request)
	if err != nil {
		c.complain("%s %s: %v", method, path, err)
		return 0
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	code := response.StatusCode
	good := code/100 == 2
	switch {
	case err != nil:
		c.complain("%s %s: %v", method, path, err)
	case !good && code != http.StatusNotFound && code != http.StatusConflict:
		c.complain("%s %s: %d %s", method, path, code, answer)
	case good && v != nil:
		if err := json.Unmarshal(answer, v); err != nil {
			c.complain("%s %s: %d %s: %v", method, path, code, answer, err)
		}
	}
	return code
}

// get asks for what must be there.
func (c *crowd) get(path string, v any) {
	if code := c.ask(http.MethodGet, path, nil, v); code == http.StatusNotFound || code == http.StatusConflict {
		c.complain("GET %s: %d", path, code)
	}
}

// reader looks at this and that, and at the tasks that it has seen in lists.
func (c *crowd) reader() func() {
	var seen []string
	queries := []string{
		"limit=20", "limit=5&offset=10", "state=completed&limit=20", "state__in=waiting,running", "name=test.noop&limit=20&minimal=true",
		"limit=10&reserved_resources=" + c.name, "limit=20&fields=pulp_href,state", "limit=10&ordering=pulp_created&state=failed",
		"limit=10&name__contains=test", "limit=10&q=" + "state%3Dfailed%20OR%20state%3Dcanceled", "limit=10&task_group=" + c.groups[0],
		"limit=5&pulp_created__gte=2020-01-01T00:00:00Z", "limit=5&finished_at__isnull=true", "limit=5&shared_resources=" + c.name + "&state__ne=failed",
	}
	return func() {
		switch i := rand.IntN(10); {
		case i < 4 || len(seen) == 0:
			var found struct {
				Count   int
				Results []struct {
					Href string `json:"pulp_href"`
				}
			}
			query := queries[rand.IntN(len(queries))]
			c.get("tasks/?"+query, &found)
			if found.Count < len(found.Results) {
				c.complain("tasks/?%s counts %d and has %d", query, found.Count, len(found.Results))
			}
			seen = seen[:0]
			for _, one := range found.Results {
				seen = append(seen, one.Href)
			}
		case i < 7:
			var task taskREST
			path := seen[rand.IntN(len(seen))]
			code := c.ask(http.MethodGet, path, nil, &task)
			if _, leaving := c.leaving.Load(path); code == http.StatusOK && task.Href != path || code != http.StatusOK && !leaving {
				c.complain("GET %s: %d %+v", path, code, task)
			}
		case i < 8:
			var status struct {
				Database struct{ Connected bool } `json:"database_connection"`
			}
			if c.get("status/", &status); !status.Database.Connected {
				c.complain("the status says that there is no database")
			}
		case i < 9:
			c.get("task-groups/?limit=3", nil)
		default:
			var group groupREST
			path := c.groups[rand.IntN(len(c.groups))]
			if c.get(path, &group); group.Href != path {
				c.complain("GET %s has %+v", path, group)
			}
		}
	}
}

// crowdWriter is one of those who hand in, cancel and delete tasks of their own.
type crowdWriter struct {
	*crowd

	mine    string   // a resource that its tasks hold, some exclusively
	open    []string // hrefs of those that it does not know to be final
	done    []string // of those that are
	deleted int
	grouped map[string]int // how many it has put into which group, less those that it has deleted
	group   map[string]string
}

func (w *crowdWriter) act() {
	if w.grouped == nil {
		w.grouped, w.group = map[string]int{}, map[string]string{}
	}
	switch i := rand.IntN(10); {
	case i < 3 && len(w.open) < crowdOpen:
		body, group := w.task()
		var made struct{ Task string }
		if code := w.ask(http.MethodPost, "tasks/", body, &made); code != http.StatusAccepted || made.Task == "" {
			w.complain("a dispatch is answered with %d, %q", code, made.Task)
			return
		}
		w.handedIn(made.Task, group)
	case i < 4 && len(w.open) < crowdOpen:
		bodies, groups := make([]any, 1+rand.IntN(10)), []string{}
		for i := range bodies {
			body, group := w.task()
			delete(body, "immediate") // which one call must not wait for ten times
			bodies[i], groups = body, append(groups, group)
		}
		var made struct{ Tasks []string }
		if code := w.ask(http.MethodPost, "tasks/batch/", map[string]any{"tasks": bodies}, &made); code != http.StatusAccepted || len(made.Tasks) != len(bodies) {
			w.complain("a batch of %d is answered with %d, %q", len(bodies), code, made.Tasks)
			return
		}
		for i, href := range made.Tasks {
			w.handedIn(href, groups[i])
		}
	case i < 5 && len(w.open) > 0:
		href := w.open[rand.IntN(len(w.open))]
		if code := w.ask(http.MethodPatch, href, map[string]any{"state": "canceled"}, nil); code != http.StatusOK && code != http.StatusConflict {
			w.complain("a cancel is answered with %d", code)
		}
	case i < 6 && len(w.done) > 0:
		w.delete()
	case len(w.open) > 0:
		w.look()
	}
}

// task is one that soon ends, in some way, and the group that it is for, if any.
func (w *crowdWriter) task() (body map[string]any, group string) {
	body = map[string]any{"name": "test.noop", "shared_resources": []string{w.name, w.mine}}
	switch rand.IntN(6) {
	case 0:
		body["exclusive_resources"] = []string{w.mine}
	case 1:
		body["name"] = "test.fail"
	case 2:
		body["name"], body["args"], body["immediate"] = "test.asleep", []float64{0.001}, true
	case 3:
		body["name"], body["args"] = "test.sleep", []float64{0.05}
	case 4:
		group = w.groups[rand.IntN(len(w.groups))]
		body["task_group"] = group
	}
	return body, group
}

func (w *crowdWriter) handedIn(href, group string) {
	w.open = append(w.open, href)
	if group != "" {
		w.group[href] = group
		w.grouped[group]++
	}
}

// look reads the oldest of its tasks.
func (w *crowdWriter) look() {
	var task taskREST
	if code := w.ask(http.MethodGet, w.open[0], nil, &task); code != http.StatusOK || task.Href != w.open[0] {
		w.complain("its task %s is answered with %d %+v", w.open[0], code, task)
		return
	}
	if task.FinishedAt != nil {
		w.done = append(w.done, w.open[0])
		w.open = w.open[1:]
		return
	}
	// Others of it may have ended before.
	w.open = append(w.open[1:], w.open[0])
}

// delete deletes one that is final, and now and then tries it with one that may not be.
func (w *crowdWriter) delete() {
	if len(w.open) > 0 && rand.IntN(4) == 0 {
		i := rand.IntN(len(w.open))
		href := w.open[i]
		w.leaving.Store(href, true)
		switch code := w.ask(http.MethodDelete, href, nil, nil); code {
		case http.StatusNoContent:
			w.open = slices.Delete(w.open, i, i+1)
			w.left(href)
		case http.StatusConflict:
		default:
			w.complain("deleting a task that may be final is answered with %d", code)
		}
		return
	}
	href := w.done[0]
	w.done = w.done[1:]
	w.leaving.Store(href, true)
	if code := w.ask(http.MethodDelete, href, nil, nil); code != http.StatusNoContent {
		w.complain("deleting a final task is answered with %d", code)
		return
	}
	w.left(href)
}

func (w *crowdWriter) left(href string) {
	w.deleted++
	if group, had := w.group[href]; had {
		w.grouped[group]--
	}
}

// judge checks that what was acknowledged and not deleted is there, and nothing else, and that all of it has ended.
func (c *crowd) judge(writers []*crowdWriter) {
	t := c.s.t
	deleted := 0
	kept, grouped := map[string]bool{}, map[string]int{}
	var ids []string
	for _, w := range writers {
		deleted += w.deleted
		for _, href := range slices.Concat(w.open, w.done) {
			kept[href] = true
			ids = append(ids, uuid(href))
		}
		for group, n := range w.grouped {
			grouped[group] += n
		}
	}
	t.Logf("%d requests; %d tasks were handed in, %d of them deleted", c.requests.Load(), len(ids)+deleted, deleted)
	for _, wrong := range c.wrong {
		t.Error(wrong)
	}
	if t.Failed() {
		return
	}
	if len(ids) == 0 || deleted == 0 {
		t.Error("that is no load")
	}
	c.s.end(ids...)
	for one, err := range c.s.List(c.s.soon(), client.Filter{Resources: []string{c.name}}) {
		if err != nil {
			t.Fatal(err)
		}
		if !kept[href(one.ID)] {
			t.Errorf("task %s, which is %s, was deleted, or never acknowledged", one.ID, one.State)
		}
		delete(kept, href(one.ID))
	}
	for lost := range kept {
		t.Errorf("%s is lost", lost)
	}
	for _, path := range c.groups {
		var group groupREST
		c.get(path, &group)
		if n := group.Completed + group.Failed + group.Canceled; n != grouped[path] || group.Waiting+group.Running+group.Canceling != 0 {
			t.Errorf("group %s has %d members that have ended, want %d: %+v", path, n, grouped[path], group)
		}
	}
}

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// galaxyStories are told with the real galaxykit.
var galaxyStories = []pulpStory{
	{"galaxykit logs in and lists tasks, all and those that are not final", (*pulp).galaxyLists},
	{"galaxykit waits for a task by its UUID and by its href", (*pulp).galaxyWaits},
	{"galaxykit as a library waits for a task of Pulp's and of Galaxy's own API", (*pulp).galaxyLibrary},
	{"galaxykit works with a token, and not with a wrong one or a wrong password", (*pulp).galaxyAuthenticates},
}

// galaxyStoriesOfAll wait for all tasks, so each is told alone.
var galaxyStoriesOfAll = []pulpStory{
	{"galaxykit waits until no task is waiting or running", (*pulp).galaxyWaitsForAll},
}

// galaxyRoots are below which galaxykit looks for a server.
var galaxyRoots = []string{"/api/galaxy/", "/api/automation-hub/"}

// galaxykit starts the program with credentials.
func (p *pulp) galaxykit(root string, args ...string) *process {
	p.t.Helper()
	return p.galaxykitAs([]string{"--username", username, "--password", password}, root, args...)
}

func (p *pulp) galaxykitAs(who []string, root string, args ...string) *process {
	p.t.Helper()
	all := append([]string{filepath.Join(p.program.Example, "galaxykit"), "--server", p.rest + root}, who...)
	started := launch(p.t, p.t.TempDir(), command{name: "galaxykit", path: p.program.Path, args: append(all, args...), env: p.env()})
	p.t.Cleanup(started.kill)
	return started
}

// kit waits for the end of the program, with this exit code, and returns what it printed.
func (p *pulp) kit(started *process, code int) string {
	p.t.Helper()
	if got := started.wait(p.t); got != code {
		p.t.Fatalf("galaxykit %q ended with %d, want %d; it wrote\n%s%s", started.args[1:], got, code, started.stdout(), started.stderr())
	}
	return started.stdout()
}

func (p *pulp) galaxyLists() {
	done := p.run(client.Spec{Name: "test.noop"})
	running := p.dispatch(client.Spec{Name: "test.sleep", Args: []int{600}})
	for _, root := range galaxyRoots {
		all := p.kit(p.galaxykit(root, "task", "list"), 0)
		open := p.kit(p.galaxykit(root, "task", "list", "--only_running"), 0)
		for _, c := range []struct {
			list, id string
			want     bool
		}{{all, done.ID, true}, {all, running.ID, true}, {open, done.ID, false}, {open, running.ID, true}} {
			if got := strings.Contains(c.list, "pulp_href="+root+"pulp/api/v3/tasks/"+c.id+"/"); got != c.want {
				p.t.Errorf("task %s is listed: %t, want %t, in\n%s", c.id, got, c.want, c.list)
			}
		}
	}
	if _, err := p.Cancel(p.soon(), running.ID); err != nil {
		p.t.Fatal(err)
	}
	p.end(running.ID)
}

func (p *pulp) galaxyWaits() {
	good, bad := p.run(client.Spec{Name: "test.noop"}), p.run(client.Spec{Name: "test.fail", Args: []string{"no paper"}})
	p.kit(p.galaxykit("/api/galaxy/", "task", "wait", good.ID), 0)
	p.kit(p.galaxykit("/api/automation-hub/", "task", "wait", href(good.ID)), 0)
	failed := p.galaxykit("/api/galaxy/", "task", "wait", bad.ID)
	if p.kit(failed, 1); !strings.Contains(failed.stderr(), "no paper") {
		p.t.Errorf("of a failed task, it says %s", failed.stderr())
	}
}

// galaxyLibrary has the functions that tests of Galaxy use. What is printed is one task a line.
func (p *pulp) galaxyLibrary() {
	const script = `
import json, sys
from galaxykit.client import GalaxyClient
from galaxykit import tasks, utils
client = GalaxyClient(sys.argv[1], ("admin", "password"))
made = client.post("pulp/api/v3/tasks/", {"name": "test.echo", "args": [1]})
print(json.dumps(utils.wait_for_task(client, made)))
print(json.dumps(utils.wait_for_task(client, None, task_id=utils.pulp_href_to_id(made["task"]))))
`
	started := launch(p.t, p.t.TempDir(), command{
		name: "galaxykit", path: p.program.Path, args: []string{"-c", script, p.rest + "/api/galaxy/"}, env: p.env(),
	})
	p.t.Cleanup(started.kill)
	decoder := json.NewDecoder(strings.NewReader(p.kit(started, 0)))
	var pulps taskREST
	var galaxys struct {
		ID       string `json:"pulp_id"`
		Name     string
		State    string
		Created  string            `json:"created_at"`
		Finished string            `json:"finished_at"`
		Worker   map[string]any    `json:"worker"`
		Reports  []json.RawMessage `json:"progress_reports"`
	}
	if err := errors.Join(decoder.Decode(&pulps), decoder.Decode(&galaxys)); err != nil {
		p.t.Fatal(err)
	}
	if pulps.State != "completed" || galaxys.State != "completed" || galaxys.Name != "test.echo" || uuid(pulps.Href) != galaxys.ID ||
		galaxys.Created == "" || galaxys.Finished == "" || galaxys.Worker["name"] == nil || galaxys.Reports == nil {
		p.t.Errorf("it got %+v and %+v", pulps, galaxys)
	}
}

func (p *pulp) galaxyAuthenticates() {
	var made struct{ Token string }
	p.call(http.MethodPost, "/api/galaxy/v3/auth/token/", nil).decode(p.t, &made)
	for _, root := range galaxyRoots {
		p.kit(p.galaxykitAs([]string{"--token", made.Token}, root, "task", "list", "--only_running"), 0)
	}
	p.kit(p.galaxykitAs([]string{"--token", "wrong"}, "/api/galaxy/", "task", "list"), 1)
	p.kit(p.galaxykitAs([]string{"--username", "admin", "--password", "wrong"}, "/api/galaxy/", "task", "list"), 1)
}

// galaxyWaitsForAll takes as long as galaxykit sleeps between two looks, 10 s.
func (p *pulp) galaxyWaitsForAll() {
	resource := fresh("r")
	g := p.gate()
	running := p.dispatch(g.task([]string{resource}, nil))
	g.reached()
	waiting := p.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	const look = "path=/api/galaxy/pulp/api/v3/tasks/"
	looked := strings.Count(p.processes["dev"].stderr(), look)
	started := p.galaxykit("/api/galaxy/", "task", "wait", "all")
	eventually(p.t, "galaxykit has looked and found something", func() error {
		if strings.Count(p.processes["dev"].stderr(), look) == looked {
			return errors.New("the log has no request of it")
		}
		return nil
	})
	if started.ended() {
		p.t.Error("it does not wait")
	}
	g.open()
	p.kit(started, 0)
	for _, id := range []string{running.ID, waiting.ID} {
		if now := p.get(id); !now.Final() {
			p.t.Errorf("it has waited, and a task is %s", now.State)
		}
	}
	p.kit(p.galaxykit("/api/galaxy/", "task", "wait", "all"), 0)
}

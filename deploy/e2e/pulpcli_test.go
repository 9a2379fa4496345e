package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/testkit/languages"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// pulpStories are told with the real pulp-cli. Each walks through some of its commands; together they use every command that
// has to do with tasks, and every option of it.
var pulpStories = []pulpStory{
	{"a task is shown by its href, UUID and PRN", (*pulp).shows},
	{"it waits for a task until it completes", (*pulp).waits},
	{"waiting for a task that fails, it says why, with exit code 1", (*pulp).waitsForFailed},
	{"waiting for a task that somebody cancels, it says so, with exit code 1", (*pulp).waitsForCanceled},
	{"it stops waiting after its timeout, and does not begin in the background", (*pulp).waitsNoLonger},
	{"it cancels a task and waits until that is so", (*pulp).cancels},
	{"it destroys a finished task, and says why it can't destroy a running one", (*pulp).destroys},
	{"it lists tasks by each of its filters", (*pulp).filters},
	{"it lists page by page, in an order, and only some fields", (*pulp).pages},
	{"it lists, adds and removes the roles of a task", (*pulp).roles},
	{"it prints the diagnostics of a task and downloads them", (*pulp).artifacts},
	{"it lists groups, and waits for one", (*pulp).groups},
	{"a group with failed and canceled members does not crash it", (*pulp).failedGroup},
	{"it lists workers and shows one", (*pulp).workers},
	{"it can tell what the server is and can do", (*pulp).debugs},
	{"a task that any of its calls makes is waited for, and its result printed", (*pulp).calls},
	{"it makes, lists and deletes schedules by calls", (*pulp).schedules},
	{"its correlation id becomes the task's, and must be a UUID", (*pulp).correlates},
	{"without credentials, with wrong ones and with a token it says what is the matter, or works", (*pulp).authenticates},
	{"it works below the roots that Galaxy's clients know", (*pulp).roots},
}

// pulpStoriesOfAll change tasks whosever they are, so each is told alone.
var pulpStoriesOfAll = []pulpStory{
	{"it counts tasks by state", (*pulp).summary},
	{"it cancels all waiting, all running and all other tasks", (*pulp).cancelsAll},
	{"it purges by age and by state", (*pulp).purges},
}

type pulpStory struct {
	says string
	tell func(*pulp)
}

// TestPulpClients has the real pulp-cli and the real galaxykit work with a whole Sluice.
func TestPulpClients(t *testing.T) {
	t.Parallel()
	program := languages.PulpClients(t)
	p := &pulp{system: newDev(t, pgtest.Dir(t), nil).start(t), program: program, home: t.TempDir()}
	p.warm = warmUp(t, program, p.env())
	// It reads the document once for all.
	t.Run("it tells the status without credentials, and keeps the document", func(t *testing.T) { p.under(t).status() })
	t.Run("side by side", func(t *testing.T) {
		for _, story := range slices.Concat(pulpStories, galaxyStories) {
			t.Run(story.says, func(t *testing.T) {
				t.Parallel()
				story.tell(p.under(t))
			})
		}
	})
	for _, story := range slices.Concat(pulpStoriesOfAll, galaxyStoriesOfAll) {
		t.Run(story.says, func(t *testing.T) { story.tell(p.under(t)) })
	}
}

// pulp is a system with its users' pulp-cli, as a story sees it.
type pulp struct {
	*system

	program languages.Program
	home    string // where it keeps its settings and what it has fetched
	warm    *warmPulp
}

func (p *pulp) under(t *testing.T) *pulp {
	mine := *p
	mine.system = p.system.under(t)
	return &mine
}

// env is that of the Python clients.
func (p *pulp) env() map[string]string {
	env := maps.Clone(p.program.Env)
	maps.Copy(env, map[string]string{
		"HOME": p.home, "XDG_CACHE_HOME": filepath.Join(p.home, "cache"), "XDG_CONFIG_HOME": filepath.Join(p.home, "config"),
		"NO_PROXY": "*", "LC_ALL": "C.UTF-8",
	})
	return env
}

// begins starts the program with credentials, and does not wait for its end.
func (p *pulp) begins(args ...string) *pulpRun {
	p.t.Helper()
	return p.bare(append([]string{"--username", username, "--password", password}, args...)...)
}

// bare starts the program without credentials.
func (p *pulp) bare(args ...string) *pulpRun {
	p.t.Helper()
	return p.warm.begin(p.t, p.home, append([]string{"--base-url", p.rest}, args...))
}

// ends waits for the end of the program, which must not be a crash, with this exit code, and returns what it wrote.
func (p *pulp) ends(started *pulpRun, code int) typed {
	p.t.Helper()
	got := typed{code: started.wait(p.t), stdout: started.stdout(), stderr: started.stderr()}
	if got.code != code || strings.Contains(got.stderr, "Traceback") {
		p.t.Fatalf("pulp %q ended with %d, want %d; it wrote\n%s%s", started.args[2:], got.code, code, got.stdout, got.stderr)
	}
	return got
}

// types runs a command that must go well, and reads the JSON that it prints into v, if that is not nil.
func (p *pulp) types(v any, args ...string) typed {
	p.t.Helper()
	got := p.ends(p.begins(args...), 0)
	if v != nil {
		if err := json.Unmarshal([]byte(got.stdout), v); err != nil {
			p.t.Fatalf("pulp %q: %v in %s", args, err, got.stdout)
		}
	}
	return got
}

// fails runs a command that must fail, and say all of this.
func (p *pulp) fails(says []string, args ...string) {
	p.t.Helper()
	p.says(p.ends(p.begins(args...), 1), says...)
}

// says checks what was said to the person.
func (p *pulp) says(got typed, says ...string) {
	p.t.Helper()
	for _, want := range says {
		if !strings.Contains(got.stderr, want) {
			p.t.Errorf("it said %q, want %q in it", got.stderr, want)
		}
	}
}

// beginsToWait starts a command that waits, and returns when it has looked at least twice.
func (p *pulp) beginsToWait(args ...string) *pulpRun {
	p.t.Helper()
	started := p.begins(args...)
	eventually(p.t, "pulp waits", func() error {
		// One for each look after the first. What it says before that ends with a line.
		lines := strings.Split(started.stderr(), "\n")
		if strings.HasPrefix(lines[len(lines)-1], ".") {
			return nil
		}
		if started.ended() {
			p.t.Fatalf("pulp %q does not wait: %s%s", args, started.stdout(), started.stderr())
		}
		return fmt.Errorf("it said %q", started.stderr())
	})
	return started
}

// uuid is the end of an href.
func uuid(href string) string { return filepath.Base(href) }

func (p *pulp) status() {
	for _, args := range [][]string{{"status"}, {"status", "--retries", "2", "--retry-delay", "1"}} {
		got := p.ends(p.bare(args...), 0)
		var status struct {
			Versions []struct{ Component, Version string }
			Workers  []struct{ Name string }  `json:"online_workers"`
			Database struct{ Connected bool } `json:"database_connection"`
		}
		if err := json.Unmarshal([]byte(got.stdout), &status); err != nil {
			p.t.Fatalf("%v in %s", err, got.stdout)
		}
		if len(status.Versions) == 0 || len(status.Workers) != 1 || !status.Database.Connected {
			p.t.Errorf("the status is %s", got.stdout)
		}
		if strings.Contains(got.stderr, "outdated") {
			p.t.Errorf("it has the document read again: %s", got.stderr)
		}
	}
}

func (p *pulp) shows() {
	one := p.run(client.Spec{Name: "test.echo", Args: []int{1}})
	prn := "prn:core.task:" + one.ID
	for _, args := range [][]string{
		{"task", "show", "--href", href(one.ID)},
		{"task", "show", "--uuid", one.ID},
		{"task", "show", "--href", prn},
		{"task", "show", "--wait", "--uuid", one.ID},
		{"show", "--href", href(one.ID)},
		{"show", "--prn", prn},
	} {
		var shown taskREST
		p.types(&shown, args...)
		shown.Result = json.RawMessage(compact(shown.Result)) // it prints spaces
		if diff := cmp.Diff(p.read(one.ID), shown); diff != "" {
			p.t.Errorf("pulp %q: %s", args, diff)
		}
	}
	const unknown = "01900000-0000-7000-8000-000000000000"
	p.fails([]string{"No Task matches the given query."}, "task", "show", "--uuid", unknown)
	p.fails([]string{"Not found."}, "show", "--href", "/pulp/api/v3/catdogs/"+unknown+"/")
}

func (p *pulp) waits() {
	g := p.gate()
	one := p.dispatch(g.task(nil, nil))
	g.reached()
	started := p.beginsToWait("task", "show", "--wait", "--uuid", one.ID)
	g.open()
	got := p.ends(started, 0)
	var shown taskREST
	if err := json.Unmarshal([]byte(got.stdout), &shown); err != nil || shown.State != "completed" || shown.Href != href(one.ID) {
		p.t.Errorf("it printed %s", got.stdout)
	}
	p.says(got, "Waiting for task "+href(one.ID)+" to finish.", "Done.")
}

func (p *pulp) waitsForFailed() {
	g := p.gate()
	one := p.dispatch(shell("cat %s; echo no paper >&2; exit 3", g.path))
	g.reached()
	started := p.beginsToWait("task", "show", "--wait", "--uuid", one.ID)
	g.open()
	p.says(p.ends(started, 1), "Task "+href(one.ID)+" failed: 'the command exited with code 3: no paper'")
}

func (p *pulp) waitsForCanceled() {
	one := p.dispatch(client.Spec{Name: "test.sleep", Args: []int{600}})
	started := p.beginsToWait("task", "show", "--wait", "--uuid", one.ID)
	if _, err := p.Cancel(p.soon(), one.ID); err != nil {
		p.t.Fatal(err)
	}
	p.says(p.ends(started, 1), "Task "+href(one.ID)+" canceled")
}

func (p *pulp) waitsNoLonger() {
	one := p.dispatch(client.Spec{Name: "test.sleep", Args: []int{600}})
	p.says(p.types(nil, "--timeout", "1", "task", "show", "--wait", "--uuid", one.ID), "Waiting for task "+href(one.ID)+" timed out.")
	p.says(p.types(nil, "--background", "task", "show", "--wait", "--uuid", one.ID), "--background was specified")
	interrupted := p.beginsToWait("task", "show", "--wait", "--uuid", one.ID)
	interrupted.signal(syscall.SIGINT)
	p.says(p.ends(interrupted, 0), "sent to background")
	p.types(nil, "task", "cancel", "--uuid", one.ID)
}

func (p *pulp) cancels() {
	resource := fresh("r")
	g := p.gate()
	running := p.dispatch(g.task([]string{resource}, nil))
	g.reached()
	waiting := p.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	for id, state := range map[string]string{waiting.ID: "waiting", running.ID: "running"} {
		if now := p.get(id); string(now.State) != state {
			p.t.Fatalf("the task is %s, want %s", now.State, state)
		}
	}
	p.says(p.types(nil, "task", "cancel", "--uuid", waiting.ID), "Waiting to cancel task", "Done.")
	p.says(p.types(nil, "task", "cancel", "--href", href(running.ID)), "Waiting to cancel task", "Done.")
	for _, ended := range p.end(waiting.ID, running.ID) {
		if ended.State != "canceled" {
			p.t.Errorf("the task is %s", ended.State)
		}
	}
	p.fails([]string{"is in state canceled and cannot be canceled"}, "task", "cancel", "--uuid", running.ID)
}

func (p *pulp) destroys() {
	running := p.dispatch(client.Spec{Name: "test.sleep", Args: []int{600}})
	p.ends(p.begins("task", "destroy", "--uuid", running.ID), 1)
	if _, err := p.Cancel(p.soon(), running.ID); err != nil {
		p.t.Fatal(err)
	}
	p.end(running.ID)
	p.types(nil, "task", "destroy", "--uuid", running.ID)
	if got := p.call(http.MethodGet, href(running.ID), nil); got.code != http.StatusNotFound {
		p.t.Errorf("then it is there: %d", got.code)
	}
	other := p.run(client.Spec{Name: "test.noop"})
	p.types(nil, "task", "destroy", "--href", href(other.ID))
}

// lists fails the test if a list has other tasks, or another order of them.
func (p *pulp) lists(want []string, args ...string) {
	p.t.Helper()
	var listed []taskREST
	p.types(&listed, append([]string{"task", "list"}, args...)...)
	var ids []string
	for _, one := range listed {
		ids = append(ids, uuid(one.Href))
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		p.t.Errorf("pulp task list %q: %s", args, diff)
	}
}

func (p *pulp) filters() {
	x, y, z := fresh("x"), fresh("y"), fresh("z")
	created := p.file("created")
	group, err := p.CreateGroup(p.soon(), "filters")
	if err != nil {
		p.t.Fatal(err)
	}
	cid := "0d3f6a52-7f0e-4b43-9d0e-6d5f7a1b2c3d"
	make := p.run(client.Spec{
		Name: "test.create", Kwargs: map[string]any{"resources": []string{created}}, Exclusive: []string{x, y}, Shared: []string{z},
		GroupID: group, CorrelationID: cid,
	})
	fail := p.run(client.Spec{Name: "test.fail", Shared: []string{x, z}})
	parent := p.run(client.Spec{Name: "test.dummy_group", Kwargs: map[string]any{"inbetween": 0, "intervals": []int{0}}, Shared: []string{x}})
	child := parent.ID
	if _, children, err := p.GetWithChildren(p.soon(), parent.ID); err != nil || len(children) != 1 {
		p.t.Fatalf("its children are %v, %v", children, err)
	} else {
		child = p.end(children...)[0].ID
	}
	const exactly = "2006-01-02T15:04:05.000000Z"
	at := func(when *time.Time) string { return when.UTC().Format(exactly) }
	mine := []string{"--reserved-resource", x}
	for _, c := range []struct {
		want []string
		args []string
	}{
		{[]string{make.ID}, append(mine, "--name", "test.create", "--name-contains", "st.cre")},
		{nil, append(mine, "--name", "test.create", "--name-contains", "st.fai")},
		{[]string{fail.ID}, append(mine, "--state", "failed")},
		{[]string{fail.ID, make.ID}, append(mine, "--state-in", "failed", "--state-in", "completed", "--name-contains", "a")},
		{[]string{make.ID}, []string{"--cid", cid}},
		{[]string{make.ID}, []string{"--task-group", group, "--worker", make.Executor}},
		{[]string{make.ID}, []string{"--task-group", "/pulp/api/v3/task-groups/" + group + "/"}},
		{[]string{child}, []string{"--parent-task", parent.ID}},
		{[]string{make.ID}, []string{"--created-resource", created}},
		{[]string{parent.ID, fail.ID}, append(mine, "--started-after", at(fail.StartedAt), "--finished-after", at(fail.FinishedAt))},
		{[]string{fail.ID, make.ID}, append(mine, "--started-before", at(fail.StartedAt), "--finished-before", at(fail.FinishedAt))},
		{[]string{fail.ID, make.ID}, []string{"--reserved-resource-in", x, "--reserved-resource-in", z}},
		{[]string{make.ID}, []string{"--exclusive-resource", x, "--exclusive-resource-in", x, "--exclusive-resource-in", y, "--shared-resource", z}},
		{[]string{fail.ID}, []string{"--shared-resource-in", x, "--shared-resource-in", z}},
	} {
		p.lists(c.want, c.args...)
	}
	p.fails([]string{"Either an href or a UUID must be provided."}, "task", "list", "--parent-task", "nobody")
}

func (p *pulp) pages() {
	x := fresh("x")
	var ids []string
	for range 5 {
		ids = append(ids, p.run(client.Spec{Name: "test.noop", Shared: []string{x}}).ID)
	}
	p.lists(ids, "--reserved-resource", x, "--ordering", "pulp_created")
	p.lists([]string{ids[2], ids[1]}, "--reserved-resource", x, "--ordering", "name", "--ordering", "-pulp_created", "--limit", "2", "--offset", "2")
	var some []map[string]any
	got := p.types(&some, "task", "list", "--reserved-resource", x, "--limit", "2", "--field", "name", "--field", "state")
	if want := []map[string]any{{"name": "test.noop", "state": "completed"}, {"name": "test.noop", "state": "completed"}}; !cmp.Equal(want, some) {
		p.t.Errorf("with two fields, it prints %v", some)
	}
	p.says(got, "Not all 5 entries were shown.")
	var others []map[string]any
	p.types(&others, "task", "list", "--reserved-resource", x, "--limit", "1", "--exclude-field", "name")
	if _, has := others[0]["name"]; has || others[0]["state"] == nil {
		p.t.Errorf("without the name, it prints %v", others)
	}
}

func (p *pulp) roles() {
	one := p.run(client.Spec{Name: "test.noop"})
	var listed struct{ Roles []map[string]any }
	p.types(&listed, "task", "role", "list", "--uuid", one.ID)
	if listed.Roles == nil {
		p.t.Error("the roles are null")
	}
	var mine struct{ Permissions []string }
	p.types(&mine, "task", "role", "my-permissions", "--href", href(one.ID))
	if !slices.Contains(mine.Permissions, "core.view_task") {
		p.t.Errorf("the permissions are %v", mine.Permissions)
	}
	for _, verb := range []string{"add", "remove"} {
		var did struct {
			Role  string
			Users []string
		}
		p.types(&did, "task", "role", verb, "--uuid", one.ID, "--role", "core.task_owner", "--user", "admin")
		if did.Role != "core.task_owner" || !slices.Equal(did.Users, []string{"admin"}) {
			p.t.Errorf("role %s printed %+v", verb, did)
		}
	}
	p.fails([]string{"core.nonsense"}, "task", "role", "add", "--uuid", one.ID, "--role", "core.nonsense", "--user", "admin")
}

func (p *pulp) artifacts() {
	one := p.run(client.Spec{Name: "test.noop"})
	var urls map[string]string
	p.types(&urls, "task", "profile-artifact-urls", "--uuid", one.ID)
	if urls == nil || len(urls) != 0 {
		p.t.Errorf("it prints %v, want nothing", urls)
	}
	profiled := p.run(client.Spec{Name: "test.sleep", Args: []float64{0.1}, ProfileOptions: []string{"memory"}})
	dir := p.t.TempDir() // into which it downloads, as it works there
	started := p.warm.begin(p.t, dir, []string{
		"--base-url", p.rest, "--username", username, "--password", password, "task", "profile-artifact-urls", "--download", "--uuid", profiled.ID,
	})
	p.ends(started, 0)
	files, err := filepath.Glob(filepath.Join(dir, "task_profile-test.sleep-"+profiled.ID, "memory_profile"))
	if err != nil || len(files) != 1 {
		p.t.Fatalf("it downloaded %v, %v; it printed %s", files, err, started.stdout())
	}
	if text, err := os.ReadFile(files[0]); err != nil || len(text) == 0 {
		p.t.Errorf("the profile is %q, %v", text, err)
	}
}

// groupREST is a group as the REST face shows it.
type groupREST struct {
	Href                                string `json:"pulp_href"`
	Waiting, Running, Completed, Failed int
	Canceled, Canceling                 int
	Tasks                               []taskREST
}

func (p *pulp) groups() {
	g := p.gate()
	id, err := p.CreateGroup(p.soon(), "to wait for")
	if err != nil {
		p.t.Fatal(err)
	}
	spec := g.task(nil, nil)
	spec.GroupID = id
	p.dispatch(spec)
	g.reached()
	started := p.beginsToWait("task-group", "show", "--wait", "--uuid", id)
	g.open()
	p.says(p.ends(started, 0), "Waiting for the following tasks to finish")
	var shown groupREST
	p.types(&shown, "task-group", "show", "--href", "/pulp/api/v3/task-groups/"+id+"/")
	if shown.Completed != 1 || len(shown.Tasks) != 1 {
		p.t.Errorf("the group is %+v", shown)
	}
	var listed []groupREST
	p.types(&listed, "task-group", "list", "--limit", "1000")
	if !slices.ContainsFunc(listed, func(g groupREST) bool { return g.Href == shown.Href }) {
		p.t.Errorf("the list is %+v", listed)
	}
	var some []map[string]any
	p.types(&some, "task-group", "list", "--limit", "1", "--offset", "0", "--field", "description")
	if len(some) != 1 || len(some[0]) != 1 {
		p.t.Errorf("with one field, the list is %v", some)
	}
	var others []map[string]any
	p.types(&others, "task-group", "list", "--limit", "1", "--exclude-field", "tasks")
	if _, has := others[0]["tasks"]; has || others[0]["description"] == nil {
		p.t.Errorf("without the tasks, the list is %v", others)
	}
}

func (p *pulp) failedGroup() {
	id, err := p.CreateGroup(p.soon(), "to fail")
	if err != nil {
		p.t.Fatal(err)
	}
	resource := fresh("r")
	g := p.gate()
	holder := p.dispatch(g.task([]string{resource}, nil))
	g.reached()
	for _, spec := range []client.Spec{
		{Name: "test.fail", Args: []string{"no paper"}, GroupID: id},
		{Name: "test.sleep", Args: []int{600}, GroupID: id},
		{Name: "test.noop", Exclusive: []string{resource}, GroupID: id},
	} {
		one := p.dispatch(spec)
		if spec.Name != "test.fail" {
			defer func() { p.end(one.ID) }()
		}
	}
	started := p.beginsToWait("task-group", "show", "--wait", "--uuid", id)
	if got := p.call(http.MethodPatch, "task-groups/"+id+"/", `{"state": "canceled"}`); got.code != http.StatusOK && got.code != http.StatusConflict {
		p.t.Errorf("the cancel answers %d %s", got.code, got.body)
	}
	p.says(p.ends(started, 1), "has failed/canceled tasks", "no paper")
	g.open()
	p.end(holder.ID)
}

func (p *pulp) workers() {
	type worker struct {
		Href string `json:"pulp_href"`
		Name string
	}
	var online []worker
	p.types(&online, "worker", "list", "--online")
	if len(online) != 1 {
		p.t.Fatalf("online are %+v", online)
	}
	one := online[0]
	part := one.Name[1 : len(one.Name)-1]
	for _, args := range [][]string{
		{"--not-missing", "--name", one.Name},
		{"--name-contains", part, "--name-icontains", strings.ToUpper(part), "--limit", "5", "--offset", "0", "--ordering", "name"},
		{"--missing"},
		{"--not-online", "--name", one.Name},
	} {
		var found []worker
		p.types(&found, append([]string{"worker", "list"}, args...)...)
		if is, want := slices.Contains(found, one), !slices.Contains(args, "--missing") && !slices.Contains(args, "--not-online"); is != want {
			p.t.Errorf("worker list %q has it: %t, want %t", args, is, want)
		}
	}
	for _, args := range [][]string{{"--name", one.Name}, {"--href", one.Href}} {
		var shown worker
		p.types(&shown, append([]string{"worker", "show"}, args...)...)
		if shown != one {
			p.t.Errorf("worker show %q is %+v, want %+v", args, shown, one)
		}
	}
	p.fails([]string{"Could not find worker"}, "worker", "show", "--name", "nobody")
}

func (p *pulp) debugs() {
	var spec struct {
		Info struct {
			Versions map[string]string `json:"x-pulp-app-versions"`
		}
		Paths map[string]map[string]struct {
			ID string `json:"operationId"`
		}
		Components struct{ Schemas map[string]any }
	}
	p.types(&spec, "--refresh-api", "debug", "openapi", "spec")
	if spec.Info.Versions["core"] == "" {
		p.t.Errorf("the versions are %v", spec.Info.Versions)
	}
	var ids, names []string
	p.types(&ids, "debug", "openapi", "operation-ids")
	for _, want := range []string{
		"status_read", "tasks_list", "tasks_read", "tasks_cancel", "tasks_delete", "tasks_purge", "tasks_profile_artifacts", "tasks_list_roles",
		"tasks_my_permissions", "tasks_add_role", "tasks_remove_role", "task_groups_list", "task_groups_read", "task_groups_cancel", "workers_list",
		"workers_read", "artifacts_read", "livez_read", "task_schedules_list", "task_schedules_read", "task_schedules_list_roles",
		"task_schedules_my_permissions", "task_schedules_add_role", "task_schedules_remove_role",
	} {
		if !slices.Contains(ids, want) {
			p.t.Errorf("there is no operation %s among %v", want, ids)
		}
	}
	p.types(&names, "debug", "openapi", "schema-names")
	if len(names) == 0 || len(names) != len(spec.Components.Schemas) {
		p.t.Fatalf("the names of schemas are %v", names)
	}
	var any map[string]any
	p.types(&any, "debug", "openapi", "schema", "--name", names[0])
	p.types(&any, "debug", "openapi", "operation", "--id", "tasks_cancel")
	if any["method"] != "patch" || any["path"] != "{task_href}" {
		p.t.Errorf("the operation is %v", any)
	}
	p.types(&any, "debug", "openapi", "info")
	p.types(&any, "debug", "openapi", "security-schemes")
	p.fails([]string{"No operation with id nonsense found."}, "debug", "openapi", "operation", "--id", "nonsense")
	for _, c := range []struct {
		code int
		args []string
	}{
		{0, []string{"has-plugin", "--name", "core", "--specifier", ">=3.49.0,<99.0"}},
		{1, []string{"has-plugin", "--name", "file"}},
		{0, []string{"has-cli-plugin", "--name", "common"}},
	} {
		if got := p.ends(p.begins(append([]string{"debug"}, c.args...)...), c.code); strings.TrimSpace(got.stdout) != fmt.Sprint(c.code == 0) {
			p.t.Errorf("pulp debug %q prints %q", c.args, got.stdout)
		}
	}
	p.ends(p.begins("--dry-run", "debug", "openapi", "call", "--id", "tasks_create", "--body", `{"name": "test.noop"}`), 1)
}

// operation calls any operation of the document.
func operation(id string, rest ...string) []string {
	return append([]string{"debug", "openapi", "call", "--id", id}, rest...)
}

func (p *pulp) calls() {
	var result struct{ Args []int }
	p.types(&result, operation("tasks_create", "--body", `{"name": "test.echo", "args": [1, 2]}`)...)
	if !slices.Equal(result.Args, []int{1, 2}) {
		p.t.Errorf("it prints %v", result)
	}
	var ended taskREST
	p.types(&ended, operation("tasks_create", "--body", `{"name": "test.noop"}`)...)
	if ended.State != "completed" {
		p.t.Errorf("it prints %+v", ended)
	}
	p.fails([]string{"failed: 'no paper'"}, operation("tasks_create", "--body", `{"name": "test.fail", "args": ["no paper"]}`)...)
	p.says(p.types(nil, append([]string{"--background"}, operation("tasks_create", "--body", `{"name": "test.noop"}`)...)...), "Started background task")
	p.fails([]string{"name"}, operation("tasks_create", "--body", `{"args": []}`)...)
	var listed struct{ Count int }
	p.types(&listed, operation("tasks_list", "--parameter", "name=test.echo")...)
	if listed.Count < 1 {
		p.t.Errorf("it counts %d", listed.Count)
	}
}

func (p *pulp) schedules() {
	type schedule struct {
		Href     string  `json:"pulp_href"`
		Name     string  `json:"name"`
		Interval *string `json:"dispatch_interval"`
		Last     *string `json:"last_task"`
	}
	name := fresh("nightly")
	var made schedule
	p.types(&made, operation("task_schedules_create", "--body", fmt.Sprintf(`{"name": %q, "task_name": "test.noop", "dispatch_interval": "1 00:00:00"}`, name))...)
	if made.Name != name || made.Interval == nil || *made.Interval != "1 00:00:00" {
		p.t.Errorf("it made %+v", made)
	}
	var listed struct {
		Count   int
		Results []schedule
	}
	p.types(&listed, operation("task_schedules_list", "--parameter", "name="+name)...)
	if listed.Count != 1 || listed.Results[0].Href != made.Href {
		p.t.Errorf("it lists %+v", listed)
	}
	eventually(p.t, "the schedule has dispatched its task", func() error {
		var now schedule
		p.call(http.MethodGet, made.Href, nil).decode(p.t, &now)
		if now.Last == nil {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	var shown schedule
	p.types(&shown, operation("task_schedules_read", "--parameter", "task_schedule_href="+made.Href)...)
	if shown.Last == nil {
		p.t.Fatalf("it shows %+v", shown)
	}
	p.types(nil, "task", "show", "--wait", "--href", *shown.Last)
	p.types(nil, operation("task_schedules_delete", "--parameter", "task_schedule_href="+made.Href)...)
	p.ends(p.begins(operation("task_schedules_read", "--parameter", "task_schedule_href="+made.Href)...), 1)
}

func (p *pulp) correlates() {
	const cid = "6a0bb1a5-95a0-4a1b-8a35-0a9c8f4d2e11"
	p.types(nil, append([]string{"--cid", cid}, operation("tasks_create", "--body", `{"name": "test.noop"}`)...)...)
	var listed []struct {
		CID string `json:"logging_cid"`
	}
	p.types(&listed, "task", "list", "--cid", cid)
	if len(listed) != 1 || listed[0].CID != cid {
		p.t.Errorf("with it there are %+v", listed)
	}
	p.fails([]string{"Correlation ID returned from server did not match"}, "--cid", "deadbeefdeadbeefdeadbeefdeadxxxx", "status")
}

func (p *pulp) authenticates() {
	one := p.run(client.Spec{Name: "test.noop"})
	show := []string{"task", "show", "--uuid", one.ID}
	for _, c := range []struct {
		says string
		args []string
	}{
		{"No suitable auth scheme found.", nil},
		{"Authentication failed for", []string{"--username", "admin", "--password", "wrong"}},
		{"Authentication failed for", []string{"--username", "stranger", "--password", "password"}},
		{"Authentication failed for", []string{"--header", "Authorization:Token wrong"}},
	} {
		p.says(p.ends(p.bare(append(c.args, show...)...), 1), c.says)
	}
	var made struct{ Token string }
	p.call(http.MethodPost, "/api/galaxy/v3/auth/token/", nil).decode(p.t, &made)
	p.ends(p.bare(append([]string{"--header", "Authorization:Token " + made.Token}, show...)...), 0)
}

func (p *pulp) roots() {
	one := p.run(client.Spec{Name: "test.noop"})
	for _, root := range []string{"/api/galaxy/pulp/", "/api/automation-hub/pulp/"} {
		var shown taskREST
		p.types(&shown, "--api-root", root, "task", "show", "--uuid", one.ID)
		if want := root + "api/v3/tasks/" + one.ID + "/"; shown.Href != want {
			p.t.Errorf("the href is %s, want %s", shown.Href, want)
		}
	}
}

func (p *pulp) summary() {
	var before, after map[string]int
	p.types(&before, "task", "summary")
	p.run(client.Spec{Name: "test.noop"})
	p.run(client.Spec{Name: "test.fail"})
	p.types(&after, "task", "summary")
	before["completed"]++
	before["failed"]++
	if diff := cmp.Diff(before, after); diff != "" || len(after) != 7 {
		p.t.Errorf("after one that completed and one that failed: %s", diff)
	}
}

func (p *pulp) cancelsAll() {
	both := func() (running, waiting string) {
		resource := fresh("r")
		g := p.gate()
		running = p.dispatch(g.task([]string{resource}, nil)).ID
		g.reached()
		return running, p.dispatch(client.Spec{Name: "test.sleep", Args: []int{600}, Exclusive: []string{resource}}).ID
	}
	is := func(id, want string) {
		p.t.Helper()
		if now := p.get(id); string(now.State) != want {
			p.t.Errorf("the task is %s, want %s", now.State, want)
		}
	}
	running, waiting := both()
	p.types(nil, "task", "cancel", "--waiting")
	is(waiting, "canceled")
	is(running, "running")
	p.types(nil, "task", "cancel", "--running")
	is(running, "canceled")
	running, waiting = both()
	p.types(nil, "task", "cancel", "--all")
	is(running, "canceled")
	is(waiting, "canceled")
	p.types(nil, "task", "cancel", "--all") // there is none, which is fine
}

func (p *pulp) purges() {
	good, bad := p.run(client.Spec{Name: "test.noop"}), p.run(client.Spec{Name: "test.fail"})
	there := func(id string, want bool) {
		p.t.Helper()
		if got := p.call(http.MethodGet, href(id), nil); (got.code == http.StatusOK) != want {
			p.t.Errorf("the task answers %d, want it there: %t", got.code, want)
		}
	}
	p.types(nil, "task", "purge") // what is older than a month: none is
	there(good.ID, true)
	p.types(nil, "task", "purge", "--finished-before", "2021-12-01")
	there(good.ID, true)
	p.types(nil, "task", "purge", "--state", "failed", "--state", "canceled", "--finished-before", "2100-01-01")
	there(good.ID, true)
	there(bad.ID, false)
	p.says(p.types(nil, "task", "purge", "--finished-before", "2100-01-01"), "Started background task", "Done.")
	there(good.ID, false)
}

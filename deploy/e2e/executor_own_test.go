package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

const ownTasks = "github.com/sluice-tasks/sluice/deploy/examples/own-tasks"

// TestExecutorOfOnesOwn has a program with handlers of its own join a Sluice that can't run anything by itself.
func TestExecutorOfOnesOwn(t *testing.T) {
	t.Parallel()
	d := newDev(t, pgtest.Dir(t), nil)
	d.process = launch(t, t.TempDir(), d.command("--slots", "0"))
	stopAtTheEnd(t, d.process)
	addresses := readyLine.FindStringSubmatch(d.process.ready(t, "sluice is ready"))
	if addresses == nil {
		t.Fatalf("it wrote %s", d.process.stdout())
	}
	s := &system{t: t, dir: d.dir, processes: map[string]*process{"dev": d.process}}
	s.connect(t, addresses[1], addresses[2])
	own := launch(t, t.TempDir(), command{
		name: "own-tasks", path: programs.get(t, ownTasks),
		args: []string{"--addr", s.grpc, "--name", "own", "--work-dir", filepath.Join(d.dir, "own")}, env: map[string]string{"SLUICE_SLOTS": "2"},
	})
	s.processes["own-tasks"] = own
	stopAtTheEnd(t, own)
	own.ready(t, "sluice executor is ready")

	for _, story := range []struct {
		says string
		tell func(*system)
	}{
		{"it presents itself with its components, and runs nothing of Sluice's own", ownPresents},
		{"it runs a task, which tells how far it is and what it made", ownRuns},
		{"it says of an error what people may know", ownFails},
		{"a task that is killed takes nothing with it", ownIsIsolated},
		{"a file that was handed over is read", ownReads},
		{"its command line is that of an executor", ownCommandLine},
	} {
		t.Run(story.says, func(t *testing.T) { story.tell(s.under(t)) })
	}
	if code := own.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("it ended with code %d\n%s", code, own.stderr())
	}
}

func ownPresents(s *system) {
	workers, err := s.Workers(s.soon(), false)
	if err != nil || len(workers) != 1 || workers[0].Name != "own" || workers[0].Versions["archive"] != "1.0.0" || workers[0].Versions["core"] == "" {
		s.t.Errorf("the executors are %+v, %v; want own with its components", workers, err)
	}
	unknown := s.dispatch(client.Spec{Name: "command.run", Kwargs: map[string]any{"argv": []string{"true"}}})
	if why, err := s.Explain(s.soon(), unknown.ID); err != nil || why.ExecutorsWithName != 0 {
		s.t.Errorf("command.run is explained by %+v, %v; want that nobody has it", why, err)
	}
	if got, err := s.Cancel(s.soon(), unknown.ID); err != nil || got.State != task.Canceled {
		s.t.Errorf("the cancel returns %s, %v", got.State, err)
	}
	if got := children(s.processes["own-tasks"].cmd.Process.Pid); len(got) > 0 {
		s.t.Errorf("before its first task it has the children %v", got)
	}
}

// tree makes a folder with two files, and a third one further down.
func (s *system) tree() string {
	s.t.Helper()
	dir := s.file("tree")
	for name, text := range map[string]string{"one": "1", "two": "22", "deep/three": "333"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	return dir
}

func ownRuns(s *system) {
	dir, path := s.tree(), s.file("archive")
	made := s.get(s.run(client.Spec{Name: "archive.make", Kwargs: map[string]string{"path": path, "dir": dir}, Versions: map[string]string{"archive": "1"}}).ID)
	if made.State != task.Completed || compact(made.Result) != `{"files":3,"bytes":6}` {
		s.t.Fatalf("it is %s with %s: %v", made.State, made.Result, made.Error)
	}
	total := int64(3)
	want := client.Report{
		Progress: []client.Progress{{Code: "archive.make", Message: "Packing", State: task.Completed, Total: &total, Done: 3, Suffix: "files"}},
		Created:  []client.Created{{Resource: path}},
	}
	if diff := cmp.Diff(want, made.Report); diff != "" {
		s.t.Errorf("it reports %s", diff)
	}
	var read struct {
		Progress []struct {
			Code        string
			Done, Total int
		} `json:"progress_reports"`
		Created []string `json:"created_resources"`
	}
	s.call(http.MethodGet, href(made.ID), nil).decode(s.t, &read)
	if len(read.Progress) != 1 || read.Progress[0].Done != 3 || read.Progress[0].Total != 3 || !slices.Equal(read.Created, []string{path}) {
		s.t.Errorf("the REST face shows %+v", read)
	}
	if text, _, err := s.Log(s.soon(), made.ID); err != nil || strings.Count(text, "packed") != 3 || !strings.Contains(text, made.ID) {
		s.t.Errorf("its log is %q, %v", text, err)
	}
	listed, err := exec.Command("tar", "tzf", path).Output()
	if err != nil || string(listed) != "deep/three\none\ntwo\n" {
		s.t.Errorf("in the archive are %q, %v", listed, err)
	}
}

func ownFails(s *system) {
	for _, story := range []struct {
		says, path, dir string
		code, text      string
		redacted        bool
	}{
		{"no such directory", s.file("archive"), "/not/there", "NOT_THERE", "there is no directory /not/there", false},
		{"the archive is there", s.dir, s.tree(), task.CodePermanent, s.dir + " is there already", false},
		{"a text of the operating system", "/not/there/archive", s.tree(), task.CodeError, "The task failed. What happened is in the executor's log, reference ", true},
	} {
		got := s.run(client.Spec{Name: "archive.make", Kwargs: map[string]string{"path": story.path, "dir": story.dir}})
		if got.State != task.Failed || got.Error.Code != story.code || !strings.HasPrefix(got.Error.String(), story.text) {
			s.t.Errorf("%s: it is %s with %+v; want %s: %s", story.says, got.State, got.Error, story.code, story.text)
		}
		if story.redacted != strings.Contains(s.processes["own-tasks"].stderr(), `"error":"make the archive: open /not/there/archive`) {
			s.t.Errorf("%s: that the executor's log has the text is not %t", story.says, story.redacted)
		}
	}
	if got := s.run(client.Spec{Name: "archive.make", Kwargs: map[string]string{"file": "x"}}); got.State != task.Failed || !strings.Contains(got.Error.String(), `unexpected argument "file"`) {
		s.t.Errorf("with a wrong argument it is %s: %v", got.State, got.Error)
	}
}

func ownIsIsolated(s *system) {
	own := s.processes["own-tasks"].cmd.Process.Pid
	warm := children(own)
	if len(warm) != 1 {
		s.t.Fatalf("after some tasks it has the children %v, want one that is warm", warm)
	}
	for what, pid := range map[string]int{"the executor": own, "the child": warm[0]} {
		if program, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe")); err != nil || program != programs.get(s.t, ownTasks) {
			s.t.Errorf("%s runs %s, %v", what, program, err)
		}
	}
	if err := syscall.Kill(warm[0], syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the child is gone", func() error {
		if alive(warm[0]) {
			return errors.New("it lives")
		}
		return nil
	})
	path := s.file("archive")
	if got := s.run(client.Spec{Name: "archive.make", Kwargs: map[string]string{"path": path, "dir": s.tree()}}); got.State != task.Completed {
		s.t.Errorf("the next task is %s: %v", got.State, got.Error)
	}
}

func ownReads(s *system) {
	path := s.file("archive")
	var made struct{ State string }
	s.cliJSON(0, &made, "dispatch", "archive.make", "--kwargs", `{"path": "`+path+`", "dir": "`+s.tree()+`"}`, "--wait")
	id := strings.TrimSpace(s.cli("file", "put", path).stdout)
	var names []string
	got := s.cli("dispatch", "archive.list", "--file-id", id, "--wait")
	if err := json.Unmarshal([]byte(got.stdout), &names); err != nil || !slices.Equal(names, []string{"deep/three", "one", "two"}) {
		s.t.Errorf("archive.list ended with %d: %q %q", got.code, got.stdout, got.stderr)
	}
	text := strings.TrimSpace(s.cliWith("no archive", "file", "put", "-").stdout)
	for want, args := range map[string][]string{"the file is no archive": {"--file-id", text}, "needs one file": nil} {
		if got := s.cli(append([]string{"dispatch", "archive.list", "--wait"}, args...)...); got.code != 1 || !strings.Contains(got.stderr, want) {
			s.t.Errorf("archive.list %q ended with %d: %q", args, got.code, got.stderr)
		}
	}
}

func ownCommandLine(s *system) {
	type end struct {
		args []string
		code int
		says []string
	}
	for _, want := range []end{
		{[]string{"--help"}, 0, []string{"own-tasks", "archive.list, archive.make", "--slots", "redact-errors"}},
		{[]string{"--bogus"}, 2, []string{"--bogus", "own-tasks --help"}},
		{[]string{"--slots", "many"}, 2, []string{"--slots"}},
		{[]string{"--worker-ttl", "1ms"}, 2, []string{"time to live"}},
		{[]string{"archive.make"}, 2, []string{"archive.make"}},
	} {
		p := launch(s.t, s.t.TempDir(), command{name: "own-tasks", path: programs.get(s.t, ownTasks), args: want.args})
		code := p.wait(s.t)
		said := p.stdout() + p.stderr()
		if code != want.code {
			s.t.Errorf("own-tasks %q ended with %d, want %d: %s", want.args, code, want.code, said)
		}
		for _, text := range want.says {
			if !strings.Contains(said, text) {
				s.t.Errorf("own-tasks %q does not say %q: %s", want.args, text, said)
			}
		}
	}
}

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// seen is what all faces tell about a task, in one form.
type seen struct {
	ID, Name, State, Executor                          string
	Exclusive, Shared                                  []string
	Created, Updated, UnblockedAt, StartedAt, Finished string
	Result, Description, Reason                        string
}

// faces dispatches a task through each face and looks at each of them through each.
func faces(s *system) {
	resource := fresh("r")
	kwargs := map[string]any{"n": 1, "text": "<ü>"}

	var byCLI taskJSON
	s.cliJSON(0, &byCLI, "dispatch", "test.echo", "--args", `[1.50]`, "--kwargs", `{"n":1,"text":"<ü>"}`, "--exclusive", resource, "--shared", resource+"/s")
	answered := s.call(http.MethodPost, "tasks/", fmt.Sprintf(
		`{"name": "test.echo", "args": [1.50], "kwargs": {"n":1,"text":"<ü>"}, "exclusive_resources": [%[1]q], "shared_resources": ["%[1]s/s"]}`, resource))
	if answered.code != http.StatusAccepted {
		s.t.Fatalf("POST answered %d %s, want 202", answered.code, answered.body)
	}
	var made map[string]string
	answered.decode(s.t, &made)
	byREST := strings.TrimSuffix(strings.TrimPrefix(made["task"], "/pulp/api/v3/tasks/"), "/")
	if want := map[string]string{"task": href(byREST)}; len(byREST) != 36 || !cmp.Equal(want, made) {
		s.t.Fatalf("POST answered %s, want only the href of the task", answered.body)
	}
	byGRPC := s.dispatch(client.Spec{
		Name: "test.echo", Args: json.RawMessage(`[1.50]`), Kwargs: kwargs, Exclusive: []string{resource}, Shared: []string{resource + "/s"},
	})
	if byCLI.State != "waiting" || byGRPC.State != task.Waiting {
		s.t.Errorf("a new task is %s and %s, want waiting", byCLI.State, byGRPC.State)
	}

	for _, one := range s.end(byCLI.ID, byREST, byGRPC.ID) {
		want := fromGRPC(one)
		if want.State != "completed" || want.Result != `{"args":[1.50],"kwargs":{"n":1,"text":"<ü>"}}` {
			s.t.Errorf("the task became %s with the result %s", want.State, want.Result)
		}
		var shown taskJSON
		s.cliJSON(0, &shown, "task", "show", one.ID)
		if diff := cmp.Diff(want, fromCLI(shown)); diff != "" {
			s.t.Errorf("the command line shows the task otherwise than gRPC: %s", diff)
		}
		read := s.read(one.ID)
		if read.Worker == nil || want.Executor == "" {
			s.t.Errorf("the worker is %v and %q", read.Worker, want.Executor)
		}
		want.Executor = "" // the REST face gives its href
		if diff := cmp.Diff(want, fromREST(read)); diff != "" {
			s.t.Errorf("the REST face shows the task otherwise than gRPC: %s", diff)
		}
	}

	// The lists, too, the newest first.
	want := []string{byGRPC.ID, byREST, byCLI.ID}
	var listed []taskJSON
	s.cliJSON(0, &listed, "task", "list", "--resource", resource)
	var ids []string
	for _, one := range listed {
		ids = append(ids, one.ID)
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		s.t.Errorf("task list: %s", diff)
	}
	var page struct {
		Count   int
		Results []taskREST
	}
	s.call(http.MethodGet, "tasks/?reserved_resources="+resource, nil).decode(s.t, &page)
	ids = nil
	for _, one := range page.Results {
		ids = append(ids, fromREST(one).ID)
	}
	if diff := cmp.Diff(want, ids); diff != "" || page.Count != 3 {
		s.t.Errorf("GET tasks/ counts %d: %s", page.Count, diff)
	}
}

func fromGRPC(t client.Task) seen {
	made := seen{
		ID: t.ID, Name: t.Name, State: string(t.State), Executor: t.Executor, Exclusive: t.Exclusive, Shared: t.Shared,
		Created: stamp(&t.CreatedAt), Updated: stamp(&t.UpdatedAt),
		UnblockedAt: stamp(t.UnblockedAt), StartedAt: stamp(t.StartedAt), Finished: stamp(t.FinishedAt),
		Result: compact(t.Result),
	}
	if t.Error != nil {
		made.Description, made.Reason = t.Error.Description, t.Error.Reason
	}
	return made
}

func fromCLI(t taskJSON) seen {
	made := seen{
		ID: t.ID, Name: t.Name, State: t.State, Exclusive: t.ExclusiveResources, Shared: t.SharedResources,
		Created: stamp(t.CreatedAt), Updated: stamp(t.UpdatedAt),
		UnblockedAt: stamp(t.UnblockedAt), StartedAt: stamp(t.StartedAt), Finished: stamp(t.FinishedAt), Result: compact(t.Result),
	}
	if t.Executor != nil {
		made.Executor = *t.Executor
	}
	if t.Error != nil {
		made.Description, made.Reason = t.Error.Description, t.Error.Reason
	}
	return made
}

// fromREST leaves out the executor.
func fromREST(t taskREST) seen {
	made := seen{
		ID: strings.TrimSuffix(strings.TrimPrefix(t.Href, "/pulp/api/v3/tasks/"), "/"), Name: t.Name, State: t.State,
		Created: stamp(t.Created), Updated: stamp(t.Updated),
		UnblockedAt: stamp(t.UnblockedAt), StartedAt: stamp(t.StartedAt), Finished: stamp(t.FinishedAt), Result: compact(t.Result),
	}
	for _, name := range t.Reserved {
		if shared, isShared := strings.CutPrefix(name, "shared:"); isShared {
			made.Shared = append(made.Shared, shared)
		} else {
			made.Exclusive = append(made.Exclusive, name)
		}
	}
	if t.Error != nil {
		made.Description, made.Reason = t.Error.Description, t.Error.Reason
	}
	return made
}

func stamp(at *time.Time) string {
	if at == nil {
		return ""
	}
	return at.UTC().Format(time.RFC3339Nano)
}

func compact(text json.RawMessage) string {
	if string(text) == "null" {
		return ""
	}
	var made strings.Builder
	inString := false
	for i, r := range string(text) {
		if r == '"' && (i == 0 || text[i-1] != '\\') {
			inString = !inString
		}
		if inString || !strings.ContainsRune(" \n\t", r) {
			made.WriteRune(r)
		}
	}
	return made.String()
}

// timestamps holds a task at each of its stages and compares its times with the holder's.
func timestamps(s *system) {
	resource := fresh("r")
	first, second := s.gate(), s.gate()
	holder := s.dispatch(first.task([]string{resource}, nil))
	waiting := s.dispatch(second.task([]string{resource}, nil))
	first.reached()

	one := s.get(waiting.ID)
	if one.UnblockedAt != nil || one.StartedAt != nil || one.FinishedAt != nil {
		s.t.Errorf("a waiting task has the times %v, %v, %v, want none", one.UnblockedAt, one.StartedAt, one.FinishedAt)
	}
	first.open()
	ended := s.end(holder.ID)[0]
	second.reached()
	one = s.get(waiting.ID)
	if one.UnblockedAt == nil || one.StartedAt == nil || one.FinishedAt != nil {
		s.t.Fatalf("a running task has the times %v, %v, %v, want the first two", one.UnblockedAt, one.StartedAt, one.FinishedAt)
	}
	second.open()
	done := s.end(waiting.ID)[0]
	inOrder := []time.Time{ended.CreatedAt, done.CreatedAt, *ended.FinishedAt, *done.UnblockedAt, *done.StartedAt, *done.FinishedAt}
	if !slices.IsSortedFunc(inOrder, time.Time.Compare) {
		s.t.Errorf("dispatched twice, the first ended, the second unblocked, started, ended at %v, which is not in order", inOrder)
	}
	if !done.UpdatedAt.Equal(*done.FinishedAt) {
		s.t.Errorf("last updated at %v, but finished at %v", done.UpdatedAt, done.FinishedAt)
	}
	if away := time.Since(*done.FinishedAt); away < -time.Minute || away > 2*patience {
		s.t.Errorf("finished %s ago by our clock", away)
	}
}

func outcomes(s *system) {
	completed := s.run(shell("echo out; echo err >&2"))
	if want := `{"exit_code":0,"stdout":"out\n","stderr":"err\n"}`; compact(completed.Result) != want || completed.Error != nil {
		s.t.Errorf("the result is %s, %v, want %s", completed.Result, completed.Error, want)
	}
	empty := s.run(client.Spec{Name: "test.noop"})
	if empty.State != task.Completed || compact(empty.Result) != "" {
		s.t.Errorf("test.noop is %s with the result %s, want completed with null", empty.State, empty.Result)
	}
	for _, c := range []struct {
		spec client.Spec
		want string
	}{
		{client.Spec{Name: "test.fail", Args: []string{"no paper"}}, "no paper"},
		{shell("echo why >&2; exit 3"), "the command exited with code 3: why"},
		{client.Spec{Name: "test.sleep"}, `test.sleep() is missing the argument "seconds"`},
	} {
		failed := s.run(c.spec)
		if failed.State != task.Failed || failed.Error.String() != c.want || len(failed.Result) != 0 {
			s.t.Errorf("%s is %s with the error %q, want failed with %q", c.spec.Name, failed.State, failed.Error, c.want)
		}
		if got := s.read(failed.ID); got.Error == nil || got.Error.Description != c.want {
			s.t.Errorf("the REST face shows the error %+v, want the description %q", got.Error, c.want)
		}
	}
}

func workingDirectory(s *system) {
	// The first leaves something behind, which the second must not find.
	for range 2 {
		done := s.run(shell("pwd; ls -A; mkdir -p a/b; echo x > a/b/c; chmod 500 a/b; ln -s / root"))
		var result struct{ Stdout string }
		if err := json.Unmarshal(done.Result, &result); err != nil {
			s.t.Fatalf("%v in %s, %v", err, done.Result, done.Error)
		}
		lines := strings.Split(strings.TrimSpace(result.Stdout), "\n")
		if !strings.HasPrefix(lines[0], s.work+"/") || len(lines) != 1 {
			s.t.Errorf("the task ran in %s and found %q, want a folder below %s and nothing in it", lines[0], lines[1:], s.work)
		}
		eventually(s.t, "the working directory is gone", func() error {
			if _, err := os.Lstat(lines[0]); !os.IsNotExist(err) {
				return fmt.Errorf("%s: %v", lines[0], err)
			}
			return nil
		})
	}
}

func logs(s *system) {
	done := s.run(shell("echo one; echo two >&2; echo drei ü"))
	want := []string{"drei ü", "one", "two"} // of two streams the order is not known
	got := s.cli("task", "logs", done.ID)
	if lines := slices.Sorted(slices.Values(strings.Split(strings.TrimSpace(got.stdout), "\n"))); !slices.Equal(want, lines) || got.code != 0 {
		s.t.Errorf("task logs ended with %d and printed %q %q, want %q", got.code, got.stdout, got.stderr, want)
	}
	var logged struct{ Text string }
	s.cliJSON(0, &logged, "task", "logs", done.ID)
	if logged.Text != got.stdout {
		s.t.Errorf("as JSON the log is %q, want %q", logged.Text, got.stdout)
	}
}

func killedChild(s *system) {
	ended := s.run(shell("kill -9 $PPID; cat /dev/zero > /dev/null"))
	if ended.State != task.Failed || ended.Error.String() != "Killed by signal 9." {
		s.t.Errorf("the task is %s, %q; want failed, Killed by signal 9.", ended.State, ended.Error)
	}
	if next := s.run(client.Spec{Name: "test.noop"}); next.State != task.Completed {
		s.t.Errorf("the next task is %s, %v", next.State, next.Error)
	}
}

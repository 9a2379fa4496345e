package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/task"
)

func logsOfTheRunning(c *crew) {
	c.executor(nil)
	g := c.gate()
	one := c.dispatch(shell("echo one; echo two >&2; cat %s; echo over", g.path))
	g.reached()
	eventually(c.t, "the log can be read", func() error {
		if text, _, err := c.Log(c.soon(), one.ID); err != nil || !strings.Contains(text, "one\n") || !strings.Contains(text, "two\n") {
			return fmt.Errorf("%q, %v", text, err)
		}
		return nil
	})
	c.is(task.Running, c.get(one.ID))
	if got := c.cli("task", "logs", one.ID); got.code != 0 || !strings.Contains(got.stdout, "one\n") || strings.Contains(got.stdout, "over") {
		c.t.Errorf("task logs ended with %d: %q %q", got.code, got.stdout, got.stderr)
	}
	g.open()
	c.is(task.Completed, c.end(one.ID)...)
	if text, truncated, err := c.Log(c.soon(), one.ID); err != nil || truncated || !strings.HasSuffix(text, "over\n") || strings.Count(text, "one\n") != 1 {
		c.t.Errorf("in the end the log is %q, truncated %t, %v", text, truncated, err)
	}
}

func longLogs(c *crew) {
	c.executor(nil)
	one := c.run(shell("echo the beginning; head -c 1048576 /dev/zero | tr '\\0' 'x'; echo; echo the end"))
	c.is(task.Completed, one)
	text, truncated, err := c.Log(c.soon(), one.ID)
	if err != nil || !truncated || len(text) != limits.MaxLog || !strings.HasSuffix(text, "x\nthe end\n") || strings.Contains(text, "the beginning") {
		c.t.Errorf("the log has %d bytes, truncated %t, %v; want the last %d", len(text), truncated, err, limits.MaxLog)
	}
	var result struct{ Stdout string }
	if err := json.Unmarshal(one.Result, &result); err != nil || !strings.HasSuffix(result.Stdout, "x\nthe end\n") {
		c.t.Errorf("the result has %d bytes, %v", len(result.Stdout), err)
	}
	if got := c.cli("task", "logs", one.ID); got.code != 0 || !strings.HasSuffix(got.stdout, "x\nthe end\n") {
		c.t.Errorf("task logs ended with %d, and printed %d bytes", got.code, len(got.stdout))
	}
	// The next task of the same process has a log of its own.
	next := c.run(client.Spec{Name: "test.sleep", Args: []int{0}})
	if text, truncated, err := c.Log(c.soon(), next.ID); err != nil || truncated || text != "" {
		c.t.Errorf("the log of the next task is %d bytes, truncated %t, %v", len(text), truncated, err)
	}
}

func files(c *crew) {
	c.executor(nil)
	path := c.file("report")
	if err := os.WriteFile(path, []byte("What is in it.\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	put := c.cli("file", "put", path)
	id := strings.TrimSpace(put.stdout)
	if put.code != 0 || len(id) != 36 {
		c.t.Fatalf("file put ended with %d: %q %q", put.code, put.stdout, put.stderr)
	}
	if got := c.cli("file", "get", id); got.code != 0 || got.stdout != "What is in it.\n" {
		c.t.Errorf("file get ended with %d: %q %q", got.code, got.stdout, got.stderr)
	}
	if got := c.typed("test.read_files", "--file-id", id, "--wait"); got.code != 0 || !strings.Contains(got.stdout, `"What is in it.\n"`) {
		c.t.Errorf("the task that was given the file ended with %d: %q %q", got.code, got.stdout, got.stderr)
	}

	// One task keeps a file, another one is given both, and holds on to them.
	var kept struct{ File string }
	if one := c.run(client.Spec{Name: "test.keep_file", Args: []string{"kept"}}); json.Unmarshal(one.Result, &kept) != nil || kept.File == "" {
		c.t.Fatalf("test.keep_file is %s with %s: %v", one.State, one.Result, one.Error)
	}
	both := c.run(client.Spec{Name: "test.read_files", Files: []string{id, kept.File}})
	if compact(both.Result) != `["What is in it.\n","kept"]` {
		c.t.Errorf("test.read_files is %s with %s: %v", both.State, both.Result, both.Error)
	}
	resource := fresh("r")
	g, holder := c.held(resource)
	using := c.dispatch(client.Spec{Name: "test.read_files", Files: []string{id, kept.File}, Exclusive: []string{resource}})
	if got := c.cli("file", "delete", id); got.code != 1 || !strings.Contains(got.stderr, id) {
		c.t.Errorf("file delete ended with %d while a task has the file: %q %q", got.code, got.stdout, got.stderr)
	}
	if err := c.DeleteFile(c.soon(), kept.File); !errs.Is(err, errs.FileInUse) {
		c.t.Errorf("DeleteFile while a task has the file: %v, want that it is in use", err)
	}
	g.open()
	ended := c.end(holder.ID, using.ID)
	if c.is(task.Completed, ended...); compact(ended[1].Result) != `["What is in it.\n","kept"]` {
		c.t.Errorf("the task that waited with its files returned %s", ended[1].Result)
	}
	if diff := cmp.Diff([]string{id, kept.File}, c.get(using.ID).Files); diff != "" {
		c.t.Error(diff)
	}

	if got := c.cli("file", "delete", id, kept.File); got.code != 0 {
		c.t.Errorf("file delete ended with %d when no task has the files: %s", got.code, got.stderr)
	}
	if got := c.typed("test.read_files", "--file-id", id); got.code != 2 || !strings.Contains(got.stderr, "file-id[0]") {
		c.t.Errorf("a dispatch with a file that is gone ended with %d: %q", got.code, got.stderr)
	}
}

// secret is what test.secret fails with.
const secret = "hunter2"

var referenceIn = regexp.MustCompile(`reference ([0-9a-f-]{36})\.$`)

// everyWord is all that the faces say of a task.
func (c *crew) everyWord(id string) map[string]string {
	c.t.Helper()
	one := c.get(id)
	log, _, err := c.Log(c.soon(), id)
	if err != nil {
		c.t.Error(err)
	}
	return map[string]string{
		"gRPC":                fmt.Sprintf("%+v %+v", one, one.Error),
		"the log":             log,
		"the REST face":       c.call(http.MethodGet, href(id), nil).body,
		"the list by REST":    c.call(http.MethodGet, "tasks/?name="+one.Name, nil).body,
		"task show":           c.cli("task", "show", id).stdout,
		"task show as JSON":   c.cli("task", "show", id, "--output", "json").stdout,
		"task wait":           c.cli("task", "wait", id).stderr,
		"task list":           c.cli("task", "list", "--output", "json", "--name", one.Name, "--correlation-id", one.CorrelationID).stdout,
		"the gateway's own":   c.processes["gateway"].stderr(),
		"the scheduler's own": c.processes["scheduler"].stderr(),
	}
}

func redacts(c *crew) {
	executor := c.executor(nil)
	spec := client.Spec{Name: "test.secret", Retry: &client.Retry{MaxAttempts: 2, Backoff: -1}}
	one := c.run(spec)
	found := referenceIn.FindStringSubmatch(one.Error.String())
	if one.State != task.Failed || one.Error.Code != task.CodeError || found == nil {
		c.t.Fatalf("the task is %s with %+v, want a reference", one.State, one.Error)
	}
	for where, text := range c.everyWord(one.ID) {
		// Of another story, which shows it, the lists tell as well.
		if strings.Contains(text, secret) && where != "the list by REST" {
			c.t.Errorf("%s says it: %s", where, text)
		}
	}
	told := slices.ContainsFunc(strings.Split(executor.stderr(), "\n"), func(line string) bool {
		return strings.Contains(line, found[1]) && strings.Contains(line, secret) && strings.Contains(line, one.ID)
	})
	if !told {
		c.t.Errorf("the executor's log does not say what is behind the reference %s", found[1])
	}

	thrown := c.run(client.Spec{Name: "test.panic", Args: []string{"at " + secret}})
	if thrown.State != task.Failed || thrown.Error.Code != task.CodePanic || thrown.Error.Traceback != "" || !referenceIn.MatchString(thrown.Error.String()) {
		c.t.Errorf("a task that panicked is %s with %+v", thrown.State, thrown.Error)
	}
	c.failed(c.run(client.Spec{Name: "test.fail", Args: []string{"no paper"}}), task.CodeError, "no paper")
	c.failed(c.run(client.Spec{Name: "test.exit", Args: []int{3}}), task.CodeProcessDied, "Task process died unexpectedly with exitcode 3.")
	c.failed(c.run(client.Spec{Name: "test.signal", Args: []int{9}}), task.CodeProcessDied, "Killed by signal 9.")
	c.stops(executor, syscall.SIGTERM)
}

func redactsNot(c *crew) {
	c.executor(nil, "--no-redact-errors")
	one := c.run(client.Spec{Name: "test.secret"})
	if one.State != task.Failed || !strings.Contains(one.Error.String(), secret) {
		c.t.Errorf("the task is %s with %+v", one.State, one.Error)
	}
	for _, where := range []string{"gRPC", "the REST face", "task show", "task wait"} {
		if text := c.everyWord(one.ID)[where]; !strings.Contains(text, secret) {
			c.t.Errorf("%s does not say it: %s", where, text)
		}
	}
	thrown := c.run(client.Spec{Name: "test.panic", Args: []string{"at " + secret}})
	if thrown.State != task.Failed || thrown.Error.Description != "panic: at "+secret || !strings.Contains(thrown.Error.Traceback, "testends.go") {
		c.t.Errorf("a task that panicked is %s with %+v", thrown.State, thrown.Error)
	}
}

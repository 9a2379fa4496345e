package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// attemptsREST is a task as the REST face shows it, as far as it tells of attempts.
type attemptsREST struct {
	Attempt  int
	Attempts []struct {
		Attempt  int
		Executor string
		Error    *errorJSON
	}
}

func retried(c *crew) {
	c.executor(nil)
	got := c.typed("test.flaky", "--kwargs", `{"fail_times": 2, "code": "FLAKY"}`, "--retry", "3", "--retry-backoff", "20ms", "--wait", "--correlation-id", c.component)
	if got.code != 0 || !strings.Contains(got.stdout, `"attempt": 3`) {
		c.t.Fatalf("dispatch --retry ended with %d, %q %q; want the result of the third attempt", got.code, got.stdout, got.stderr)
	}
	one := c.correlated(c.component)
	if one.State != task.Completed || one.Attempt != 3 || one.Error != nil || len(one.Attempts) != 2 {
		c.t.Fatalf("the task is %s in attempt %d, %v, after %d attempts; want completed in the third", one.State, one.Attempt, one.Error, len(one.Attempts))
	}
	claim, ended := int64(0), one.CreatedAt
	for i, a := range one.Attempts {
		if a.Number != i+1 || a.Executor != c.name(1) || a.Error == nil || a.Error.Code != "FLAKY" || !strings.Contains(a.Error.String(), fmt.Sprintf("attempt %d", i+1)) {
			c.t.Errorf("attempt %d is %+v, %+v", i+1, a, a.Error)
		}
		if a.Claim <= claim || a.StartedAt.Before(ended) || a.EndedAt.Before(a.StartedAt) {
			c.t.Errorf("attempt %d has the claim %d and went from %v to %v, the one before had %d and ended at %v", i+1, a.Claim, a.StartedAt, a.EndedAt, claim, ended)
		}
		claim, ended = a.Claim, a.EndedAt
	}
	if one.Claim <= claim || one.StartedAt.Before(ended) {
		c.t.Errorf("the last attempt has the claim %d and began at %v, the one before had %d and ended at %v", one.Claim, one.StartedAt, claim, ended)
	}

	var byREST attemptsREST
	c.call(http.MethodGet, href(one.ID), nil).decode(c.t, &byREST)
	var numbers []int
	for _, a := range byREST.Attempts {
		numbers = append(numbers, a.Attempt)
		if a.Executor != c.name(1) || a.Error == nil || !strings.Contains(a.Error.Description, "failed in attempt") {
			c.t.Errorf("the REST face shows the attempt %+v, %+v", a, a.Error)
		}
	}
	if diff := cmp.Diff([]int{1, 2}, numbers); diff != "" || byREST.Attempt != 3 {
		c.t.Errorf("the REST face shows attempt %d: %s", byREST.Attempt, diff)
	}

	shown := c.cli("task", "show", one.ID).stdout
	for _, want := range []string{"3 of 3", "1 failed after", "2 failed after", "(FLAKY)"} {
		if !strings.Contains(shown, want) {
			c.t.Errorf("task show does not say %q: %s", want, shown)
		}
	}
	var asJSON struct {
		Attempts []struct{ Error struct{ Code string } }
	}
	c.cliJSON(0, &asJSON, "task", "show", one.ID)
	if len(asJSON.Attempts) != 2 || asJSON.Attempts[1].Error.Code != "FLAKY" {
		c.t.Errorf("task show --output json shows the attempts %+v", asJSON)
	}

	last := c.run(client.Spec{Name: "test.flaky", Args: []int{3}, Retry: &client.Retry{MaxAttempts: 2, Backoff: -1}})
	if c.failed(last, task.CodeError, "failed in attempt 2, as in the first 3"); last.Attempt != 2 {
		c.t.Errorf("a task that never succeeds made %d attempts, want 2", last.Attempt)
	}
}

// keepsItsPlace has tasks behind one that fails, while there are slots for all of them.
func keepsItsPlace(c *crew) {
	c.executor(nil)
	resource := fresh("r")
	flaky := c.dispatch(client.Spec{Name: "test.flaky", Args: []int{2}, Exclusive: []string{resource}, Retry: &client.Retry{MaxAttempts: 3, Backoff: 300 * time.Millisecond}})
	exclusive := c.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	shared := c.dispatch(client.Spec{Name: "test.noop", Shared: []string{resource}})
	all := c.end(flaky.ID, exclusive.ID, shared.ID)
	if c.is(task.Completed, all...); all[0].Attempt != 3 {
		c.t.Errorf("it made %d attempts, want 3", all[0].Attempt)
	}
	c.after(all[0], all[1])
	c.after(all[1], all[2])
}

// resting hands in a task whose first attempt fails, and which then rests for at least half an hour.
func (c *crew) resting(spec client.Spec) client.Task {
	c.t.Helper()
	spec.Name, spec.Args = "test.flaky", []int{1}
	spec.Retry = &client.Retry{MaxAttempts: 2, Backoff: time.Hour, MaxBackoff: time.Hour}
	now := c.dispatch(spec)
	eventually(c.t, "its first attempt has failed", func() error {
		if now = c.get(now.ID); now.State != task.Waiting || now.RetryAt == nil {
			return fmt.Errorf("it is %s, the next attempt at %v", now.State, now.RetryAt)
		}
		return nil
	})
	return now
}

func canceledBetweenAttempts(c *crew) {
	c.executor(nil)
	resource := fresh("r")
	rests := c.resting(client.Spec{Exclusive: []string{resource}})
	behind := c.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	eventually(c.t, "the next one waits for it", func() error {
		why, err := c.Explain(c.soon(), behind.ID)
		if err != nil || len(why.Waits) != 1 || len(why.Waits[0].Holders) != 1 || why.Waits[0].Holders[0].TaskID != rests.ID {
			return fmt.Errorf("explained by %+v, %v", why, err)
		}
		return nil
	})
	if why, err := c.Explain(c.soon(), rests.ID); err != nil || why.RetryAt == nil || !strings.Contains(why.Summary, "Attempt 1 of 2 failed") {
		c.t.Errorf("explained by %+v, %v", why, err)
	}
	if shown := c.cli("task", "show", rests.ID).stdout; !strings.Contains(shown, "1 of 2, next at") {
		c.t.Errorf("task show: %s", shown)
	}
	refusesDelete(c.system, rests.ID)

	canceled, err := c.Cancel(c.soon(), rests.ID)
	if err != nil || canceled.State != task.Canceled || canceled.FinishedAt == nil || canceled.Attempt != 1 {
		c.t.Errorf("when the cancel returns it is %s in attempt %d, %v; want canceled", canceled.State, canceled.Attempt, err)
	}
	next := c.end(behind.ID)[0]
	c.is(task.Completed, next)
	c.after(canceled, next)
	if now := c.get(rests.ID); now.State != task.Canceled || now.Attempt != 1 || len(now.Attempts) != 1 || now.RetryAt != nil {
		c.t.Errorf("in the end it is %s in attempt %d, the next at %v, after %+v", now.State, now.Attempt, now.RetryAt, now.Attempts)
	}
}

func retriedOn(c *crew) {
	c.executor(nil)
	for _, story := range []struct {
		says     string
		on       []string
		kwargs   string
		state    task.State
		code     string
		attempts int
	}{
		{"the code is named", []string{"TIMEOUT", "FLAKY"}, `{"fail_times": 1, "code": "FLAKY"}`, task.Completed, "", 2},
		{"the code is not named", []string{"TIMEOUT"}, `{"fail_times": 1, "code": "FLAKY"}`, task.Failed, "FLAKY", 1},
		{"no code is named", nil, `{"fail_times": 1}`, task.Completed, "", 2},
		{"another attempt would not help", nil, `{"fail_times": 1, "code": "PERMANENT"}`, task.Failed, task.CodePermanent, 1},
		{"the arguments are wrong", nil, `{"fails": 1}`, task.Failed, task.CodePermanent, 1},
		{"nobody can make it permanent for us", []string{"PERMANENT"}, `{"fail_times": 1, "code": "PERMANENT"}`, task.Failed, task.CodePermanent, 1},
	} {
		one := c.run(client.Spec{Name: "test.flaky", Kwargs: json.RawMessage(story.kwargs), Retry: &client.Retry{MaxAttempts: 2, Backoff: -1, On: story.on}})
		code := ""
		if one.Error != nil {
			code = one.Error.Code
		}
		if one.State != story.state || code != story.code || one.Attempt != story.attempts {
			c.t.Errorf("%s: %s with the code %q in attempt %d, want %s, %q, %d", story.says, one.State, code, one.Attempt, story.state, story.code, story.attempts)
		}
	}
	if got := c.typed("test.flaky", "--retry-on", "FLAKY"); got.code != 2 || !strings.Contains(got.stderr, "--retry") {
		c.t.Errorf("--retry-on without --retry ended with %d: %s", got.code, got.stderr)
	}
	if got := c.typed("test.noop", "--immediate", "--retry", "2"); got.code != 2 {
		c.t.Errorf("--retry of an immediate task ended with %d: %s", got.code, got.stderr)
	}
}

func retriedElsewhere(c *crew) {
	short := map[string]string{"worker-ttl": "2s"}
	first := c.executor(short)
	resource := fresh("r")
	g, once := c.held()
	spec := g.task([]string{resource}, nil)
	spec.Retry = &client.Retry{MaxAttempts: 2, Backoff: -1, On: []string{task.CodeMissing}}
	twice := c.dispatch(spec)
	c.running(twice.ID, 1)
	behind := c.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})

	first.kill()
	g.open()
	eventually(c.t, "no process of its tasks is left", func() error {
		if left := left(c.work); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
	c.executor(short)
	g.reached()
	c.failed(c.end(once.ID)[0], task.CodeMissing, task.ReasonWorkerMissing)
	again := c.running(twice.ID, 2)
	if again.Executor != c.name(2) {
		c.t.Errorf("the second attempt runs on %s, want %s", again.Executor, c.name(2))
	}
	if now := c.get(behind.ID); now.State != task.Waiting {
		c.t.Errorf("the next one is %s", now.State)
	}
	g.open()
	ended := c.end(twice.ID, behind.ID)
	c.is(task.Completed, ended...)
	c.after(ended[0], ended[1])
	attempts := c.get(twice.ID).Attempts
	if len(attempts) != 1 || attempts[0].Executor != c.name(1) || attempts[0].Error.Code != task.CodeMissing || attempts[0].EndedAt.After(*again.StartedAt) {
		c.t.Errorf("its attempts are %+v", attempts)
	}
}

func retriedAfterShutdown(c *crew) {
	first := c.executor(map[string]string{"task-grace-interval": "1h"})
	g := c.gate()
	spec := g.task(nil, nil)
	spec.Retry = &client.Retry{MaxAttempts: 2, Backoff: -1, On: []string{task.CodeShutdown}}
	one := c.dispatch(spec)
	g.reached()
	first.signal(syscall.SIGINT)
	c.stopping(first)
	c.stops(first, syscall.SIGINT)
	g.open()
	if now := c.get(one.ID); now.State != task.Waiting || now.Attempt != 1 {
		c.t.Errorf("when the executor is gone it is %s in attempt %d: %v", now.State, now.Attempt, now.Error)
	}
	c.executor(nil)
	g.reached().open()
	c.is(task.Completed, c.end(one.ID)...)
	now := c.get(one.ID)
	if len(now.Attempts) != 1 || now.Attempts[0].Error.Code != task.CodeShutdown || now.Attempts[0].Executor != c.name(1) || now.Executor != c.name(2) {
		c.t.Errorf("it ran on %s after %+v", now.Executor, now.Attempts)
	}
}

// retriedFromTheBeginning has a task that would find, if it was there, what its first attempt made.
func retriedFromTheBeginning(c *crew) {
	c.executor(nil)
	incomplete := c.file("incomplete")
	one := c.get(c.run(client.Spec{
		Name: "test.create", Kwargs: map[string]any{"incomplete": []string{incomplete}, "message": "no paper"},
		Retry: &client.Retry{MaxAttempts: 3, Backoff: -1},
	}).ID)
	if c.failed(one, task.CodeError, "no paper"); len(one.Attempts) != 2 || len(one.Created) > 0 {
		c.t.Errorf("it made %+v in %d attempts before the last", one.Created, len(one.Attempts))
	}
	for _, a := range one.Attempts {
		if a.Error.String() != "no paper" {
			c.t.Errorf("attempt %d failed for another reason: %v", a.Number, a.Error)
		}
	}
	c.gone(incomplete)
}

func timedOut(c *crew) {
	c.executor(nil)
	got := c.typed("test.sleep", "--args", "[3600]", "--timeout", "100ms", "--wait", "--correlation-id", c.component)
	if got.code != 1 || !strings.Contains(got.stderr, "Timed out after 100ms.") {
		c.t.Errorf("dispatch --timeout --wait ended with %d: %q %q", got.code, got.stdout, got.stderr)
	}
	one := c.correlated(c.component)
	if c.failed(one, task.CodeTimeout, "Timed out after 100ms."); one.Timeout != 100*time.Millisecond {
		c.t.Errorf("its time limit is %s", one.Timeout)
	}
	if read := c.read(one.ID); read.Error == nil || read.Error.Reason != "Timed out after 100ms." {
		c.t.Errorf("the REST face shows the error %+v", read.Error)
	}

	// Each attempt has its own time, and a command ends with what it started.
	spec := shell("cat <> %s & cat <> %[1]s", c.gate().path)
	spec.Timeout, spec.Retry = 100*time.Millisecond, &client.Retry{MaxAttempts: 2, Backoff: -1, On: []string{task.CodeTimeout}}
	again := c.get(c.run(spec).ID)
	c.failed(again, task.CodeTimeout, "Timed out after 100ms.")
	if len(again.Attempts) != 1 || again.Attempts[0].Error.Code != task.CodeTimeout {
		c.t.Errorf("its attempts are %+v", again.Attempts)
	}
	if left := left(c.directory(1, again.ID)); len(left) > 0 {
		c.t.Errorf("of the command there is still %s", left)
	}
	if next := c.run(client.Spec{Name: "test.noop", Timeout: time.Hour}); next.State != task.Completed {
		c.t.Errorf("a task that takes less than it may is %s: %v", next.State, next.Error)
	}
}

func timedOutGooey(c *crew) {
	executor := c.executor(map[string]string{"cancel-grace": "300ms"})
	one := c.run(client.Spec{Name: "test.gooey", Args: []int{3600}, Timeout: 100 * time.Millisecond})
	c.failed(one, task.CodeTimeout, "Timed out after 100ms.")
	c.logged(executor, "did not stop within its grace, killing it")
	if left := left(c.directory(1, one.ID)); len(left) > 0 {
		c.t.Errorf("of the task there is still %s", left)
	}
	c.is(task.Completed, c.run(client.Spec{Name: "test.echo"}))
	c.stops(executor, syscall.SIGTERM)
}

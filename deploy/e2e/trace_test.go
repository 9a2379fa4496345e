package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
	"github.com/sluice-tasks/sluice/pkg/testkit/languages"
	"github.com/sluice-tasks/sluice/pkg/testkit/otlp"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// traceStories are told to one Sluice whose processes all export to one collector, that of the test. Each has the trace of a caller.
var traceStories = []struct {
	says string
	tell func(*observed)
}{
	{"a task that waits and completes", tracesCompleted},
	{"a task that was handed in over REST", tracesREST},
	{"a task that fails", tracesFailed},
	{"a task that is canceled while it waits", tracesCanceledWaiting},
	{"a group that is canceled", tracesCanceledGroup},
	{"a task that is canceled while it runs", tracesCanceledRunning},
	{"an immediate task", tracesImmediate},
	{"an immediate task that can't run at once", tracesRejected},
	{"a task that is tried again", tracesRetried},
	{"tasks that a task dispatches", tracesChildren},
	{"spans of a handler's own", tracesHandlers},
	{"spans of a worker in another language", tracesPython},
	{"tasks of a schedule", tracesSchedule},
	{"a task that nobody wants to see", tracesUnsampled},
	{"a task whose scheduler is killed while it runs", tracesTakeover},
	{"a task whose executor is killed", tracesLost},
}

func TestTheTraceOfATask(t *testing.T) {
	t.Parallel()
	r := otlp.Start(t)
	v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
	v.ttl, v.env = 5*time.Second, r.Env()
	s := v.start(t)
	for _, story := range traceStories {
		t.Run(story.says, func(t *testing.T) {
			o := &observed{system: s.under(t), services: v, received: r}
			o.trace, o.caller = randomHex(16), randomHex(8)
			story.tell(o)
		})
	}
}

func randomHex(bytes int) string {
	id := make([]byte, bytes)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// observed is a system whose traces are seen, with the context of a caller.
type observed struct {
	*system

	services      *services
	received      *otlp.Receiver
	trace, caller string
}

// dispatch hands in a task in the caller's trace.
func (o *observed) dispatch(spec client.Spec) client.Task {
	o.t.Helper()
	return o.dispatchFrom(fmt.Sprintf("00-%s-%s-01", o.trace, o.caller), spec)
}

func (o *observed) dispatchFrom(traceparent string, spec client.Spec) client.Task {
	o.t.Helper()
	made, err := o.Dispatch(metadata.AppendToOutgoingContext(o.soon(), "traceparent", traceparent), spec)
	if err != nil {
		o.t.Fatalf("dispatch %s: %v", spec.Name, err)
	}
	return made
}

// tree shows the spans of tasks, and those that handlers make, as they hang below each other, in the order in which they began: a line
// for each, with its attempt, how it ended and the service that made it. Calls and queries, which others made spans of, are left out.
func tree(spans []otlp.Span) string {
	byID := map[string]otlp.Span{}
	for _, s := range spans {
		byID[s.ID] = s
	}
	shown := func(s otlp.Span) bool {
		_, ofTask := s.Attributes[string(tasktrace.TaskID)]
		return ofTask || s.Name == "zip" || s.Name == "in Python"
	}
	below := map[string][]otlp.Span{}
	for _, s := range spans {
		if !shown(s) {
			continue
		}
		above := byID[s.Parent]
		for above.ID != "" && !shown(above) {
			above = byID[above.Parent]
		}
		below[above.ID] = append(below[above.ID], s)
	}
	var text strings.Builder
	var show func(id, indent string)
	show = func(id, indent string) {
		children := below[id]
		slices.SortStableFunc(children, func(a, b otlp.Span) int { return a.Start.Compare(b.Start) })
		for _, s := range children {
			line := s.Name
			if n, has := s.Attributes[string(tasktrace.Attempt)].(int64); has && n > 1 {
				line += fmt.Sprint(" ", n)
			}
			if outcome, has := s.Attributes[string(tasktrace.Outcome)].(string); has {
				line += ": " + outcome
			}
			if s.Failed {
				line += "!"
			}
			text.WriteString(indent + line + " (" + strings.TrimPrefix(s.Service, "sluice-") + ")\n")
			show(s.ID, indent+"  ")
		}
	}
	show("", "")
	return text.String()
}

// comes waits until a trace looks as it should, and returns its spans.
func (o *observed) comes(trace string, want ...string) []otlp.Span {
	o.t.Helper()
	all := strings.Join(want, "\n") + "\n"
	eventually(o.t, "the trace is complete", func() error {
		if got := tree(o.received.Trace(trace)); got != all {
			return fmt.Errorf("it is\n%swant\n%s", got, all)
		}
		return nil
	})
	spans := o.received.Trace(trace)
	for _, s := range spans {
		if s.End.Before(s.Start) {
			o.t.Errorf("%s went from %v to %v", s.Name, s.Start, s.End)
		}
	}
	return spans
}

// span is the only one of a task with a name, and an attempt if that is not 0.
func (o *observed) span(spans []otlp.Span, id, name string, attempt int64) otlp.Span {
	o.t.Helper()
	found := slices.DeleteFunc(slices.Clone(spans), func(s otlp.Span) bool {
		return s.Attributes[string(tasktrace.TaskID)] != id || s.Name != name || attempt != 0 && s.Attributes[string(tasktrace.Attempt)] != attempt
	})
	if len(found) != 1 {
		o.t.Fatalf("there are %d spans %q of task %s", len(found), name, id)
	}
	return found[0]
}

// says checks attributes of a span.
func (o *observed) says(s otlp.Span, want map[string]any) {
	o.t.Helper()
	for key, value := range want {
		if got := s.Attributes[key]; fmt.Sprint(got) != fmt.Sprint(value) {
			o.t.Errorf("%s: %s is %v, want %v", s.Name, key, got, value)
		}
	}
}

// near checks that a moment of a span is that of the task's row, which the database keeps to the microsecond.
func (o *observed) near(what string, got time.Time, want *time.Time) {
	o.t.Helper()
	if want == nil || got.Sub(*want).Abs() > 10*time.Microsecond {
		o.t.Errorf("%s: %v, the row says %v", what, got, want)
	}
}

func tracesCompleted(o *observed) {
	resource, other := fresh("r"), fresh("s")
	g := o.gate()
	holder := o.dispatchFrom("", g.task([]string{resource}, nil))
	g.reached()
	made := o.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}, Shared: []string{other}, CorrelationID: "request-7"})
	stillWaiting(o.system, []string{made.ID})
	g.open()
	done := o.end(made.ID)[0]
	spans := o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: completed (executor)",
		"  finish: completed (scheduler)")
	every := map[string]any{
		"sluice.task.id": made.ID, "sluice.task.name": "test.noop", "sluice.domain": "default", "sluice.correlation_id": "request-7",
	}
	for _, name := range []string{"dispatch", "wait for resources", "wait for a worker", "run", "finish"} {
		o.says(o.span(spans, made.ID, name, 0), every)
	}
	dispatch, blocked := o.span(spans, made.ID, "dispatch", 0), o.span(spans, made.ID, "wait for resources", 0)
	if dispatch.Parent != o.caller {
		o.t.Errorf("the dispatch is below %q, want the caller's span %s", dispatch.Parent, o.caller)
	}
	o.says(dispatch, map[string]any{"sluice.resources.exclusive": []string{resource}})
	if shared, _ := dispatch.Attributes["sluice.resources.shared"].([]string); !slices.Contains(shared, other) {
		o.t.Errorf("the shared resources are %v, want %s among them", shared, other)
	}
	o.says(blocked, map[string]any{"sluice.blocker.task.id": holder.ID, "sluice.blocker.resource": resource})
	run := o.span(spans, made.ID, "run", 1)
	o.says(run, map[string]any{"sluice.executor": "executor-1"})
	if want := tasktrace.RunID(made.ID, 1).String(); run.ID != want {
		o.t.Errorf("the id of the run is %s, want %s", run.ID, want)
	}
	idle, finish := o.span(spans, made.ID, "wait for a worker", 1), o.span(spans, made.ID, "finish", 0)
	o.near("blocked from", blocked.Start, &done.CreatedAt)
	o.near("blocked until", blocked.End, done.UnblockedAt)
	o.near("idle from", idle.Start, done.UnblockedAt)
	o.near("idle until", idle.End, done.StartedAt)
	if finish.End.Before(*done.FinishedAt) || run.Start.Before(*done.StartedAt) || run.End.After(finish.End) {
		o.t.Errorf("the run went from %v to %v and the finish to %v, the row says %v and %v", run.Start, run.End, finish.End, done.StartedAt, done.FinishedAt)
	}
	if early := dispatch.Start; early.After(done.CreatedAt) || dispatch.End.Before(done.CreatedAt) {
		o.t.Errorf("the dispatch went from %v to %v, the row was made at %v", early, dispatch.End, done.CreatedAt)
	}
}

func tracesREST(o *observed) {
	body := strings.NewReader(`{"name": "test.noop"}`)
	request, err := http.NewRequestWithContext(o.soon(), http.MethodPost, o.rest+"/pulp/api/v3/tasks/", body)
	if err != nil {
		o.t.Fatal(err)
	}
	request.SetBasicAuth(username, password)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", fmt.Sprintf("00-%s-%s-01", o.trace, o.caller))
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	response.Body.Close()
	o.comes(o.trace, completed...)
}

// completed is the trace of a task that completed at its first attempt.
var completed = []string{
	"dispatch (dispatcher)",
	"  wait for resources (scheduler)",
	"  wait for a worker (scheduler)",
	"  run: completed (executor)",
	"  finish: completed (scheduler)",
}

func tracesFailed(o *observed) {
	made := o.dispatch(client.Spec{Name: "test.flaky", Kwargs: map[string]any{"fail_times": 1, "code": "FLAKY"}})
	spans := o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: failed! (executor)",
		"  finish: failed (scheduler)")
	run := o.span(spans, made.ID, "run", 1)
	if o.says(run, map[string]any{"sluice.error.code": "FLAKY"}); !strings.Contains(run.Status, "failed in attempt 1") {
		o.t.Errorf("the run says %q", run.Status)
	}
	o.says(o.span(spans, made.ID, "finish", 0), map[string]any{"sluice.error.code": "FLAKY"})
}

func tracesCanceledWaiting(o *observed) {
	resource := fresh("r")
	g := o.gate()
	o.dispatchFrom("", g.task([]string{resource}, nil))
	g.reached()
	defer g.open()
	made := o.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}})
	stillWaiting(o.system, []string{made.ID})
	if _, err := o.Cancel(o.soon(), made.ID); err != nil {
		o.t.Fatal(err)
	}
	spans := o.comes(o.trace, "dispatch (dispatcher)", "  wait for resources (dispatcher)", "  finish: canceled (dispatcher)")
	o.near("it waited until", o.span(spans, made.ID, "wait for resources", 0).End, o.get(made.ID).FinishedAt)
}

func tracesCanceledGroup(o *observed) {
	resource := fresh("r")
	g := o.gate()
	o.dispatchFrom("", g.task([]string{resource}, nil))
	g.reached()
	defer g.open()
	group, err := o.CreateGroup(o.soon(), "")
	if err != nil {
		o.t.Fatal(err)
	}
	o.dispatch(client.Spec{Name: "test.noop", Exclusive: []string{resource}, GroupID: group})
	if _, _, err := o.CancelGroup(o.soon(), group); err != nil {
		o.t.Fatal(err)
	}
	o.comes(o.trace, "dispatch (dispatcher)", "  wait for resources (dispatcher)", "  finish: canceled (dispatcher)")
}

func tracesCanceledRunning(o *observed) {
	g := o.gate()
	made := o.dispatch(g.task(nil, nil))
	g.reached()
	if _, err := o.Cancel(o.soon(), made.ID); err != nil {
		o.t.Fatal(err)
	}
	o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: canceled (executor)",
		"  finish: canceled (scheduler)")
}

func tracesImmediate(o *observed) {
	o.dispatch(client.Spec{Name: "test.asleep", Args: []int{0}, Immediate: true, NoDefer: true})
	o.comes(o.trace, completed...)
}

func tracesRejected(o *observed) {
	resource := fresh("r")
	g := o.gate()
	o.dispatchFrom("", g.task([]string{resource}, nil))
	g.reached()
	defer g.open()
	made := o.dispatch(client.Spec{Name: "test.asleep", Args: []int{0}, Exclusive: []string{resource}, Immediate: true, NoDefer: true})
	if made.State != task.Canceled {
		o.t.Fatalf("it is %s", made.State)
	}
	o.comes(o.trace, "dispatch (dispatcher)", "  wait for resources (dispatcher)", "  finish: canceled (dispatcher)")
}

func tracesRetried(o *observed) {
	made := o.dispatch(client.Spec{Name: "test.flaky", Args: []int{1}, Retry: &client.Retry{MaxAttempts: 2, Backoff: 20 * time.Millisecond}})
	spans := o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: failed! (executor)",
		"  wait for a worker 2 (scheduler)",
		"  run 2: completed (executor)",
		"  finish 2: completed (scheduler)")
	o.linked(spans, made.ID)
	attempts := o.get(made.ID).Attempts
	if rested := o.span(spans, made.ID, "wait for a worker", 2); len(attempts) != 1 || rested.Start.Sub(attempts[0].EndedAt).Abs() > 10*time.Microsecond {
		o.t.Errorf("it waited for the second attempt from %v, the first is %+v", rested.Start, attempts)
	}
}

// linked checks that the second run of a task is linked to the first.
func (o *observed) linked(spans []otlp.Span, id string) {
	o.t.Helper()
	want := []string{o.trace + "/" + o.span(spans, id, "run", 1).ID}
	if got := o.span(spans, id, "run", 2).Links; !slices.Equal(got, want) {
		o.t.Errorf("the second run is linked to %v, want %v", got, want)
	}
}

func tracesChildren(o *observed) {
	o.dispatch(client.Spec{Name: "test.dummy_group", Kwargs: map[string]any{"inbetween": 0, "intervals": []float64{0}}})
	o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: completed (executor)",
		"    dispatch (dispatcher)",
		"      wait for resources (scheduler)",
		"      wait for a worker (scheduler)",
		"      run: completed (executor)",
		"      finish: completed (scheduler)",
		"  finish: completed (scheduler)")
}

func tracesHandlers(o *observed) {
	own := launch(o.t, o.t.TempDir(), command{
		name: "own-tasks", path: programs.get(o.t, ownTasks), env: o.received.Env(),
		args: []string{"--addr", o.grpc, "--name", "own", "--slots", "1", "--work-dir", filepath.Join(o.dir, "own")},
	})
	stopAtTheEnd(o.t, own)
	own.ready(o.t, "sluice executor is ready")
	o.dispatch(client.Spec{Name: "archive.make", Kwargs: map[string]string{"path": o.file("archive"), "dir": o.tree()}})
	o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: completed (executor)",
		"    zip (worker)",
		"  finish: completed (scheduler)")
}

func tracesPython(o *observed) {
	python := languages.Python(o.t)
	script, err := filepath.Abs("testdata/tracing.py")
	if err != nil {
		o.t.Fatal(err)
	}
	addr := freeAddrs(o.t, 1)[0]
	host := launch(o.t, o.t.TempDir(), o.services.command("executor", map[string]string{
		"name": "host", "grpc-addr": addr, "work-dir": filepath.Join(o.dir, "host"), "slots": "0",
	}))
	stopAtTheEnd(o.t, host)
	host.ready(o.t, "sluice executor is ready")
	guest := launch(o.t, o.t.TempDir(), command{
		name: "tracing", path: python.Path, args: []string{script, python.Example, addr, o.received.URL()}, env: python.Env,
	})
	o.t.Cleanup(guest.kill)
	made := o.dispatch(client.Spec{Name: "e2e.traced"})
	spans := o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: completed (executor)",
		"    in Python (python)",
		"    dispatch (dispatcher)",
		"      wait for resources (scheduler)",
		"      wait for a worker (scheduler)",
		"      run: completed (executor)",
		"      finish: completed (scheduler)",
		"  finish: completed (scheduler)")
	o.says(o.span(spans, made.ID, "run", 1), map[string]any{"sluice.executor": "host/tracing"})
}

func tracesSchedule(o *observed) {
	ctx := metadata.AppendToOutgoingContext(o.soon(), "traceparent", fmt.Sprintf("00-%s-%s-01", o.trace, o.caller))
	name := fresh("schedule")
	plan, err := o.CreateSchedule(ctx, client.Schedule{Name: name, Interval: time.Second, Task: client.Spec{Name: "test.noop", CorrelationID: name}})
	if err != nil {
		o.t.Fatal(err)
	}
	var tasks []client.Task
	eventually(o.t, "it was dispatched twice", func() error {
		if tasks = o.dispatchedFor(o.t, name); len(tasks) < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := o.DeleteSchedule(o.soon(), plan.ID); err != nil {
		o.t.Fatal(err)
	}
	slices.SortFunc(tasks, func(a, b client.Task) int { return int(a.Seq - b.Seq) })
	links := [][]string{{o.trace + "/" + o.caller}, {o.trace + "/" + o.caller}}
	for i, one := range tasks[:2] {
		var dispatch otlp.Span
		eventually(o.t, "its dispatch is exported", func() error {
			all := o.received.Spans()
			at := slices.IndexFunc(all, func(s otlp.Span) bool {
				return s.Name == "dispatch" && s.Attributes[string(tasktrace.TaskID)] == one.ID
			})
			if at < 0 {
				return errors.New("not yet")
			}
			dispatch = all[at]
			return nil
		})
		if dispatch.Parent != "" || dispatch.TraceID == o.trace {
			o.t.Errorf("the trace of the task is %s, below %q; want one of its own", dispatch.TraceID, dispatch.Parent)
		}
		if !slices.Equal(dispatch.Links, links[i]) {
			o.t.Errorf("the dispatch is linked to %v, want %v", dispatch.Links, links[i])
		}
		links[1] = append(links[1], dispatch.TraceID+"/"+dispatch.ID)
		o.says(dispatch, map[string]any{"sluice.correlation_id": name, "sluice.schedule.name": name})
		o.comes(dispatch.TraceID,
			"dispatch (scheduler)",
			"  wait for resources (scheduler)",
			"  wait for a worker (scheduler)",
			"  run: completed (executor)",
			"  finish: completed (scheduler)")
	}
}

func tracesUnsampled(o *observed) {
	made := o.dispatchFrom(fmt.Sprintf("00-%s-%s-00", o.trace, o.caller), client.Spec{Name: "test.dummy_group", Kwargs: map[string]any{"intervals": []float64{0}}})
	done := o.end(made.ID)[0]
	var result struct{ Tasks []string }
	if err := json.Unmarshal(done.Result, &result); err != nil || len(result.Tasks) != 1 {
		o.t.Fatalf("it is %s with %s: %v", done.State, done.Result, err)
	}
	o.end(result.Tasks...)
	o.dispatch(client.Spec{Name: "test.noop"})
	// What came later is here, and of the first nothing.
	o.comes(o.trace, completed...)
}

func tracesTakeover(o *observed) {
	g := o.gate()
	made := o.dispatch(g.task(nil, nil))
	g.reached()
	eventually(o.t, "what it waited for is exported", func() error {
		if got := tree(o.received.Trace(o.trace)); strings.Count(got, "\n") < 3 {
			return errors.New(got)
		}
		return nil
	})
	o.processes["scheduler"].kill()
	o.services.restart(o.t, "scheduler")
	g.open()
	done := o.end(made.ID)[0]
	o.is(task.Completed, done)
	spans := o.comes(o.trace, completed...)
	o.says(o.span(spans, made.ID, "finish", 0), map[string]any{"sluice.executor": "executor-1", "sluice.attempt": 1})
}

func (o *observed) is(want task.State, one client.Task) {
	o.t.Helper()
	if one.State != want {
		o.t.Fatalf("it is %s: %v", one.State, one.Error)
	}
}

func tracesLost(o *observed) {
	g := o.gate()
	spec := g.task(nil, nil)
	spec.Retry = &client.Retry{MaxAttempts: 2, Backoff: -1}
	made := o.dispatch(spec)
	g.reached()
	first := o.get(made.ID)
	o.processes["executor"].kill()
	g.open()
	o.services.restart(o.t, "executor")
	g.reached().open()
	o.is(task.Completed, o.end(made.ID)[0])
	spans := o.comes(o.trace,
		"dispatch (dispatcher)",
		"  wait for resources (scheduler)",
		"  wait for a worker (scheduler)",
		"  run: failed! (scheduler)",
		"  wait for a worker 2 (scheduler)",
		"  run 2: completed (executor)",
		"  finish 2: completed (scheduler)")
	o.linked(spans, made.ID)
	lost := o.span(spans, made.ID, "run", 1)
	o.says(lost, map[string]any{"sluice.executor": "executor-1", "sluice.error.code": task.CodeMissing})
	o.near("the lost run began", lost.Start, first.StartedAt)
	if want := tasktrace.RunID(made.ID, 1).String(); lost.ID != want {
		o.t.Errorf("the id of the lost run is %s, want %s", lost.ID, want)
	}
}

package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	record "github.com/sluice-tasks/sluice/pkg/history"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	loadClients   = 6
	loadResources = 4
	loadPace      = 150 * time.Millisecond // of each client; the tasks can be run about as fast
	loadAtMost    = 100                    // tasks that have not ended, more or less: then nobody hands in any
)

// load is what several clients at once hand in on a few resources, exclusive and shared, alone and in batches, while something
// happens to the system. Every task writes down when it starts, that it still lives, and when it ends, so that in the end all
// promises can be checked.
type load struct {
	s         *system
	path      string // of the file in which tasks write
	began     time.Time
	resources []string
	stop      func()

	mu       sync.Mutex
	calls    int
	returned map[string]record.Task // what was acknowledged, by id
	refused  map[string]int         // the other calls, by their error
	apart    []string               // resources of single tasks
	mishaps  []*mishap
}

// mishap is something that happens to an executor, and explains why tasks that it had have failed.
type mishap struct {
	executor string
	reason   string
	began    time.Time
	over     time.Time // zero: it goes on
}

// load begins one. It ends with settle, or with the test. Calls go to one of the clients.
func (s *system) load(clients ...*client.Client) *load {
	s.t.Helper()
	if len(clients) == 0 {
		clients = []*client.Client{s.Client}
	}
	l := s.quiet()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	l.stop = func() {
		cancel()
		all.Wait()
	}
	s.t.Cleanup(l.stop)
	for i := range loadClients {
		all.Go(func() { l.client(ctx, clients[i%len(clients)]) })
	}
	return l
}

// quiet is a load without clients: what there is to run, the story hands in itself.
func (s *system) quiet() *load {
	s.t.Helper()
	l := &load{s: s, path: s.file("load"), began: time.Now(), stop: func() {}, returned: map[string]record.Task{}, refused: map[string]int{}}
	if err := os.WriteFile(l.path, nil, 0o666); err != nil {
		s.t.Fatal(err)
	}
	for range loadResources {
		l.resources = append(l.resources, fresh("load"))
	}
	return l
}

// client hands in until the load ends. The last call is not cut off.
func (l *load) client(ctx context.Context, c *client.Client) {
	pace := time.NewTicker(loadPace)
	defer pace.Stop()
	for {
		if l.open() < loadAtMost {
			specs := make([]client.Spec, 1+rand.IntN(3)/2) // every third call brings two
			for i := range specs {
				specs[i] = l.task()
			}
			_, _ = l.dispatch(c, specs...) // a refusal is noted
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
	}
}

// task is one that starts a process, so that it takes a moment. One in eight goes on a while longer.
func (l *load) task() client.Spec {
	spec := l.script(":")
	if rand.IntN(8) == 0 {
		spec = l.script("lives; lives")
	}
	for _, i := range rand.Perm(loadResources)[:1+rand.IntN(2)] {
		if rand.IntN(3) == 0 {
			spec.Shared = append(spec.Shared, l.resources[i])
		} else {
			spec.Exclusive = append(spec.Exclusive, l.resources[i])
		}
	}
	return spec
}

// script is a task that notes its start and its end, and between them that it lives, after each call of lives.
func (l *load) script(between string) client.Spec {
	return shell(`note() { echo "$1 $SLUICE_TASK_ID $SLUICE_TASK_CLAIM" >> '%s'; }; lives() { sleep 0.05; note alive; }
		note start; ls / > /dev/null; %s; note end`, l.path, between)
}

func (l *load) dispatch(c *client.Client, specs ...client.Spec) ([]client.Task, error) {
	called := time.Since(l.began)
	made, err := c.DispatchBatch(l.s.soon(), specs)
	returned := time.Since(l.began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if err != nil {
		l.refused[err.Error()]++
		return nil, err
	}
	for i, one := range made {
		l.returned[one.ID] = record.Task{
			ID: one.ID, Exclusive: specs[i].Exclusive, Shared: specs[i].Shared, Called: called, Returned: returned, Batch: l.calls,
		}
	}
	return made, nil
}

// lasting is a task of a load that goes on until it is told to end. It has a resource for itself and those that are to wait for it.
type lasting struct {
	client.Task

	l        *load
	resource string
	leave    string // a path: when there is something, the task ends
	pid      string // a path: there the task writes the id of the process that runs it
}

// lasts hands in a task that goes on, which needs a component, and waits until it has started.
func (l *load) lasts(component string) *lasting {
	l.s.t.Helper()
	one := l.given(component)
	l.wrote(one.ID, "start", 1)
	return one
}

// given is lasts without the wait.
func (l *load) given(component string) *lasting {
	l.s.t.Helper()
	one := &lasting{l: l, resource: fresh("lasting"), leave: l.s.file("leave"), pid: l.s.file("pid")}
	l.mu.Lock()
	l.apart = append(l.apart, one.resource)
	l.mu.Unlock()
	spec := l.script(fmt.Sprintf("echo $PPID > '%s'; while [ ! -e '%s' ]; do lives; done", one.pid, one.leave))
	spec.Exclusive = []string{one.resource}
	if component != "" {
		spec.Versions = map[string]string{component: "1"}
	}
	made, err := l.dispatch(l.s.Client, spec)
	if err != nil {
		l.s.t.Fatalf("dispatch: %v", err)
	}
	one.Task = made[0]
	return one
}

// behind hands in a short task that has to wait for the one that goes on, for any executor.
func (o *lasting) behind() client.Task {
	o.l.s.t.Helper()
	spec := o.l.script("lives; lives")
	spec.Exclusive = []string{o.resource}
	made, err := o.l.dispatch(o.l.s.Client, spec)
	if err != nil {
		o.l.s.t.Fatalf("dispatch: %v", err)
	}
	return made[0]
}

// end lets the task end.
func (o *lasting) end() {
	o.l.s.t.Helper()
	if err := os.WriteFile(o.leave, nil, 0o666); err != nil {
		o.l.s.t.Fatal(err)
	}
}

// wrote waits until a task has written something for the n-th time.
func (l *load) wrote(id, what string, n int) {
	l.s.t.Helper()
	eventually(l.s.t, "task "+id+" writes "+what, func() error {
		if times := strings.Count(l.read(), what+" "+id); times < n {
			return fmt.Errorf("it did so %d times, and is %s", times, l.s.get(id).State)
		}
		return nil
	})
}

// befalls notes what begins to happen to an executor now: for this reason tasks may fail that it has.
func (l *load) befalls(executor, reason string) *mishap {
	m := &mishap{executor: executor, reason: reason, began: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mishaps = append(l.mishaps, m)
	return m
}

// past is when it is over: what starts from now on is not to fail any more.
func (m *mishap) past() { m.over = time.Now() }

// explains reports whether a task may have failed for it.
func (m *mishap) explains(one client.Task) bool {
	return one.State == task.Failed && one.Error != nil && one.Error.Reason == m.reason && one.Executor == m.executor && one.StartedAt != nil &&
		(m.over.IsZero() || one.StartedAt.Before(m.over)) && one.FinishedAt.After(m.began)
}

// count is how many tasks were acknowledged, and how often one wrote that it starts or ends.
func (l *load) count() (acknowledged, lines int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	said := l.read()
	return len(l.returned), strings.Count(said, "start ") + strings.Count(said, "end ")
}

// open is how many tasks were acknowledged and have not ended.
func (l *load) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.returned) - strings.Count(l.read(), "end ")
}

// refusals is how many calls brought an error.
func (l *load) refusals() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, times := range l.refused {
		n += times
	}
	return n
}

func (l *load) read() string {
	text, err := os.ReadFile(l.path)
	if err != nil {
		l.s.t.Error(err)
	}
	return string(text)
}

// goesOn waits until more tasks were acknowledged and more of them ran.
func (l *load) goesOn() {
	l.s.t.Helper()
	acknowledged, lines := l.count()
	began := time.Now()
	eventually(l.s.t, "tasks are handed in and run", func() error {
		a, n := l.count()
		if a < acknowledged+10 || n < lines+10 {
			why := ""
			if time.Since(began) > patience-time.Second { // to ask each time would be a load, too
				why = l.oldest()
			}
			return fmt.Errorf("%d tasks were acknowledged and %d lines written%s", a-acknowledged, n-lines, why)
		}
		return nil
	})
}

// oldest says what the oldest tasks that have not ended wait for.
func (l *load) oldest() string {
	l.mu.Lock()
	said := l.read()
	var open []string
	for id := range l.returned {
		if !strings.Contains(said, "end "+id+" ") {
			open = append(open, id)
		}
	}
	l.mu.Unlock()
	slices.Sort(open) // by when they were made
	var text strings.Builder
	for _, id := range open[:min(len(open), 5)] {
		why, err := l.s.Explain(l.s.soon(), id)
		fmt.Fprintf(&text, "\n%s: %s %v", id, why.Summary, err)
	}
	return text.String()
}

// settle ends the load, waits for all tasks that were stored, acknowledged or not, and checks what is promised of them. A
// task may have failed only if something befell its executor meanwhile.
func (l *load) settle(s *system) {
	s.t.Helper()
	l.stop()
	stored := map[string]record.Task{}
	var ids []string
	for _, resource := range slices.Concat(l.resources, l.apart) {
		for one, err := range s.List(s.soon(), client.Filter{Resources: []string{resource}}) {
			if err != nil {
				s.t.Fatal(err)
			}
			if _, known := stored[one.ID]; known {
				continue
			}
			t, acknowledged := l.returned[one.ID]
			if !acknowledged {
				// Some call brought it, and its caller was told nothing. It has no place that anybody can rely on.
				t = record.Task{ID: one.ID, Exclusive: one.Exclusive, Shared: one.Shared, Returned: record.Never}
			}
			stored[one.ID] = t
			ids = append(ids, one.ID)
		}
	}
	for id := range l.returned {
		if _, found := stored[id]; !found {
			s.t.Errorf("task %s was acknowledged and is gone", id)
		}
	}
	if len(l.refused) == 0 && len(stored) > len(l.returned) {
		s.t.Errorf("%d tasks are stored, and %d were acknowledged, by calls of which none failed", len(stored), len(l.returned))
	}
	ended := s.end(ids...)
	runs, lines, err := parseRuns(l.read())
	if err != nil {
		s.t.Fatal(err)
	}
	failed, unbegun := 0, 0
	for _, one := range ended {
		t := stored[one.ID]
		t.State, t.Final, t.Lost = string(one.State), lines, one.State == task.Failed
		t.Runs = runs.of(one.ID, t.Lost)
		stored[one.ID] = t
		switch {
		case one.State == task.Completed:
			continue
		case !slices.ContainsFunc(l.mishaps, func(m *mishap) bool { return m.explains(one) }):
			s.t.Errorf("task %s (seq %d, claim %d) is %s on %q, %v to %v: %v", one.ID, one.Seq, one.Claim, one.State, one.Executor, one.StartedAt, one.FinishedAt, one.Error)
		}
		if failed++; len(t.Runs) == 0 {
			unbegun++
		}
	}
	for id := range runs {
		if _, found := stored[id]; !found {
			s.t.Errorf("task %s ran and is not stored", id)
		}
	}
	// In the order of their ids, which is that of their places in a batch.
	all := slices.SortedFunc(maps.Values(stored), func(a, b record.Task) int { return strings.Compare(a.ID, b.ID) })
	for _, wrong := range record.Check(all) {
		s.t.Errorf("by the lines of the history: %s", wrong)
	}
	s.t.Logf("%d calls, %d tasks acknowledged, %d stored, %d failed with their executor, %d of them before they wrote anything; refused were %v",
		l.calls, len(l.returned), len(stored), failed, unbegun, l.refused)
}

// runs are what tasks wrote, by task and claim. Their clock is the number of the line: the file is only ever appended to, so it
// says what was before what, however the processor was shared out among those who wrote.
type runs map[string]map[int64]*noted

// noted is one run. lives is the last line that it wrote.
type noted struct{ start, end, lives time.Duration }

// parseRuns also returns the moment after the last line.
func parseRuns(text string) (runs, time.Duration, error) {
	made, line := runs{}, time.Duration(0)
	for said := range strings.Lines(text) {
		line++
		var what, id string
		var claim int64
		if n, err := fmt.Sscanf(said, "%s %s %d\n", &what, &id, &claim); n != 3 || err != nil {
			return nil, 0, fmt.Errorf("line %d of the history is %q: %w", line, said, err)
		}
		if made[id] == nil {
			made[id] = map[int64]*noted{}
		}
		run := made[id][claim]
		if run == nil {
			run = &noted{start: record.Never, end: record.Never}
			made[id][claim] = run
		}
		run.lives = line
		switch what {
		case "start":
			if run.start != record.Never {
				return nil, 0, fmt.Errorf("task %s starts again in line %d with claim %d", id, line, claim)
			}
			run.start = line
		case "end":
			run.end = line
		}
	}
	return made, line + 1, nil
}

// of returns the runs of a task. One that was lost has no end, but went on for as long as it wrote: nobody may have come in its
// place before.
func (r runs) of(id string, lost bool) (all []record.Run) {
	for claim, n := range r[id] {
		run := record.Run{Claim: claim, Started: n.start, Ended: n.end}
		if lost && n.lives > n.start && (run.Ended == record.Never || run.Ended < n.lives) {
			run.Ended = n.lives
		}
		all = append(all, run)
	}
	return all
}

func TestTheLoadCheckerFindsWhatItIsFor(t *testing.T) {
	for name, c := range map[string]struct {
		history string
		lost    string
		want    []record.Kind
	}{
		"one after the other":             {"start a 1\nalive a 1\nend a 1\nstart b 2\nend b 2\n", "", nil},
		"overlap":                         {"start a 1\nstart b 2\nend a 1\nend b 2\n", "", []record.Kind{record.Overlap, record.Disorder}},
		"wrong order":                     {"start b 1\nend b 1\nstart a 2\nend a 2\n", "", []record.Kind{record.Disorder}},
		"twice":                           {"start a 1\nend a 1\nstart a 3\nend a 3\nstart b 2\nend b 2\n", "", []record.Kind{record.Twice}},
		"a lost one that stopped in time": {"start a 1\nalive a 1\nstart b 2\nend b 2\n", "a", nil},
		"a lost one that was heard again": {"start a 1\nstart b 2\nalive a 1\nend b 2\n", "a", []record.Kind{record.Overlap, record.Disorder}},
		"a lost one that came to its end": {"start a 1\nstart b 2\nend a 1\nend b 2\n", "a", []record.Kind{record.Overlap, record.Disorder}},
		"one that was never seen to end":  {"start a 1\n", "b", []record.Kind{record.NeverEnded}},
		"one that never ran":              {"start b 2\nend b 2\n", "", []record.Kind{record.Disorder, record.NeverRan}},
	} {
		t.Run(name, func(t *testing.T) {
			made, lines, err := parseRuns(c.history)
			if err != nil {
				t.Fatal(err)
			}
			var tasks []record.Task
			for i, id := range []string{"a", "b"} {
				one := record.Task{
					ID: id, Exclusive: []string{"r"}, Called: time.Duration(10 * i), Returned: time.Duration(10*i + 1), State: "completed", Final: lines,
				}
				if id == c.lost {
					one.State, one.Lost = "failed", true
				}
				one.Runs = made.of(id, one.Lost)
				tasks = append(tasks, one)
			}
			var found []record.Kind
			for _, wrong := range record.Check(tasks) {
				found = append(found, wrong.Kind)
			}
			slices.Sort(found)
			if slices.Sort(c.want); !slices.Equal(found, c.want) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
	for _, history := range []string{"start a 1\nstart a 1\n", "start a\n", "start a 1 2\n"} {
		if _, _, err := parseRuns(history); err == nil {
			t.Errorf("nothing is wrong with %q", history)
		}
	}
}

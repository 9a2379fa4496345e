package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	record "github.com/sluice-tasks/sluice/pkg/history"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	loadClients   = 6
	loadResources = 4
	loadPace      = 150 * time.Millisecond // of each client; the tasks can be run about as fast
)

// load is what several clients at once hand in on a few resources, exclusive and shared, alone and in batches, while something
// happens to the system. Every task writes down when it starts and ends, so that in the end all promises can be checked.
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
}

// load begins one. It ends with settle, or with the test. Calls go to one of the clients.
func (s *system) load(clients ...*client.Client) *load {
	s.t.Helper()
	if len(clients) == 0 {
		clients = []*client.Client{s.Client}
	}
	l := &load{s: s, path: s.file("load"), began: time.Now(), returned: map[string]record.Task{}, refused: map[string]int{}}
	if err := os.WriteFile(l.path, nil, 0o666); err != nil {
		s.t.Fatal(err)
	}
	for range loadResources {
		l.resources = append(l.resources, fresh("load"))
	}
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

// client hands in until the load ends. The last call is not cut off.
func (l *load) client(ctx context.Context, c *client.Client) {
	pace := time.NewTicker(loadPace)
	defer pace.Stop()
	for {
		specs := make([]client.Spec, 1+rand.IntN(3)/2) // every third call brings two
		for i := range specs {
			specs[i] = l.task()
		}
		l.dispatch(c, specs)
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
	}
}

// task is one that notes when it starts and ends; between them it starts a process, so that it takes a moment.
func (l *load) task() client.Spec {
	const note = `echo "%s $SLUICE_TASK_ID $SLUICE_TASK_CLAIM $(date +%%s%%N)" >> %s`
	spec := shell(note+"; "+note, "start", l.path, "end", l.path)
	for _, i := range rand.Perm(loadResources)[:1+rand.IntN(2)] {
		if rand.IntN(3) == 0 {
			spec.Shared = append(spec.Shared, l.resources[i])
		} else {
			spec.Exclusive = append(spec.Exclusive, l.resources[i])
		}
	}
	return spec
}

func (l *load) dispatch(c *client.Client, specs []client.Spec) {
	called := time.Since(l.began)
	made, err := c.DispatchBatch(l.s.soon(), specs)
	returned := time.Since(l.began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if err != nil {
		l.refused[err.Error()]++
		return
	}
	for i, one := range made {
		l.returned[one.ID] = record.Task{
			ID: one.ID, Exclusive: specs[i].Exclusive, Shared: specs[i].Shared, Called: called, Returned: returned, Batch: l.calls,
		}
	}
}

// count is how many tasks were acknowledged, and how many lines they wrote.
func (l *load) count() (acknowledged, lines int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.returned), strings.Count(l.read(), "\n")
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
	eventually(l.s.t, "tasks are handed in and run", func() error {
		a, n := l.count()
		if a < acknowledged+10 || n < lines+10 {
			return fmt.Errorf("%d tasks were acknowledged and %d lines written", a-acknowledged, n-lines)
		}
		return nil
	})
}

// settle ends the load, waits for all tasks that were stored, acknowledged or not, and checks what is promised of them.
func (l *load) settle(s *system) {
	s.t.Helper()
	l.stop()
	stored := map[string]record.Task{}
	var ids []string
	for _, resource := range l.resources {
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
	for _, one := range s.end(ids...) {
		if one.State != task.Completed {
			s.t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		}
		t := stored[one.ID]
		t.State, t.Final = string(one.State), time.Since(l.began)
		stored[one.ID] = t
	}
	for _, wrong := range record.Check(l.ran(stored)) {
		s.t.Error(wrong)
	}
	s.t.Logf("%d calls, %d tasks acknowledged, %d stored; refused were %v", l.calls, len(l.returned), len(stored), l.refused)
}

// ran adds what tasks wrote, and returns them by the order of their calls and of their batches.
func (l *load) ran(stored map[string]record.Task) []record.Task {
	runs := map[string]map[int64]record.Run{}
	for line := range strings.Lines(l.read()) {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			l.s.t.Fatalf("a task wrote %q", line)
		}
		claim, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			l.s.t.Fatalf("a task wrote %q: %v", line, err)
		}
		at, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			l.s.t.Fatalf("a task wrote %q: %v", line, err)
		}
		since := time.Duration(at - l.began.UnixNano())
		if runs[fields[1]] == nil {
			runs[fields[1]] = map[int64]record.Run{}
		}
		run, known := runs[fields[1]][claim]
		if !known {
			run = record.Run{Claim: claim, Started: record.Never, Ended: record.Never}
		}
		if fields[0] == "start" {
			run.Started = min(since, run.Started)
		} else {
			run.Ended = since
		}
		runs[fields[1]][claim] = run
	}
	var all []record.Task
	for id, t := range stored {
		for _, run := range runs[id] {
			t.Runs = append(t.Runs, run)
		}
		all = append(all, t)
		delete(runs, id)
	}
	for id := range runs {
		l.s.t.Errorf("task %s ran and is not stored", id)
	}
	// In the order of their ids, which is that of their places in a batch.
	slices.SortFunc(all, func(a, b record.Task) int { return strings.Compare(a.ID, b.ID) })
	return all
}

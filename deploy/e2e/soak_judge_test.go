package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	record "github.com/sluice-tasks/sluice/pkg/history"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// soakReading is what one process used when nothing was going on.
type soakReading struct {
	when, process string
	pid           int
	rss, heap     float64 // MiB; the heap is what was alive after the last collection
	goroutines    float64
	files         float64
}

const (
	// At rest a process may have so much more than at the first rest of one of its name. The ballast lets a heap grow by 96 MiB
	// before it is collected at all, so memory is judged by what is alive after a collection, which the runtime makes every two
	// minutes at least; the rest says only that it has not run away.
	moreHeap       = 16 // MiB
	moreMemory     = 160
	moreGoroutines = 30
	moreFiles      = 20
)

// rest waits until all tasks that were stored have ended, and some time more, and reads what the processes use.
func (r *soak) rest(when string) {
	r.t.Helper()
	r.t.Logf("%s  at rest %s", r.clock(), when)
	eventually(r.t, "all tasks end", func() error {
		var open int
		if err := r.admin.QueryRow(r.soon(), `select count(*) from task_live`).Scan(&open); err != nil {
			return err
		}
		if open > 0 {
			return fmt.Errorf("%d are still there: %s", open, r.stuck())
		}
		return nil
	})
	// Connections that faults have left half open are given up one by one, and what they held. Of what still goes up and down, with
	// each look at the database for one, the least is what is kept.
	settled := map[string]soakReading{}
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for until := time.Now().Add(r.calm); time.Now().Before(until); <-look.C {
		for name := range r.processes {
			now, err := r.read(when, name)
			if err != nil {
				delete(settled, name) // it is starting still
				continue
			}
			if last, known := settled[name]; !known || now.goroutines <= last.goroutines {
				settled[name] = now
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.processes)) {
		if _, known := settled[name]; !known {
			r.t.Errorf("%s does not show its metrics %s", name, when)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(settled)) {
		r.reads = append(r.reads, settled[name])
	}
}

// stuck says of some tasks why they have not ended.
func (r *soak) stuck() string {
	rows, err := r.admin.Query(r.soon(), `select task_id::text from task_live order by seq limit 3`)
	if err != nil {
		return err.Error()
	}
	defer rows.Close()
	var said []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err.Error()
		}
		why, err := r.Explain(r.soon(), id)
		said = append(said, fmt.Sprintf("%s: %q %v", id, why.Summary, err))
	}
	if err := rows.Err(); err != nil {
		return err.Error()
	}
	return strings.Join(said, "; ")
}

func (r *soak) read(when, name string) (soakReading, error) {
	reading := soakReading{when: when, process: name, pid: r.processes[name].cmd.Process.Pid}
	request, err := http.NewRequestWithContext(r.soon(), http.MethodGet, "http://"+r.metrics[name]+"/metrics", nil)
	if err != nil {
		return reading, err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reading, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return reading, err
	}
	for metric, into := range map[string]*float64{
		"process_resident_memory_bytes": &reading.rss, "go_gc_heap_live_bytes": &reading.heap,
		"go_goroutines": &reading.goroutines, "process_open_fds": &reading.files,
	} {
		if *into, err = metricOf(string(text), metric); err != nil {
			return reading, err
		}
	}
	reading.rss, reading.heap = reading.rss/(1<<20), reading.heap/(1<<20)
	return reading, nil
}

// metricOf finds the value of a metric without labels.
func metricOf(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// judge says what is wrong.
func (r *soak) judge() {
	r.t.Helper()
	r.judgeUse()
	r.judgeLogs()
	stored := r.stored()
	acknowledged := r.acknowledged()
	for id := range acknowledged {
		if _, found := stored[id]; !found {
			r.t.Errorf("task %s was acknowledged and is gone", id)
		}
	}
	runs := r.runs()
	ended := map[string]int{}
	var tasks []record.Task
	for id, one := range stored {
		ended[string(one.State)]++
		t, known := acknowledged[id]
		if !known {
			// Some call brought it, and its caller was told nothing. It has no place that anybody can rely on.
			t = record.Task{ID: id, Exclusive: one.Exclusive, Shared: one.Shared, Returned: record.Never}
		}
		t.Runs, t.State, t.Final = runs[id], string(one.State), one.FinishedAt.Sub(r.epoch)
		t.Lost = one.State != task.Completed
		tasks = append(tasks, t)
		delete(runs, id)
		r.judgeTask(one, t)
	}
	for id := range runs {
		r.t.Errorf("task %s ran and is not stored", id)
	}
	slices.SortFunc(tasks, func(a, b record.Task) int { return strings.Compare(a.ID, b.ID) }) // the order of batches
	const slack = 5 * time.Millisecond                                                        // between two clocks
	for i := range tasks {
		tasks[i].Final += slack
	}
	violations := record.Check(tasks)
	for _, wrong := range violations {
		r.t.Errorf("VIOLATION %s; ran on %s and on %s", wrong, stored[wrong.Task].Executor, stored[wrong.Other].Executor)
	}
	r.t.Logf("seed %d: %d calls, %d tasks acknowledged, %d stored, which are %v; %d faults; %d violations; refused were %v",
		r.seed, r.calls, len(acknowledged), len(stored), ended, len(r.done), len(violations), r.refused)
}

// stored are all tasks that there are, which have ended.
func (r *soak) stored() map[string]client.Task {
	r.t.Helper()
	stored := map[string]client.Task{}
	for _, name := range []string{"soak.run", "soak.now"} {
		for one, err := range r.List(r.soon(), client.Filter{Name: name}) {
			if err != nil {
				r.t.Fatal(err)
			}
			if !one.Final() {
				r.t.Fatalf("task %s is %s and not in task_live", one.ID, one.State)
			}
			stored[one.ID] = one
		}
	}
	return stored
}

// judgeTask looks at how one task has ended.
func (r *soak) judgeTask(one client.Task, t record.Task) {
	r.t.Helper()
	switch one.State {
	case task.Completed:
	case task.Canceled:
		if !r.canceled[one.ID] {
			r.t.Errorf("task %s is canceled, and nobody asked for it: %v", one.ID, one.Error)
		}
	default:
		if why := r.explained(one); why == "" {
			r.t.Errorf("task %s on %s is %s from %s to %s, which no fault explains: %v",
				one.ID, one.Executor, one.State, r.since(one.StartedAt), r.since(one.FinishedAt), one.Error)
		}
	}
	for _, run := range t.Runs {
		if run.Ended != record.Never && run.Ended > t.Final+5*time.Millisecond {
			r.t.Errorf("VIOLATION task %s on %s, claim %d, lived %s after it had been declared %s: %v",
				one.ID, one.Executor, run.Claim, run.Ended-t.Final, one.State, one.Error)
		}
	}
}

func (r *soak) since(at *time.Time) string {
	if at == nil {
		return "never"
	}
	return at.Sub(r.epoch).String()
}

// soakCosts are the targets whose troubles can cost an executor its tasks: whatever is between it and a confirmed beat, and the
// executor itself. A scheduler is not among them.
func soakCosts(executor string) []string {
	costs := []string{executor, "heartbeat", "heartbeat>database", soakBackends}
	if executor == "executor-1" {
		return append(costs, "executor-1>gateway", "gateway")
	}
	return append(costs, executor+">heartbeat")
}

// explained names a fault that explains why a task has failed: it befell its executor, or what that needs to prove that it lives,
// while the task ran or so shortly before that its lease was not yet over.
func (r *soak) explained(one client.Task) string {
	if one.StartedAt == nil {
		return ""
	}
	const settles = 2*soakTTL + 5*time.Second
	costs := soakCosts(one.Executor)
	for _, f := range r.done {
		from, to := f.from.Sub(r.began), f.to.Sub(r.began)
		started, finished := one.StartedAt.Sub(r.epoch), one.FinishedAt.Sub(r.epoch)
		if slices.Contains(costs, f.Target) && finished >= from && started <= to+settles && finished <= to+settles {
			return f.String()
		}
	}
	return ""
}

// runs are what the tasks wrote, by task. A run that has no end has ended when it was last alive.
func (r *soak) runs() map[string][]record.Run {
	r.t.Helper()
	text, err := os.ReadFile(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	type key struct {
		task  string
		claim int64
	}
	all := map[key]*record.Run{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			r.t.Fatalf("a task wrote %q", line)
		}
		claim, err1 := strconv.ParseInt(fields[2], 10, 64)
		at, err2 := strconv.ParseInt(fields[3], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			r.t.Fatalf("a task wrote %q: %v", line, err)
		}
		k := key{fields[1], claim}
		run := all[k]
		if run == nil {
			run = &record.Run{Claim: claim, Started: record.Never, Ended: record.Never}
			all[k] = run
		}
		since := time.Duration(at - r.zero)
		if fields[0] == "start" {
			run.Started = min(run.Started, since)
		}
		if run.Ended == record.Never || since > run.Ended {
			run.Ended = since
		}
	}
	runs := map[string][]record.Run{}
	for k, run := range all {
		runs[k.task] = append(runs[k.task], *run)
	}
	return runs
}

// judgeUse compares what the processes used at rest.
func (r *soak) judgeUse() {
	r.t.Helper()
	first := map[string]soakReading{}
	for _, now := range r.reads {
		r.t.Logf("%-16s %-12s pid %-7d %6.1f MiB, heap %5.1f MiB, %4.0f goroutines, %3.0f files", now.when, now.process, now.pid, now.rss, now.heap, now.goroutines, now.files)
		before, known := first[now.process]
		if !known {
			first[now.process] = now
			continue
		}
		for _, c := range []struct {
			what              string
			before, now, more float64
		}{
			{"MiB of heap", before.heap, now.heap, moreHeap},
			{"MiB of memory", before.rss, now.rss, moreMemory},
			{"goroutines", before.goroutines, now.goroutines, moreGoroutines},
			{"open files", before.files, now.files, moreFiles},
		} {
			if c.more == moreMemory && os.Getenv("SLUICE_E2E_RACE") != "" {
				continue // the race detector keeps notes of its own about every word that was touched
			}
			if c.now > c.before+c.more {
				r.t.Errorf("%s has %.0f %s %s, and had %.0f at the beginning", now.process, c.now, c.what, now.when, c.before)
			}
		}
	}
}

// soakErrors are beginnings of messages of level ERROR that faults of the list explain.
var soakErrors = []string{
	"giving up all tasks: this life of the executor is over",
}

// judgeLogs looks at what the processes wrote.
func (r *soak) judgeLogs() {
	r.t.Helper()
	said := map[string]int{}
	for _, p := range r.lives {
		text := p.stderr()
		for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: "} {
			if at := strings.Index(text, bad); at >= 0 {
				r.t.Errorf("%s wrote\n%s", p.name, text[max(0, at-200):min(len(text), at+4000)])
			}
		}
		if p.ended() && !p.expected.Load() {
			r.t.Errorf("%s ended by itself: %v\n%s", p.name, p.cmd.ProcessState, text[max(0, len(text)-2000):])
		}
		for line := range strings.Lines(text) {
			var entry struct{ Level, Msg, Service, Error string }
			if json.Unmarshal([]byte(line), &entry) != nil || entry.Level != "ERROR" {
				continue
			}
			if slices.ContainsFunc(soakErrors, func(known string) bool { return strings.HasPrefix(entry.Msg, known) }) {
				continue
			}
			said[fmt.Sprintf("%s: %s: %s", cmp.Or(entry.Service, p.name), entry.Msg, entry.Error)]++
		}
	}
	for _, line := range slices.Sorted(maps.Keys(said)) {
		r.t.Logf("ERROR, %d times: %s", said[line], line)
	}
}

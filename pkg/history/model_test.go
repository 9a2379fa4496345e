package history_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/history"
)

// naive is the definition of the two promises between tasks, word for word: every pair is looked at.
func naive(tasks []history.Task) []string {
	found := map[string]bool{}
	for i, a := range tasks {
		for j, b := range tasks {
			if !conflict(a, b) {
				continue
			}
			for _, r := range a.Runs {
				for _, q := range b.Runs {
					if (i != j || r.Claim != q.Claim) && r.Started < q.Started && q.Started < r.Ended {
						found["overlap "+b.ID] = true
					}
				}
			}
			inFront := a.Returned < b.Called || a.Batch == b.Batch && i < j
			if i != j && inFront && len(b.Runs) > 0 && over(a) > first(b).Started {
				found["disorder "+b.ID] = true
			}
		}
	}
	var made []string
	for what := range found {
		made = append(made, what)
	}
	slices.Sort(made)
	return made
}

func conflict(a, b history.Task) bool {
	touch := func(names, others []string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(others, name) })
	}
	return touch(a.Exclusive, b.Exclusive) || touch(a.Exclusive, b.Shared) || touch(a.Shared, b.Exclusive)
}

func first(t history.Task) history.Run {
	return slices.MinFunc(t.Runs, func(a, b history.Run) int { return int(a.Started - b.Started) })
}

func over(t history.Task) time.Duration {
	switch {
	case len(t.Runs) > 0:
		return first(t).Ended
	case t.State == "canceled":
		return -history.Never
	default:
		return history.Never
	}
}

// clock makes times that are all different: their last three digits are.
type clock struct {
	*rapid.T
	last time.Duration
}

// after is a moment after another.
func (c *clock) after(at time.Duration) time.Duration {
	c.last++
	return (at/1000+1+time.Duration(rapid.IntRange(0, 4).Draw(c.T, "pause")))*1000 + c.last
}

// play makes a history without violations: tasks are dispatched by one caller, alone or in batches, and each starts when all
// that stand in front of it and conflict have ended.
func play(t *rapid.T) []history.Task {
	c := &clock{T: t}
	names := []string{"a", "b", "c", "d"}[:rapid.IntRange(1, 4).Draw(t, "resources")]
	var tasks []history.Task
	var called, returned time.Duration
	number := 0
	for i := range rapid.IntRange(1, 30).Draw(t, "tasks") {
		if number == 0 || rapid.Bool().Draw(t, "another call") {
			number++
			called = c.after(returned)
			returned = c.after(called)
		}
		one := history.Task{ID: fmt.Sprint("t", i), Called: called, Returned: returned, Batch: number}
		for _, name := range names {
			switch rapid.IntRange(0, 3).Draw(t, name) {
			case 0:
				one.Exclusive = append(one.Exclusive, name)
			case 1:
				one.Shared = append(one.Shared, name)
			}
		}
		if rapid.IntRange(0, 9).Draw(t, "canceled") == 0 {
			one.State, one.Final = "canceled", c.after(returned)
		} else {
			free := called
			for _, before := range tasks {
				if len(before.Runs) > 0 && conflict(before, one) {
					free = max(free, before.Runs[0].Ended)
				}
			}
			started := c.after(free)
			one.Runs = []history.Run{{Claim: 1, Started: started, Ended: c.after(started)}}
			one.State, one.Final = "completed", c.after(max(returned, one.Runs[0].Ended))
		}
		tasks = append(tasks, one)
	}
	return tasks
}

// spoil changes something about a task.
func spoil(t *rapid.T, one *history.Task) {
	shift := time.Duration(rapid.IntRange(-20, 20).Draw(t, "shift")) * 1000
	switch ran := len(one.Runs) > 0; {
	case !ran:
		one.State = ""
	default:
		switch r := &one.Runs[0]; rapid.IntRange(0, 4).Draw(t, "mutation") {
		case 0:
			r.Started, r.Ended = r.Started+shift, r.Ended+shift
		case 1:
			r.Ended += max(shift, -shift)
		case 2:
			r.Ended = history.Never
		case 3:
			one.Runs = nil
		case 4:
			late := shift + time.Duration(len(one.Runs))*50_000
			one.Runs = append(one.Runs, history.Run{Claim: int64(len(one.Runs) + 1), Started: r.Started + late, Ended: r.Ended + late})
		}
	}
}

func TestAValidHistoryHasNoViolations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if got := history.Check(play(t)); len(got) > 0 {
			t.Fatal(got)
		}
	})
}

func TestASpoiledHistoryHasTheViolationsThatTheDefinitionSays(t *testing.T) {
	spoiled := 0
	rapid.Check(t, func(t *rapid.T) {
		tasks := play(t)
		for range rapid.IntRange(1, 5).Draw(t, "mutations") {
			spoil(t, &tasks[rapid.IntRange(0, len(tasks)-1).Draw(t, "which")])
		}
		var got []string
		for _, v := range history.Check(tasks) {
			if v.Kind == history.Overlap || v.Kind == history.Disorder {
				got = append(got, string(v.Kind)+" "+v.Task)
			}
		}
		slices.Sort(got)
		want := naive(tasks)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		spoiled += len(want)
	})
	if spoiled == 0 {
		t.Error("no history was spoiled")
	}
}

// serial is n tasks that run one after the other: each shares a resource that all share and has one of 1,000 for itself.
func serial(n int) []history.Task {
	random := rand.New(rand.NewPCG(1, 2))
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint("resource ", i)
	}
	all := []string{"all"}
	tasks := make([]history.Task, n)
	for i := range tasks {
		at, k := time.Duration(10*i), random.IntN(len(names))
		tasks[i] = history.Task{
			ID: "t", Exclusive: names[k : k+1], Shared: all, Called: at, Returned: at + 1,
			Runs: []history.Run{{Claim: 1, Started: at + 2, Ended: at + 5}}, State: "completed", Final: at + 6,
		}
	}
	return tasks
}

// Quadratic, this would take days; the time limit of the tests is the assertion.
func TestAMillionTasksOnOneHotResource(t *testing.T) {
	tasks := serial(1_000_000)
	tasks[777_777].Exclusive, tasks[777_777].Shared = tasks[777_777].Shared, nil
	tasks[777_777].Runs[0].Ended += 10
	got := history.Check(tasks)
	if len(got) == 0 || got[0].Kind != history.Disorder || got[0].Resource != "all" {
		t.Errorf("got %v", got)
	}
}

func BenchmarkCheck(b *testing.B) {
	tasks := serial(1_000_000)
	for b.Loop() {
		history.Check(tasks)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(tasks)), "ns/task")
}

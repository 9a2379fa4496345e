package history_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/history"
)

// did is a task that was dispatched from called to returned, ran from started to ended, and was then seen as completed.
func did(id string, called, returned, started, ended time.Duration, exclusive, shared string) history.Task {
	return history.Task{
		ID: id, Exclusive: strings.Fields(exclusive), Shared: strings.Fields(shared), Called: called, Returned: returned,
		Runs: []history.Run{{Claim: 1, Started: started, Ended: ended}}, State: "completed", Final: max(returned, ended),
	}
}

// with changes a task.
func with(t history.Task, change func(*history.Task)) history.Task {
	change(&t)
	return t
}

func again(started, ended time.Duration) func(*history.Task) {
	return func(t *history.Task) { t.Runs = append(t.Runs, history.Run{Claim: 2, Started: started, Ended: ended}) }
}

// canceled is a task that ended without a run.
func canceled(t *history.Task) { t.Runs, t.State = nil, "canceled" }

// open is a task that nothing more was seen of after its dispatch.
func open(t *history.Task) { t.Runs, t.State, t.Final = nil, "", history.Never }

func batch(n int) func(*history.Task) { return func(t *history.Task) { t.Batch = n } }

// short names a violation and the tasks that it concerns: "overlap b a r".
func short(violations []history.Violation) []string {
	var made []string
	for _, v := range violations {
		made = append(made, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", v.Kind, v.Task, v.Other, v.Resource)))
	}
	return made
}

func TestCheckFindsWhatBreaksAPromiseAndNothingElse(t *testing.T) {
	const never = history.Never
	for _, c := range []struct {
		name  string
		tasks []history.Task
		want  []string
	}{
		{"nothing", nil, nil},
		{"one after the other", []history.Task{did("a", 0, 1, 2, 5, "r", ""), did("b", 2, 3, 5, 6, "r", "")}, nil},
		{"two exclusive overlap", []history.Task{did("a", 0, 3, 4, 7, "r", ""), did("b", 1, 2, 6, 9, "r", "")}, []string{"overlap b a r"}},
		{"the later one shares", []history.Task{did("a", 0, 3, 4, 7, "r", ""), did("b", 1, 2, 6, 9, "", "r")}, []string{"overlap b a r"}},
		{"the earlier one shares", []history.Task{did("a", 0, 3, 4, 7, "", "r"), did("b", 1, 2, 6, 9, "r", "")}, []string{"overlap b a r"}},
		{"both share", []history.Task{did("a", 0, 1, 4, 7, "", "r"), did("b", 2, 3, 6, 9, "", "r")}, nil},
		{"different resources", []history.Task{did("a", 0, 1, 4, 7, "r s", ""), did("b", 2, 3, 6, 9, "q", "p")}, nil},
		{"the second of two resources", []history.Task{did("a", 0, 3, 4, 7, "r s", ""), did("b", 1, 2, 6, 9, "q s", "p")}, []string{"overlap b a s"}},
		{"times that touch", []history.Task{did("a", 0, 3, 4, 6, "r", ""), did("b", 1, 2, 6, 9, "r", "")}, nil},
		{"no length, at the edge", []history.Task{did("a", 0, 3, 4, 6, "r", ""), did("b", 1, 2, 4, 4, "r", "")}, nil},
		{"no length, inside", []history.Task{did("a", 0, 3, 4, 6, "r", ""), did("b", 1, 2, 5, 5, "r", "")}, []string{"overlap b a r"}},
		{"a short one between", []history.Task{
			did("a", 0, 9, 10, 20, "r", ""), did("b", 1, 9, 30, 31, "r", ""), did("c", 2, 9, 15, 40, "", "r"),
		}, []string{"overlap c a r", "overlap b c r"}},
		{"a resource named twice", []history.Task{did("a", 0, 1, 2, 3, "r r", "r")}, nil},
		{"exclusive wins over shared", []history.Task{did("a", 0, 3, 4, 7, "r", "r"), did("b", 1, 2, 6, 9, "", "r")}, []string{"overlap b a r"}},

		{"overtaken", []history.Task{did("a", 0, 1, 7, 8, "r", ""), did("b", 2, 3, 4, 5, "r", "")}, []string{"disorder b a r"}},
		{"overtaken by one that shares", []history.Task{did("a", 0, 1, 7, 8, "r", ""), did("b", 2, 3, 4, 5, "", "r")}, []string{"disorder b a r"}},
		{"shared ones may overtake", []history.Task{did("a", 0, 1, 7, 8, "", "r"), did("b", 2, 3, 4, 5, "", "r")}, nil},
		{"not ended yet", []history.Task{did("a", 0, 1, 2, 6, "r", ""), did("b", 2, 3, 5, 7, "r", "")}, []string{"disorder b a r", "overlap b a r"}},
		{"calls that were under way together", []history.Task{did("a", 0, 2, 7, 8, "r", ""), did("b", 2, 3, 4, 5, "r", "")}, nil},
		{"never started", []history.Task{with(did("a", 0, 1, 0, 0, "r", ""), open), did("b", 2, 3, 4, 5, "r", "")}, []string{"disorder b a r", "never ran a"}},
		{"canceled before it started", []history.Task{with(did("a", 0, 1, 0, 0, "r", ""), canceled), did("b", 2, 3, 4, 5, "r", "")}, nil},
		{"no answer, no promise", []history.Task{
			with(did("a", 0, 1, 0, 0, "r", ""), func(t *history.Task) { open(t); t.Returned = never }), did("b", 2, 3, 4, 5, "r", ""),
		}, nil},
		{"an older one behind a newer one", []history.Task{
			did("a", 0, 1, 20, 21, "r", ""), did("b", 2, 3, 4, 5, "", "q"), did("c", 6, 7, 8, 9, "q r", ""),
		}, []string{"disorder c a r"}},
		{"a batch in order", []history.Task{with(did("a", 0, 1, 2, 3, "r", ""), batch(1)), with(did("b", 0, 1, 4, 5, "r", ""), batch(1))}, nil},
		{"a batch in disorder", []history.Task{with(did("a", 0, 1, 4, 5, "r", ""), batch(1)), with(did("b", 0, 1, 2, 3, "r", ""), batch(1))}, []string{"disorder b a r"}},
		{"two batches at once", []history.Task{with(did("a", 0, 1, 4, 5, "r", ""), batch(1)), with(did("b", 0, 1, 2, 3, "r", ""), batch(2))}, nil},

		{"twice", []history.Task{with(did("a", 0, 1, 2, 3, "r", ""), again(4, 5))}, []string{"twice a"}},
		{"twice at once", []history.Task{with(did("a", 0, 1, 2, 5, "r", ""), again(4, 6))}, []string{"overlap a a r", "twice a"}},
		{"never ran", []history.Task{with(did("a", 0, 1, 0, 0, "", ""), open)}, []string{"never ran a"}},
		{"completed without a run", []history.Task{with(did("a", 0, 1, 0, 0, "", ""), func(t *history.Task) { t.Runs = nil })}, []string{"never ran a"}},
		{"failed without a run", []history.Task{with(did("a", 0, 1, 0, 0, "", ""), func(t *history.Task) { t.Runs, t.State = nil, "failed" })}, nil},
		{"never ended", []history.Task{did("a", 0, 1, 2, never, "r", "")}, []string{"never ended a"}},
		{"never ended, and in the way", []history.Task{did("a", 0, 3, 4, never, "r", ""), did("b", 1, 2, 9, 10, "r", "")}, []string{"never ended a", "overlap b a r"}},
		{"ended, and no final state", []history.Task{with(did("a", 0, 1, 2, 3, "", ""), func(t *history.Task) { t.State = "" })}, []string{"never ended a"}},
		{"lost with its executor", []history.Task{
			with(did("a", 0, 1, 2, never, "r", ""), func(t *history.Task) { t.Lost, t.State = true, "failed" }), did("b", 2, 3, 4, 5, "r", ""),
		}, nil},
		{"lost, but it went on", []history.Task{
			with(did("a", 0, 3, 4, 9, "r", ""), func(t *history.Task) { t.Lost, t.State = true, "failed" }), did("b", 1, 2, 6, 7, "r", ""),
		}, []string{"overlap b a r"}},
		{"completed while it ran", []history.Task{with(did("a", 0, 1, 2, 5, "", ""), func(t *history.Task) { t.Final = 4 })}, []string{"early a"}},
		{"nobody dispatched it", []history.Task{{ID: "a", Called: never, Returned: never, Runs: []history.Run{{Started: 1, Ended: 2}}}}, []string{"unknown a"}},
		{"an end without a beginning", []history.Task{
			with(did("a", 0, 1, 2, 3, "", ""), func(t *history.Task) { t.Runs = append(t.Runs, history.Run{Started: never, Ended: 9}) }),
		}, []string{"unknown a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := short(history.Check(c.tasks))
			slices.Sort(got)
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			for _, v := range history.Check(c.tasks) {
				if said := v.String(); !strings.Contains(said, "task "+v.Task) || strings.HasSuffix(said, string(v.Kind)) && v.Other != "" {
					t.Errorf("a violation says %q", said)
				}
			}
		})
	}
}

func TestEveryKindHasASentence(t *testing.T) {
	for _, kind := range []history.Kind{
		history.Overlap, history.Disorder, history.Twice, history.NeverRan, history.NeverEnded, history.Early, history.Unknown,
	} {
		said := history.Violation{Kind: kind, Task: "a", Other: "b", Resource: "r", At: time.Second}.String()
		if strings.HasSuffix(said, ": "+string(kind)) || !strings.Contains(said, "1s") {
			t.Errorf("%q says %q", kind, said)
		}
	}
}

func TestEventsFromAFileBecomeTasks(t *testing.T) {
	const file = `
		{"event": "called", "at": 1, "call": 1}
		{"event": "started", "at": 2, "task": "a", "claim": 7}
		{"event": "returned", "at": 3, "call": 1, "task": "a", "exclusive": ["r"], "shared": ["s"]}
		{"event": "returned", "at": 3, "call": 1, "task": "b", "exclusive": ["q"]}
		{"event": "ended", "at": 4, "task": "a", "claim": 7}
		{"event": "final", "at": 5, "task": "a", "state": "completed"}
		{"event": "started", "at": 6, "task": "b", "claim": 8}
		{"event": "executor lost", "at": 9, "task": "b"}
		{"event": "final", "at": 9, "task": "b", "state": "failed"}
		{"event": "started", "at": 7, "task": "x", "claim": 9}
		{"event": "ended", "at": 8, "task": "x", "claim": 8}`
	events, err := history.Read(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	got := history.Gather(slices.Values(events))
	const never = history.Never
	want := []history.Task{
		{ID: "a", Exclusive: []string{"r"}, Shared: []string{"s"}, Called: 1, Returned: 3, Batch: 1, Runs: []history.Run{{7, 2, 4}}, State: "completed", Final: 5},
		{ID: "b", Exclusive: []string{"q"}, Called: 1, Returned: 3, Batch: 1, Runs: []history.Run{{8, 6, never}}, State: "failed", Final: 9, Lost: true},
		{ID: "x", Called: never, Returned: never, Runs: []history.Run{{9, 7, never}, {8, never, 8}}, Final: never},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"unknown x"}, short(history.Check(got))); diff != "" {
		t.Error(diff)
	}
}

func TestReadSaysWhichEventIsNoEvent(t *testing.T) {
	_, err := history.Read(strings.NewReader("{}\n{\"at\": \"noon\"}"))
	if err == nil || !strings.Contains(err.Error(), "event 2") {
		t.Errorf("got %v", err)
	}
}

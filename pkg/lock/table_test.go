package lock_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/lock"
)

// script is a story in short words, one step each:
//
//	"1 +A -B"     admit task 1, exclusive A, shared B; it is blocked
//	"1 +A -B !"   the same; it is unblocked at once
//	"x1"          release task 1; nothing is unblocked
//	"x1: 2 3"     release task 1; this unblocks 2 and 3, in this order
func play(t *testing.T, table *lock.Table, script ...string) {
	t.Helper()
	for _, step := range script {
		if rest, ok := strings.CutPrefix(step, "x"); ok {
			seq, want, _ := strings.Cut(rest, ":")
			got := table.Release(number(t, seq), "")
			if got := strings.Trim(fmt.Sprint(got), "[]"); got != strings.TrimSpace(want) {
				t.Fatalf("%s: unblocked %q", step, got)
			}
		} else {
			var exclusive, shared []string
			words := strings.Fields(step)
			for _, word := range words[1:] {
				if name, ok := strings.CutPrefix(word, "+"); ok {
					exclusive = append(exclusive, name)
				} else if name, ok := strings.CutPrefix(word, "-"); ok {
					shared = append(shared, name)
				}
			}
			want := words[len(words)-1] == "!"
			if got := table.Admit(number(t, words[0]), exclusive, shared); got != want {
				t.Fatalf("%s: unblocked = %v", step, got)
			}
		}
		if err := table.Check(); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
}

func number(t *testing.T, s string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatalf("read the seq in %q: %v", s, err)
	}
	return n
}

func TestStories(t *testing.T) {
	for name, script := range map[string][]string{
		"a task that names nothing runs":             {"1 !", "x1"},
		"unrelated tasks pass":                       {"1 +A !", "2 +A", "3 +B !", "x3", "x1: 2", "x2"},
		"exclusive excludes exclusive":               {"1 +A !", "2 +A", "3 +A", "x1: 2", "x2: 3", "x3"},
		"exclusive excludes shared":                  {"1 +A !", "2 -A", "x1: 2", "x2"},
		"shared excludes exclusive":                  {"1 -A !", "2 +A", "x1: 2", "x2"},
		"shared runs beside shared":                  {"1 -A !", "2 -A !", "x2", "x1"},
		"the last of several shared holders frees":   {"1 -A !", "2 -A !", "3 -A !", "4 +A", "x2", "x1", "x3: 4", "x4"},
		"shared does not overtake a waiting writer":  {"1 -A !", "2 +A", "3 -A", "x1: 2", "x2: 3", "x3"},
		"a run of shared is granted up to a writer":  {"1 +A !", "2 -A", "3 -A", "4 +A", "5 -A", "x1: 2 3", "x2", "x3: 4", "x4: 5", "x5"},
		"a canceled writer lets shared through":      {"1 -A !", "2 +A", "3 -A", "4 -A", "5 +A", "6 -A", "x2: 3 4", "x1", "x3", "x4: 5", "x5: 6", "x6"},
		"a canceled writer behind a writer does not": {"1 +A !", "2 +A", "3 -A", "x2", "x1: 3", "x3"},
		"a canceled writer behind another does not":  {"1 -A !", "2 +A", "3 +A", "4 -A", "x3", "x2: 4", "x1", "x4"},
		"a canceled shared waiter changes nothing":   {"1 +A !", "2 -A", "3 -A", "x2", "x1: 3", "x3"},
		"the last in line is canceled":               {"1 +A !", "2 +A", "x2", "3 +A", "x1: 3", "x3"},
		"all is canceled from the end":               {"1 +A !", "2 -A", "3 +A", "x3", "x2", "x1"},
		"a task waits for all its resources":         {"1 +A !", "2 +B !", "3 +A +B", "x1", "x2: 3", "x3"},
		"a task that waits for A keeps B":            {"1 +A !", "2 +A +B", "3 +B", "4 -B", "x1: 2", "x2: 3", "x3: 4", "x4"},
		"a canceled waiter gives B back":             {"1 +A !", "2 +A +B", "3 +B", "x2: 3", "x3", "x1"},
		"a ring of wishes does not lock up":          {"1 +A +B !", "2 +B +C", "3 +C +A", "x1: 2", "x2: 3", "x3"},
		"exclusive wins over shared":                 {"1 +A -A !", "2 -A", "x1: 2", "3 -A +A", "x2: 3", "x3"},
		"a name given twice counts once":             {"1 +A +A -A -A !", "2 -A -A", "3 -B -B +B !", "4 -B", "x3: 4", "x4", "x1: 2", "x2"},
		"a name given twice waits once":              {"1 +A !", "2 +B +A +B +A -B -A", "x1: 2", "x2"},
		"names are compared exactly":                 {"1 +a !", "2 +A !", "3 +shared:A !", "x1", "x2", "x3"},
		"released tasks come by order of admission":  {"1 +A +B +C !", "2 -C", "3 -B", "4 -A", "5 -C", "x1: 2 3 4 5"},
		"the order is of admission, not of seq":      {"9 +A +B !", "8 -B", "5 -A", "7 -A", "x9: 8 5 7", "6 +A", "4 +B", "x5", "x7: 6", "x8: 4"},
		"an unknown task is released without effect": {"1 +A !", "x7", "x1", "x1", "1 +A !", "x1"},
		"a seq may come again after its release":     {"1 +A !", "2 +A", "x2", "2 +A", "x1: 2", "1 +A", "x2: 1", "x1"},

		"a domain is stopped and goes on": {
			"1 +A -domain !", "2 +B -domain !", "3 +domain", "4 +C -domain", "5 -domain",
			"x1", "x2: 3", "x3: 4 5", "x4", "x5",
		},
		"a domain is stopped, and the stop is canceled": {
			"1 +A -domain !", "2 +domain", "3 +A -domain", "4 +B -domain", "x2: 4", "x1: 3", "x3", "x4",
		},

		// Acceptance cases of Pulp, by the names of its tests.
		"multi resource locking": {
			"1 +A -B !", "2 -A", "3 -A", "4 +A", "5 +B", "x1: 2 3 5", "x2", "x3: 4", "x4", "x5",
		},
		"finalizer runs after all siblings": {
			"1 +other !", "2 +other -group", "3 -group !", "4 +group", "x3", "x1: 2", "x2: 4", "x4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			table := lock.New()
			play(t, table, script...)
			for seq := range int64(10) {
				table.Release(seq, "")
			}
			if table.Len() != 0 || table.Resources() != 0 || table.Blocked() != 0 {
				t.Errorf("left over: %d tasks, %d blocked, %d resources", table.Len(), table.Blocked(), table.Resources())
			}
		})
	}
}

// The figure by which workers are scaled: how many tasks could run at the same time. Pulp counts the running ones in.
func TestLenMinusBlockedIsWhatCouldRunAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		script []string
		want   int
	}{
		"resource contention": {[]string{
			"1 +A !", "2 +A", "3 +A", "4 +A", "5 +A", "6 +A", "7 -A", "8 -A", "9 -A", "10 -A", "11 -A",
		}, 1},
		"two exclusive lanes":                {[]string{"1 +A !", "2 +B !", "3 +A", "4 +B", "5 +A"}, 2},
		"shared resources can run together":  {[]string{"1 -A !", "2 -A !", "3 -A !", "4 -A !"}, 4},
		"fifo blocks indirect resources":     {[]string{"1 +A +B !", "2 +B +C", "3 +C"}, 1},
		"nothing is counted when none waits": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			table := lock.New()
			play(t, table, test.script...)
			if got := table.Len() - table.Blocked(); got != test.want {
				t.Errorf("%d tasks could run at once, want %d", got, test.want)
			}
		})
	}
}

// A row of a small seq may become visible after a larger one was unblocked. Rebuilding by seq alone would unblock both.
func TestWhyARebuildTakesTheUnblockedFirst(t *testing.T) {
	play(t, lock.New(), "6 +A !", "5 +A", "7 +A") // the table that was lost: 5 came late
	play(t, lock.New(), "6 +A !", "5 +A", "7 +A", "x6: 5", "x5: 7")
	play(t, lock.New(), "5 +A !", "6 +A") // what seq order alone would do, while 6 is running
}

func TestAdmitPanicsOnATaskThatIsInTheTable(t *testing.T) {
	table := lock.New()
	play(t, table, "1 +A !", "2 +A")
	defer func() {
		if recover() == nil {
			t.Error("the second Admit of task 2 did not panic")
		}
		play(t, table, "x1: 2", "x2") // and the table is as it was
	}()
	table.Admit(2, []string{"B"}, nil)
}

func TestHasAndUnblocked(t *testing.T) {
	table := lock.New()
	play(t, table, "1 +A !", "2 +A")
	for _, test := range []struct {
		seq            int64
		has, unblocked bool
	}{{1, true, true}, {2, true, false}, {3, false, false}} {
		if has, unblocked := table.Has(test.seq), table.Unblocked(test.seq); has != test.has || unblocked != test.unblocked {
			t.Errorf("task %d: has %v, unblocked %v; want %v, %v", test.seq, has, unblocked, test.has, test.unblocked)
		}
	}
}

func TestAdmitKeepsNeitherSlice(t *testing.T) {
	table := lock.New()
	names := []string{"A", "B"}
	table.Admit(1, names[:1], names[1:])
	slices.Reverse(names)
	play(t, table, "2 -B !", "3 -A", "x1: 3")
}

func TestEmptyTableGivesALargeBacklogsMemoryBack(t *testing.T) {
	table := lock.New()
	const n = lock.ShrinkAbove + 1
	for seq := range int64(n) {
		table.Admit(seq, []string{"A"}, nil)
	}
	for seq := range int64(n) {
		if table.Peak() != n {
			t.Fatalf("peak is %d with %d tasks left", table.Peak(), table.Len())
		}
		table.Release(seq, "")
	}
	if table.Peak() != 0 {
		t.Errorf("peak is %d in the empty table: its maps were kept", table.Peak())
	}
	play(t, table, "1 +A !", "2 +A", "x1: 2", "x2") // and it goes on
}

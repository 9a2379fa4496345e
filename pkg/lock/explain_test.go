package lock_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/lock"
)

// busy is a table with something of everything:
//
//	A   1 shared  2 shared  3 shared  |  4 exclusive  5 shared  6 shared  7 exclusive
//	B   4 exclusive                   |  6 exclusive
//	C   8 exclusive
func busy(t *testing.T) *lock.Table {
	table := lock.New()
	play(t, table, "1 -A !", "2 -A !", "3 -A !", "4 +A +B", "5 -A", "6 -A +B", "7 +A", "8 +C !")
	return table
}

func TestExplainNamesWhatATaskWaitsFor(t *testing.T) {
	table := busy(t)
	for seq, want := range map[int64][]lock.Wait{
		1: nil, // unblocked
		9: nil, // unknown
		4: {{Resource: "A", Mode: lock.Exclusive, Holders: []int64{1, 2}, HolderCount: 3, Ahead: 3}},
		5: {{Resource: "A", Mode: lock.Shared, Holders: []int64{1, 2}, HolderCount: 3, Ahead: 4}},
		6: {
			{Resource: "B", Mode: lock.Exclusive, Held: lock.Exclusive, Holders: []int64{4}, HolderCount: 1, Ahead: 1},
			{Resource: "A", Mode: lock.Shared, Holders: []int64{1, 2}, HolderCount: 3, Ahead: 4}, // 5 goes with it
		},
		7: {{Resource: "A", Mode: lock.Exclusive, Holders: []int64{1, 2}, HolderCount: 3, Ahead: 6}},
	} {
		if diff := gocmp.Diff(want, table.Explain(seq, 2)); diff != "" {
			t.Errorf("explain %d: -want +got\n%s", seq, diff)
		}
	}
	for _, limit := range []int{0, -1} {
		if got := table.Explain(4, limit); len(got) != 1 || got[0].Holders != nil || got[0].HolderCount != 3 {
			t.Errorf("explain 4 with limit %d: %+v", limit, got)
		}
	}
}

func TestExplainStopsCountingInALongQueue(t *testing.T) {
	table := lock.New()
	table.Admit(0, []string{"A", "B"}, nil)
	for seq := range int64(lock.WalkLimit) {
		table.Admit(1+seq, []string{"A"}, nil)
	}
	const last, beyond = lock.WalkLimit + 1, lock.WalkLimit + 2
	table.Admit(last, []string{"A", "B"}, nil)
	table.Admit(beyond, []string{"A"}, nil)

	// The count of A uses up all steps, and that of B needs none.
	want := []lock.Wait{
		{Resource: "A", Mode: lock.Exclusive, Held: lock.Exclusive, HolderCount: 1, Ahead: 1 + lock.WalkLimit},
		{Resource: "B", Mode: lock.Exclusive, Held: lock.Exclusive, HolderCount: 1, Ahead: 1},
	}
	if diff := gocmp.Diff(want, table.Explain(last, 0)); diff != "" {
		t.Errorf("as far as it counts: -want +got\n%s", diff)
	}
	want = want[:1]
	want[0].AtLeast = true // one short of the truth, and it says so
	if diff := gocmp.Diff(want, table.Explain(beyond, 0)); diff != "" {
		t.Errorf("one too far: -want +got\n%s", diff)
	}
}

func TestResourceShowsItsQueue(t *testing.T) {
	table := busy(t)
	for _, test := range []struct {
		name  string
		limit int
		want  lock.Resource
	}{
		{"A", 9, lock.Resource{
			Name: "A", Held: lock.Shared, Holders: []int64{1, 2, 3}, HolderCount: 3,
			Waiters: []lock.Request{{4, lock.Exclusive}, {5, lock.Shared}, {6, lock.Shared}, {7, lock.Exclusive}}, WaiterCount: 4,
		}},
		{"A", 1, lock.Resource{
			Name: "A", Held: lock.Shared, Holders: []int64{1}, HolderCount: 3,
			Waiters: []lock.Request{{4, lock.Exclusive}}, WaiterCount: 4,
		}},
		{"A", -1, lock.Resource{Name: "A", HolderCount: 3, WaiterCount: 4}},
		{"C", 9, lock.Resource{Name: "C", Held: lock.Exclusive, Holders: []int64{8}, HolderCount: 1}},
	} {
		got, ok := table.Resource(test.name, test.limit)
		if diff := gocmp.Diff(test.want, got); !ok || diff != "" {
			t.Errorf("resource %s, limit %d: ok %v, -want +got\n%s", test.name, test.limit, ok, diff)
		}
	}
	table.Release(8)
	if got, ok := table.Resource("C", 9); ok {
		t.Errorf("resource C is still there after its last task: %+v", got)
	}
}

func TestBusiestListsByWaitersThenName(t *testing.T) {
	table := busy(t)
	if got := fmt.Sprint(names(table.Busiest(9))); got != "[A B C]" {
		t.Errorf("busiest of all: %s", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		waiters := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 30).Draw(t, "waiters")
		limit := rapid.IntRange(-1, 31).Draw(t, "limit")
		table, next := lock.New(), rising()
		var want []lock.Resource
		for i, n := range waiters {
			name := fmt.Sprintf("r%02d", i)
			for range n + 1 {
				table.Admit(next(), []string{name}, nil)
			}
			want = append(want, lock.Resource{Name: name, Held: lock.Exclusive, HolderCount: 1, WaiterCount: n})
		}
		slices.SortStableFunc(want, func(a, b lock.Resource) int { return cmp.Compare(b.WaiterCount, a.WaiterCount) })
		want = want[:max(0, min(limit, len(want)))]
		got := table.Busiest(limit)
		if diff := gocmp.Diff(names(want), names(got)); diff != "" {
			t.Fatalf("limit %d: -want +got\n%s", limit, diff)
		}
		for i := range want {
			if diff := gocmp.Diff(want[i], got[i]); diff != "" {
				t.Fatalf("-want +got\n%s", diff)
			}
		}
	})
}

func names(list []lock.Resource) (names []string) {
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names
}

func ExampleTable() {
	t := lock.New()
	t.Admit(1, []string{"A"}, []string{"B"})
	t.Admit(2, nil, []string{"A"})
	t.Admit(3, nil, []string{"A"})
	t.Admit(4, []string{"A"}, nil)
	t.Admit(5, []string{"B"}, nil)

	for _, w := range t.Explain(4, 10) {
		fmt.Printf("4 wants %s %s: %s holders %v, %d ahead\n", w.Resource, w.Mode, w.Held, w.Holders, w.Ahead)
	}
	fmt.Println("1 ends:", t.Release(1))
	fmt.Println("2 ends:", t.Release(2))
	fmt.Println("3 ends:", t.Release(3))
	// Output:
	// 4 wants A exclusive: exclusive holders [1], 3 ahead
	// 1 ends: [2 3 5]
	// 2 ends: []
	// 3 ends: [4]
}

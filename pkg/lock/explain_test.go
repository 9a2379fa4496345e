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
//
// Each was admitted at ten times its number.
func busy(t *testing.T) *lock.Table {
	table := lock.New()
	for i, line := range []string{"1 -A !", "2 -A !", "3 -A !", "4 +A +B", "5 -A", "6 -A +B", "7 +A", "8 +C !"} {
		play(t, table.At(int64(10*(i+1))), line)
	}
	return table.At(100)
}

func shared(seqs ...int64) []lock.Request    { return requests(lock.Shared, seqs) }
func exclusive(seqs ...int64) []lock.Request { return requests(lock.Exclusive, seqs) }

func requests(mode lock.Mode, seqs []int64) (list []lock.Request) {
	for _, seq := range seqs {
		list = append(list, lock.Request{Seq: seq, Mode: mode, Since: 10 * seq})
	}
	return list
}

func TestExplainNamesWhatATaskWaitsFor(t *testing.T) {
	table := busy(t)
	for seq, want := range map[int64][]lock.Wait{
		1: nil, // unblocked
		9: nil, // unknown
		4: {{Resource: "A", Mode: lock.Exclusive, Holders: shared(1, 2), HolderCount: 3, Ahead: 3}},
		5: {{Resource: "A", Mode: lock.Shared, Holders: shared(1, 2), HolderCount: 3, Ahead: 4, Waiters: exclusive(4)}},
		6: {
			{Resource: "B", Mode: lock.Exclusive, Held: lock.Exclusive, Holders: exclusive(4), HolderCount: 1, Ahead: 1},
			{Resource: "A", Mode: lock.Shared, Holders: shared(1, 2), HolderCount: 3, Ahead: 4, Waiters: exclusive(4)}, // 5 goes with it
		},
		7: {{Resource: "A", Mode: lock.Exclusive, Holders: shared(1, 2), HolderCount: 3, Ahead: 6, Waiters: append(exclusive(4), shared(5)...)}},
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

func TestTheChainGoesDownToWhoIsNotBlocked(t *testing.T) {
	table := busy(t)
	play(t, table.At(90), "9 +B +C")
	link := func(resource string, r []lock.Request, granted, blocked bool) lock.Link {
		return lock.Link{Resource: resource, Request: r[0], Granted: granted, Blocked: blocked}
	}
	head := link("A", shared(1), true, false)
	for seq, want := range map[int64][]lock.Link{
		1:  nil,
		4:  {head},
		5:  {link("A", exclusive(4), false, true), head}, // the holders would not mind it, the one between them does
		9:  {link("B", exclusive(4), true, true), head},  // which has had B for longer than 8 has C
		77: nil,
	} {
		if diff := gocmp.Diff(want, table.Chain(seq, 9)); diff != "" {
			t.Errorf("chain of %d: -want +got\n%s", seq, diff)
		}
	}
	if got := table.Chain(9, 1); len(got) != 1 {
		t.Errorf("limited to one: %+v", got)
	}
}

func TestTheBlockerIsWhoWasWaitedForLongest(t *testing.T) {
	table := lock.New()
	at := func(now int64, lines ...string) { play(t, table.At(now), lines...) }
	release := func(now, seq int64) { table.At(now).Release(seq, fmt.Sprintf("task %d", seq)) }
	at(0, "1 +A !")
	at(10, "2 +A", "3 +B !")
	at(60, "4 +A +B")
	release(100, 1)
	release(130, 3)
	release(145, 2)
	for seq, want := range map[int64]*lock.Hold{
		2: nil,                                                        // gone
		3: nil,                                                        // did not wait
		4: {Seq: 3, Name: "task 3", Resource: "B", From: 10, To: 130}, // 70 of it, to 40 of the first one and 45 of the second
	} {
		if diff := gocmp.Diff(want, table.Blocker(seq)); diff != "" {
			t.Errorf("blocker of %d: -want +got\n%s", seq, diff)
		}
	}
}

func TestWhoWasLetThroughByACancelHasWaitedForTheHolder(t *testing.T) {
	table := lock.New()
	play(t, table.At(0), "1 -A !")
	play(t, table.At(5), "2 +A", "3 -A")
	table.At(25).Release(2, "canceled")
	if diff := gocmp.Diff(&lock.Hold{Seq: 1, Resource: "A", To: 25}, table.Blocker(3)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// What is kept of a queue is bounded however many holds end, and with it whom they blame is about right.
func TestAQueueForgetsHoldsThatHardlyMatter(t *testing.T) {
	table := lock.New()
	const n = 1000
	length := func(i int64) int64 { return 10 * (n - i) } // each is shorter than the one before it
	now, began := int64(0), map[int64]int64{}
	for i := range int64(n) {
		table.At(0).Admit(i, []string{"A"}, nil)
	}
	table.Admit(n, []string{"A"}, nil)
	for i := range int64(n) {
		began[i] = now
		if i == n/2 {
			table.At(now).Admit(n+1, []string{"A"}, nil)
		}
		now += length(i)
		table.At(now).Release(i, "")
		if err := table.Check(); err != nil {
			t.Fatal(err)
		}
	}
	if got := table.Blocker(n); got.To-got.From < length(0)/2 {
		t.Errorf("the last one has waited for %+v, %d long; want about %d", got, got.To-got.From, length(0))
	}
	table.At(now).Release(n, "")
	if got := table.Blocker(n + 1); got.From < began[n/2] || got.To-got.From < length(n/2)/2 {
		t.Errorf("who came in the middle has waited for %+v, %d long; want about %d", got, got.To-got.From, length(n/2))
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
			Name: "A", Held: lock.Shared, Holders: shared(1, 2, 3), HolderCount: 3,
			Waiters: slices.Concat(exclusive(4), shared(5, 6), exclusive(7)), WaiterCount: 4, HeldSince: 10, WaitingSince: 40,
		}},
		{"A", 1, lock.Resource{
			Name: "A", Held: lock.Shared, Holders: shared(1), HolderCount: 3, Waiters: exclusive(4), WaiterCount: 4, HeldSince: 10, WaitingSince: 40,
		}},
		{"A", -1, lock.Resource{Name: "A", HolderCount: 3, WaiterCount: 4, HeldSince: 10, WaitingSince: 40}},
		{"C", 9, lock.Resource{Name: "C", Held: lock.Exclusive, Holders: exclusive(8), HolderCount: 1, HeldSince: 80}},
	} {
		got, ok := table.Resource(test.name, test.limit)
		if diff := gocmp.Diff(test.want, got); !ok || diff != "" {
			t.Errorf("resource %s, limit %d: ok %v, -want +got\n%s", test.name, test.limit, ok, diff)
		}
	}
	table.Release(8, "")
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
		fmt.Printf("4 wants %s %s: %s holder %d, %d ahead\n", w.Resource, w.Mode, w.Held, w.Holders[0].Seq, w.Ahead)
	}
	fmt.Println("1 ends:", t.Release(1, ""))
	fmt.Println("2 ends:", t.Release(2, ""))
	fmt.Println("3 ends:", t.Release(3, ""))
	// Output:
	// 4 wants A exclusive: exclusive holder 1, 3 ahead
	// 1 ends: [2 3 5]
	// 2 ends: []
	// 3 ends: [4]
}

package lock_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/lock"
)

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// job is a task as the test knows it: the lists exactly as they were handed to Admit, and what they mean.
type job struct {
	seq               int64
	exclusive, shared []string
	modes             map[string]lock.Mode
	at                int64            // when it was admitted
	granted           map[string]int64 // when it was granted what
	waited            int64            // longest time that it waited for one hold
}

func newJob(seq int64, exclusive, shared []string) job {
	modes := map[string]lock.Mode{}
	for _, name := range shared {
		modes[name] = lock.Shared
	}
	for _, name := range exclusive {
		modes[name] = lock.Exclusive
	}
	return job{seq: seq, exclusive: exclusive, shared: shared, modes: modes}
}

// conflictsOn is the definition of a conflict over one resource.
func conflictsOn(name string, a, b job) bool {
	am, an := a.modes[name]
	bm, bn := b.modes[name]
	return an && bn && (am == lock.Exclusive || bm == lock.Exclusive)
}

func conflict(a, b job) bool {
	for name := range a.modes {
		if conflictsOn(name, a, b) {
			return true
		}
	}
	return false
}

// twin drives a table and the reference side by side and compares them after every step.
type twin struct {
	tester
	table *lock.Table
	scan  scan
	live  []job // in order of admission
	now   int64
	pace  func() int64 // time between two steps
	ended []lock.Hold
}

func newTwin(t tester) *twin {
	return &twin{tester: t, table: lock.New(), pace: func() int64 { return 1 }}
}

func (w *twin) admit(j job) {
	w.Helper()
	w.now += w.pace()
	j.at, j.granted, j.waited = w.now, map[string]int64{}, 0 // of this twin
	got := w.table.At(w.now).Admit(j.seq, j.exclusive, j.shared)
	w.live = append(w.live, j)
	w.grant()
	w.scan.admit(j.seq, j.exclusive, j.shared)
	want := w.scan.unblock()
	if got != slices.Contains(want, j.seq) || len(want) > 1 {
		w.Fatalf("admit %+v: unblocked = %v, the scan unblocks %v", j, got, want)
	}
	w.check()
}

// release finishes an unblocked task or cancels any.
func (w *twin) release(seq int64) {
	w.Helper()
	w.now += w.pace()
	got := w.table.At(w.now).Release(seq, "name")
	w.live = slices.DeleteFunc(w.live, func(j job) bool {
		if j.seq == seq {
			for name, from := range j.granted {
				w.ended = append(w.ended, lock.Hold{Seq: seq, Name: "name", Resource: name, From: from, To: w.now})
			}
		}
		return j.seq == seq
	})
	w.grant()
	w.scan.release(seq)
	// Equal as lists: the scan goes from the oldest to the youngest and names each task once, and so must Release.
	if want := w.scan.unblock(); !slices.Equal(got, want) {
		w.Fatalf("release %d: unblocks %v, the scan %v", seq, got, want)
	}
	w.check()
}

// grant notes what the last step granted, and what whoever waited for it has waited for.
func (w *twin) grant() {
	for i := range w.live {
		j := &w.live[i]
		for name := range j.modes {
			older := slices.ContainsFunc(w.live[:i], func(o job) bool { return conflictsOn(name, o, *j) })
			if _, already := j.granted[name]; already || older {
				continue
			}
			j.granted[name] = w.now
			for _, hold := range w.holds(name, j.seq) {
				j.waited = max(j.waited, hold.To-max(hold.From, j.at))
			}
		}
	}
}

// holds lists who had a resource before now, or has it.
func (w *twin) holds(name string, besides int64) (holds []lock.Hold) {
	for _, hold := range w.ended {
		if hold.Resource == name {
			holds = append(holds, hold)
		}
	}
	for _, j := range w.live {
		if from, granted := j.granted[name]; granted && j.seq != besides {
			holds = append(holds, lock.Hold{Seq: j.seq, Resource: name, From: from, To: w.now})
		}
	}
	return holds
}

// blockers compares what the table says that each task waited for. A hold that ties with another may be named in its place.
func (w *twin) blockers() {
	w.Helper()
	for _, j := range w.live {
		got := w.table.Blocker(j.seq)
		if got == nil {
			if j.waited > 0 {
				w.Fatalf("nobody is named as the blocker of %+v", j)
			}
			continue
		}
		known := slices.ContainsFunc(w.ended, func(h lock.Hold) bool { return h == *got })
		if got.Name == "" {
			known = slices.ContainsFunc(w.live, func(o job) bool { return o.seq == got.Seq }) || slices.ContainsFunc(w.ended, func(h lock.Hold) bool {
				return h.Seq == got.Seq && h.Resource == got.Resource && h.From == got.From // it has been released since
			})
		}
		if !known {
			w.Fatalf("the blocker of %+v is %+v, which held nothing then", j, *got)
		}
		waited := got.To - max(got.From, j.at)
		if waited > j.waited || waited <= 0 || waited < j.waited && len(w.ended) <= lock.MaxPast {
			w.Fatalf("task %+v waited for %+v for %d, want %d", j, *got, waited, j.waited)
		}
	}
}

// drain releases unblocked tasks until none is left; pick chooses among n.
func (w *twin) drain(pick func(n int) int) {
	w.Helper()
	for len(w.live) > 0 {
		runnable := w.seqs(true)
		if len(runnable) == 0 {
			w.Fatalf("stuck: no task of %+v is unblocked", w.live)
		}
		w.release(runnable[pick(len(runnable))])
	}
}

// seqs returns the live tasks which are unblocked, or those which are not, in order of admission.
func (w *twin) seqs(unblocked bool) (seqs []int64) {
	for _, j := range w.live {
		if w.table.Unblocked(j.seq) == unblocked {
			seqs = append(seqs, j.seq)
		}
	}
	return seqs
}

// check holds the table against the rule itself, pair by pair, and against its own structure.
func (w *twin) check() {
	w.Helper()
	blocked := 0
	names := map[string]bool{}
	for i, j := range w.live {
		for name := range j.modes {
			names[name] = true
		}
		older := slices.IndexFunc(w.live[:i], func(o job) bool { return conflict(o, j) })
		if older >= 0 {
			blocked++
		}
		switch unblocked := w.table.Unblocked(j.seq); {
		case unblocked && older >= 0:
			w.Fatalf("task %+v is unblocked beside or before %+v, which is older and conflicts", j, w.live[older])
		case !unblocked && older < 0:
			w.Fatalf("task %+v is blocked, but nothing older conflicts", j)
		}
	}
	if w.table.Len() != len(w.live) || w.table.Blocked() != blocked || w.table.Resources() != len(names) {
		w.Fatalf("len %d, blocked %d, resources %d; want %d, %d, %d",
			w.table.Len(), w.table.Blocked(), w.table.Resources(), len(w.live), blocked, len(names))
	}
	if err := w.table.Check(); err != nil {
		w.Fatalf("structure: %v", err)
	}
	w.blockers()
}

// explain compares what the table says about the i-th live task. It is a step of its own, and not part of every check,
// because it would take most of the time.
func (w *twin) explain(i int) {
	w.Helper()
	got := w.table.Explain(w.live[i].seq, len(w.live))
	byResource := func(a, b lock.Wait) bool { return a.Resource < b.Resource }
	if diff := gocmp.Diff(w.waits(i), got, cmpopts.SortSlices(byResource), cmpopts.EquateEmpty()); diff != "" {
		w.Fatalf("explain %+v: -want +got\n%s", w.live[i], diff)
	}
	w.chain(i)
}

// chain checks that each link of what the table says is in the way of the one before it, none more so, and that the last is in
// nobody's.
func (w *twin) chain(i int) {
	w.Helper()
	chain := w.table.Chain(w.live[i].seq, len(w.live))
	for _, link := range chain {
		first := int64(-1)
		for name := range w.live[i].modes {
			if since, waits := w.oldestInTheWay(name, i); waits && (first < 0 || since < first) {
				first = since
			}
		}
		next := slices.IndexFunc(w.live, func(o job) bool { return o.seq == link.Seq })
		if next < 0 || next >= i || !conflictsOn(link.Resource, w.live[next], w.live[i]) || link.Mode != w.live[next].modes[link.Resource] {
			w.Fatalf("task %+v waits for %+v, which is not in its way", w.live[i], link)
		}
		granted, holds := w.live[next].granted[link.Resource]
		if holds != link.Granted || holds && granted != link.Since || link.Blocked == w.table.Unblocked(link.Seq) || link.Since != first {
			w.Fatalf("task %+v waits for %+v, which is %+v; want one since %d", w.live[i], link, w.live[next], first)
		}
		i = next
	}
	if !w.table.Unblocked(w.live[i].seq) {
		w.Fatalf("the chain %+v ends at task %+v, which is blocked", chain, w.live[i])
	}
}

// oldestInTheWay is since when the oldest holder that conflicts with the i-th live task has a resource that it lacks; if none does, since
// when the first one waits that does.
func (w *twin) oldestInTheWay(name string, i int) (since int64, waits bool) {
	if _, has := w.live[i].granted[name]; has {
		return 0, false
	}
	var waiter *job
	for n, o := range w.live[:i] {
		if !conflictsOn(name, o, w.live[i]) {
			continue
		}
		if granted, holds := o.granted[name]; holds {
			return granted, true
		}
		if waiter == nil {
			waiter = &w.live[n]
		}
	}
	return waiter.at, true
}

// waits is what Explain must say about the i-th live task, from the definitions.
func (w *twin) waits(i int) (waits []lock.Wait) {
	for name, mode := range w.live[i].modes {
		var queue []job // all who name it, up to and with the task
		for _, o := range w.live[:i+1] {
			if _, named := o.modes[name]; named {
				queue = append(queue, o)
			}
		}
		ahead := 0 // up to the youngest one that conflicts
		for n, o := range queue[:len(queue)-1] {
			if conflictsOn(name, o, w.live[i]) {
				ahead = n + 1
			}
		}
		if ahead == 0 {
			continue
		}
		wait := lock.Wait{Resource: name, Mode: mode, Held: queue[0].modes[name], Ahead: ahead}
		for n, o := range queue[:ahead] {
			if slices.ContainsFunc(queue[:n], func(p job) bool { return conflictsOn(name, p, o) }) {
				wait.Waiters = append(wait.Waiters, lock.Request{Seq: o.seq, Mode: o.modes[name], Since: o.at})
				continue
			}
			wait.Holders = append(wait.Holders, lock.Request{Seq: o.seq, Mode: o.modes[name], Since: o.granted[name]})
		}
		wait.HolderCount = len(wait.Holders)
		waits = append(waits, wait)
	}
	return waits
}

// jobs draws tasks that name up to four resources each way, twice or in both lists at times. Few resources make long
// queues, many make tasks that wait in several places for different reasons; a domain makes one queue of all tasks.
func jobs(t *rapid.T) func(seq int64) job {
	resources := rapid.SampledFrom([]int{1, 3, 8, 40}).Draw(t, "resources")
	domain := rapid.Bool().Draw(t, "domain")
	names := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf("r%d", rapid.IntRange(1, resources).Draw(t, "r"))
	}), 0, 4)
	return func(seq int64) job {
		exclusive, shared := names.Draw(t, "exclusive"), names.Draw(t, "shared")
		if domain {
			shared = append(shared, "domain")
			if rapid.IntRange(0, 19).Draw(t, "stop the domain") == 0 {
				exclusive = append(exclusive, "domain")
			}
		}
		return newJob(seq, exclusive, shared)
	}
}

// oneOf draws one of the seqs, and skips the step if there is none.
func oneOf(t *rapid.T, seqs []int64) int64 {
	if len(seqs) == 0 {
		t.Skip("no such task")
	}
	return rapid.SampledFrom(seqs).Draw(t, "seq")
}

// steps are the ways in which a table changes. next names new tasks.
func (w *twin) steps(t *rapid.T, draw func(int64) job, next func() int64) map[string]func(*rapid.T) {
	admit := func(*rapid.T) { w.admit(draw(next())) }
	return map[string]func(*rapid.T){
		"admit":  admit,
		"admit_": admit, // twice as often as the others, so that queues grow
		"finish": func(t *rapid.T) { w.release(oneOf(t, w.seqs(true))) },
		"cancel": func(t *rapid.T) { w.release(oneOf(t, w.seqs(false))) },
		"explain": func(t *rapid.T) {
			if len(w.live) == 0 {
				t.Skip("no task")
			}
			w.explain(rapid.IntRange(0, len(w.live)-1).Draw(t, "explain"))
		},
	}
}

func rising() func() int64 {
	seq := int64(0)
	return func() int64 { seq++; return seq }
}

func drawPick(t *rapid.T) func(int) int {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
}

func TestTableEqualsTheScanAfterEveryStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newTwin(t)
		w.pace = func() int64 { return rapid.Int64Range(0, 9).Draw(t, "pace") }
		t.Repeat(w.steps(t, jobs(t), rising()))
		w.drain(drawPick(t))
		if n := w.table.Resources(); n != 0 {
			t.Fatalf("%d resources are left in the empty table", n)
		}
	})
}

// rebuilt is the table that a new leader makes of what was stored: the tasks that were unblocked in any order, then the
// others by seq.
func (w *twin) rebuilt(t *rapid.T) *twin {
	unblocked := func(j job) bool { return w.table.Unblocked(j.seq) }
	n := newTwin(t)
	first := slices.Collect(filter(w.live, unblocked, true))
	for _, j := range rapid.Permutation(first).Draw(t, "unblocked first") {
		n.admit(j)
		if !n.table.Unblocked(j.seq) {
			t.Fatalf("task %d was unblocked and is blocked after the takeover", j.seq)
		}
	}
	rest := slices.Collect(filter(w.live, unblocked, false))
	slices.SortFunc(rest, func(a, b job) int { return cmp.Compare(a.seq, b.seq) })
	for _, j := range rest {
		n.admit(j)
	}
	return n
}

func filter(jobs []job, is func(job) bool, want bool) func(func(job) bool) {
	return func(yield func(job) bool) {
		for _, j := range jobs {
			if is(j) == want && !yield(j) {
				return
			}
		}
	}
}

func TestRebuiltTableIsTheSameWhenTasksWereAdmittedBySeq(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, draw, next := newTwin(t), jobs(t), rising()
		t.Repeat(w.steps(t, draw, next))
		n := w.rebuilt(t)
		sorted := cmpopts.SortSlices(func(a, b int64) bool { return a < b })
		same := func() {
			if diff := gocmp.Diff(w.seqs(true), n.seqs(true), sorted); diff != "" {
				t.Fatalf("unblocked before and after the takeover: -before +after\n%s", diff)
			}
		}
		same()
		for len(w.live) > 0 { // and they stay the same, whatever comes
			if rapid.IntRange(0, 3).Draw(t, "admit") == 0 {
				j := draw(next())
				w.admit(j)
				n.admit(j)
			}
			seq := w.live[rapid.IntRange(0, len(w.live)-1).Draw(t, "release")].seq
			w.release(seq)
			n.release(seq)
			same()
		}
	})
}

func TestRebuiltTableIsSafeWhenTasksWereAdmittedOutOfOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		used := map[int64]bool{}
		w := newTwin(t)
		t.Repeat(w.steps(t, jobs(t), func() int64 {
			seq := rapid.Int64().Filter(func(s int64) bool { return !used[s] }).Draw(t, "seq")
			used[seq] = true
			return seq
		}))
		n := w.rebuilt(t) // checks that what was unblocked still is, and that no two unblocked tasks conflict
		n.drain(drawPick(t))
	})
}

// FuzzTable drives the same pair from bytes, three for each step: what to do, which of eight resources exclusively or
// which task, which resources shared. Run it with -fuzzminimizetime 0x: the reference iterates over maps, so coverage varies
// from run to run, and the fuzzer would spend its time on making inputs smaller that are not special.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 2, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0})      // a run of shared, an exclusive, and shared behind it
	f.Add([]byte{0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0})                        // cancel the exclusive between two shared
	f.Add([]byte{0, 3, 0, 0, 6, 0, 0, 4, 0, 1, 1, 0, 1, 0, 0})               // indirect blocking
	f.Add([]byte{2, 255, 255, 2, 255, 255, 0, 0, 255, 1, 2, 0, 1, 0, 0})     // everything, twice, both ways
	f.Add([]byte{0, 0, 128, 0, 128, 128, 0, 1, 128, 0, 0, 128, 1, 0, 0, 64}) // a domain, stopped
	f.Fuzz(func(t *testing.T, data []byte) {
		w, next := newTwin(t), rising()
		for range 64 { // longer inputs find nothing that these do not, and the check is quadratic
			if len(data) < 3 {
				break
			}
			op, a, b := data[0], data[1], data[2]
			data = data[3:]
			switch {
			case op%4 == 1 && len(w.live) > 0:
				w.release(w.live[int(a)%len(w.live)].seq)
			case op%4 == 2: // with duplicates
				w.admit(newJob(next(), append(bits(a), bits(a)...), append(bits(b), bits(b)...)))
			default:
				w.admit(newJob(next(), bits(a), bits(b)))
			}
		}
		for i := range w.live {
			w.explain(i)
		}
		w.drain(func(n int) int { return n / 2 })
	})
}

func bits(b byte) (names []string) {
	for i := range 8 {
		if b&(1<<i) != 0 {
			names = append(names, string(rune('A'+i)))
		}
	}
	return names
}

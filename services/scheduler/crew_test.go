package scheduler

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// naive is the choice that match makes, made by looking at everybody for each task.
type naive struct {
	executors map[string]*naiveExecutor
	ready     []Row // in the order of dispatch
	resting   []Row // after a failure
	running   map[int64]string
}

type naiveExecutor struct {
	name     string
	names    []string
	versions map[string]string
	free     [kinds]int
	present  bool
}

// match gives the oldest ready task that anybody can take to whoever has most free slots of its kind, until there is none.
func (n *naive) match() (given []Give) {
	for k := range kinds {
		n.ready = slices.DeleteFunc(n.ready, func(row Row) bool {
			if kindOfRow(row) != k {
				return false
			}
			var best *naiveExecutor
			for _, name := range slices.Sorted(maps.Keys(n.executors)) {
				x := n.executors[name]
				able := x.present && x.free[k] > 0 && slices.Contains(x.names, row.Name) && task.Satisfies(x.versions, row.Versions)
				if able && (best == nil || x.free[k] > best.free[k]) {
					best = x
				}
			}
			if best == nil {
				return false
			}
			best.free[k]--
			n.running[row.Seq] = best.name
			given = append(given, Give{Seq: row.Seq, Executor: best.name, Incarnation: "life of " + best.name})
			return true
		})
	}
	return given
}

func kindOfRow(row Row) kind {
	if row.Immediate {
		return immediately
	}
	return ordinarily
}

// matching is a leader and its naive counterpart, side by side.
type matching struct {
	t      *rapid.T
	leader *leader
	naive  *naive
	rows   map[int64]Row
	next   int64
	clock  time.Time
}

func (m *matching) add(t *rapid.T) {
	m.next++
	row := Row{Seq: m.next, ID: fmt.Sprintf("task-%d", m.next), State: task.Waiting, Deferred: true, Immediate: rapid.Bool().Draw(t, "immediate")}
	row.Name = rapid.SampledFrom([]string{"t", "u", "v"}).Draw(t, "name")
	row.Versions = rapid.SampledFrom([]map[string]string{nil, {"core": "1"}, {"core": "2"}, {"plugin": "1"}}).Draw(t, "needs")
	if !row.Immediate {
		row.Retry = &task.Retry{Attempts: 1000, Backoff: time.Second, MaxBackoff: time.Second}
	}
	m.rows[row.Seq] = row
	m.leader.admit(row)
	m.naive.ready = append(m.naive.ready, row)
}

func (m *matching) connect(t *rapid.T) {
	x := &naiveExecutor{name: fmt.Sprintf("x%d", rapid.IntRange(1, 6).Draw(t, "executor")), present: true}
	x.names = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"t", "u", "v"}), 0, 3, rapid.ID).Draw(t, "names")
	x.versions = rapid.SampledFrom([]map[string]string{nil, {"core": "1"}, {"core": "2"}, {"core": "2", "plugin": "1"}}).Draw(t, "versions")
	slots := [kinds]int{immediately: rapid.IntRange(0, 2).Draw(t, "immediate slots"), ordinarily: rapid.IntRange(0, 3).Draw(t, "slots")}
	hello := &schedulerv1.Hello{
		Executor: x.name, Incarnation: "life of " + x.name, TaskNames: x.names, Versions: x.versions,
		ImmediateSlots: int32(slots[immediately]), Slots: int32(slots[ordinarily]),
	}
	x.free = slots
	for seq, name := range m.naive.running {
		if name == x.name {
			hello.Held = append(hello.Held, &schedulerv1.Claim{TaskId: fmt.Sprintf("task-%d", seq)})
			x.free[m.leader.tasks[seq].kind()]--
		}
	}
	m.naive.executors[x.name] = x
	helloEvent{line: newLine(), hello: hello}.apply(m.leader)
}

// leave is an executor that hangs up, or drains.
func (m *matching) leave(t *rapid.T) {
	x := m.naive.executors[pick(t, "executor", slices.Sorted(maps.Keys(m.naive.executors)))]
	x.present = false
	incarnation := "life of " + x.name
	if known := m.leader.executors[incarnation]; known != nil && rapid.Bool().Draw(t, "hangs up") {
		hangupEvent{line: known.line, from: incarnation}.apply(m.leader)
		return
	}
	drainEvent{from: incarnation}.apply(m.leader)
}

// stop ends a run on its executor.
func (m *matching) stop(t *rapid.T, from []int64) *live {
	live := m.leader.tasks[pick(t, "run", from)]
	if x := m.naive.executors[m.naive.running[live.seq]]; x != nil {
		x.free[live.kind()]++
	}
	delete(m.naive.running, live.seq)
	return live
}

func (m *matching) end(t *rapid.T) {
	m.leader.finish(m.stop(t, slices.Sorted(maps.Keys(m.naive.running))), End{State: task.Completed})
}

// fail is a run that fails, and rests as soon as that is written.
func (m *matching) fail(t *rapid.T) {
	live := m.stop(t, slices.DeleteFunc(slices.Sorted(maps.Keys(m.naive.running)), func(seq int64) bool { return m.rows[seq].Immediate }))
	m.leader.next = newFlight()
	m.leader.finish(live, End{State: task.Failed, Error: &task.Error{Reason: "broken"}})
	m.leader.retried(m.leader.next.plan, &Report{Retried: map[int64]task.State{live.seq: task.Waiting}})
	m.naive.resting = append(m.naive.resting, m.rows[live.seq])
}

// wake ends all rests.
func (m *matching) wake(*rapid.T) {
	m.clock = m.clock.Add(time.Minute)
	m.leader.wake()
	m.naive.ready = append(m.naive.ready, m.naive.resting...)
	m.naive.resting = nil
	slices.SortFunc(m.naive.ready, func(a, b Row) int { return int(a.Seq - b.Seq) })
}

func (m *matching) cancel(t *rapid.T) {
	row := pick(t, "waiting task", slices.Concat(m.naive.ready, m.naive.resting))
	m.leader.canceled([]int64{row.Seq}, 0)
	over := func(r Row) bool { return r.Seq == row.Seq }
	m.naive.ready, m.naive.resting = slices.DeleteFunc(m.naive.ready, over), slices.DeleteFunc(m.naive.resting, over)
}

func (m *matching) match(*rapid.T) {
	m.leader.next = newFlight()
	m.leader.rejectUnable()
	m.leader.match()
	got := slices.Clone(m.leader.next.plan.Claim)
	for i := range got {
		got[i].Unblocked = 0
		live := m.leader.tasks[got[i].Seq]
		live.known, live.claim = true, 0 // nothing here waits for an answer
	}
	if diff := cmp.Diff(m.naive.match(), got); diff != "" {
		m.t.Fatalf("who is given what: -naive +leader\n%s", diff)
	}
	if m.leader.startable() {
		m.t.Fatal("more could be given away")
	}
}

// The oldest task that somebody has a free slot for, to the one with most free slots, whoever comes and goes.
func TestMatchingChoosesAsIfItLookedAtEverybody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &matching{t: t, leader: emptyLeader(), naive: &naive{executors: map[string]*naiveExecutor{}, running: map[int64]string{}}, rows: map[int64]Row{}, clock: time.Unix(1000, 0)}
		m.leader.now = func() time.Time { return m.clock }
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {
				if err := check(m.leader); err != nil {
					m.t.Fatal(err)
				}
			},
			"add": m.add, "add ": m.add, "connect": m.connect, "leave": m.leave, "end": m.end, "fail": m.fail, "wake": m.wake, "cancel": m.cancel, "match": m.match,
		})
	})
}

func emptyLeader() *leader {
	return newLeader(1, newModel(), slog.New(slog.DiscardHandler), func() time.Time { return time.Unix(1000, 0) }, func([]*schedulerv1.Change) {})
}

// join connects an executor to a leader.
func join(l *leader, name string, slots int32, names ...string) *line {
	to := newLine()
	helloEvent{line: to, hello: &schedulerv1.Hello{Executor: name, Incarnation: "life of " + name, Slots: slots, ImmediateSlots: 1, TaskNames: names}}.apply(l)
	return to
}

// A match looks at the lanes that a crew has work of, at the front of each. What nobody can run must not be among them.
func TestWhatNobodyCanRunCostsAMatchNothing(t *testing.T) {
	l := emptyLeader()
	const lanes = 10_000
	for seq := int64(1); seq <= lanes; seq++ {
		l.admit(Row{Seq: seq, ID: fmt.Sprint(seq), Name: fmt.Sprintf("unknown-%d", seq), State: task.Waiting, Deferred: true, Immediate: seq%2 == 0})
	}
	join(l, "x", 1, "t")
	join(l, "y", 1, "t")
	join(l, "z", 1, "u")
	l.admit(Row{Seq: lanes + 1, ID: "mine", Name: "t", State: task.Waiting, Deferred: true})
	if n := len(l.crews); n != 2 {
		t.Fatalf("%d crews, want one for each set of names", n)
	}
	for _, w := range l.lanes {
		if w.name != "t" && len(w.posts) > 0 {
			t.Fatalf("lane %q has a place with a crew that can't run it", w.name)
		}
	}
	work := 0
	for _, c := range l.crews {
		for k := range kinds {
			work += c.work[k].Len()
		}
	}
	if work != 1 {
		t.Errorf("the crews have work of %d lanes, want 1", work)
	}
	l.match()
	if len(l.next.plan.Claim) != 1 || l.next.plan.Claim[0].Seq != lanes+1 {
		t.Errorf("given: %v", l.next.plan.Claim)
	}
}

// Names can be made up by anybody, so nothing may stay of them.
func TestALaneGoesWithItsLastTask(t *testing.T) {
	l := emptyLeader()
	join(l, "x", 1, "t")
	for seq := int64(1); seq <= 100; seq++ {
		l.admit(Row{Seq: seq, ID: fmt.Sprint(seq), Name: []string{"t", "unknown"}[seq%2], State: task.Waiting, Deferred: true, Versions: map[string]string{"core": fmt.Sprint(seq / 10)}})
	}
	for seq := int64(1); seq <= 100; seq++ {
		l.canceled([]int64{seq}, 0)
	}
	if len(l.lanes) != 0 {
		t.Errorf("%d lanes are left", len(l.lanes))
	}
	if err := check(l); err != nil {
		t.Error(err)
	}
}

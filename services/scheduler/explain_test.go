package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// asked is a stage whose clock does not agree with the database's, and which knows when tasks were dispatched.
func asked(t *testing.T) *stage {
	s := newStage(t)
	s.db.now = func() int64 { return s.now.Add(time.Hour).UnixMicro() }
	s.takeOver()
	s.tick()
	return s
}

// after dispatches a task when some time has passed, and offers it.
func (s *stage) after(pause time.Duration, row Row) *modelRow {
	s.now = s.now.Add(pause)
	row.CreatedAt = s.now.Add(time.Hour)
	made := s.db.add(row)
	s.tick(offers(made))
	return made
}

// ago is a moment of the database's clock.
func (s *stage) ago(d time.Duration) time.Time { return s.now.Add(time.Hour - d) }

// says compares the summary of a task.
func (s *stage) says(row *modelRow, want string) *schedulerv1.ExplainResponse {
	s.t.Helper()
	e := s.leader.explain(row.ID)
	if e.GetSummary() != want {
		s.t.Errorf("of %s it says\n%s\nwant\n%s", row.ID, e.GetSummary(), want)
	}
	return e
}

// uses shows tasks of a queue as "id mode state ago".
func (s *stage) uses(uses []*schedulerv1.ResourceUse) (shown []string) {
	for _, u := range uses {
		text := u.GetTaskId()
		if u.GetExclusive() {
			text += " exclusive"
		}
		if u.GetGranted() {
			text += " granted"
		}
		text += fmt.Sprintf(" %s ago", s.ago(0).Sub(u.GetSince().AsTime()))
		if u.GetExecutor() != "" {
			text += " on " + u.GetExecutor()
		}
		shown = append(shown, text)
	}
	return shown
}

func TestExplainNamesWhoIsInTheWaySinceWhenAndWhoIsInTheirs(t *testing.T) {
	s := asked(t)
	runs := s.after(0, Row{Name: "t", Deferred: true, Exclusive: []string{"a"}})
	second := s.after(10*time.Second, Row{Name: "t", Deferred: true, Exclusive: []string{"a", "b"}})
	third := s.after(time.Second, Row{Name: "t", Deferred: true, Shared: []string{"b"}})
	last := s.after(time.Second, Row{Name: "t", Deferred: true, Exclusive: []string{"b", "c"}})
	s.now = s.now.Add(time.Minute)

	s.says(runs, "It runs on x and has for 1m12s.")
	s.says(second, "It waits for a, which task "+runs.ID+" (t) has held alone for 1m12s: it runs on x.")
	e := s.says(last, "It waits for b, which task "+second.ID+" (t) has held alone for 1m2s: it waits itself, and so on down to task "+
		runs.ID+" (t), which runs on x. 2 tasks must go first there.")
	if e.GetState() != taskv1.State_STATE_WAITING || e.GetUnblocked() || e.GetUnblockedAt() != nil || !e.GetCreatedAt().AsTime().Equal(s.ago(time.Minute)) {
		t.Errorf("it is %v", e)
	}
	if len(e.GetWaits()) != 1 {
		t.Fatalf("it waits for %v", e.GetWaits())
	}
	wait := e.GetWaits()[0]
	if diff := cmp.Diff([]string{second.ID + " exclusive granted 1m2s ago"}, s.uses(wait.GetHolders())); diff != "" {
		t.Errorf("holders: %s", diff)
	}
	if diff := cmp.Diff([]string{third.ID + " 1m1s ago"}, s.uses(wait.GetWaitingAhead())); diff != "" {
		t.Errorf("who waits ahead: %s", diff)
	}
	var chain []string
	for _, link := range e.GetChain() {
		chain = append(chain, fmt.Sprintf("%s: %s: %s", link.GetResource(), s.uses([]*schedulerv1.ResourceUse{link.GetTask()}), link.GetStanding()))
	}
	if diff := cmp.Diff([]string{
		"b: [" + second.ID + " exclusive granted 1m2s ago]: waits itself", "a: [" + runs.ID + " exclusive granted 1m12s ago on x]: runs on x",
	}, chain); diff != "" {
		t.Errorf("chain: %s", diff)
	}
	found := s.leader.resource("b", 2)
	if diff := cmp.Diff([]string{second.ID + " exclusive granted 1m2s ago", third.ID + " 1m1s ago"}, s.uses(found.GetQueue())); diff != "" {
		t.Errorf("resource b: %s", diff)
	}
	b := found.GetResource()
	if !b.GetHeldSince().AsTime().Equal(s.ago(62*time.Second)) || !b.GetWaitingSince().AsTime().Equal(s.ago(61*time.Second)) || b.GetWaiting() != 2 {
		t.Errorf("resource b is %v", b)
	}
	if list := s.leader.resources(1); len(list.GetResources()) != 1 || list.GetTotal() != 3 || !cmp.Equal(list.GetResources()[0], b, protocmp.Transform()) {
		t.Errorf("resources: %v", list)
	}

	// The end of the first lets the second go on: since then it holds both.
	s.tick(s.ends(runs, success()))
	s.now = s.now.Add(time.Second)
	if got := s.uses(s.leader.resource("a", 9).GetQueue()); !cmp.Equal(got, []string{second.ID + " exclusive granted 1s ago on x"}) {
		t.Errorf("resource a: %v", got)
	}
	if hold := s.leader.locks.Blocker(second.Seq); hold == nil || hold.Name != runs.ID || hold.Resource != "a" {
		t.Errorf("what the second waited for is %+v", hold)
	}
}

func TestWhoSharesWaitsForWhoWantsItAlone(t *testing.T) {
	s := asked(t)
	runs := s.after(0, Row{Name: "t", Deferred: true, Shared: []string{"a"}})
	alone := s.after(2*time.Second, tRow("a"))
	shares := s.after(3*time.Second, Row{Name: "t", Deferred: true, Shared: []string{"a"}})
	s.says(shares, "It waits for a, where task "+alone.ID+" (t) comes first, which wants it alone and has waited for 3s: it waits itself, and so on down to task "+
		runs.ID+" (t), which runs on x. 2 tasks must go first there.")
	s.says(alone, "It waits for a, which task "+runs.ID+" (t) has held for 5s: it runs on x.")
}

func TestExplainSaysWhatIsMissingOfExecutors(t *testing.T) {
	s := asked(t)
	needs := func(core string) Row {
		return Row{Name: "v", Deferred: true, Versions: map[string]string{"core": core, "ansible": "2"}}
	}
	row := s.after(0, needs("3.10"))
	s.says(row, `It has all its resources, but no connected executor knows "v".`)
	hello := func(name string, slots int32, versions map[string]string) *line {
		to := newLine()
		helloEvent{line: to, hello: &schedulerv1.Hello{
			Executor: name, Incarnation: "life of " + name, Slots: slots, TaskNames: []string{"v"}, Versions: versions,
		}}.apply(s.leader)
		return to
	}
	hello("old", 1, map[string]string{"core": "3.9"})
	s.says(row, `It has all its resources, but old, the only executor that knows "v", has not the versions it needs: `+
		`ansible is missing and must be 2 or later, core is 3.9 and must be 3.10 or later.`)
	hello("older", 1, map[string]string{"core": "3.8", "ansible": "3"})
	e := s.says(row, `It has all its resources, but none of the 2 executors that know "v" has the versions it needs: on older, core is 3.8 and must be 3.10 or later.`)
	gap := func(component, wanted, has string) *schedulerv1.VersionGap {
		return &schedulerv1.VersionGap{Component: component, Wanted: wanted, Has: has}
	}
	if diff := cmp.Diff([]*schedulerv1.NearExecutor{
		{Executor: "older", Gaps: []*schedulerv1.VersionGap{gap("core", "3.10", "3.8")}},
		{Executor: "old", Gaps: []*schedulerv1.VersionGap{gap("ansible", "2", ""), gap("core", "3.10", "3.9")}},
	}, e.GetNearest(), protocmp.Transform()); diff != "" {
		t.Errorf("nearest: %s", diff)
	}
	hello("new", 0, map[string]string{"core": "4", "ansible": "2"})
	if e := s.leader.explain(row.ID); !strings.Contains(e.GetSummary(), "on older") {
		t.Errorf("one without slots: %s", e.GetSummary())
	}
	for i := range 9 {
		hello(fmt.Sprint("another", i), 1, nil)
	}
	if e := s.leader.explain(row.ID); len(e.GetNearest()) != nearestShown || e.GetNearest()[0].GetExecutor() != "older" {
		t.Errorf("of many: %v", e.GetNearest())
	}
}

func TestExplainEstimatesWhenASlotIsFree(t *testing.T) {
	s, _ := measured(t)
	s.x = join(s.leader, "x", 1, "t", "long")
	long := func() Row { return Row{Name: "long", Deferred: true} }
	now := func() *modelRow {
		row := s.dispatch(long())
		s.tick(offers(row))
		return row
	}
	runs, waits := now(), now()
	s.says(waits, "It has all its resources and waits for a free slot: all are busy.") // nobody knows how long it takes
	s.pass(10 * time.Second)
	s.tick(s.ends(runs, success())) // now it is known: 10 s
	third, fourth := now(), now()
	s.pass(3 * time.Second)
	s.says(third, "It has all its resources and waits for a free slot: all are busy; by how long such tasks took lately, that is about 7s.")
	e := s.says(fourth, "It has all its resources and waits for a free slot: all are busy, and 1 task gets one first; by how long such tasks took lately, that is about 17s.")
	if e.GetReadyAhead() != 1 || e.GetEstimate().AsDuration() != 17*time.Second || e.GetFreeSlots() != 0 {
		t.Errorf("it says %v", e)
	}
	s.pass(37 * time.Second) // it takes far longer than usual, and so it will
	if e := s.leader.explain(third.ID); e.GetEstimate().AsDuration() != 10*time.Second {
		t.Errorf("of one that takes long: %v", e)
	}
	// What cannot take the slot does not count.
	other := s.dispatch(Row{Name: "unknown", Deferred: true})
	behind := s.dispatch(long())
	s.tick(offers(other, behind))
	if e := s.leader.explain(behind.ID); e.GetReadyAhead() != 2 {
		t.Errorf("%d are ahead of the last one", e.GetReadyAhead())
	}
}

func TestSlotsAreFilledToOneLevel(t *testing.T) {
	seconds := func(list ...int) (all []time.Duration) {
		for _, s := range list {
			all = append(all, time.Duration(s)*time.Second)
		}
		return all
	}
	for _, test := range []struct {
		ends       []time.Duration
		work, want int
	}{
		{seconds(5), 0, 5},
		{seconds(5, 3, 9), 0, 3},
		{seconds(5, 3, 9), 1, 4},
		{seconds(5, 3, 9), 2, 5},
		{seconds(5, 3, 9), 10, 9},
		{seconds(5, 3, 9), 40, 19},
	} {
		if got := filled(test.ends, time.Duration(test.work)*time.Second); got != time.Duration(test.want)*time.Second {
			t.Errorf("%v with %d s of work: %v, want %d s", test.ends, test.work, got, test.want)
		}
	}
}

// Who asks about one of a million does not hold up the leader.
func TestWhatIsAheadIsCountedWithinBounds(t *testing.T) {
	l := emptyLeader()
	join(l, "x", 1, "t", "u")
	for seq := int64(1); seq <= 3*walkLimit; seq++ {
		l.admit(Row{Seq: seq, ID: fmt.Sprint(seq), Name: []string{"t", "u"}[seq%2], State: "waiting", Deferred: true})
	}
	count := func(seq int64) (n int) {
		for _, counted := range l.ahead(l.tasks[seq]) {
			n += counted
		}
		return n
	}
	if got := count(501); got != 500 {
		t.Errorf("%d are ahead of the 501st", got)
	}
	if got := count(3 * walkLimit); got < walkLimit/2 || got > walkLimit {
		t.Errorf("%d are counted ahead of the last of %d, want about %d", got, 3*walkLimit, walkLimit)
	}
}

func TestATaskWhoseExecutorIsNotConnectedSaysSo(t *testing.T) {
	s := asked(t)
	row := s.after(0, tRow("a"))
	behind := s.after(time.Second, tRow("a"))
	s.leader.heard(s.leader.tasks[row.Seq].owner)
	hangupEvent{line: s.x, from: "life of x"}.apply(s.leader)
	s.says(row, "It runs on x and has for 1s. That executor is not connected now: if it does not come back, nor beats any more, it will be declared missing, and the run ends.")
	s.says(behind, "It waits for a, which task "+row.ID+" (t) has held alone for 1s: it runs on x, which is not connected.")
}

func TestAfterATakeoverItIsKnownSinceWhenTasksHold(t *testing.T) {
	s := asked(t)
	runs := s.after(0, tRow("a"))
	behind := s.after(time.Second, tRow("a"))
	s.now = s.now.Add(time.Minute)
	runs.UnblockedAt, runs.StartedAt = runs.CreatedAt.UnixMicro(), runs.CreatedAt.Add(time.Second).UnixMicro()
	s.lead()
	if got := s.uses(s.leader.resource("a", 9).GetQueue()); !cmp.Equal(got, []string{runs.ID + " exclusive granted 1m1s ago on x", behind.ID + " exclusive 1m0s ago"}) {
		t.Errorf("resource a: %v", got)
	}
	if e := s.leader.explain(runs.ID); !e.GetUnblockedAt().AsTime().Equal(runs.CreatedAt) || e.GetState() != taskv1.State_STATE_RUNNING || e.GetExecutor() != "x" {
		t.Errorf("what runs: %v", e)
	}
	if got := s.leader.survey(); got.LongestBlocked != time.Minute {
		t.Errorf("counted %+v", got)
	}
}

func TestTimesForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 1234 * time.Microsecond: "1ms", 1234 * time.Millisecond: "1.2s", 87 * time.Second: "1m27s",
		61*time.Minute + 20*time.Second: "1h1m", 2 * time.Hour: "2h0m", 50 * time.Hour: "2 days",
	} {
		if got := lasting(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

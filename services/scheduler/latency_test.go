package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/latency"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// figures are what a row says, readably: ended as completed/failed/canceled, times as count x median.
type figures struct {
	minute int64 // since 1970
	name   string
	ended  [3]int64
	waits  [2]string
	run    string
}

func readably(t *testing.T, rows []LatencyRow) (all []figures) {
	t.Helper()
	times := func(data []byte) string {
		h, err := latency.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if h.Count() == 0 {
			return ""
		}
		return fmt.Sprintf("%d x %s", h.Count(), h.Quantile(0.5).Round(time.Second))
	}
	for _, r := range rows {
		if r.Domain != task.DefaultDomain {
			t.Errorf("domain %q", r.Domain)
		}
		all = append(all, figures{
			minute: r.Begins / minuteMicros, name: r.Name, ended: [3]int64{r.Completed, r.Failed, r.Canceled},
			waits: [2]string{times(r.Unblock), times(r.Start)}, run: times(r.Run),
		})
	}
	return all
}

// measured is a stage whose leader measures. Its clock begins 20 s before the end of a minute.
func measured(t *testing.T) (*stage, *latencies) {
	s := newStage(t)
	s.now = time.UnixMicro(100*minuteMicros + 40_000_000)
	m := newLatencies()
	s.measures(m)
	return s, m
}

// measures makes m a witness of the stage's leader.
func (s *stage) measures(m *latencies) {
	s.leader.latencies, s.leader.witnesses = m, append(s.leader.witnesses, m)
}

// dispatch adds a task that is created now.
func (s *stage) dispatch(row Row) *modelRow {
	row.CreatedAt = s.now
	return s.db.add(row)
}

func (s *stage) pass(d time.Duration) { s.now = s.now.Add(d) }

func checkPending(t *testing.T, m *latencies, want ...figures) {
	t.Helper()
	rows, _ := m.pending()
	if diff := cmp.Diff(want, readably(t, rows), cmp.AllowUnexported(figures{})); diff != "" {
		t.Error(diff)
	}
}

func completed() *taskv1.Outcome { return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED} }

func TestWaitsAndRunsAreMeasuredInTheMinuteInWhichTheyEnd(t *testing.T) {
	s, m := measured(t)
	first, second := s.dispatch(tRow("a")), s.dispatch(tRow("a"))
	s.tick(offers(first, second))
	s.pass(10 * time.Second)
	s.tick(s.ends(first, completed())) // and the second begins
	s.pass(15 * time.Second)           // into the next minute
	s.tick(s.ends(second, failing("A")))
	checkPending(t, m,
		figures{minute: 100, name: "t", ended: [3]int64{1, 0, 0}, waits: [2]string{"2 x 0s", "2 x 0s"}, run: "1 x 10s"},
		figures{minute: 101, name: "t", ended: [3]int64{0, 1, 0}, run: "1 x 15s"})
}

func TestWhoWaitsForASlotHasBeenUnblocked(t *testing.T) {
	s, m := measured(t)
	row := s.dispatch(Row{Name: "late", Exclusive: []string{"a"}, Deferred: true})
	s.tick(offers(row))
	s.pass(5 * time.Second)
	join(s.leader, "y", 1, "late")
	s.tick()
	checkPending(t, m, figures{minute: 100, name: "late", waits: [2]string{"1 x 0s", "1 x 5s"}})
}

func TestWhatNeverRanHasEndedButHasNoTimes(t *testing.T) {
	s, m := measured(t)
	waiting := s.dispatch(Row{Name: "unknown", Deferred: true})
	s.tick(offers(waiting))
	s.pass(time.Second)
	s.db.cancel(waiting.Seq)
	s.tick(offerEvent{})
	unable := s.dispatch(Row{Name: "unknown", Immediate: true})
	s.tick(offers(unable))
	checkPending(t, m, figures{minute: 100, name: "unknown", ended: [3]int64{0, 0, 2}})
}

func TestARetriedTaskCountsOnceAndItsAttemptsAreTypicalAllTheSame(t *testing.T) {
	s, m := measured(t)
	row := s.dispatch(retriedRow())
	s.tick(offers(row))
	s.pass(2 * time.Second)
	s.tick(s.ends(row, failing("A")))
	if took, known := s.leader.typical("t"); !known || took != 2*time.Second {
		t.Errorf("after an attempt of 2s: %s, %v", took, known)
	}
	s.pass(rest)
	s.tick()
	s.pass(4 * time.Second)
	s.tick(s.ends(row, completed()))
	checkPending(t, m, figures{minute: 100, name: "t", ended: [3]int64{1, 0, 0}, waits: [2]string{"1 x 0s", "1 x 0s"}, run: "1 x 4s"})
	if took, known := s.leader.typical("t"); !known || took != 2*time.Second {
		t.Errorf("of two attempts, 2s and 4s: %s, %v", took, known)
	}
	if _, known := s.leader.typical("never seen"); known {
		t.Error("what never ran has a typical time")
	}
}

func TestACanceledRunHasATimeToo(t *testing.T) {
	s, m := measured(t)
	row := s.dispatch(tRow())
	s.tick(offers(row))
	s.pass(3 * time.Second)
	s.db.cancel(row.Seq)
	s.tick(offerEvent{})
	s.tick(s.ends(row, &taskv1.Outcome{State: taskv1.State_STATE_CANCELED}))
	checkPending(t, m, figures{minute: 100, name: "t", ended: [3]int64{0, 0, 1}, waits: [2]string{"1 x 0s", "1 x 0s"}, run: "1 x 3s"})
}

// What was measured before the takeover is not measured again, and times begin where they did.
func TestTimesGoOnOverATakeover(t *testing.T) {
	s, _ := measured(t)
	runs := s.dispatch(tRow())
	waits := s.dispatch(Row{Name: "late", Deferred: true})
	s.tick(offers(runs, waits))
	s.pass(2 * time.Second)
	s.tick() // the row says that the second is unblocked
	if !waits.Unblocked {
		t.Fatal("it is not stamped")
	}
	s.lead()
	m := newLatencies()
	s.measures(m)
	s.x = newLine()
	s.tick(helloEvent{line: s.x, hello: &schedulerv1.Hello{
		Executor: "x", Incarnation: "life of x", Slots: 10, TaskNames: []string{"t"}, Held: []*schedulerv1.Claim{{TaskId: runs.ID, Claim: runs.Claim}},
	}})
	s.pass(3 * time.Second)
	s.tick(s.ends(runs, completed()))
	join(s.leader, "y", 1, "late")
	s.tick()
	checkPending(t, m,
		figures{minute: 100, name: "t", ended: [3]int64{1, 0, 0}, run: "1 x 5s"},
		figures{minute: 100, name: "late", waits: [2]string{"1 x 0s", "1 x 5s"}})
}

// at makes something happen to a task of a name, at a minute since 1970.
func (m *latencies) at(minute int64, name string) {
	t := &live{lane: &lane{name: name}, created: minute * minuteMicros, story: &story{unblocked: minute * minuteMicros, begun: minute * minuteMicros}}
	m.ended(t, End{State: task.Completed}, task.Completed, minute*minuteMicros+1_000_000)
}

// A minute is stored whole: beginning one anew that is stored already would take its place.
func TestAMinuteThatIsOverDoesNotComeBackWithTheClock(t *testing.T) {
	m := newLatencies()
	m.at(100, "t")
	m.at(101, "t")
	m.at(100, "t")
	m.at(95, "t")
	m.at(102, "t")
	checkPending(t, m,
		figures{minute: 100, name: "t", ended: [3]int64{1, 0, 0}, run: "1 x 1s"},
		figures{minute: 101, name: "t", ended: [3]int64{3, 0, 0}, run: "3 x 1s"},
		figures{minute: 102, name: "t", ended: [3]int64{1, 0, 0}, run: "1 x 1s"})
}

func TestWhatHappensWhileARowIsStoredIsStoredNext(t *testing.T) {
	m := newLatencies()
	m.at(100, "t")
	m.at(100, "u")
	_, upTo := m.pending()
	m.at(100, "t")
	m.saved(upTo)
	checkPending(t, m, figures{minute: 100, name: "t", ended: [3]int64{2, 0, 0}, run: "2 x 1s"})
	_, upTo = m.pending()
	m.saved(upTo)
	checkPending(t, m)
	m.at(100, "u")
	checkPending(t, m, figures{minute: 100, name: "u", ended: [3]int64{2, 0, 0}, run: "2 x 1s"})
}

func TestTooManyNamesShareARow(t *testing.T) {
	m := newLatencies()
	for i := range mostFared + 10 {
		m.at(100, fmt.Sprintf("name-%d", i))
	}
	m.at(100, "name-0")
	rows, _ := m.pending()
	if len(rows) != mostFared+1 || rows[0].Completed != 2 || rows[mostFared].Name != otherNames || rows[mostFared].Completed != 10 {
		t.Errorf("%d rows, the first with %d, the last %q with %d", len(rows), rows[0].Completed, rows[mostFared].Name, rows[mostFared].Completed)
	}
	if len(m.recent) > mostFared {
		t.Errorf("runs of %d names are remembered", len(m.recent))
	}
}

func TestWhatCanNotBeStoredForLongIsGivenUp(t *testing.T) {
	m := newLatencies()
	for i := range int64(mostUnsaved + 5) {
		m.at(100+i, "t")
	}
	rows, _ := m.pending()
	if lost := m.gaveUp(); len(rows) != mostUnsaved || lost != 5 || rows[0].Begins != 105*minuteMicros {
		t.Errorf("%d rows are left from minute %d on, %d given up", len(rows), rows[0].Begins/minuteMicros, lost)
	}
}

// newKeeper begins a leadership on a model database.
func newKeeper(db *modelLatencies) *keeper {
	db.epochNow++
	return &keeper{epoch: db.epochNow, db: db, log: slog.New(slog.DiscardHandler), m: newLatencies()}
}

func TestALeadershipAddsToTheMinuteOfTheOneBefore(t *testing.T) {
	db := &modelLatencies{}
	first := newKeeper(db)
	first.m.at(99, "t")
	first.m.at(100, "t")
	first.m.at(100, "u")
	if err := first.keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := newKeeper(db)
	second.m.at(100, "t") // before it knows what is stored
	if second.m.complete() {
		t.Error("it takes its own part for the whole")
	}
	if err := second.keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.m.at(98, "u") // the clock is behind that of before
	checkPending(t, second.m, figures{minute: 100, name: "u", ended: [3]int64{2, 0, 0}, run: "2 x 1s"})
	if took, known := second.m.typical("t"); !known || took != time.Second {
		t.Errorf("t typically takes %s, %v", took, known)
	}
	if err := second.keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[modelKey]int64{
		{99 * minuteMicros, "t", task.DefaultDomain}: 1, {100 * minuteMicros, "t", task.DefaultDomain}: 2, {100 * minuteMicros, "u", task.DefaultDomain}: 2,
	} {
		if got := db.minutes[key].Completed; got != want {
			t.Errorf("%v: %d, want %d", key, got, want)
		}
	}
	first.m.at(101, "t")
	if err := first.keep(t.Context()); !errors.Is(err, ErrDeposed) {
		t.Errorf("a deposed leader stores: %v", err)
	}
}

func TestAnHourIsAddedUpWhenItIsOver(t *testing.T) {
	db := &modelLatencies{}
	k := newKeeper(db)
	hour := int64(1000) * 60
	for i := range int64(60) {
		k.m.at(hour+i, "t")
	}
	k.m.at(hour+59, "u")
	k.m.at(hour+60, "t")
	tidy := func(minute int64) {
		t.Helper()
		db.now = minute * minuteMicros
		if err := errors.Join(k.keep(t.Context()), k.tidy(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	tidy(hour + 60)
	if len(db.hours) != 0 {
		t.Fatal("it is added up while a tick may be under way that saw something end in it")
	}
	tidy(hour + 61)
	rows := []LatencyRow{db.hours[modelKey{hour * minuteMicros, "t", task.DefaultDomain}], db.hours[modelKey{hour * minuteMicros, "u", task.DefaultDomain}]}
	want := []figures{{minute: hour, name: "t", ended: [3]int64{60, 0, 0}, run: "60 x 1s"}, {minute: hour, name: "u", ended: [3]int64{1, 0, 0}, run: "1 x 1s"}}
	if diff := cmp.Diff(want, readably(t, rows), cmp.AllowUnexported(figures{})); diff != "" || len(db.hours) != 2 {
		t.Errorf("%d rows, %s", len(db.hours), diff)
	}
	k.m.at(hour+30, "t") // the clock went back
	tidy(hour + 62)
	if got := db.minutes[modelKey{(hour + 60) * minuteMicros, "t", task.DefaultDomain}].Completed; got != 2 {
		t.Errorf("what came late is not in the minute that goes on: %d", got)
	}
	tidy(hour + 4*60)
	if n := len(db.minutes); n != 7 { // the last six of the hour, and the one after it
		t.Errorf("%d minutes are left", n)
	}
	for key := range db.minutes {
		if key.begins < (hour+4*60-3*60-5)*minuteMicros {
			t.Errorf("minute %d is still there", key.begins/minuteMicros-hour)
		}
	}
}

func TestAnHourOfTooManyNamesKeepsThoseWithTheMostTasks(t *testing.T) {
	k := newKeeper(&modelLatencies{})
	var minutes []LatencyRow
	for i := range int64(mostFared + 7) {
		minutes = append(minutes, LatencyRow{Name: fmt.Sprintf("name-%d", i), Domain: task.DefaultDomain, Completed: 1 + i})
	}
	rows := k.sum(0, minutes)
	if last := rows[len(rows)-1]; len(rows) != mostFared+1 || rows[0].Completed != mostFared+7 || last.Name != otherNames || last.Completed != 28 {
		t.Errorf("%d rows, the first with %d, the last %q with %d", len(rows), rows[0].Completed, last.Name, last.Completed)
	}
}

// Whatever fails, whoever leads and however the clock goes: nothing that was stored is lost, nothing counts twice, and a leader that
// dies takes nothing with it but what it had not stored.
func TestNothingThatIsStoredIsLostOrCountedTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db := &modelLatencies{now: 1_000_000 * minuteMicros}
		k := newKeeper(db)
		total := func() (sum int64) {
			for key, row := range db.minutes {
				if key.begins >= db.summed() {
					sum += row.Completed
				}
			}
			for _, row := range db.hours {
				sum += row.Completed
			}
			return sum
		}
		happened, lost, stored := int64(0), int64(0), int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				now := total()
				if now < stored || now > happened-lost {
					t.Fatalf("%d are stored, %d were, %d happened and %d of these are lost", now, stored, happened, lost)
				}
				stored = now
			},
			"end": func(t *rapid.T) {
				k.m.at(db.now/minuteMicros, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"))
				happened++
			},
			"wait":    func(t *rapid.T) { db.now += rapid.Int64Range(0, 90).Draw(t, "minutes") * minuteMicros },
			"go back": func(t *rapid.T) { db.now -= rapid.Int64Range(0, 30).Draw(t, "minutes") * minuteMicros },
			"keep": func(t *rapid.T) {
				if err := k.keep(context.Background()); err != nil || total() != happened-lost {
					t.Fatalf("%d are stored, %d happened and %d of these are lost: %v", total(), happened, lost, err)
				}
			},
			"fail to keep": func(t *rapid.T) {
				effect := rapid.Bool().Draw(t, "effect")
				db.refuse = &effect
				_ = k.keep(context.Background())
				db.refuse = nil
			},
			"tidy": func(t *rapid.T) {
				if err := k.tidy(context.Background()); err != nil {
					t.Fatal(err)
				}
			},
			"die": func(*rapid.T) {
				lost = happened - total()
				k = newKeeper(db)
			},
		})
	})
}

// Both of what each task costs beside its ticks: when it is given away, and when it ends.
func BenchmarkMeasuring(b *testing.B) {
	m := newLatencies()
	t := &live{lane: &lane{name: "test.noop"}, created: 1, story: &story{unblocked: 2000, begun: 2000}}
	c := &Claimed{Attempt: 1}
	for i := int64(0); b.Loop(); i++ {
		t.story.begun = 2000 + i%1000
		m.started(t, c)
		m.ended(t, End{State: task.Completed}, task.Completed, 5000+i%3000)
	}
}

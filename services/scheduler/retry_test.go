package scheduler

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// rest is the pause of the tasks here.
const rest = 10 * time.Second

// retriedRow is a task "t" with three attempts.
func retriedRow(exclusive ...string) Row {
	row := tRow(exclusive...)
	row.Retry = &task.Retry{Attempts: 3, Backoff: rest, MaxBackoff: rest}
	return row
}

// ends is x's report of how a run ended.
func (s *stage) ends(row *modelRow, outcome *taskv1.Outcome) event {
	return reportEvent{line: s.x, from: "life of x", report: &schedulerv1.Report{
		Finished: []*schedulerv1.Finish{{Claim: &schedulerv1.Claim{TaskId: row.ID, Claim: row.Claim}, Outcome: outcome}},
	}}
}

// resting brings a task to where its first attempt has failed.
func (s *stage) resting(exclusive ...string) *modelRow {
	s.t.Helper()
	row := s.db.add(retriedRow(exclusive...))
	if given := s.tick(offers(row)); !slices.Equal(given, []int64{row.Seq}) {
		s.t.Fatalf("given: %v", given)
	}
	s.tick(s.ends(row, failing("A")))
	if row.State != task.Waiting || len(row.failures) != 1 || s.leader.tasks[row.Seq].phase != resting {
		s.t.Fatalf("after the failure: %+v", row)
	}
	return row
}

// given fails the test unless x is given exactly these.
func (s *stage) given(what string, got []int64, want ...*modelRow) {
	s.t.Helper()
	var seqs []int64
	for _, row := range want {
		seqs = append(seqs, row.Seq)
	}
	if !slices.Equal(got, seqs) {
		s.t.Fatalf("%s: x was given %v, want %v", what, got, seqs)
	}
}

func (s *stage) confirmed() (claims []claimKey) {
	for _, o := range s.heard {
		if o.finished != nil {
			claims = append(claims, keyOf(o.finished))
		}
	}
	return claims
}

func (s *stage) refused() (claims []claimKey) {
	for _, o := range s.heard {
		if o.refused != nil {
			claims = append(claims, keyOf(o.refused.GetClaim()))
		}
	}
	return claims
}

func TestAFailedAttemptIsFollowedByAnotherWhichComesFirst(t *testing.T) {
	s := newStage(t)
	row, behind, free := s.db.add(retriedRow("a")), s.db.add(tRow("a")), s.db.add(tRow())
	s.given("at first", s.tick(offers(row, behind, free)), row, free)
	since := row.unblockedAt

	s.given("after the failure", s.tick(s.ends(row, failing("A"))))
	if diff := cmp.Diff([]claimKey{{row.ID, 1}}, s.confirmed(), cmp.AllowUnexported(claimKey{})); diff != "" {
		t.Errorf("x is told that the end is noted: -want +got\n%s", diff)
	}
	if row.State != task.Waiting || row.Attempt != 1 || row.unblockedAt != since || !row.RetryAt.Equal(s.now.Add(rest)) {
		t.Errorf("after the failure: %+v", row)
	}
	if len(s.changes) != 1 || s.changes[0].GetTaskId() != row.ID || s.changes[0].GetState() != taskv1.State_STATE_WAITING {
		t.Errorf("the followers heard %v", s.changes)
	}
	if n := len(s.leader.executors["life of x"].claims); n != 1 {
		t.Errorf("x has %d tasks, want the one that has no part in this", n)
	}

	s.now = s.now.Add(rest - time.Microsecond)
	s.given("before its time", s.tick())
	s.now = s.now.Add(time.Microsecond)
	s.given("in time", s.tick(), row)
	second := s.heard[slices.IndexFunc(s.heard, func(o order) bool { return o.assign != nil })].assign // it was announced before
	if row.Claim != 2 || row.Attempt != 2 || second.GetAttempt() != 2 || second.GetMaxAttempts() != 3 {
		t.Errorf("the second attempt: %+v, %v", row, second)
	}
	s.given("when it is completed", s.tick(s.ends(row, success())), behind)
	if row.State != task.Completed || row.unblockedAt != since {
		t.Errorf("at the end: %+v", row)
	}
}

func TestWhatIsNotToBeTriedAgainFailsForGood(t *testing.T) {
	none, twice, some := retriedRow("a"), retriedRow("a"), retriedRow("a")
	none.Retry, twice.Retry.Attempts, some.Retry.On = nil, 2, []string{"B"}
	for name, c := range map[string]struct {
		row   Row
		codes []string
		tries int32
	}{
		"it has no policy":          {none, []string{"A"}, 1},
		"no attempt is left":        {twice, []string{"A", "A"}, 2},
		"it would only be repeated": {retriedRow("a"), []string{"A", task.CodePermanent}, 2},
		"of another kind":           {some, []string{"B", "A"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			row, behind := s.db.add(c.row), s.db.add(tRow("a"))
			s.tick(offers(row, behind))
			for i, code := range c.codes {
				if row.Attempt != int32(i)+1 || row.State != task.Running {
					t.Fatalf("before failure %d: %+v", i+1, row)
				}
				given := s.tick(s.ends(row, failing(code)))
				if last := i == len(c.codes)-1; last {
					s.given("at the end", given, behind)
				} else {
					s.given("in between", given)
				}
				s.now = s.now.Add(rest)
				s.tick()
			}
			if row.State != task.Failed || row.Attempt != c.tries || len(row.failures) != len(c.codes)-1 {
				t.Errorf("at the end: %+v", row)
			}
		})
	}
}

// An immediate task's client waits for it. Nobody may ask for both, and a row that does so all the same is not tried again.
func TestAnImmediateTaskIsNotTriedAgain(t *testing.T) {
	s := newStage(t)
	ask := retriedRow()
	ask.Immediate = true
	row := s.db.add(ask)
	s.tick(offers(row))
	s.tick(s.ends(row, failing("A")))
	if row.State != task.Failed {
		t.Errorf("it is %s", row.State)
	}
}

// A pause can be of no length.
func TestATaskThatNeedsNoRestIsTriedAgainAtOnce(t *testing.T) {
	s := newStage(t)
	ask := retriedRow()
	ask.Retry.Backoff = 0
	row := s.db.add(ask)
	s.tick(offers(row))
	s.given("after the failure", s.tick(s.ends(row, failing("A"))), row)
}

func TestACancelMeetsAFailure(t *testing.T) {
	for name, meet := range map[string]func(s *stage, row *modelRow) (given []int64){
		"it is committed first, and the leader has not heard of it": func(s *stage, row *modelRow) []int64 {
			s.db.cancel(row.Seq)
			return s.tick(s.ends(row, failing("A")))
		},
		"it is committed while the failure is on its way to the database": func(s *stage, row *modelRow) []int64 {
			s.db.between = func() { s.db.cancel(row.Seq) }
			return s.tick(s.ends(row, failing("A")))
		},
		"the executor is told, and fails": func(s *stage, row *modelRow) []int64 {
			s.db.cancel(row.Seq)
			s.given("when it is canceled", s.tick(offerEvent{}))
			if row.State != task.Canceling || !slices.ContainsFunc(s.heard, func(o order) bool { return o.cancel != nil }) {
				s.t.Errorf("it is %s, x heard %v", row.State, s.heard)
			}
			s.db.planned = func(p *Plan) {
				if len(p.Retry) > 0 {
					s.t.Error("what is to be canceled is to be tried again")
				}
			}
			return s.tick(s.ends(row, failing("A")))
		},
		"the executor is lost while it is to be canceled": func(s *stage, row *modelRow) []int64 {
			s.db.cancel(row.Seq)
			s.db.end(Gone{Incarnation: "life of x"})
			s.x = join(s.leader, "y", 10, "t")
			return s.tick(offerEvent{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			row, behind := s.db.add(retriedRow("a")), s.db.add(tRow("a"))
			s.tick(offers(row, behind))
			s.given("afterwards", meet(s, row), behind)
			if row.State != task.Canceled || len(row.failures) != 0 {
				t.Errorf("afterwards: %+v", row)
			}
			if n := len(s.leader.tasks); n != 1 || len(s.leader.resting) != 0 {
				t.Errorf("%d tasks are left, %d rest", n, len(s.leader.resting))
			}
		})
	}
}

func TestACancelMeetsARest(t *testing.T) {
	for name, meet := range map[string]func(s *stage, row *modelRow) (given []int64){
		"in its midst": func(s *stage, row *modelRow) []int64 {
			s.db.cancel(row.Seq)
			return s.tick(offerEvent{})
		},
		"right behind the failure, within its transaction's look": func(s *stage, row *modelRow) []int64 {
			s.now = s.now.Add(rest)
			s.tick()
			s.db.within = func() { s.db.cancel(row.Seq) }
			return s.tick(s.ends(row, failing("A")), offerEvent{})
		},
		"at its end, and nobody has heard of it": func(s *stage, row *modelRow) []int64 {
			s.db.cancel(row.Seq)
			s.now = s.now.Add(rest)
			return s.tick()
		},
		"at its end, while the claim is on its way to the database": func(s *stage, row *modelRow) []int64 {
			s.db.between = func() { s.db.cancel(row.Seq) }
			s.now = s.now.Add(rest)
			return s.tick()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			row := s.resting("a")
			behind := s.db.add(tRow("a"))
			s.given("what is behind it", s.tick(offers(behind)))
			s.given("afterwards", meet(s, row), behind)
			if row.State != task.Canceled {
				t.Errorf("it is %s", row.State)
			}
			s.tick(offerEvent{}) // for the wish that nobody has heard of
			s.now = s.now.Add(2 * rest)
			s.given("when the rest would be over", s.tick())
			if len(s.leader.tasks) != 1 || len(s.leader.resting) != 0 || len(s.db.cancels) != 0 {
				t.Errorf("left: tasks %v, %d rest, wishes %v", s.leader.tasks, len(s.leader.resting), s.db.cancels)
			}
		})
	}
}

func TestATaskOfALostExecutorIsTriedAgainIfItsPolicySaysSo(t *testing.T) {
	not := retriedRow("b")
	not.Retry.On = []string{"B"}
	s := newStage(t)
	again, plain, other := s.db.add(retriedRow("a")), s.db.add(tRow()), s.db.add(not)
	behind := s.db.add(tRow("a"))
	s.tick(offers(again, plain, other, behind))
	s.db.end(Gone{Incarnation: "life of x"})
	s.tick(offerEvent{})
	if want := []failure{{attempt: 1, claim: 1, code: task.CodeMissing}}; again.State != task.Waiting || !slices.Equal(again.failures, want) {
		t.Errorf("the one with a policy: %+v", again)
	}
	for _, row := range []*modelRow{plain, other} {
		if row.State != task.Failed || row.failure.Code != task.CodeMissing || row.failure.Reason != task.ReasonWorkerMissing {
			t.Errorf("task %d: %+v", row.Seq, row)
		}
	}
	s.x = join(s.leader, "y", 10, "t")
	s.given("while it rests", s.tick())
	s.now = s.now.Add(rest)
	s.given("after the rest", s.tick(), again)
}

// The new leader reads when the rest ends by the database's clock, which may be another. Behind it stands what was dispatched
// before it and became visible late.
func TestARestGoesOnOverATakeover(t *testing.T) {
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
		s := newStage(t)
		s.db.now = func() int64 { return s.now.Add(skew).UnixMicro() }
		s.takeOver() // with that clock
		s.tick()
		late := s.db.begin()
		before := s.db.insert(late, tRow("a"))
		row := s.resting("a")
		s.db.commit(late)
		s.now = s.now.Add(rest / 2)
		s.takeOver()
		s.given("after the takeover", s.tick())
		s.now = s.now.Add(rest/2 - time.Microsecond)
		s.given("before its time", s.tick())
		s.now = s.now.Add(time.Microsecond)
		s.given("in time", s.tick(), row)
		s.given("when it has ended", s.tick(s.ends(row, success())), before)
		s.tick(s.ends(before, success()))

		over := s.resting()
		s.now = s.now.Add(2 * rest)
		s.takeOver()
		s.given("one whose rest ended while nobody led", s.tick(), over)
	}
}

// The database's clock went back while a task rests: the time in its row is far away, the rest is not.
func TestARestDoesNotLastLongerBecauseAClockWentBack(t *testing.T) {
	s := newStage(t)
	row := s.resting("a")
	s.db.now = func() int64 { return s.now.Add(-time.Hour).UnixMicro() }
	s.takeOver()
	s.given("after the takeover", s.tick())
	s.now = s.now.Add(rest)
	s.given("when the longest pause is over", s.tick(), row)
}

// The answer to the write is lost, and the executor has not heard either: it says again what the new leader knows already.
func TestAFailureThatIsReportedAgainAfterATakeoverIsNoSecondOne(t *testing.T) {
	s := newStage(t)
	row := s.db.add(retriedRow("a"))
	s.tick(offers(row))
	written := true
	s.db.fail = &written
	if _, err := s.leader.tick(t.Context(), []event{s.ends(row, failing("A"))}, time.Hour); err == nil {
		t.Fatal("the answer was not lost")
	}
	s.takeOver()
	s.given("when it is said again", s.tick(s.ends(row, failing("A"))))
	if want := []claimKey{{row.ID, 1}}; !slices.Equal(s.refused(), want) || len(row.failures) != 1 || row.State != task.Waiting {
		t.Errorf("refused %v; %+v", s.refused(), row)
	}
	s.now = s.now.Add(rest)
	s.given("after the rest", s.tick(), row)
	if row.Attempt != 2 {
		t.Errorf("it is in attempt %d", row.Attempt)
	}
}

// The line breaks when the failure is written, and before its executor hears so.
func TestAFailureWhoseConfirmationIsLostIsNoSecondOne(t *testing.T) {
	for name, wait := range map[string]time.Duration{"it comes back at once": 0, "it comes back when the rest is over": rest} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			row := s.db.add(retriedRow("a"))
			s.tick(offers(row))
			ended, broken := s.ends(row, failing("A")), s.x
			s.db.between = func() { s.x.close(nil) }
			s.tick(ended)
			if len(s.heard) != 0 || row.State != task.Waiting {
				t.Fatalf("x heard %v; %+v", s.heard, row)
			}
			s.now = s.now.Add(wait)
			s.x = newLine()
			claim := &schedulerv1.Claim{TaskId: row.ID, Claim: 1}
			hello := &schedulerv1.Hello{Executor: "x", Incarnation: "life of x", Slots: 10, TaskNames: []string{"t"}, Held: []*schedulerv1.Claim{claim}, Line: 1}
			again := ended.(reportEvent)
			again.line = s.x
			given := s.tick(hangupEvent{line: broken, from: "life of x"}, helloEvent{line: s.x, hello: hello}, again)
			if wait > 0 {
				s.given("in time", given, row)
			} else {
				s.given("before its time", given)
			}
			if want := []claimKey{{row.ID, 1}, {row.ID, 1}}; !slices.Equal(s.refused(), want) || len(row.failures) != 1 {
				t.Errorf("refused %v; %+v", s.refused(), row)
			}
			s.now = s.now.Add(rest)
			s.tick()
			if row.State != task.Running || row.Attempt != 2 || row.Claim != 2 {
				t.Errorf("afterwards: %+v", row)
			}
		})
	}
}

// What was never taken over did not begin: it costs no attempt, and needs no rest.
func TestASecondAttemptThatNobodyTookOverIsGivenAgain(t *testing.T) {
	s := newStage(t)
	row := s.resting("a")
	behind := s.db.add(tRow("a"))
	s.tick(offers(behind))
	s.now = s.now.Add(rest)
	s.db.between = func() { s.x.close(nil) }
	s.tick()
	if row.State != task.Waiting || row.Attempt != 1 || row.Claim != 2 || len(row.failures) != 1 {
		t.Fatalf("afterwards: %+v", row)
	}
	if made := s.leader.tasks[row.Seq].attempts.made; made != 1 {
		t.Errorf("the leader believes in %d attempts", made)
	}
	for _, takeOver := range []bool{false, true} {
		if takeOver {
			s.db.between = func() { s.x.close(nil) }
			s.tick(s.ends(row, failing("A")))
			s.now = s.now.Add(rest)
			s.takeOver()
		} else {
			s.x = join(s.leader, "x", 10, "t")
		}
		s.given("to who is there", s.tick(), row)
	}
	if row.Attempt != 3 || row.Claim != 4 || len(row.failures) != 2 {
		t.Errorf("the third attempt: %+v", row)
	}
	s.given("at the end", s.tick(s.ends(row, failing("A"))), behind)
	if row.State != task.Failed {
		t.Errorf("after three attempts of three it is %s", row.State)
	}
}

func TestARestIsExplainedAndCounted(t *testing.T) {
	s := newStage(t)
	s.db.now = func() int64 { return s.now.Add(time.Hour).UnixMicro() }
	s.takeOver()
	s.tick()
	row := s.resting("a")
	behind := s.db.add(tRow("a"))
	s.tick(offers(behind))
	s.now = s.now.Add(6*time.Second + time.Millisecond)
	e := s.leader.explain(row.ID)
	if want := "Attempt 1 of 3 failed; the next one begins in 4s."; e.GetSummary() != want || !e.GetUnblocked() || !e.GetLive() {
		t.Errorf("explain: %v, want %q", e, want)
	}
	if !e.GetRetryAt().AsTime().Equal(*row.RetryAt) {
		t.Errorf("it says %s, the row %s", e.GetRetryAt().AsTime(), row.RetryAt)
	}
	if e := s.leader.explain(behind.ID); e.GetRetryAt() != nil || !strings.Contains(e.GetSummary(), row.ID) {
		t.Errorf("what is behind it: %v", e)
	}
	got := s.leader.survey()
	got.LongestBlocked, got.Queues = 0, nil // it was not said when it was dispatched
	if diff := cmp.Diff(Survey{Blocked: 1, Resting: 1, Slots: 10, Free: 10, Executors: 1}, got); diff != "" {
		t.Errorf("counted: -want +got\n%s", diff)
	}
	s.now = s.now.Add(rest)
	if e := s.leader.explain(row.ID); !strings.HasSuffix(e.GetSummary(), "begins now.") {
		t.Errorf("when it is due: %v", e)
	}
	s.tick()
	if e := s.leader.explain(row.ID); e.GetRetryAt() != nil {
		t.Errorf("while it runs: %v", e)
	}
}

// A million of them are kept. Above this the allocator's next size is 112 bytes.
func TestALiveTaskHasNotGrown(t *testing.T) {
	if size := unsafe.Sizeof(live{}); size > 96 {
		t.Errorf("a live task takes %d bytes", size)
	}
}

// ownDatabase is a model database whose lease is always to be had.
type ownDatabase struct {
	mu sync.Mutex
	*modelDatabase
	modelLatencies
}

func (*ownDatabase) Take(context.Context, Bid) (Seat, error)              { return Seat{Taken: true, Epoch: 1}, nil }
func (*ownDatabase) Renew(context.Context, int64) error                   { return nil }
func (*ownDatabase) Yield(context.Context, int64) error                   { return nil }
func (*ownDatabase) Evict(context.Context) (int, error)                   { return 0, nil }
func (*ownDatabase) Living(context.Context, string, string) (bool, error) { return true, nil }

func (*ownDatabase) Particulars(context.Context, string) (*Particulars, error) { return nil, nil }

func (d *ownDatabase) Tick(ctx context.Context, epoch int64, plan *Plan) (*Report, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.modelDatabase.Tick(ctx, epoch, plan)
}

func (d *ownDatabase) Glance(ctx context.Context, epoch, high int64, owners []string) (Glimpse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.modelDatabase.Glance(ctx, epoch, high, owners)
}

func (d *ownDatabase) Fire(ctx context.Context, epoch int64, fresh []Fresh) (Firing, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.modelDatabase.Fire(ctx, epoch, fresh)
}

// row reads a row when nothing is going on.
func (d *ownDatabase) row(seq int64) Row {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[seq].Row
}

// The looks are far apart: a rest must not last until the next one.
func TestAnIdleLeaderWakesWhenARestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &ownDatabase{modelDatabase: newModel()}
		db.epoch, db.epochNow = 1, 1
		db.modelDatabase.now = func() int64 { return time.Now().UnixMicro() }
		cfg := Defaults()
		cfg.Lease, cfg.LookEvery = 24*time.Hour, time.Hour
		service := New(cfg, db, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- service.Run(ctx) }()
		synctest.Wait()

		x := newLine()
		post := func(e event) {
			t.Helper()
			inbox, err := service.leading()
			if err != nil || !inbox.put(e) {
				t.Fatalf("nobody leads: %v", err)
			}
			synctest.Wait()
		}
		post(helloEvent{line: x, hello: &schedulerv1.Hello{Executor: "x", Incarnation: "life of x", Slots: 10, TaskNames: []string{"t"}}})
		// The longer rest begins first: the alarm must be put forward for the shorter one, and again for the longer.
		long, short := retriedRow(), retriedRow()
		short.Retry = &task.Retry{Attempts: 2, Backoff: 50 * time.Millisecond, MaxBackoff: time.Minute}
		rows := []*modelRow{db.add(long), db.add(short)}
		post(offers(rows...))
		for _, row := range rows {
			x.hear(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{{TaskId: row.ID, Claim: 1}}})
			post(reportEvent{line: x, from: "life of x", report: &schedulerv1.Report{Finished: []*schedulerv1.Finish{
				{Claim: &schedulerv1.Claim{TaskId: row.ID, Claim: 1}, Outcome: failing("A")},
			}}})
		}
		for _, seq := range []int64{rows[1].Seq, rows[0].Seq} {
			row := db.row(seq)
			if row.State != task.Waiting {
				t.Fatalf("task %d is %s", seq, row.State)
			}
			<-time.After(time.Until(*row.RetryAt) - time.Microsecond)
			if now := db.row(seq); now.State != task.Waiting {
				t.Errorf("task %d began before its time", seq)
			}
			<-time.After(time.Millisecond)
			if now := db.row(seq); now.State != task.Running || now.Attempt != 2 {
				t.Errorf("a millisecond after its rest task %d is %s", seq, now.State)
			}
			x.hear(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{{TaskId: row.ID, Claim: 2}}})
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

package scheduler

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTheLongestWaitIsTheOldestOfThoseWhoStillWait(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, now := waits{phase: ready}, int64(1)
		since := map[*live]int64{}
		var all []*live
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(*rapid.T) {
				one := &live{phase: ready}
				all, since[one] = append(all, one), now
				w.add(one, now)
			},
			"end": func(t *rapid.T) {
				if one := pick(t, "task", all); one.phase == ready {
					one.phase = claimed
					one.claim++
					delete(since, one)
				}
			},
			"begin again": func(t *rapid.T) {
				if one := pick(t, "task", all); one.phase != ready {
					one.phase, since[one] = ready, now
					w.add(one, now)
				}
			},
			"": func(t *rapid.T) {
				now += rapid.Int64Range(0, 3).Draw(t, "time")
				want := time.Duration(0)
				for _, at := range since {
					want = max(want, time.Duration(now-at)*time.Microsecond)
				}
				if got := w.longest(len(since), now); got != want {
					t.Fatalf("the longest wait is %v, want %v", got, want)
				}
			},
		})
	})
}

// One that waits for ever must not keep the million that came and went behind it.
func TestWhatDoesNotWaitAnyMoreIsForgottenBehindOneThatDoes(t *testing.T) {
	w := waits{phase: blocked}
	w.add(&live{phase: blocked}, 1)
	for i := range int64(10 * staleAbove) {
		one := &live{phase: blocked}
		w.add(one, i)
		one.phase = ready
	}
	if got := w.longest(1, 11); got != 10*time.Microsecond || len(w.list) != 1 {
		t.Errorf("the longest wait is %v, of %d on the list", got, len(w.list))
	}
}

func TestTheSurveyTellsTheLongestWaits(t *testing.T) {
	s := newStage(t)
	s.db.now = func() int64 { return s.now.Add(time.Hour).UnixMicro() } // its clock is another
	s.takeOver()
	s.tick()
	at := func(row *modelRow) *modelRow {
		row.CreatedAt = s.now.Add(time.Hour)
		return row
	}
	runs := at(s.db.add(tRow("a")))
	s.x = join(s.leader, "x", 1, "t")
	s.tick(offers(runs))
	blocked := at(s.db.add(tRow("a")))
	s.tick(offers(blocked))
	s.now = s.now.Add(3 * time.Second)
	waits := at(s.db.add(tRow()))
	s.tick(offers(waits))
	s.now = s.now.Add(2 * time.Second)
	if got := s.leader.survey(); got.LongestBlocked != 5*time.Second || got.LongestReady != 2*time.Second || got.Runnable() != 2 {
		t.Errorf("counted %+v", got)
	}
	load := s.leader.survey()
	if answer := load.load(); answer.GetRunnable() != 2 || answer.GetLongestReady().AsDuration() != 2*time.Second || answer.GetExecutors() != 1 {
		t.Errorf("the load is %v", answer)
	}
	// The first is over, what it blocked is next, and the other one waits on.
	s.tick(s.ends(runs, success()))
	s.now = s.now.Add(time.Second)
	if got := s.leader.survey(); got.LongestBlocked != 0 || got.LongestReady != 3*time.Second {
		t.Errorf("counted %+v after the first has ended", got)
	}
}

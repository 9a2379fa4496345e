package heartbeat_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// In these tests the database is a notebook and time is that of synctest: it passes when everybody waits.

// notebook is a database that does what the test says.
type notebook struct {
	heartbeat.Database

	beat func(ctx context.Context, incarnations []string) ([]string, error)

	mu     sync.Mutex
	writes []write
	sweeps []time.Time
	keeps  []time.Duration
}

type write struct {
	at           time.Time
	incarnations []string
}

// Beat notes a write and answers what the test says; everybody is alive if it says nothing.
func (n *notebook) Beat(ctx context.Context, incarnations []string) ([]string, error) {
	slices.Sort(incarnations)
	n.mu.Lock()
	n.writes = append(n.writes, write{time.Now(), incarnations})
	n.mu.Unlock()
	if n.beat == nil {
		return incarnations, nil
	}
	return n.beat(ctx, incarnations)
}

// Sweep notes when it was called, and fails: that must not end anything.
func (n *notebook) Sweep(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sweeps = append(n.sweeps, time.Now())
	return nil, errors.New("no database")
}

// Forget notes what is to be kept, and fails.
func (n *notebook) Forget(_ context.Context, keep time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keeps = append(n.keeps, keep)
	return errors.New("no database")
}

// started runs a service on a notebook until stop.
func started(t *testing.T, n *notebook) (s *heartbeat.Service, stop func()) {
	t.Helper()
	s = heartbeat.New(heartbeat.Config{FlushEvery: 2 * time.Second, SweepEvery: time.Hour, KeepFor: 24 * time.Hour}, n, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	synctest.Wait()
	return s, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

// beats sends beats at the same time and returns the way to their answers.
func beats(t *testing.T, s *heartbeat.Service, incarnations ...string) (answers chan error) {
	t.Helper()
	answers = make(chan error, len(incarnations))
	for _, incarnation := range incarnations {
		go func() { answers <- s.Beat(t.Context(), incarnation) }()
	}
	synctest.Wait()
	return answers
}

func TestFirstBeatIsWrittenAtOnceAndAllThatFollowTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{}
		s, stop := started(t, n)
		defer stop()
		begin := time.Now()
		if err := <-beats(t, s, "first"); err != nil {
			t.Error(err)
		}
		var crowd []string
		for i := range 1000 {
			crowd = append(crowd, fmt.Sprintf("%03d", i))
		}
		answers := beats(t, s, append(crowd, crowd...)...) // each of them twice
		if len(answers) != 0 {
			t.Errorf("%d beats confirmed before they were written", len(answers))
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if len(answers) != 2000 {
			t.Errorf("%d beats confirmed, want all", len(answers))
		}
		want := []write{{begin, []string{"first"}}, {begin.Add(2 * time.Second), crowd}}
		if diff := cmp.Diff(want, n.writes, cmp.AllowUnexported(write{})); diff != "" {
			t.Error(diff)
		}
		// After the quiet minute again at once.
		now := time.Now()
		if err := <-beats(t, s, "late"); err != nil || !n.writes[2].at.Equal(now) {
			t.Errorf("%v, written %s later", err, n.writes[2].at.Sub(now))
		}
	})
}

func TestBeatIsConfirmedOnlyAfterItWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := make(chan struct{})
		n := &notebook{beat: func(_ context.Context, i []string) ([]string, error) { <-written; return i, nil }}
		s, stop := started(t, n)
		defer stop()
		answer := beats(t, s, "a")
		if len(answer) != 0 {
			t.Error("confirmed while the database had not answered")
		}
		// One that comes while the write is under way is not part of it.
		late := beats(t, s, "a")
		close(written)
		if err := <-answer; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(late) != 0 {
			t.Error("a beat was confirmed by a write that began before it")
		}
		if err := <-late; err != nil || len(n.writes) != 2 {
			t.Errorf("%v after %d writes", err, len(n.writes))
		}
	})
}

func TestOnlyTheDeadAreFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{beat: func(_ context.Context, all []string) ([]string, error) {
			return slices.DeleteFunc(all, func(i string) bool { return i == "dead" }), nil
		}}
		s, stop := started(t, n)
		defer stop()
		<-beats(t, s, "first")
		dead, alive := beats(t, s, "dead", "dead"), beats(t, s, "a", "b")
		for range 2 {
			if err := <-dead; !errs.Is(err, errs.Fenced) {
				t.Errorf("the dead one is told %v", err)
			}
			if err := <-alive; err != nil {
				t.Errorf("a living one is told %v", err)
			}
		}
	})
}

func TestFailedWriteIsToldToAllOfItAndTheNextOneWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		n := &notebook{beat: func(context.Context, []string) ([]string, error) { return nil, boom }}
		s, stop := started(t, n)
		defer stop()
		<-beats(t, s, "first")
		answers := beats(t, s, "a", "b")
		for range 2 {
			if err := <-answers; !errors.Is(err, boom) {
				t.Errorf("told %v", err)
			}
		}
		n.beat = nil
		if err := <-beats(t, s, "a"); err != nil {
			t.Errorf("after the failure: %v", err)
		}
	})
}

func TestHangingDatabaseFailsBeatsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{beat: func(ctx context.Context, _ []string) ([]string, error) { <-ctx.Done(); return nil, ctx.Err() }}
		s, stop := started(t, n)
		defer stop()
		begin := time.Now()
		if err := <-beats(t, s, "a"); err == nil {
			t.Error("confirmed")
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("told after %s", took)
		}
	})
}

func TestStopAnswersEveryBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{}
		s, stop := started(t, n)
		<-beats(t, s, "first")
		waiting := beats(t, s, "a", "a", "b")
		stop()
		for range 3 {
			if err := <-waiting; !errs.Is(err, errs.Stopping) {
				t.Errorf("told %v", err)
			}
		}
		if err := <-beats(t, s, "c"); !errs.Is(err, errs.Stopping) {
			t.Errorf("a late one is told %v", err)
		}
	})
}

func TestStopInTheMiddleOfAWriteAnswersItsBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{beat: func(ctx context.Context, _ []string) ([]string, error) { <-ctx.Done(); return nil, ctx.Err() }}
		s, stop := started(t, n)
		answer := beats(t, s, "a")
		stop()
		if err := <-answer; err == nil {
			t.Error("confirmed")
		}
	})
}

func TestBeatWhoseCallerLeavesIsForgottenWithoutHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{}
		s, stop := started(t, n)
		defer stop()
		<-beats(t, s, "first")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Beat(ctx, "gone"); !errors.Is(err, context.Canceled) {
			t.Errorf("told %v", err)
		}
		if err := <-beats(t, s, "a"); err != nil {
			t.Error(err)
		}
	})
}

func TestSweepsAndForgetsGoOnWhileTheDatabaseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{}
		_, stop := started(t, n)
		defer stop()
		<-time.After(5*time.Hour + time.Minute)
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.sweeps) != 5 {
			t.Errorf("%d sweeps in 5 hours, one each hour", len(n.sweeps))
		}
		if diff := cmp.Diff(slices.Repeat([]time.Duration{24 * time.Hour}, 5), n.keeps); diff != "" {
			t.Errorf("forgets: %s", diff)
		}
	})
}

package heartbeat_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// In these tests the database is a notebook and time is that of synctest: it passes when everybody waits.

// notebook is a database that does what the test says.
type notebook struct {
	heartbeat.Database

	// ttl of everybody.
	ttl time.Duration
	// beat and sweep are what happens then; nil: everybody lives, and nobody is ever near his end.
	beat  func(ctx context.Context, beats []heartbeat.Beat) (heartbeat.Beaten, error)
	sweep func(ctx context.Context, belief heartbeat.Belief) (heartbeat.Swept, error)

	mu     sync.Mutex
	writes []write
	sweeps []time.Time
	keeps  []time.Duration
}

type write struct {
	at    time.Time
	beats []heartbeat.Beat
}

// living says that all beats are of the living.
func (n *notebook) living(beats []heartbeat.Beat) heartbeat.Beaten {
	return heartbeat.Beaten{At: time.Now(), TTLs: slices.Repeat([]time.Duration{n.ttl}, len(beats))}
}

// Beat notes a write.
func (n *notebook) Beat(ctx context.Context, beats []heartbeat.Beat) (heartbeat.Beaten, error) {
	n.mu.Lock()
	n.writes = append(n.writes, write{time.Now(), beats})
	n.mu.Unlock()
	if n.beat == nil {
		return n.living(beats), nil
	}
	return n.beat(ctx, beats)
}

// Sweep notes when it was called.
func (n *notebook) Sweep(ctx context.Context, belief heartbeat.Belief) (heartbeat.Swept, error) {
	n.mu.Lock()
	n.sweeps = append(n.sweeps, time.Now())
	n.mu.Unlock()
	if n.sweep == nil {
		return heartbeat.Swept{At: time.Now()}, nil
	}
	return n.sweep(ctx, belief)
}

// Forget notes what is to be kept, and fails.
func (n *notebook) Forget(_ context.Context, keep time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keeps = append(n.keeps, keep)
	return errors.New("no database")
}

// times are when beats were written, counted from begin, without those who beat.
func (n *notebook) times(begin time.Time) (times []time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.writes {
		times = append(times, w.at.Sub(begin))
	}
	return times
}

// statements counts them.
func (n *notebook) statements() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.writes) + len(n.sweeps)
}

// who is an incarnation by number; they are in order.
func who(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

// started runs a service with the settings of production on a database until stop. The first look for the silent is over.
func started(t *testing.T, db heartbeat.Database) (s *heartbeat.Service, stop func()) {
	t.Helper()
	s = heartbeat.New(heartbeat.Defaults(), db, &hinted{}, quiet())
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

// beats sends beats at the same time, each by a beater of its own, and returns the way to their answers.
func beats(t *testing.T, s *heartbeat.Service, incarnations ...int) (answers chan error) {
	t.Helper()
	answers = make(chan error, len(incarnations))
	for _, n := range incarnations {
		go func() { answers <- s.NewBeater().Beat(t.Context(), who(n)) }()
	}
	synctest.Wait()
	return answers
}

func TestFirstBeatIsWrittenAtOnceAndAllThatFollowTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{ttl: 30 * time.Second}
		s, stop := started(t, n)
		defer stop()
		begin := time.Now()
		if err := <-beats(t, s, 0); err != nil {
			t.Error(err)
		}
		var crowd []int
		for i := range 1000 {
			crowd = append(crowd, 1+i)
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
		// Of those who never beat before it is not known how long they have.
		if diff := gocmp.Diff([]time.Duration{0, 250 * time.Millisecond}, n.times(begin)); diff != "" {
			t.Error(diff)
		}
		second := n.writes[1].beats
		inOrder := slices.IsSortedFunc(second, func(a, b heartbeat.Beat) int { return cmp.Compare(a.Incarnation.String(), b.Incarnation.String()) })
		if len(second) != len(crowd) || !inOrder {
			t.Errorf("%d beats written, in order: %v; want one for each of %d, in order", len(second), inOrder, len(crowd))
		}
		// After the quiet minute again at once.
		now := time.Now()
		if err := <-beats(t, s, 5000); err != nil || !n.writes[2].at.Equal(now) {
			t.Errorf("%v, written %s later", err, n.writes[2].at.Sub(now))
		}
	})
}

func TestBeatsWaitForEachOtherNoLongerThanATenthOfTheShortestLife(t *testing.T) {
	for _, c := range []struct {
		ttls []time.Duration
		want time.Duration
	}{
		{[]time.Duration{time.Hour}, 3 * time.Second},
		{[]time.Duration{30 * time.Second, time.Hour}, 3 * time.Second},
		{[]time.Duration{30 * time.Second, 10 * time.Second}, time.Second},
		{[]time.Duration{10 * time.Second, 30 * time.Second, time.Second}, 100 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &notebook{}
			n.beat = func(_ context.Context, beats []heartbeat.Beat) (heartbeat.Beaten, error) {
				answer := heartbeat.Beaten{At: time.Now()}
				for _, b := range beats {
					answer.TTLs = append(answer.TTLs, c.ttls[binary.BigEndian.Uint64(b.Incarnation[8:])])
				}
				return answer, nil
			}
			s, stop := started(t, n)
			defer stop()
			var beaters []heartbeat.Beater
			for i := range c.ttls {
				beaters = append(beaters, s.NewBeater())
				if err := beaters[i].Beat(t.Context(), who(i)); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(time.Minute) // a quiet one
			all := func() {
				var group sync.WaitGroup
				for i, b := range beaters {
					group.Go(func() {
						if err := b.Beat(t.Context(), who(i)); err != nil {
							t.Error(err)
						}
					})
				}
				group.Wait()
			}
			if err := s.NewBeater().Beat(t.Context(), who(0)); err != nil {
				t.Error(err)
			}
			begin := time.Now()
			all()
			if took := time.Since(begin); took != c.want {
				t.Errorf("with %v they were written after %s, want %s", c.ttls, took, c.want)
			}
		})
	}
}

// Ten thousand executors with a time to live of 30 s, each beating four times in it.
func TestManyIdleExecutorsAreFewStatements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const executors, ttl = 10_000, 30 * time.Second
		n := &notebook{ttl: ttl}
		// Somebody's end is always near: the sweep is told when the next life could be over if nobody beat.
		n.sweep = func(context.Context, heartbeat.Belief) (heartbeat.Swept, error) {
			return heartbeat.Swept{At: time.Now(), Alive: true, Next: ttl * 3 / 4}, nil
		}
		s, stop := started(t, n)
		ctx, cancel := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		for i := range executors {
			crowd.Go(func() {
				b := s.NewBeater()
				pause := time.NewTimer(ttl / 4 * time.Duration(i) / executors)
				defer pause.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-pause.C:
					}
					pause.Reset(ttl / 4)
					if err := b.Beat(ctx, who(i)); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
		<-time.After(time.Minute)
		before := n.statements()
		<-time.After(2 * time.Minute)
		perSecond := float64(n.statements()-before) / 120
		cancel()
		crowd.Wait()
		stop()
		if perSecond < 0.3 || perSecond > 0.6 {
			t.Errorf("%.2f statements a second", perSecond)
		}
	})
}

func TestBeatIsConfirmedOnlyAfterItWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := make(chan struct{})
		n := &notebook{ttl: time.Minute}
		n.beat = func(_ context.Context, b []heartbeat.Beat) (heartbeat.Beaten, error) {
			<-written
			return n.living(b), nil
		}
		s, stop := started(t, n)
		defer stop()
		answer := beats(t, s, 1)
		if len(answer) != 0 {
			t.Error("confirmed while the database had not answered")
		}
		// One that comes while the write is under way is not part of it.
		late := beats(t, s, 1)
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
		n := &notebook{ttl: time.Minute}
		n.beat = func(_ context.Context, b []heartbeat.Beat) (heartbeat.Beaten, error) {
			answer := n.living(b)
			for i := range b {
				if b[i].Incarnation == who(4) {
					answer.TTLs[i] = 0
				}
			}
			return answer, nil
		}
		s, stop := started(t, n)
		defer stop()
		<-beats(t, s, 0)
		dead, alive := beats(t, s, 4, 4), beats(t, s, 3, 5)
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
		n := &notebook{ttl: time.Minute}
		n.beat = func(context.Context, []heartbeat.Beat) (heartbeat.Beaten, error) { return heartbeat.Beaten{}, boom }
		s, stop := started(t, n)
		defer stop()
		<-beats(t, s, 0)
		answers := beats(t, s, 1, 2)
		for range 2 {
			if err := <-answers; !errors.Is(err, boom) {
				t.Errorf("told %v", err)
			}
		}
		n.beat = nil
		if err := <-beats(t, s, 1); err != nil {
			t.Errorf("after the failure: %v", err)
		}
	})
}

func TestHangingDatabaseFailsBeatsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{beat: func(ctx context.Context, _ []heartbeat.Beat) (heartbeat.Beaten, error) {
			<-ctx.Done()
			return heartbeat.Beaten{}, ctx.Err()
		}}
		s, stop := started(t, n)
		defer stop()
		begin := time.Now()
		if err := <-beats(t, s, 1); err == nil {
			t.Error("confirmed")
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("told after %s", took)
		}
	})
}

func TestStopAnswersEveryBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{ttl: time.Minute}
		s, stop := started(t, n)
		<-beats(t, s, 0)
		waiting := beats(t, s, 1, 1, 2)
		stop()
		for range 3 {
			if err := <-waiting; !errs.Is(err, errs.Stopping) {
				t.Errorf("told %v", err)
			}
		}
		if err := <-beats(t, s, 3); !errs.Is(err, errs.Stopping) {
			t.Errorf("a late one is told %v", err)
		}
	})
}

func TestStopInTheMiddleOfAWriteAnswersItsBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{beat: func(ctx context.Context, _ []heartbeat.Beat) (heartbeat.Beaten, error) {
			<-ctx.Done()
			return heartbeat.Beaten{}, ctx.Err()
		}}
		s, stop := started(t, n)
		answer := beats(t, s, 1)
		stop()
		if err := <-answer; !errs.Is(err, errs.Stopping) {
			t.Errorf("told %v", err)
		}
	})
}

func TestBeatWhoseCallerLeavesIsForgottenWithoutHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{ttl: time.Minute}
		s, stop := started(t, n)
		defer stop()
		<-beats(t, s, 0)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.NewBeater().Beat(ctx, who(9)); !errors.Is(err, context.Canceled) {
			t.Errorf("told %v", err)
		}
		if err := <-beats(t, s, 1); err != nil {
			t.Error(err)
		}
	})
}

// What a beat says of its sender's line to the scheduler, and what becomes of it.
func TestWhoIsDeaf(t *testing.T) {
	const noLine = -1
	for name, c := range map[string]struct {
		heard []time.Duration // with each beat
		want  []heartbeat.Hearing
	}{
		"hears":                    {[]time.Duration{0, 30 * time.Second}, []heartbeat.Hearing{heartbeat.Hears, heartbeat.Hears}},
		"a line without a word":    {[]time.Duration{0, 31 * time.Second, 5}, []heartbeat.Hearing{heartbeat.Hears, heartbeat.Deaf, heartbeat.Hears}},
		"has not called yet":       {[]time.Duration{noLine, 0}, []heartbeat.Hearing{heartbeat.Undecided, heartbeat.Hears}},
		"the scheduler is gone":    {[]time.Duration{0, noLine, noLine, noLine}, []heartbeat.Hearing{heartbeat.Hears, heartbeat.Undecided, heartbeat.Deaf, heartbeat.Deaf}},
		"schedulers come and go":   {[]time.Duration{noLine, 0, noLine, 0}, []heartbeat.Hearing{heartbeat.Undecided, heartbeat.Hears, heartbeat.Undecided, heartbeat.Hears}},
		"from the line to no line": {[]time.Duration{31 * time.Second, noLine, noLine}, []heartbeat.Hearing{heartbeat.Deaf, heartbeat.Undecided, heartbeat.Deaf}},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &notebook{ttl: time.Minute}
			s, stop := started(t, n)
			defer stop()
			b := s.NewBeater()
			for _, silent := range c.heard {
				if err := b.BeatHearing(t.Context(), who(1), silent != noLine, silent); err != nil {
					t.Error(err)
				}
			}
			var got []heartbeat.Hearing
			for _, w := range n.writes {
				got = append(got, w.beats[0].Hearing)
			}
			if diff := gocmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		})
	}
}

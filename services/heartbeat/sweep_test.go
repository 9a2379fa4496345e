package heartbeat_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// begin registers an executor.
func begin(t *testing.T, s *heartbeat.Service, name string, ttl time.Duration) uuid.UUID {
	t.Helper()
	incarnation, err := s.Begin(t.Context(), heartbeat.App{Name: name, Kind: "worker", TTL: ttl}, "")
	if err != nil {
		t.Fatal(err)
	}
	return uuid.MustParse(incarnation)
}

// deaths notes how late each life is declared missing, by the end of its time.
func deaths(l *ledger) map[string]time.Duration {
	late := map[string]time.Duration{}
	l.missing = func(_ uuid.UUID, e *entry) { late[e.name] = time.Since(e.heard.Add(e.ttl)) }
	return late
}

// between fails the test if a life was not declared missing, or not in time.
func between(t *testing.T, late map[string]time.Duration, name string, least, most time.Duration) {
	t.Helper()
	if d, dead := late[name]; !dead || d < least || d > most {
		t.Errorf("%s was declared missing %s after its end (%v), want %s to %s", name, d, dead, least, most)
	}
}

func TestSilentIsDeclaredMissingWithinASecondOfItsEnd(t *testing.T) {
	check := func(ttl time.Duration, beats bool) {
		synctest.Test(t, func(t *testing.T) {
			l := newLedger()
			late := deaths(l)
			s, stop := started(t, l)
			defer stop()
			pass(64 * time.Second) // between two looks
			id, b := begin(t, s, "w", ttl), s.NewBeater()
			pass(ttl / 3)
			if beats {
				if err := b.Beat(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			before := l.statements()
			pass(ttl + time.Second)
			between(t, late, "w", 0, time.Second)
			if n, most := l.statements()-before, 4+int(ttl/(10*time.Second)); n > most {
				t.Errorf("ttl %s: %d statements until then, want %d at most", ttl, n, most)
			}
		})
	}
	for _, ttl := range []time.Duration{time.Second, 1500 * time.Millisecond, 10 * time.Second, 30 * time.Second, time.Hour} {
		check(ttl, true)
		check(ttl, false)
	}
}

// Who registered with one service is found by the other, within a second if that has heard of him in any way.
func TestSilentIsFoundByWhoeverIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		late := deaths(l)
		first, stopFirst := started(t, l)
		second, stopSecond := started(t, l)
		defer stopSecond()
		pass(14 * time.Second)
		a, b, c := begin(t, first, "seen", 15*time.Second), begin(t, first, "beats", time.Second), begin(t, first, "unseen", 2*time.Second)
		if err := second.NewBeater().Beat(t.Context(), b); err != nil {
			t.Error(err)
		}
		stopFirst()
		pass(30 * time.Second)
		_, _ = a, c
		between(t, late, "seen", 0, time.Second)
		between(t, late, "beats", 0, time.Second)
		between(t, late, "unseen", 0, 10*time.Second)
	})
}

func TestBeatsAreWrittenBeforeAnybodyIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		late := deaths(l)
		s, stop := started(t, l)
		defer stop()
		id := begin(t, s, "w", 10*time.Second)
		b := s.NewBeater()
		if err := b.Beat(t.Context(), id); err != nil {
			t.Error(err)
		}
		// Its next beat is there, but waits for others, when its time is over and somebody looks.
		l.mu.Lock()
		l.lives[id].beaten = l.clock().Add(-time.Hour)
		l.mu.Unlock()
		s.HasKnownTheClockFor(24 * time.Hour)
		answer := make(chan error, 1)
		go func() { answer <- b.Beat(t.Context(), id) }()
		synctest.Wait()
		if s.Pending() != 1 {
			t.Fatal("the beat does not wait")
		}
		s.SweepNow()
		if err := <-answer; err != nil || len(late) != 0 {
			t.Errorf("told %v, missing: %v", err, late)
		}
	})
}

// The clock is set while executors beat, some of them cease to, and somebody wants a name.
func TestClockThatIsSetMakesNobodyMissing(t *testing.T) {
	for _, by := range []time.Duration{time.Second, 5 * time.Minute, 24 * time.Hour, -time.Second, -5 * time.Minute, -24 * time.Hour} {
		for _, beating := range []bool{true, false} { // between the step and the first look
			synctest.Test(t, func(t *testing.T) {
				l := newLedger()
				late := deaths(l)
				s, stop := started(t, l)
				defer stop()
				pass(time.Minute)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				alive := begin(t, s, "alive", 10*time.Second)
				begin(t, s, "dead", 10*time.Second)
				begin(t, s, "long silent", 10*time.Second)
				pass(9 * time.Second)
				if !beating {
					l.setBy(by)
				}
				go func() {
					defer close(ended)
					b := s.NewBeater()
					for ctx.Err() == nil {
						if err := b.Beat(ctx, alive); err != nil && ctx.Err() == nil {
							t.Errorf("set by %s: told %v", by, err)
							return
						}
						_ = during(ctx, 2500*time.Millisecond)
					}
				}()
				if beating {
					synctest.Wait()
					l.setBy(by)
				}
				if _, err := s.Begin(t.Context(), heartbeat.App{Name: "long silent", Kind: "worker", TTL: 10 * time.Second}, ""); !errs.Is(err, errs.NameTaken) {
					t.Errorf("set by %s: a name of somebody who was silent for 9 of 10 s: %v", by, err)
				}
				pass(24 * time.Second)
				cancel()
				<-ended
				if _, dead := late["alive"]; dead {
					t.Errorf("set by %s: one that beats is declared missing", by)
				}
				// Its whole time counts anew from when the step is noticed, which a look each ten seconds does.
				// What is less than a tenth of the time since the last look is not noticed; its own end came earlier.
				between(t, late, "dead", -time.Second, 21*time.Second)
				between(t, late, "long silent", -time.Second, 21*time.Second)
			})
		}
	}
}

// One that has just begun knows nothing of what happened to the clock before.
func TestServiceThatJustBeganGivesEverybodyHisWholeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		late := deaths(l)
		id := who(1)
		l.lives[id] = &entry{name: "w", ttl: 10 * time.Second, beaten: time.Now().Add(-time.Hour), heard: time.Now()}
		s, stop := started(t, l)
		defer stop()
		if _, err := s.Begin(t.Context(), heartbeat.App{Name: "w", Kind: "worker", TTL: 10 * time.Second}, ""); !errs.Is(err, errs.NameTaken) {
			t.Errorf("its name: %v", err)
		}
		pass(12 * time.Second)
		between(t, late, "w", 0, time.Second)
	})
}

// A statement that was sent before the clock was set, or the service stopped for a while, and arrives after.
func TestLookThatArrivesLateDeclaresNobodyMissingWhoLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		late := deaths(l)
		s, stop := started(t, l)
		defer stop()
		begin(t, s, "w", 5*time.Second)
		pass(4 * time.Second)
		l.slow = func() (there, run, back time.Duration) { return 500 * time.Millisecond, 0, 0 }
		s.SweepNow()
		pass(100 * time.Millisecond)
		l.setBy(time.Hour) // the look is on its way
		pass(time.Second)
		synctest.Wait()
		if len(late) != 0 {
			t.Errorf("missing: %v", late)
		}
	})
}

func TestLooksGoOnWhileTheDatabaseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{}
		n.sweep = func(context.Context, heartbeat.Belief) (heartbeat.Swept, error) {
			return heartbeat.Swept{}, errors.New("no database")
		}
		_, stop := started(t, n)
		defer stop()
		pass(5*time.Hour + time.Minute)
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if want := 1 + 5*3600 + 60; len(n.sweeps) < want-1 || len(n.sweeps) > want {
			t.Errorf("%d looks in 5 hours, want one each second", len(n.sweeps))
		}
		want := []time.Duration{24 * time.Hour, 24 * time.Hour, 24 * time.Hour, 24 * time.Hour, 24 * time.Hour}
		if diff := cmp.Diff(want, n.keeps); diff != "" {
			t.Errorf("forgets: %s", diff)
		}
	})
}

// Nobody lives, or everybody has time: a look each ten seconds, for those who register elsewhere.
func TestLooksAreRareWhileNobodyCanBeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		s, stop := started(t, l)
		defer stop()
		before := l.statements()
		pass(10 * time.Minute)
		if n := l.statements() - before; n < 59 || n > 61 {
			t.Errorf("%d looks in ten minutes while nobody lives, want 60", n)
		}
		begin(t, s, "w", time.Hour)
		before = l.statements()
		pass(10 * time.Minute)
		if n := l.statements() - before; n < 59 || n > 61 {
			t.Errorf("%d looks in ten minutes while somebody has an hour, want 60", n)
		}
	})
}

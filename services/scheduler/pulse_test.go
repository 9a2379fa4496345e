package scheduler

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

// beats takes the numbers of the pulses that are on a line.
func beats(w *line) (numbers []int64) {
	orders, _, _ := w.take()
	for _, o := range orders {
		if o.pulse != 0 {
			numbers = append(numbers, o.pulse)
		}
	}
	return numbers
}

func TestALineBeatsAsLongAsItsExecutorSaysSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLine()
		w.put(order{welcome: &schedulerv1.Welcome{}})
		p := startPulse(w, 5*time.Second, func() { t.Error("it counts as deaf") })
		last := int64(0)
		for range 60 {
			<-time.After(time.Second)
			synctest.Wait()
			for _, number := range beats(w) {
				if number != last+1 {
					t.Errorf("pulse %d after %d", number, last)
				}
				last = number
				p.hear()
			}
		}
		if last != 12 {
			t.Errorf("%d pulses in a minute, want 12", last)
		}
		w.close(nil)
		p.stop()
		<-time.After(time.Minute)
	})
}

// Whoever hears nothing is cut off, though somebody else's goroutine may hang while it sends to him.
func TestTheLineOfAnExecutorThatAnswersNothingIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLine()
		var deaf atomic.Int32
		w.put(order{welcome: &schedulerv1.Welcome{}})
		p := startPulse(w, 5*time.Second, func() { deaf.Add(1) })
		defer p.stop()
		<-time.After(15*time.Second - time.Nanosecond)
		synctest.Wait()
		if deaf.Load() != 0 {
			t.Error("cut before three pauses were over")
		}
		<-time.After(5 * time.Second)
		synctest.Wait()
		if _, closed, err := w.take(); deaf.Load() != 1 || !closed || !errs.Is(err, errs.BadProtocol) {
			t.Errorf("deaf %d times, closed %v with %v", deaf.Load(), closed, err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if n := deaf.Load(); n != 1 {
			t.Errorf("deaf %d times", n)
		}
	})
}

// A hello waits for a tick, and its answer must come first.
func TestNoPulseIsSaidBeforeTheWelcome(t *testing.T) {
	w := newLine()
	if said, open := w.beat(); said || !open || len(beats(w)) > 0 {
		t.Error("a pulse before the welcome, or no more after it")
	}
	w.put(order{welcome: &schedulerv1.Welcome{}})
	if said, open := w.beat(); !said || !open || len(beats(w)) != 1 {
		t.Error("no pulse after the welcome")
	}
	w.close(nil)
	if said, open := w.beat(); said || open {
		t.Error("a pulse after the end")
	}
}

func TestWhoWaitsForAWelcomeIsNotDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLine()
		p := startPulse(w, 5*time.Second, func() { t.Error("it counts as deaf") })
		defer p.stop()
		<-time.After(time.Minute)
		w.put(order{welcome: &schedulerv1.Welcome{}})
		<-time.After(15*time.Second - time.Nanosecond)
		synctest.Wait()
	})
}

func TestNobodyBeatsWhoIsNotAskedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLine()
		w.put(order{welcome: &schedulerv1.Welcome{}})
		p := startPulse(w, 0, func() { t.Error("it counts as deaf") })
		defer p.stop()
		<-time.After(time.Hour)
		synctest.Wait()
		if n := len(beats(w)); n > 0 {
			t.Errorf("%d pulses", n)
		}
	})
}

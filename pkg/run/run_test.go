package run_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/run"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// In these tests time is that of synctest: it passes when everybody waits.

func ladder(loops ...run.Loop) *run.Ladder {
	l := run.NewLadder(slog.New(slog.DiscardHandler))
	for _, loop := range loops {
		l.Add(loop)
	}
	return l
}

// obedient is a loop that takes some time to stop, and tells when it does.
func obedient(name string, takes time.Duration, events chan<- string) run.Loop {
	return run.Loop{Name: name, Grace: time.Minute, Run: func(ctx context.Context) error {
		events <- name + " starts"
		<-ctx.Done()
		events <- name + " is told"
		<-time.After(takes)
		events <- name + " has ended"
		return nil
	}}
}

func collect(events chan string) []string {
	close(events)
	var all []string
	for e := range events {
		all = append(all, e)
	}
	return all
}

func TestLastAddedStopsFirstAndEachAfterTheOneAboveHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan string, 100)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		// The lowest would be the quickest, and must wait all the same.
		l := ladder(obedient("database", 0, events), obedient("scheduler", 5*time.Second, events), obedient("gateway", 9*time.Second, events))
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		for range 3 {
			if e := <-events; !strings.HasSuffix(e, " starts") {
				t.Errorf("%s before all had started", e)
			}
		}
		start := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a clean stop is %v", err)
		}
		want := []string{
			"gateway is told", "gateway has ended", "scheduler is told", "scheduler has ended", "database is told", "database has ended",
		}
		if diff := cmp.Diff(want, collect(events)); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(start); took != 14*time.Second {
			t.Errorf("stopping took %s, want one after the other: 14s", took)
		}
	})
}

func TestLoopsAreNotStoppedBeforeTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
		lowerAlive := false
		var lower context.Context
		l := ladder(
			run.Loop{Name: "lower", Grace: time.Minute, Run: func(ctx context.Context) error {
				lower = ctx
				<-ctx.Done()
				return nil
			}},
			run.Loop{Name: "upper", Grace: time.Minute, Run: func(ctx context.Context) error {
				<-ctx.Done()
				lowerAlive = lower.Err() == nil
				return nil
			}},
		)
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !lowerAlive {
			t.Error("the lower loop was told to stop before the upper one had ended")
		}
		if lower.Value(key{}) != "kept" {
			t.Error("the values of the context did not reach the loop")
		}
	})
}

type key struct{}

func TestFirstLoopThatFailsStopsAllAndItsErrorIsReturnedWithItsName(t *testing.T) {
	for _, failing := range []int{0, 1, 2} {
		synctest.Test(t, func(t *testing.T) {
			boom := errors.New("boom")
			events := make(chan string, 100)
			loops := []run.Loop{obedient("a", time.Second, events), obedient("b", time.Second, events)}
			bad := run.Loop{Name: "bad", Grace: time.Minute, Run: func(context.Context) error {
				<-time.After(time.Second)
				return boom
			}}
			loops = append(loops[:failing:failing], append([]run.Loop{bad}, loops[failing:]...)...)
			err := ladder(loops...).Run(t.Context())
			if !errors.Is(err, boom) || err.Error() != "run bad: boom" {
				t.Errorf("got %v, want run bad: boom, once", err)
			}
			want := []string{"b is told", "b has ended", "a is told", "a has ended"}
			if diff := cmp.Diff(want, collect(events)[2:]); diff != "" {
				t.Errorf("the others: %s", diff)
			}
		})
	}
}

func TestLoopThatEndsByItselfWithoutErrorIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan string, 100)
		err := ladder(obedient("a", 0, events), run.Loop{Name: "short", Grace: time.Minute, Run: func(context.Context) error { return nil }}).Run(t.Context())
		if err == nil || err.Error() != "run short: ended by itself" {
			t.Errorf("got %v", err)
		}
		if got := collect(events); got[len(got)-1] != "a has ended" {
			t.Errorf("the other one was not stopped: %v", got)
		}
	})
}

func TestLoopThatDoesNotStopWithinItsGraceIsNamedAndTheOthersStopAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan string, 100)
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		l := ladder(
			obedient("below", 0, events),
			run.Loop{Name: "stubborn", Grace: 7 * time.Second, Run: func(context.Context) error {
				<-release
				return nil
			}},
			obedient("above", 0, events),
		)
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		start := time.Now()
		cancel()
		err := <-done
		if err == nil || err.Error() != "stop stubborn: still running after 7s" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 7*time.Second {
			t.Errorf("it was given %s, want 7s", took)
		}
		want := []string{"above is told", "above has ended", "below is told", "below has ended"}
		if diff := cmp.Diff(want, collect(events)[2:]); diff != "" {
			t.Error(diff)
		}
		close(release)
	})
}

func TestEveryTroubleOfTheStopIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stops := func(name string, err error) run.Loop {
			return run.Loop{Name: name, Grace: time.Minute, Run: func(ctx context.Context) error {
				<-ctx.Done()
				return err
			}}
		}
		boom, first, second := errors.New("boom"), errors.New("first"), errors.New("second")
		err := ladder(
			stops("a", second), stops("canceled", context.Canceled), stops("b", first),
			run.Loop{Name: "bad", Grace: time.Minute, Run: func(context.Context) error { return boom }},
		).Run(t.Context())
		want := "run bad: boom\nstop b: first\nstop a: second"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		for _, part := range []error{boom, first, second} {
			if !errors.Is(err, part) {
				t.Errorf("%v is not in it", part)
			}
		}
	})
}

func TestLoopsThatFailTogetherAreAllTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := func(name string) run.Loop {
			return run.Loop{Name: name, Grace: time.Minute, Run: func(context.Context) error { return errors.New(name + " broke") }}
		}
		err := ladder(fails("a"), fails("b")).Run(t.Context())
		for _, name := range []string{"a broke", "b broke"} {
			if err == nil || strings.Count(err.Error(), name) != 1 {
				t.Errorf("%s is not told once: %v", name, err)
			}
		}
	})
}

func TestEmptyLadderWaitsToBeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := ladder().Run(ctx); err != nil || ctx.Err() == nil {
			t.Errorf("it ended with %v, its context with %v", err, ctx.Err())
		}
	})
}

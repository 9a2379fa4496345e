package access_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/services/access"
)

const (
	here  = "192.0.2.1"
	there = "198.51.100.7"
)

// least is how long so many wrong guesses take, one after another, at least.
func least(n int) (total time.Duration) {
	for failures := range n {
		total += access.Pause(failures)
	}
	return total
}

func TestThreeWrongGuessesAreFreeAndPausesGrowToEightSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, start := access.NewGate(), time.Now()
		var waits []time.Duration
		for range 11 {
			before := time.Now()
			at, err := gate.Guess(t.Context(), "admin", here, false)
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, at.Sub(before))
		}
		const ms = time.Millisecond
		want := []time.Duration{0, 0, 0, 250 * ms, 500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 8000 * ms, 8000 * ms}
		if fmt.Sprint(waits) != fmt.Sprint(want) {
			t.Errorf("pauses %v, want %v", waits, want)
		}
		if took := time.Since(start); took != least(11) {
			t.Errorf("all took %s, want %s", took, least(11))
		}
	})
}

// However guesses are spread over time, addresses and goroutines: so many wrong ones for one name take at least as long as one after
// another, minus what was forgiven meanwhile.
func TestWrongGuessesForOneNameTakeTheirTimeHoweverTheyAreMade(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		addresses := rapid.IntRange(1, 20).Draw(r, "addresses")
		guesses := rapid.IntRange(1, 40).Draw(r, "guesses")
		takes := time.Duration(rapid.IntRange(0, 100).Draw(r, "takes")) * time.Millisecond
		within := rapid.IntRange(0, 10_000).Draw(r, "within")
		begins := make([]time.Duration, guesses)
		for i := range begins {
			begins[i] = time.Duration(rapid.IntRange(0, within).Draw(r, "begins")) * time.Millisecond
		}
		var problem string
		synctest.Test(t, func(t *testing.T) {
			gate, start := access.NewGate(), time.Now()
			var mu sync.Mutex
			var let []time.Time
			var all sync.WaitGroup
			for i, begin := range begins {
				all.Go(func() {
					access.Let(begin)
					at, err := gate.GuessSlowly(t.Context(), "admin", fmt.Sprintf("192.0.2.%d", i%addresses), false, takes)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						let = append(let, at)
					case !errs.Is(err, errs.Overloaded):
						problem = fmt.Sprintf("refused with %v", err)
					}
				})
			}
			all.Wait()
			if n := len(let); n == 0 {
				problem = "nobody was let in"
			} else if last := let[n-1].Sub(start); last < least(n) && time.Since(start) < access.ForgiveEvery {
				problem = fmt.Sprintf("%d wrong guesses within %s, want at least %s", n, last, least(n))
			}
			if took := time.Since(start); took > 2*access.Patience+30*time.Second {
				problem = fmt.Sprintf("somebody waited for %s", took)
			}
		})
		if problem != "" {
			r.Fatal(problem)
		}
	})
}

func TestRightPasswordsAreNeverHeldUpByOthersThatAreRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, start := access.NewGate(), time.Now()
		for i := range 200 {
			if _, err := gate.Guess(t.Context(), fmt.Sprint("user", i%7), here, true); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("they took %s", took)
		}
		// At the same time, each takes 25 ms: three at a time.
		var all sync.WaitGroup
		for i := range access.MostWaiting {
			all.Go(func() {
				if _, err := gate.GuessSlowly(t.Context(), fmt.Sprint("user", i), there, true, 25*time.Millisecond); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took, want := time.Since(start), 25*time.Millisecond*time.Duration((access.MostWaiting+2)/3); took != want {
			t.Errorf("together they took %s, want %s", took, want)
		}
	})
}

func TestWhoIsAttackedFromOneAddressWaitsForTwoPausesAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		ctx, stop := context.WithCancel(t.Context())
		var attackers sync.WaitGroup
		for range 20 {
			attackers.Go(func() {
				for ctx.Err() == nil {
					if _, err := gate.Guess(ctx, "admin", there, false); err != nil {
						access.Let(time.Second)
					}
				}
			})
		}
		for range 5 {
			access.Let(time.Minute + 777*time.Millisecond)
			before := time.Now()
			at, err := gate.Guess(t.Context(), "admin", here, true)
			if err != nil {
				t.Errorf("the administrator was refused: %v", err)
			} else if waited := at.Sub(before); waited > 2*access.LongestPause {
				t.Errorf("the administrator waited for %s", waited)
			}
		}
		stop()
		attackers.Wait()
	})
}

func TestWhoCameInBeforeFromHereDoesNotWaitForAttacksFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		if _, err := gate.Guess(t.Context(), "admin", here, true); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var attackers sync.WaitGroup
		for i := range 60 {
			attackers.Go(func() {
				for ctx.Err() == nil {
					if _, err := gate.Guess(ctx, "admin", fmt.Sprintf("203.0.113.%d", i), false); err != nil {
						access.Let(time.Second)
					}
				}
			})
		}
		for range 5 {
			access.Let(time.Minute)
			before := time.Now()
			at, err := gate.Guess(t.Context(), "admin", here, true)
			if err != nil || !at.Equal(before) {
				t.Errorf("let in after %s, %v", at.Sub(before), err)
			}
			// Elsewhere he would be a stranger.
			if _, err := gate.Guess(t.Context(), "admin", there, true); err == nil {
				continue
			} else if !errs.Is(err, errs.Overloaded) {
				t.Error(err)
			}
		}
		stop()
		attackers.Wait()
	})
}

// A crowd at other doors, however many addresses it comes from, is no reason to refuse who need not stand in line.
func TestWhoNeedNotWaitPassesWhileTheLinesAreFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		ctx, goAway := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		for i := range 3 * access.MostWaiting {
			crowd.Go(func() { _, _ = gate.Guess(ctx, fmt.Sprintf("name%d", i%60), fmt.Sprintf("192.0.2.%d", i%60), false) })
			crowd.Go(func() {
				_, _ = gate.GuessSlowly(ctx, fmt.Sprintf("name%d", i%60), fmt.Sprintf("192.0.2.%d", i%60), false, time.Second)
			})
		}
		access.Let(100 * time.Millisecond)
		if gate.Waiting() < access.MostWaiting {
			t.Fatalf("only %d wait", gate.Waiting())
		}
		if _, err := gate.Guess(t.Context(), "ada", there, true); err != nil {
			t.Errorf("who came while others waited was refused: %v", err)
		}
		if _, err := gate.Guess(t.Context(), "name1", there, true); err == nil {
			t.Error("who has to stand in line was not refused, although there is no room")
		}
		goAway()
		crowd.Wait()
	})
}

func TestAFriendsAddressHasPausesOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		if _, err := gate.Guess(t.Context(), "admin", here, true); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range 8 {
			if _, err := gate.Guess(t.Context(), "admin", here, false); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < least(8) {
			t.Errorf("eight guesses took %s, want %s", took, least(8))
		}
	})
}

func TestOneAddressThatTriesManyNamesIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, start := access.NewGate(), time.Now()
		for i := range 12 {
			// Of one subscriber's IPv6 network each has another address.
			if _, err := gate.Guess(t.Context(), fmt.Sprint("user", i), fmt.Sprintf("2001:db8:1:2::%x", i+1), false); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != least(12) {
			t.Errorf("twelve guesses took %s, want %s", took, least(12))
		}
	})
}

func TestFailuresAreForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		for range 30 {
			if _, err := gate.Guess(t.Context(), "admin", here, false); err != nil {
				t.Fatal(err)
			}
		}
		counted := gate.Failures("admin")
		access.Let(3*access.ForgiveEvery + time.Second)
		if got := gate.Failures("admin"); got != counted-3 {
			t.Errorf("%d failures after three minutes, were %d", got, counted)
		}
		access.Let(time.Hour)
		before := time.Now()
		for range access.Free {
			if _, err := gate.Guess(t.Context(), "admin", here, false); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("after an hour the free guesses took %s", took)
		}
	})
}

func TestAGuessThatCouldNotBeComparedIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, start := access.NewGate(), time.Now()
		for range 50 {
			if err := gate.Undecided(t.Context(), "admin", here); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("they took %s", took)
		}
	})
}

func TestRepetitionsArePausedWithoutBeingInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		var programs sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		for range 10 {
			programs.Go(func() {
				for ctx.Err() == nil {
					_ = gate.Repeat(ctx, "admin", here)
					access.Let(time.Millisecond)
				}
			})
		}
		access.Let(5 * time.Minute)
		before := time.Now()
		at, err := gate.Guess(t.Context(), "admin", here, true)
		if err != nil || !at.Equal(before) {
			t.Errorf("let in after %s, %v", at.Sub(before), err)
		}
		if err := gate.Repeat(t.Context(), "admin", here); err != nil || time.Since(before) != access.LongestPause {
			t.Errorf("a repetition took %s, %v", time.Since(before), err)
		}
		stop()
		programs.Wait()
	})
}

func TestOfTooManyRepetitionsSomeAreRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		for range 20 {
			_ = gate.Repeat(t.Context(), "admin", here)
		}
		var mu sync.Mutex
		refused := 0
		var all sync.WaitGroup
		for range access.MostWaiting + 5 {
			all.Go(func() {
				before := time.Now()
				if err := gate.Repeat(t.Context(), "admin", here); err != nil {
					checkCrowded(t, err)
					if time.Since(before) != 0 {
						t.Error("a refusal had to be waited for")
					}
					mu.Lock()
					defer mu.Unlock()
					refused++
				}
			})
		}
		all.Wait()
		if refused != 5 {
			t.Errorf("%d refused, want 5", refused)
		}
	})
}

func checkCrowded(t *testing.T, err error) {
	t.Helper()
	var own *errs.Error
	if !errors.As(err, &own) || own.Reason != errs.Overloaded || own.Code != codes.ResourceExhausted ||
		own.RetryAfter < time.Second || own.RetryAfter > access.LongestPause {
		t.Errorf("refused with %#v", err)
	}
}

func TestWhoCannotGuessInTimeIsToldWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		for range 9 {
			if _, err := gate.Guess(t.Context(), "admin", here, false); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				before := time.Now()
				at, err := gate.Guess(t.Context(), "admin", here, false)
				if err != nil {
					checkCrowded(t, err)
				} else if waited := at.Sub(before); waited > access.Patience {
					t.Errorf("waited for %s", waited)
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took > access.Patience {
			t.Errorf("the last was answered after %s", took)
		}
		if gate.Waiting() != 0 {
			t.Errorf("%d still wait", gate.Waiting())
		}
	})
}

func TestWhoGoesAwayLeavesTheLineAndMakesNoGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		for range 8 {
			if _, err := gate.Guess(t.Context(), "admin", here, false); err != nil {
				t.Fatal(err)
			}
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := gate.Guess(ctx, "admin", here, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		before := time.Now()
		at, err := gate.Guess(t.Context(), "admin", here, true)
		if err != nil || at.Sub(before) != access.LongestPause-time.Second {
			t.Errorf("let in after %s, %v", at.Sub(before), err)
		}
		if gate.Waiting() != 0 {
			t.Errorf("%d still wait", gate.Waiting())
		}
	})
}

func TestNobodyWaitsForAServiceThatStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		for range 8 {
			if _, err := gate.Guess(t.Context(), "admin", here, false); err != nil {
				t.Fatal(err)
			}
		}
		ended := make(chan error)
		go func() {
			_, err := gate.Guess(t.Context(), "admin", here, false)
			ended <- err
		}()
		synctest.Wait()
		before := time.Now()
		gate.Stop()
		if err := <-ended; !errs.Is(err, errs.Stopping) || time.Since(before) != 0 {
			t.Errorf("ended after %s with %v", time.Since(before), err)
		}
	})
}

// Who makes up names must not make the service forget the failures of one that matters, nor grow without end.
func TestWhatIsRememberedIsBoundedAndKeepsWhatMatters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate()
		for range 6 {
			if _, err := gate.Guess(t.Context(), "admin", here, false); err != nil {
				t.Fatal(err)
			}
		}
		for i := range access.MostDoors {
			if _, err := gate.Guess(t.Context(), fmt.Sprint("user", i), fmt.Sprintf("10.%d.%d.1", i/256, i%256), false); err != nil {
				t.Fatal(err)
			}
		}
		if n := gate.Doors(); n > access.MostDoors {
			t.Errorf("%d doors", n)
		}
		if n := gate.Failures("admin"); n != 6 {
			t.Errorf("admin has %d failures, had 6", n)
		}
	})
}

func TestAddressesAreCountedByTheirOwner(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "::1": "::/64",
		"": "", "somewhere": "somewhere",
	} {
		if got := access.Network(address); got != want {
			t.Errorf("%q is counted by %q, want %q", address, got, want)
		}
	}
}

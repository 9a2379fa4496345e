package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

const (
	soakVariable     = "SLUICE_SOAK" // for how long, as a duration
	soakSeedVariable = "SLUICE_SOAK_SEED"
	// soakWarmUp is how long tasks flow before the first reading.
	soakWarmUp = 4 * time.Second
	// longestCalm is more than it takes until both ends of a connection that broke have noticed.
	longestCalm = 15 * time.Second
)

// TestNothingIsLostAndNothingOverlapsInASoak has everything go wrong that can be drawn from a seed, on real processes, while tasks
// flow. Its two halves are followed by a rest each, in which all tasks end and it is read what the processes use.
//
//	make soak MINUTES=10 SEED=7
func TestNothingIsLostAndNothingOverlapsInASoak(t *testing.T) {
	length, seed := soakAsked(t)
	halves := [][]soakFault{drawFaults(seed, 1, length/2), drawFaults(seed, 2, length/2)}
	t.Logf("a soak of %s with seed %d", length, seed)
	for half, plan := range halves {
		for _, f := range plan {
			t.Logf("half %d  %s", half+1, f)
		}
	}
	r := newSoak(t, seed, min(longestCalm, length/12))
	r.half(soakWarmUp, nil)
	r.rest("at the beginning")
	r.half(length/2, halves[0])
	r.rest("in the middle")
	r.half(length/2, halves[1])
	r.rest("at the end")
	r.judge()
}

// soakAsked skips the test unless it is wanted.
func soakAsked(t *testing.T) (length time.Duration, seed uint64) {
	t.Helper()
	text := os.Getenv(soakVariable)
	if text == "" {
		t.Skip("it takes long: make soak")
	}
	length, err := time.ParseDuration(text)
	if err != nil || length < 10*time.Second {
		t.Fatalf("%s must be a duration of at least 10s, is %q", soakVariable, text)
	}
	if seed, err = strconv.ParseUint(os.Getenv(soakSeedVariable), 10, 64); err != nil {
		t.Fatalf("%s: %v", soakSeedVariable, err)
	}
	return length, seed
}

// half lets tasks flow for a time, in which the faults of a plan come and go. All of them are over when it returns, and everybody
// was started again.
func (r *soak) half(length time.Duration, plan []soakFault) {
	r.t.Helper()
	type action struct {
		at time.Duration
		do func()
	}
	var actions []action
	for _, f := range plan {
		var end func()
		actions = append(actions,
			action{f.At, func() {
				r.t.Logf("%s  begins: %s", r.clock(), f)
				end = r.begin(f)
			}},
			action{f.At + f.For, func() { end() }},
		)
	}
	slices.SortStableFunc(actions, func(a, b action) int { return int(a.at - b.at) })
	actions = append(actions, action{length, func() {}})
	stop := r.flow()
	began := time.Now()
	for _, a := range actions {
		wait := time.NewTimer(time.Until(began.Add(a.at)))
		<-wait.C
		a.do()
	}
	stop()
}

// clock is the time since the soak began, as it stands in the log.
func (r *soak) clock() string { return fmt.Sprintf("%8.3fs", time.Since(r.began).Seconds()) }

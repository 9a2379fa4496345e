package scheduler

import (
	"strings"
	"testing"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// After an outage everybody reports at once, and one statement takes only so much.
func TestATickTakesOnlySoManyBytesOfResults(t *testing.T) {
	mebibyte := finishEvent{finish: &schedulerv1.Finish{Outcome: &taskv1.Outcome{ResultJson: strings.Repeat("x", 1<<20)}}}
	var events []event
	for range tickBytes>>20 + 10 {
		events = append(events, offerEvent{}, mebibyte)
	}
	rounds, taken := 0, 0
	for rest := events; len(rest) > 0; rounds++ {
		var now []event
		now, rest = portion(rest)
		size := 0
		for _, e := range now {
			if f, ok := e.(finishEvent); ok {
				size += len(f.finish.GetOutcome().GetResultJson())
			}
		}
		if len(now) == 0 || size > tickBytes {
			t.Fatalf("a round of %d events and %d bytes", len(now), size)
		}
		taken += len(now)
	}
	if rounds != 2 || taken != len(events) {
		t.Errorf("%d of %d events in %d rounds", taken, len(events), rounds)
	}
}

package scheduler

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// After an outage everybody reports at once, and one statement takes only so much.
func TestATickTakesOnlySoManyBytesOfResults(t *testing.T) {
	half := &schedulerv1.Finish{Outcome: &taskv1.Outcome{ResultJson: strings.Repeat("x", 1<<19)}}
	mebibyte := reportEvent{report: &schedulerv1.Report{Finished: []*schedulerv1.Finish{half, half}}}
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
			if r, ok := e.(reportEvent); ok {
				for _, f := range r.report.GetFinished() {
					size += len(f.GetOutcome().GetResultJson())
				}
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

// An executor whose hello was put off to the next tick must not wait for a welcome from a leadership that is over.
func TestAHelloThatWasNotAppliedIsAnsweredWhenTheLeadershipEnds(t *testing.T) {
	l := newLeader(1, newModel(), slog.New(slog.DiscardHandler), time.Now, func([]*schedulerv1.Change) {})
	hello := helloEvent{line: newLine(), hello: &schedulerv1.Hello{}}
	l.disband([]event{offerEvent{}, hello})
	if _, closed, err := hello.line.take(); !closed || !errs.Is(err, errs.NotLeading) {
		t.Errorf("closed %v with %v", closed, err)
	}
}

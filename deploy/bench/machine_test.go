package main

import (
	"math"
	"testing"
)

func TestProcessorSharesLeaveOutWaitingAndWhatTheHostTook(t *testing.T) {
	before := parseCPU("cpu  100 0 100 1000 50 0 0 10 70 0")
	//                      +20    +20  +40  +10     +10  and guests, who are in user already
	after := parseCPU("cpu  120 0 120 1040 60 0 0 20 90 0")
	got := after.since(before)
	if math.Abs(got.busy-0.4) > 1e-9 || math.Abs(got.steal-0.1) > 1e-9 {
		t.Errorf("got %+v, want 0.4 busy and 0.1 stolen", got)
	}
	if got := before.since(before); got != (share{}) {
		t.Errorf("no time at all is shared as %+v", got)
	}
}

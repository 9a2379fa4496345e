package main

import (
	"reflect"
	"testing"
	"time"
)

func TestHeldComparesEachPhaseWithTheTimeBefore(t *testing.T) {
	rows := []heldRow{
		{phase: heldBefore, m: metrics{metricRate: 4000, metricServerCPU: 75}, dead: map[string]deadRows{"task": {live: 10, dead: 2, bytes: 1 << 20}}},
		{phase: heldLast, m: metrics{metricRate: 1000}, dead: map[string]deadRows{"task": {dead: 2000}}, after: 90 * time.Second},
	}
	want := [][]string{{"before", "", "4,000", "1.00", "75", "", ""}, {"held, at last", "1m30s", "1,000", "0.25", "", "", ""}}
	if got := heldRates(run{name: runX1000, tool: toolSluice}, rows)[1:]; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	dead := heldDead([]string{"task"}, rows)
	if got, want := dead[:2], [][]string{{"dead rows, living ones, size", "task"}, {"before", "2, 10, 1 MiB"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

package main

import (
	"regexp"
	"slices"
	"testing"
)

func names(runs []run) (names []string) {
	for _, r := range runs {
		names = append(names, r.name)
	}
	return names
}

func TestEachRoundMakesEveryRunOnceInAnOrderOfItsOwn(t *testing.T) {
	for _, quick := range []bool{false, true} {
		runs := plan(scaleOf(quick))
		first, second, again := names(inRound(runs, 1)), names(inRound(runs, 2)), names(inRound(runs, 1))
		if slices.Equal(first, second) {
			t.Errorf("rounds 1 and 2 have the same order: %v", first)
		}
		if !slices.Equal(first, again) {
			t.Errorf("round 1 is %v, and then %v", first, again)
		}
		slices.Sort(first)
		slices.Sort(second)
		if !slices.Equal(first, second) || len(slices.Compact(first)) != len(second) {
			t.Errorf("rounds differ in more than order: %v, %v", first, second)
		}
		once := names(inRound(runs, 0))
		if len(once)+len(second) != len(runs) || slices.ContainsFunc(once, func(name string) bool { return slices.Contains(second, name) }) {
			t.Errorf("%v once and %v in rounds is not %v", once, second, names(runs))
		}
	}
}

func TestGoalsAreAboutRunsOfOneKind(t *testing.T) {
	once := map[string]bool{}
	for _, r := range plan(scaleOf(false)) {
		once[r.name] = r.once
	}
	for _, g := range goals() {
		of, ok := once[g.of.run]
		if !ok {
			t.Errorf("%s: no run %q", g.says, g.of.run)
		}
		if g.to == (figure{}) {
			continue
		}
		to, ok := once[g.to.run]
		if !ok {
			t.Errorf("%s: no run %q", g.says, g.to.run)
		}
		if of != to {
			t.Errorf("%s: a ratio of figures that no round has both of", g.says)
		}
	}
}

func TestOnlyAndBacklogChoose(t *testing.T) {
	runs := plan(scaleOf(false))
	got := names(choose(runs, regexp.MustCompile("^(hot|many-waiting)$"), true))
	if !slices.Equal(got, []string{runHot, runMany}) {
		t.Errorf("got %v", got)
	}
	for _, r := range choose(runs, regexp.MustCompile(""), false) {
		if r.once {
			t.Errorf("%s was chosen without a backlog", r.name)
		}
	}
	if got := without(runs, toolPgbench); len(got) != len(runs)-4 {
		t.Errorf("without pgbench: %v", names(got))
	}
}

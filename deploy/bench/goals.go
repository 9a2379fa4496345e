package main

import "fmt"

// figure is a figure of a run.
type figure struct{ run, metric string }

// goal is one of the numbers that Sluice is built to. The figure itself, or its ratio to another one of the same round.
type goal struct {
	says   string
	of, to figure // to is empty when the figure itself is the goal
	atMost bool   // else at least
	must   float64
	aim    float64 // 0 when there is none beyond must
	unit   string  // of a figure; ratios have none
}

// goals are what the design promises, in its order. That ratios are what counts lets them hold on any machine.
func goals() []goal {
	rate := func(run string) figure { return figure{run, metricRate} }
	commit := figure{runSerial, metricCommitP50}
	return []goal{
		{says: "x1000, batches / pgbench insert", of: rate(runX1000), to: rate(runInsert), must: 1.0, aim: 2.0},
		{says: "x1000, batches / River burn-down", of: rate(runX1000), to: rate(runBurnDown), must: 0.5, aim: 1.0},
		{says: "x1000, batches / River continuous", of: rate(runX1000), to: rate(runContinuous), must: 0.6, aim: 1.2},
		{says: "x1000, 64 single dispatches / pgbench insert", of: rate(runSingles), to: rate(runInsert), must: 0.6, aim: 1.0},
		{says: "PostgreSQL CPU per task, x1000", of: figure{runX1000, metricCPU}, atMost: true, must: 150, aim: 80, unit: "µs"},
		{says: "commits per task, x1000", of: figure{runX1000, metricCommits}, atMost: true, must: 0.2, aim: 0.05},
		{
			says: "CPU per task, many waiting / few waiting", of: figure{runMany, metricCPU}, to: figure{runFew, metricCPU},
			atMost: true, must: 1.2,
		},
		{
			says: "start p50 at 50/s, many waiting / few waiting", of: figure{runManyLate, metricStartP50},
			to: figure{runFewLatency, metricStartP50}, atMost: true, must: 1.2,
		},
		{
			says: "start p50 at 50/s / median serial commit", of: figure{runLatency, metricStartP50}, to: commit,
			atMost: true, must: 5, aim: 3,
		},
		{
			says: "start p99 at 50/s / median serial commit", of: figure{runLatency, metricStartP99}, to: commit,
			atMost: true, must: 20, aim: 8,
		},
		{
			// A machine that is woken for each commit takes longer for it than one that is kept awake, and this is what a task
			// at that rate meets. It is shown beside the goal, not instead of it.
			says: "start p50 at 50/s / median commit at 50/s", of: figure{runLatency, metricStartP50},
			to: figure{runSlow, metricCommitP50}, atMost: true, must: 5, aim: 3,
		},
		{says: "hot / serial commit rate", of: rate(runHot), to: rate(runSerial), must: 0.3, aim: 0.5},
		{says: "random3 / hot", of: rate(runRandom3), to: rate(runHot), must: 2.5},
		{says: "shared / x1000", of: rate(runShared), to: rate(runX1000), must: 0.8},
	}
}

// verdict is how a goal was met.
type verdict string

const (
	missed  verdict = "MISS"
	passed  verdict = "pass"
	reached verdict = "pass, aim reached"
	unknown verdict = "not measured"
)

func (g goal) verdict(value float64) verdict {
	within := func(bound float64) bool {
		if g.atMost {
			return value <= bound
		}
		return value >= bound
	}
	switch {
	case !within(g.must):
		return missed
	case g.aim == 0 || !within(g.aim):
		return passed
	}
	return reached
}

// bound is a goal's limit as it stands in the table.
func (g goal) bound(limit float64) string {
	if limit == 0 {
		return ""
	}
	sign := "≥"
	if g.atMost {
		sign = "≤"
	}
	return fmt.Sprintf("%s %s", sign, g.number(limit))
}

func (g goal) number(value float64) string {
	if g.to != (figure{}) {
		return ratio(value)
	}
	if g.unit != "" {
		return plain(value) + " " + g.unit
	}
	return plain(value)
}

// of is the spread of a goal over the rounds: each ratio is one of figures of the same round, because a machine that slows
// down between rounds slows down both.
func (r results) of(g goal) (spread, bool) {
	over := r.rounds(g.of)
	if g.to == (figure{}) {
		var values []float64
		for _, value := range over {
			values = append(values, value)
		}
		return spreadOf(values)
	}
	under := r.rounds(g.to)
	var ratios []float64
	for round, value := range over {
		if other, ok := under[round]; ok && other > 0 {
			ratios = append(ratios, value/other)
		}
	}
	return spreadOf(ratios)
}

// rounds are the values of a figure by round; a run that failed has none.
func (r results) rounds(f figure) map[int]float64 {
	values := map[int]float64{}
	for _, rec := range r.Runs {
		if value, ok := rec.Metrics[f.metric]; ok && rec.Name == f.run && !rec.Failed {
			values[rec.Round] = value
		}
	}
	return values
}

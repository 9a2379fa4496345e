package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// StatsCmd says how long tasks waited and ran.
type StatsCmd struct {
	Name  string        `placeholder:"NAME" env:"-" help:"Only tasks of exactly this name."`
	Since time.Duration `default:"1h" placeholder:"DURATION" help:"Only tasks that finished within this time, 1s to 720h (${default})."`
	Connection
}

// Help is the longer explanation.
func (*StatsCmd) Help() string {
	return `UNBLOCK is the time from the dispatch until all resources were granted, START from there until an executor was given the task, RUN from there to the end: half of the tasks took at most the first figure, 95 in 100 at most the second. LONGEST is the longest run. With --output json: an array with a row for each name, times in seconds, with p50, p95, p99 and max.

    sluice stats --since 24h
    sluice stats --name command.run`
}

// Run prints the figures.
func (c *StatsCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		names, err := s.Stats(ctx, c.Name, c.Since)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(views(names, viewStats))
		case len(names) == 0:
			s.note("no task finished within the last %s", span(c.Since))
			return nil
		}
		rows := [][]string{{"NAME", "FINISHED", "FAILED", "CANCELED", "UNBLOCK", "START", "RUN", "LONGEST"}}
		for _, n := range names {
			rows = append(rows, []string{
				n.Name, strconv.FormatInt(n.Finished, 10), strconv.FormatInt(n.Failed, 10), strconv.FormatInt(n.Canceled, 10),
				halves(n.Unblock), halves(n.Start), halves(n.Run), span(n.Run.Max),
			})
		}
		s.printTable(rows)
		return nil
	})
}

func halves(p client.Percentiles) string { return span(p.P50) + "/" + span(p.P95) }

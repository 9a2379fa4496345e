package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// StatsCmd says how long tasks waited and ran.
type StatsCmd struct {
	Name   string        `placeholder:"NAME" env:"-" help:"Only tasks of exactly this name."`
	Domain string        `placeholder:"NAME" env:"-" help:"Only tasks of exactly this domain."`
	Since  time.Duration `default:"1h" placeholder:"DURATION" help:"Only what happened within this time, 1s to 720h (${default})."`
	Connection
}

// Help is the longer explanation.
func (*StatsCmd) Help() string {
	return `Three lines for each name: unblock is the time from the dispatch until all resources were granted, start from there until an executor was given the task, run from there to the end. Half of COUNT tasks took at most P50, 95 in 100 at most P95; these are right within 5 %, and MAX, the longest, is exact. Figures are kept by the minute for three hours, and by the hour for 30 days; --since is rounded up accordingly. What is canceled right after its dispatch, before the scheduler has seen it, is not counted. With --output json: an array with a row for each name and domain, times in seconds.

    sluice stats --since 24h
    sluice stats --name command.run`
}

// Run prints the figures.
func (c *StatsCmd) Run(ctx context.Context, env *Environment) error {
	if c.Since == 0 { // which asks for the default elsewhere
		return usage("--since: must be between 1s and 720h, is 0s")
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		stats, err := s.Stats(ctx, client.StatsQuery{Name: c.Name, Domain: c.Domain, Since: c.Since})
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(views(stats.Names, viewStats))
		case len(stats.Names) == 0:
			s.note("no task started or finished within the last %s", span(c.Since))
			return nil
		}
		rows := [][]string{{"NAME", "FINISHED", "FAILED", "CANCELED", "TIME TO", "COUNT", "P50", "P95", "P99", "MAX"}}
		for _, n := range stats.Names {
			rows = append(rows, statsRows(title(n), n)...)
		}
		if len(stats.Names) > 1 {
			rows = append(rows, statsRows("(all)", stats.Total)...)
		}
		s.printTable(rows)
		return nil
	})
}

// title names a row; the domain is told where it is not the usual one.
func title(n client.NameStats) string {
	if n.Domain == task.DefaultDomain || n.Domain == "" {
		return n.Name
	}
	return n.Name + " in " + n.Domain
}

// statsRows are the lines of one name.
func statsRows(name string, n client.NameStats) [][]string {
	count := func(of int64) string { return strconv.FormatInt(of, 10) }
	line := func(what string, p client.Percentiles, before ...string) []string {
		if p.Count == 0 {
			return append(before, what, "0", "-", "-", "-", "-")
		}
		return append(before, what, count(p.Count), span(p.P50), span(p.P95), span(p.P99), span(p.Max))
	}
	return [][]string{
		line("unblock", n.Unblock, name, count(n.Finished), failures(n), count(n.Canceled)),
		line("start", n.Start, "", "", "", ""),
		line("run", n.Run, "", "", "", ""),
	}
}

// failures is how many failed, and their share of the finished ones.
func failures(n client.NameStats) string {
	if n.Failed == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%.1f%%)", n.Failed, 100*n.FailureRate)
}

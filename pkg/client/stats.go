package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// StatsQuery says of which tasks to tell how they fared.
type StatsQuery struct {
	// Name and Domain are exact; empty means all.
	Name, Domain string
	// Since is how far back, 1 second to 30 days; 0 means an hour.
	Since time.Duration
}

// Stats tells how tasks fared.
type Stats struct {
	// From is from when on: what was asked for, rounded up to whole minutes, or hours if that was more than three.
	From time.Time
	// Total is of all tasks together; its name and domain are empty.
	Total NameStats
	// Names has one element for each name and domain, sorted by these; the thousand with the most finished tasks.
	Names []NameStats
}

// NameStats tells how the tasks of one name and domain fared.
type NameStats struct {
	Name, Domain string
	// Finished tasks have Completed, Failed or been Canceled. FailureRate is the share of those that failed, 0 to 1.
	Finished, Completed, Failed, Canceled int64
	FailureRate                           float64
	// Unblock is from dispatch until all resources were granted, Start from there until an executor was given it, both of tasks that
	// started within the window; Run is from there to the end, of those that ended.
	Unblock, Start, Run Percentiles
}

// Percentiles of Count times, right within 5 %; Max is exact.
type Percentiles struct {
	Count              int64
	P50, P95, P99, Max time.Duration
}

// Stats says how long tasks waited and ran, and how many failed. What happened in the last seconds before a leading scheduler died is
// not in it.
func (c *Client) Stats(ctx context.Context, q StatsQuery) (Stats, error) {
	request := &statusv1.GetStatsRequest{Name: q.Name, Domain: q.Domain}
	if q.Since != 0 {
		request.Since = durationpb.New(q.Since)
	}
	answer, err := c.status.GetStats(ctx, request)
	if err != nil {
		return Stats{}, err
	}
	stats := Stats{From: answer.GetFrom().AsTime(), Total: fromNameStats(answer.GetTotal()), Names: make([]NameStats, len(answer.GetNames()))}
	for i, n := range answer.GetNames() {
		stats.Names[i] = fromNameStats(n)
	}
	return stats, nil
}

func fromNameStats(n *statusv1.NameStats) NameStats {
	return NameStats{
		Name: n.GetName(), Domain: n.GetDomain(), Finished: n.GetFinished(), Completed: n.GetCompleted(), Failed: n.GetFailed(),
		Canceled: n.GetCanceled(), FailureRate: n.GetFailureRate(),
		Unblock: fromPercentiles(n.GetUnblock()), Start: fromPercentiles(n.GetStart()), Run: fromPercentiles(n.GetRun()),
	}
}

func fromPercentiles(p *statusv1.Percentiles) Percentiles {
	return Percentiles{
		Count: p.GetCount(), P50: seconds(p.GetP50()), P95: seconds(p.GetP95()), P99: seconds(p.GetP99()), Max: seconds(p.GetMax()),
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

package gateway

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// ReadTaskStats says how tasks fared. The status service adds it up from what is kept for each minute or hour.
func (s *tasks) ReadTaskStats(ctx context.Context, r *pulpv3.ReadTaskStatsRequest) (*pulpv3.ReadTaskStatsResponse, error) {
	ask := &statusv1.GetStatsRequest{Name: r.GetName(), Domain: r.GetDomain()}
	if since := r.GetSince(); since != 0 {
		if math.IsNaN(since) || math.Abs(since) > 2*limits.MaxSince.Seconds() { // what no time span can be
			return nil, renamed(errs.Invalid(errs.Violation{Field: "since", Rule: "must be between 1 and 2,592,000 seconds"}), nil)
		}
		ask.Since = durationpb.New(time.Duration(since * float64(time.Second)))
	}
	found, err := s.status.GetStats(ctx, ask)
	if err != nil {
		return nil, renamed(err, nil)
	}
	shown := &pulpv3.ReadTaskStatsResponse{From: found.GetFrom(), Total: shownStats(found.GetTotal())}
	for _, n := range found.GetNames() {
		shown.Results = append(shown.Results, shownStats(n))
	}
	return shown, nil
}

func shownStats(n *statusv1.NameStats) *pulpv3.TaskStats {
	return &pulpv3.TaskStats{
		Name: n.GetName(), Domain: n.GetDomain(), Finished: n.GetFinished(), Completed: n.GetCompleted(), Failed: n.GetFailed(),
		Canceled: n.GetCanceled(), FailureRate: n.GetFailureRate(),
		Unblock: shownPercentiles(n.GetUnblock()), Start: shownPercentiles(n.GetStart()), Run: shownPercentiles(n.GetRun()),
	}
}

// shownPercentiles are all 0 where nothing was measured.
func shownPercentiles(p *statusv1.Percentiles) *pulpv3.Percentiles {
	return &pulpv3.Percentiles{Count: p.GetCount(), P50: p.GetP50(), P95: p.GetP95(), P99: p.GetP99(), Max: p.GetMax()}
}

package gateway

import (
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// unavailable is what Pulp shows for a created resource that nobody may use yet.
const unavailable = "<unavailable>"

// prnPrefix begins a Pulp resource name.
const prnPrefix = "prn:"

// shownProgress shows a part of a task's work. The status service has filled in its state.
func shownProgress(p *taskv1.Progress) *pulpv3.ProgressReport {
	shown := &pulpv3.ProgressReport{
		Message: p.GetMessage(), Code: p.GetCode(), State: string(wire.FromState(p.GetState())), Total: p.Total, Done: p.GetDone(),
	}
	if suffix := p.GetSuffix(); suffix != "" {
		shown.Suffix = &suffix
	}
	return shown
}

func addCreated(t *pulpv3.Task, made *taskv1.CreatedResource) {
	name := made.GetResource()
	if made.GetIncomplete() {
		t.CreatedResources = append(t.CreatedResources, unavailable)
		return
	}
	t.CreatedResources = append(t.CreatedResources, name)
	if strings.HasPrefix(name, prnPrefix) {
		t.CreatedResourcePrns = append(t.CreatedResourcePrns, name)
	}
}

func shownAttempts(attempts []*statusv1.Attempt) []*pulpv3.Attempt {
	shown := make([]*pulpv3.Attempt, len(attempts))
	for i, a := range attempts {
		shown[i] = &pulpv3.Attempt{
			Attempt: a.GetAttempt(), Executor: a.GetExecutor(), StartedAt: a.GetStartedAt(), FinishedAt: a.GetEndedAt(),
			Error: shownError(taskv1.State_STATE_FAILED, a.GetError()),
		}
	}
	return shown
}

func shownRetry(r *taskv1.RetryPolicy) *pulpv3.Retry {
	if r == nil {
		return nil
	}
	return &pulpv3.Retry{MaxAttempts: r.GetMaxAttempts(), Backoff: seconds(r.GetBackoff()), MaxBackoff: seconds(r.GetMaxBackoff()), On: r.GetOn()}
}

// retryPolicy is the inverse of shownRetry.
func retryPolicy(r *pulpv3.Retry) *taskv1.RetryPolicy {
	if r == nil {
		return nil
	}
	policy := &taskv1.RetryPolicy{MaxAttempts: r.GetMaxAttempts(), On: r.GetOn()}
	if r.Backoff != nil {
		policy.Backoff = duration(r.GetBackoff())
	}
	if r.MaxBackoff != nil {
		policy.MaxBackoff = duration(r.GetMaxBackoff())
	}
	return policy
}

// seconds is null for what is unset.
func seconds(d *durationpb.Duration) *float64 {
	if d == nil {
		return nil
	}
	s := d.AsDuration().Seconds()
	return &s
}

// farAway is beyond every limit, and far from what a duration can't hold.
const farAway = 1e9

// duration is the inverse of seconds. What no duration could hold is cut to what every limit refuses.
func duration(s float64) *durationpb.Duration {
	return durationpb.New(time.Duration(math.Round(max(-farAway, min(s, farAway)) * float64(time.Second))))
}

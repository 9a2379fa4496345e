package gateway

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// schedulerOf is nil for no connection.
func schedulerOf(conn grpc.ClientConnInterface) schedulerv1.SchedulerServiceClient {
	if conn == nil {
		return nil
	}
	return schedulerv1.NewSchedulerServiceClient(conn)
}

// noScheduler answers where nobody can be asked.
func noScheduler() error { return errs.Away(errs.NotLeading, nil, "no scheduler can be asked") }

// ExplainTask says what stands between a task and its start, where it runs, or how it ended. What is not final only the leading
// scheduler knows; what is can be explained while nobody leads.
func (s *tasks) ExplainTask(ctx context.Context, r *pulpv3.ExplainTaskRequest) (*pulpv3.ExplainTaskResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noTask()
	}
	found, err := s.status.GetTask(ctx, &statusv1.GetTaskRequest{TaskId: id})
	if err != nil {
		return nil, notFoundAs(err, noTask())
	}
	if t := found.GetTask(); wire.FromState(t.GetState()).Final() {
		return explainFinal(t), nil
	}
	if s.scheduler == nil {
		return nil, noScheduler()
	}
	why, err := s.scheduler.Explain(ctx, &schedulerv1.ExplainRequest{TaskId: id})
	if err != nil {
		return nil, notFoundAs(err, noTask())
	}
	shown := s.hrefs.at(ctx).explanation(why)
	// What a scheduler that knows less leaves out.
	if why.GetState() == taskv1.State_STATE_UNSPECIFIED {
		shown.State = string(wire.FromState(found.GetTask().GetState()))
	}
	if why.GetCreatedAt() == nil {
		shown.PulpCreated = found.GetTask().GetCreatedAt()
	}
	return shown, nil
}

func explainFinal(t *taskv1.Task) *pulpv3.ExplainTaskResponse {
	state := wire.FromState(t.GetState())
	return &pulpv3.ExplainTaskResponse{
		State: string(state), Summary: fmt.Sprintf("It is %s: nothing is left to wait for.", state),
		Unblocked: t.GetUnblockedAt() != nil, PulpCreated: t.GetCreatedAt(), UnblockedAt: t.GetUnblockedAt(), StartedAt: t.GetStartedAt(),
		FinishedAt: t.GetFinishedAt(), Executor: optional(t.GetExecutor()),
	}
}

func (h hrefs) explanation(why *schedulerv1.ExplainResponse) *pulpv3.ExplainTaskResponse {
	shown := &pulpv3.ExplainTaskResponse{
		State: string(wire.FromState(why.GetState())), Summary: why.GetSummary(), Unblocked: why.GetUnblocked(),
		ExecutorsWithName: why.GetExecutorsWithName(), ExecutorsWithVersions: why.GetExecutorsWithVersions(), FreeSlots: why.GetFreeSlots(),
		RetryAt: why.GetRetryAt(), ReadyAhead: why.GetReadyAhead(), Executor: optional(why.GetExecutor()),
		StartedAt: why.GetStartedAt(), LastBeatAt: why.GetLastBeatAt(), ProgressAt: why.GetProgressAt(),
		PulpCreated: why.GetCreatedAt(), UnblockedAt: why.GetUnblockedAt(), FinishedAt: why.GetFinishedAt(),
	}
	if why.GetEstimate() != nil {
		left := why.GetEstimate().AsDuration().Seconds()
		shown.Estimate = &left
	}
	for _, wait := range why.GetWaits() {
		one := &pulpv3.ResourceWait{
			Resource: wait.GetResource(), Exclusive: wait.GetExclusive(), Ahead: wait.GetAhead(), AheadAtLeast: wait.GetAheadAtLeast(),
			Holders: h.uses(wait.GetHolders()), WaitingAhead: h.uses(wait.GetWaitingAhead()),
		}
		for _, holder := range wait.GetHolders() {
			one.HeldBy = append(one.HeldBy, h.of(collectionTasks, holder.GetTaskId()))
		}
		shown.Waits = append(shown.Waits, one)
	}
	for _, link := range why.GetChain() {
		shown.Chain = append(shown.Chain, &pulpv3.BlockerLink{Resource: link.GetResource(), Task: h.use(link.GetTask()), Standing: link.GetStanding()})
	}
	for _, near := range why.GetNearest() {
		one := &pulpv3.NearExecutor{Executor: near.GetExecutor()}
		for _, gap := range near.GetGaps() {
			one.Gaps = append(one.Gaps, &pulpv3.VersionGap{Component: gap.GetComponent(), Wanted: gap.GetWanted(), Has: gap.GetHas()})
		}
		shown.Nearest = append(shown.Nearest, one)
	}
	for _, part := range why.GetProgress() {
		shown.ProgressReports = append(shown.ProgressReports, shownProgress(part))
	}
	return shown
}

func (h hrefs) uses(uses []*schedulerv1.ResourceUse) []*pulpv3.ResourceUse {
	shown := make([]*pulpv3.ResourceUse, len(uses))
	for i, u := range uses {
		shown[i] = h.use(u)
	}
	return shown
}

func (h hrefs) use(u *schedulerv1.ResourceUse) *pulpv3.ResourceUse {
	return &pulpv3.ResourceUse{
		Task: h.of(collectionTasks, u.GetTaskId()), Name: u.GetName(), Exclusive: u.GetExclusive(), Granted: u.GetGranted(),
		Since: u.GetSince(), State: string(wire.FromState(u.GetState())), Executor: optional(u.GetExecutor()),
	}
}

// optional is null for nothing.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

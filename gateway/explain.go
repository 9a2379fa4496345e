package gateway

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// schedulerOf is nil for no connection.
func schedulerOf(conn grpc.ClientConnInterface) schedulerv1.SchedulerServiceClient {
	if conn == nil {
		return nil
	}
	return schedulerv1.NewSchedulerServiceClient(conn)
}

// ExplainTask says what stands between a task and its start. Only the leading scheduler knows.
func (s *tasks) ExplainTask(ctx context.Context, r *pulpv3.ExplainTaskRequest) (*pulpv3.ExplainTaskResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noTask()
	}
	found, err := s.status.GetTask(ctx, &statusv1.GetTaskRequest{TaskId: id})
	if err != nil {
		return nil, notFoundAs(err, noTask())
	}
	state := wire.FromState(found.GetTask().GetState())
	shown := &pulpv3.ExplainTaskResponse{State: string(state)}
	if state.Final() {
		shown.Summary = fmt.Sprintf("It is %s: nothing is left to wait for.", state)
		shown.Unblocked = found.GetTask().GetUnblockedAt() != nil
		return shown, nil
	}
	if s.scheduler == nil {
		return nil, errs.Away(errs.NotLeading, nil, "no scheduler can be asked")
	}
	why, err := s.scheduler.Explain(ctx, &schedulerv1.ExplainRequest{TaskId: id})
	if err != nil {
		return nil, err
	}
	shown.Summary, shown.Unblocked, shown.RetryAt = why.GetSummary(), why.GetUnblocked(), why.GetRetryAt()
	shown.ExecutorsWithName, shown.ExecutorsWithVersions = why.GetExecutorsWithName(), why.GetExecutorsWithVersions()
	shown.FreeSlots = why.GetFreeSlots()
	h := s.hrefs.at(ctx)
	for _, wait := range why.GetWaits() {
		one := &pulpv3.ResourceWait{Resource: wait.GetResource(), Exclusive: wait.GetExclusive(), Ahead: wait.GetAhead()}
		for _, holder := range wait.GetHolders() {
			one.HeldBy = append(one.HeldBy, h.of(collectionTasks, holder.GetTaskId()))
		}
		shown.Waits = append(shown.Waits, one)
	}
	return shown, nil
}

package status

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// WatchTasks streams the tasks that match, each after a change.
func (s server) WatchTasks(req *statusv1.WatchTasksRequest, stream grpc.ServerStreamingServer[statusv1.WatchTasksResponse]) error {
	if ids := named(req.GetFilter()); req.GetIncludeReports() && (ids == nil || len(ids) > maxReported) {
		return errs.Invalid(errs.Violation{Field: "include_reports", Rule: "must not be set unless the filter names the tasks by id, at most 100"})
	}
	return s.service.watchTasks(stream.Context(), req, stream.Send)
}

// maxReported is of how many tasks a watch also tells the reports.
const maxReported = 100

// AwaitTasks waits until all the tasks that match are final.
func (s server) AwaitTasks(ctx context.Context, req *statusv1.AwaitTasksRequest) (*statusv1.AwaitTasksResponse, error) {
	limit := limits.DefaultWait
	if req.GetTimeout() != nil {
		limit = req.GetTimeout().AsDuration()
	}
	// As for WaitTasks; a call that waits for many also needs time to see which of them are left.
	if deadline, has := ctx.Deadline(); has {
		limit = min(limit, max(0, time.Until(deadline)-time.Second))
	}
	return s.service.awaitTasks(ctx, limit, req.GetFilter())
}

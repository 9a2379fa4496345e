package gateway

import (
	"context"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

func noResource() error {
	return errs.NotFound(errs.ResourceUnknown, "Nobody holds the resource or waits for it.")
}

// ListResources lists the longest queues.
func (s *tasks) ListResources(ctx context.Context, r *pulpv3.ListResourcesRequest) (*pulpv3.ListResourcesResponse, error) {
	if s.scheduler == nil {
		return nil, noScheduler()
	}
	found, err := s.scheduler.ListResources(ctx, &schedulerv1.ListResourcesRequest{PageSize: r.GetLimit()})
	if err != nil {
		return nil, renamed(err, listNames)
	}
	shown := &pulpv3.ListResourcesResponse{Count: found.GetTotal()}
	for _, one := range found.GetResources() {
		shown.Results = append(shown.Results, shownResource(one))
	}
	return shown, nil
}

// ReadResource shows one queue. A thing of ours may be named by its href.
func (s *tasks) ReadResource(ctx context.Context, r *pulpv3.ReadResourceRequest) (*pulpv3.ReadResourceResponse, error) {
	if s.scheduler == nil {
		return nil, noScheduler()
	}
	h := s.hrefs.at(ctx)
	found, err := s.scheduler.GetResource(ctx, &schedulerv1.GetResourceRequest{Name: h.resource(r.GetName()), PageSize: r.GetLimit()})
	if err != nil {
		return nil, renamed(notFoundAs(err, noResource()), listNames)
	}
	return &pulpv3.ReadResourceResponse{Resource: shownResource(found.GetResource()), Queue: h.uses(found.GetQueue())}, nil
}

func shownResource(r *schedulerv1.Resource) *pulpv3.Resource {
	return &pulpv3.Resource{
		Name: r.GetName(), Exclusive: r.GetExclusive(), Holders: r.GetHolders(), Waiting: r.GetWaiting(),
		HeldSince: r.GetHeldSince(), WaitingSince: r.GetWaitingSince(),
	}
}

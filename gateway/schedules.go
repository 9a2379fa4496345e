package gateway

import (
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// schedules answers pulp.v3.TaskSchedulesService by asking the dispatcher.
type schedules struct {
	pulpv3.UnimplementedTaskSchedulesServiceServer

	dispatcher dispatcherv1.DispatcherServiceClient
	hrefs      hrefs
}

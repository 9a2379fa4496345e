package bench_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
)

// full takes so many tasks and refuses the others.
type full struct {
	dispatcherv1.UnimplementedDispatcherServiceServer
	heartbeatv1.UnimplementedHeartbeatServiceServer

	room, calls atomic.Int64
}

func (f *full) DispatchBatch(_ context.Context, r *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error) {
	if f.calls.Add(1) == 3 {
		return nil, errs.Away(errs.DatabaseAway, nil, "the database is away")
	}
	if f.room.Add(-int64(len(r.GetTasks()))) < 0 {
		return nil, &errs.Error{Code: codes.ResourceExhausted, Reason: errs.Overloaded, Message: "full", RetryAfter: 2 * time.Second}
	}
	return &dispatcherv1.DispatchBatchResponse{}, nil
}

func (*full) ListApps(context.Context, *heartbeatv1.ListAppsRequest) (*heartbeatv1.ListAppsResponse, error) {
	return &heartbeatv1.ListAppsResponse{Apps: []*heartbeatv1.App{{Name: "a"}, {Name: "b", Missing: true}}}, nil
}

func TestOverloadTellsWhatWasAcceptedFromWhatWasRefused(t *testing.T) {
	f := &full{}
	f.room.Store(600)
	conn, stop := rpctest.Serve(t, func(r grpc.ServiceRegistrar) {
		dispatcherv1.RegisterDispatcherServiceServer(r, f)
		heartbeatv1.RegisterHeartbeatServiceServer(r, f)
	})
	defer stop()
	// A thousand a second can be run: 150 are offered in the first part, and up to 9,000 in the second.
	load := bench.NewOverload(bench.OverloadConfig{Slots: 10, TaskTime: 10 * time.Millisecond, Times: 10, Batch: 10, Window: 900 * time.Millisecond})
	r, err := load.Run(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if r.Capacity != 1000 || r.Missing != 1 || len(r.Errors) != 1 {
		t.Errorf("%+v", r)
	}
	if r.Normal.Refused != 0 || r.Normal.Accepted <= 0 || r.Normal.AcceptedIn.P50 <= 0 || r.Normal.RetryAfter != 0 {
		t.Errorf("%+v", r.Normal)
	}
	if r.Over.Accepted <= 0 || r.Over.Refused <= 0 || r.Over.RefusedIn.P50 <= 0 || r.Over.RetryAfter != 2 || r.Over.RSS <= 0 {
		t.Errorf("%+v", r.Over)
	}
	if sum := r.Over.Accepted + r.Over.Refused; sum-r.Over.Offered > 0.001 || r.Over.Offered-sum > 0.001 {
		t.Errorf("%+v", r.Over)
	}
}

package dispatcher

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Register adds the service to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	dispatcherv1.RegisterDispatcherServiceServer(r, server{service: s})
}

// server is the gRPC face. Limits were checked before it is reached.
type server struct {
	dispatcherv1.UnimplementedDispatcherServiceServer

	service *Service
}

// Dispatch stores a task.
func (s server) Dispatch(ctx context.Context, req *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	t, err := s.service.Dispatch(ctx, fromSpec(ctx, req.GetTask()))
	if err != nil {
		return nil, err
	}
	return &dispatcherv1.DispatchResponse{Task: wire.Task(t)}, nil
}

// Cancel asks a task to stop.
func (s server) Cancel(ctx context.Context, req *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
	t, err := s.service.Cancel(ctx, req.GetTaskId())
	if err != nil {
		return nil, err
	}
	return &dispatcherv1.CancelResponse{Task: wire.Task(t)}, nil
}

// Delete removes a finished task.
func (s server) Delete(ctx context.Context, req *dispatcherv1.DeleteRequest) (*dispatcherv1.DeleteResponse, error) {
	if err := s.service.Delete(ctx, req.GetTaskId()); err != nil {
		return nil, err
	}
	return &dispatcherv1.DeleteResponse{}, nil
}

// CreateTaskGroup makes a group.
func (s server) CreateTaskGroup(ctx context.Context, req *dispatcherv1.CreateTaskGroupRequest) (*dispatcherv1.CreateTaskGroupResponse, error) {
	id, err := s.service.NewGroup(ctx, req.GetDescription())
	if err != nil {
		return nil, err
	}
	return &dispatcherv1.CreateTaskGroupResponse{GroupId: id}, nil
}

func fromSpec(ctx context.Context, spec *taskv1.TaskSpec) *New {
	t := &New{Args: spec.GetArgsJson(), Kwargs: spec.GetKwargsJson()}
	t.Name = spec.GetName()
	t.Reserved = task.Reservation{Exclusive: spec.GetExclusiveResources(), Shared: spec.GetSharedResources()}
	t.Immediate = spec.GetImmediate()
	t.Deferred = spec.Deferred == nil || spec.GetDeferred()
	t.Versions = spec.GetVersions()
	t.ParentID, t.GroupID = spec.GetParentId(), spec.GetGroupId()
	t.CorrelationID = spec.GetCorrelationId()
	if t.Args == "" {
		t.Args = "[]"
	}
	if t.Kwargs == "" {
		t.Kwargs = "{}"
	}
	if t.Versions == nil {
		t.Versions = map[string]string{}
	}
	// The caller's trace goes on with the task. Anything that is no trace context is not worth an error, nor storing.
	t.Traceparent, t.Tracestate = header(ctx, "traceparent", 55), header(ctx, "tracestate", 512)
	return t
}

// header reads one metadata value, "" if it is absent or longer than the standard allows.
func header(ctx context.Context, key string, longest int) string {
	values := metadata.ValueFromIncomingContext(ctx, key)
	if len(values) != 1 || len(values[0]) > longest {
		return ""
	}
	return values[0]
}

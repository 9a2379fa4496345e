package dispatcher

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Register adds the service to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(inTurn(s.reader), server{service: s})
}

// server is the gRPC face. Limits were checked before it is reached.
type server struct {
	dispatcherv1.UnimplementedDispatcherServiceServer

	service *Service
}

// Dispatch stores a task.
func (s server) Dispatch(ctx context.Context, req *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
	parent, state := traceContext(ctx)
	stored, err := s.service.Dispatch(ctx, []*New{fromSpec("task", req.GetTask(), parent, state)})
	if err != nil {
		return nil, err
	}
	return &dispatcherv1.DispatchResponse{Task: wire.Task(stored[0])}, nil
}

// DispatchBatch stores tasks, all or none.
func (s server) DispatchBatch(ctx context.Context, req *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error) {
	parent, state := traceContext(ctx)
	tasks := make([]*New, len(req.GetTasks()))
	for i, spec := range req.GetTasks() {
		tasks[i] = fromSpec(fmt.Sprintf("tasks[%d]", i), spec, parent, state)
	}
	stored, err := s.service.Dispatch(ctx, tasks)
	if err != nil {
		return nil, err
	}
	response := &dispatcherv1.DispatchBatchResponse{Tasks: make([]*taskv1.Task, len(stored))}
	for i, t := range stored {
		response.Tasks[i] = wire.Task(t)
		shorten(response.GetTasks()[i])
	}
	return response, nil
}

// shorten leaves out what a thousand immediate tasks would make more of than a message holds: a result has up to 1 MiB, each
// text of an error up to 64 KiB. Whoever wants to see all of it asks for the task.
func shorten(t *taskv1.Task) {
	t.ResultJson = ""
	if e := t.GetError(); e != nil {
		e.Reason, e.Description, e.Traceback = cut(e.GetReason()), cut(e.GetDescription()), ""
	}
}

// maxErrorText is how much is left of a text of an error in the answer to a batch, in bytes.
const maxErrorText = 1 << 10

func cut(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	return strings.ToValidUTF8(text[:maxErrorText], "")
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

// PurgeTasks removes a page of old tasks.
func (s server) PurgeTasks(ctx context.Context, req *dispatcherv1.PurgeTasksRequest) (*dispatcherv1.PurgeTasksResponse, error) {
	states := make([]task.State, len(req.GetStates()))
	for i, state := range req.GetStates() {
		states[i] = wire.FromState(state)
	}
	purged, next, err := s.service.Purge(ctx, req.GetFinishedBefore().AsTime(), states, req.GetPageToken(), int(req.GetPageSize()))
	if err != nil {
		return nil, err
	}
	response := &dispatcherv1.PurgeTasksResponse{NextPageToken: next, DeletedGroups: purged.Groups}
	for _, state := range task.States() {
		if n := purged.Tasks[state]; n > 0 {
			response.Deleted = append(response.Deleted, &dispatcherv1.PurgedCount{State: wire.State(state), Count: n})
		}
	}
	return response, nil
}

// fromSpec reads one task of a request, which calls it field.
func fromSpec(field string, spec *taskv1.TaskSpec, traceparent, tracestate string) *New {
	t := &New{
		Field: field, Args: spec.GetArgsJson(), Kwargs: spec.GetKwargsJson(), Traceparent: traceparent, Tracestate: tracestate,
		RequestID: spec.GetRequestId(),
	}
	t.Name = spec.GetName()
	t.Reserved = task.Reservation{Exclusive: spec.GetExclusiveResources(), Shared: spec.GetSharedResources()}
	t.Immediate = spec.GetImmediate()
	t.Deferred = spec.Deferred == nil || spec.GetDeferred()
	t.Versions = spec.GetVersions()
	t.ParentID, t.GroupID = spec.GetParentId(), spec.GetGroupId()
	t.CorrelationID = spec.GetCorrelationId()
	t.Options = task.Options{
		Timeout: spec.GetTimeout().AsDuration(), Retry: wire.FromRetry(spec.GetRetry()),
		Profile: spec.GetProfileOptions(), Files: spec.GetFileIds(), CreatedBy: spec.GetCreatedBy(),
	}
	if t.Args == "" {
		t.Args = "[]"
	}
	if t.Kwargs == "" {
		t.Kwargs = "{}"
	}
	if t.Versions == nil {
		t.Versions = map[string]string{}
	}
	return t
}

// traceContext is the caller's trace, which goes on with the task. Anything that is no W3C trace context is not worth an
// error, nor storing: headers may hold bytes that the database refuses.
func traceContext(ctx context.Context) (parent, state string) {
	parent = header(ctx, "traceparent")
	if !isTraceparent(parent) {
		return "", ""
	}
	state = header(ctx, "tracestate")
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	if len(state) > 512 || strings.ContainsFunc(state, unprintable) {
		return parent, ""
	}
	return parent, state
}

// isTraceparent knows the form version-trace-span-flags, all in lower-case hexadecimal, and neither id zero.
func isTraceparent(value string) bool {
	parts := strings.Split(value, "-")
	if len(parts) != 4 {
		return false
	}
	for i, size := range []int{2, 32, 16, 2} {
		if len(parts[i]) != size || strings.Trim(parts[i], "0123456789abcdef") != "" {
			return false
		}
	}
	return parts[0] != "ff" && strings.Trim(parts[1], "0") != "" && strings.Trim(parts[2], "0") != ""
}

// header reads one metadata value, "" if there is none or more than one.
func header(ctx context.Context, key string) string {
	values := metadata.ValueFromIncomingContext(ctx, key)
	if len(values) != 1 {
		return ""
	}
	return values[0]
}

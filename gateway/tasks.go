package gateway

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// tasks answers pulp.v3.TasksService by asking the dispatcher and the status service.
type tasks struct {
	pulpv3.UnimplementedTasksServiceServer

	dispatcher dispatcherv1.DispatcherServiceClient
	status     statusv1.StatusServiceClient
	roster     *roster
	hrefs      hrefs
}

// The REST names of native fields.
var (
	createNames = map[string]string{
		"args_json": "args", "kwargs_json": "kwargs", "group_id": "task_group", "correlation_id": "logging_cid", "file_ids": "files",
	}
	listNames = map[string]string{
		"page_size": "limit", "group_id": "task_group", "parent_id": "parent_task", "correlation_id": "logging_cid",
		"resources": "reserved_resources",
	}
)

// reportFields are the fields for which the reports of tasks are needed.
var reportFields = []string{"progress_reports", "created_resources", "created_resource_prns"}

func noTask() error { return errs.NotFound(errs.TaskNotFound, "No Task matches the given query.") }

// notFoundAs gives a native NotFound the words of REST.
func notFoundAs(err, words error) error {
	var own *errs.Error
	if errors.As(errs.From(err), &own) && own.Code == codes.NotFound {
		return words
	}
	return err
}

// CreateTask dispatches a task.
func (s *tasks) CreateTask(ctx context.Context, r *pulpv3.CreateTaskRequest) (*pulpv3.CreateTaskResponse, error) {
	spec := &taskv1.TaskSpec{
		Name:               r.GetName(),
		ArgsJson:           r.GetArgs().GetText(),
		KwargsJson:         r.GetKwargs().GetText(),
		ExclusiveResources: r.GetExclusiveResources(),
		SharedResources:    r.GetSharedResources(),
		Immediate:          r.GetImmediate(),
		Deferred:           r.Deferred,
		Versions:           r.GetVersions(),
		CorrelationId:      received(ctx, metaCorrelation),
		Retry:              retryPolicy(r.GetRetry()),
		ProfileOptions:     r.GetProfileOptions(),
		FileIds:            r.GetFiles(),
	}
	if r.Timeout != nil {
		spec.Timeout = duration(r.GetTimeout())
	}
	if len(spec.GetProfileOptions()) == 0 {
		spec.ProfileOptions = split(received(ctx, metaDiagnostics))
	}
	if r.GetTaskGroup() != "" {
		id, ok := s.hrefs.id(collectionGroups, modelGroup, r.GetTaskGroup())
		if !ok {
			return nil, errs.Invalid(errs.Violation{Field: "task_group", Rule: "Must be the href or the UUID of a task group."})
		}
		spec.GroupId = id
	}
	for _, key := range []string{metaTraceparent, metaTracestate} {
		if value := received(ctx, key); value != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, key, value)
		}
	}
	made, err := client.ForwardTask(ctx, s.dispatcher, spec)
	if err != nil {
		return nil, renamed(err, createNames)
	}
	return &pulpv3.CreateTaskResponse{Task: s.hrefs.of(collectionTasks, made.GetId())}, nil
}

// received is the first value of a key in the metadata of the call.
func received(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// ListTasks returns a page; links are made where the URL is known.
func (s *tasks) ListTasks(ctx context.Context, r *pulpv3.ListTasksRequest) (*pulpv3.ListTasksResponse, error) {
	native, nothing, err := s.selection(r)
	if err != nil || nothing {
		return &pulpv3.ListTasksResponse{}, err
	}
	found, err := listAll(ctx, s.status, native)
	if err != nil {
		return nil, renamed(err, listNames)
	}
	page := &pulpv3.ListTasksResponse{Count: found.GetTotal()}
	for _, t := range found.GetTasks() {
		shown := &statusv1.GetTaskResponse{Task: t, Report: found.GetReports()[t.GetId()]}
		page.Results = append(page.Results, s.hrefs.task(shown, s.roster.incarnation(ctx, t.GetExecutor())))
	}
	return page, nil
}

// listAll reads a page of REST, for which the status service may need several: it ends one early when results are large.
func listAll(ctx context.Context, status statusv1.StatusServiceClient, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
	wanted := int(cmp.Or(r.GetPageSize(), limits.DefaultPage))
	all := &statusv1.ListTasksResponse{Reports: map[string]*statusv1.TaskReport{}}
	for {
		part, err := status.ListTasks(ctx, r)
		if err != nil {
			return nil, err
		}
		all.Tasks = append(all.GetTasks(), part.GetTasks()...)
		maps.Copy(all.GetReports(), part.GetReports())
		if r.GetCount() {
			all.Total = part.GetTotal()
		}
		if part.GetNextPageToken() == "" || len(all.GetTasks()) >= wanted {
			return all, nil
		}
		r.PageToken, r.Offset, r.Count, r.PageSize = part.GetNextPageToken(), 0, false, int32(wanted-len(all.GetTasks()))
	}
}

// selection translates the filters. nothing: they exclude each other.
func (s *tasks) selection(r *pulpv3.ListTasksRequest) (native *statusv1.ListTasksRequest, nothing bool, err error) {
	bad := &filters{}
	states := bad.states("state__in", split(r.GetState_In()))
	if r.GetState() != "" {
		one := bad.states("state", []string{r.GetState()})
		nothing = len(states) > 0 && len(one) > 0 && !slices.Contains(states, one[0])
		states = one
	}
	native = &statusv1.ListTasksRequest{
		States:        states,
		Name:          r.GetName(),
		CorrelationId: r.GetLoggingCid(),
		GroupId:       bad.reference("task_group", "a task group", r.GetTaskGroup(), s.hrefs, collectionGroups, modelGroup),
		ParentId:      bad.reference("parent_task", "a task", r.GetParentTask(), s.hrefs, collectionTasks, modelTask),
		Resources:     split(r.GetReservedResources_In()),
		Count:         true,
	}
	shows := chosen(r.GetFields(), r.GetExcludeFields(), r.GetMinimal())
	native.IncludeReports = shows == nil || slices.ContainsFunc(reportFields, shows)
	if r.GetReservedResources() != "" {
		native.Resources = append(native.Resources, r.GetReservedResources())
	}
	native.PageSize, native.Offset = window(r.GetLimit(), r.GetOffset())
	if ordering := r.GetOrdering(); ordering != "" && ordering != "-pulp_created" {
		bad.choice("ordering", ordering)
	}
	return native, nothing, bad.err()
}

func (f *filters) states(field string, texts []string) []taskv1.State {
	var states []taskv1.State
	for _, text := range texts {
		state := wire.State(task.State(text))
		if state == taskv1.State_STATE_UNSPECIFIED {
			f.choice(field, text)
			continue
		}
		states = append(states, state)
	}
	return states
}

func (f *filters) reference(field, what, value string, hrefs hrefs, collection, model string) string {
	if value == "" {
		return ""
	}
	id, ok := hrefs.id(collection, model, value)
	if !ok {
		f.fail(field, "Must be the href or the UUID of "+what+".")
	}
	return id
}

// ReadTask returns one task.
func (s *tasks) ReadTask(ctx context.Context, r *pulpv3.ReadTaskRequest) (*pulpv3.ReadTaskResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noTask()
	}
	t, err := s.read(ctx, id)
	if err != nil {
		return nil, err
	}
	return &pulpv3.ReadTaskResponse{Task: t}, nil
}

func (s *tasks) read(ctx context.Context, id string) (*pulpv3.Task, error) {
	response, err := s.status.GetTask(ctx, &statusv1.GetTaskRequest{TaskId: id})
	if err != nil {
		return nil, notFoundAs(err, noTask())
	}
	return s.hrefs.task(response, s.roster.incarnation(ctx, response.GetTask().GetExecutor())), nil
}

// CancelTask asks a task to stop. The wish is checked before the task is looked for, as in Pulp.
func (s *tasks) CancelTask(ctx context.Context, r *pulpv3.CancelTaskRequest) (*pulpv3.CancelTaskResponse, error) {
	if r.GetState() != string(task.Canceled) {
		return nil, errs.Invalid(errs.Violation{Field: "state", Rule: "The only acceptable value for 'state' is 'canceled'."})
	}
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noTask()
	}
	_, err := s.dispatcher.Cancel(ctx, &dispatcherv1.CancelRequest{TaskId: id})
	ended := errs.Is(err, errs.TaskFinal)
	if err != nil && !ended {
		return nil, notFoundAs(err, noTask())
	}
	t, err := s.read(ctx, id) // also for its children, which Cancel does not tell
	if err != nil {
		return nil, err
	}
	return &pulpv3.CancelTaskResponse{Task: t, Conflict: ended}, nil
}

// DeleteTask removes a finished task.
func (s *tasks) DeleteTask(ctx context.Context, r *pulpv3.DeleteTaskRequest) (*pulpv3.DeleteTaskResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noTask()
	}
	if _, err := s.dispatcher.Delete(ctx, &dispatcherv1.DeleteRequest{TaskId: id}); err != nil {
		return nil, notFoundAs(err, noTask())
	}
	return &pulpv3.DeleteTaskResponse{}, nil
}

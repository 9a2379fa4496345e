package gateway

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// tasks answers pulp.v3.TasksService by asking the dispatcher and the status service.
type tasks struct {
	pulpv3.UnimplementedTasksServiceServer

	dispatcher dispatcherv1.DispatcherServiceClient
	status     statusv1.StatusServiceClient
	scheduler  schedulerv1.SchedulerServiceClient // nil: nothing is explained
	access     accessv1.AccessServiceClient       // nil: there is one user, the administrator
	hrefs      hrefs
}

// The REST names of native fields.
var (
	createNames = map[string]string{
		"args_json": "args", "kwargs_json": "kwargs", "group_id": "task_group", "correlation_id": "logging_cid", "file_ids": "files",
	}
	listNames = map[string]string{"page_size": "limit"}
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

// received is the first value of a key in the metadata of the call.
func received(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// ListTasks returns a page; links are made where the URL is known.
func (s *tasks) ListTasks(ctx context.Context, r *pulpv3.ListTasksRequest) (*pulpv3.ListTasksResponse, error) {
	h := s.hrefs.at(ctx)
	native, nothing, err := selection(r, h)
	if err != nil || nothing {
		return &pulpv3.ListTasksResponse{}, err
	}
	found, err := listAll(ctx, s.status, native)
	if err != nil {
		return nil, renamed(err, listNames)
	}
	page := &pulpv3.ListTasksResponse{Count: found.GetTotal()}
	for _, t := range found.GetTasks() {
		shown := &statusv1.GetTaskResponse{Task: t, Report: found.GetReports()[t.GetId()], ChildIds: found.GetChildren()[t.GetId()].GetIds()}
		page.Results = append(page.Results, h.task(shown))
	}
	tell(ctx, metaEstimated, found.GetTotalEstimated())
	tell(ctx, metaMore, found.GetMore())
	return page, nil
}

// tell says something about an answer that is not in its message. Compare told.
func tell(ctx context.Context, key string, is bool) {
	if is {
		_ = grpc.SetHeader(ctx, metadata.Pairs(key, "true")) // fails only after the answer
	}
}

// maxResults is how many bytes of results and errors a page may have: the default page of the largest results, with room to spare. A
// page of a thousand would take some gigabytes of memory on its way.
const maxResults = 160 << 20

// listAll reads a page of REST, for which the status service may need several: it ends one early when results are large.
func listAll(ctx context.Context, status statusv1.StatusServiceClient, r *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
	wanted := int(cmp.Or(r.GetPageSize(), limits.DefaultPage))
	all := &statusv1.ListTasksResponse{Reports: map[string]*statusv1.TaskReport{}, Children: map[string]*statusv1.TaskIds{}}
	skipped, size := r.GetOffset(), 0
	for {
		part, err := status.ListTasks(ctx, r)
		if err != nil {
			return nil, err
		}
		all.Tasks = append(all.GetTasks(), part.GetTasks()...)
		for _, t := range part.GetTasks() {
			size += len(t.GetResultJson()) + len(t.GetError().GetDescription()) + len(t.GetError().GetTraceback())
		}
		if size > maxResults {
			return nil, errs.Oversize(errs.TooBroad, "the results of so many tasks are too large for one page: "+
				"ask for fewer with limit, or leave them out with exclude_fields=result")
		}
		maps.Copy(all.GetReports(), part.GetReports())
		maps.Copy(all.GetChildren(), part.GetChildren())
		if r.GetCount() {
			all.Total, all.TotalEstimated = part.GetTotal(), part.GetTotalEstimated()
		}
		all.More = part.GetMore() || part.GetNextPageToken() != ""
		if !all.GetMore() || len(part.GetTasks()) == 0 || len(all.GetTasks()) >= wanted {
			return all, nil
		}
		// Where so few had room, no more will: the rest would be read from the database to be thrown away, time and again.
		r.Count, r.PageSize = false, int32(min(wanted-len(all.GetTasks()), 2*len(part.GetTasks())))
		// A token takes the place of the offset; in an order of the client's there is none.
		if r.PageToken, r.Offset = part.GetNextPageToken(), 0; len(r.GetOrder()) > 0 {
			r.PageToken, r.Offset = "", skipped+int32(len(all.GetTasks()))
		}
	}
}

// selection translates the parameters of a list. nothing: the filters exclude each other.
func selection(r *pulpv3.ListTasksRequest, h hrefs) (native *statusv1.ListTasksRequest, nothing bool, err error) {
	bad := &filters{}
	native = &statusv1.ListTasksRequest{Count: true, Order: bad.taskOrder(r.GetOrdering())}
	native.Filter, nothing = bad.taskFilter(r, h)
	shows := chosen(r.GetFields(), r.GetExcludeFields(), r.GetMinimal())
	native.IncludeReports = shows == nil || slices.ContainsFunc(reportFields, shows)
	native.IncludeChildren = shows == nil || shows("child_tasks")
	native.OmitResults, native.OmitErrors = shows != nil && !shows("result"), shows != nil && !shows("error")
	native.PageSize, native.Offset = window(r.GetLimit(), r.GetOffset())
	return native, nothing, bad.err()
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
	return s.hrefs.at(ctx).task(response), nil
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

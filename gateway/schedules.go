package gateway

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// schedules answers pulp.v3.TaskSchedulesService by asking the dispatcher.
type schedules struct {
	pulpv3.UnimplementedTaskSchedulesServiceServer

	dispatcher dispatcherv1.DispatcherServiceClient
	access     accessv1.AccessServiceClient // nil: there is one user, the administrator
	hrefs      hrefs
}

// scheduleNames are the REST names of native fields.
var scheduleNames = map[string]string{
	"schedule.name": "name", "schedule.dispatch_interval": "dispatch_interval", "schedule.next_dispatch": "next_dispatch",
	"schedule.task.name": "task_name", "schedule.task.args_json": "task_args", "schedule.task.kwargs_json": "task_kwargs",
	"schedule.task.exclusive_resources": "exclusive_resources", "schedule.task.shared_resources": "shared_resources",
	"schedule.task.versions": "versions", "schedule.task.timeout": "timeout",
	"schedule.task.retry.max_attempts": "retry.max_attempts", "schedule.task.retry.backoff": "retry.backoff",
	"schedule.task.retry.max_backoff": "retry.max_backoff", "schedule.task.retry.on": "retry.on",
}

func noSchedule() error {
	return errs.NotFound(errs.ScheduleNotFound, "No TaskSchedule matches the given query.")
}

// scheduleFilters are all filters of schedules.
func scheduleFilters(h hrefs) filterset[func(*dispatcherv1.TaskSchedule) bool] {
	s := predicates[*dispatcherv1.TaskSchedule]()
	textLookups(s, "name", (*dispatcherv1.TaskSchedule).GetName, "", "contains")
	textLookups(s, "task_name", func(t *dispatcherv1.TaskSchedule) string { return t.GetTask().GetName() }, "", "contains")
	idLookups(s, h, collectionSchedules, modelSchedule, "a task schedule", (*dispatcherv1.TaskSchedule).GetId)
	return s
}

// scheduleOrders are what schedules can be ordered by. What is not there comes last, as in the database of Pulp.
var scheduleOrders = map[string]func(a, b *dispatcherv1.TaskSchedule) int{
	"pk":      comparing((*dispatcherv1.TaskSchedule).GetId),
	"pulp_id": comparing((*dispatcherv1.TaskSchedule).GetId),
	"name":    comparing((*dispatcherv1.TaskSchedule).GetName),
	"task_name": comparing(func(s *dispatcherv1.TaskSchedule) string {
		return s.GetTask().GetName()
	}),
	"pulp_created":      byTime((*dispatcherv1.TaskSchedule).GetCreatedAt),
	"pulp_last_updated": byTime((*dispatcherv1.TaskSchedule).GetUpdatedAt),
	"next_dispatch":     byTime((*dispatcherv1.TaskSchedule).GetNextDispatch),
	"dispatch_interval": func(a, b *dispatcherv1.TaskSchedule) int {
		x, y := a.GetDispatchInterval(), b.GetDispatchInterval()
		if x == nil || y == nil {
			return nothingLast(x == nil, y == nil)
		}
		return int(max(-1, min(1, x.AsDuration()-y.AsDuration())))
	},
}

func byTime(of func(*dispatcherv1.TaskSchedule) *timestamppb.Timestamp) func(a, b *dispatcherv1.TaskSchedule) int {
	return func(a, b *dispatcherv1.TaskSchedule) int {
		x, y := of(a), of(b)
		if x == nil || y == nil {
			return nothingLast(x == nil, y == nil)
		}
		return x.AsTime().Compare(y.AsTime())
	}
}

func nothingLast(a, b bool) int {
	switch {
	case a && !b:
		return 1
	case b && !a:
		return -1
	default:
		return 0
	}
}

// ListTaskSchedules returns a page. There are few schedules, so all of them are read.
func (s *schedules) ListTaskSchedules(ctx context.Context, r *pulpv3.ListTaskSchedulesRequest) (*pulpv3.ListTaskSchedulesResponse, error) {
	h, bad := s.hrefs.at(ctx), &filters{}
	conditions := scheduleFilters(h).of(r, bad)
	keys := bad.sortKeys(r.GetOrdering(), func(name string) bool { return scheduleOrders[name] != nil })
	size, skip := window(r.GetLimit(), r.GetOffset())
	if err := bad.err(); err != nil {
		return nil, err
	}
	response, err := s.dispatcher.ListTaskSchedules(ctx, &dispatcherv1.ListTaskSchedulesRequest{})
	if err != nil {
		return nil, err
	}
	matching := slices.DeleteFunc(slices.Clone(response.GetSchedules()), func(one *dispatcherv1.TaskSchedule) bool { return !matches(one, conditions) })
	sorted(matching, keys, scheduleOrders, scheduleOrders["name"])
	page := &pulpv3.ListTaskSchedulesResponse{Count: int64(len(matching))}
	for _, one := range cut(matching, size, skip) {
		page.Results = append(page.Results, h.schedule(one))
	}
	return page, nil
}

// CreateTaskSchedule makes a schedule.
func (s *schedules) CreateTaskSchedule(ctx context.Context, r *pulpv3.CreateTaskScheduleRequest) (*pulpv3.CreateTaskScheduleResponse, error) {
	bad := &filters{}
	// Each of its tasks has a correlation id of its own; diagnostics are for what is dispatched once.
	spec := &taskv1.TaskSpec{
		Name: r.GetTaskName(), ArgsJson: r.GetTaskArgs().GetText(), KwargsJson: r.GetTaskKwargs().GetText(),
		ExclusiveResources: r.GetExclusiveResources(), SharedResources: r.GetSharedResources(), Versions: r.GetVersions(),
		Retry: retryPolicy(r.GetRetry()), CreatedBy: taskOf(ctx).GetCreatedBy(),
	}
	if r.Timeout != nil {
		spec.Timeout = duration(r.GetTimeout())
	}
	wanted := &dispatcherv1.TaskSchedule{Name: r.GetName(), Task: spec, DispatchInterval: bad.interval("dispatch_interval", r.GetDispatchInterval().GetText())}
	if text := r.GetNextDispatch(); text != "" {
		at, err := parseTime(text)
		if err != nil {
			bad.fail("next_dispatch", "Datetime has wrong format. Use one of these formats instead: "+
				"YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].")
		}
		wanted.NextDispatch = timestamppb.New(at)
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	made, err := s.dispatcher.CreateTaskSchedule(ctx, &dispatcherv1.CreateTaskScheduleRequest{Schedule: wanted})
	switch {
	case errs.Is(err, errs.ScheduleExists):
		// As Django says it.
		return nil, errs.Invalid(errs.Violation{Field: "name", Rule: "This field must be unique."})
	case err != nil:
		return nil, renamed(err, scheduleNames)
	}
	return &pulpv3.CreateTaskScheduleResponse{TaskSchedule: s.hrefs.at(ctx).schedule(made.GetSchedule())}, nil
}

// interval reads a number of seconds, or a text.
func (f *filters) interval(field, raw string) *durationpb.Duration {
	if kind := pythonType(json.RawMessage(raw)); raw == "" || kind == "NoneType" {
		return nil
	} else if kind == "str" {
		if err := json.Unmarshal([]byte(raw), &raw); err != nil {
			raw = ""
		}
	} else if kind != "int" && kind != "float" {
		raw = ""
	}
	d, ok := parseDuration(strings.TrimSpace(raw))
	if !ok {
		f.fail(field, "Duration has wrong format. Use one of these formats instead: [DD] [HH:[MM:]]ss[.uuuuuu].")
		return nil
	}
	return durationpb.New(d.Truncate(time.Microsecond))
}

// ReadTaskSchedule returns one schedule.
func (s *schedules) ReadTaskSchedule(ctx context.Context, r *pulpv3.ReadTaskScheduleRequest) (*pulpv3.ReadTaskScheduleResponse, error) {
	one, err := s.read(ctx, r.GetPulpId())
	if err != nil {
		return nil, err
	}
	return &pulpv3.ReadTaskScheduleResponse{TaskSchedule: s.hrefs.at(ctx).schedule(one)}, nil
}

func (s *schedules) read(ctx context.Context, reference string) (*dispatcherv1.TaskSchedule, error) {
	id, ok := canonicalID(reference)
	if !ok {
		return nil, noSchedule()
	}
	response, err := s.dispatcher.GetTaskSchedule(ctx, &dispatcherv1.GetTaskScheduleRequest{ScheduleId: id})
	if err != nil {
		return nil, notFoundAs(err, noSchedule())
	}
	return response.GetSchedule(), nil
}

// DeleteTaskSchedule removes a schedule.
func (s *schedules) DeleteTaskSchedule(ctx context.Context, r *pulpv3.DeleteTaskScheduleRequest) (*pulpv3.DeleteTaskScheduleResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noSchedule()
	}
	if _, err := s.dispatcher.DeleteTaskSchedule(ctx, &dispatcherv1.DeleteTaskScheduleRequest{ScheduleId: id}); err != nil {
		return nil, notFoundAs(err, noSchedule())
	}
	return &pulpv3.DeleteTaskScheduleResponse{}, nil
}

// schedule shows a schedule as Pulp does.
func (h hrefs) schedule(one *dispatcherv1.TaskSchedule) *pulpv3.TaskSchedule {
	shown := &pulpv3.TaskSchedule{
		PulpHref:        h.of(collectionSchedules, one.GetId()),
		Prn:             prn(modelSchedule, one.GetId()),
		PulpCreated:     one.GetCreatedAt(),
		PulpLastUpdated: one.GetUpdatedAt(),
		Name:            one.GetName(),
		TaskName:        one.GetTask().GetName(),
		NextDispatch:    one.GetNextDispatch(),
		LastTask:        h.optional(collectionTasks, one.GetLastTaskId()),
	}
	if every := one.GetDispatchInterval(); every != nil {
		text := formatDuration(every.AsDuration())
		shown.DispatchInterval = &text
	}
	return shown
}

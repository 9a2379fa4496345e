package client

import (
	"context"
	"encoding/json"
	"time"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Schedule is a task that is dispatched again and again, or once, at times of its own.
type Schedule struct {
	// ID is a UUID in lower case; the server makes it.
	ID string
	// Name is unique.
	Name string
	// Task is what is dispatched. It is not immediate, and has no parent, group, request id or files. Its arguments come back as
	// json.RawMessage, and not at all in a list.
	Task Spec
	// Interval is the time from one dispatch to the next, at least a second; 0: it is dispatched once.
	Interval time.Duration
	// Next is when it is dispatched next. In one that is to be made nil means at once, in one that came back never.
	Next *time.Time
	// LastTaskID is the task that was dispatched last; empty if none was, or if it is deleted.
	LastTaskID string
	// CreatedAt is when it was made, UpdatedAt when it last changed.
	CreatedAt, UpdatedAt time.Time
}

// CreateSchedule makes a schedule of what Name, Task, Interval and Next say. A name that is taken: reason errs.ScheduleExists.
func (c *Client) CreateSchedule(ctx context.Context, s Schedule) (Schedule, error) {
	spec, err := s.Task.wire()
	if err != nil {
		return Schedule{}, err
	}
	answer, err := c.dispatcher.CreateTaskSchedule(ctx, &dispatcherv1.CreateTaskScheduleRequest{Schedule: &dispatcherv1.TaskSchedule{
		Name: s.Name, Task: spec, DispatchInterval: wire.Duration(s.Interval), NextDispatch: wire.Time(s.Next),
	}})
	if err != nil {
		return Schedule{}, err
	}
	return fromSchedule(answer.GetSchedule()), nil
}

// Schedules returns all schedules, by name, without the arguments of their tasks.
func (c *Client) Schedules(ctx context.Context) ([]Schedule, error) {
	answer, err := c.dispatcher.ListTaskSchedules(ctx, &dispatcherv1.ListTaskSchedulesRequest{})
	if err != nil {
		return nil, err
	}
	made := make([]Schedule, len(answer.GetSchedules()))
	for i, s := range answer.GetSchedules() {
		made[i] = fromSchedule(s)
	}
	return made, nil
}

// Schedule returns one schedule. Unknown: reason errs.ScheduleNotFound.
func (c *Client) Schedule(ctx context.Context, id string) (Schedule, error) {
	answer, err := c.dispatcher.GetTaskSchedule(ctx, &dispatcherv1.GetTaskScheduleRequest{ScheduleId: id})
	if err != nil {
		return Schedule{}, err
	}
	return fromSchedule(answer.GetSchedule()), nil
}

// DeleteSchedule removes a schedule; the tasks that it has dispatched stay. Unknown: reason errs.ScheduleNotFound.
func (c *Client) DeleteSchedule(ctx context.Context, id string) error {
	_, err := c.dispatcher.DeleteTaskSchedule(ctx, &dispatcherv1.DeleteTaskScheduleRequest{ScheduleId: id})
	return err
}

func fromSchedule(s *dispatcherv1.TaskSchedule) Schedule {
	return Schedule{
		ID: s.GetId(), Name: s.GetName(), Task: fromSpec(s.GetTask()), Interval: s.GetDispatchInterval().AsDuration(),
		Next: wire.FromTime(s.GetNextDispatch()), LastTaskID: s.GetLastTaskId(),
		CreatedAt: s.GetCreatedAt().AsTime(), UpdatedAt: s.GetUpdatedAt().AsTime(),
	}
}

// fromSpec is the inverse of Spec.wire, for what a schedule can have.
func fromSpec(t *taskv1.TaskSpec) Spec {
	made := Spec{
		Name: t.GetName(), Exclusive: t.GetExclusiveResources(), Shared: t.GetSharedResources(), Versions: t.GetVersions(),
		CorrelationID: t.GetCorrelationId(), Timeout: t.GetTimeout().AsDuration(), Retry: fromRetry(t.GetRetry()),
		ProfileOptions: t.GetProfileOptions(),
	}
	if text := t.GetArgsJson(); text != "" {
		made.Args = json.RawMessage(text)
	}
	if text := t.GetKwargsJson(); text != "" {
		made.Kwargs = json.RawMessage(text)
	}
	return made
}

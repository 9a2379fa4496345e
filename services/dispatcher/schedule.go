package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Schedule is a task that the leading scheduler dispatches again and again, or once.
type Schedule struct {
	ID   string
	Name string
	// Task is what is dispatched. Its domain is among what it shares. Its trace context is that in which the schedule was made.
	Task *New
	// Interval is the time from one dispatch to the next, 0 for once.
	Interval time.Duration
	// Next is when it is dispatched next. In one that is to be stored nil means at once, in one that was read never.
	Next *time.Time
	// LastTaskID is the task of the last time, empty if there is none, or it is deleted.
	LastTaskID           string
	CreatedAt, UpdatedAt time.Time
}

// maxListed is how many bytes all schedules may take in a list, which is one message.
const maxListed = limits.MaxMessage * 3 / 4

// listed is about what it takes there, without the arguments of its task, and rather more.
func (s *Schedule) listed() int {
	const fixed, each = 256, 8 // ids, times and numbers; the length and the kind of each text
	size := fixed + len(s.Name) + len(s.Task.Name) + len(s.Task.CorrelationID)
	add := func(texts ...string) {
		for _, text := range texts {
			size += each + len(text)
		}
	}
	add(s.Task.Reserved.Exclusive...)
	add(s.Task.Reserved.Shared...)
	add(s.Task.Options.Profile...)
	if s.Task.Options.Retry != nil {
		add(s.Task.Options.Retry.On...)
	}
	for component, version := range s.Task.Versions {
		add(component, version)
	}
	return size
}

// ScheduleDatabase is the SQL for schedules.
type ScheduleDatabase interface {
	InsertSchedule(ctx context.Context, s *Schedule) (stored bool, err error)
	Schedules(ctx context.Context) ([]*Schedule, error)
	Schedule(ctx context.Context, id string) (*Schedule, error)
	DeleteSchedule(ctx context.Context, id string) (deleted bool, err error)
}

// CreateSchedule stores a schedule. The leader finds it within a second.
func (s *Service) CreateSchedule(ctx context.Context, made *Schedule) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a schedule id: %w", err)
	}
	t := made.Task
	made.ID, t.Domain, t.DomainID = id.String(), task.DefaultDomain, task.DefaultDomainID
	t.Reserved = task.Reserve(t.Reserved.Exclusive, t.Reserved.Shared, t.DomainID)
	made.Interval = made.Interval.Truncate(time.Microsecond) // as the database keeps it
	stored, err := s.db.InsertSchedule(ctx, made)
	switch {
	case err != nil:
		return err
	case !stored:
		return errs.Oversize(errs.TooManySchedules, "there may be %d schedules, and %d MiB of them without the arguments of their tasks",
			limits.MaxSchedules, maxListed>>20)
	}
	s.log.InfoContext(ctx, "schedule created", slog.String("schedule_id", made.ID), slog.String("name", made.Name), slog.String("task", t.Name))
	return nil
}

// DeleteSchedule removes a schedule. What it has dispatched stays.
func (s *Service) DeleteSchedule(ctx context.Context, id string) error {
	deleted, err := s.db.DeleteSchedule(ctx, id)
	switch {
	case err != nil:
		return err
	case !deleted:
		return noSchedule(id)
	}
	s.log.InfoContext(ctx, "schedule deleted", slog.String("schedule_id", id))
	return nil
}

func noSchedule(id string) error {
	return errs.NotFound(errs.ScheduleNotFound, "no task schedule %s", id)
}

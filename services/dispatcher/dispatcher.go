package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// New is a task to be stored, with what only its executor will see.
type New struct {
	task.Task

	DomainID    string
	Args        string // JSON array
	Kwargs      string // JSON object
	Traceparent string
	Tracestate  string
}

// Database is the SQL that the service needs.
type Database interface {
	Insert(ctx context.Context, t *New) error
	Get(ctx context.Context, id string) (*task.Task, error)
	Cancel(ctx context.Context, id string) (t *task.Task, changed bool, err error)
	Reject(ctx context.Context, id string) (rejected bool, err error)
	Delete(ctx context.Context, id string) (deleted bool, err error)
	InsertGroup(ctx context.Context, id, domainID, description string) error
}

// Leader is the scheduler, as far as the dispatcher needs it.
type Leader interface {
	// Offer hints that there is something to find. It does not wait.
	Offer()
	// Settle returns when the immediate task is final, or will not run now but may wait.
	Settle(ctx context.Context, id string) error
}

// Config of a dispatcher. Start from Defaults.
type Config struct {
	// SettleFor is how long a dispatch waits for its immediate task: the task's own time limit and something for the way.
	SettleFor time.Duration
}

// Defaults are the settings for Pulp's immediate time limit of 5 s.
func Defaults() Config { return Config{SettleFor: 8 * time.Second} }

// Service is one dispatcher. All dispatchers are active.
type Service struct {
	cfg    Config
	db     Database
	leader Leader
	log    *slog.Logger
}

// NewService makes a dispatcher.
func NewService(cfg Config, db Database, leader Leader, log *slog.Logger) *Service {
	return &Service{cfg: cfg, db: db, leader: leader, log: log}
}

// Dispatch stores a task, and waits for it if it is immediate.
func (s *Service) Dispatch(ctx context.Context, t *New) (*task.Task, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a task id: %w", err)
	}
	t.ID, t.State, t.Domain, t.DomainID = id.String(), task.Waiting, task.DefaultDomain, task.DefaultDomainID
	t.Reserved = task.Reserve(t.Reserved.Exclusive, t.Reserved.Shared, t.DomainID)
	if t.CorrelationID == "" {
		t.CorrelationID = uuid.NewString()
	}
	if err := s.db.Insert(ctx, t); err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "dispatched", slog.String("task_id", t.ID), slog.String("name", t.Name),
		slog.String("correlation_id", t.CorrelationID), slog.Int64("seq", t.Seq))
	if t.Immediate {
		return s.settle(ctx, &t.Task)
	}
	s.leader.Offer()
	return &t.Task, nil
}

// settle waits until an immediate task has run, or will not run now. The task is stored: whatever happens here, the caller
// gets it as it is.
func (s *Service) settle(ctx context.Context, t *task.Task) (*task.Task, error) {
	waitCtx, cancel := context.WithTimeout(ctx, s.cfg.SettleFor)
	defer cancel()
	if err := s.leader.Settle(waitCtx, t.ID); err != nil {
		s.log.WarnContext(ctx, "can't see an immediate task through", slog.String("task_id", t.ID), slog.Any("error", err))
	}
	// The caller may be gone; the task must not be left as one that would not wait, and waits.
	after, cancelAfter := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.SettleFor)
	defer cancelAfter()
	if !t.Deferred {
		rejected, err := s.db.Reject(after, t.ID)
		if err != nil {
			return nil, err
		}
		if rejected {
			s.leader.Offer()
		}
	}
	return s.db.Get(after, t.ID)
}

// Cancel asks a task to stop. Asking again changes nothing.
func (s *Service) Cancel(ctx context.Context, id string) (*task.Task, error) {
	t, changed, err := s.db.Cancel(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case changed:
		s.log.InfoContext(ctx, "canceling", slog.String("task_id", t.ID), slog.String("state", string(t.State)))
		s.leader.Offer()
	case t.State.Final() && t.State != task.Canceled:
		return nil, errs.Precondition(errs.TaskFinal, "task %s is %s: it can't be canceled any more", id, t.State)
	case t.State == task.Waiting || t.State == task.Running:
		// It was put back or started between the two statements.
		return nil, errs.Away(errs.TaskNotFinal, nil, "task %s changed at this moment: ask again", id)
	}
	return t, nil
}

// Delete removes a finished task.
func (s *Service) Delete(ctx context.Context, id string) error {
	deleted, err := s.db.Delete(ctx, id)
	if err != nil || deleted {
		return err
	}
	t, err := s.db.Get(ctx, id)
	if err != nil {
		return err
	}
	if t.State.Final() {
		return errs.Precondition(errs.TaskNotFinal, "task %s has child tasks that are not finished", id)
	}
	return errs.Precondition(errs.TaskNotFinal, "task %s is %s: only a finished task can be deleted", id, t.State)
}

// NewGroup makes an empty task group.
func (s *Service) NewGroup(ctx context.Context, description string) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make a group id: %w", err)
	}
	return id.String(), s.db.InsertGroup(ctx, id.String(), task.DefaultDomainID, description)
}

// Run sends hints until ctx ends; the service itself has no loop of its own.
func (s *Service) Run(ctx context.Context) error {
	hinter, ok := s.leader.(interface{ Run(context.Context) error })
	if !ok {
		<-ctx.Done()
		return nil
	}
	err := hinter.Run(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Ready always reports nil: a dispatcher that can't reach the database says so to each caller.
func (s *Service) Ready(context.Context) error { return nil }

package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

// New is a task to be stored, with what only its executor will see.
type New struct {
	task.Task

	// Field is what the request calls the task, for errors: "task" or "tasks[3]".
	Field       string
	DomainID    string
	Args        string // JSON array
	Kwargs      string // JSON object
	Traceparent string
	Tracestate  string
	// RequestID makes it safe to hand in again; empty: every dispatch makes a task.
	RequestID string

	// Repeated is set when a task with its request id was there already: it has its ID, Seq and CreatedAt, and nothing was stored.
	Repeated bool
	// Reused is set when that is another task: the field in which they differ.
	Reused string
}

// difference is the field in which two tasks with the same request id differ, "" if they are the same. Which resources they name
// counts, and not in which order.
func (t *New) difference(other *New) string {
	same := func(a, b []string) bool {
		a, b = slices.Clone(a), slices.Clone(b)
		slices.Sort(a)
		slices.Sort(b)
		return slices.Equal(a, b)
	}
	switch {
	case t.Name != other.Name:
		return "name"
	case t.Args != other.Args:
		return "args_json"
	case t.Kwargs != other.Kwargs:
		return "kwargs_json"
	case !same(t.Reserved.Exclusive, other.Reserved.Exclusive):
		return "exclusive_resources"
	case !same(t.Reserved.Shared, other.Reserved.Shared):
		return "shared_resources"
	default:
		return ""
	}
}

// ErrMissing says that a task names a parent, a group or a file that does not exist. Nothing was stored.
var ErrMissing = errors.New("a parent, a group or a file does not exist")

// ErrReused says that some of the tasks have a request id of another task; Reused is set in them. Nothing was stored.
var ErrReused = errors.New("a request id belongs to another task")

// ErrRefused says that the database answered with an error, so that nothing was stored. Any other error leaves that open.
var ErrRefused = errors.New("the database refused the tasks")

// Database is the SQL that the service needs.
type Database interface {
	Insert(ctx context.Context, tasks []*New) error
	Missing(ctx context.Context, tasks []*New) (parents, groups map[int]bool, err error)
	Known(ctx context.Context, tasks []*New) (map[int]bool, error)
	Get(ctx context.Context, id string) (*task.Task, error)
	GetAll(ctx context.Context, ids []string) (map[string]*task.Task, error)
	// Unstarted reads those of some tasks that were canceled while they waited, and have a trace.
	Unstarted(ctx context.Context, seqs []int64) ([]*Unstarted, error)
	Cancel(ctx context.Context, id string) (t *task.Task, changed bool, err error)
	Reject(ctx context.Context, id string) (rejected bool, err error)
	Delete(ctx context.Context, id string) (deleted bool, err error)
	Purge(ctx context.Context, before time.Time, states []task.State, after int64, most int) (deleted map[task.State]int64, next *int64, err error)
	PurgeGroups(ctx context.Context, before time.Time, after string, most int) (deleted int64, next string, err error)
	GroupDatabase
	ScheduleDatabase
	FileDatabase
}

// FileDatabase is the SQL for temporary files.
type FileDatabase interface {
	MissingFiles(ctx context.Context, tasks []*New) (map[int][]int, error)
	StartFile(ctx context.Context, f *File, first []byte) error
	AddPart(ctx context.Context, id string, part int, data []byte) (added bool, err error)
	CompleteFile(ctx context.Context, f *File, parts int) (completed bool, err error)
	AbandonFile(ctx context.Context, id string) error
	UseFile(ctx context.Context, id string) (*File, error)
	Part(ctx context.Context, id string, part int) ([]byte, error)
	RemoveFile(ctx context.Context, id string) (removed, used bool, err error)
	SweepFiles(ctx context.Context, protection, patience time.Duration, most int) (ids []string, err error)
	DropFile(ctx context.Context, id string) error
}

// Leader is the scheduler, as far as the dispatcher needs it.
type Leader interface {
	// Offer tells of tasks that were stored, or, without any, hints that there is something to find. It does not wait.
	Offer(tasks ...*New)
	// Live is about how many tasks are not final, as far as that is known.
	Live() (tasks int64, known bool)
	// Settle returns when all of some immediate tasks are final, or will not run now but may wait.
	Settle(ctx context.Context, tasks []*New) error
}

// Config of a dispatcher. Start from Defaults.
type Config struct {
	// SettleFor is how long a dispatch waits for its immediate task: the task's own time limit and something for the way.
	SettleFor time.Duration
	// FileProtection is how long a temporary file is kept after its last use (TMPFILE_PROTECTION_TIME). 0 means 24 h.
	FileProtection time.Duration
	// MaxFile is how large a temporary file may be, in bytes. 0 means 1 GiB.
	MaxFile int64

	// MaxPending is how many tasks, and MaxPendingBytes how many bytes of them, may be on their way to the database; what goes
	// beyond is refused, unless nothing else is on its way. 0 means 20,000 and 64 MiB.
	MaxPending      int
	MaxPendingBytes int64
	// MaxLive is how many tasks may not be final, about; more are refused. 0 means any number. Defaults: 5,000,000, some 2 GB in
	// the leader.
	MaxLive int64
	// KeepTasks is how long tasks are kept after they have ended. 0 means for ever.
	KeepTasks time.Duration
	// ReadFor is how long the message of a dispatch may take to arrive once it is its turn. 0 means 10 s.
	ReadFor time.Duration
	// RetainEvery is about how often it looks for tasks that were kept long enough. 0 means a minute.
	RetainEvery time.Duration
}

// Defaults are the settings for Pulp's immediate time limit of 5 s.
func Defaults() Config {
	return Config{
		SettleFor: 8 * time.Second, FileProtection: 24 * time.Hour, MaxFile: limits.MaxFile,
		MaxPending: 20_000, MaxPendingBytes: 64 << 20, MaxLive: 5_000_000,
	}
}

// Service is one dispatcher. All dispatchers are active.
type Service struct {
	cfg    Config
	db     Database
	leader Leader
	intake *intake
	reader *reader
	log    *slog.Logger
	// metrics are those of nobody until Observe.
	metrics *metrics
	// tracer is nil until Trace.
	tracer trace.Tracer
	// moving has an entry for each part of a file on its way to the database or from it.
	moving chan struct{}
	// vanished says that there are parts to be deleted.
	vanished chan struct{}

	mu sync.Mutex
	// asked is when the leader was last asked for its count because tasks were refused.
	asked time.Time
}

// NewService makes a dispatcher.
func NewService(cfg Config, db Database, leader Leader, log *slog.Logger) *Service {
	defaults := Defaults()
	cfg.FileProtection, cfg.MaxFile = cmp.Or(cfg.FileProtection, defaults.FileProtection), cmp.Or(cfg.MaxFile, defaults.MaxFile)
	cfg.MaxPending, cfg.MaxPendingBytes = cmp.Or(cfg.MaxPending, defaults.MaxPending), cmp.Or(cfg.MaxPendingBytes, defaults.MaxPendingBytes)
	cfg.RetainEvery = cmp.Or(cfg.RetainEvery, retainEvery)
	return &Service{
		cfg: cfg, db: db, leader: leader, intake: newIntake(db, leader.Offer, cfg.MaxPending, cfg.MaxPendingBytes), log: log,
		reader:  newReader(reads, readQueue, cmp.Or(cfg.ReadFor, readFor)),
		metrics: unmeasured(), moving: make(chan struct{}, moves), vanished: make(chan struct{}, 1),
	}
}

// Dispatch stores tasks, all or none of them, in this order, and waits for those that are immediate.
func (s *Service) Dispatch(ctx context.Context, tasks []*New) ([]*task.Task, error) {
	arrived := time.Now()
	for _, t := range tasks {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make a task id: %w", err)
		}
		t.ID, t.State, t.Domain, t.DomainID = id.String(), task.Waiting, task.DefaultDomain, task.DefaultDomainID
		t.Reserved = task.Reserve(t.Reserved.Exclusive, t.Reserved.Shared, t.DomainID)
		if t.CorrelationID == "" {
			// In order of time: a random one would have every task write to another page of its index.
			correlation, err := uuid.NewV7()
			if err != nil {
				return nil, fmt.Errorf("make a correlation id: %w", err)
			}
			t.CorrelationID = correlation.String()
		}
	}
	spans := s.begin(ctx, tasks, arrived)
	err := s.roomFor(len(tasks))
	if err == nil {
		if err = s.intake.store(ctx, tasks); err != nil {
			err = s.explained(ctx, tasks, err)
		}
	}
	spans.end(tasks, err)
	if err != nil {
		s.metrics.refuse(ctx, len(tasks), err)
		return nil, err
	}
	if err := s.recall(ctx, tasks); err != nil {
		return nil, err
	}
	stored, immediate := make([]*task.Task, len(tasks)), []*New(nil)
	for i, t := range tasks {
		stored[i] = &t.Task
		if t.Immediate && !t.State.Final() {
			immediate = append(immediate, t)
		}
		if t.Repeated || !s.log.Enabled(ctx, slog.LevelInfo) {
			continue // its arguments alone would cost as much as the rest here
		}
		s.log.InfoContext(ctx, "dispatched", slog.String("task_id", t.ID), slog.String("name", t.Name),
			slog.String("correlation_id", t.CorrelationID), tasktrace.LogID(t.Traceparent), slog.Int64("seq", t.Seq))
	}
	if len(immediate) == 0 {
		return stored, nil
	}
	err = s.settle(ctx, immediate)
	s.traceRejected(immediate)
	return stored, err
}

// recall reads the tasks that were there already.
func (s *Service) recall(ctx context.Context, tasks []*New) error {
	var repeated []*New
	for _, t := range tasks {
		if t.Repeated {
			t.State = ""
			repeated = append(repeated, t)
		}
	}
	if len(repeated) == 0 {
		return nil
	}
	if err := s.refresh(ctx, repeated); err != nil {
		return err
	}
	for _, t := range repeated {
		if t.State == "" {
			return errs.Away(errs.DatabaseAway, nil, "task %s was deleted at this moment: dispatch again", t.ID)
		}
		s.log.InfoContext(ctx, "dispatched again", slog.String("task_id", t.ID), slog.String("correlation_id", t.CorrelationID),
			slog.String("state", string(t.State)))
	}
	return nil
}

// explained finds out what is wrong with tasks that name a parent, a group or a file that does not exist, or reuse a request id.
func (s *Service) explained(ctx context.Context, tasks []*New, err error) error {
	if errors.Is(err, ErrReused) {
		i := slices.IndexFunc(tasks, func(t *New) bool { return t.Reused != "" })
		t := tasks[max(i, 0)]
		return errs.Exists(errs.RequestIDReused, "%s.request_id belongs to another task: %s.%s is not the same", t.Field, t.Field, t.Reused)
	}
	if !errors.Is(err, ErrMissing) {
		return err
	}
	parents, groups, lookErr := s.db.Missing(ctx, tasks)
	if lookErr != nil {
		return lookErr
	}
	files, lookErr := s.db.MissingFiles(ctx, tasks)
	if lookErr != nil {
		return lookErr
	}
	// What is known needs nothing of it any more.
	known, lookErr := s.db.Known(ctx, tasks)
	if lookErr != nil {
		return lookErr
	}
	var violations []errs.Violation
	for i, t := range tasks {
		if known[i] {
			continue
		}
		if parents[i] {
			violations = append(violations, errs.Violation{Field: t.Field + ".parent_id", Rule: "must be the id of a task that exists"})
		}
		if groups[i] {
			violations = append(violations, errs.Violation{Field: t.Field + ".group_id", Rule: "must be the id of a task group that exists"})
		}
		for _, place := range files[i] {
			violations = append(violations, errs.Violation{
				Field: fmt.Sprintf("%s.file_ids[%d]", t.Field, place), Rule: "must be the id of a temporary file that exists",
			})
		}
	}
	if len(violations) == 0 {
		// It came into being in between.
		return errs.Away(errs.DatabaseAway, err, "a parent, a group or a file changed at this moment: dispatch again")
	}
	return errs.Invalid(violations[:min(len(violations), limits.MaxViolations)]...)
}

// settle waits until immediate tasks have run, or will not run now. They are stored: whatever happens here, the caller gets
// them as they are.
func (s *Service) settle(ctx context.Context, tasks []*New) error {
	waitCtx, cancel := context.WithTimeout(ctx, s.cfg.SettleFor)
	defer cancel()
	if err := s.leader.Settle(waitCtx, tasks); err != nil {
		s.log.WarnContext(ctx, "can't see immediate tasks through", slog.String("task_id", tasks[0].ID),
			slog.String("correlation_id", tasks[0].CorrelationID), tasktrace.LogID(tasks[0].Traceparent), slog.Int("tasks", len(tasks)), slog.Any("error", err))
	}
	// The caller may be gone; a task must not be left as one that would not wait, and waits.
	after, cancelAfter := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.SettleFor)
	defer cancelAfter()
	if err := s.refresh(after, tasks); err != nil {
		return err
	}
	var late []*New
	defer func() {
		if len(late) > 0 {
			s.leader.Offer()
		}
	}()
	for _, t := range tasks {
		if t.Deferred || t.State != task.Waiting {
			continue
		}
		// One row at a time: a tick changes many in an order of its own.
		if _, err := s.db.Reject(after, t.ID); err != nil {
			return err
		}
		late = append(late, t)
	}
	if len(late) == 0 {
		return nil
	}
	return s.refresh(after, late)
}

// refreshPage is how many tasks are read at a time: each has up to 1 MiB of result.
const refreshPage = 32

// refresh reads tasks as they are now. One that somebody has deleted meanwhile stays as it was. Of many the results are left out,
// which the answer to a batch has no room for.
func (s *Service) refresh(ctx context.Context, tasks []*New) error {
	for page := range slices.Chunk(tasks, refreshPage) {
		ids := make([]string, len(page))
		for i, t := range page {
			ids[i] = t.ID
		}
		found, err := s.db.GetAll(ctx, ids)
		if err != nil {
			return err
		}
		for _, t := range page {
			now := found[t.ID]
			if now == nil {
				continue
			}
			if t.Task = *now; len(tasks) > 1 {
				t.Result = ""
			}
		}
	}
	return nil
}

// Cancel asks a task to stop. Asking again changes nothing.
func (s *Service) Cancel(ctx context.Context, id string) (*task.Task, error) {
	asked := time.Now()
	t, changed, err := s.db.Cancel(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case changed:
		s.metrics.cancel(ctx, t.State)
		s.log.InfoContext(ctx, "canceling", slog.String("task_id", t.ID), slog.String("name", t.Name),
			slog.String("correlation_id", t.CorrelationID), slog.String("state", string(t.State)))
		s.leader.Offer()
		if t.State == task.Canceled {
			s.traceCanceled(ctx, []int64{t.Seq}, asked)
		}
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

// Run sends hints, and removes old files and, if they are not kept for ever, old tasks, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var sweepers sync.WaitGroup
	sweepers.Go(func() { s.sweep(ctx) })
	if s.cfg.KeepTasks > 0 {
		sweepers.Go(func() { s.retain(ctx) })
	}
	defer sweepers.Wait()
	defer cancel()
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

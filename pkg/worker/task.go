package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Task is what a handler may know of the task it runs.
type Task struct {
	// ID is the task's UUID.
	ID string
	// Name is what was dispatched.
	Name string
	// Claim is the number of this claim on the task. It rises each time the task is given to an executor, so whatever the
	// handler writes to can refuse a lower one: a fencing token.
	Claim int64
	// Attempt is 1 on the first start.
	Attempt int
	// MaxAttempts is how many attempts there may be, 1 unless the dispatch asked for retries.
	MaxAttempts int
	// Domain is the tenant that the task and all its children belong to.
	Domain string
	// CorrelationID ties together all tasks and log lines of one request.
	CorrelationID string
	// GroupID is the UUID of the task's group, "" if it has none.
	GroupID string
	// Traceparent and Tracestate are the W3C trace context of this run, for what is done elsewhere on its behalf; that of the
	// dispatch, where the executor makes no spans. "" if there is none. See also [Tracer].
	Traceparent, Tracestate string
	// ProfileOptions name diagnostics that the dispatch asked for. Not to be changed.
	ProfileOptions []string
	// FileIDs are the UUIDs of the temporary files that the task was given, for [FetchFile]. Not to be changed.
	FileIDs []string
	// Immediate: a client waits for the end, and there is a time limit.
	Immediate bool
}

// Spec describes a task to dispatch. Domain, correlation id, profile options and trace are those of the running task, which
// is recorded as its parent.
type Spec struct {
	// Name is what to run. Required.
	Name string
	// Args are positional arguments, anything that encoding/json can write.
	Args []any
	// Kwargs are named arguments: a map or a struct that becomes a JSON object. nil means none.
	Kwargs any
	// Exclusive and Shared are the resources to hold.
	Exclusive, Shared []string
	// GroupID is the UUID of a group to join. It is not inherited.
	GroupID string
	// Immediate asks to run it before Dispatch returns, if nothing older conflicts.
	Immediate bool
	// NoDefer cancels an immediate task that can't run at once, instead of letting it wait.
	NoDefer bool
	// Versions are component names with the lowest version that an executor must have.
	Versions map[string]string
	// Timeout is how long one attempt may run, 1 ms to 30 days. 0: as long as its handler declares.
	Timeout time.Duration
	// Retry says which failures are retried; nil: none. Not for immediate tasks.
	Retry *Retry
	// FileIDs are the UUIDs of temporary files that it is given, at most 100 ([KeepFile] makes such).
	FileIDs []string
}

// Retry says which failures of a task are worth another attempt.
type Retry struct {
	// Attempts is how many there are at most, the first one included. 1 to 100.
	Attempts int
	// Backoff is the pause before the second attempt, doubled for each one after it, but at most MaxBackoff. 0 means the
	// defaults: 1 second, and 1 minute. At most 24 hours.
	Backoff, MaxBackoff time.Duration
	// On are the codes of the errors that are retried, see [Coded]. Empty means all but PERMANENT, which never is.
	On []string
}

// Calls is what a running task can ask its executor for. Its methods are safe for concurrent use.
type Calls interface {
	// Dispatch stores a child task and returns its UUID. The executor fills in whose child it is.
	Dispatch(ctx context.Context, spec *taskv1.TaskSpec) (string, error)
	// NewGroup makes a task group and returns its UUID.
	NewGroup(ctx context.Context, description string) (string, error)
	// KeepFile stores a file below the task's directory as a temporary file and returns its UUID.
	KeepFile(ctx context.Context, path string) (id string, err error)
	// FetchFile brings a temporary file and returns its path. It is removed when the task has ended.
	FetchFile(ctx context.Context, id string) (path string, err error)
	// Progress says how far a part of the work is. It returns at once, and may keep only the latest of each part.
	Progress(p *taskv1.Progress)
	// GroupProgress says what the run has added to one part of the progress of its group, since it began. It returns at once, and may
	// keep only the latest of each part.
	GroupProgress(p *taskv1.GroupProgress)
	// Created says what the task made. It returns at once, and what it was given is not lost before the run has ended.
	Created(c *taskv1.CreatedResource)
}

// errOutside is what one gets who asks without being a task.
var errOutside = errors.New("not called with the context of a running task")

type contextKey struct{}

// scope is what a handler's context carries.
type scope struct {
	task       Task
	arguments  Arguments
	log        *slog.Logger
	calls      Calls
	report     *report
	workingDir func() (string, error)
	tracing    trace.TracerProvider // nil: none
}

// scopeFor is the scope of a run that can ask for nothing yet.
func scopeFor(run Run) scope {
	a := run.Assignment
	return scope{
		log:       run.Log,
		arguments: Arguments{Args: orEmpty(a.GetArgsJson(), "[]"), Kwargs: orEmpty(a.GetKwargsJson(), "{}")},
		task: Task{
			ID:             a.GetTaskId(),
			Name:           a.GetName(),
			Claim:          a.GetClaim(),
			Attempt:        int(a.GetAttempt()),
			MaxAttempts:    max(1, int(a.GetMaxAttempts())),
			Domain:         a.GetDomain(),
			CorrelationID:  a.GetCorrelationId(),
			GroupID:        a.GetGroupId(),
			Traceparent:    a.GetTraceparent(),
			Tracestate:     a.GetTracestate(),
			ProfileOptions: a.GetProfileOptions(),
			FileIDs:        a.GetFileIds(),
			Immediate:      a.GetImmediate(),
		},
	}
}

func orEmpty(text, empty string) json.RawMessage {
	if text == "" {
		return json.RawMessage(empty)
	}
	return json.RawMessage(text)
}

func scopeOf(ctx context.Context) (scope, bool) {
	s, inside := ctx.Value(contextKey{}).(scope)
	return s, inside
}

// Current returns the task whose handler was given ctx, and the zero Task anywhere else.
func Current(ctx context.Context) Task {
	s, _ := scopeOf(ctx)
	return s.task
}

// RawArguments returns the arguments of the running task as they were dispatched, digit for digit, whatever its handler makes
// of them. Outside of a task they are empty.
func RawArguments(ctx context.Context) Arguments {
	s, _ := scopeOf(ctx)
	return s.arguments
}

// Logger returns the logger of the running task: its lines carry the task's ids and, in a child process, go to the task's
// log. Outside of a task it returns one that discards everything.
func Logger(ctx context.Context) *slog.Logger {
	if s, inside := scopeOf(ctx); inside && s.log != nil {
		return s.log.With(slog.String("task_id", s.task.ID), slog.String("correlation_id", s.task.CorrelationID),
			tasktrace.LogID(s.task.Traceparent))
	}
	return slog.New(slog.DiscardHandler)
}

// WorkingDir returns the path of the task's own directory, empty at the start and removed at the end. In a child process it
// is the current directory; in the executor's own it is made when a handler first asks for it.
func WorkingDir(ctx context.Context) (string, error) {
	s, inside := scopeOf(ctx)
	if !inside || s.workingDir == nil {
		return "", fmt.Errorf("find the working directory: %w", errOutside)
	}
	return s.workingDir()
}

// Dispatch stores a child of the running task and returns its UUID. When it returns, the child is committed and keeps its
// place on its resources. A child is not canceled with its parent. When an error is returned, the child may exist
// nevertheless: the answer can be lost after the commit.
func Dispatch(ctx context.Context, spec Spec) (string, error) {
	s, inside := scopeOf(ctx)
	if !inside || s.calls == nil {
		return "", fmt.Errorf("dispatch %s: %w", spec.Name, errOutside)
	}
	message, err := spec.message()
	if err != nil {
		return "", fmt.Errorf("dispatch %s: %w", spec.Name, err)
	}
	id, err := s.calls.Dispatch(ctx, message)
	if err != nil {
		return "", fmt.Errorf("dispatch %s: %w", spec.Name, err)
	}
	return id, nil
}

// NewGroup makes a task group and returns its UUID. Tasks join it through Spec.GroupID.
func NewGroup(ctx context.Context, description string) (string, error) {
	s, inside := scopeOf(ctx)
	if !inside || s.calls == nil {
		return "", fmt.Errorf("make a task group: %w", errOutside)
	}
	id, err := s.calls.NewGroup(ctx, description)
	if err != nil {
		return "", fmt.Errorf("make a task group: %w", err)
	}
	return id, nil
}

func (s Spec) message() (*taskv1.TaskSpec, error) {
	spec := &taskv1.TaskSpec{
		Name:               s.Name,
		ExclusiveResources: s.Exclusive,
		SharedResources:    s.Shared,
		GroupId:            s.GroupID,
		Immediate:          s.Immediate,
		Deferred:           proto.Bool(!s.NoDefer),
		Versions:           s.Versions,
		Timeout:            wire.Duration(s.Timeout),
		FileIds:            s.FileIDs,
	}
	if r := s.Retry; r != nil {
		spec.Retry = &taskv1.RetryPolicy{
			MaxAttempts: int32(min(max(r.Attempts, math.MinInt32), math.MaxInt32)), // out of range is refused, as it should be
			Backoff:     wire.Duration(r.Backoff), MaxBackoff: wire.Duration(r.MaxBackoff), On: r.On,
		}
	}
	if s.Args != nil {
		args, err := json.Marshal(s.Args)
		if err != nil {
			return nil, fmt.Errorf("write the positional arguments as JSON: %w", err)
		}
		spec.ArgsJson = string(args)
	}
	if s.Kwargs != nil {
		kwargs, err := json.Marshal(s.Kwargs)
		if err != nil {
			return nil, fmt.Errorf("write the named arguments as JSON: %w", err)
		}
		spec.KwargsJson = string(kwargs)
	}
	return spec, nil
}

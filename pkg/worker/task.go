package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/proto"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
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
	// Domain is the tenant that the task and all its children belong to.
	Domain string
	// CorrelationID ties together all tasks and log lines of one request.
	CorrelationID string
	// GroupID is the UUID of the task's group, "" if it has none.
	GroupID string
	// Traceparent is the W3C trace context of the dispatch, "" if it had none.
	Traceparent string
	// Immediate: a client waits for the end, and there is a time limit.
	Immediate bool
}

// Spec describes a task to dispatch. Domain, correlation id and parent are those of the running task.
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
}

// Calls is what a running task can ask its executor for.
type Calls interface {
	// Dispatch stores a child task and returns its UUID. The executor fills in whose child it is.
	Dispatch(ctx context.Context, spec *taskv1.TaskSpec) (string, error)
	// NewGroup makes a task group and returns its UUID.
	NewGroup(ctx context.Context, description string) (string, error)
}

// errOutside is what one gets who asks without being a task.
var errOutside = errors.New("not called with the context of a running task")

type contextKey struct{}

// scope is what a handler's context carries.
type scope struct {
	task       Task
	log        *slog.Logger
	calls      Calls
	workingDir func() (string, error)
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

// Logger returns the logger of the running task: its lines carry the task's ids and, in a child process, go to the task's
// log. Outside of a task it returns one that discards everything.
func Logger(ctx context.Context) *slog.Logger {
	if s, inside := scopeOf(ctx); inside && s.log != nil {
		return s.log.With(slog.String("task_id", s.task.ID), slog.String("correlation_id", s.task.CorrelationID))
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
	wire, err := spec.wire()
	if err != nil {
		return "", fmt.Errorf("dispatch %s: %w", spec.Name, err)
	}
	id, err := s.calls.Dispatch(ctx, wire)
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

func (s Spec) wire() (*taskv1.TaskSpec, error) {
	wire := &taskv1.TaskSpec{
		Name:               s.Name,
		ExclusiveResources: s.Exclusive,
		SharedResources:    s.Shared,
		GroupId:            s.GroupID,
		Immediate:          s.Immediate,
		Deferred:           proto.Bool(!s.NoDefer),
		Versions:           s.Versions,
	}
	if s.Args != nil {
		args, err := json.Marshal(s.Args)
		if err != nil {
			return nil, fmt.Errorf("write the positional arguments as JSON: %w", err)
		}
		wire.ArgsJson = string(args)
	}
	if s.Kwargs != nil {
		kwargs, err := json.Marshal(s.Kwargs)
		if err != nil {
			return nil, fmt.Errorf("write the named arguments as JSON: %w", err)
		}
		wire.KwargsJson = string(kwargs)
	}
	return wire, nil
}

package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/limits"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Mux knows the handlers of a process by task name. It is filled before it is used and not changed afterwards.
type Mux struct {
	handlers map[string]handler
	versions map[string]string
}

// handler is one entry: how to run it, on arguments still to be decoded, and what it was declared to be.
type handler struct {
	call    func(context.Context, Arguments) (any, error)
	discard func(ctx context.Context, resource string) error // nil: it can't
	traits  Traits
}

// Traits say where and how a handler may run.
type Traits struct {
	// InProcess: it may share the executor's process.
	InProcess bool
	// Immediate: it is fit to run while the client waits for its dispatch. Implies InProcess.
	Immediate bool
	// Timeout is how long a run may take if its dispatch does not say, 0 for as long as it takes.
	Timeout time.Duration
	// Discards: it can delete what a run of it left incomplete.
	Discards bool
}

// Option declares something about a handler.
type Option func(*declaration)

// declaration is what the options of one handler add up to.
type declaration struct {
	handler
	components []component
}

type component struct{ name, version string }

// InProcess declares that a handler may run as a goroutine of the executor. It must return soon after its context is
// canceled, for nothing can kill it; must not leave the current directory or the environment changed; and shares the
// executor's fate if it exhausts memory; and a panic in a goroutine that it starts itself ends the executor. In return it costs
// no process.
func InProcess() Option {
	return func(d *declaration) { d.traits.InProcess = true }
}

// Immediate declares that a handler is fast enough to run while the client waits. It implies InProcess.
func Immediate() Option {
	return func(d *declaration) { d.traits.InProcess, d.traits.Immediate = true, true }
}

// Timeout says how long a run may take, at most 30 days, unless its dispatch says otherwise. A run that takes longer is
// stopped as by a cancel and fails with the code TIMEOUT. Without it a run takes as long as it takes. It does not lengthen
// the limit of immediate tasks.
func Timeout(limit time.Duration) Option {
	return func(d *declaration) { d.traits.Timeout = limit }
}

// Component says that a handler is part of a component of this version. A dispatch can ask for the lowest version that an
// executor must have of a component. Several handlers may name one component, always with the same version; one handler may
// name several.
func Component(name, version string) Option {
	return func(d *declaration) { d.components = append(d.components, component{name, version}) }
}

// Discards brings the means to delete what a run of the handler left incomplete (see [Creating]). It is called once for each
// such resource when a run has ended without completing, by whatever: also when its process was killed, so it has nothing
// but the resource's name and the task ([Current], [Logger]) to go by. The task's directory is gone, and it can't dispatch
// or make anything. It must take no offense at a resource that is not there: the run may have ended before it made it, or
// the deletion is being repeated.
func Discards(discard func(ctx context.Context, resource string) error) Option {
	return func(d *declaration) { d.discard, d.traits.Discards = discard, true }
}

// Arguments are a task's arguments as they were dispatched.
type Arguments struct {
	// Args is a JSON array.
	Args json.RawMessage
	// Kwargs is a JSON object.
	Kwargs json.RawMessage
}

// None is the result of a handler that has none: null.
type None struct{}

// MarshalJSON returns null.
func (None) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// NewMux makes a Mux without handlers.
func NewMux() *Mux { return &Mux{handlers: map[string]handler{}, versions: map[string]string{}} }

// Handle adds a handler under a task name of 1 to 255 bytes. In must be a struct; its exported fields are the task's
// arguments: by name (the field's JSON name) and, in the order of declaration, by position. A field is optional if its
// JSON tag says omitempty or omitzero or if it is a pointer. Everything else that a dispatch could get wrong (an unknown
// argument, a missing one, one of another type) fails the task before the handler is called, with the code PERMANENT and a
// text that is safe to show.
//
// Unless the options say otherwise the handler runs in a process of its own, without a limit of time.
//
// A mistake in the call of Handle itself (a name twice, an In that is no struct, two versions of one component) is a bug of
// the program: it panics.
func Handle[In, Out any](m *Mux, name string, fn func(context.Context, In) (Out, error), options ...Option) {
	shape := shapeOf[In](name)
	m.add(name, func(ctx context.Context, arguments Arguments) (any, error) {
		var in In
		if err := shape.bind(arguments, &in); err != nil {
			return nil, Permanent(Safe(err))
		}
		return fn(ctx, in)
	}, options)
}

// HandleRaw adds a handler that takes its arguments as JSON text and returns JSON text, neither of which is touched:
// numbers keep all their digits, objects their order.
func HandleRaw(m *Mux, name string, fn func(context.Context, Arguments) (json.RawMessage, error), options ...Option) {
	m.add(name, func(ctx context.Context, arguments Arguments) (any, error) {
		return fn(ctx, arguments)
	}, options)
}

func (m *Mux) add(name string, call func(context.Context, Arguments) (any, error), options []Option) {
	d := declaration{handler: handler{call: call}}
	for _, option := range options {
		option(&d)
	}
	if _, taken := m.handlers[name]; taken {
		panic(fmt.Sprintf("worker: two handlers for task %q", name))
	}
	if d.traits.Discards && d.discard == nil {
		panic(fmt.Sprintf("worker: task %q: Discards needs a function", name))
	}
	versions := m.Versions()
	for _, c := range d.components {
		if other, known := versions[c.name]; known && other != c.version {
			panic(fmt.Sprintf("worker: task %q: two versions of the component %q: %q and %q", name, c.name, other, c.version))
		}
		versions[c.name] = c.version
	}
	// The rules are those for workers that present their handlers over the network, so ask as one of them.
	hello := &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Hello{Hello: &executorv1.WorkerHello{
		Handlers: []*executorv1.TaskHandler{{Name: name, Timeout: wire.Duration(d.traits.Timeout)}}, Versions: versions,
	}}}
	if err := limits.Check(hello); err != nil {
		panic(fmt.Sprintf("worker: task %.300q: %v", name, err))
	}
	m.versions = versions
	m.handlers[name] = d.handler
}

// Names lists the tasks that can be run, sorted.
func (m *Mux) Names() []string {
	names := make([]string, 0, len(m.handlers))
	for name := range m.handlers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Traits says what a handler was declared to be, and whether there is one.
func (m *Mux) Traits(name string) (Traits, bool) {
	h, known := m.handlers[name]
	return h.traits, known
}

// Versions are the components that the handlers belong to, with their versions.
func (m *Mux) Versions() map[string]string { return maps.Clone(m.versions) }

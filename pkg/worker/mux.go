package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluice-tasks/sluice/pkg/limits"
)

// Mux knows the handlers of a process by task name. It is filled before it is used and not changed afterwards.
type Mux struct {
	handlers map[string]handler
}

// handler is one entry: how to run it, on arguments still to be decoded, and what it was declared to be.
type handler struct {
	call   func(context.Context, Arguments) (any, error)
	traits Traits
}

// Traits say where and how a handler may run.
type Traits struct {
	// InProcess: it may share the executor's process.
	InProcess bool
	// Immediate: it is fit to run while the client waits for its dispatch. Implies InProcess.
	Immediate bool
}

// Option declares something about a handler.
type Option func(*Traits)

// InProcess declares that a handler may run as a goroutine of the executor. It must return soon after its context is
// canceled, for nothing can kill it; must not leave the current directory or the environment changed; and shares the
// executor's fate if it exhausts memory. In return it costs no process.
func InProcess() Option {
	return func(t *Traits) { t.InProcess = true }
}

// Immediate declares that a handler is fast enough to run while the client waits. It implies InProcess.
func Immediate() Option {
	return func(t *Traits) { t.InProcess, t.Immediate = true, true }
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
func NewMux() *Mux { return &Mux{handlers: map[string]handler{}} }

// Handle adds a handler under a task name of 1 to 255 bytes. In must be a struct; its exported fields are the task's
// arguments: by name (the field's JSON name) and, in the order of declaration, by position. A field is optional if its
// JSON tag says omitempty or omitzero or if it is a pointer. Everything else that a dispatch could get wrong (an unknown
// argument, a missing one, one of another type) fails the task before the handler is called.
//
// A mistake in the call of Handle itself (a name twice, an In that is no struct) is a bug of the program: it panics.
func Handle[In, Out any](m *Mux, name string, fn func(context.Context, In) (Out, error), options ...Option) {
	shape := shapeOf[In](name)
	m.add(name, func(ctx context.Context, arguments Arguments) (any, error) {
		var in In
		if err := shape.bind(arguments, &in); err != nil {
			return nil, err
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
	if name == "" || len(name) > limits.MaxName {
		panic(fmt.Sprintf("worker: a task name must have 1 to %d bytes: %q", limits.MaxName, name))
	}
	if _, taken := m.handlers[name]; taken {
		panic(fmt.Sprintf("worker: two handlers for task %q", name))
	}
	h := handler{call: call}
	for _, option := range options {
		option(&h.traits)
	}
	m.handlers[name] = h
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

package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/limits"
)

// Discard deletes what a run left incomplete, by the means of its handler (see [Discards]), one resource after the other. It
// returns the names of what could not be deleted, with the reason, one line each of at most 1,024 bytes; nil if all was. One
// that fails or panics does not keep the others from being deleted; when ctx ends, those that are left fail with its error.
//
// It returns when the handler's function does: one that ignores its context can't be interrupted here. Of run it uses the
// assignment and the log.
func (m *Mux) Discard(ctx context.Context, run Run, resources []string) map[string]string {
	var failed map[string]string
	h := m.handlers[run.Assignment.GetName()]
	ctx = context.WithValue(ctx, contextKey{}, scopeFor(run))
	for _, resource := range resources {
		if err := h.discardOne(ctx, resource); err != nil {
			if failed == nil {
				failed = map[string]string{}
			}
			failed[resource] = cut(clean(oneLine(err)), limits.MaxMessageText)
		}
	}
	return failed
}

func (h handler) discardOne(ctx context.Context, resource string) error {
	if h.discard == nil {
		return errors.New("the handler of this task can't delete what it made")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A goroutine of its own, for what its end can do to it: see Start.
	result := make(chan error, 1)
	go func() {
		err := errors.New("it ended its goroutine without returning")
		defer func() { result <- err }()
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %s", oneLine(p))
			}
		}()
		err = h.discard(ctx, resource)
	}()
	return <-result
}

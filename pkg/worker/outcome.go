package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Run is one run of a handler, as whoever runs it sees it.
type Run struct {
	// Assignment is the task. It must not change any more.
	Assignment *taskv1.Assignment
	// Timeout ends the handler's context when it is over, and what the handler makes of that is a failure with the code
	// TIMEOUT. 0: there is no limit here.
	Timeout time.Duration
	// WorkingDir makes the task's own, empty directory, the first time that it is called, and returns its path. nil: there is
	// none.
	WorkingDir func() (string, error)
	// Log gets the handler's lines; the task's ids are added. nil discards them.
	Log *slog.Logger
	// Calls serves what the handler asks for. nil: it can ask for nothing, and its progress goes unheard.
	Calls Calls
	// Tracing makes the spans of the handler, see [Tracer]. nil: there are none.
	Tracing trace.TracerProvider
}

// Run runs the handler of a task and returns how it ended, completed or failed; it never returns nil and never panics. It
// returns when the handler does: a handler that ignores its context can't be interrupted here. All that the handler reported
// has been handed to run.Calls by then, and nothing is afterwards. The outcome keeps all limits, so it can be reported as it
// is.
func (m *Mux) Run(ctx context.Context, run Run) *taskv1.Outcome { return <-m.Start(ctx, run) }

// Start is Run without waiting: the outcome comes through the channel.
func (m *Mux) Start(ctx context.Context, run Run) <-chan *taskv1.Outcome {
	ended := make(chan *taskv1.Outcome, 1)
	name := run.Assignment.GetName()
	h, known := m.handlers[name]
	if !known {
		ended <- failure(Safef("this worker has no handler for the task %q", name))
		return ended
	}
	s := scopeFor(run)
	s.tracing = run.Tracing
	s.calls, s.workingDir, s.report = run.Calls, run.WorkingDir, newReport(run.Calls)
	ctx, release := deadline(context.WithValue(traced(ctx, run), contextKey{}, s), run.Timeout)

	// A goroutine of its own, so that a handler that ends it (runtime.Goexit, as test helpers do) ends nothing of ours.
	go func() {
		defer release() // what the handler left running hears that it is over
		h.run(ctx, s, ended)
	}()
	return ended
}

// deadline is a context that ends after the limit, if there is one. The executor watches the time as well, and its word
// counts. But a context whose Deadline is only for show would break a promise on which the standard library builds: to a
// derived context with a later deadline it sets no timer of its own. And a handler whose executor is late stops in time.
func deadline(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, lateError{limit})
}

// run calls the handler and sends exactly one outcome, whatever the handler does.
func (h handler) run(ctx context.Context, s scope, ended chan<- *taskv1.Outcome) {
	var outcome *taskv1.Outcome
	defer func() {
		if outcome == nil {
			outcome = failure(Safef("the handler ended its goroutine without returning"))
		}
		s.report.close() // before the end is known: afterwards nobody listens
		ended <- outcome
	}()
	defer func() {
		if p := recover(); p != nil {
			outcome = panicked(p)
		}
	}()
	result, err := h.call(ctx, s.arguments)
	var late lateError
	switch {
	case err != nil && errors.As(context.Cause(ctx), &late):
		outcome = late.outcome()
	case err != nil:
		outcome = failure(err)
	default:
		// Inside the reach of recover: a MarshalJSON of the handler's can panic too.
		outcome = completed(result)
	}
}

// Failed makes the outcome of a task that failed, with texts cut to their limits and cleaned of what can't be stored. Its code
// is ERROR, and its text is not declared safe.
func Failed(description, traceback string) *taskv1.Outcome {
	return &taskv1.Outcome{
		State: taskv1.State_STATE_FAILED,
		Error: &taskv1.TaskError{Description: clean(description), Traceback: clean(traceback), Code: task.CodeError},
	}
}

// failure is the outcome of a handler that returned an error.
func failure(err error) *taskv1.Outcome {
	text, safe := textOf(err)
	outcome := Failed(text, "")
	outcome.Safe = safe
	outcome.Error.Code = codeOf(err)
	return outcome
}

// panicked is the outcome of a handler that panicked. It must be called by the function that recovered, for the stack.
func panicked(thrown any) *taskv1.Outcome {
	outcome := Failed("panic: "+oneLine(thrown), userFrames())
	outcome.Error.Code = task.CodePanic
	return outcome
}

// lateError is why the context of a run ended that took longer than it may.
type lateError struct{ limit time.Duration }

func (e lateError) Error() string { return "timed out after " + e.limit.String() }

// Is makes it what handlers look for, who know nothing of us.
func (e lateError) Is(target error) bool { return target == context.DeadlineExceeded }

// outcome is the same as the executor's, which may come first or second: nobody shall see a difference.
func (e lateError) outcome() *taskv1.Outcome {
	return &taskv1.Outcome{
		State: taskv1.State_STATE_FAILED, Safe: true,
		Error: &taskv1.TaskError{Reason: fmt.Sprintf(task.ReasonTimeoutFormat, e.limit), Code: task.CodeTimeout},
	}
}

func completed(result any) *taskv1.Outcome {
	text, err := marshal(result)
	if err != nil {
		// Not safe: it may be the words of a MarshalJSON.
		return Failed("the result can't be written as JSON: "+strings.TrimPrefix(err.Error(), "json: "), "")
	}
	if len(text) > limits.MaxJSON {
		return failure(Safef("the result is %d bytes, more than the limit of %d", len(text), limits.MaxJSON))
	}
	outcome := &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: text}
	if err := Check(outcome); err != nil {
		return failure(Safef("the result %w", err))
	}
	return outcome
}

// Check says whether an outcome would be refused when it is reported: one bad outcome must not cost the line on which all
// others travel. The error names the first rule that is broken.
func Check(outcome *taskv1.Outcome) error {
	return firstRule(limits.CheckOutcome(outcome))
}

// firstRule is the first of the rules that something breaks, nil if there is none.
func firstRule(err error) error {
	var invalid *errs.Error
	if errors.As(err, &invalid) && len(invalid.Violations) > 0 {
		return errors.New(invalid.Violations[0].Rule)
	}
	return err
}

// marshal writes JSON without the escapes for HTML, which only make results hard to read.
func marshal(v any) (string, error) {
	if raw, ok := v.(json.RawMessage); ok {
		if len(raw) == 0 {
			return "null", nil
		}
		return string(raw), nil // as it is; Check finds out whether it is JSON
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// oneLine is the first line of what was thrown that says something, without what would spoil a terminal. A String or Error
// method that panics itself is not our problem: fmt says so.
func oneLine(thrown any) string {
	text := cut(fmt.Sprint(thrown), limits.MaxErrorText) // looking for a line must end, too
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if line != "" {
			return cut(line, limits.MaxMessageText)
		}
	}
	return fmt.Sprintf("a %T without a text", thrown)
}

func printable(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// userFrames is the stack of the panic that is being recovered, from where it was raised to where the handler was called:
// neither the runtime's frames nor ours help whoever reads it.
func userFrames() string {
	const ours = "github.com/sluice-tasks/sluice/pkg/worker."
	pcs := make([]uintptr, 256)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	var (
		b       strings.Builder
		thrown  bool
		started bool
	)
	for {
		frame, more := frames.Next()
		switch {
		case !thrown:
			thrown = frame.Function == "runtime.gopanic"
		case !started && strings.HasPrefix(frame.Function, "runtime."):
			// How the runtime got from a nil pointer or a bad index to its panic.
		case strings.HasPrefix(frame.Function, ours):
			return b.String()
		default:
			started = true
			fmt.Fprintf(&b, "%s\n\t%s:%d\n", frame.Function, frame.File, frame.Line)
		}
		if !more {
			return b.String()
		}
	}
}

// clean makes text storable: valid UTF-8, no NUL (PostgreSQL has no such character), at most limits.MaxErrorText bytes.
func clean(text string) string {
	// Cut first: what is thrown away need not be cleaned, and cleaning can make text longer.
	text = cut(text, 2*limits.MaxErrorText)
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	return cut(text, limits.MaxErrorText)
}

// cut shortens text to at most limit bytes without dividing a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for back := range utf8.UTFMax {
		if utf8.RuneStart(text[limit-back]) {
			return text[:limit-back]
		}
	}
	return text[:limit] // not UTF-8 anyway
}

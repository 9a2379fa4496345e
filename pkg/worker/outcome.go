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
	"unicode/utf8"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// Run is one run of a handler, as whoever runs it sees it.
type Run struct {
	// Assignment is the task.
	Assignment *taskv1.Assignment
	// WorkingDir makes the task's own, empty directory, the first time that it is called, and returns its path. nil: there is
	// none.
	WorkingDir func() (string, error)
	// Log gets the handler's lines; the task's ids are added. nil discards them.
	Log *slog.Logger
	// Calls serves what the handler asks for. nil: it can ask for nothing.
	Calls Calls
}

// Run runs the handler of a task and returns how it ended, completed or failed; it never returns nil and never panics. It
// returns when the handler does: a handler that ignores its context can't be interrupted here. The outcome keeps all
// limits, so it can be reported as it is.
func (m *Mux) Run(ctx context.Context, run Run) *taskv1.Outcome { return <-m.Start(ctx, run) }

// Start is Run without waiting: the outcome comes through the channel.
func (m *Mux) Start(ctx context.Context, run Run) <-chan *taskv1.Outcome {
	ended := make(chan *taskv1.Outcome, 1)
	a := run.Assignment
	h, known := m.handlers[a.GetName()]
	if !known {
		ended <- Failed(fmt.Sprintf("this worker has no handler for the task %q", a.GetName()), "")
		return ended
	}
	ctx = context.WithValue(ctx, contextKey{}, scope{log: run.Log, calls: run.Calls, workingDir: run.WorkingDir, task: Task{
		ID:            a.GetTaskId(),
		Name:          a.GetName(),
		Claim:         a.GetClaim(),
		Attempt:       int(a.GetAttempt()),
		Domain:        a.GetDomain(),
		CorrelationID: a.GetCorrelationId(),
		GroupID:       a.GetGroupId(),
		Traceparent:   a.GetTraceparent(),
		Immediate:     a.GetImmediate(),
	}})
	arguments := Arguments{Args: orEmpty(a.GetArgsJson(), "[]"), Kwargs: orEmpty(a.GetKwargsJson(), "{}")}

	// A goroutine of its own, so that a handler that ends it (runtime.Goexit, as test helpers do) ends nothing of ours.
	go h.run(ctx, arguments, ended)
	return ended
}

func orEmpty(text, empty string) json.RawMessage {
	if text == "" {
		return json.RawMessage(empty)
	}
	return json.RawMessage(text)
}

// run calls the handler and sends exactly one outcome, whatever the handler does.
func (h handler) run(ctx context.Context, arguments Arguments, ended chan<- *taskv1.Outcome) {
	outcome := Failed("the handler ended its goroutine without returning", "")
	defer func() { ended <- outcome }()
	defer func() {
		if p := recover(); p != nil {
			outcome = Failed("panic: "+oneLine(p), userFrames())
		}
	}()
	result, err := h.call(ctx, arguments)
	if err != nil {
		outcome = Failed(describe(err), "")
		return
	}
	// Inside the reach of recover: a MarshalJSON of the handler's can panic too.
	outcome = completed(result)
}

// Failed makes the outcome of a task that failed, with texts cut to their limits and cleaned of what can't be stored.
func Failed(description, traceback string) *taskv1.Outcome {
	return &taskv1.Outcome{
		State: taskv1.State_STATE_FAILED,
		Error: &taskv1.TaskError{Description: clean(description), Traceback: clean(traceback)},
	}
}

func completed(result any) *taskv1.Outcome {
	text, err := marshal(result)
	if err != nil {
		return Failed("the result can't be written as JSON: "+strings.TrimPrefix(err.Error(), "json: "), "")
	}
	if len(text) > limits.MaxJSON {
		return Failed(fmt.Sprintf("the result is %d bytes, more than the limit of %d", len(text), limits.MaxJSON), "")
	}
	outcome := &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: text}
	if err := Check(outcome); err != nil {
		return Failed("the result "+err.Error(), "")
	}
	return outcome
}

// Check says whether an outcome would be refused when it is reported: one bad outcome must not cost the line on which all
// others travel. The error names the first rule that is broken.
func Check(outcome *taskv1.Outcome) error {
	err := limits.CheckOutcome(outcome)
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

// describe never returns "": an error that says nothing would look like none.
func describe(err error) string {
	if text := err.Error(); text != "" {
		return text
	}
	return fmt.Sprintf("the handler returned a %T without a text", err)
}

// oneLine is the first line of what was thrown. A String or Error method that panics itself is not our problem: fmt says so.
func oneLine(thrown any) string {
	line, _, _ := strings.Cut(fmt.Sprint(thrown), "\n")
	return line
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

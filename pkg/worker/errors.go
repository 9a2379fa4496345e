package worker

import (
	"errors"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Safe declares the text of an error fit for whoever may see the task. An executor can be set to show no other: then people
// see a reference in its place, and the text is in the executor's log.
//
// What is declared is the text as it is here. What others wrap around it, or join to it, was written by somebody who may not
// know who will read it: it is not shown. So wrap first and declare then. nil stays nil.
func Safe(err error) error {
	if err == nil {
		return nil
	}
	return &safeError{err}
}

// Safef makes an error as [fmt.Errorf] does, %w included, and declares its text [Safe].
func Safef(format string, args ...any) error {
	return &safeError{fmt.Errorf(format, args...)}
}

// Coded gives an error a code, which programs can look at and a [Retry] can name: at most 64 capital letters, digits and
// underscores, for example "REMOTE_BUSY". Without one it is ERROR, and so is one that breaks the rule. Of several codes that
// errors have that are wrapped in each other, the outermost counts. nil stays nil.
func Coded(code string, err error) error {
	switch {
	case err == nil:
		return nil
	case code == task.CodePermanent:
		return Permanent(err)
	default:
		return &codedError{err, code}
	}
}

// Permanent says that another attempt would only fail again: the task is not retried, whatever its dispatch asked for. Its
// code is PERMANENT, even if it has another one as well: a retry of what can't succeed does harm, one left out does not. nil
// stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type (
	safeError  struct{ error }
	codedError struct {
		error
		code string
	}
	permanentError struct{ error }
)

func (e *safeError) Unwrap() error      { return e.error }
func (e *codedError) Unwrap() error     { return e.error }
func (e *permanentError) Unwrap() error { return e.error }

// textOf is what to tell about an error, and whether that was declared safe. It is never "": an error that says nothing would
// look like none.
func textOf(err error) (text string, safe bool) {
	var declared *safeError
	if errors.As(err, &declared) {
		err, safe = declared.error, true
	}
	if text = err.Error(); text != "" {
		return text, safe
	}
	return fmt.Sprintf("the handler returned a %T without a text", err), safe
}

// codeOf is the code of an error that a handler returned.
func codeOf(err error) string {
	var permanent *permanentError
	if errors.As(err, &permanent) {
		return task.CodePermanent
	}
	var coded *codedError
	if errors.As(err, &coded) && validCode(coded.code) {
		return coded.code
	}
	return task.CodeError
}

// validCode asks those who will look at it later.
func validCode(code string) bool {
	return code != "" && limits.CheckOutcome(&taskv1.Outcome{
		State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Code: code},
	}) == nil
}

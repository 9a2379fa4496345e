package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// fails is the outcome of a handler that returns this error.
func fails(t *testing.T, err error) *taskv1.Outcome {
	t.Helper()
	mux := worker.NewMux()
	worker.Handle(mux, "t", func(context.Context, struct{}) (worker.None, error) { return worker.None{}, err })
	outcome := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t"}})
	if err := worker.Check(outcome); err != nil {
		t.Errorf("the outcome could not be reported: %v", err)
	}
	return outcome
}

func TestErrorsSayWhatTheyAreHoweverTheyAreWrapped(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want *taskv1.Outcome
	}{
		"plain":             {io.EOF, failed("ERROR", false, "EOF")},
		"safe":              {worker.Safe(io.EOF), failed("ERROR", true, "EOF")},
		"formatted":         {worker.Safef("%d: %w", 1, io.EOF), failed("ERROR", true, "1: EOF")},
		"what is inside":    {worker.Safe(fmt.Errorf("read: %w", io.EOF)), failed("ERROR", true, "read: EOF")},
		"what is around":    {fmt.Errorf("password: %w", worker.Safe(io.EOF)), failed("ERROR", true, "EOF")},
		"what is joined":    {errors.Join(errors.New("password"), worker.Safe(io.EOF)), failed("ERROR", true, "EOF")},
		"safe in safe":      {worker.Safef("a: %w", worker.Safef("b")), failed("ERROR", true, "a: b")},
		"safe and silent":   {worker.Safe(silent{}), failed("ERROR", true, "the handler returned a worker_test.silent without a text")},
		"code":              {worker.Coded("REMOTE_BUSY_2", io.EOF), failed("REMOTE_BUSY_2", false, "EOF")},
		"code around":       {fmt.Errorf("a: %w", worker.Coded("BUSY", io.EOF)), failed("BUSY", false, "a: EOF")},
		"outer code":        {worker.Coded("OUTER", fmt.Errorf("a: %w", worker.Coded("INNER", io.EOF))), failed("OUTER", false, "a: EOF")},
		"coded, safe":       {worker.Safe(worker.Coded("BUSY", io.EOF)), failed("BUSY", true, "EOF")},
		"code of safe":      {worker.Coded("BUSY", worker.Safe(io.EOF)), failed("BUSY", true, "EOF")},
		"permanent":         {worker.Permanent(io.EOF), failed("PERMANENT", false, "EOF")},
		"permanent as code": {worker.Coded("BUSY", worker.Coded("PERMANENT", io.EOF)), failed("PERMANENT", false, "EOF")},
		"permanent wins":    {worker.Coded("BUSY", fmt.Errorf("a: %w", worker.Permanent(io.EOF))), failed("PERMANENT", false, "a: EOF")},
		"all of them":       {worker.Permanent(worker.Coded("BUSY", worker.Safe(io.EOF))), failed("PERMANENT", true, "EOF")},
		"all, in a join":    {errors.Join(io.ErrNoProgress, fmt.Errorf("x: %w", worker.Safe(worker.Permanent(io.EOF)))), failed("PERMANENT", true, "EOF")},
		"no code":           {worker.Coded("", io.EOF), failed("ERROR", false, "EOF")},
		"lower case":        {worker.Coded("Busy", io.EOF), failed("ERROR", false, "EOF")},
		"a long code":       {worker.Coded(strings.Repeat("X", 65), io.EOF), failed("ERROR", false, "EOF")},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, fails(t, c.err), protocmp.Transform()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if !strings.HasPrefix(name, "safe ") && !errors.Is(c.err, io.EOF) {
				t.Error("what it wraps is not found any more")
			}
		})
	}
}

func TestNoErrorStaysNone(t *testing.T) {
	for name, err := range map[string]error{"Safe": worker.Safe(nil), "Coded": worker.Coded("X", nil), "Permanent": worker.Permanent(nil)} {
		if err != nil {
			t.Errorf("%s(nil) = %#v", name, err)
		}
	}
}

// Whatever a code and a text are, the outcome can be reported, and only the code that keeps the rule is.
func FuzzCodesAndTexts(f *testing.F) {
	f.Add("REMOTE_BUSY", "text")
	f.Add("", "")
	f.Add("remote busy", "a\x00b")
	f.Add(strings.Repeat("A", 64), "\xff")
	f.Add("PERMANENT", "\n")
	f.Fuzz(func(t *testing.T, code, text string) {
		outcome := fails(t, worker.Coded(code, worker.Safe(errors.New(text))))
		kept := code != "" && len(code) <= 64 && strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
		if got := outcome.GetError().GetCode(); got != map[bool]string{true: code, false: "ERROR"}[kept] {
			t.Errorf("code %q became %q", code, got)
		}
		if !outcome.GetSafe() || outcome.GetError().GetDescription() == "" {
			t.Errorf("outcome: %v", outcome)
		}
	})
}

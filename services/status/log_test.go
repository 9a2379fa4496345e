package status_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// approx compares messages; times that went through a double may differ in the last digit.
var approx = cmp.Options{protocmp.Transform(), cmpopts.EquateApprox(0, 1e-6), cmpopts.EquateEmpty()}

func seconds(n int64) *durationpb.Duration { return &durationpb.Duration{Seconds: n} }

func (w *world) putLog(t *testing.T, id string, claim int64, text string, truncated bool) {
	t.Helper()
	if _, err := w.client.PutTaskLog(t.Context(), &statusv1.PutTaskLogRequest{TaskId: id, Claim: claim, Text: text, Truncated: truncated}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) log(t *testing.T, id string) (text string, truncated bool) {
	t.Helper()
	answer, err := w.client.GetTaskLog(t.Context(), &statusv1.GetTaskLogRequest{TaskId: id})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetText(), answer.GetTruncated()
}

func TestLogOfTheLatestRunIsKept(t *testing.T) {
	w := newWorld(t)
	id, other := w.add(t, row{}), w.add(t, row{})
	if text, truncated := w.log(t, id); text != "" || truncated {
		t.Errorf("before anything was written: %q, %v", text, truncated)
	}
	for _, step := range []struct {
		claim     int64
		text      string
		truncated bool
		want      string
	}{
		{2, "second", false, "second"},
		{2, "second, longer", true, "second, longer"},
		{1, "first, late", false, "second, longer"},
		{3, "third", false, "third"},
		{2, "second, late", true, "third"},
		{4, "", false, ""},
	} {
		w.putLog(t, id, step.claim, step.text, step.truncated)
		text, truncated := w.log(t, id)
		if text != step.want || truncated != strings.HasSuffix(step.want, "longer") {
			t.Errorf("after %q of claim %d: %q, truncated %v", step.text, step.claim, text, truncated)
		}
	}
	if text, _ := w.log(t, other); text != "" {
		t.Errorf("another task's log is %q", text)
	}
}

func TestLogTakesWhateverProcessesWrite(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	for sent, want := range map[string]string{
		"a\x00b\x00\x00":                   "a\uFFFDb\uFFFD\uFFFD",
		"\x1b[31mred\x1b[0m\r\n\t":         "\x1b[31mred\x1b[0m\r\n\t",
		"näme 🚰":                           "näme 🚰",
		strings.Repeat("x", limits.MaxLog): strings.Repeat("x", limits.MaxLog),
	} {
		w.putLog(t, id, 1, sent, false)
		if got, truncated := w.log(t, id); got != want || truncated {
			t.Errorf("%.20q became %.20q (%d bytes), truncated %v", sent, got, len(got), truncated)
		}
	}
}

// A zero is one byte, what replaces it three: the end is kept, whole characters of it.
func TestLogThatGrowsByReplacementIsCutAtTheFront(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	w.putLog(t, id, 1, "begin "+strings.Repeat("\x00", limits.MaxLog-20)+" the end", false)
	text, truncated := w.log(t, id)
	if !truncated || len(text) > limits.MaxLog || len(text) < limits.MaxLog-2 || !utf8.ValidString(text) ||
		strings.Contains(text, "begin") || !strings.HasSuffix(text, "\uFFFD the end") {
		t.Errorf("%d bytes, truncated %v, %.10q … %q", len(text), truncated, text, text[len(text)-12:])
	}
}

func TestLogGoesWithItsTaskAndNeedsOne(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "completed"})
	w.putLog(t, id, 1, "text", false)
	pgtest.Must(t, w, 1, `delete from task where id = $1::text::uuid`, id)
	if n := pgtest.One[int](t, w, `select count(*) from task_log`); n != 0 {
		t.Error("the log outlived its task")
	}
	if _, err := w.client.GetTaskLog(t.Context(), &statusv1.GetTaskLogRequest{TaskId: id}); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("reading it: %v", err)
	}
	if _, err := w.client.PutTaskLog(t.Context(), &statusv1.PutTaskLogRequest{TaskId: id, Claim: 2, Text: "late"}); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("writing it: %v", err)
	}
}

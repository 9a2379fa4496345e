package scheduler

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

func TestARunWhoseExecutorIsGoneIsLoggedUnderTheIDsOfItsTask(t *testing.T) {
	var out bytes.Buffer
	j := journal{slog.New(slog.NewJSONHandler(&out, nil))}
	lost := &live{id: "the task", lane: &lane{name: "sync"}, story: &story{trace: &traced{
		parent: tasktrace.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""), correlationID: "the request",
	}}}
	j.failed(lost, Again{Claim: 6, Error: &task.Error{Code: "ERROR"}}, 0) // which its executor has logged
	j.ended(lost, End{Claim: 7, State: task.Failed, Error: &task.Error{Code: task.CodeMissing}}, task.Failed, 0)
	j.ended(lost, End{Claim: 8, State: task.Completed}, task.Completed, 0)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil { // one line it is
		t.Fatalf("%v: %s", err, out.String())
	}
	for key, want := range map[string]any{
		"task_id": "the task", "name": "sync", "correlation_id": "the request", "trace_id": "0af7651916cd43dd8448eb211c80319c",
		"claim": 7.0, "state": "failed",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
}

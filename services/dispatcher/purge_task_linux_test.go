package dispatcher_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/builtin"
)

// The task that does it over REST and by schedules, on a real dispatcher: it is a task itself, and stays.
func TestThePurgeTaskDeletesWhatItShouldAndNotItself(t *testing.T) {
	w := newWorld(t, &leader{})
	w.aged(t, task.Completed, 1000, 900)
	w.aged(t, task.Completed, 1000, 900)
	failed := w.aged(t, task.Failed, 1000, 900)
	young := w.aged(t, task.Completed, 1000, 10)
	w.group(t, 900)
	self := w.inState(t, task.Running)
	mux := worker.NewMux()
	builtin.RegisterPurge(mux, w.client)
	outcome := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: builtin.PurgeTask, TaskId: self}})
	if got := outcome.GetResultJson(); got != `{"deleted":{"completed":2},"deleted_groups":1}` {
		t.Errorf("outcome %v", outcome)
	}
	if diff := cmp.Diff([]string{failed, young, self}, w.left(t)); diff != "" {
		t.Errorf("what stays (-want +got):\n%s", diff)
	}
	kwargs := fmt.Sprintf(`{"finished_before": %q, "states": ["completed", "failed", "canceled", "skipped"]}`, time.Now().Add(time.Hour).Format(time.RFC3339))
	outcome = mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: builtin.PurgeTask, TaskId: self, KwargsJson: kwargs}})
	if got := outcome.GetResultJson(); got != `{"deleted":{"canceled":0,"completed":1,"failed":1,"skipped":0},"deleted_groups":0}` {
		t.Errorf("outcome %v", outcome)
	}
	if diff := cmp.Diff([]string{self}, w.left(t)); diff != "" {
		t.Errorf("what stays (-want +got):\n%s", diff)
	}
}

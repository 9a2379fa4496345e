package client_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
)

func TestAScheduleComesBackAsItWasMade(t *testing.T) {
	c := dial(t, clienttest.New(t))
	next := time.Date(2031, 2, 3, 4, 5, 6, 7000, time.UTC)
	asked := client.Schedule{
		Name: "n", Interval: time.Hour, Next: &next, Task: client.Spec{
			Name: "t", Args: []int{1}, Kwargs: map[string]string{"a": "<"}, Exclusive: []string{"e"}, Shared: []string{"s"}, Versions: map[string]string{"core": "1"},
			CorrelationID: "c", Timeout: time.Minute, Retry: &client.Retry{MaxAttempts: 3, Backoff: -1, MaxBackoff: time.Minute}, ProfileOptions: []string{"p"},
		},
	}
	made, err := c.CreateSchedule(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	want := asked
	want.ID, want.CreatedAt, want.UpdatedAt = clienttest.ScheduleID(1), clienttest.Epoch, clienttest.Epoch
	want.Task.Args, want.Task.Kwargs = json.RawMessage("[1]"), json.RawMessage(`{"a":"<"}`)
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	read, err := c.Schedule(t.Context(), made.ID)
	if diff := cmp.Diff(want, read); err != nil || diff != "" {
		t.Errorf("read: %v, %s", err, diff)
	}
	want.Task.Args, want.Task.Kwargs = nil, nil
	all, err := c.Schedules(t.Context())
	if diff := cmp.Diff([]client.Schedule{want}, all); err != nil || diff != "" {
		t.Errorf("listed: %v, %s", err, diff)
	}
	if _, err := c.CreateSchedule(t.Context(), asked); !errs.Is(err, errs.ScheduleExists) {
		t.Errorf("made twice: %v", err)
	}
	if err := c.DeleteSchedule(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
	if err := c.DeleteSchedule(t.Context(), made.ID); !errs.Is(err, errs.ScheduleNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := c.Schedule(t.Context(), made.ID); !errs.Is(err, errs.ScheduleNotFound) {
		t.Errorf("read when it is deleted: %v", err)
	}
}

func TestAScheduleNeedsNoMoreThanANameAndATask(t *testing.T) {
	c := dial(t, clienttest.New(t))
	made, err := c.CreateSchedule(t.Context(), client.Schedule{Name: "n", Task: client.Spec{Name: "t"}})
	if err != nil || made.Interval != 0 || made.Next == nil || made.LastTaskID != "" {
		t.Errorf("%+v, %v", made, err)
	}
	if _, err := c.CreateSchedule(t.Context(), client.Schedule{Name: "n", Task: client.Spec{Name: "t", Args: make(chan int)}}); err == nil {
		t.Error("arguments that are no JSON were sent")
	}
	if _, err := c.CreateSchedule(t.Context(), client.Schedule{Name: "m", Task: client.Spec{Name: "t", Immediate: true}}); !errs.Is(err, errs.InvalidInput) {
		t.Errorf("an immediate one: %v", err)
	}
}

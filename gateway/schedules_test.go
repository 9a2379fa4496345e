package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const schedulesPath = "/pulp/api/v3/task-schedules/"

// scheduleID is the id of the n-th schedule of the fakes.
func scheduleID(n int) string { return fmt.Sprintf("019412ab-0000-7000-9000-%012d", n) }

func aSchedule(n int, name, task string, every time.Duration) *dispatcherv1.TaskSchedule {
	s := &dispatcherv1.TaskSchedule{
		Id: scheduleID(n), Name: name, Task: &taskv1.TaskSpec{Name: task}, CreatedAt: at(n), UpdatedAt: at(n + 1),
	}
	if every > 0 {
		s.DispatchInterval, s.NextDispatch = durationpb.New(every), at(10-n)
	}
	return s
}

// timetable makes fakes that have some schedules.
func timetable(all ...*dispatcherv1.TaskSchedule) *native {
	return &native{hooks: hooks{
		listSchedules: func(context.Context, *dispatcherv1.ListTaskSchedulesRequest) (*dispatcherv1.ListTaskSchedulesResponse, error) {
			return &dispatcherv1.ListTaskSchedulesResponse{Schedules: all}, nil
		},
		getSchedule: func(_ context.Context, r *dispatcherv1.GetTaskScheduleRequest) (*dispatcherv1.GetTaskScheduleResponse, error) {
			for _, s := range all {
				if s.GetId() == r.GetScheduleId() {
					return &dispatcherv1.GetTaskScheduleResponse{Schedule: s}, nil
				}
			}
			return nil, errs.NotFound(errs.ScheduleNotFound, "no schedule")
		},
		deleteSchedule: func(_ context.Context, r *dispatcherv1.DeleteTaskScheduleRequest) (*dispatcherv1.DeleteTaskScheduleResponse, error) {
			if r.GetScheduleId() != all[0].GetId() {
				return nil, errs.NotFound(errs.ScheduleNotFound, "no schedule")
			}
			return &dispatcherv1.DeleteTaskScheduleResponse{}, nil
		},
	}}
}

func TestAScheduleIsShownAsInPulp(t *testing.T) {
	one := aSchedule(1, "nightly", "app.clean", 36*time.Hour+time.Minute+1500*time.Microsecond)
	one.LastTaskId = taskID
	once := aSchedule(2, "once", "app.clean", 0)
	f := newFace(t, timetable(one, once), gateway.Config{})
	w := f.do(t, http.MethodGet, schedulesPath+scheduleID(1)+"/", "")
	want(t, w, http.StatusOK, `{"pulp_href":"`+schedulesPath+scheduleID(1)+`/","prn":"prn:core.taskschedule:`+scheduleID(1)+
		`","pulp_created":"2026-11-22T10:15:01.120000Z","pulp_last_updated":"2026-11-22T10:15:02.120000Z","name":"nightly","task_name":"app.clean",`+
		`"dispatch_interval":"1 12:01:00.001500","next_dispatch":"2026-11-22T10:15:09.120000Z","last_task":"/pulp/api/v3/tasks/`+taskID+`/"}`)
	w = f.do(t, http.MethodGet, schedulesPath+scheduleID(2)+"/?fields=dispatch_interval,next_dispatch,last_task", "")
	want(t, w, http.StatusOK, `{"dispatch_interval":null,"next_dispatch":null,"last_task":null}`)
	for _, id := range []string{otherID, "nonsense"} {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			want(t, f.do(t, method, schedulesPath+id+"/", ""), http.StatusNotFound, `{"detail":"No TaskSchedule matches the given query."}`)
		}
	}
	want(t, f.do(t, http.MethodDelete, schedulesPath+scheduleID(1)+"/", ""), http.StatusNoContent, "")
}

func TestSchedulesAreSelectedOrderedAndPaged(t *testing.T) {
	all := []*dispatcherv1.TaskSchedule{
		aSchedule(1, "c", "x.one", 3*time.Second), aSchedule(2, "a", "y.two", 0), aSchedule(3, "b", "x.two", time.Hour),
	}
	f := newFace(t, timetable(all...), gateway.Config{})
	for query, names := range map[string]string{
		"":                        "a b c",
		"name=b":                  "b",
		"name__contains=B":        "",
		"task_name=x.two":         "b",
		"task_name__contains=two": "a b",
		"prn__in=prn:core.taskschedule:" + scheduleID(1) + ",prn:core.taskschedule:" + scheduleID(2): "a c",
		"pulp_href__in=" + schedulesPath + scheduleID(3) + "/":                                       "b",
		"pulp_id__in=" + scheduleID(3) + "," + otherID:                                               "b",
		"ordering=-name":                  "c b a",
		"ordering=pulp_created":           "c a b",
		"ordering=-pulp_created":          "b a c",
		"ordering=task_name":              "c b a",
		"ordering=-pk":                    "b a c",
		"ordering=next_dispatch":          "b c a",
		"ordering=dispatch_interval":      "c b a",
		"ordering=pulp_last_updated,name": "c a b",
		"limit=1&offset=1":                "b",
		"q=" + url.QueryEscape(`name=a OR (task_name__contains=x AND NOT name=c)`): "a b",
	} {
		page := object(t, f.do(t, http.MethodGet, schedulesPath+"?"+query, ""))
		var got []string
		for _, one := range page["results"].([]any) {
			got = append(got, one.(map[string]any)["name"].(string))
		}
		if strings.Join(got, " ") != names {
			t.Errorf("%s: %v, want %s", query, got, names)
		}
	}
	page := object(t, f.do(t, http.MethodGet, schedulesPath+"?limit=1&offset=1&fields=name", ""))
	if diff := cmp.Diff(map[string]any{
		"count": 3.0, "next": "http://localhost:24817" + schedulesPath + "?fields=name&limit=1&offset=2",
		"previous": "http://localhost:24817" + schedulesPath + "?fields=name&limit=1", "results": []any{map[string]any{"name": "b"}},
	}, page); diff != "" {
		t.Error(diff)
	}
	want(t, f.do(t, http.MethodGet, schedulesPath+"?nope=1", ""), http.StatusBadRequest, `{"errors":["Invalid Filter: 'nope'"]}`)
	for _, query := range []string{"ordering=nope", "pulp_id__in=1", "prn__in=prn:core.task:" + scheduleID(1), "q=name"} {
		if w := f.do(t, http.MethodGet, schedulesPath+"?"+query, ""); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

func TestAScheduleIsMade(t *testing.T) {
	var asked *dispatcherv1.TaskSchedule
	n := &native{hooks: hooks{
		createSchedule: func(_ context.Context, r *dispatcherv1.CreateTaskScheduleRequest) (*dispatcherv1.CreateTaskScheduleResponse, error) {
			asked = r.GetSchedule()
			if asked.GetName() == "taken" {
				return nil, errs.Exists(errs.ScheduleExists, "there is a schedule taken")
			}
			made := proto.CloneOf(asked)
			made.Id, made.CreatedAt, made.UpdatedAt = scheduleID(1), at(1), at(1)
			if made.GetNextDispatch() == nil {
				made.NextDispatch = at(1)
			}
			return &dispatcherv1.CreateTaskScheduleResponse{Schedule: made}, nil
		},
	}}
	f := newFace(t, n, gateway.Config{})
	w := f.do(t, http.MethodPost, schedulesPath, `{
		"name": "s", "task_name": "app.clean", "task_args": [1, 2.50], "task_kwargs": {"a": null}, "dispatch_interval": "1 00:00:00",
		"next_dispatch": "2027-01-02T03:04:05+01:00", "exclusive_resources": ["e"], "shared_resources": ["r"], "versions": {"core": "3"},
		"timeout": 2.5, "retry": {"max_attempts": 3, "backoff": 1}}`)
	if w.Code != http.StatusCreated || w.Header().Get("Location") != schedulesPath+scheduleID(1)+"/" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := object(t, w); got["dispatch_interval"] != "1 00:00:00" || got["next_dispatch"] != "2027-01-02T02:04:05.000000Z" || got["last_task"] != nil {
		t.Errorf("got %v", got)
	}
	if diff := cmp.Diff(&dispatcherv1.TaskSchedule{
		Name: "s", DispatchInterval: durationpb.New(24 * time.Hour), NextDispatch: timestamppb.New(time.Date(2027, 1, 2, 2, 4, 5, 0, time.UTC)),
		Task: &taskv1.TaskSpec{
			Name: "app.clean", ArgsJson: "[1, 2.50]", KwargsJson: `{"a": null}`, ExclusiveResources: []string{"e"}, SharedResources: []string{"r"},
			Versions: map[string]string{"core": "3"}, Timeout: durationpb.New(2500 * time.Millisecond), CreatedBy: 1,
			Retry: &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: durationpb.New(time.Second)},
		},
	}, asked, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	// What may be null is as if it were not there.
	w = f.do(t, http.MethodPost, schedulesPath, `{"name": "s", "task_name": "t", "dispatch_interval": null, "next_dispatch": null, "task_args": null}`)
	if w.Code != http.StatusCreated || asked.GetDispatchInterval() != nil || asked.GetNextDispatch() != nil {
		t.Errorf("%d %s: %v", w.Code, w.Body, asked)
	}
	want(t, f.do(t, http.MethodPost, schedulesPath, `{"name": "taken", "task_name": "t"}`), http.StatusBadRequest, `{"name":["This field must be unique."]}`)
	for body, answer := range map[string]string{
		`{}`:                           `{"name":["This field is required."],"task_name":["This field is required."]}`,
		`{"name":" ","task_name":"t"}`: `{"name":["This field may not be blank."]}`,
		`{"name":"n","task_name":"t","next_dispatch":"soon"}`:                      `{"next_dispatch":["Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."]}`,
		`{"name":"n","task_name":"t","dispatch_interval":"soon"}`:                  `{"dispatch_interval":["Duration has wrong format. Use one of these formats instead: [DD] [HH:[MM:]]ss[.uuuuuu]."]}`,
		`{"name":"n","task_name":"t","dispatch_interval":[5]}`:                     `{"dispatch_interval":["Duration has wrong format. Use one of these formats instead: [DD] [HH:[MM:]]ss[.uuuuuu]."]}`,
		`{"name":"n","task_name":"t","dispatch_interval":0.5}`:                     `{"dispatch_interval":["Must be between 1s and 87600h0m0s, is 500ms."]}`,
		`{"name":"n","task_name":"t","task_args":{}}`:                              `{"task_args":["Expected a list of items but got type \"dict\"."]}`,
		`{"name":"n","task_name":"t","exclusive_resources":["shared:x"]}`:          `{"exclusive_resources":{"0":["Must not begin with \"shared:\": list it under shared_resources without the prefix."]}}`,
		`{"name":"n","task_name":"t","retry":{"max_attempts":101}}`:                `{"retry":{"max_attempts":["Must be between 1 and 100, is 101."]}}`,
		`{"name":"n","task_name":"t","next_dispatch":"1950-01-01T00:00:00Z"}`:      `{"next_dispatch":["Must be a time between the years 1970 and 9999."]}`,
		`{"name":"n","task_name":"` + strings.Repeat("x", limits.MaxName+1) + `"}`: `{"task_name":["Must be at most 255 bytes, has 256."]}`,
	} {
		want(t, f.do(t, http.MethodPost, schedulesPath, body), http.StatusBadRequest, answer)
	}
}

func TestIntervalsAreReadAsDjangoDoes(t *testing.T) {
	var asked *durationpb.Duration
	n := &native{hooks: hooks{
		createSchedule: func(_ context.Context, r *dispatcherv1.CreateTaskScheduleRequest) (*dispatcherv1.CreateTaskScheduleResponse, error) {
			asked = r.GetSchedule().GetDispatchInterval()
			return &dispatcherv1.CreateTaskScheduleResponse{Schedule: aSchedule(1, "n", "t", asked.AsDuration())}, nil
		},
	}}
	f := newFace(t, n, gateway.Config{})
	for given, c := range map[string]struct {
		is    time.Duration
		shown string
	}{
		`100`:                {100 * time.Second, "00:01:40"},
		`1.5`:                {1500 * time.Millisecond, "00:00:01.500000"},
		`"90"`:               {90 * time.Second, "00:01:30"},
		`"00:01:40"`:         {100 * time.Second, "00:01:40"},
		`"15:30"`:            {15*time.Minute + 30*time.Second, "00:15:30"},
		`"1 00:00:00"`:       {24 * time.Hour, "1 00:00:00"},
		`"3 days, 08:32:01"`: {80*time.Hour + 32*time.Minute + time.Second, "3 08:32:01"},
		`"10 1:2:3.000004"`:  {241*time.Hour + 2*time.Minute + 3*time.Second + 4*time.Microsecond, "10 01:02:03.000004"},
		`"PT1H30M"`:          {90 * time.Minute, "01:30:00"},
		`"P4DT1H15M20S"`:     {97*time.Hour + 15*time.Minute + 20*time.Second, "4 01:15:20"},
		`"3650 00:00:00"`:    {limits.MaxInterval, "3650 00:00:00"},
	} {
		w := f.do(t, http.MethodPost, schedulesPath, `{"name":"n","task_name":"t","dispatch_interval":`+given+`}`)
		if got := object(t, w)["dispatch_interval"]; w.Code != http.StatusCreated || asked.AsDuration() != c.is || got != c.shown {
			t.Errorf("%s: %d, %s, shown as %v", given, w.Code, asked.AsDuration(), got)
		}
	}
	for _, given := range []string{
		`""`, `"-5"`, `-5`, `true`, `{}`, `"1:2:3:4"`, `"P"`, `"PT"`, `"P1Y"`, `1e300`, `"9999999 00:00:00"`, `"` + strings.Repeat("9", 90) + `"`, `"NaN"`, `0`,
	} {
		if w := f.do(t, http.MethodPost, schedulesPath, `{"name":"n","task_name":"t","dispatch_interval":`+given+`}`); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", given, w.Code, w.Body)
		}
	}
}

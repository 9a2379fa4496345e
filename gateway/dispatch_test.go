package gateway_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const (
	batchPath = tasksPath + "batch/"
	purgePath = tasksPath + "purge/"
)

func TestTheIdempotencyKeyIsTheRequestID(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for range 2 {
		want(t, f.do(t, "POST", tasksPath, `{"name":"n"}`, "Idempotency-Key", "order 66"), 202, `{"task":"`+taskPath+`"}`)
	}
	if len(f.dispatched) != 2 || f.dispatched[0].GetRequestId() != "order 66" || f.dispatched[1].GetRequestId() != "order 66" {
		t.Errorf("dispatched %v", f.dispatched)
	}
	long := strings.Repeat("k", 128)
	if w := f.do(t, "POST", tasksPath, `{"name":"n"}`, "Idempotency-Key", long); w.Code != http.StatusAccepted || f.dispatched[2].GetRequestId() != long {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	calls := f.calls
	for _, key := range []string{"", long + "k", "a\tb", "ä", "\xff"} {
		want(t, f.do(t, "POST", tasksPath, `{"name":"n"}`, "Idempotency-Key", key), 400, `{"Idempotency-Key":["Must be 1 to 128 printable ASCII characters."]}`)
	}
	if f.calls != calls {
		t.Error("a bad key reached the dispatcher")
	}
	if w := f.do(t, "GET", tasksPath, "", "Idempotency-Key", ""); w.Code != http.StatusOK {
		t.Errorf("a GET got %d", w.Code)
	}
}

func TestAnIdempotencyKeyOfAnotherTaskIsAConflict(t *testing.T) {
	reused := errs.Exists(errs.RequestIDReused, "request id k belongs to another task")
	n := &native{
		dispatch: func(context.Context, *dispatcherv1.DispatchRequest) (*dispatcherv1.DispatchResponse, error) {
			return nil, reused
		},
		batch: func(context.Context, *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error) {
			return nil, reused
		},
	}
	f := newFace(t, n, gateway.Config{})
	const answer = `{"detail":"This Idempotency-Key has been used for another task."}`
	want(t, f.do(t, "POST", tasksPath, `{"name":"n"}`, "Idempotency-Key", "k"), 409, answer)
	want(t, f.do(t, "POST", batchPath, `{"tasks":[{"name":"n"}]}`, "Idempotency-Key", "k"), 409, answer)
	want(t, f.do(t, "POST", purgePath, `{}`, "Idempotency-Key", "k"), 409, answer)
}

func TestABatchIsDispatchedInItsOrder(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	const cid = "0b0fb1e8f1e24ab8b5f3a5a5d4f1c7ab"
	w := f.do(t, "POST", batchPath, `{"tasks":[{"name":"a","args":[1.0]},{"name":"b","task_group":"`+groupHref+`","profile_options":["cpu"]}]}`,
		"Correlation-ID", cid, "Idempotency-Key", "k", "X-Task-Diagnostics", "memory")
	want(t, w, 202, `{"tasks":["/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000000/","/pulp/api/v3/tasks/019412ab-0000-7000-8000-000000000001/"]}`)
	if diff := cmp.Diff([]*taskv1.TaskSpec{
		{Name: "a", ArgsJson: "[1.0]", CorrelationId: cid, RequestId: "k/0", CreatedBy: 1, ProfileOptions: []string{"memory"}},
		{Name: "b", GroupId: groupID, CorrelationId: cid, RequestId: "k/1", CreatedBy: 1, ProfileOptions: []string{"cpu"}},
	}, f.dispatched, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	f.do(t, "POST", batchPath, `{"tasks":[{"name":"a"},{"name":"b"}]}`)
	if one, two := f.dispatched[2].GetRequestId(), f.dispatched[3].GetRequestId(); one == "" || one == two {
		t.Errorf("without a key the request ids are %q and %q", one, two)
	}
}

func TestBadBatches(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	for body, answer := range map[string]string{
		`{}`:                          `{"tasks":["This field is required."]}`,
		`{"tasks":null}`:              `{"tasks":["This field may not be null."]}`,
		`{"tasks":[]}`:                `{"tasks":["This list may not be empty."]}`,
		`{"tasks":{}}`:                `{"tasks":["Expected a list of items but got type \"dict\"."]}`,
		`{"tasks":[{"name":"n"},{}]}`: `{"tasks":[{},{"name":["This field is required."]}]}`,
		`{"tasks":[1,{"name":"n"},null]}`: `{"tasks":[{"non_field_errors":["Invalid data. Expected a dictionary, but got int."]},{},` +
			`{"non_field_errors":["Invalid data. Expected a dictionary, but got NoneType."]}]}`,
		`{"tasks":[{"name":"n","x":1,"args":{},"retry":{}}]}`: `{"tasks":[{"args":["Expected a list of items but got type \"dict\"."],` +
			`"retry":{"max_attempts":["This field is required."]},"x":["Unexpected field"]}]}`,
		`{"tasks":[{"name":"n","task_group":"mine"}]}`: `{"tasks":[{"task_group":["Must be the href or the UUID of a task group."]}]}`,
		// What the native limits say, which the fakes stand behind too.
		`{"tasks":[{"name":"n"},{"name":"n"},{"name":"n\u0000","exclusive_resources":["a",""],"kwargs":{"a":` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `}}]}`: `{"tasks":[{},{},` +
			`{"exclusive_resources":{"1":["Must not be empty or blank."]},"kwargs":["Must be nested at most 100 deep."],"name":["Must not contain control characters, has U+0000 at byte 1."]}]}`,
		`{"tasks":[` + strings.Repeat(`{"name":"n"},`, 1000) + `{"name":"n"}]}`: `{"tasks":["Must be between 1 and 1000, is 1001."]}`,
	} {
		w := f.do(t, "POST", batchPath, body)
		if w.Code != 400 || w.Body.String() != answer {
			t.Errorf("%.80s: %d\n got %s\nwant %s", body, w.Code, w.Body, answer)
		}
	}
	want(t, f.do(t, "POST", batchPath, `{"tasks":[{"name":"n"}]}`, "Idempotency-Key", strings.Repeat("k", 125)), 400, `{"Idempotency-Key":["Must be at most 124 bytes for a batch."]}`)
	if len(n.dispatched) > 0 {
		t.Errorf("dispatched %v", n.dispatched)
	}
	want(t, f.unjudged().do(t, "GET", batchPath, ""), 405, `{"detail":"Method \"GET\" not allowed."}`)
}

// A batch whose answer is lost inside is handed in again under the same request ids.
func TestBatchIsHandedInAgainUnderTheSameIDs(t *testing.T) {
	n := &native{}
	n.batch = func(context.Context, *dispatcherv1.DispatchBatchRequest) (*dispatcherv1.DispatchBatchResponse, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.dispatched) < 4 {
			return nil, status.Error(codes.Unavailable, "broken")
		}
		return &dispatcherv1.DispatchBatchResponse{Tasks: []*taskv1.Task{{Id: taskID}, {Id: childID}}}, nil
	}
	f := newFace(t, n, gateway.Config{})
	if w := f.do(t, "POST", batchPath, `{"tasks":[{"name":"a"},{"name":"b"}]}`); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for i := range 2 {
		if id := n.dispatched[i].GetRequestId(); id == "" || id != n.dispatched[i+2].GetRequestId() {
			t.Errorf("request ids %q and %q", id, n.dispatched[i+2].GetRequestId())
		}
	}
}

func TestPurgeIsATask(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for body, kwargs := range map[string]string{
		`{"finished_before":"2026-11-01T00:00:00.5+01:00","states":["failed","canceled","skipped","completed"]}`: `{"finished_before":"2026-10-31T23:00:00.500000Z","states":["failed","canceled","skipped","completed"]}`,
		`{"finished_before":"1970-01-01"}`: `{"finished_before":"1970-01-01T00:00:00.000000Z","states":["completed"]}`,
	} {
		w := f.unjudged().do(t, "POST", purgePath, body)
		want(t, w, 202, `{"task":"`+taskPath+`"}`)
		spec := f.dispatched[len(f.dispatched)-1]
		if spec.GetName() != "sluice.purge_tasks" || spec.GetKwargsJson() != kwargs || spec.GetCreatedBy() != 1 || spec.GetCorrelationId() != w.Header().Get("Correlation-ID") {
			t.Errorf("%s: dispatched %v", body, spec)
		}
	}
	before := time.Now().UTC().AddDate(0, 0, -30).Truncate(24 * time.Hour)
	for _, body := range []string{``, `{}`} {
		want(t, f.do(t, "POST", purgePath, body, "Idempotency-Key", "daily"), 202, `{"task":"`+taskPath+`"}`)
		spec := f.dispatched[len(f.dispatched)-1]
		// Midnight may pass while the test runs.
		days := []string{before.Format(time.DateOnly), before.AddDate(0, 0, 1).Format(time.DateOnly)}
		if !slices.ContainsFunc(days, func(day string) bool {
			return spec.GetKwargsJson() == `{"finished_before":"`+day+`T00:00:00.000000Z","states":["completed"]}`
		}) || spec.GetRequestId() != "daily" {
			t.Errorf("dispatched %v", spec)
		}
	}
}

func TestBadPurges(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	const noTime = `["Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."]`
	for body, answer := range map[string]string{
		`{"finished_before":"yesterday"}`:        `{"finished_before":` + noTime + `}`,
		`{"finished_before":""}`:                 `{"finished_before":["This field may not be blank."]}`,
		`{"finished_before":null}`:               `{"finished_before":["This field may not be null."]}`,
		`{"finished_before":20261101}`:           `{"finished_before":["Not a valid string."]}`,
		`{"states":["running"]}`:                 `{"states":["\"running\" is not a valid choice."]}`,
		`{"states":["completed","x","waiting"]}`: `{"states":["\"x\" is not a valid choice.","\"waiting\" is not a valid choice."]}`,
		`{"states":[]}`:                          `{"states":["This list may not be empty."]}`,
		`{"states":"failed"}`:                    `{"states":["Expected a list of items but got type \"str\"."]}`,
		`{"states":["x"],"finished_before":"x"}`: `{"finished_before":` + noTime + `,"states":["\"x\" is not a valid choice."]}`,
		`{"before":"2026-11-01"}`:                `{"before":["Unexpected field"]}`,
	} {
		want(t, f.do(t, "POST", purgePath, body), 400, answer)
	}
	if n.calls > 0 {
		t.Errorf("%d calls reached the services", n.calls)
	}
}

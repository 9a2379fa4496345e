package status_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

func (w *world) list(t *testing.T, r *statusv1.ListTasksRequest) *statusv1.ListTasksResponse {
	t.Helper()
	answer, err := w.client.ListTasks(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func ids(tasks []*taskv1.Task) (ids []string) {
	for _, t := range tasks {
		ids = append(ids, t.GetId())
	}
	return ids
}

func TestGetShowsTheTaskAndItsChildren(t *testing.T) {
	w := newWorld(t)
	group := pgtest.One[string](t, w, `insert into task_group (id, domain_id) values (gen_random_uuid(), '`+task.DefaultDomainID+`') returning id::text`)
	parent := w.add(t, row{name: "parent", state: "completed", result: `{"b": 1, "a": 12345678901234567890}`, correlation: "c", group: group})
	var children []string
	for range 3 {
		children = append(children, w.add(t, row{parent: parent}))
	}
	answer, err := w.client.GetTask(t.Context(), &statusv1.GetTaskRequest{TaskId: parent})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(children, answer.GetChildIds()); diff != "" {
		t.Errorf("children, the oldest first: %s", diff)
	}
	got := answer.GetTask()
	if got.GetId() != parent || got.GetState() != taskv1.State_STATE_COMPLETED || got.GetResultJson() != `{"b": 1, "a": 12345678901234567890}` ||
		got.GetCorrelationId() != "c" || got.GetGroupId() != group || got.GetFinishedAt() == nil || got.GetExecutor() != "e1" || got.GetDomain() != "default" {
		t.Errorf("got %v", got)
	}
	answer, err = w.client.GetTask(t.Context(), &statusv1.GetTaskRequest{TaskId: children[0]})
	if err != nil || answer.GetTask().GetParentId() != parent || len(answer.GetChildIds()) != 0 {
		t.Errorf("a child: %v, %v", answer, err)
	}
	if _, err := w.client.GetTask(t.Context(), &statusv1.GetTaskRequest{TaskId: unknownID}); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
}

func TestListFilters(t *testing.T) {
	w := newWorld(t)
	group := pgtest.One[string](t, w, `insert into task_group (id, domain_id) values (gen_random_uuid(), '`+task.DefaultDomainID+`') returning id::text`)
	parent := w.add(t, row{name: "parent", state: "completed"})
	stored := map[string]string{
		w.add(t, row{name: "a", exclusive: []string{"r1"}, shared: []string{"r2", "r3"}}): "waiting",
		w.add(t, row{name: "a", state: "running", shared: []string{"r1"}}):                "running",
		w.add(t, row{name: "b", state: "canceling", group: group}):                        "canceling",
		w.add(t, row{name: "b", state: "completed", group: group, parent: parent}):        "completed",
		w.add(t, row{name: "b", state: "failed", correlation: "c"}):                       "failed",
		w.add(t, row{name: "B", state: "canceled", parent: parent}):                       "canceled",
		w.add(t, row{name: "aa", state: "skipped", correlation: "C"}):                     "skipped",
		parent: "parent",
	}
	for name, c := range map[string]struct {
		request *statusv1.ListTasksRequest
		want    string // the newest first
	}{
		"all":              {&statusv1.ListTasksRequest{}, "skipped canceled failed completed canceling running waiting parent"},
		"one state":        {&statusv1.ListTasksRequest{States: []taskv1.State{taskv1.State_STATE_FAILED}}, "failed"},
		"live states":      {&statusv1.ListTasksRequest{States: []taskv1.State{taskv1.State_STATE_WAITING, taskv1.State_STATE_RUNNING, taskv1.State_STATE_CANCELING}}, "canceling running waiting"},
		"live and final":   {&statusv1.ListTasksRequest{States: []taskv1.State{taskv1.State_STATE_WAITING, taskv1.State_STATE_SKIPPED}}, "skipped waiting"},
		"name, exactly":    {&statusv1.ListTasksRequest{Name: "b"}, "failed completed canceling"},
		"correlation id":   {&statusv1.ListTasksRequest{CorrelationId: "c"}, "failed"},
		"group":            {&statusv1.ListTasksRequest{GroupId: group}, "completed canceling"},
		"parent":           {&statusv1.ListTasksRequest{ParentId: parent}, "canceled completed"},
		"resource":         {&statusv1.ListTasksRequest{Resources: []string{"r1"}}, "running waiting"},
		"all of resources": {&statusv1.ListTasksRequest{Resources: []string{"r3", "r1"}}, "waiting"},
		"resource nobody":  {&statusv1.ListTasksRequest{Resources: []string{"r"}}, ""},
		"name and state":   {&statusv1.ListTasksRequest{Name: "a", States: []taskv1.State{taskv1.State_STATE_RUNNING}}, "running"},
		"group and parent": {&statusv1.ListTasksRequest{GroupId: group, ParentId: parent}, "completed"},
		"nothing fits":     {&statusv1.ListTasksRequest{Name: "a", States: []taskv1.State{taskv1.State_STATE_FAILED}}, ""},
		"no pattern":       {&statusv1.ListTasksRequest{Name: "%"}, ""},
		"no SQL":           {&statusv1.ListTasksRequest{Name: "' or true --", CorrelationId: "$1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.request.Count = true
			answer := w.list(t, c.request)
			var got []string
			for _, id := range ids(answer.GetTasks()) {
				got = append(got, stored[id])
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
			if answer.GetTotal() != int64(len(got)) || answer.GetNextPageToken() != "" {
				t.Errorf("total %d, next page %q", answer.GetTotal(), answer.GetNextPageToken())
			}
		})
	}
}

// many stores n waiting tasks and returns their ids, the newest first.
func (w *world) many(t *testing.T, n int) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `
		with new as (
			insert into task (id, domain_id, name) select gen_random_uuid(), '`+task.DefaultDomainID+`', 'n' from generate_series(1, $1) returning seq, id
		), live as (insert into task_live (seq, task_id) select seq, id from new)
		select array_agg(id::text order by seq desc) from new`, n)
}

func TestPagesHaveTheSizeAskedFor(t *testing.T) {
	w := newWorld(t)
	all := w.many(t, 1005)
	for _, c := range []struct{ size, offset, want int }{
		{0, 0, 100}, {1, 0, 1}, {7, 0, 7}, {1000, 0, 1000}, {7, 3, 7}, {10, 1000, 5}, {10, 1005, 0}, {10, 999_999, 0}, {5, 1000, 5},
	} {
		answer := w.list(t, &statusv1.ListTasksRequest{PageSize: int32(c.size), Offset: int32(c.offset), Count: true})
		if diff := cmp.Diff(all[min(c.offset, 1005):min(c.offset+c.want, 1005)], ids(answer.GetTasks()), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("size %d, offset %d: %s", c.size, c.offset, diff)
		}
		if more := c.offset+c.want < 1005; (answer.GetNextPageToken() != "") != more {
			t.Errorf("size %d, offset %d: next page %q", c.size, c.offset, answer.GetNextPageToken())
		}
		if answer.GetTotal() != 1005 {
			t.Errorf("total %d", answer.GetTotal())
		}
	}
	if got := w.list(t, &statusv1.ListTasksRequest{}).GetTotal(); got != 0 {
		t.Errorf("counted %d though nobody asked", got)
	}
}

// walk reads all pages.
func (w *world) walk(t *testing.T, size int32, between func()) (seen []*taskv1.Task) {
	t.Helper()
	request := &statusv1.ListTasksRequest{PageSize: size}
	for {
		answer := w.list(t, request)
		seen = append(seen, answer.GetTasks()...)
		if request.PageToken = answer.GetNextPageToken(); request.GetPageToken() == "" {
			return seen
		}
		between()
	}
}

func TestPagesAreCompleteAndWithoutDuplicatesWhileTasksAreDispatched(t *testing.T) {
	w := newWorld(t)
	before := w.many(t, 300)
	ctx, cancel := context.WithCancel(t.Context())
	dispatching, progress := make(chan struct{}), make(chan struct{}, 1000)
	go func() {
		defer close(dispatching)
		for ctx.Err() == nil {
			if _, err := w.Exec(context.WithoutCancel(ctx), `insert into task (id, domain_id, name) select gen_random_uuid(), gen_random_uuid(), 'late' from generate_series(1, 3)`); err != nil {
				t.Error(err)
				return
			}
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	}()
	seen := w.walk(t, 7, func() { <-progress }) // something came between every two pages
	cancel()
	<-dispatching
	for i := 1; i < len(seen); i++ {
		if seen[i].GetSeq() >= seen[i-1].GetSeq() {
			t.Fatalf("seq %d after %d", seen[i].GetSeq(), seen[i-1].GetSeq())
		}
	}
	got := slices.DeleteFunc(ids(seen), func(id string) bool { return !slices.Contains(before, id) })
	if diff := cmp.Diff(before, got); diff != "" {
		t.Errorf("of those that were there before: %s", diff)
	}
}

// Numbers are given before rows are committed: one with a lower number can become visible after the page with a higher one.
func TestTaskThatIsCommittedLateIsOnALaterPage(t *testing.T) {
	w := newWorld(t)
	early := w.many(t, 2)
	slow := pgtest.Begin(t, pgtest.Open(t, w.url))
	late := pgtest.One[string](t, slow, `insert into task (id, domain_id, name) values (gen_random_uuid(), gen_random_uuid(), 'slow') returning id::text`)
	newest := w.many(t, 2)
	committed := false
	seen := w.walk(t, 1, func() {
		if !committed {
			slow.Commit(t)
			committed = true
		}
	})
	want := append(append(newest, late), early...)
	if diff := cmp.Diff(want, ids(seen)); diff != "" {
		t.Error(diff)
	}
}

// A page of large results must fit into a message: it is shorter than asked for, and nothing is lost.
func TestPagesOfLargeTasksAreShorter(t *testing.T) {
	w := newWorld(t)
	const n = 12
	big := `"` + strings.Repeat("x", 1<<20-2) + `"`
	var all []string
	for range n {
		all = append(all, w.add(t, row{state: "completed", result: big}))
	}
	slices.Reverse(all)
	pages := 0
	seen := w.walk(t, 100, func() { pages++ })
	if diff := cmp.Diff(all, ids(seen)); diff != "" {
		t.Error(diff)
	}
	for _, got := range seen {
		if got.GetResultJson() != big {
			t.Errorf("a result has %d bytes", len(got.GetResultJson()))
		}
	}
	if want := n << 20 / status.PageBytes; pages+1 < want {
		t.Errorf("%d pages, want at least %d", pages+1, want)
	}
}

// Who shows neither results nor errors need not have them read: a thousand results are a gibibyte.
func TestResultsAndErrorsAreLeftOutOnRequest(t *testing.T) {
	w := newWorld(t)
	w.add(t, row{state: "completed", result: `{"a": 1}`})
	w.add(t, row{state: "failed"})
	pgtest.Must(t, w, 1, `update task set error = '{"description": "d"}' where state = 'failed'`)
	for _, c := range []struct{ results, errors bool }{{}, {results: true}, {errors: true}, {true, true}} {
		got := w.list(t, &statusv1.ListTasksRequest{OmitResults: c.results, OmitErrors: c.errors}).GetTasks()
		if len(got) != 2 {
			t.Fatalf("there are %d tasks", len(got))
		}
		failed, completed := got[0], got[1] // the newest first
		if (completed.GetResultJson() == "") != c.results || (failed.GetError() == nil) != c.errors {
			t.Errorf("%+v: the result is %q and the error %v", c, completed.GetResultJson(), failed.GetError())
		}
	}
}

// What a dispatch may say beside arguments is 40 KB, too much for a thousand tasks on one page.
func TestPagesOfTasksThatAskForMuchAreShorter(t *testing.T) {
	for column, value := range map[string]string{
		"versions": `(select jsonb_object_agg(n || repeat('c', 250), repeat('v', 255)) from generate_series(10, 73) n)`,
		"options": `json_build_object('files', array_fill(id::text, array[100]), 'profile', array_fill(repeat('p', 64), array[16]),
			'retry', json_build_object('attempts', 2, 'on', array_fill(repeat('C', 64), array[32])))`,
	} {
		t.Run(column, func(t *testing.T) {
			w := newWorld(t)
			all := w.many(t, limits.MaxPage)
			pgtest.Must(t, w, limits.MaxPage, `update task set `+column+` = `+value)
			pages := 0
			seen := w.walk(t, limits.MaxPage, func() { pages++ })
			if diff := cmp.Diff(all, ids(seen)); diff != "" {
				t.Error(diff)
			}
			bytes := 0
			for _, one := range seen {
				bytes += proto.Size(one)
			}
			if least := bytes/status.PageBytes + 1; pages+1 < least {
				t.Errorf("%d bytes on %d pages, want at least %d", bytes, pages+1, least)
			}
		})
	}
}

func TestPageTokensThatWereNotGivenAreRefused(t *testing.T) {
	w := newWorld(t)
	w.many(t, 3)
	for _, token := range []string{"-1", "0", "!", "1 or 1=1", "zzzzzzzzzzzzzzzzzzzzzzzzz", "٣"} {
		_, err := w.client.ListTasks(t.Context(), &statusv1.ListTasksRequest{PageToken: token})
		if !errs.Is(err, errs.InvalidInput) || !strings.Contains(err.Error(), "page_token") {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestGroupCountsItsMembersByState(t *testing.T) {
	w := newWorld(t)
	group := pgtest.One[string](t, w, `insert into task_group (id, domain_id, description) values (gen_random_uuid(), '`+task.DefaultDomainID+`', 'what for') returning id::text`)
	get := func() *statusv1.GetTaskGroupResponse {
		answer, err := w.client.GetTaskGroup(t.Context(), &statusv1.GetTaskGroupRequest{GroupId: group})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if got := get(); got.GetId() != group || got.GetDescription() != "what for" || got.GetCreatedAt() == nil || len(got.GetCounts()) != 0 {
		t.Errorf("empty: %v", got)
	}
	w.many(t, 3) // of no group
	for state, n := range map[string]int{"waiting": 2, "running": 1, "failed": 3} {
		for range n {
			w.add(t, row{state: state, group: group})
		}
	}
	got := map[string]int64{}
	for _, c := range get().GetCounts() {
		got[c.GetState().String()] = c.GetCount()
	}
	if diff := cmp.Diff(map[string]int64{"STATE_WAITING": 2, "STATE_RUNNING": 1, "STATE_FAILED": 3}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := w.client.GetTaskGroup(t.Context(), &statusv1.GetTaskGroupRequest{GroupId: unknownID}); !errs.Is(err, errs.GroupNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
}

func TestSystemStatusCountsWhatLivesAndSaysWhoLeads(t *testing.T) {
	w := newWorld(t)
	get := func() *statusv1.GetSystemStatusResponse {
		answer, err := w.client.GetSystemStatus(t.Context(), &statusv1.GetSystemStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if diff := cmp.Diff(&statusv1.GetSystemStatusResponse{Version: "v1.2.3", DatabaseConnected: true}, get(), approx...); diff != "" {
		t.Errorf("a fresh system: %s", diff)
	}
	pgtest.Must(t, w, 1, `update lease set holder = 's1', epoch = 7, expires_at = now() + interval '1 min'`)
	pgtest.Must(t, w, 4, `insert into app (incarnation, name, kind, ttl, missing_at, ended_at) values
		(gen_random_uuid(), 'a', 'worker', interval '10 s', null, null), (gen_random_uuid(), 'b', 'worker', interval '10 s', now(), null),
		(gen_random_uuid(), 'c', 'worker', interval '10 s', null, now()), (gen_random_uuid(), 'd', 'api', interval '10 s', null, null)`)
	w.many(t, 3)
	for _, state := range []string{"running", "running", "canceling", "completed", "failed"} {
		w.add(t, row{state: state})
	}
	want := &statusv1.GetSystemStatusResponse{
		Version: "v1.2.3", DatabaseConnected: true, SchedulerLeads: true, Epoch: 7, Executors: 1,
		Live: []*statusv1.StateCount{
			{State: taskv1.State_STATE_CANCELING, Count: 1}, {State: taskv1.State_STATE_RUNNING, Count: 2}, {State: taskv1.State_STATE_WAITING, Count: 3},
		},
	}
	if diff := cmp.Diff(want, get(), approx...); diff != "" {
		t.Error(diff)
	}
	pgtest.Must(t, w, 1, `update lease set expires_at = now() - interval '1 s'`)
	if get().GetSchedulerLeads() {
		t.Error("a scheduler leads, though its lease has ended")
	}
}

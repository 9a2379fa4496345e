package status_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

// What else the scheduler does to a running task.
const (
	end = `with done as (update task set state = $2, error = '{}', finished_at = clock_timestamp(), updated_at = clock_timestamp()
		where id = $1::text::uuid and finished_at is null returning seq) delete from task_live l using done where l.seq = done.seq`
	retry = `with failed as (
			insert into task_attempt (task_id, attempt, claim, executor, started_at, error)
			select id, attempt, claim, executor, started_at, $2::json from task where id = $1::text::uuid
		)
		update task set state = 'waiting', started_at = null, executor = null, incarnation = null, retry_at = now() + interval '1 hour' where id = $1::text::uuid and state = 'running'`
)

// part is a part of a task's work that was reported without a state, and of which nobody knows how much there is.
func part(code string) *taskv1.Progress {
	return &taskv1.Progress{Code: code, Message: "Doing " + code}
}

// made names what was created; what ends with "?" is incomplete.
func made(names ...string) (created []*taskv1.CreatedResource) {
	for _, name := range names {
		resource, incomplete := strings.CutSuffix(name, "?")
		created = append(created, &taskv1.CreatedResource{Resource: resource, Incomplete: incomplete})
	}
	return created
}

// names is the inverse of made.
func names(created []*taskv1.CreatedResource) string {
	var all []string
	for _, c := range created {
		all = append(all, c.GetResource()+map[bool]string{true: "?"}[c.GetIncomplete()])
	}
	return strings.Join(all, " ")
}

// states are the parts with their states: "a running b failed".
func states(progress []*taskv1.Progress) string {
	var all []string
	for _, p := range progress {
		all = append(all, p.GetCode()+" "+strings.ToLower(strings.TrimPrefix(p.GetState().String(), "STATE_")))
	}
	return strings.Join(all, " ")
}

func (w *world) report(t *testing.T, r *statusv1.PutTaskReportRequest) {
	t.Helper()
	if _, err := w.client.PutTaskReport(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func (w *world) get(t *testing.T, id string) *statusv1.GetTaskResponse {
	t.Helper()
	answer, err := w.client.GetTask(t.Context(), &statusv1.GetTaskRequest{TaskId: id})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestReportIsShownAsItWasToldInTheOrderOfFirstTelling(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	if got := w.get(t, id); got.GetReport() != nil || len(got.GetAttempts()) > 0 {
		t.Errorf("before anything was told: %v", got)
	}
	progress := []*taskv1.Progress{
		{Code: "z", Message: "näme <&> 🚰", State: taskv1.State_STATE_COMPLETED, Total: proto.Int64(1 << 60), Done: 1 << 60, Suffix: "bytes"},
		{Code: "a", State: taskv1.State_STATE_WAITING, Total: proto.Int64(0)},
		{Code: "m", State: taskv1.State_STATE_RUNNING, Done: 7},
	}
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Progress: progress, Created: made("/b/", "a c?", "prn:x:1")})
	want := &statusv1.TaskReport{Progress: progress, Created: made("/b/", "a c?", "prn:x:1")}
	if diff := cmp.Diff(want, w.get(t, id).GetReport(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestReportOfAnOlderClaimIsIgnored(t *testing.T) {
	w := newWorld(t)
	id, other := w.add(t, row{state: "running"}), w.add(t, row{state: "running"})
	pgtest.Must(t, w, 1, `update task set claim = 9 where id = $1::text::uuid`, id)
	for _, step := range []struct {
		claim     int64
		code      string
		created   string
		discarded []string
		want      string // progress and what was created, of the latest run that told anything
	}{
		{claim: 2, code: "second", created: "b", want: "second: b"},
		{claim: 2, code: "second,again", created: "b c", want: "second,again: b c"},
		{claim: 1, code: "first,late", created: "a", discarded: []string{"b"}, want: "second,again: b c"},
		{claim: 4, code: "fourth", created: "d", want: "fourth: b c d"},
		{claim: 3, code: "third,late", created: "c?", want: "fourth: b c d"},
		{claim: 4, code: "", created: "", want: ": b c d"},
	} {
		r := &statusv1.PutTaskReportRequest{TaskId: id, Claim: step.claim, Created: made(strings.Fields(step.created)...), Discarded: step.discarded}
		if step.code != "" {
			r.Progress = []*taskv1.Progress{part(step.code)}
		}
		w.report(t, r)
		got := w.get(t, id).GetReport()
		codes := ""
		for _, p := range got.GetProgress() {
			codes += p.GetCode()
		}
		if text := codes + ": " + names(got.GetCreated()); text != step.want {
			t.Errorf("after claim %d: %q, want %q", step.claim, text, step.want)
		}
	}
	if got := w.get(t, other).GetReport(); got != nil {
		t.Errorf("another task has %v", got)
	}
}

func TestWhatWasCreatedIsMergedAcrossAttempts(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	for _, step := range []struct {
		name      string
		claim     int64
		created   string
		discarded string
		want      string
	}{
		{"the first run", 1, "a? b c?", "", "a? b c?"},
		{"one is complete", 1, "a b c?", "", "a b c?"},
		{"again, nothing changed", 1, "a b c?", "", "a b c?"},
		{"what did not complete is deleted", 1, "a b c?", "c", "a b"},
		{"the second run makes some again", 2, "d b?", "", "a b? d"},
		{"another order, one new", 2, "e? b d", "", "a b d e?"},
		{"one of the first run is deleted", 2, "e? b d", "a e", "b d"},
		{"deleted and never known", 2, "b", "x y", "b d"},
		{"made again after it was deleted", 3, "a", "", "b d a"},
		{"twice in one report", 3, "f? g f", "", "b d a f g"},
		{"all deleted", 3, "", "a b d f g", ""},
		{"nothing", 4, "", "", ""},
		{"and then something", 4, "h?", "", "h?"},
	} {
		w.report(t, &statusv1.PutTaskReportRequest{
			TaskId: id, Claim: step.claim, Created: made(strings.Fields(step.created)...), Discarded: strings.Fields(step.discarded),
		})
		if got := names(w.get(t, id).GetReport().GetCreated()); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}

func TestFirstReportThatAlsoDiscardsKeepsOnlyTheRest(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Created: made("a?", "b", "c?"), Discarded: []string{"a", "c"}})
	if got := names(w.get(t, id).GetReport().GetCreated()); got != "b" {
		t.Errorf("got %q", got)
	}
}

// A hundred attempts may make a thousand things each.
func TestOfOneTaskAThousandCreatedAreKept(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	many := func(prefix string) (all []string) {
		for i := range 1000 {
			all = append(all, fmt.Sprint(prefix, i))
		}
		return all
	}
	first, second := many("a"), many("b")
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Created: made(first[:600]...)})
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 2, Created: made(second...)})
	want := strings.Join(slices.Concat(first[:600], second[:400]), " ")
	if got := names(w.get(t, id).GetReport().GetCreated()); got != want {
		t.Errorf("got %q", got)
	}
}

func TestReportsAtTheSameTimeLoseNothingOfTheLatestClaim(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	var all sync.WaitGroup
	for claim := range int64(20) {
		all.Go(func() {
			_, err := w.client.PutTaskReport(t.Context(), &statusv1.PutTaskReportRequest{
				TaskId: id, Claim: claim + 1, Progress: []*taskv1.Progress{part(fmt.Sprint(claim + 1))}, Created: made("all", fmt.Sprint(claim+1)),
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got := w.get(t, id).GetReport()
	created := strings.Fields(names(got.GetCreated()))
	if states(got.GetProgress()) != "20 running" || created[0] != "all" || !slices.Contains(created, "20") || len(created) != len(slices.Compact(slices.Sorted(slices.Values(created)))) {
		t.Errorf("got %v", got)
	}
}

func TestReportNeedsATaskAndGoesWithIt(t *testing.T) {
	w := newWorld(t)
	unknown := &statusv1.PutTaskReportRequest{TaskId: unknownID, Claim: 1, Progress: []*taskv1.Progress{part("a")}}
	if _, err := w.client.PutTaskReport(t.Context(), unknown); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("unknown: %v", err)
	}
	id := w.add(t, row{state: "completed"})
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1})
	pgtest.Must(t, w, 1, `delete from task where id = $1::text::uuid`, id)
	if n := pgtest.One[int](t, w, `select count(*) from task_report`); n != 0 {
		t.Error("the report outlived its task")
	}
}

// A worker that is killed can't say how far it was, so what it left open ends as the task did. What is stored stays as it is.
func TestOpenPartsEndAsTheirTaskDoes(t *testing.T) {
	const told = "done completed open running failed failed waiting waiting canceling canceling plain running"
	w := newWorld(t)
	progress := []*taskv1.Progress{
		{Code: "done", State: taskv1.State_STATE_COMPLETED},
		{Code: "open", State: taskv1.State_STATE_RUNNING},
		{Code: "failed", State: taskv1.State_STATE_FAILED},
		{Code: "waiting", State: taskv1.State_STATE_WAITING},
		{Code: "canceling", State: taskv1.State_STATE_CANCELING},
		{Code: "plain"},
	}
	for _, state := range []string{"completed", "failed", "canceled"} {
		id := w.add(t, row{})
		pgtest.Must(t, w, 1, claim, id)
		w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Progress: progress})
		if got := states(w.get(t, id).GetReport().GetProgress()); got != told {
			t.Errorf("while it runs: %q", got)
		}
		pgtest.Must(t, w, 1, `update task set state = 'canceling' where id = $1::text::uuid`, id)
		if got := states(w.get(t, id).GetReport().GetProgress()); got != told {
			t.Errorf("while it is canceling: %q", got)
		}
		if state == "completed" {
			pgtest.Must(t, w, 1, `update task set state = 'running' where id = $1::text::uuid`, id)
			pgtest.Must(t, w, 1, complete, id)
		} else {
			pgtest.Must(t, w, 1, end, id, state)
		}
		want := fmt.Sprintf("done completed open %[1]s failed failed waiting %[1]s canceling %[1]s plain %[1]s", state)
		if got := states(w.get(t, id).GetReport().GetProgress()); got != want {
			t.Errorf("of a %s task: %q, want %q", state, got, want)
		}
		page := w.list(t, &statusv1.ListTasksRequest{IncludeReports: true, PageSize: 1})
		if got := states(page.GetReports()[id].GetProgress()); got != want {
			t.Errorf("of a %s task, in a list: %q, want %q", state, got, want)
		}
	}
}

// The last report and the end of the task travel on different ways: whichever is faster, the report counts.
func TestReportThatArrivesAfterTheEndIsStored(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	pgtest.Must(t, w, 1, claim, id)
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Progress: []*taskv1.Progress{{Code: "a", Done: 1}}, Created: made("x?")})
	pgtest.Must(t, w, 1, complete, id)
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, Progress: []*taskv1.Progress{{Code: "a", Done: 2}}, Created: made("x?", "y"), Discarded: []string{"x"}})
	got := w.get(t, id).GetReport()
	if states(got.GetProgress()) != "a completed" || got.GetProgress()[0].GetDone() != 2 || names(got.GetCreated()) != "y" {
		t.Errorf("got %v", got)
	}
}

// Until the next attempt tells something, what the one before left open is shown as failed, which it did.
func TestOpenPartsOfAnAttemptThatWasRetriedHaveFailed(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	check := func(when, want string) {
		t.Helper()
		if got := states(w.get(t, id).GetReport().GetProgress()); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	report := func(claim int64) {
		t.Helper()
		w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: claim, Progress: []*taskv1.Progress{part("a")}})
	}
	report(1) // the claim is committed, but the task was read before
	check("told before the claim is seen", "a running")
	pgtest.Must(t, w, 1, claim, id)
	check("first attempt", "a running")
	pgtest.Must(t, w, 1, retry, id, `{}`)
	check("waiting for the second", "a failed")
	pgtest.Must(t, w, 1, claim, id)
	check("second attempt, silent", "a failed")
	report(2)
	check("second attempt", "a running")
	pgtest.Must(t, w, 1, complete, id)
	check("completed", "a completed")
}

func TestAttemptsAreShownWithTheirErrors(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	pgtest.Must(t, w, 1, `update task set options = '{"timeout_ms":1500,"retry":{"attempts":3,"backoff_ms":0,"max_backoff_ms":60000,"on":["TIMEOUT"]},"profile":["memory"],"files":["`+unknownID+`"]}' where id = $1::text::uuid`, id)
	for _, cause := range []string{`{"reason":"Timed out after 1.5s.","code":"TIMEOUT"}`, `{"description":"d","traceback":"t","code":"ERROR"}`} {
		pgtest.Must(t, w, 1, claim, id)
		pgtest.Must(t, w, 1, retry, id, cause)
	}
	got := w.get(t, id)
	want := []*statusv1.Attempt{
		{Attempt: 1, Claim: 1, Executor: "e1", Error: &taskv1.TaskError{Reason: "Timed out after 1.5s.", Code: "TIMEOUT"}},
		{Attempt: 2, Claim: 2, Executor: "e1", Error: &taskv1.TaskError{Description: "d", Traceback: "t", Code: "ERROR"}},
	}
	if diff := cmp.Diff(want, got.GetAttempts(), protocmp.Transform(), protocmp.IgnoreFields(&statusv1.Attempt{}, "started_at", "ended_at")); diff != "" {
		t.Error(diff)
	}
	for _, a := range got.GetAttempts() {
		if a.GetEndedAt().AsTime().Before(a.GetStartedAt().AsTime()) {
			t.Errorf("attempt %d from %s to %s", a.GetAttempt(), a.GetStartedAt().AsTime(), a.GetEndedAt().AsTime())
		}
	}
	shown := got.GetTask()
	if shown.GetTimeout().AsDuration().String() != "1.5s" || shown.GetRetry().GetMaxAttempts() != 3 || shown.GetRetryAt() == nil ||
		!slices.Equal(shown.GetProfileOptions(), []string{"memory"}) || !slices.Equal(shown.GetFileIds(), []string{unknownID}) {
		t.Errorf("got %v", shown)
	}
	pgtest.Must(t, w, 1, claim, id)
	if w.get(t, id).GetTask().GetRetryAt() != nil {
		t.Error("it waits for an attempt that has begun")
	}
}

// Nineteen megabytes of errors must not make the task unreadable.
func TestErrorsOfManyAttemptsFitIntoAMessage(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	pgtest.Must(t, w, 100, `insert into task_attempt (task_id, attempt, claim, executor, started_at, error)
		select $1::text::uuid, n, n, 'e', now(), json_build_object('description', repeat('ü', 32768), 'traceback', repeat('t', 65536), 'reason', 'r' || n, 'code', 'ERROR')
		from generate_series(1, 100) n`, id)
	got := w.get(t, id).GetAttempts()
	first, last := got[0].GetError(), got[99].GetError()
	if len(got) != 100 || len(last.GetDescription()) != 65536 || len(last.GetTraceback()) != 65536 ||
		first.GetDescription() != strings.Repeat("ü", 512)+"…" || first.GetTraceback() != "" || first.GetReason() != "r1" || first.GetCode() != "ERROR" {
		t.Errorf("%d attempts; the last has %d bytes, the first says %.20q…", len(got), len(last.GetDescription()), first.GetDescription())
	}
}

func TestListReadsReportsOnlyWhenAskedAndThenInOneQuery(t *testing.T) {
	url := pgtest.URL(t)
	w := worldWith(t, url, status.Config{LookEvery: never, LookAlone: never}, newLeader(true))
	silent, first, second := w.add(t, row{state: "running"}), w.add(t, row{state: "running"}), w.add(t, row{state: "running"})
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: first, Claim: 1, Progress: []*taskv1.Progress{part("a")}})
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: second, Claim: 1, Created: made("x", "y?")})
	if got := w.list(t, &statusv1.ListTasksRequest{}).GetReports(); len(got) != 0 {
		t.Errorf("unasked: %v", got)
	}
	got := w.list(t, &statusv1.ListTasksRequest{IncludeReports: true})
	if diff := cmp.Diff([]string{second, first, silent}, ids(got.GetTasks())); diff != "" {
		t.Error(diff)
	}
	if r := got.GetReports(); len(r) != 2 || states(r[first].GetProgress()) != "a running" || names(r[second].GetCreated()) != "x y?" {
		t.Errorf("reports: %v", r)
	}
	if got := w.list(t, &statusv1.ListTasksRequest{IncludeReports: true, PageSize: 1}).GetReports(); len(got) != 1 || got[second] == nil {
		t.Errorf("reports of a page of one: %v", got)
	}
	if got := w.list(t, &statusv1.ListTasksRequest{IncludeReports: true, Name: "nobody"}); len(got.GetReports()) != 0 || len(got.GetTasks()) != 0 {
		t.Errorf("of nothing: %v", got)
	}

	pool, sent := pgtest.Record(t, url)
	store := status.NewStore(pool)
	tasks, _, err := store.List(t.Context(), status.List{Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	sent.Take()
	if _, fit, err := store.Reports(t.Context(), tasks); err != nil || fit != 3 || len(sent.Take()) != 1 {
		t.Errorf("fit %d, %v", fit, err)
	}
}

// Reports count towards the size of a page, wherever on it they are, and nothing is lost.
func TestPagesOfLargeReportsAreShorter(t *testing.T) {
	for name, big := range map[string]func(i int) (report, result bool){
		"all have reports":          func(int) (bool, bool) { return true, false },
		"the newest, old results":   func(i int) (bool, bool) { return i >= 5, i < 5 },
		"the oldest, newer results": func(i int) (bool, bool) { return i < 5, i >= 5 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var all []string
			reports := 0
			for i := range 10 {
				report, result := big(i)
				r := row{state: "completed"}
				if result {
					r.result = `"` + strings.Repeat("x", 1<<20-2) + `"`
				}
				id := w.add(t, r)
				all = append(all, id)
				if report {
					reports++
					pgtest.Must(t, w, 1, `insert into task_report (task_id, claim, created) select $1::text::uuid, 1,
						jsonb_agg(jsonb_build_object('resource', n::text || repeat('x', 1000))) from generate_series(1, 1000) n`, id)
				}
			}
			slices.Reverse(all)
			var seen []string
			found, pages := 0, 0
			request := &statusv1.ListTasksRequest{PageSize: 100, IncludeReports: true}
			for {
				answer := w.list(t, request)
				pages++
				seen = append(seen, ids(answer.GetTasks())...)
				for _, r := range answer.GetReports() {
					if found++; len(r.GetCreated()) != 1000 {
						t.Errorf("a report has %d", len(r.GetCreated()))
					}
				}
				if request.PageToken = answer.GetNextPageToken(); request.GetPageToken() == "" {
					break
				}
			}
			if diff := cmp.Diff(all, seen); diff != "" {
				t.Error(diff)
			}
			if found != reports || pages < 2 {
				t.Errorf("%d of %d reports, on %d pages", found, reports, pages)
			}
		})
	}
}

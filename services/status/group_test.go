package status_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

// group makes a group.
func (w *world) group(t *testing.T, description string) string {
	t.Helper()
	return pgtest.One[string](t, w, `insert into task_group (id, domain_id, description, created_at)
		values (gen_random_uuid(), '`+task.DefaultDomainID+`', $1, clock_timestamp()) returning id::text`, description)
}

func (w *world) getGroup(t *testing.T, id string) *statusv1.GetTaskGroupResponse {
	t.Helper()
	answer, err := w.client.GetTaskGroup(t.Context(), &statusv1.GetTaskGroupRequest{GroupId: id})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (w *world) listGroups(t *testing.T, size, offset int32) *statusv1.ListTaskGroupsResponse {
	t.Helper()
	answer, err := w.client.ListTaskGroups(t.Context(), &statusv1.ListTaskGroupsRequest{PageSize: size, Offset: offset})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// added is what a run says that it has added: "code total done".
func added(parts ...string) (list []*taskv1.GroupProgress) {
	for _, text := range parts {
		p := &taskv1.GroupProgress{}
		if _, err := fmt.Sscan(text, &p.Code, &p.Total, &p.Done); err != nil {
			panic(err)
		}
		list = append(list, p)
	}
	return list
}

// sums is the inverse of added, of a whole group.
func sums(progress []*taskv1.GroupProgress) string {
	texts := make([]string, len(progress))
	for i, p := range progress {
		texts[i] = fmt.Sprint(p.GetCode(), " ", p.GetTotal(), " ", p.GetDone())
	}
	return strings.Join(texts, ", ")
}

func TestGroupProgressIsTheSumOfWhatItsMembersAdded(t *testing.T) {
	w := newWorld(t)
	group := w.group(t, "")
	a, b, stranger := w.add(t, row{state: "running", group: group}), w.add(t, row{state: "running", group: group}), w.add(t, row{state: "running"})
	other := w.group(t, "another one")
	for _, step := range []struct {
		name  string
		task  string
		claim int64
		added []*taskv1.GroupProgress
		want  string
	}{
		{"the first says what there is to do", a, 2, added("x 10 0"), "x 10 0"},
		{"and does some of it", a, 2, added("x 10 3"), "x 10 3"},
		{"a repeated report changes nothing", a, 2, added("x 10 3"), "x 10 3"},
		{"another member adds", b, 1, added("x 5 5", "y 0 1"), "x 15 8, y 0 1"},
		{"an older run is not heard", a, 1, added("x 1000 1000"), "x 15 8, y 0 1"},
		{"the next attempt begins anew", a, 3, added("x 10 1"), "x 15 6, y 0 1"},
		{"the attempt before is not heard any more", a, 2, added("x 10 3"), "x 15 6, y 0 1"},
		{"an attempt that adds nothing leaves nothing", b, 2, nil, "x 10 1, y 0 0"},
		{"a task without a group adds to none", stranger, 1, added("x 7 7"), "x 10 1, y 0 0"},
		{"of a code twice the last counts", a, 3, added("x 1 1", "x 10 2"), "x 10 2, y 0 0"},
		{"a part of nothing is a part", b, 2, added("z 0 0"), "x 10 2, y 0 0, z 0 0"},
	} {
		w.report(t, &statusv1.PutTaskReportRequest{TaskId: step.task, Claim: step.claim, GroupProgress: step.added})
		if got := sums(w.getGroup(t, group).GetProgress()); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
	if got := w.getGroup(t, other).GetProgress(); len(got) > 0 {
		t.Errorf("another group has %v", got)
	}
}

func TestGroupProgressStaysWhenItsTasksAreRemoved(t *testing.T) {
	w := newWorld(t)
	group := w.group(t, "")
	id := w.add(t, row{state: "completed", group: group})
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: added("x 10 10")})
	pgtest.Must(t, w, 1, `delete from task where id = $1::text::uuid`, id)
	if got := sums(w.getGroup(t, group).GetProgress()); got != "x 10 10" {
		t.Errorf("the progress is %q", got)
	}
	// What a run says of a task that is gone is refused, and nothing of it stays.
	_, err := w.client.PutTaskReport(t.Context(), &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: added("x 1 1")})
	if !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("got %v", err)
	}
	if got := sums(w.getGroup(t, group).GetProgress()); got != "x 10 10" {
		t.Errorf("afterwards the progress is %q", got)
	}
}

func TestTextsOfGroupProgressAreThoseThatWereSaidFirst(t *testing.T) {
	w := newWorld(t)
	group := w.group(t, "")
	for i, p := range []*taskv1.GroupProgress{
		{Code: "x", Total: 1}, {Code: "x", Total: 1, Message: "nämed", Suffix: "bytes"}, {Code: "x", Total: 1, Message: "later", Suffix: "later"},
	} {
		id := w.add(t, row{name: fmt.Sprint("n", i), state: "running", group: group})
		w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: []*taskv1.GroupProgress{p}})
	}
	want := []*taskv1.GroupProgress{{Code: "x", Total: 3, Message: "nämed", Suffix: "bytes"}}
	if diff := cmp.Diff(want, w.getGroup(t, group).GetProgress(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestMembersThatOverstateDoNotBreakTheOthers(t *testing.T) {
	w := newWorld(t)
	group := w.group(t, "")
	for range 3 {
		id := w.add(t, row{state: "running", group: group})
		w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: []*taskv1.GroupProgress{{Code: "x", Total: limits.MaxCounted, Done: 1}}})
	}
	// A thousand of them would be more than a bigint holds.
	pgtest.Must(t, w, 1, `update task_group_progress set total = $1::numeric + 1`, fmt.Sprint(math.MaxInt64))
	id := w.add(t, row{state: "running", group: group})
	w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: []*taskv1.GroupProgress{{Code: "x", Total: limits.MaxCounted, Done: 1}}})
	if got := sums(w.getGroup(t, group).GetProgress()); got != fmt.Sprint("x ", limits.MaxCounted, " 4") {
		t.Errorf("the progress is %q", got)
	}
}

// teller is one member of the property test: it reports, repeats what it reported, loses attempts and is overtaken by late reports of
// them, and keeps what counts in the end.
type teller struct {
	id    string
	claim int64
	last  []*taskv1.GroupProgress
	all   []*statusv1.PutTaskReportRequest
}

func (m *teller) next(r *rand.Rand) *statusv1.PutTaskReportRequest {
	switch n := r.IntN(10); {
	case n < 2 && len(m.all) > 0: // the last one again
		return m.all[len(m.all)-1]
	case n < 3 && len(m.all) > 0: // one of a run that is over, if it is
		if late := m.all[r.IntN(len(m.all))]; late.GetClaim() < m.claim {
			return late
		}
		return m.all[len(m.all)-1]
	case n < 5:
		m.claim++
		m.last = nil
	}
	codes := []string{"a", "b", "c", "d", "e"}
	r.Shuffle(len(codes), func(i, j int) { codes[i], codes[j] = codes[j], codes[i] })
	m.last = nil
	for _, code := range codes[:r.IntN(len(codes)+1)] {
		m.last = append(m.last, &taskv1.GroupProgress{Code: code, Total: r.Int64N(100), Done: r.Int64N(100)})
	}
	request := &statusv1.PutTaskReportRequest{TaskId: m.id, Claim: m.claim, GroupProgress: m.last}
	m.all = append(m.all, request)
	return request
}

func TestAnyInterleavingOfReportsAddsUpToTheLastOnes(t *testing.T) {
	w := newWorld(t)
	group := w.group(t, "")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	tellers := make([]*teller, 8)
	var all sync.WaitGroup
	for i := range tellers {
		m := &teller{id: w.add(t, row{state: "running", group: group}), claim: 1}
		tellers[i] = m
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			for range 60 {
				if _, err := w.client.PutTaskReport(t.Context(), proto.CloneOf(m.next(r))); err != nil {
					t.Errorf("a report among others: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	want := map[string][2]int64{}
	for _, m := range tellers {
		for _, request := range m.all {
			for _, p := range request.GetGroupProgress() {
				want[p.GetCode()] = [2]int64{} // a part that was told once stays, be it with nothing
			}
		}
	}
	for _, m := range tellers {
		for _, p := range m.last {
			sum := want[p.GetCode()]
			want[p.GetCode()] = [2]int64{sum[0] + p.GetTotal(), sum[1] + p.GetDone()}
		}
	}
	got := map[string][2]int64{}
	for _, p := range w.getGroup(t, group).GetProgress() {
		got[p.GetCode()] = [2]int64{p.GetTotal(), p.GetDone()}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("seed %d: %s", seed, diff)
	}
}

func TestFirstReportsOfOneTaskAtTheSameTimeCountOnce(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		group := w.group(t, "")
		id := w.add(t, row{state: "running", group: group})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: added("x 10 3", "y 1 1")})
			})
		}
		all.Wait()
		if got := sums(w.getGroup(t, group).GetProgress()); got != "x 10 3, y 1 1" {
			t.Fatalf("the progress is %q", got)
		}
	}
}

func TestGroupsAreListedTheNewestFirstWithCountsAndProgress(t *testing.T) {
	w := newWorld(t)
	if got := w.listGroups(t, 0, 0); len(got.GetGroups()) != 0 || got.GetTotal() != 0 {
		t.Errorf("before there was any: %v", got)
	}
	ids := make([]string, 5)
	for i := range ids {
		ids[i] = w.group(t, fmt.Sprint("group ", i))
		for range i {
			w.add(t, row{state: "waiting", group: ids[i]})
		}
		id := w.add(t, row{state: "failed", group: ids[i]})
		w.report(t, &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1, GroupProgress: added(fmt.Sprint("x 10 ", i))})
	}
	slices.Reverse(ids)
	var seen []string
	for offset := int32(0); offset < 6; offset += 2 {
		page := w.listGroups(t, 2, offset)
		if page.GetTotal() != 5 {
			t.Errorf("the total is %d", page.GetTotal())
		}
		for _, g := range page.GetGroups() {
			seen = append(seen, g.GetId())
			if diff := cmp.Diff(w.getGroup(t, g.GetId()), g, protocmp.Transform()); diff != "" {
				t.Errorf("listed otherwise than shown: %s", diff)
			}
		}
	}
	if diff := cmp.Diff(ids, seen); diff != "" {
		t.Error(diff)
	}
	if got := w.listGroups(t, 0, 5); len(got.GetGroups()) != 0 || got.GetTotal() != 5 {
		t.Errorf("after the last: %v", got)
	}
}

func TestAPageOfGroupsFitsIntoAMessage(t *testing.T) {
	w := newWorld(t)
	const groups = 100
	for range groups {
		w.group(t, strings.Repeat("d", limits.MaxDescription))
	}
	pgtest.Must(t, w, groups*limits.MaxParts*2, `
		insert into task_group_progress (group_id, code, message, suffix)
		select id, repeat('c', 250) || n, repeat('m', 1024), repeat('s', 255) from task_group, generate_series(1, $1::integer) n`, limits.MaxParts*2)
	page := w.listGroups(t, groups, 0)
	if len(page.GetGroups()) != groups || len(page.GetGroups()[0].GetProgress()) != limits.MaxParts {
		t.Errorf("%d groups, the first one with %d parts", len(page.GetGroups()), len(page.GetGroups()[0].GetProgress()))
	}
	if size := proto.Size(page); size > limits.MaxMessage {
		t.Errorf("%d bytes", size)
	}
}

func TestNoQuestionAboutGroupsSearchesTheHistory(t *testing.T) {
	url := pgtest.URL(t)
	pool, r := pgtest.Record(t, url)
	db := pgtest.Open(t, url)
	for _, sql := range []string{
		`insert into task_group (id, domain_id) select gen_random_uuid(), '` + task.DefaultDomainID + `' from generate_series(1, 20000)`,
		`insert into task (id, domain_id, name, group_id, state, started_at, finished_at)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', id, 'completed', now(), now() from task_group`,
		`insert into task_group_progress (group_id, code) select id, 'x' from task_group`,
		`insert into task_artifact (task_id, name, claim, key, content_type, data) select id, 'logs', 1, repeat('k', 26), 't', 'd' from task`,
		`analyze task`, `analyze task_group`, `analyze task_group_progress`, `analyze task_artifact`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	id, group := pgtest.One[string](t, db, `select id::text from task limit 1`), pgtest.One[string](t, db, `select id::text from task_group limit 1`)
	store := status.NewStore(pool)
	r.Take()
	questions := map[string]func() error{
		"group":     func() error { _, err := store.Group(t.Context(), group, 10); return err },
		"page":      func() error { _, _, err := store.Groups(t.Context(), 100, 1000, 10); return err },
		"artifacts": func() error { _, err := store.Artifacts(t.Context(), id); return err },
		"artifact":  func() error { _, _, err := store.Artifact(t.Context(), id, "logs", "k"); return err },
		"put": func() error {
			return store.PutArtifact(t.Context(), &status.Artifact{TaskID: id, Name: "x", Claim: 1, Key: strings.Repeat("k", 26), ContentType: "t"})
		},
	}
	for _, name := range slices.Sorted(maps.Keys(questions)) {
		if err := questions[name](); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, s := range r.Take() {
			if strings.HasPrefix(strings.TrimSpace(s.SQL), "select count(*) from task_group") {
				continue // counting is what it is for
			}
			for _, read := range pgtest.Plan(t, db, s) {
				if strings.HasPrefix(read, "Seq Scan of task") {
					t.Errorf("%s: %s", name, read)
				}
			}
		}
	}
}

// Statements inside functions don't show in plans.
func TestAReportIsStoredWithoutSearchingATable(t *testing.T) {
	w := newWorld(t)
	group := w.group(t, "")
	ids := []string{w.add(t, row{state: "running", group: group}), w.add(t, row{state: "running", group: group})}
	for _, sql := range []string{
		`insert into task (id, domain_id, name) select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n' from generate_series(1, 8000)`,
		`insert into task_report (task_id, claim) select id, 1 from task where state = 'waiting'`,
		`insert into task_group_progress (group_id, code) select id, n::text from task_group, generate_series(1, 8000) n`,
		`analyze`,
	} {
		if _, err := w.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	tx := pgtest.Begin(t, pgtest.Open(t, w.url))
	searches := func() int {
		return pgtest.One[int](t, tx, `select sum(pg_stat_get_xact_numscans(name::regclass)) from unnest(array['task', 'task_report', 'task_group_progress']) name`)
	}
	before := searches()
	for _, id := range append(ids, ids...) {
		pgtest.Must(t, tx, 1, `select status_put_report($1::text::uuid, 1, '[]', '[]', '{}', jsonb_build_array(json_build_object('code', 'x', 'total', 1, 'done', random())), 9)`, id)
	}
	if n := searches() - before; n != 0 {
		t.Errorf("it searches a table %d times", n)
	}
	tx.Rollback(t)
}

func TestGroupsAndDiagnosticsWhileTheDatabaseIsAway(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	back := pgtest.Away(t, w.url)
	var all sync.WaitGroup
	for name, call := range map[string]func() error{
		"list groups": func() error {
			_, err := w.client.ListTaskGroups(t.Context(), &statusv1.ListTaskGroupsRequest{})
			return err
		},
		"put": func() error {
			_, err := w.client.PutTaskArtifact(t.Context(), &statusv1.PutTaskArtifactRequest{TaskId: id, Claim: 1, Name: "x"})
			return err
		},
		"list": func() error {
			_, err := w.client.ListTaskArtifacts(t.Context(), &statusv1.ListTaskArtifactsRequest{TaskId: id})
			return err
		},
		"get": func() error { _, err := w.getArtifact(t, id, "x", "y"); return err },
	} {
		all.Go(func() {
			if err := call(); !errs.Is(err, errs.DatabaseAway) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	back()
	w.putArtifact(t, id, "x", 1, "y")
}

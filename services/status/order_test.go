package status_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

// drawn stores tasks by chance.
func (w *world) drawn(t *testing.T, n int) []stored {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newChance(seed)
	pgtest.Must(t, w, 3, `insert into task_group (id, domain_id) select g::uuid, '`+task.DefaultDomainID+`' from unnest($1::text[]) g`, c.groups)
	for range n {
		c.store(t, w)
	}
	return w.all(t)
}

// pages reads all pages by offset.
func (w *world) pages(t *testing.T, size int32, order ...*statusv1.Order) (seen []*taskv1.Task) {
	t.Helper()
	for {
		answer := w.list(t, &statusv1.ListTasksRequest{PageSize: size, Offset: int32(len(seen)), Order: order})
		seen = append(seen, answer.GetTasks()...)
		if len(order) > 0 && answer.GetNextPageToken() != "" {
			t.Errorf("a page token of the order %v", order)
		}
		if !answer.GetMore() {
			return seen
		}
	}
}

// What is unset comes last, or first when the greatest comes first, as in Pulp. Texts are ordered by the database.
func TestListsAreInTheOrderAskedFor(t *testing.T) {
	w := newWorld(t)
	tasks := w.drawn(t, 60)
	byID := map[string]stored{}
	for _, one := range tasks {
		byID[one.ID] = one
	}
	newest := func(a, b stored) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Seq, a.Seq))
	}
	for _, field := range []statusv1.TaskField{
		statusv1.TaskField_TASK_FIELD_ID, createdAt, statusv1.TaskField_TASK_FIELD_UPDATED_AT, statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT, startedAt,
		finishedAt, parentID, groupID, statusv1.TaskField_TASK_FIELD_INCARNATION, state,
	} {
		for _, descending := range []bool{false, true} {
			compare := func(a, b stored) int {
				var order int
				switch left, right := a.field(field), b.field(field); {
				case len(left) > 0 && len(right) > 0:
					order = cmp.Compare(left[0], right[0])
				default:
					order = cmp.Compare(len(right), len(left)) // unset is the greatest
				}
				if descending {
					order = -order
				}
				return cmp.Or(order, newest(a, b))
			}
			want := slices.SortedFunc(slices.Values(tasks), compare)
			var got []stored
			for _, one := range w.pages(t, 7, &statusv1.Order{Field: field, Descending: descending}) {
				got = append(got, byID[one.GetId()])
			}
			if !slices.EqualFunc(want, got, func(a, b stored) bool { return a.ID == b.ID }) {
				t.Errorf("%s, descending %t: got %s, want %s", field, descending, fields(got, field), fields(want, field))
			}
		}
	}
}

func fields(tasks []stored, f statusv1.TaskField) string {
	var words []string
	for _, one := range tasks {
		words = append(words, fmt.Sprint(one.Seq, one.field(f)))
	}
	return strings.Join(words, ", ")
}

// Whatever a list is ordered by, no task is on two pages or on none.
func TestPagesByOffsetAreCompleteInEveryOrder(t *testing.T) {
	w := newWorld(t)
	var all []string
	for _, one := range w.drawn(t, 30) {
		all = append(all, one.ID)
	}
	slices.Sort(all)
	orders := 0
	for number := range statusv1.TaskField_name {
		field := statusv1.TaskField(number)
		request := &statusv1.ListTasksRequest{Order: []*statusv1.Order{{Field: field}, {Field: state, Descending: true}, {Field: field}}}
		if limits.Check(request) != nil {
			continue
		}
		orders++
		got := ids(w.pages(t, 4, request.GetOrder()...))
		slices.Sort(got)
		if diff := gocmp.Diff(all, got); diff != "" {
			t.Errorf("ordered by %s: %s", field, diff)
		}
	}
	if orders < 15 {
		t.Errorf("only %d fields to order by", orders)
	}
}

func TestSecondKeyDecidesWhatTheFirstLeavesOpen(t *testing.T) {
	w := newWorld(t)
	for _, r := range []row{{name: "b", correlation: "1"}, {name: "a", correlation: "1"}, {name: "b", correlation: "2"}, {name: "a", correlation: "2"}} {
		w.add(t, r)
	}
	var got []string
	for _, one := range w.pages(t, 2, &statusv1.Order{Field: name}, &statusv1.Order{Field: correlationID, Descending: true}) {
		got = append(got, one.GetName()+one.GetCorrelationId())
	}
	if diff := gocmp.Diff([]string{"a2", "a1", "b2", "b1"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestChildrenOfAPageAreTheOldestOfEach(t *testing.T) {
	w := newWorld(t)
	many, few, none := w.add(t, row{name: "many"}), w.add(t, row{name: "few"}), w.add(t, row{name: "none"})
	first := w.add(t, row{parent: few})
	second := w.add(t, row{parent: few})
	all := pgtest.One[[]string](t, w, `
		with new as (
			insert into task (id, domain_id, name, parent_id)
			select gen_random_uuid(), '`+task.DefaultDomainID+`', 'child', $1::text::uuid from generate_series(1, 130) returning seq, id
		) select array_agg(id::text order by seq) from new`, many)
	answer := w.list(t, &statusv1.ListTasksRequest{
		Filter: in(statusv1.TaskField_TASK_FIELD_ID, many, few, none), IncludeChildren: true,
	})
	want := map[string][]string{many: all[:100], few: {first, second}}
	got := map[string][]string{}
	for id, children := range answer.GetChildren() {
		got[id] = children.GetIds()
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if answer = w.list(t, &statusv1.ListTasksRequest{Filter: is(statusv1.TaskField_TASK_FIELD_ID, few)}); len(answer.GetChildren()) > 0 {
		t.Error("children though nobody asked")
	}
}

// A thousand tasks with a hundred children each are half a message, which tasks and reports may want.
func TestPagesOfTasksWithManyChildrenAreShorter(t *testing.T) {
	w := newWorld(t)
	parents := w.many(t, 400)
	pgtest.Must(t, w, 400*100, `
		insert into task (id, domain_id, name, parent_id)
		select gen_random_uuid(), '`+task.DefaultDomainID+`', 'child', p::uuid from unnest($1::text[]) p, generate_series(1, 100)`, parents)
	request := &statusv1.ListTasksRequest{Filter: is(name, "n"), PageSize: 400, IncludeChildren: true, IncludeReports: true}
	var seen []string
	for pages := 1; ; pages++ {
		answer := w.list(t, request)
		for _, one := range answer.GetTasks() {
			if n := len(answer.GetChildren()[one.GetId()].GetIds()); n != 100 {
				t.Fatalf("%d children", n)
			}
		}
		seen = append(seen, ids(answer.GetTasks())...)
		if answer.GetMore() != (answer.GetNextPageToken() != "") {
			t.Errorf("more is %t, the next page %q", answer.GetMore(), answer.GetNextPageToken())
		}
		if !answer.GetMore() {
			if pages < 2 {
				t.Error("all on one page")
			}
			break
		}
		request.PageToken = answer.GetNextPageToken()
	}
	if diff := gocmp.Diff(parents, seen); diff != "" {
		t.Error(diff)
	}
}

func TestCountsAreExactUpToABoundAndEstimatedAboveIt(t *testing.T) {
	w := newWorld(t)
	w.many(t, 10_001)
	pgtest.Must(t, w, 1, `update task set name = 'other' where seq = (select min(seq) from task)`)
	for _, table := range []string{"task", "task_live"} {
		if _, err := w.Exec(t.Context(), "analyze "+table); err != nil {
			t.Fatal(err)
		}
	}
	w.store.Patience(time.Minute, time.Minute)
	count := func(f *statusv1.Filter) *statusv1.ListTasksResponse {
		return w.list(t, &statusv1.ListTasksRequest{Filter: f, PageSize: 1, Count: true})
	}
	if got := count(is(name, "n")); got.GetTotal() != 10_000 || got.GetTotalEstimated() {
		t.Errorf("of ten thousand: %d, estimated %t", got.GetTotal(), got.GetTotalEstimated())
	}
	if got := count(nil); got.GetTotal() < 10_001 || got.GetTotal() > 11_000 || !got.GetTotalEstimated() {
		t.Errorf("of one more: %d, estimated %t", got.GetTotal(), got.GetTotalEstimated())
	}
	// The statistics are of before; what was seen is more.
	if got := w.list(t, &statusv1.ListTasksRequest{Offset: 10_000, Count: true}); got.GetTotal() != 10_001 || got.GetTotalEstimated() {
		t.Errorf("the last page: %d, estimated %t", got.GetTotal(), got.GetTotalEstimated())
	}
	// Nothing matches, but it takes longer to find that out than there is time.
	w.store.Patience(time.Minute, time.Millisecond)
	got, estimated, err := w.store.Count(t.Context(), negate(in(name, slices.Repeat([]string{"n", "other"}, 500)...)))
	if err != nil || !estimated || got > 10_001 {
		t.Errorf("in a hurry: %d, estimated %t, %v", got, estimated, err)
	}
}

func TestNothingIsCountedUnasked(t *testing.T) {
	url := pgtest.URL(t)
	pool, r := pgtest.Record(t, url)
	store := status.NewStore(pool)
	if _, _, err := store.List(t.Context(), status.List{Size: 10}); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Take() {
		if strings.Contains(s.SQL, "count(") || strings.Contains(s.SQL, "explain") {
			t.Errorf("sent %s", s.SQL)
		}
	}
}

// What keeps a list waiting here is a lock; a history of a hundred million does the same.
func TestAListThatTakesTooLongIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.many(t, 3)
	w.store.Patience(50*time.Millisecond, 50*time.Millisecond)
	held := pgtest.Begin(t, pgtest.Open(t, w.url))
	if _, err := held.Exec(t.Context(), `lock table task`); err != nil {
		t.Fatal(err)
	}
	_, err := w.client.ListTasks(t.Context(), &statusv1.ListTasksRequest{Filter: is(name, "n")})
	if !errs.Is(err, errs.TooBroad) || !strings.Contains(err.Error(), "add conditions") {
		t.Errorf("got %v", err)
	}
	held.Rollback(t)
	if got := w.list(t, &statusv1.ListTasksRequest{Count: true}); got.GetTotal() != 3 {
		t.Errorf("afterwards: %v", got)
	}
	// The setting was that statement's, and not the session's, in which others work.
	for range 8 {
		if got := pgtest.One[string](t, w, `show statement_timeout`); got != "0" {
			t.Errorf("the session has a statement_timeout of %s", got)
		}
	}
}

package status_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

const (
	name               = statusv1.TaskField_TASK_FIELD_NAME
	state              = statusv1.TaskField_TASK_FIELD_STATE
	correlationID      = statusv1.TaskField_TASK_FIELD_CORRELATION_ID
	createdAt          = statusv1.TaskField_TASK_FIELD_CREATED_AT
	startedAt          = statusv1.TaskField_TASK_FIELD_STARTED_AT
	finishedAt         = statusv1.TaskField_TASK_FIELD_FINISHED_AT
	parentID           = statusv1.TaskField_TASK_FIELD_PARENT_ID
	childID            = statusv1.TaskField_TASK_FIELD_CHILD_ID
	groupID            = statusv1.TaskField_TASK_FIELD_GROUP_ID
	resources          = statusv1.TaskField_TASK_FIELD_RESOURCES
	createdResources   = statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES
	exclusiveResources = statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES

	equal        = statusv1.Comparison_COMPARISON_EQUAL
	notEqual     = statusv1.Comparison_COMPARISON_NOT_EQUAL
	oneOf        = statusv1.Comparison_COMPARISON_IN
	contains     = statusv1.Comparison_COMPARISON_CONTAINS
	less         = statusv1.Comparison_COMPARISON_LESS
	lessEqual    = statusv1.Comparison_COMPARISON_LESS_EQUAL
	greater      = statusv1.Comparison_COMPARISON_GREATER
	greaterEqual = statusv1.Comparison_COMPARISON_GREATER_EQUAL
	between      = statusv1.Comparison_COMPARISON_RANGE
	isNull       = statusv1.Comparison_COMPARISON_IS_NULL
	allOf        = statusv1.Comparison_COMPARISON_ALL
)

func compare(field statusv1.TaskField, comparison statusv1.Comparison, values ...string) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{Field: field, Comparison: comparison, Values: values}}}
}

func is(field statusv1.TaskField, value string) *statusv1.Filter { return compare(field, equal, value) }

func in(field statusv1.TaskField, values ...string) *statusv1.Filter {
	return compare(field, oneOf, values...)
}

func both(filters ...*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{Filters: filters}}}
}

func either(filters ...*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Any{Any: &statusv1.FilterList{Filters: filters}}}
}

func negate(f *statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Not{Not: f}}
}

// stored is a task as a filter sees it.
type stored struct {
	*task.Task

	children []string
	report   *status.Report
}

// field is what a condition is about: one text, or several, or none if it is unset.
func (s stored) field(f statusv1.TaskField) (values []string) {
	set := func(value string) []string {
		if value == "" {
			return nil
		}
		return []string{value}
	}
	at := func(t *time.Time) []string {
		if t == nil {
			return nil
		}
		return []string{moment(*t)}
	}
	switch f {
	case statusv1.TaskField_TASK_FIELD_ID:
		return []string{s.ID}
	case name:
		return []string{s.Name}
	case state:
		return []string{string(s.State)}
	case correlationID:
		return []string{s.CorrelationID}
	case createdAt:
		return at(&s.CreatedAt)
	case statusv1.TaskField_TASK_FIELD_UPDATED_AT:
		return at(&s.UpdatedAt)
	case statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT:
		return at(s.UnblockedAt)
	case startedAt:
		return at(s.StartedAt)
	case finishedAt:
		return at(s.FinishedAt)
	case parentID:
		return set(s.ParentID)
	case groupID:
		return set(s.GroupID)
	case statusv1.TaskField_TASK_FIELD_INCARNATION:
		return set(s.Incarnation)
	case childID:
		return s.children
	case resources:
		return slices.Concat(s.Reserved.Exclusive, s.Reserved.Shared)
	case exclusiveResources:
		return s.Reserved.Exclusive
	case statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES:
		return s.Reserved.Shared
	case createdResources:
		if s.report != nil {
			for _, made := range s.report.Created {
				if !made.Incomplete {
					values = append(values, made.Resource)
				}
			}
		}
		return values
	default:
		panic(f)
	}
}

// moment writes a time so that texts are in the order of times.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// meets is what a filter means, in the plainest words.
func (s stored) meets(f *statusv1.Filter) bool {
	one := func(f *statusv1.Filter) bool { return s.meets(f) }
	switch n := f.GetNode().(type) {
	case *statusv1.Filter_Condition:
		return s.says(n.Condition)
	case *statusv1.Filter_All:
		return !slices.ContainsFunc(n.All.GetFilters(), func(f *statusv1.Filter) bool { return !one(f) })
	case *statusv1.Filter_Any:
		return slices.ContainsFunc(n.Any.GetFilters(), one)
	case *statusv1.Filter_Not:
		return !one(n.Not)
	default:
		return true
	}
}

func (s stored) says(c *statusv1.Condition) bool {
	values := slices.Clone(c.GetValues())
	for i, value := range values {
		if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
			values[i] = moment(at)
		} else if id, err := uuid.Parse(value); err == nil && c.GetField() != correlationID {
			values[i] = id.String()
		}
	}
	has := s.field(c.GetField())
	holds := func(test func(string) bool) bool { return slices.ContainsFunc(has, test) }
	switch c.GetComparison() {
	case equal:
		return holds(func(is string) bool { return is == values[0] })
	case notEqual:
		return !holds(func(is string) bool { return is == values[0] })
	case oneOf:
		return holds(func(is string) bool { return slices.Contains(values, is) })
	case contains:
		if plain := strings.ReplaceAll(values[0], "-", ""); c.GetField() == correlationID && len(plain) == 32 {
			return holds(func(is string) bool { return strings.ReplaceAll(is, "-", "") == plain })
		}
		return holds(func(is string) bool { return strings.Contains(is, values[0]) })
	case less:
		return holds(func(is string) bool { return is < values[0] })
	case lessEqual:
		return holds(func(is string) bool { return is <= values[0] })
	case greater:
		return holds(func(is string) bool { return is > values[0] })
	case greaterEqual:
		return holds(func(is string) bool { return is >= values[0] })
	case between:
		return holds(func(is string) bool { return values[0] <= is && is <= values[1] })
	case isNull:
		return (len(has) == 0) == (values[0] == "true")
	case allOf:
		return !slices.ContainsFunc(values, func(value string) bool { return !slices.Contains(has, value) })
	default:
		panic(c)
	}
}

// chance draws tasks and filters that have much in common, so that most filters select some tasks and not all.
type chance struct {
	*rand.Rand

	ids, groups, incarnations []string
	from                      time.Time
}

func newChance(seed uint64) *chance {
	c := &chance{Rand: rand.New(rand.NewPCG(seed, 0)), from: time.Date(2026, 1, 1, 0, 0, 0, 123_456_000, time.UTC)}
	for range 3 {
		c.groups, c.incarnations = append(c.groups, uuid.NewString()), append(c.incarnations, uuid.NewString())
	}
	return c
}

func pick[T any](c *chance, from ...T) T { return from[c.IntN(len(from))] }

var (
	drawnNames        = []string{"app.sync", "app.Sync", "app.publish", "100%", "a_b", `q"\uote'`, "größer"}
	drawnCorrelations = []string{"", "req-1", "REQ-1", "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "0A1B2C3D4E5F60718293A4B5C6D7E8F9"}
	drawnResources    = []string{"r1", "r2", "r3", `r"{},\4`, ""}
	drawnMade         = []string{"/a/", "/b/", `/"c"/`}
)

// moment draws one of few times, some of them a microsecond apart.
func (c *chance) moment() time.Time {
	return c.from.Add(time.Duration(c.IntN(4))*time.Hour + time.Duration(c.IntN(3))*time.Microsecond)
}

func (c *chance) some(from []string) (some []string) {
	for _, value := range from {
		if value != "" && c.IntN(3) == 0 {
			some = append(some, value)
		}
	}
	return some
}

// store makes a task in a state that it can have, dispatched before it was started, and all.
func (c *chance) store(t *testing.T, w *world) {
	t.Helper()
	began := []time.Time{c.moment(), c.moment(), c.moment(), c.moment()}
	slices.SortFunc(began, time.Time.Compare)
	is := pick(c, task.States()...)
	if is == task.Skipped && c.IntN(2) == 0 {
		is = task.Failed
	}
	never := is == task.Waiting || is == task.Canceled && c.IntN(2) == 0
	null := func(unset bool, value any) any {
		if unset {
			return nil
		}
		return value
	}
	var cause any
	if is == task.Failed || is == task.Canceled {
		cause = `{"reason":"r"}`
	}
	parent := any(nil)
	if len(c.ids) > 0 && c.IntN(3) == 0 {
		parent = pick(c, c.ids...)
	}
	id := uuid.NewString()
	pgtest.Must(t, w, 1, `
		insert into task (id, domain_id, name, state, correlation_id, parent_id, group_id, incarnation, executor, exclusive, shared, created_at,
		                  updated_at, unblocked_at, started_at, finished_at, error, claim)
		values ($1::text::uuid, '`+task.DefaultDomainID+`', $2, $3, $4, $5::text::uuid, $6::text::uuid, $7::text::uuid, $8::text, coalesce($9::text[], '{}'),
		        coalesce($10::text[], '{}'), $11, $12, $13, $14, $15, $16::text::json, $17)`,
		id, pick(c, drawnNames...), string(is), pick(c, drawnCorrelations...), parent, null(c.IntN(2) == 0, pick(c, c.groups...)),
		null(never, pick(c, c.incarnations...)), null(never, "e1"), c.some(drawnResources), c.some(drawnResources),
		began[0], began[3], null(never && c.IntN(2) == 0, began[1]), null(never, began[2]), null(!is.Final(), began[3]), cause,
		map[bool]int{true: 0, false: 1}[never])
	if !is.Final() {
		pgtest.Must(t, w, 1, `insert into task_live (seq, task_id) select seq, id from task where id = $1::text::uuid`, id)
	}
	if c.IntN(2) == 0 {
		var made []string
		for _, one := range c.some(drawnMade) {
			incomplete := ""
			if c.IntN(2) == 0 {
				incomplete = `, "incomplete": true`
			}
			made = append(made, fmt.Sprintf(`{"resource": %q%s}`, one, incomplete))
		}
		pgtest.Must(t, w, 1, `insert into task_report (task_id, claim, created) values ($1::text::uuid, 1, $2::text::jsonb)`, id, "["+strings.Join(made, ",")+"]")
	}
	c.ids = append(c.ids, id)
}

// value draws what a field may be compared with, in one of its spellings.
func (c *chance) value(f statusv1.TaskField) string {
	spelled := func(id string) string { return pick(c, id, strings.ToUpper(id)) }
	switch f {
	case name:
		return pick(c, append(drawnNames, "p", "%", "_", "SYNC", "")...)
	case state:
		return string(pick(c, task.States()...))
	case correlationID:
		return pick(c, append(drawnCorrelations, "req", "-", "a4b5")...)
	case createdAt, statusv1.TaskField_TASK_FIELD_UPDATED_AT, statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT, startedAt, finishedAt:
		at := c.moment().Add(time.Duration(pick(c, 0, 0, 1, 999))).In(time.FixedZone("", pick(c, 0, 3600, -5400)))
		return at.Format(time.RFC3339Nano)
	case groupID:
		return spelled(pick(c, append(c.groups, unknownID)...))
	case statusv1.TaskField_TASK_FIELD_INCARNATION:
		return spelled(pick(c, append(c.incarnations, unknownID)...))
	case statusv1.TaskField_TASK_FIELD_ID, parentID, childID:
		return spelled(pick(c, append(c.ids, unknownID)...))
	case createdResources:
		return pick(c, drawnMade...)
	default:
		return pick(c, drawnResources[:4]...)
	}
}

// filter draws one that the limits allow.
func (c *chance) filter(depth int) *statusv1.Filter {
	if depth == 0 || c.IntN(3) == 0 {
		for {
			f := compare(statusv1.TaskField(1+c.IntN(17)), statusv1.Comparison(1+c.IntN(11)))
			if c.IntN(3) == 0 {
				f.GetCondition().Field = state // of which there is more than one translation
			}
			field, n := f.GetCondition().GetField(), 1
			switch f.GetCondition().GetComparison() {
			case isNull:
				f.GetCondition().Values = []string{pick(c, "true", "false")}
				n = 0
			case oneOf:
				n = c.IntN(4)
			case allOf:
				n = 1 + c.IntN(2)
			case between:
				n = 2
			default:
			}
			for range n {
				f.GetCondition().Values = append(f.GetCondition().GetValues(), c.value(field))
			}
			if limits.Check(&statusv1.ListTasksRequest{Filter: f}) == nil {
				return f
			}
		}
	}
	var below []*statusv1.Filter
	for range c.IntN(4) {
		below = append(below, c.filter(depth-1))
	}
	return pick(c, both(below...), both(below...), either(below...), negate(c.filter(depth-1)))
}

// What a filter selects is said in more than one way: for lists, which begin where the fewest rows are, for whoever adds conditions of
// its own, and for watches, which have tasks and ask. They must not differ, whatever is unset, nor from the plain words above.
func TestAFilterSelectsTheSameTasksWhereverItIsEvaluated(t *testing.T) {
	w := newWorld(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newChance(seed)
	pgtest.Must(t, w, 3, `insert into task_group (id, domain_id) select g::uuid, '`+task.DefaultDomainID+`' from unnest($1::text[]) g`, c.groups)
	for range 150 {
		c.store(t, w)
	}
	tasks := w.all(t)
	selected := 0
	for range 400 {
		f := c.filter(3)
		var want []string
		for _, one := range tasks {
			if one.meets(f) {
				want = append(want, one.ID)
			}
		}
		selected += min(1, len(want)) * min(1, len(tasks)-len(want))
		for way, sql := range status.Selects(t, f) {
			got := pgtest.One[[]string](t, w, sql.SQL, sql.Args...)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.SortSlices(strings.Compare)); diff != "" {
				t.Errorf("%s of %s\n%s\n%v\nwant (-), got (+): %s", way, protojson.Format(f), sql.SQL, sql.Args, diff)
			}
		}
		if t.Failed() {
			return
		}
	}
	if selected < 150 {
		t.Errorf("only %d of the filters selected some tasks and not all: the test proves little", selected)
	}
}

// all reads the tasks of a test with all that a filter can ask about.
func (w *world) all(t *testing.T) (all []stored) {
	t.Helper()
	tasks, more, err := w.store.List(t.Context(), status.List{Size: limits.MaxPage})
	if err != nil || more {
		t.Fatal(err, more)
	}
	reports, _, err := w.store.Reports(t.Context(), tasks)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range tasks {
		s := stored{Task: one, report: reports[one.ID]}
		for _, other := range tasks {
			if other.ParentID == one.ID {
				s.children = append(s.children, other.ID)
			}
		}
		all = append(all, s)
	}
	return all
}

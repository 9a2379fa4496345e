package status

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// What a filter means:
//
//   - A condition is true or false, never unknown. Of a field that is unset all are false but IS_NULL "true"; so NOT of such a
//     one is true. A time that is unset is null in the database, and so are parent, group and incarnation. A name and a correlation
//     id are always set: an empty correlation id equals "", and is contained in everything.
//   - Times are compared in microseconds, as the database keeps them: what a value says beyond that is cut off, not rounded.
//   - CONTAINS is about bytes: the same case, no pattern. But see spellings for the correlation id.
//   - ids are compared as UUIDs: the case and the form in which one is written don't matter.
//   - ALL of resources is true if the list has every value; its order and repetitions don't matter. RESOURCES are the exclusive and
//     the shared ones together.
//   - CREATED_RESOURCES is true of a name that the task's report has as created and not as incomplete.
//   - IN and ANY of nothing are false, ALL and a filter that is unset are true.

// slack is by how much clocks may differ, or go back: a task that ended by then was dispatched by then, give or take this.
const slack = 10 * time.Second

// selection is a filter as SQL, which begins where the fewest rows are to be read.
type selection struct {
	// ended is a table expression under that name, with the created_at, seq and name of the tasks among which the others are: those in some
	// states that few are in. "" if all tasks are to be looked at.
	ended string
	// live says that those that are not final are among them.
	live bool
	// where is a condition on task, and on ended.
	where string
	args  []any
	// rare are the tasks among which the others are, under the name task: those of names that few have. "" if that is not known.
	rare string
}

// among has the tasks looked for among those of some names alone, of which there are few.
func (s selection) among(names []string) selection {
	s.args = append(s.args, names)
	s.rare = fmt.Sprintf("(select * from task where name = any($%d::text[]) offset 0) task", len(s.args))
	return s
}

// selectionOf translates a filter. backlog says that so many tasks are not final that they are rather found among the newest.
func selectionOf(f *statusv1.Filter, backlog bool) (selection, error) {
	b := &builder{narrow: narrow(f), backlog: backlog}
	conditions := b.top(f)
	if len(conditions) == 0 {
		conditions = []string{"true"}
	}
	sel := selection{ended: b.from(), live: b.live, args: b.args}
	sel.where = sel.near(strings.Join(conditions, " and "))
	return sel, b.err
}

// near has SQL name the columns where they are read first: a bound or an order of the one table is none of the other.
func (s selection) near(sql string) string {
	if s.ended == "" {
		return sql
	}
	return strings.NewReplacer("task.created_at", "ended.created_at", "task.seq", "ended.seq", "task.name", "ended.name").Replace(sql)
}

// from is where rows are to be read, for a statement that names the columns of besides.
func (s selection) from(besides string) string {
	switch {
	case s.ended == "":
		return cmp.Or(s.rare, "task")
	case !strings.Contains(s.where, "task.") && !strings.Contains(besides, "task."):
		return s.ended
	default:
		return s.ended + " join task on task.seq = ended.seq"
	}
}

// where translates a filter to a condition on rows of task, which stands `from task` under that name. args are the arguments that
// the statement has already; all are those with the filter's behind them.
func where(f *statusv1.Filter, args []any) (sql string, all []any, err error) {
	b := &builder{args: slices.Clone(args)}
	sql = b.node(f, false)
	return sql, b.args, b.err
}

// builder collects the arguments of a statement.
type builder struct {
	args []any
	// narrow says that other conditions leave few tasks, so that no table is brought in for their states.
	narrow bool
	// backlog says that the tasks that are not final are many; live that they are one of the arms.
	backlog, live bool
	// arms are the tables in which the states of a condition stand that all tasks must meet.
	arms []string
	err  error
}

// arg numbers an argument.
func (b *builder) arg(value any) string {
	b.args = append(b.args, value)
	return "$" + strconv.Itoa(len(b.args))
}

// from is where the rows are found of some states. Each arm is in the order of an ordinary list, so that they need only be merged
// up to the end of a page.
func (b *builder) from() string {
	switch {
	case len(b.arms) == 0:
		return ""
	case len(b.arms) == 1 && !b.live:
		return "(" + b.arms[0] + ") ended"
	default:
		// The order, with the offset 0 of the arm, keeps the planner from looking for the few that are not final in the history.
		const ordered = " order by created_at desc, seq desc)"
		return "((" + strings.Join(b.arms, ordered+" union all (") + ordered + ") ended"
	}
}

// narrow tells whether a filter names something that few tasks have, and that has an index.
func narrow(f *statusv1.Filter) bool {
	if all, is := f.GetNode().(*statusv1.Filter_All); is {
		return slices.ContainsFunc(all.All.GetFilters(), narrow)
	}
	c := f.GetCondition()
	switch c.GetField() {
	case statusv1.TaskField_TASK_FIELD_ID, statusv1.TaskField_TASK_FIELD_PARENT_ID, statusv1.TaskField_TASK_FIELD_GROUP_ID,
		statusv1.TaskField_TASK_FIELD_CHILD_ID, statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES:
		return c.GetComparison() != statusv1.Comparison_COMPARISON_IS_NULL
	case statusv1.TaskField_TASK_FIELD_CORRELATION_ID:
		return len(c.GetValues()) == 1 && (c.GetComparison() == statusv1.Comparison_COMPARISON_EQUAL || len(spellings(c.GetValues()[0])) > 0)
	default:
		return false
	}
}

// oneNameOf returns the names of which tasks must have one; none if any will do.
func oneNameOf(f *statusv1.Filter) []string {
	if all, is := f.GetNode().(*statusv1.Filter_All); is {
		for _, below := range all.All.GetFilters() {
			if names := oneNameOf(below); len(names) > 0 {
				return names
			}
		}
		return nil
	}
	c := f.GetCondition()
	switch c.GetComparison() {
	case statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_IN:
		if c.GetField() == statusv1.TaskField_TASK_FIELD_NAME {
			return c.GetValues()
		}
	default:
	}
	return nil
}

// top translates what all tasks must meet. Only here is it known that nothing else can make a task match, so only here can a
// condition bring in another table.
func (b *builder) top(f *statusv1.Filter) []string {
	if all, is := f.GetNode().(*statusv1.Filter_All); is {
		var conditions []string
		for _, below := range all.All.GetFilters() {
			conditions = append(conditions, b.top(below)...)
		}
		return conditions
	}
	one, is := f.GetNode().(*statusv1.Filter_Condition)
	if !is {
		if f == nil {
			return nil
		}
		return []string{b.node(f, false)}
	}
	if c := one.Condition; c.GetField() == statusv1.TaskField_TASK_FIELD_STATE && !b.narrow && len(b.arms) == 0 {
		return b.states(c)
	}
	conditions := []string{b.condition(one.Condition)}
	switch c := one.Condition; c.GetField() {
	case statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT, statusv1.TaskField_TASK_FIELD_STARTED_AT, statusv1.TaskField_TASK_FIELD_FINISHED_AT:
		if until, bound := latest(c); bound {
			// What was dispatched after that need not be looked at, and dispatch has an index.
			conditions = append(conditions, "task.created_at <= "+b.arg(until.Add(slack))+"::timestamptz")
		}
	default:
	}
	return conditions
}

// states brings in the tables in which the tasks of some states stand, if these are few. The tasks of others have to be searched for.
func (b *builder) states(c *statusv1.Condition) []string {
	var live, ended []string
	for _, state := range task.States() {
		named := slices.Contains(c.GetValues(), string(state))
		switch {
		case named == (c.GetComparison() == statusv1.Comparison_COMPARISON_NOT_EQUAL):
		case state == task.Completed:
			return []string{b.condition(c)}
		case state.Final():
			ended = append(ended, string(state))
		default:
			live = append(live, string(state))
		}
	}
	if len(live)+len(ended) == 0 || len(live) > 0 && b.backlog {
		return []string{b.condition(c)}
	}
	for _, state := range ended {
		// A constant, which it is safe to write: it is one of three words.
		b.arms = append(b.arms, "select created_at, seq, name from task_not_completed where state = '"+state+"'")
	}
	if b.live = len(live) > 0; b.live {
		b.arms = append(b.arms, "select k.created_at, k.seq, k.name from task_live l cross join lateral (select * from task where seq = l.seq offset 0) k "+
			"where k.state = any("+b.arg(live)+"::text[])")
	}
	return nil // the tables are in step with the states, and said twice the planner would think them rarer
}

// latest is when a time must have been at the latest for a condition to be true.
func latest(c *statusv1.Condition) (until time.Time, bound bool) {
	var value string
	switch c.GetComparison() {
	case statusv1.Comparison_COMPARISON_LESS, statusv1.Comparison_COMPARISON_LESS_EQUAL, statusv1.Comparison_COMPARISON_EQUAL:
		value = c.GetValues()[0]
	case statusv1.Comparison_COMPARISON_RANGE:
		value = c.GetValues()[1]
	default:
		return until, false
	}
	until, err := instant(value)
	return until, err == nil
}

// instant reads a time, in the precision in which the database keeps times.
func instant(value string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		return at, fmt.Errorf("read the time %q: %w", value, err)
	}
	return at.UTC().Truncate(time.Microsecond), nil
}

// node translates a filter. In what is negated, unknown must be false: SQL makes of its negation unknown again, which selects
// nothing.
func (b *builder) node(f *statusv1.Filter, negated bool) string {
	switch n := f.GetNode().(type) {
	case *statusv1.Filter_Condition:
		sql := b.condition(n.Condition)
		if negated && nullable(n.Condition) {
			return "coalesce(" + sql + ", false)"
		}
		return sql
	case *statusv1.Filter_All:
		return b.join(n.All.GetFilters(), " and ", "true", negated)
	case *statusv1.Filter_Any:
		return b.join(n.Any.GetFilters(), " or ", "false", negated)
	case *statusv1.Filter_Not:
		return "not " + b.node(n.Not, true)
	default:
		return "true"
	}
}

func (b *builder) join(filters []*statusv1.Filter, with, none string, negated bool) string {
	if len(filters) == 0 {
		return none
	}
	each := make([]string, len(filters))
	for i, f := range filters {
		each[i] = b.node(f, negated)
	}
	return "(" + strings.Join(each, with) + ")"
}

// nullable tells whether a condition can be unknown.
func nullable(c *statusv1.Condition) bool {
	if c.GetComparison() == statusv1.Comparison_COMPARISON_IS_NULL {
		return false
	}
	switch c.GetField() {
	case statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT, statusv1.TaskField_TASK_FIELD_STARTED_AT, statusv1.TaskField_TASK_FIELD_FINISHED_AT,
		statusv1.TaskField_TASK_FIELD_PARENT_ID, statusv1.TaskField_TASK_FIELD_GROUP_ID, statusv1.TaskField_TASK_FIELD_INCARNATION,
		statusv1.TaskField_TASK_FIELD_CHILD_ID:
		return true
	default:
		return false
	}
}

// condition translates one condition, in parentheses where it needs them.
func (b *builder) condition(c *statusv1.Condition) string {
	if len(c.GetValues()) == 0 && c.GetComparison() != statusv1.Comparison_COMPARISON_IN {
		return b.refuse(c) // the limits let none through; a caller of our own may
	}
	switch field := c.GetField(); field {
	case statusv1.TaskField_TASK_FIELD_ID, statusv1.TaskField_TASK_FIELD_PARENT_ID, statusv1.TaskField_TASK_FIELD_GROUP_ID,
		statusv1.TaskField_TASK_FIELD_INCARNATION:
		return b.reference(c)
	case statusv1.TaskField_TASK_FIELD_NAME, statusv1.TaskField_TASK_FIELD_STATE, statusv1.TaskField_TASK_FIELD_CORRELATION_ID:
		return b.text(c)
	case statusv1.TaskField_TASK_FIELD_CREATED_AT, statusv1.TaskField_TASK_FIELD_UPDATED_AT, statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT,
		statusv1.TaskField_TASK_FIELD_STARTED_AT, statusv1.TaskField_TASK_FIELD_FINISHED_AT:
		return b.time(c)
	case statusv1.TaskField_TASK_FIELD_CHILD_ID:
		return "task.id = (select c.parent_id from task c where c.id = " + b.arg(c.GetValues()[0]) + "::text::uuid)"
	case statusv1.TaskField_TASK_FIELD_RESOURCES:
		return "(task.exclusive || task.shared) @> " + b.arg(c.GetValues()) + "::text[]"
	case statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES:
		return "task.exclusive @> " + b.arg(c.GetValues()) + "::text[]"
	case statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES:
		return "task.shared @> " + b.arg(c.GetValues()) + "::text[]"
	case statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES:
		return b.created(c.GetValues()[0])
	default:
		return b.refuse(c)
	}
}

// columns are what tasks can be selected and ordered by that is one column.
func column(f statusv1.TaskField) string {
	switch f {
	case statusv1.TaskField_TASK_FIELD_ID:
		return "task.id"
	case statusv1.TaskField_TASK_FIELD_NAME:
		return "task.name"
	case statusv1.TaskField_TASK_FIELD_STATE:
		return "task.state"
	case statusv1.TaskField_TASK_FIELD_CORRELATION_ID:
		return "task.correlation_id"
	case statusv1.TaskField_TASK_FIELD_CREATED_AT:
		return "task.created_at"
	case statusv1.TaskField_TASK_FIELD_UPDATED_AT:
		return "task.updated_at"
	case statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT:
		return "task.unblocked_at"
	case statusv1.TaskField_TASK_FIELD_STARTED_AT:
		return "task.started_at"
	case statusv1.TaskField_TASK_FIELD_FINISHED_AT:
		return "task.finished_at"
	case statusv1.TaskField_TASK_FIELD_PARENT_ID:
		return "task.parent_id"
	case statusv1.TaskField_TASK_FIELD_GROUP_ID:
		return "task.group_id"
	case statusv1.TaskField_TASK_FIELD_INCARNATION:
		return "task.incarnation"
	default:
		return ""
	}
}

// reference compares an id.
func (b *builder) reference(c *statusv1.Condition) string {
	name := column(c.GetField())
	switch c.GetComparison() {
	case statusv1.Comparison_COMPARISON_EQUAL:
		return name + " = " + b.arg(c.GetValues()[0]) + "::text::uuid"
	case statusv1.Comparison_COMPARISON_IN:
		return name + " = any(" + b.arg(texts(c.GetValues())) + "::text[]::uuid[])"
	case statusv1.Comparison_COMPARISON_IS_NULL:
		return isNull(name, c)
	default:
		return b.refuse(c)
	}
}

// text compares a text.
func (b *builder) text(c *statusv1.Condition) string {
	name := column(c.GetField())
	switch c.GetComparison() {
	case statusv1.Comparison_COMPARISON_EQUAL:
		return name + " = " + b.arg(c.GetValues()[0]) + "::text"
	case statusv1.Comparison_COMPARISON_NOT_EQUAL:
		return name + " <> " + b.arg(c.GetValues()[0]) + "::text"
	case statusv1.Comparison_COMPARISON_IN:
		return name + " = any(" + b.arg(texts(c.GetValues())) + "::text[])"
	case statusv1.Comparison_COMPARISON_CONTAINS:
		value := c.GetValues()[0]
		if both := spellings(value); len(both) > 0 && c.GetField() == statusv1.TaskField_TASK_FIELD_CORRELATION_ID {
			return name + " = any(" + b.arg(both) + "::text[])"
		}
		return "strpos(" + name + ", " + b.arg(value) + "::text) > 0"
	default:
		return b.refuse(c)
	}
}

// spellings are the two ways to write a UUID, with dashes and without, in the case in which it came; none if value is no UUID.
// A correlation id that contains a whole UUID is one: so the question needs no search of the history. (One of which a UUID is only a
// part is not found.)
func spellings(value string) []string {
	if len(value) != 32 && len(value) != 36 || uuid.Validate(value) != nil {
		return nil
	}
	plain := strings.ReplaceAll(value, "-", "")
	return []string{plain, strings.Join([]string{plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]}, "-")}
}

// time compares a time.
func (b *builder) time(c *statusv1.Condition) string {
	name := column(c.GetField())
	if c.GetComparison() == statusv1.Comparison_COMPARISON_IS_NULL {
		return isNull(name, c)
	}
	values := make([]string, len(c.GetValues()))
	for i, value := range c.GetValues() {
		at, err := instant(value)
		if err != nil {
			return b.refuse(c)
		}
		values[i] = b.arg(at) + "::timestamptz"
	}
	switch c.GetComparison() {
	case statusv1.Comparison_COMPARISON_EQUAL:
		return name + " = " + values[0]
	case statusv1.Comparison_COMPARISON_LESS:
		return name + " < " + values[0]
	case statusv1.Comparison_COMPARISON_LESS_EQUAL:
		return name + " <= " + values[0]
	case statusv1.Comparison_COMPARISON_GREATER:
		return name + " > " + values[0]
	case statusv1.Comparison_COMPARISON_GREATER_EQUAL:
		return name + " >= " + values[0]
	case statusv1.Comparison_COMPARISON_RANGE:
		if len(values) != 2 {
			return b.refuse(c)
		}
		return "(" + name + " >= " + values[0] + " and " + name + " <= " + values[1] + ")"
	default:
		return b.refuse(c)
	}
}

// created looks for what tasks have made. A report names each thing once, with `incomplete` only where that is so.
func (b *builder) created(name string) string {
	is := func(made Created) string {
		text, err := json.Marshal([]Created{made})
		if err != nil {
			b.err = fmt.Errorf("encode a created resource: %w", err)
		}
		return "created @> " + b.arg(string(text)) + "::jsonb"
	}
	return "task.id in (select task_id from task_report where created <> '[]' and " + is(Created{Resource: name}) +
		" and not " + is(Created{Resource: name, Incomplete: true}) + ")"
}

func isNull(name string, c *statusv1.Condition) string {
	if c.GetValues()[0] == strconv.FormatBool(true) {
		return name + " is null"
	}
	return name + " is not null"
}

// texts is a list that is never null: nothing differs from null.
func texts(values []string) []string {
	if values == nil {
		return []string{}
	}
	return values
}

// refuse notes what the limits should have caught.
func (b *builder) refuse(c *statusv1.Condition) string {
	b.err = errs.Invalid(errs.Violation{Field: "filter", Rule: fmt.Sprintf("%s can't be compared by %s with %d values like these", c.GetField(), c.GetComparison(), len(c.GetValues()))})
	return "false"
}

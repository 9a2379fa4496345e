package limits_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

func condition(field statusv1.TaskField, comparison statusv1.Comparison, values ...string) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{Field: field, Comparison: comparison, Values: values}}}
}

func allOf(filters ...*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{Filters: filters}}}
}

func anyOf(filters ...*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Any{Any: &statusv1.FilterList{Filters: filters}}}
}

func not(f *statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Not{Not: f}}
}

// named is a condition that is right.
func named() *statusv1.Filter {
	return condition(statusv1.TaskField_TASK_FIELD_NAME, statusv1.Comparison_COMPARISON_EQUAL, "a")
}

// deep puts a filter under n others.
func deep(n int, f *statusv1.Filter) *statusv1.Filter {
	for i := range n {
		switch i % 3 {
		case 0:
			f = not(f)
		case 1:
			f = allOf(named(), f)
		case 2:
			f = anyOf(f)
		}
	}
	return f
}

// value is one that a field takes.
func value(field statusv1.TaskField) string {
	switch name := field.String(); {
	case strings.HasSuffix(name, "_ID") && field != statusv1.TaskField_TASK_FIELD_CORRELATION_ID, name == "TASK_FIELD_INCARNATION":
		return id
	case strings.HasSuffix(name, "_AT"):
		return "2026-01-02T03:04:05.678901+02:00"
	case name == "TASK_FIELD_STATE":
		return "waiting"
	default:
		return "a"
	}
}

// What TaskField's comments say is what is allowed, no more and no less.
func TestFieldsHaveTheComparisonsThatTheirCommentsName(t *testing.T) {
	comparison := func(word string) statusv1.Comparison {
		return statusv1.Comparison(statusv1.Comparison_value["COMPARISON_"+word])
	}
	words := func(text string) (comparisons []statusv1.Comparison) {
		for _, word := range strings.Fields(text) {
			comparisons = append(comparisons, comparison(word))
		}
		return comparisons
	}
	const instant = "EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL RANGE IS_NULL"
	allowed := map[statusv1.TaskField][]statusv1.Comparison{
		statusv1.TaskField_TASK_FIELD_ID:                  words("EQUAL IN"),
		statusv1.TaskField_TASK_FIELD_NAME:                words("EQUAL NOT_EQUAL IN CONTAINS"),
		statusv1.TaskField_TASK_FIELD_STATE:               words("EQUAL NOT_EQUAL IN"),
		statusv1.TaskField_TASK_FIELD_CORRELATION_ID:      words("EQUAL CONTAINS"),
		statusv1.TaskField_TASK_FIELD_CREATED_AT:          words(instant),
		statusv1.TaskField_TASK_FIELD_UPDATED_AT:          words(instant),
		statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT:        words(instant),
		statusv1.TaskField_TASK_FIELD_STARTED_AT:          words(instant),
		statusv1.TaskField_TASK_FIELD_FINISHED_AT:         words(instant),
		statusv1.TaskField_TASK_FIELD_PARENT_ID:           words("EQUAL IN IS_NULL"),
		statusv1.TaskField_TASK_FIELD_CHILD_ID:            words("EQUAL"),
		statusv1.TaskField_TASK_FIELD_GROUP_ID:            words("EQUAL IN IS_NULL"),
		statusv1.TaskField_TASK_FIELD_INCARNATION:         words("EQUAL IN IS_NULL"),
		statusv1.TaskField_TASK_FIELD_RESOURCES:           words("ALL"),
		statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES: words("ALL"),
		statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES:    words("ALL"),
		statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES:   words("EQUAL"),
	}
	for number := range statusv1.TaskField_name {
		field := statusv1.TaskField(number)
		for number := range statusv1.Comparison_name {
			c := statusv1.Comparison(number)
			values := []string{value(field)}
			switch c {
			case statusv1.Comparison_COMPARISON_RANGE:
				values = append(values, value(field))
			case statusv1.Comparison_COMPARISON_IS_NULL:
				values = []string{"true"}
			default:
			}
			got := violations(t, &statusv1.ListTasksRequest{Filter: condition(field, c, values...)})
			if passed := got == nil; passed != slices.Contains(allowed[field], c) {
				t.Errorf("%s by %s: passed %t, %v", field, c, passed, got)
			}
		}
	}
	for _, unknown := range []*statusv1.Filter{condition(99, 1, "a"), condition(1, 99, id)} {
		if violations(t, &statusv1.ListTasksRequest{Filter: unknown}) == nil {
			t.Errorf("%v passed", unknown)
		}
	}
}

func TestBadFiltersNameTheConditionAndTheRule(t *testing.T) {
	const (
		equal, in, isNull, between = statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_IN, statusv1.Comparison_COMPARISON_IS_NULL, statusv1.Comparison_COMPARISON_RANGE
		name, state, group         = statusv1.TaskField_TASK_FIELD_NAME, statusv1.TaskField_TASK_FIELD_STATE, statusv1.TaskField_TASK_FIELD_GROUP_ID
		began                      = statusv1.TaskField_TASK_FIELD_STARTED_AT
	)
	for _, c := range []struct {
		name        string
		filter      *statusv1.Filter
		field, rule string
	}{
		{"nothing in it", &statusv1.Filter{}, "filter", "must be a condition, all, any or not"},
		{"nothing negated", not(&statusv1.Filter{}), "filter.not", "must be a condition, all, any or not"},
		{"the second of a list", allOf(named(), &statusv1.Filter{}), "filter.all.filters[1]", "must be a condition"},
		{"in a negated list", not(anyOf(named(), condition(name, equal))), "filter.not.any.filters[1].condition.values", "between 1 and 1"},
		{"no value", condition(name, equal), "filter.condition.values", "between 1 and 1"},
		{"two values", condition(name, equal, "a", "b"), "filter.condition.values", "between 1 and 1"},
		{"one end", condition(began, between, value(began)), "filter.condition.values", "between 2 and 2"},
		{"three ends", condition(began, between, value(began), value(began), value(began)), "filter.condition.values", "between 2 and 2"},
		{"not a state", condition(state, in, "waiting", "done"), "filter.condition.values[1]", "must be a state"},
		{"a state in another case", condition(state, equal, "Waiting"), "filter.condition.values[0]", "must be a state"},
		{"not an id", condition(group, equal, "g"), "filter.condition.values[0]", "must be a UUID"},
		{"an id in another spelling", condition(group, in, id, strings.ToUpper(id)), "filter.condition.values[1]", "must be a UUID"},
		{"not a time", condition(began, equal, "yesterday"), "filter.condition.values[0]", "RFC 3339"},
		{"a time without a zone", condition(began, equal, "2026-01-02T03:04:05"), "filter.condition.values[0]", "RFC 3339"},
		{"the year 0", condition(began, equal, "0000-01-02T03:04:05Z"), "filter.condition.values[0]", "RFC 3339"},
		{"neither true nor false", condition(began, isNull, "1"), "filter.condition.values[0]", "must be true or false"},
		{"no truth", condition(began, isNull), "filter.condition.values", "between 1 and 1"},
		{"control in a name", condition(name, equal, "a\x00"), "filter.condition.values[0]", "U+0000"},
		{"invalid UTF-8", condition(name, in, "\xff"), "filter.condition.values[0]", "must be valid UTF-8"},
		{"only to order by", condition(statusv1.TaskField_TASK_FIELD_RESULT, equal, "1"), "filter.condition.field", "selected by"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, request := range []proto.Message{
				&statusv1.ListTasksRequest{Filter: c.filter}, &statusv1.WatchTasksRequest{Filter: c.filter}, &statusv1.AwaitTasksRequest{Filter: c.filter},
			} {
				got := violations(t, request)
				if diff := cmp.Diff([]string{c.field}, fields(got)); diff != "" {
					t.Errorf("%T: %s", request, diff)
				} else if !strings.Contains(got[0].Rule, c.rule) {
					t.Errorf("%T: %q does not say %q", request, got[0].Rule, c.rule)
				}
			}
		})
	}
}

func TestGoodFiltersPass(t *testing.T) {
	for name, f := range map[string]*statusv1.Filter{
		"none":                 nil,
		"all of nothing":       allOf(),
		"any of nothing":       anyOf(),
		"one of none":          condition(statusv1.TaskField_TASK_FIELD_NAME, statusv1.Comparison_COMPARISON_IN),
		"an empty name":        condition(statusv1.TaskField_TASK_FIELD_NAME, statusv1.Comparison_COMPARISON_EQUAL, ""),
		"twice negated":        not(not(named())),
		"a range backwards":    condition(statusv1.TaskField_TASK_FIELD_CREATED_AT, statusv1.Comparison_COMPARISON_RANGE, "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
		"a time of a far year": condition(statusv1.TaskField_TASK_FIELD_CREATED_AT, statusv1.Comparison_COMPARISON_LESS, "9999-12-31T23:59:59.999999999-12:00"),
		"nanoseconds":          condition(statusv1.TaskField_TASK_FIELD_CREATED_AT, statusv1.Comparison_COMPARISON_LESS, "2026-01-01T00:00:00.123456789Z"),
	} {
		if got := violations(t, &statusv1.ListTasksRequest{Filter: f}); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOrdersAreOfFieldsThatHaveOne(t *testing.T) {
	unordered := []statusv1.TaskField{
		statusv1.TaskField_TASK_FIELD_UNSPECIFIED, statusv1.TaskField_TASK_FIELD_CHILD_ID, statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES,
		statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES, statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES, 99,
	}
	for number := range int32(len(statusv1.TaskField_name)) {
		field := statusv1.TaskField(number)
		got := violations(t, &statusv1.ListTasksRequest{Order: []*statusv1.Order{{Field: statusv1.TaskField_TASK_FIELD_NAME}, {Field: field, Descending: true}}})
		if passed := got == nil; passed == slices.Contains(unordered, field) {
			t.Errorf("%s: passed %t", field, passed)
		} else if !passed {
			if diff := cmp.Diff([]string{"order[1].field"}, fields(got)); diff != "" {
				t.Errorf("%s: %s", field, diff)
			}
		}
	}
	request := &statusv1.ListTasksRequest{Order: []*statusv1.Order{{Field: statusv1.TaskField_TASK_FIELD_NAME}}, PageToken: "a"}
	if diff := cmp.Diff([]string{"order"}, fields(violations(t, request))); diff != "" {
		t.Error(diff)
	}
}

// grow makes of bytes a filter, of any shape that the wire can carry.
func grow(data []byte) (*statusv1.Filter, []byte) {
	next := func() (b byte) {
		if len(data) > 0 {
			b, data = data[0], data[1:]
		}
		return b
	}
	below := func(n int) (filters []*statusv1.Filter) {
		for range n {
			var f *statusv1.Filter
			f, data = grow(data)
			filters = append(filters, f)
		}
		return filters
	}
	switch kind := next(); kind % 8 {
	case 0:
		return &statusv1.Filter{}, data
	case 1:
		return nil, data
	case 2:
		return not(below(1)[0]), data
	case 3:
		return allOf(below(int(next() % 4))...), data
	case 4:
		return anyOf(below(int(next() % 4))...), data
	default:
		c := &statusv1.Condition{Field: statusv1.TaskField(next() % 24), Comparison: statusv1.Comparison(next() % 13)}
		for range next() % 4 {
			n := min(int(next()%32), len(data))
			c.Values = append(c.Values, []string{value(c.GetField()), "true", string(data[:n])}[next()%3])
			data = data[min(n, len(data)):]
		}
		return &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: c}}, data
	}
}

// Whatever comes: no panic, and what passes has only conditions that stand in the tables.
func FuzzCheckOfFilters(f *testing.F) {
	f.Add([]byte{5, 2, 1, 1, 1, 2, 'a'})
	f.Add([]byte{3, 2, 5, 3, 3, 1, 0, 0, 2, 4, 1, 0})
	f.Add(slices.Repeat([]byte{2}, 30))
	f.Add([]byte(strings.Repeat("\x03\x03\x05\x01", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		filter, _ := grow(data)
		err := limits.Check(&statusv1.ListTasksRequest{Filter: filter})
		var e *errs.Error
		if err != nil && (!errors.As(err, &e) || len(e.Violations) == 0 || len(e.Violations) > limits.MaxViolations) {
			t.Fatalf("refused with %v", err)
		}
		if err != nil {
			if _, err := proto.Marshal(e.GRPCStatus().Proto()); err != nil {
				t.Errorf("the refusal can't be sent: %v", err)
			}
			return
		}
		conditions := 0
		eachCondition(filter.ProtoReflect(), func(c *statusv1.Condition) {
			conditions++
			if limits.Check(&statusv1.ListTasksRequest{Filter: &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: c}}}) != nil {
				t.Errorf("%v passed as a part of another", c)
			}
		})
		if conditions > limits.MaxConditions {
			t.Errorf("%d conditions passed", conditions)
		}
	})
}

// eachCondition finds the conditions without knowing how filters are nested.
func eachCondition(m protoreflect.Message, do func(*statusv1.Condition)) {
	if c, is := m.Interface().(*statusv1.Condition); is {
		do(c)
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsList() && field.Message() != nil:
			for i := range v.List().Len() {
				eachCondition(v.List().Get(i).Message(), do)
			}
		case field.Message() != nil:
			eachCondition(v.Message(), do)
		}
		return true
	})
}

// The corpus of the fuzzer is small; chance makes larger ones, in every run.
func TestFiltersByChanceAreCheckedWithoutAPanic(t *testing.T) {
	passed := 0
	for range 5000 {
		data := make([]byte, rand.IntN(200))
		for i := range data {
			data[i] = byte(rand.IntN(256))
		}
		filter, _ := grow(data)
		if limits.Check(&statusv1.ListTasksRequest{Filter: filter}) == nil {
			passed++
		}
	}
	if passed == 0 {
		t.Error("none passed: the test proves little")
	}
}

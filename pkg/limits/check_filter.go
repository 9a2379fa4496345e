package limits

import (
	"slices"
	"strconv"
	"strings"
	"time"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// What the fields of tasks can be compared with. The comments of TaskField say the same.
var (
	onlyEqual = []statusv1.Comparison{statusv1.Comparison_COMPARISON_EQUAL}
	onlyAll   = []statusv1.Comparison{statusv1.Comparison_COMPARISON_ALL}
	reference = []statusv1.Comparison{
		statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_IN, statusv1.Comparison_COMPARISON_IS_NULL,
	}
	instant = []statusv1.Comparison{
		statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_LESS, statusv1.Comparison_COMPARISON_LESS_EQUAL,
		statusv1.Comparison_COMPARISON_GREATER, statusv1.Comparison_COMPARISON_GREATER_EQUAL, statusv1.Comparison_COMPARISON_RANGE,
		statusv1.Comparison_COMPARISON_IS_NULL,
	}
)

// form is what the values of a field look like.
type form int

const (
	formText form = iota
	formID
	formState
	formTime
	formResource
)

// field is what conditions can say about a field of a task.
func field(f statusv1.TaskField) (comparisons []statusv1.Comparison, values form) {
	switch f {
	case statusv1.TaskField_TASK_FIELD_ID:
		return []statusv1.Comparison{statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_IN}, formID
	case statusv1.TaskField_TASK_FIELD_NAME:
		return []statusv1.Comparison{
			statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_NOT_EQUAL, statusv1.Comparison_COMPARISON_IN,
			statusv1.Comparison_COMPARISON_CONTAINS,
		}, formText
	case statusv1.TaskField_TASK_FIELD_STATE:
		return []statusv1.Comparison{
			statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_NOT_EQUAL, statusv1.Comparison_COMPARISON_IN,
		}, formState
	case statusv1.TaskField_TASK_FIELD_CORRELATION_ID:
		return []statusv1.Comparison{statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_CONTAINS}, formText
	case statusv1.TaskField_TASK_FIELD_CREATED_AT, statusv1.TaskField_TASK_FIELD_UPDATED_AT, statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT,
		statusv1.TaskField_TASK_FIELD_STARTED_AT, statusv1.TaskField_TASK_FIELD_FINISHED_AT:
		return instant, formTime
	case statusv1.TaskField_TASK_FIELD_PARENT_ID, statusv1.TaskField_TASK_FIELD_GROUP_ID, statusv1.TaskField_TASK_FIELD_INCARNATION:
		return reference, formID
	case statusv1.TaskField_TASK_FIELD_CHILD_ID:
		return onlyEqual, formID
	case statusv1.TaskField_TASK_FIELD_RESOURCES, statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES,
		statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES:
		return onlyAll, formResource
	case statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES:
		return onlyEqual, formResource
	default:
		return nil, formText
	}
}

// ordered tells which fields tasks can be ordered by.
func ordered(f statusv1.TaskField) bool {
	switch f {
	case statusv1.TaskField_TASK_FIELD_UNSPECIFIED, statusv1.TaskField_TASK_FIELD_CHILD_ID, statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES,
		statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES, statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES:
		return false
	default:
		_, known := statusv1.TaskField_name[int32(f)]
		return known
	}
}

func (c *checks) order(at path, order []*statusv1.Order) {
	c.within(at, int64(len(order)), 0, MaxOrder)
	for i, key := range order {
		if !ordered(key.GetField()) {
			c.fail(at.item(i).dot("field"), "must be a field that tasks can be ordered by, is %s", key.GetField())
		}
	}
}

// filter checks a filter with all that is in it.
func (c *checks) filter(at path, f *statusv1.Filter) {
	conditions := 0
	c.node(at, f, 0, &conditions)
	if conditions > MaxConditions {
		c.fail(at, "must have at most %d conditions, has %d", MaxConditions, conditions)
	}
}

func (c *checks) node(at path, f *statusv1.Filter, depth int, conditions *int) {
	if f == nil || *conditions > MaxConditions {
		return
	}
	if depth > MaxNesting {
		c.fail(at, "must be nested at most %d deep", MaxNesting)
		return
	}
	switch n := f.GetNode().(type) {
	case *statusv1.Filter_Condition:
		*conditions++
		c.condition(at.dot("condition"), n.Condition)
	case *statusv1.Filter_All:
		c.nodes(at.dot("all.filters"), n.All.GetFilters(), depth, conditions)
	case *statusv1.Filter_Any:
		c.nodes(at.dot("any.filters"), n.Any.GetFilters(), depth, conditions)
	case *statusv1.Filter_Not:
		c.node(at.dot("not"), n.Not, depth+1, conditions)
	default:
		c.fail(at, "must be a condition, all, any or not")
	}
}

func (c *checks) nodes(at path, list []*statusv1.Filter, depth int, conditions *int) {
	c.within(at, int64(len(list)), 0, MaxConditions)
	for i, f := range list {
		if *conditions > MaxConditions {
			return
		}
		c.node(at.item(i), f, depth+1, conditions)
	}
}

func (c *checks) condition(at path, condition *statusv1.Condition) {
	for i, value := range condition.GetValues() {
		c.size(at.dot("values").item(i), value, MaxResourceName)
	}
	comparisons, values := field(condition.GetField())
	switch {
	case comparisons == nil:
		c.fail(at.dot("field"), "must be a field that tasks can be selected by, is %s", condition.GetField())
		return
	case !slices.Contains(comparisons, condition.GetComparison()):
		c.fail(at.dot("comparison"), "must be one that %s has, is %s", condition.GetField(), condition.GetComparison())
		return
	}
	low, high := int64(1), int64(1)
	switch condition.GetComparison() {
	case statusv1.Comparison_COMPARISON_IN:
		low, high = 0, MaxValues
	case statusv1.Comparison_COMPARISON_ALL:
		high = MaxValues
	case statusv1.Comparison_COMPARISON_RANGE:
		low, high = 2, 2
	case statusv1.Comparison_COMPARISON_IS_NULL:
		c.within(at.dot("values"), int64(len(condition.GetValues())), 1, 1)
		for i, value := range condition.GetValues() {
			if value != strconv.FormatBool(true) && value != strconv.FormatBool(false) {
				c.fail(at.dot("values").item(i), "must be true or false")
			}
		}
		return
	default:
	}
	c.within(at.dot("values"), int64(len(condition.GetValues())), low, high)
	for i, value := range condition.GetValues() {
		if int64(i) >= high {
			return
		}
		c.value(at.dot("values").item(i), values, value)
	}
}

func (c *checks) value(at path, values form, value string) {
	switch values {
	case formID:
		c.id(at, value)
	case formState:
		if !slices.Contains(task.States(), task.State(value)) {
			c.fail(at, "must be a state, is %.40q", value)
		}
	case formTime:
		if _, err := time.Parse(time.RFC3339Nano, value); err != nil || strings.HasPrefix(value, "0000") {
			c.fail(at, "must be a time as in RFC 3339, is %.40q", value)
		}
	case formResource, formText:
		c.text(at, value, MaxResourceName)
	}
}

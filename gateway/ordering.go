package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// sortKey is one name of the parameter ordering.
type sortKey struct {
	name       string
	descending bool
}

// sortKeys reads the parameter ordering: names separated by commas, those with a hyphen descending. What comes again later in the list
// makes no difference, and is left out.
func (f *filters) sortKeys(text string, known func(name string) bool) []sortKey {
	var keys []sortKey
	for _, part := range split(text) {
		name, descending := strings.CutPrefix(strings.TrimSpace(part), "-")
		switch {
		case !known(name):
			f.fail("ordering", noChoice(part).Error())
		case !slices.ContainsFunc(keys, func(k sortKey) bool { return k.name == name }):
			keys = append(keys, sortKey{name, descending})
		}
	}
	return keys
}

// taskOrders are what tasks can be ordered by. Pulp allows every column; some of ours are not stored as columns, or are the same for
// all tasks, and leave the order to what follows.
var taskOrders = map[string]statusv1.TaskField{
	"pk":                        statusv1.TaskField_TASK_FIELD_ID,
	"pulp_id":                   statusv1.TaskField_TASK_FIELD_ID,
	"pulp_created":              statusv1.TaskField_TASK_FIELD_CREATED_AT,
	"pulp_last_updated":         statusv1.TaskField_TASK_FIELD_UPDATED_AT,
	"state":                     statusv1.TaskField_TASK_FIELD_STATE,
	"name":                      statusv1.TaskField_TASK_FIELD_NAME,
	"logging_cid":               statusv1.TaskField_TASK_FIELD_CORRELATION_ID,
	"unblocked_at":              statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT,
	"started_at":                statusv1.TaskField_TASK_FIELD_STARTED_AT,
	"finished_at":               statusv1.TaskField_TASK_FIELD_FINISHED_AT,
	"error":                     statusv1.TaskField_TASK_FIELD_ERROR,
	"result":                    statusv1.TaskField_TASK_FIELD_RESULT,
	"immediate":                 statusv1.TaskField_TASK_FIELD_IMMEDIATE,
	"deferred":                  statusv1.TaskField_TASK_FIELD_DEFERRED,
	"reserved_resources_record": statusv1.TaskField_TASK_FIELD_RESOURCES,
	"versions":                  statusv1.TaskField_TASK_FIELD_VERSIONS,
	"enc_args":                  statusv1.TaskField_TASK_FIELD_UNSPECIFIED,
	"enc_kwargs":                statusv1.TaskField_TASK_FIELD_UNSPECIFIED,
	"profile_options":           statusv1.TaskField_TASK_FIELD_UNSPECIFIED,
	"pulp_api_version":          statusv1.TaskField_TASK_FIELD_UNSPECIFIED,
}

// taskOrder translates the ordering of a list of tasks; empty is the newest first.
func (f *filters) taskOrder(text string) []*statusv1.Order {
	var order []*statusv1.Order
	for _, key := range f.sortKeys(text, func(name string) bool { _, known := taskOrders[name]; return known }) {
		field := taskOrders[key.name]
		// An id has two names.
		if field == statusv1.TaskField_TASK_FIELD_UNSPECIFIED ||
			slices.ContainsFunc(order, func(o *statusv1.Order) bool { return o.GetField() == field }) {
			continue
		}
		order = append(order, &statusv1.Order{Field: field, Descending: key.descending})
		if field == statusv1.TaskField_TASK_FIELD_ID {
			break // nothing is left open
		}
	}
	if len(order) > limits.MaxOrder {
		f.fail("ordering", fmt.Sprintf("Must have at most %d names.", limits.MaxOrder))
		return nil
	}
	if len(order) == 1 && order[0].GetField() == statusv1.TaskField_TASK_FIELD_CREATED_AT && order[0].GetDescending() {
		return nil // as without it
	}
	return order
}

// sorted orders what is here as a whole. by compares two members by a name of the ordering, and newest is the order of what the keys
// leave open.
func sorted[V any](members []V, keys []sortKey, by map[string]func(a, b V) int, newest func(a, b V) int) {
	slices.SortStableFunc(members, func(a, b V) int {
		for _, key := range keys {
			order := by[key.name](a, b)
			if key.descending {
				order = -order
			}
			if order != 0 {
				return order
			}
		}
		return newest(a, b)
	})
}

// comparing makes a comparison of what a member has.
func comparing[V any, T cmp.Ordered](of func(V) T) func(a, b V) int {
	return func(a, b V) int { return cmp.Compare(of(a), of(b)) }
}

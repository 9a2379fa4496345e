package gateway

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// reader makes conditions of the value of a parameter, which is not empty: all of them must match; none at all match everything. Its
// error is what the client is told.
type reader[C any] func(value string) ([]C, error)

// valueError is what is wrong with the value of a parameter, in a sentence for the client.
type valueError string

func (e valueError) Error() string { return string(e) }

func wrong(format string, args ...any) error { return valueError(fmt.Sprintf(format, args...)) }

// filterset is what the members of a collection can be selected by. C is one condition.
type filterset[C any] struct {
	by  map[string]reader[C]
	all func([]C) C
	any func([]C) C
	not func(C) C
}

// of reads the filters among the fields of a request, q included. All of what it returns must match.
func (s filterset[C]) of(request proto.Message, bad *filters) []C {
	var found []C
	message := request.ProtoReflect()
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		read := s.by[name]
		if name == "q" {
			read = s.expression
		}
		// Pulp's command line sends empty filters for those that were not given.
		if read == nil || message.Get(fields.Get(i)).String() == "" {
			continue
		}
		conditions, err := read(message.Get(fields.Get(i)).String())
		if err != nil {
			bad.fail(name, err.Error())
			continue
		}
		found = append(found, conditions...)
	}
	return found
}

func (s filterset[C]) expression(text string) ([]C, error) {
	e, err := parseExpression(text)
	if err != nil {
		return nil, err
	}
	return s.conditions(e)
}

func (s filterset[C]) conditions(e *expression) ([]C, error) {
	if e.operator == opFilter {
		return s.filter(e.key, e.value)
	}
	parts := make([]C, len(e.of))
	for i, part := range e.of {
		conditions, err := s.conditions(part)
		if err != nil {
			return nil, err
		}
		if parts[i] = s.all(conditions); len(conditions) == 1 {
			parts[i] = conditions[0]
		}
	}
	switch e.operator {
	case opNot:
		return []C{s.not(parts[0])}, nil
	case opAny:
		return []C{s.any(parts)}, nil
	default:
		return parts, nil
	}
}

func (s filterset[C]) filter(key, value string) ([]C, error) {
	read := s.by[key]
	switch {
	case key == "ordering":
		return nil, errOrdering
	case key == "q":
		return nil, errNested
	case read == nil:
		return nil, wrong("Filter '%s' does not exist.", key)
	case value == "":
		return nil, nil
	}
	conditions, err := read(value)
	if err != nil {
		return nil, wrong("%s: %s", key, err)
	}
	return conditions, nil
}

// queried fills a request with the parameters of a query that it has fields for.
func queried[M proto.Message](request M, query url.Values) M {
	message := request.ProtoReflect()
	for name, values := range query {
		field := message.Descriptor().Fields().ByTextName(name)
		switch {
		case field == nil || len(values) == 0 || field.Kind() != protoreflect.StringKind:
		case field.IsList():
			for _, value := range values {
				message.Mutable(field).List().Append(protoreflect.ValueOfString(value))
			}
		default:
			message.Set(field, protoreflect.ValueOfString(values[len(values)-1]))
		}
	}
	return request
}

// taskFilter translates the filters of a list of tasks; nil selects all. nothing: no task can match.
func taskFilter(r *pulpv3.ListTasksRequest, h hrefs) (filter *statusv1.Filter, nothing bool, err error) {
	bad := &filters{}
	filter, nothing = bad.taskFilter(r, h)
	return filter, nothing, bad.err()
}

func (f *filters) taskFilter(r *pulpv3.ListTasksRequest, h hrefs) (filter *statusv1.Filter, nothing bool) {
	// Two filters on the state that exclude each other need no question.
	in := split(r.GetState_In())
	nothing = r.GetState() != "" && len(in) > 0 && !slices.Contains(in, r.GetState())
	switch conditions := taskFilters(h).of(r, f); len(conditions) {
	case 0:
		return nil, nothing
	case 1:
		return conditions[0], nothing
	default:
		return allOf(conditions), nothing
	}
}

// taskFilters are all filters of tasks. They are made for each request, as it says what hrefs begin with.
func taskFilters(h hrefs) filterset[*statusv1.Filter] {
	s := filterset[*statusv1.Filter]{
		by:  map[string]reader[*statusv1.Filter]{},
		all: allOf,
		any: func(filters []*statusv1.Filter) *statusv1.Filter {
			return &statusv1.Filter{Node: &statusv1.Filter_Any{Any: &statusv1.FilterList{Filters: filters}}}
		},
		not: func(filter *statusv1.Filter) *statusv1.Filter {
			return &statusv1.Filter{Node: &statusv1.Filter_Not{Not: filter}}
		},
	}
	// add lets a parameter compare a field with the values that read makes of the parameter's.
	add := func(parameter string, field statusv1.TaskField, comparison statusv1.Comparison, read func(string) ([]string, error)) {
		s.by[parameter] = func(value string) ([]*statusv1.Filter, error) {
			values, err := read(value)
			if err != nil || len(values) == 0 {
				return nil, err
			}
			return condition(field, comparison, values)
		}
	}
	const (
		equal    = statusv1.Comparison_COMPARISON_EQUAL
		notEqual = statusv1.Comparison_COMPARISON_NOT_EQUAL
		in       = statusv1.Comparison_COMPARISON_IN
		contains = statusv1.Comparison_COMPARISON_CONTAINS
		isNull   = statusv1.Comparison_COMPARISON_IS_NULL
	)

	const name = statusv1.TaskField_TASK_FIELD_NAME
	add("name", name, equal, one(asItIs))
	add("name__contains", name, contains, one(asItIs))
	add("name__in", name, in, each(asItIs))
	add("name__ne", name, notEqual, one(asItIs))

	const state = statusv1.TaskField_TASK_FIELD_STATE
	add("state", state, equal, one(readState))
	add("state__in", state, in, each(readState))
	add("state__ne", state, notEqual, one(readState))

	const cid = statusv1.TaskField_TASK_FIELD_CORRELATION_ID
	add("logging_cid", cid, equal, one(asItIs))
	add("logging_cid__contains", cid, contains, one(asItIs))

	const id = statusv1.TaskField_TASK_FIELD_ID
	add("pulp_id__in", id, in, each(readID))
	add("prn__in", id, in, each(readPRN(modelTask)))
	add("pulp_href__in", id, in, each(h.reading(collectionTasks, modelTask, "a task")))

	add("task_group", statusv1.TaskField_TASK_FIELD_GROUP_ID, equal, one(h.reading(collectionGroups, modelGroup, "a task group")))
	add("parent_task", statusv1.TaskField_TASK_FIELD_PARENT_ID, equal, one(h.reading(collectionTasks, modelTask, "a task")))
	add("child_tasks", statusv1.TaskField_TASK_FIELD_CHILD_ID, equal, one(h.reading(collectionTasks, modelTask, "a task")))

	const incarnation = statusv1.TaskField_TASK_FIELD_INCARNATION
	add("worker", incarnation, equal, one(h.reading(collectionWorkers, modelWorker, "a worker")))
	add("worker__in", incarnation, in, each(h.reading(collectionWorkers, modelWorker, "a worker")))
	add("worker__isnull", incarnation, isNull, one(readTruth))

	add("created_resources", statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES, equal, one(readCreated))
	for parameter, field := range map[string]statusv1.TaskField{
		"exclusive_resources": statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES,
		"shared_resources":    statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES,
		"reserved_resources":  statusv1.TaskField_TASK_FIELD_RESOURCES,
	} {
		s.by[parameter] = func(value string) ([]*statusv1.Filter, error) { return reserves(field, h, value) }
		s.by[parameter+"__in"] = func(value string) ([]*statusv1.Filter, error) { return reserves(field, h, split(value)...) }
	}

	for parameter, field := range map[string]statusv1.TaskField{
		"pulp_created": statusv1.TaskField_TASK_FIELD_CREATED_AT,
		"unblocked_at": statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT,
		"started_at":   statusv1.TaskField_TASK_FIELD_STARTED_AT,
		"finished_at":  statusv1.TaskField_TASK_FIELD_FINISHED_AT,
	} {
		add(parameter, field, equal, one(readInstant))
		add(parameter+"__lt", field, statusv1.Comparison_COMPARISON_LESS, one(readInstant))
		add(parameter+"__lte", field, statusv1.Comparison_COMPARISON_LESS_EQUAL, one(readInstant))
		add(parameter+"__gt", field, statusv1.Comparison_COMPARISON_GREATER, one(readInstant))
		add(parameter+"__gte", field, statusv1.Comparison_COMPARISON_GREATER_EQUAL, one(readInstant))
		add(parameter+"__range", field, statusv1.Comparison_COMPARISON_RANGE, readRange)
		add(parameter+"__isnull", field, isNull, one(readTruth))
	}
	return s
}

func allOf(filters []*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{Filters: filters}}}
}

// condition checks its values by the rules that the status service has for them, so that what breaks one is told by the parameter's name.
func condition(field statusv1.TaskField, comparison statusv1.Comparison, values []string) ([]*statusv1.Filter, error) {
	if len(values) > limits.MaxValues {
		return nil, wrong("Must have at most %d values, has %d.", limits.MaxValues, len(values))
	}
	filter := &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{
		Field: field, Comparison: comparison, Values: values,
	}}}
	var broken *errs.Error
	if errors.As(limits.Check(&statusv1.WatchTasksRequest{Filter: filter}), &broken) && len(broken.Violations) > 0 {
		return nil, valueError(sentence(broken.Violations[0].Rule))
	}
	return []*statusv1.Filter{filter}, nil
}

// reserves is the condition that all of the resources are reserved. What a task shows of its resources can be asked for as it is shown:
// among exclusive and shared ones, a prefix tells which is meant.
func reserves(field statusv1.TaskField, h hrefs, names ...string) ([]*statusv1.Filter, error) {
	var either, shared []string
	for _, name := range names {
		bare, prefixed := strings.CutPrefix(name, task.SharedPrefix)
		switch {
		case !prefixed:
			either = append(either, h.resource(name))
		case field == statusv1.TaskField_TASK_FIELD_RESOURCES:
			shared = append(shared, h.resource(bare))
		default:
			return nil, wrong("Must not begin with %q.", task.SharedPrefix)
		}
	}
	var both []*statusv1.Filter
	for _, part := range []struct {
		field statusv1.TaskField
		names []string
	}{{field, either}, {statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES, shared}} {
		if len(part.names) == 0 {
			continue
		}
		one, err := condition(part.field, statusv1.Comparison_COMPARISON_ALL, part.names)
		if err != nil {
			return nil, err
		}
		both = append(both, one...)
	}
	return both, nil
}

// one makes a reader of a single value, each one of values that are separated by commas.
func one(read func(string) (string, error)) func(string) ([]string, error) {
	return func(value string) ([]string, error) {
		text, err := read(value)
		return []string{text}, err
	}
}

func each(read func(string) (string, error)) func(string) ([]string, error) {
	return func(value string) ([]string, error) {
		values := split(value)
		for i := range values {
			var err error
			if values[i], err = read(values[i]); err != nil {
				return nil, err
			}
		}
		return values, nil
	}
}

func asItIs(value string) (string, error) { return value, nil }

func readState(value string) (string, error) {
	if !slices.Contains(task.States(), task.State(value)) {
		return "", noChoice(value)
	}
	return value, nil
}

func noChoice(value string) error {
	return wrong("Select a valid choice. %s is not one of the available choices.", value)
}

// readID also takes a UUID without hyphens, as Django does.
func readID(value string) (string, error) {
	id, err := uuid.Parse(value)
	if err != nil || len(value) != 36 && len(value) != 32 {
		return "", valueError("Enter a valid UUID.")
	}
	return id.String(), nil
}

func readPRN(model string) func(string) (string, error) {
	return func(value string) (string, error) {
		bare, found := strings.CutPrefix(value, prn(model, ""))
		if id, ok := canonicalID(bare); found && ok {
			return id, nil
		}
		return "", wrong("Must be of the form %s.", prn(model, "<uuid>"))
	}
}

// reading reads references to members of a collection.
func (h hrefs) reading(collection, model, what string) func(string) (string, error) {
	return func(value string) (string, error) {
		id, ok := h.id(collection, model, value)
		if !ok {
			return "", wrong("Must be the href or the UUID of %s.", what)
		}
		return id, nil
	}
}

// readCreated takes what can be the name of something created: the rest can only be a mistake.
func readCreated(value string) (string, error) {
	name := path(value)
	switch {
	case strings.HasPrefix(name, "/"):
		return fold(name), nil
	case strings.HasPrefix(name, prnPrefix) && strings.Count(name, ":") >= 2:
		return name, nil
	default:
		return "", wrong("URI not valid: %s", value)
	}
}

func readTruth(value string) (string, error) {
	is, err := truth(value)
	if err != nil {
		return "", valueError("Must be a valid boolean.")
	}
	return strconv.FormatBool(is), nil
}

func readInstant(value string) (string, error) {
	instant, err := parseTime(value)
	if err != nil {
		return "", valueError("Enter a valid date/time.")
	}
	return instant.Format(time.RFC3339Nano), nil
}

func readRange(value string) ([]string, error) {
	ends := split(value)
	if len(ends) != 2 {
		return nil, valueError("Range query expects two values.")
	}
	return each(readInstant)(value)
}

// timeForms are what Django takes and clients send, after a blank in place of the T or of the plus sign has been put right. A fraction of
// up to nine digits is taken wherever there are seconds.
var timeForms = []string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07", "2006-01-02T15:04:05",
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04Z0700", "2006-01-02T15:04Z07", "2006-01-02T15:04", "2006-01-02",
}

// parseTime reads a time of a client; without a zone it is in UTC, as everything that clients are shown.
func parseTime(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	if len(text) > len("2006-01-02") && (text[10] == ' ' || text[10] == 't') {
		text = text[:10] + "T" + text[11:]
	}
	// A plus sign in a URL is a blank to who reads it, and many clients forget to escape it.
	if at := strings.LastIndexByte(text, ' '); at > 0 {
		zone := text[at+1:]
		if zone[0] >= '0' && zone[0] <= '9' {
			zone = "+" + zone
		}
		text = strings.TrimRight(text[:at], " ") + zone
	}
	if strings.HasSuffix(text, "z") {
		text = strings.TrimSuffix(text, "z") + "Z"
	}
	for _, form := range timeForms {
		instant, err := time.Parse(form, text)
		if err != nil {
			continue
		}
		if instant = instant.UTC(); instant.Year() >= 1 && instant.Year() <= 9999 {
			return instant, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time", text)
}

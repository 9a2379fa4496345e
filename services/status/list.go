package status

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

const (
	// listPatience is how long a list may take. The whole history can take minutes to search, and nobody waits for that.
	listPatience = 5 * time.Second
	// countPatience is how long a count may take before it becomes an estimate: people count to see whether there are many.
	countPatience = 250 * time.Millisecond
	// countMost is up to how many are counted.
	countMost = 10_000
	// childrenListed is how many children of each task a list names.
	childrenListed = 100
	// childrenBytes ends a page early: the children of a thousand tasks would fill half a message.
	childrenBytes = 1 << 20
	// pageBytes ends a page early: results can be large, and the answer must fit into one message. The task that comes after it
	// has room in the other half.
	pageBytes = limits.MaxMessage / 2
)

// ListDatabase is the SQL of lists.
type ListDatabase interface {
	List(ctx context.Context, l List) (tasks []*task.Task, more bool, err error)
	Count(ctx context.Context, f *statusv1.Filter) (n int64, estimated bool, err error)
	Children(ctx context.Context, tasks []*task.Task) (children map[string][]string, fit int, err error)
}

// List is what is asked for.
type List struct {
	Filter *statusv1.Filter
	// Order is how the tasks are ordered; what it leaves open, the newest first.
	Order []*statusv1.Order
	// After is the place of the last task of the page before, nil for none. Only with the ordinary order.
	After *Place
	// Size is how many there are at most, Offset how many are left out before them.
	Size, Offset int
	// What is not read of the tasks.
	OmitResults, OmitErrors bool
}

// Place is where a task stands in the ordinary order, the newest first. Tasks that were dispatched together have one time.
type Place struct {
	CreatedAt time.Time
	Seq       int64
}

// token writes a place for whoever asks for the page after it.
func (p Place) token() string {
	return strconv.FormatInt(p.CreatedAt.UnixMicro(), 36) + "." + strconv.FormatInt(p.Seq, 36)
}

// errToken says that a token is none of ours.
var errToken = errors.New("not a page token")

func placeOf(token string) (*Place, error) {
	at, seq, _ := strings.Cut(token, ".")
	micros, err := strconv.ParseInt(at, 36, 64)
	if err != nil {
		return nil, errToken
	}
	p := &Place{CreatedAt: time.UnixMicro(micros).UTC()}
	if p.Seq, err = strconv.ParseInt(seq, 36, 64); err != nil || p.Seq < 1 || p.token() != token {
		return nil, errToken
	}
	// The database knows fewer times than numbers.
	if year := p.CreatedAt.Year(); year < 1 || year > 9999 {
		return nil, errToken
	}
	return p, nil
}

// filterOf is all that a request wants tasks to meet, as one filter.
func filterOf(req *statusv1.ListTasksRequest) *statusv1.Filter {
	var all []*statusv1.Filter
	add := func(field statusv1.TaskField, comparison statusv1.Comparison, values ...string) {
		all = append(all, &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{
			Field: field, Comparison: comparison, Values: values,
		}}})
	}
	if len(req.GetStates()) > 0 {
		var states []string
		for _, state := range req.GetStates() {
			states = append(states, string(wire.FromState(state)))
		}
		add(statusv1.TaskField_TASK_FIELD_STATE, statusv1.Comparison_COMPARISON_IN, states...)
	}
	for _, field := range []struct {
		field statusv1.TaskField
		value string
	}{
		{statusv1.TaskField_TASK_FIELD_NAME, req.GetName()},
		{statusv1.TaskField_TASK_FIELD_CORRELATION_ID, req.GetCorrelationId()},
		{statusv1.TaskField_TASK_FIELD_GROUP_ID, req.GetGroupId()},
		{statusv1.TaskField_TASK_FIELD_PARENT_ID, req.GetParentId()},
	} {
		if field.value != "" {
			add(field.field, statusv1.Comparison_COMPARISON_EQUAL, field.value)
		}
	}
	if len(req.GetResources()) > 0 {
		add(statusv1.TaskField_TASK_FIELD_RESOURCES, statusv1.Comparison_COMPARISON_ALL, req.GetResources()...)
	}
	if req.GetFilter() != nil {
		all = append(all, req.GetFilter())
	}
	return &statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{Filters: all}}}
}

// orderBy translates an order, with what decides where it leaves something open: no two tasks have one number, so pages by offset
// neither repeat nor miss one.
func (b *builder) orderBy(order []*statusv1.Order) string {
	var keys []string
	named := map[statusv1.TaskField]bool{}
	add := func(field statusv1.TaskField, descending bool) {
		if named[field] {
			return
		}
		named[field] = true
		key := sortKey(field)
		if key == "" {
			b.refuse(&statusv1.Condition{Field: field})
			return
		}
		if descending {
			key += " desc"
		}
		keys = append(keys, key)
	}
	for _, key := range order {
		add(key.GetField(), key.GetDescending())
	}
	add(statusv1.TaskField_TASK_FIELD_CREATED_AT, true)
	return strings.Join(append(keys, "task.seq desc"), ", ")
}

// sortKey is what a field is ordered by. What has no order of its own goes by its text.
func sortKey(f statusv1.TaskField) string {
	switch f {
	case statusv1.TaskField_TASK_FIELD_RESOURCES:
		return "(task.exclusive || task.shared)"
	case statusv1.TaskField_TASK_FIELD_ERROR:
		return "task.error::text"
	case statusv1.TaskField_TASK_FIELD_RESULT:
		return "task.result::text"
	case statusv1.TaskField_TASK_FIELD_IMMEDIATE:
		return "task.immediate"
	case statusv1.TaskField_TASK_FIELD_DEFERRED:
		return "task.deferred"
	case statusv1.TaskField_TASK_FIELD_VERSIONS:
		return "task.versions"
	default:
		return column(f)
	}
}

// list answers a request for a page.
func (s *Service) list(ctx context.Context, req *statusv1.ListTasksRequest, l List) (*statusv1.ListTasksResponse, error) {
	tasks, more, err := s.db.List(ctx, l)
	if err != nil {
		return nil, err
	}
	answer := &statusv1.ListTasksResponse{}
	if req.GetIncludeChildren() && len(tasks) > 0 {
		children, fit, err := s.db.Children(ctx, tasks)
		if err != nil {
			return nil, err
		}
		more, tasks = more || fit < len(tasks), tasks[:fit]
		answer.Children = childrenOf(tasks, children)
	}
	if req.GetIncludeReports() && len(tasks) > 0 {
		reports, fit, err := s.db.Reports(ctx, tasks)
		if err != nil {
			return nil, err
		}
		more, tasks = more || fit < len(tasks), tasks[:fit]
		answer.Reports = reportsOf(tasks, reports)
		for id := range answer.GetChildren() {
			if !slices.ContainsFunc(tasks, func(t *task.Task) bool { return t.ID == id }) {
				delete(answer.GetChildren(), id)
			}
		}
	}
	answer.Tasks, answer.More = onWire(tasks), more
	if more && len(l.Order) == 0 {
		last := tasks[len(tasks)-1]
		answer.NextPageToken = Place{last.CreatedAt, last.Seq}.token()
	}
	if req.GetCount() {
		answer.Total, answer.TotalEstimated, err = s.count(ctx, l, len(tasks), more)
	}
	return answer, err
}

// count says how many match, of which a page has shown some. The last page of all tells it without a count.
func (s *Service) count(ctx context.Context, l List, shown int, more bool) (total int64, estimated bool, err error) {
	var seen int64
	if shown > 0 && l.After == nil {
		seen = int64(l.Offset + shown)
	}
	if !more && l.After == nil && (shown > 0 || l.Offset == 0) {
		return seen, false, nil
	}
	if more {
		seen++
	}
	total, estimated, err = s.db.Count(ctx, l.Filter)
	return max(total, seen), estimated, err
}

func childrenOf(tasks []*task.Task, children map[string][]string) map[string]*statusv1.TaskIds {
	out := make(map[string]*statusv1.TaskIds, len(children))
	for _, t := range tasks {
		if ids := children[t.ID]; len(ids) > 0 {
			out[t.ID] = &statusv1.TaskIds{Ids: ids}
		}
	}
	return out
}

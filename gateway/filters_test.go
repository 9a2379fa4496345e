package gateway_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/gateway"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// Short names for native filters.
const (
	equal        = statusv1.Comparison_COMPARISON_EQUAL
	notEqual     = statusv1.Comparison_COMPARISON_NOT_EQUAL
	in           = statusv1.Comparison_COMPARISON_IN
	contains     = statusv1.Comparison_COMPARISON_CONTAINS
	less         = statusv1.Comparison_COMPARISON_LESS
	lessEqual    = statusv1.Comparison_COMPARISON_LESS_EQUAL
	greater      = statusv1.Comparison_COMPARISON_GREATER
	greaterEqual = statusv1.Comparison_COMPARISON_GREATER_EQUAL
	within       = statusv1.Comparison_COMPARISON_RANGE
	isNull       = statusv1.Comparison_COMPARISON_IS_NULL
	everyOf      = statusv1.Comparison_COMPARISON_ALL

	fieldID          = statusv1.TaskField_TASK_FIELD_ID
	fieldName        = statusv1.TaskField_TASK_FIELD_NAME
	fieldState       = statusv1.TaskField_TASK_FIELD_STATE
	fieldCid         = statusv1.TaskField_TASK_FIELD_CORRELATION_ID
	fieldCreated     = statusv1.TaskField_TASK_FIELD_CREATED_AT
	fieldParent      = statusv1.TaskField_TASK_FIELD_PARENT_ID
	fieldChild       = statusv1.TaskField_TASK_FIELD_CHILD_ID
	fieldGroup       = statusv1.TaskField_TASK_FIELD_GROUP_ID
	fieldIncarnation = statusv1.TaskField_TASK_FIELD_INCARNATION
	fieldResources   = statusv1.TaskField_TASK_FIELD_RESOURCES
	fieldExclusive   = statusv1.TaskField_TASK_FIELD_EXCLUSIVE_RESOURCES
	fieldShared      = statusv1.TaskField_TASK_FIELD_SHARED_RESOURCES
	fieldMade        = statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES
)

func is(field statusv1.TaskField, comparison statusv1.Comparison, values ...string) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{Field: field, Comparison: comparison, Values: values}}}
}

func all(filters ...*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{Filters: filters}}}
}

func either(filters ...*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Any{Any: &statusv1.FilterList{Filters: filters}}}
}

func not(filter *statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Not{Not: filter}}
}

const (
	groupHref  = "/pulp/api/v3/task-groups/" + groupID + "/"
	workerHref = "/pulp/api/v3/workers/" + workerID + "/"
	noon       = "2026-11-22T12:00:00Z"
)

// taskFilters has each filter of tasks, by the parameters that ask for it.
func taskFilters() map[string]*statusv1.Filter {
	table := map[string]*statusv1.Filter{
		"name=a b":           is(fieldName, equal, "a b"),
		"name__contains=x,y": is(fieldName, contains, "x,y"),
		"name__in=a,b":       is(fieldName, in, "a", "b"),
		"name__in=a":         is(fieldName, in, "a"),
		"name__ne=a":         is(fieldName, notEqual, "a"),
		"state=skipped":      is(fieldState, equal, "skipped"),
		"state__in=waiting,running,canceling,completed,failed,canceled,skipped": is(fieldState, in, "waiting", "running", "canceling", "completed", "failed", "canceled", "skipped"),
		"state__ne=failed":           is(fieldState, notEqual, "failed"),
		"logging_cid=c":              is(fieldCid, equal, "c"),
		"logging_cid__contains=beef": is(fieldCid, contains, "beef"),

		"pulp_id__in=" + taskID + "," + strings.ReplaceAll(childID, "-", ""):      is(fieldID, in, taskID, childID),
		"prn__in=prn:core.task:" + taskID:                                         is(fieldID, in, taskID),
		"prn__in=prn:core.task:" + taskID + ",prn:core.task:" + childID:           is(fieldID, in, taskID, childID),
		"pulp_href__in=" + taskPath + ",http://example.org" + tasksPath + childID: is(fieldID, in, taskID, childID),

		"task_group=" + groupHref:                                     is(fieldGroup, equal, groupID),
		"task_group=" + groupID:                                       is(fieldGroup, equal, groupID),
		"task_group=prn:core.taskgroup:" + groupID:                    is(fieldGroup, equal, groupID),
		"task_group=https://h/api/galaxy" + groupHref:                 is(fieldGroup, equal, groupID),
		"task_group=/api/automation-hub" + groupHref:                  is(fieldGroup, equal, groupID),
		"parent_task=" + taskPath:                                     is(fieldParent, equal, taskID),
		"parent_task=" + strings.ToUpper(taskID):                      is(fieldParent, equal, taskID),
		"child_tasks=" + tasksPath + childID + "/":                    is(fieldChild, equal, childID),
		"child_tasks=prn:core.task:" + childID:                        is(fieldChild, equal, childID),
		"worker=" + workerHref:                                        is(fieldIncarnation, equal, workerID),
		"worker=" + workerID:                                          is(fieldIncarnation, equal, workerID),
		"worker=prn:core.appstatus:" + workerID:                       is(fieldIncarnation, equal, workerID),
		"worker__in=" + workerHref + ",prn:core.appstatus:" + otherID: is(fieldIncarnation, in, workerID, otherID),
		"worker__isnull=true":                                         is(fieldIncarnation, isNull, "true"),
		"worker__isnull=False":                                        is(fieldIncarnation, isNull, "false"),

		"created_resources=/pulp/api/v3/repositories/1/":                    is(fieldMade, equal, "/pulp/api/v3/repositories/1/"),
		"created_resources=//pulp/api/v3/repositories/1/":                   is(fieldMade, equal, "/pulp/api/v3/repositories/1/"),
		"created_resources=https://example.org/pulp/api/v3/repositories/1/": is(fieldMade, equal, "/pulp/api/v3/repositories/1/"),
		"created_resources=prn:core.publication:3":                          is(fieldMade, equal, "prn:core.publication:3"),

		"reserved_resources=a":                                                    is(fieldResources, everyOf, "a"),
		"reserved_resources=a,b":                                                  is(fieldResources, everyOf, "a,b"),
		"reserved_resources=shared:a":                                             is(fieldShared, everyOf, "a"),
		"reserved_resources__in=a,b":                                              is(fieldResources, everyOf, "a", "b"),
		"reserved_resources__in=a,shared:b":                                       all(is(fieldResources, everyOf, "a"), is(fieldShared, everyOf, "b")),
		"exclusive_resources=a":                                                   is(fieldExclusive, everyOf, "a"),
		"exclusive_resources__in=a,b":                                             is(fieldExclusive, everyOf, "a", "b"),
		"shared_resources=prn:core.domain:1":                                      is(fieldShared, everyOf, "prn:core.domain:1"),
		"shared_resources__in=a,b":                                                is(fieldShared, everyOf, "a", "b"),
		"reserved_resources=" + taskPath:                                          is(fieldResources, everyOf, "prn:core.task:"+taskID),
		"exclusive_resources=" + groupHref:                                        is(fieldExclusive, everyOf, "prn:core.taskgroup:"+groupID),
		"shared_resources__in=/api/galaxy" + workerHref + ",x":                    is(fieldShared, everyOf, "prn:core.appstatus:"+workerID, "x"),
		"reserved_resources=/pulp/api/v3/repositories/file/file/" + otherID + "/": is(fieldResources, everyOf, "/pulp/api/v3/repositories/file/file/"+otherID+"/"),
		"reserved_resources=" + tasksPath + "x/":                                  is(fieldResources, everyOf, tasksPath+"x/"),
	}
	for parameter, field := range map[string]statusv1.TaskField{
		"pulp_created": fieldCreated,
		"unblocked_at": statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT,
		"started_at":   statusv1.TaskField_TASK_FIELD_STARTED_AT,
		"finished_at":  statusv1.TaskField_TASK_FIELD_FINISHED_AT,
	} {
		for lookup, comparison := range map[string]statusv1.Comparison{"": equal, "__lt": less, "__lte": lessEqual, "__gt": greater, "__gte": greaterEqual} {
			table[parameter+lookup+"="+noon] = is(field, comparison, noon)
		}
		table[parameter+"__range="+noon+",2026-11-23"] = is(field, within, noon, "2026-11-23T00:00:00Z")
		table[parameter+"__isnull=true"] = is(field, isNull, "true")
		table[parameter+"__isnull=0"] = is(field, isNull, "false")
	}
	return table
}

// unjudged lets requests pass that the document does not foresee: the gateway takes more forms than it tells clients to send.
func (f *face) unjudged() *face {
	f.handler = f.gateway.Handler()
	return f
}

// escaped makes a query of one parameter, whose value is not escaped yet.
func escaped(parameter string) string {
	name, value, _ := strings.Cut(parameter, "=")
	return "?" + name + "=" + url.QueryEscape(value)
}

func TestEveryFilterBecomesANativeOne(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	for parameter, filter := range taskFilters() {
		f.listed = nil
		if w := f.do(t, "GET", tasksPath+escaped(parameter), ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", parameter, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(filter, f.listed.GetFilter(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", parameter, diff)
		}
		// The same in an expression.
		name, value, _ := strings.Cut(parameter, "=")
		f.listed = nil
		if w := f.do(t, "GET", tasksPath+escaped(`q=`+name+`="`+value+`"`), ""); w.Code != http.StatusOK {
			t.Errorf("q=%s: %d %s", parameter, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(filter, f.listed.GetFilter(), protocmp.Transform()); diff != "" {
			t.Errorf("q=%s: %s", parameter, diff)
		}
	}
}

// Every parameter of ListTasksRequest that is a filter has to be in the table above.
func TestEveryFilterIsInTheTable(t *testing.T) {
	seen := map[string]bool{}
	for parameter := range taskFilters() {
		name, _, _ := strings.Cut(parameter, "=")
		seen[name] = true
	}
	for _, name := range gateway.TaskFilterNames() {
		if !seen[name] {
			t.Errorf("no test asks for %s", name)
		}
	}
	if len(seen) != len(gateway.TaskFilterNames()) {
		t.Errorf("%d filters are tested, and there are %d", len(seen), len(gateway.TaskFilterNames()))
	}
}

func TestEmptyFiltersSelectAll(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	query := []string{"q=", "ordering="}
	for _, name := range gateway.TaskFilterNames() {
		query = append(query, name+"=")
		if strings.HasSuffix(name, "__in") {
			query = append(query, name+"=,")
		}
	}
	if w := f.do(t, "GET", tasksPath+"?"+strings.Join(query, "&"), ""); w.Code != http.StatusOK || f.listed.GetFilter() != nil {
		t.Errorf("%d %s, %v", w.Code, w.Body, f.listed.GetFilter())
	}
}

// Pulp takes these two on lists although its document does not name them.
func TestListsTakeWhatPulpTakesWithoutSayingSo(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	for _, path := range []string{tasksPath, workersPath} {
		if w := f.do(t, "GET", path+"?format=json&page_size=5", ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestRepeatedListsAreOne(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	f.do(t, "GET", tasksPath+"?state__in=waiting&state__in=running,failed&ordering=name&ordering=-state&name=a&name=b", "")
	if diff := cmp.Diff(&statusv1.ListTasksRequest{
		Filter: all(is(fieldState, in, "waiting", "running", "failed"), is(fieldName, equal, "b")),
		Order:  []*statusv1.Order{{Field: fieldName}, {Field: fieldState, Descending: true}},
		Count:  true, PageSize: 100, IncludeReports: true, IncludeChildren: true,
	}, f.listed, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestTimesInAllFormsThatClientsSend(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	for given, instant := range map[string]string{
		"2026-11-22T10:15:54.953684Z":      "2026-11-22T10:15:54.953684Z",
		"2026-11-22T10:15:54Z":             "2026-11-22T10:15:54Z",
		"2026-11-22t10:15:54z":             "2026-11-22T10:15:54Z",
		"2026-11-22 10:15:54":              "2026-11-22T10:15:54Z",
		"2026-11-22T10:15:54.5":            "2026-11-22T10:15:54.5Z",
		"2026-11-22T10:15":                 "2026-11-22T10:15:00Z",
		"2026-11-22":                       "2026-11-22T00:00:00Z",
		" 2026-11-22 ":                     "2026-11-22T00:00:00Z",
		"2026-11-22T10:15:54+02:00":        "2026-11-22T08:15:54Z",
		"2026-11-22T10:15:54 02:00":        "2026-11-22T08:15:54Z", // a plus that was not escaped
		"2026-11-22 10:15:54 02:00":        "2026-11-22T08:15:54Z",
		"2026-11-22 10:15:54 +02:00":       "2026-11-22T08:15:54Z",
		"2026-11-22T10:15:54.000001-0130":  "2026-11-22T11:45:54.000001Z",
		"2026-11-22T10:15:54 -01":          "2026-11-22T11:15:54Z",
		"2026-11-22 10:15 Z":               "2026-11-22T10:15:00Z",
		"0001-01-01":                       "0001-01-01T00:00:00Z",
		"9999-12-31T23:59:59.999999-00:00": "9999-12-31T23:59:59.999999Z",
		"2024-02-29T00:00:00.123456789Z":   "2024-02-29T00:00:00.123456789Z",
	} {
		f.listed = nil
		if w := f.do(t, "GET", tasksPath+escaped("started_at="+given), ""); w.Code != http.StatusOK {
			t.Errorf("%q: %d %s", given, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(is(statusv1.TaskField_TASK_FIELD_STARTED_AT, equal, instant), f.listed.GetFilter(), protocmp.Transform()); diff != "" {
			t.Errorf("%q: %s", given, diff)
		}
	}
	for _, given := range []string{
		"yesterday", "2026-13-01", "2026-02-30", "2026-11-22T25:00:00Z", "22.11.2026", "2026-11-22T", "2026-11-22T10:15:54Zulu", "0000-01-01", "99999-01-01",
		"0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "1795342554", " ", "2026-11-22T10:15:54 ", "2026-11-22 ",
	} {
		w := f.do(t, "GET", tasksPath+escaped("started_at="+given), "")
		if trimmed := strings.TrimSpace(given); trimmed != given && trimmed != "" {
			if w.Code != http.StatusOK {
				t.Errorf("%q: %d %s", given, w.Code, w.Body)
			}
			continue
		}
		want(t, w, 400, `{"started_at":["Enter a valid date/time."]}`)
	}
}

func TestBadValuesOfFilters(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	const noBoolean, noTime, noReference = `["Must be a valid boolean."]`, `["Enter a valid date/time."]`, `["Must be the href or the UUID of a `
	for parameter, answer := range map[string]string{
		"state__ne=nope":                                        `["Select a valid choice. nope is not one of the available choices."]`,
		"state__in=failed,Waiting":                              `["Select a valid choice. Waiting is not one of the available choices."]`,
		"pulp_id__in=" + taskID + ",x":                          `["Enter a valid UUID."]`,
		"pulp_id__in={" + taskID + "}":                          `["Enter a valid UUID."]`,
		"pulp_id__in=urn:uuid:" + taskID:                        `["Enter a valid UUID."]`,
		"prn__in=" + taskID:                                     `["Must be of the form prn:core.task:<uuid>."]`,
		"prn__in=prn:core.domain:" + taskID:                     `["Must be of the form prn:core.task:<uuid>."]`,
		"pulp_href__in=" + groupHref:                            noReference + `task."]`,
		"pulp_href__in=/other" + taskPath:                       noReference + `task."]`,
		"child_tasks=x":                                         noReference + `task."]`,
		"worker=executor-1":                                     noReference + `worker."]`,
		"worker=" + taskPath:                                    noReference + `worker."]`,
		"worker__in=" + workerID + ",x":                         noReference + `worker."]`,
		"worker__isnull=maybe":                                  noBoolean,
		"finished_at__isnull=null":                              noBoolean,
		"pulp_created=soon":                                     noTime,
		"pulp_created__gte=2026":                                noTime,
		"unblocked_at__range=" + noon:                           `["Range query expects two values."]`,
		"unblocked_at__range=" + noon + ",x":                    noTime,
		"unblocked_at__range=" + noon + "," + noon + "," + noon: `["Range query expects two values."]`,
		"created_resources=nonsense":                            `["URI not valid: nonsense"]`,
		"created_resources=prn:x":                               `["URI not valid: prn:x"]`,
		"exclusive_resources=shared:a":                          `["Must not begin with \"shared:\"."]`,
		"shared_resources__in=a,shared:b":                       `["Must not begin with \"shared:\"."]`,
		"name=" + strings.Repeat("n", 1025):                     `["Must be at most 1024 bytes, has 1025."]`,
		"name__in=a," + strings.Repeat("n", 1025):               `["Must be at most 1024 bytes, has 1025."]`,
		"name__in=" + strings.Repeat("a,", 1001):                `["Must have at most 1000 values, has 1001."]`,
		"logging_cid__contains=\x7f":                            `["Must not contain control characters, has U+007F at byte 0."]`,
	} {
		name, value, _ := strings.Cut(parameter, "=")
		want(t, f.do(t, "GET", tasksPath+escaped(parameter), ""), 400, `{"`+name+`":`+answer+`}`)
		told := f.do(t, "GET", tasksPath+escaped(`q=`+name+`="`+value+`"`), "")
		want(t, told, 400, `{"q":["`+name+`: `+strings.TrimPrefix(answer, `["`)+`}`)
	}
	if n.calls > 0 {
		t.Errorf("%d calls reached the services", n.calls)
	}
}

func TestExpressions(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	failed, a, b, c := is(fieldState, equal, "failed"), is(fieldName, equal, "a"), is(fieldName, equal, "b"), is(fieldName, equal, "c")
	for q, filter := range map[string]*statusv1.Filter{
		`state=failed`:                           failed,
		` ( ( state=failed ) ) `:                 failed,
		`state='failed'`:                         failed,
		`NOT state=failed`:                       not(failed),
		`not not state=failed`:                   not(not(failed)),
		`NOT(state=failed)`:                      not(failed),
		`name=a AND name=b`:                      all(a, b),
		`name=a and name=b And name=c`:           all(a, b, c),
		`name=a OR name=b AND name=c`:            either(a, all(b, c)),
		`name=a AND name=b OR name=c`:            either(all(a, b), c),
		`(name=a OR name=b) AND name=c`:          all(either(a, b), c),
		`NOT name=a AND name=b`:                  all(not(a), b),
		`NOT (name=a AND name=b)`:                not(all(a, b)),
		`NOT (name=a OR name=b)AND(name=c)`:      all(not(either(a, b)), c),
		"name=a\tAND\n name=b":                   all(a, b),
		`name="a b"`:                             is(fieldName, equal, "a b"),
		`name="a \"b\" \\ c\d"`:                  is(fieldName, equal, `a "b" \ c\d`),
		`name='it"s'`:                            is(fieldName, equal, `it"s`),
		`name="é ) AND ("`:                       is(fieldName, equal, "é ) AND ("),
		`name=AND AND name=OR`:                   all(is(fieldName, equal, "AND"), is(fieldName, equal, "OR")),
		`name__in=a,b AND state__ne=failed`:      all(is(fieldName, in, "a", "b"), is(fieldState, notEqual, "failed")),
		`pulp_created__gte=` + noon:              is(fieldCreated, greaterEqual, noon),
		`parent_task=` + taskPath + ` OR name=a`: either(is(fieldParent, equal, taskID), a),
		`NOT name=""`:                            not(&statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{}}}),
		`NOT reserved_resources__in=x,shared:y`:  not(all(is(fieldResources, everyOf, "x"), is(fieldShared, everyOf, "y"))),
		// Exactly as complex as it may be: five filters, a NOT, an AND and an OR.
		`NOT name=a AND name=b AND name=c OR name=a OR name=b`: either(all(not(a), b, c), a, b),
	} {
		f.listed = nil
		if w := f.do(t, "GET", tasksPath+escaped("q="+q), ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", q, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(filter, f.listed.GetFilter(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", q, diff)
		}
	}
	f.do(t, "GET", tasksPath+escaped("q=name=a OR name=b")+"&state=failed", "")
	if diff := cmp.Diff(all(failed, either(a, b)), f.listed.GetFilter(), protocmp.Transform()); diff != "" {
		t.Errorf("together with another filter: %s", diff)
	}
}

func TestBadExpressions(t *testing.T) {
	n := &native{}
	f := newFace(t, n, gateway.Config{})
	const syntax, complex = "Syntax error in expression.", "Filter expression exceeds allowed complexity."
	for q, message := range map[string]string{
		" ": syntax, "state": syntax, "state=": syntax, "=failed": syntax, "state=failed AND": syntax, "AND state=failed": syntax,
		"state = failed": syntax, "state= failed": syntax, "(state=failed": syntax, "state=failed)": syntax, "()": syntax, "NOT": syntax, "state=failed name=a": syntax,
		`name="a`: syntax, `name=a"b"`: syntax, "name=a=b": syntax, "1name=a": syntax, "näme=a": syntax, `name="a"b`: syntax, "state=failed && name=a": syntax,
		"state==failed": syntax, "name='": syntax, "_": syntax,
		"nonsense=1": "Filter 'nonsense' does not exist.", "limit=1": "Filter 'limit' does not exist.", "fields=name": "Filter 'fields' does not exist.", "NOT=1": "Filter 'NOT' does not exist.",
		"State=failed": "Filter 'State' does not exist.", "name__regex=a": "Filter 'name__regex' does not exist.",
		"ordering=name": "An ordering filter cannot be used in complex filtering.", "state=failed OR ordering=-name": "An ordering filter cannot be used in complex filtering.",
		"q=a": "You cannot use 'q' in complex filtering.",
		"name=a AND name=b AND name=c AND name=d AND name=e AND name=f AND name=g AND name=h": complex, // eight filters and an AND
		strings.Repeat("NOT ", 8) + "name=a":                                                  complex,
		strings.Repeat("(", 101) + "name=a" + strings.Repeat(")", 101):                        complex,
		strings.Repeat("(", 100_000):                                                          complex,
		strings.Repeat("NOT ", 100_000):                                                       complex,
		"name=a" + strings.Repeat(" OR name=a", 10_000):                                       complex,
	} {
		w := f.do(t, "GET", tasksPath+escaped("q="+q), "")
		if w.Code != 400 || w.Body.String() != fmt.Sprintf(`{"q":["%s"]}`, message) {
			t.Errorf("%.60q: %d %s", q, w.Code, w.Body)
		}
	}
	if n.calls > 0 {
		t.Errorf("%d calls reached the services", n.calls)
	}
}

func TestOrderings(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	key := func(field statusv1.TaskField, descending bool) *statusv1.Order {
		return &statusv1.Order{Field: field, Descending: descending}
	}
	for ordering, order := range map[string][]*statusv1.Order{
		"-pulp_created":                   nil,
		",":                               nil,
		"pulp_created":                    {key(fieldCreated, false)},
		"-pulp_created,name":              {key(fieldCreated, true), key(fieldName, false)},
		"name,-name":                      {key(fieldName, false)},
		"pk":                              {key(fieldID, false)},
		"-pulp_id,name,state":             {key(fieldID, true)},
		"state,-finished_at,started_at":   {key(fieldState, false), key(statusv1.TaskField_TASK_FIELD_FINISHED_AT, true), key(statusv1.TaskField_TASK_FIELD_STARTED_AT, false)},
		"-unblocked_at,pulp_last_updated": {key(statusv1.TaskField_TASK_FIELD_UNBLOCKED_AT, true), key(statusv1.TaskField_TASK_FIELD_UPDATED_AT, false)},
		"-logging_cid,error,result":       {key(fieldCid, true), key(statusv1.TaskField_TASK_FIELD_ERROR, false), key(statusv1.TaskField_TASK_FIELD_RESULT, false)},
		"immediate,-deferred,-versions,reserved_resources_record": {
			key(statusv1.TaskField_TASK_FIELD_IMMEDIATE, false), key(statusv1.TaskField_TASK_FIELD_DEFERRED, true),
			key(statusv1.TaskField_TASK_FIELD_VERSIONS, true), key(fieldResources, false),
		},
		"enc_args,-enc_kwargs,profile_options,pulp_api_version": nil,
		"enc_args, -name": {key(fieldName, true)},
	} {
		f.listed = nil
		if w := f.do(t, "GET", tasksPath+escaped("ordering="+ordering), ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", ordering, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(order, f.listed.GetOrder(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", ordering, diff)
		}
	}
	const most = "state,name,logging_cid,unblocked_at,started_at,finished_at,error,result,immediate"
	want(t, f.do(t, "GET", tasksPath+"?ordering="+most, ""), 400, `{"ordering":["Must have at most 8 names."]}`)
	want(t, f.do(t, "GET", tasksPath+"?ordering=-", ""), 400, `{"ordering":["Select a valid choice. - is not one of the available choices."]}`)
}

// Children are read with the list, unless nobody sees them.
func TestListAsksForChildrenOnlyToShowThem(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	for query, asked := range map[string]bool{
		"": true, "?fields=child_tasks": true, "?fields=state": false, "?minimal=true": false, "?exclude_fields=child_tasks": false, "?exclude_fields=state": true,
	} {
		if w := f.do(t, "GET", tasksPath+query, ""); w.Code != http.StatusOK || f.listed.GetIncludeChildren() != asked {
			t.Errorf("%s: %d, asked %v", query, w.Code, f.listed.GetIncludeChildren())
		}
	}
}

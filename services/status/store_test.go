package status_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func TestNoOrdinaryQuestionSearchesTheHistory(t *testing.T) {
	url := pgtest.URL(t)
	pool, r := pgtest.Record(t, url)
	db := pgtest.Open(t, url)
	group := pgtest.One[string](t, db, `insert into task_group (id, domain_id) values (gen_random_uuid(), '`+task.DefaultDomainID+`') returning id::text`)
	parent := pgtest.One[string](t, db, insertRow, "parent", "completed", "", "", "", nil, nil, "")
	for _, sql := range []string{
		`insert into task (id, domain_id, name, state, created_at, started_at, finished_at, result, correlation_id)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n' || n % 50, 'completed', now() - n * interval '1 minute', now(), now(), '1', 'c' || n
		 from generate_series(20000, 1, -1) n`,
		`insert into task (id, domain_id, name, group_id, parent_id)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', '` + group + `', '` + parent + `' from generate_series(1, 50)`,
		`insert into task_live (seq, task_id) select seq, id from task where state = 'waiting'`,
		`insert into task_log (task_id, claim, text) select id, 1, 'x' from task`,
		`insert into task_report (task_id, claim, created) select id, 1, jsonb_build_array(jsonb_build_object('resource', '/made/' || seq || '/')) from task`,
		`insert into task_attempt (task_id, attempt, claim, executor, started_at, error) select id, 1, 1, 'e1', now(), '{}' from task`,
		`analyze task`, `analyze task_live`, `analyze task_log`, `analyze task_not_completed`, `analyze task_group`, `analyze task_report`, `analyze task_attempt`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	id := pgtest.One[string](t, db, `select id::text from task order by seq limit 1 offset 10000`)
	store := status.NewStore(pool)
	list := func(f *statusv1.Filter, after *status.Place) func() error {
		return func() error {
			_, _, err := store.List(t.Context(), status.List{Filter: f, After: after, Size: 100})
			return err
		}
	}
	middle := &status.Place{CreatedAt: pgtest.One[time.Time](t, db, `select created_at from task where id = $1::text::uuid`, id), Seq: 9000}
	// What is read whole where it is short, and is never long.
	short := []string{"Seq Scan of task_live", "Seq Scan of task_not_completed", "Seq Scan of task_group"}
	r.Take()
	for name, call := range map[string]func() error{
		"get":                 func() error { _, err := store.Get(t.Context(), id); return err },
		"get many":            func() error { _, err := store.GetMany(t.Context(), []string{id, parent, unknownID}); return err },
		"details":             func() error { _, err := store.Details(t.Context(), id); return err },
		"details of a parent": func() error { _, err := store.Details(t.Context(), parent); return err },
		"group":               func() error { _, err := store.Group(t.Context(), group, 10); return err },
		"log":                 func() error { _, err := store.Log(t.Context(), id); return err },
		"put log":             func() error { return store.PutLog(t.Context(), id, 2, status.Log{Text: "x"}) },
		"put report": func() error {
			return store.PutReport(t.Context(), id, status.Report{Claim: 2, Progress: []status.Progress{}, Created: []status.Created{{Resource: "x"}}, Group: []status.GroupPart{}}, nil)
		},
		"reports of a page": func() error {
			tasks, _, err := store.List(t.Context(), status.List{After: middle, Size: 100})
			if err != nil {
				return err
			}
			_, _, err = store.Reports(t.Context(), tasks)
			return err
		},
		"children of a page": func() error {
			tasks, _, err := store.List(t.Context(), status.List{After: middle, Size: 100})
			if err != nil {
				return err
			}
			_, _, err = store.Children(t.Context(), tasks)
			return err
		},
		"first page":                       list(nil, nil),
		"later page":                       list(nil, middle),
		"page of the ended":                list(is(state, "completed"), middle),
		"page of the living":               list(in(state, "waiting", "running"), nil),
		"page of the failed":               list(is(state, "failed"), nil),
		"page of those that ended badly":   list(in(state, "failed", "canceled", "skipped"), middle),
		"page of a state that nothing has": list(is(state, "skipped"), nil),
		"page of a name":                   list(is(name, "rare"), nil),
		"page of some names":               list(in(name, "rare", "rarer"), nil),
		"page of a correlation id":         list(is(correlationID, "c9000"), nil),
		"page of what contains a UUID":     list(compare(correlationID, contains, unknownID), nil),
		"page of a day":                    list(both(compare(createdAt, greaterEqual, "2020-01-01T00:00:00Z"), compare(createdAt, less, "2020-01-02T00:00:00Z")), nil),
		"page of what ended by a day":      list(compare(finishedAt, less, "2020-01-02T00:00:00Z"), nil),
		"page of makers":                   list(is(createdResources, "/made/9000/"), nil),
		"page of a parent of":              list(is(childID, id), nil),
		"page of a group":                  list(is(groupID, group), nil),
		"page of children":                 list(is(parentID, parent), nil),
		"count of the living": func() error {
			_, _, err := store.Count(t.Context(), is(state, "waiting"))
			return err
		},
		"count of a group":    func() error { _, _, err := store.Count(t.Context(), is(groupID, group)); return err },
		"count of the failed": func() error { _, _, err := store.Count(t.Context(), is(state, "failed")); return err },
		"system":              func() error { _, err := store.System(t.Context()); return err },
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sent := slices.DeleteFunc(r.Take(), func(s pgtest.Statement) bool { return strings.HasPrefix(s.SQL, "select set_config") })
		if len(sent) == 0 {
			t.Errorf("%s sent nothing that was recorded", name)
		}
		for _, s := range sent {
			reads := pgtest.Plan(t, db, s)
			t.Logf("%s: %v", name, reads)
			for _, read := range reads {
				if strings.HasPrefix(read, "Seq Scan of task") && !slices.Contains(short, read) {
					t.Errorf("%s: %v", name, reads)
				}
			}
		}
	}
}

// The planner takes a name that it has not counted for as frequent as others, and would go through the whole history for ten old tasks.
func TestTasksOfARareNameAreFoundByItsIndex(t *testing.T) {
	url := pgtest.URL(t)
	pool, r := pgtest.Record(t, url)
	db := pgtest.Open(t, url)
	insert := `insert into task (id, domain_id, name, state, created_at, started_at, finished_at)
		select gen_random_uuid(), '` + task.DefaultDomainID + `', %s, 'completed', now() - %s, now(), now() from generate_series(1, %d) n`
	for _, sql := range []string{
		fmt.Sprintf(insert, `'n' || n % 40`, `n * interval '1 second'`, 30_000),
		`alter table task alter column name set statistics 20`, `analyze task`,
		fmt.Sprintf(insert, `'rare'`, `interval '1 year'`, 10),
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	r.Take()
	tasks, more, err := status.NewStore(pool).List(t.Context(), status.List{Filter: both(is(name, "rare"), is(state, "completed")), Size: 5})
	if err != nil || len(tasks) != 5 || !more {
		t.Fatalf("%d tasks, more %t, %v", len(tasks), more, err)
	}
	for _, s := range r.Take() {
		if strings.HasPrefix(s.SQL, "select set_config") {
			continue
		}
		if reads := fmt.Sprint(pgtest.Plan(t, db, s)); strings.Contains(reads, "task_created") || !strings.Contains(reads, "task_named") {
			t.Errorf("%s\n%s", s.SQL, reads)
		}
	}
}

func TestStatusWhileTheDatabaseIsAway(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	waiting := w.wait(t, id)
	back := pgtest.Away(t, w.url)

	answer, err := w.client.GetSystemStatus(t.Context(), &statusv1.GetSystemStatusRequest{})
	if err != nil || answer.GetDatabaseConnected() || answer.GetSchedulerLeads() || answer.GetVersion() != "v1.2.3" {
		t.Errorf("system status: %v, %v", answer, err)
	}
	// The fetches are repeated by the client, a second each: at the same time.
	var all sync.WaitGroup
	for name, call := range map[string]func() error{
		"get": func() error {
			_, err := w.client.GetTask(t.Context(), &statusv1.GetTaskRequest{TaskId: id})
			return err
		},
		"list": func() error { _, err := w.client.ListTasks(t.Context(), &statusv1.ListTasksRequest{}); return err },
		"wait": func() error {
			_, err := w.client.WaitTasks(t.Context(), &statusv1.WaitTasksRequest{TaskIds: []string{id}})
			return err
		},
		"watch": func() error { _, err := w.watch(t, id).Recv(); return err },
		"log": func() error {
			_, err := w.client.GetTaskLog(t.Context(), &statusv1.GetTaskLogRequest{TaskId: id})
			return err
		},
		"put log": func() error {
			_, err := w.client.PutTaskLog(t.Context(), &statusv1.PutTaskLogRequest{TaskId: id, Claim: 1})
			return err
		},
		"put report": func() error {
			_, err := w.client.PutTaskReport(t.Context(), &statusv1.PutTaskReportRequest{TaskId: id, Claim: 1})
			return err
		},
		"stats": func() error { _, err := w.client.GetStats(t.Context(), &statusv1.GetStatsRequest{}); return err },
		"group": func() error {
			_, err := w.client.GetTaskGroup(t.Context(), &statusv1.GetTaskGroupRequest{GroupId: id})
			return err
		},
	} {
		all.Go(func() {
			if err := call(); !errs.Is(err, errs.DatabaseAway) || err.Error() != "the database can't be reached" {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	back()
	if answer, err := w.client.GetSystemStatus(t.Context(), &statusv1.GetSystemStatusRequest{}); err != nil || !answer.GetDatabaseConnected() {
		t.Errorf("when it is back: %v, %v", answer, err)
	}
	// Who waited through all this and was not woken gets its answer.
	w.finish(t, id)
	w.leader.changes <- id
	waiting.returns(t, id)
}

package status_test

import (
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
		`insert into task (id, domain_id, name, state, started_at, finished_at, result)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', 'completed', now(), now(), '1' from generate_series(1, 20000)`,
		`insert into task (id, domain_id, name, group_id, parent_id)
		 select gen_random_uuid(), '` + task.DefaultDomainID + `', 'n', '` + group + `', '` + parent + `' from generate_series(1, 50)`,
		`insert into task_live (seq, task_id) select seq, id from task where state = 'waiting'`,
		`insert into task_log (task_id, claim, text) select id, 1, 'x' from task`,
		`insert into task_report (task_id, claim, created) select id, 1, '[{"resource": "y"}]' from task`,
		`insert into task_attempt (task_id, attempt, claim, executor, started_at, error) select id, 1, 1, 'e1', now(), '{}' from task`,
		`analyze task`, `analyze task_live`, `analyze task_log`, `analyze task_group`, `analyze task_report`, `analyze task_attempt`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	id := pgtest.One[string](t, db, `select id::text from task order by seq limit 1 offset 10000`)
	store := status.NewStore(pool)
	list := func(f status.Filter, before int64) func() error {
		return func() error { _, _, err := store.List(t.Context(), f, before, 100, 0); return err }
	}
	r.Take()
	for name, call := range map[string]func() error{
		"get":                 func() error { _, err := store.Get(t.Context(), id); return err },
		"get many":            func() error { _, err := store.GetMany(t.Context(), []string{id, parent, unknownID}); return err },
		"details":             func() error { _, err := store.Details(t.Context(), id); return err },
		"details of a parent": func() error { _, err := store.Details(t.Context(), parent); return err },
		"group":               func() error { _, err := store.Group(t.Context(), group); return err },
		"log":                 func() error { _, err := store.Log(t.Context(), id); return err },
		"put log":             func() error { return store.PutLog(t.Context(), id, 2, status.Log{Text: "x"}) },
		"put report": func() error {
			return store.PutReport(t.Context(), id, status.Report{Claim: 2, Progress: []status.Progress{}, Created: []status.Created{{Resource: "x"}}}, nil)
		},
		"reports of a page": func() error {
			tasks, _, err := store.List(t.Context(), status.Filter{}, 9000, 100, 0)
			if err != nil {
				return err
			}
			_, _, err = store.Reports(t.Context(), tasks)
			return err
		},
		"first page":         list(status.Filter{}, 0),
		"later page":         list(status.Filter{}, 9000),
		"page of the ended":  list(status.Filter{States: []string{"completed"}}, 9000),
		"page of the living": list(status.Filter{States: []string{"waiting", "running"}}, 0),
		"page of a group":    list(status.Filter{GroupID: group}, 0),
		"page of children":   list(status.Filter{ParentID: parent}, 0),
		"count of the living": func() error {
			_, err := store.Count(t.Context(), status.Filter{States: []string{"waiting"}})
			return err
		},
		"count of a group": func() error { _, err := store.Count(t.Context(), status.Filter{GroupID: group}); return err },
		"system":           func() error { _, err := store.System(t.Context()); return err },
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sent := r.Take()
		if len(sent) == 0 {
			t.Errorf("%s sent nothing that was recorded", name)
		}
		for _, s := range sent {
			reads := pgtest.Plan(t, db, s)
			t.Logf("%s: %v", name, reads)
			for _, read := range reads {
				if strings.HasPrefix(read, "Seq Scan of task") && read != "Seq Scan of task_live" && read != "Seq Scan of task_group" {
					t.Errorf("%s: %v", name, reads)
				}
			}
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

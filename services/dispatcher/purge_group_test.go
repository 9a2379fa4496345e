package dispatcher_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// group makes a group that is so many hours old.
func (w *world) group(t *testing.T, hours int) string {
	t.Helper()
	answer, err := w.client.CreateTaskGroup(t.Context(), &dispatcherv1.CreateTaskGroupRequest{Description: "d"})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Must(t, w, 1, `update task_group set created_at = now() - $2::integer * interval '1 h' where id = $1::text::uuid`, answer.GetGroupId(), hours)
	return answer.GetGroupId()
}

func (w *world) groups(t *testing.T) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `select coalesce(array_agg(id::text order by id), '{}') from task_group`)
}

// purgeBoth purges what is so many hours old, a page at a time, and returns how many tasks and groups were removed in how many calls.
func (w *world) purgeBoth(t *testing.T, hours, page int) (tasks, groups int64, calls int) {
	t.Helper()
	request := &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.New(time.Now().Add(-time.Duration(hours) * time.Hour)), PageSize: int32(page)}
	for calls = 1; ; calls++ {
		answer, err := w.client.PurgeTasks(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range answer.GetDeleted() {
			tasks += n.GetCount()
		}
		groups += answer.GetDeletedGroups()
		if request.PageToken = answer.GetNextPageToken(); request.GetPageToken() == "" {
			return tasks, groups, calls
		}
	}
}

func TestPurgeRemovesOldGroupsWithoutMembers(t *testing.T) {
	for _, page := range []int{1, 2, 3, 0} {
		t.Run(fmt.Sprint("pages of ", page), func(t *testing.T) {
			w := newWorld(t, &leader{})
			member := func(group string, state task.State, hours int) {
				t.Helper()
				id := w.aged(t, state, hours, hours)
				pgtest.Must(t, w, 1, `update task set group_id = $2::text::uuid where id = $1::text::uuid`, id, group)
			}
			w.group(t, 100) // nobody ever joined
			emptied := w.group(t, 90)
			member(emptied, task.Completed, 80)
			member(emptied, task.Failed, 80)
			live := w.group(t, 90)
			member(live, task.Waiting, 85)
			member(live, task.Completed, 80)
			lately := w.group(t, 90)
			member(lately, task.Completed, 10)
			w.group(t, 60)
			young := w.group(t, 5)
			tasks, groups, calls := w.purgeBoth(t, 50, page)
			if tasks != 3 || groups != 3 {
				t.Errorf("%d tasks and %d groups were removed", tasks, groups)
			}
			if diff := cmp.Diff([]string{live, lately, young}, w.groups(t)); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
			if page == 0 && calls != 1 {
				t.Errorf("%d calls for what fits into one", calls)
			}
			if tasks, groups, _ := w.purgeBoth(t, 50, page); tasks != 0 || groups != 0 {
				t.Errorf("the second time %d tasks and %d groups were removed", tasks, groups)
			}
		})
	}
}

// Who is about to join has the group's row. It is not waited for, and the group stays.
func TestPurgePassesOverAGroupThatATaskIsAboutToJoin(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Config{})
	group := w.group(t, 100)
	joins := pgtest.Begin(t, pgtest.Open(t, url))
	pgtest.Must(t, joins, 1, `insert into task (id, domain_id, name, group_id) values (gen_random_uuid(), gen_random_uuid(), 't', $1::text::uuid)`, group)
	if _, groups, _ := w.purgeBoth(t, 50, 0); groups != 0 {
		t.Fatal("the group was removed")
	}
	joins.Commit(t)
	if _, groups, _ := w.purgeBoth(t, 50, 0); groups != 0 || len(w.groups(t)) != 1 {
		t.Error("the group was removed, and it has a member")
	}
}

// Who comes when the group is being removed waits, and hears that there is none.
func TestATaskThatJoinsAGroupWhileItIsPurgedIsRefused(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Config{})
	group := w.group(t, 100)
	purges := pgtest.Begin(t, pgtest.Open(t, url))
	if n := pgtest.One[int64](t, purges, `select deleted from dispatcher_purge_groups(now(), '00000000-0000-0000-0000-000000000000', 10)`); n != 1 {
		t.Fatalf("%d were removed", n)
	}
	refused := make(chan error, 1)
	go func() {
		_, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: &taskv1.TaskSpec{Name: "t", GroupId: group}})
		refused <- err
	}()
	probe.Eventually(t, "the dispatch waits", func() bool {
		return pgtest.One[int](t, w, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) > 0
	})
	purges.Commit(t)
	if err := <-refused; !errs.Is(err, errs.InvalidInput) {
		t.Errorf("got %v", err)
	}
	if n := pgtest.One[int](t, w, `select count(*) from task`); n != 0 {
		t.Errorf("%d tasks", n)
	}
}

func TestPurgeOfGroupsKnowsItsOwnTokens(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, token := range []string{"group:", "group:x", "group:-1", "groups", "-1", "x"} {
		_, err := w.client.PurgeTasks(t.Context(), &dispatcherv1.PurgeTasksRequest{FinishedBefore: timestamppb.Now(), PageToken: token})
		if !errs.Is(err, errs.InvalidInput) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

func TestPurgeOfGroupsSearchesNoTable(t *testing.T) {
	db := pgtest.New(t)
	fill(t, db)
	pgtest.Must(t, db, 5000, `
		insert into task_group (id, domain_id, created_at) select gen_random_uuid(), $1::text::uuid, now() - interval '1 h' from generate_series(1, 5000)`, task.DefaultDomainID)
	tx := pgtest.Begin(t, db)
	defer tx.Rollback(t)
	const scans = `select sum(pg_stat_get_xact_numscans(name::regclass)) from unnest(array['task', 'task_group', 'task_group_progress']) name`
	before := pgtest.One[int](t, tx, scans)
	if n := pgtest.One[int](t, tx, `select deleted from dispatcher_purge_groups(now(), '00000000-0000-0000-0000-000000000000', 100)`); n != 100 {
		t.Errorf("%d were removed", n)
	}
	if n := pgtest.One[int](t, tx, scans) - before; n != 0 {
		t.Errorf("tables were searched %d times", n)
	}
}

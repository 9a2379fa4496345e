package scheduler_test

import (
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// Schedulers come and go, in order and by losing their lease, while schedules become due one after the other: each is dispatched
// once, and its task is given to an executor without anybody hinting at it.
func TestSchedulesAreDispatchedOnceWhileSchedulersTakeOver(t *testing.T) {
	db := pgtest.New(t)
	url := db.Config().ConnString()
	const schedules = 60
	pgtest.Must(t, db, schedules, `
		insert into task_schedule (id, domain_id, name, task_name, next_dispatch)
		select gen_random_uuid(), gen_random_uuid(), n, 't', now() + n * interval '50 ms' from generate_series(1, $1) n`, schedules)
	left := func() int {
		return pgtest.One[int](t, db, `select count(*) from task_schedule where next_dispatch is not null`)
	}
	one := start(t, url, config())
	one.awaitLeading(t)
	start(t, url, config())
	probe.Eventually(t, "a quarter is dispatched", func() bool { return left() < schedules*3/4 })
	one.stop() // it yields
	probe.Eventually(t, "half is dispatched", func() bool { return left() < schedules/2 })
	// Somebody takes the lease from the one that leads now, and is gone at once.
	pgtest.Must(t, db, 1, `update lease set epoch = epoch + 1, expires_at = now()`)
	probe.Eventually(t, "all are dispatched", func() bool { return left() == 0 })
	if n := pgtest.One[int](t, db, `select count(*) from task`); n != schedules {
		t.Errorf("%d tasks for %d schedules", n, schedules)
	}
	if n := pgtest.One[int](t, db, `select count(*) from task_schedule s join task t on t.id = s.last_task_id`); n != schedules {
		t.Errorf("%d schedules have a task", n)
	}
}

func TestAScheduledTaskRunsWithoutAnyHint(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	pgtest.Must(t, db, 1, `
		insert into task_schedule (id, domain_id, name, task_name, kwargs, next_dispatch, dispatch_interval)
		values (gen_random_uuid(), gen_random_uuid(), 'n', 't', '{"a":1}', now(), '100 ms')`)
	for range 3 {
		var id string
		probe.Eventually(t, "it is dispatched", func() bool {
			id = pgtest.One[string](t, db, `select coalesce(max(task_id::text), '') from task_live`)
			return id != ""
		})
		a := x.assigned(id)
		if a.GetKwargsJson() != `{"a":1}` {
			t.Errorf("its arguments are %s", a.GetKwargsJson())
		}
		x.finish(a, completed("null"))
		x.next("finished")
		awaitState(t, db, id, "completed")
	}
}

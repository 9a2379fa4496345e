package scheduler_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// twice is the options of a task with two attempts and a short pause.
const twice = `{"retry": {"attempts": 2, "backoff_ms": 50, "max_backoff_ms": 50}}`

func failed(code string) *taskv1.Outcome {
	return &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: "broken", Code: code}}
}

// claimed stores tasks and gives them all to one executor.
func claimed(t *testing.T, db *pgxpool.Pool, store *scheduler.Store, epoch int64, n int) (seqs []int64) {
	t.Helper()
	seqs = waiting(t, db, n)
	plan, life := &scheduler.Plan{}, uuid.NewString()
	for _, seq := range seqs {
		plan.Claim = append(plan.Claim, scheduler.Give{Seq: seq, Executor: "x", Incarnation: life})
	}
	if report, err := store.Tick(t.Context(), epoch, plan); err != nil || len(report.Claimed) != n {
		t.Fatalf("claim %d tasks: %v", n, err)
	}
	return seqs
}

func again(seq, claim int64) scheduler.Again {
	return scheduler.Again{Seq: seq, Claim: claim, Pause: (4 * time.Second).Microseconds(), Error: &task.Error{Description: "broken", Code: "A"}}
}

func TestRetryPutsBackAndRecordsWhatItMayAndNothingElse(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Hour)
	epoch := take(t, store, "x").Epoch
	seqs := claimed(t, db, store, epoch, 6)
	const runs, runsToo, canceling, otherClaim, final, waits = 0, 1, 2, 3, 4, 5
	ids := make([]string, len(seqs))
	before := make([]row, len(seqs))
	for i, seq := range seqs {
		ids[i] = pgtest.One[string](t, db, `select id::text from task where seq = $1`, seq)
	}
	cancelRow(t, db, ids[canceling])
	_, err := store.Tick(t.Context(), epoch, &scheduler.Plan{
		Finish:  []scheduler.End{{Seq: seqs[final], Claim: 1, State: task.Completed}},
		Requeue: []scheduler.Back{{Seq: seqs[waits], Claim: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		before[i] = read(t, db, id)
	}

	plan := &scheduler.Plan{Retry: []scheduler.Again{
		again(seqs[runs], 1), again(seqs[canceling], 1), again(seqs[otherClaim], 2), again(seqs[final], 1), again(seqs[waits], 1), again(seqs[runsToo], 1),
	}}
	plan.Retry[5].Pause, plan.Retry[5].Error = 0, &task.Error{Reason: task.ReasonWorkerMissing, Code: task.CodeMissing}
	report, err := store.Tick(t.Context(), epoch, plan)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]task.State{seqs[runs]: task.Waiting, seqs[runsToo]: task.Waiting, seqs[canceling]: task.Canceled}
	if diff := cmp.Diff(want, report.Retried); diff != "" {
		t.Errorf("changed: -want +got\n%s", diff)
	}
	for _, i := range []int{otherClaim, final, waits} {
		if diff := cmp.Diff(before[i], read(t, db, ids[i]), cmp.AllowUnexported(row{})); diff != "" {
			t.Errorf("task %d: -before +after\n%s", i, diff)
		}
	}
	for _, i := range []int{runs, runsToo} {
		// It is as it was before its start, but for what counts its attempts, and keeps the time from which on it had its resources.
		was := before[i]
		was.state, was.executor, was.started = "waiting", "", nil
		if diff := cmp.Diff(was, read(t, db, ids[i]), cmp.AllowUnexported(row{})); diff != "" {
			t.Errorf("task %d: -want +got\n%s", i, diff)
		}
	}
	if was, now := before[canceling], read(t, db, ids[canceling]); now.state != "canceled" || now.executor != "x" || !now.started.Equal(*was.started) ||
		now.ended == nil || now.attempt != 1 || !strings.Contains(now.errorText, task.ReasonCanceled) {
		t.Errorf("the one that was to be canceled: %+v", now)
	}

	pauses := pgtest.One[[]time.Duration](t, db, `select array_agg(retry_at - updated_at order by seq) from task where retry_at is not null`)
	if wanted := []time.Duration{4 * time.Second, 0}; !slices.Equal(pauses, wanted) {
		t.Errorf("pauses: %v, want %v", pauses, wanted)
	}
	attempts := pgtest.One[[]string](t, db, `
		select array_agg(concat_ws(' ', t.seq, a.attempt, a.claim, a.executor, a.started_at = any ($1::timestamptz[]), a.ended_at = t.updated_at, a.error) order by t.seq)
		from task_attempt a join task t on t.id = a.task_id`, []time.Time{*before[runs].started})
	wanted := []string{
		fmt.Sprintf(`%d 1 1 x t t {"description":"broken","code":"A"}`, seqs[runs]),
		fmt.Sprintf(`%d 1 1 x t t {"reason":"Worker has gone missing.","code":"WORKER_MISSING"}`, seqs[runsToo]),
	}
	if diff := cmp.Diff(wanted, attempts); diff != "" {
		t.Errorf("recorded: -want +got\n%s", diff)
	}
	live := pgtest.One[[]int64](t, db, `select array_agg(seq order by seq) from task_live`)
	if want := []int64{seqs[runs], seqs[runsToo], seqs[otherClaim], seqs[waits]}; !slices.Equal(live, want) {
		t.Errorf("live: %v, want %v", live, want)
	}
}

// A task that is tried again is loaded among the holders, with all that the next leader has to know.
func TestARestIsLoadedInFrontOfWhatWaits(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Hour)
	epoch := take(t, store, "x").Epoch
	_, low := insert(t, db, spec{})
	id, seq := insert(t, db, spec{options: twice})
	for _, plan := range []*scheduler.Plan{
		{Claim: []scheduler.Give{{Seq: seq, Executor: "x", Incarnation: uuid.NewString()}}},
		{Retry: []scheduler.Again{again(seq, 1)}},
	} {
		if _, err := store.Tick(t.Context(), epoch, plan); err != nil {
			t.Fatal(err)
		}
	}
	var rows []scheduler.Row
	if _, err := store.Load(t.Context(), epoch, func(r scheduler.Row) { rows = append(rows, r) }); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[1].Seq != low {
		t.Fatalf("loaded: %+v", rows)
	}
	policy := &task.Retry{Attempts: 2, Backoff: 50 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}
	at := pgtest.One[time.Time](t, db, `select retry_at from task where id = $1::text::uuid`, id)
	if r := rows[0]; !r.Unblocked || r.State != task.Waiting || r.Attempt != 1 || r.Claim != 1 || r.RetryAt == nil || !r.RetryAt.Equal(at) || !cmp.Equal(r.Retry, policy) {
		t.Errorf("loaded: %+v, want it to rest until %s", r, at)
	}
	if rows[1].Retry != nil || rows[1].RetryAt != nil {
		t.Errorf("the other: %+v", rows[1])
	}
}

// The two meet in the row. Who comes second waits for the first, and goes on with what that left.
func TestACancelAndARetryMeetInTheRow(t *testing.T) {
	t.Run("the cancel comes first", func(t *testing.T) {
		db := pgtest.New(t)
		store := scheduler.NewStore(pgtest.Open(t, db.Config().ConnString()), time.Hour)
		epoch := take(t, store, "x").Epoch
		seq := claimed(t, db, store, epoch, 1)[0]
		id := pgtest.One[string](t, db, `select id::text from task`)
		cancel := pgtest.Begin(t, db)
		cancelRow(t, cancel, id)
		type answer struct {
			report *scheduler.Report
			err    error
		}
		ended := make(chan answer, 1)
		go func() {
			report, err := store.Tick(context.WithoutCancel(t.Context()), epoch, &scheduler.Plan{Retry: []scheduler.Again{again(seq, 1)}})
			ended <- answer{report, err}
		}()
		awaitBlocked(t, db)
		cancel.Commit(t)
		got := <-ended
		if got.err != nil || got.report.Retried[seq] != task.Canceled {
			t.Fatalf("retry: %+v", got)
		}
		end := read(t, db, id)
		if end.state != "canceled" || end.executor != "x" || end.started == nil || end.ended == nil {
			t.Errorf("afterwards: %+v", end)
		}
		if n := pgtest.One[int](t, db, `select (select count(*) from task_attempt) + (select count(*) from task_live)`); n != 0 {
			t.Errorf("%d rows are left of what is over", n)
		}
	})

	t.Run("the retry comes first", func(t *testing.T) {
		db := pgtest.New(t)
		store := scheduler.NewStore(db, time.Hour)
		epoch := take(t, store, "x").Epoch
		seq := claimed(t, db, store, epoch, 1)[0]
		id := pgtest.One[string](t, db, `select id::text from task`)
		// The tick waits at its last statement, with the row changed, for whoever has locked this.
		pgtest.Must(t, db, 1, `insert into task_cancel (seq, task_id) values ($1, gen_random_uuid())`, seq+1)
		lock := pgtest.Begin(t, db)
		pgtest.Must(t, lock, 1, `select from task_cancel where seq = $1 for update`, seq+1)
		ticked := make(chan error, 1)
		go func() {
			_, err := store.Tick(context.WithoutCancel(t.Context()), epoch, &scheduler.Plan{Retry: []scheduler.Again{again(seq, 1)}, ForgetCancels: []int64{seq + 1}})
			ticked <- err
		}()
		awaitBlocked(t, db)
		canceled := make(chan struct{})
		go func() {
			defer close(canceled)
			cancelRow(t, db, id)
		}()
		probe.Eventually(t, "both wait", func() bool { return blockedSessions(t, db) == 2 })
		lock.Rollback(t)
		if err := <-ticked; err != nil {
			t.Fatal(err)
		}
		<-canceled
		if end := read(t, db, id); end.state != "canceled" || end.started != nil || end.attempt != 1 {
			t.Errorf("afterwards: %+v", end)
		}
		if n := pgtest.One[int](t, db, `select count(*) from task_attempt where executor = 'x'`); n != 1 {
			t.Errorf("%d attempts are recorded", n)
		}
	})
}

func blockedSessions(t *testing.T, db *pgxpool.Pool) int {
	t.Helper()
	return pgtest.One[int](t, db, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
}

func awaitBlocked(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	probe.Eventually(t, "one waits for the other", func() bool { return blockedSessions(t, db) > 0 })
}

func TestAFailedTaskIsTriedAgainAndItsAttemptsAreSeen(t *testing.T) {
	r, db := alone(t) // no look comes to its help
	x := join(t, r, db, "x", 2)
	stream, err := r.client.Follow(t.Context(), &schedulerv1.FollowRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || len(first.GetChanges()) != 0 {
		t.Fatalf("first message: %v, %v", first, err)
	}
	id, _ := insert(t, db, spec{exclusive: []string{"a"}, options: twice})
	behind, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.offer(t)
	first := x.assigned(id)
	if first.GetMaxAttempts() != 2 || first.GetAttempt() != 1 {
		t.Errorf("the first attempt: %v", first)
	}
	x.finish(first, failed("A"))
	x.next("finished")
	second := x.assigned(id) // and not the one behind it
	if second.GetAttempt() != 2 || second.GetClaim() != 2 {
		t.Errorf("the second attempt: %v", second)
	}
	if early := pgtest.One[bool](t, db, `select started_at < retry_at from task where id = $1::text::uuid`, id); early {
		t.Error("it began before its time")
	}
	x.finish(second, failed("B"))
	x.next("finished")
	x.assigned(behind)
	if end := read(t, db, id); end.state != "failed" || end.attempt != 2 || !strings.Contains(end.errorText, `"B"`) {
		t.Errorf("afterwards: %+v", end)
	}
	if kept := pgtest.One[string](t, db, `select string_agg(attempt || ' ' || executor || ' ' || (error->>'code'), ', ') from task_attempt`); kept != "1 x A" {
		t.Errorf("recorded: %s", kept)
	}
	var heard []taskv1.State
	for !slices.Contains(heard, taskv1.State_STATE_FAILED) {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range m.GetChanges() {
			if c.GetTaskId() == id {
				heard = append(heard, c.GetState())
			}
		}
	}
	if want := []taskv1.State{taskv1.State_STATE_RUNNING, taskv1.State_STATE_WAITING, taskv1.State_STATE_RUNNING, taskv1.State_STATE_FAILED}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

// Offered, it is not read before its first claim: the policy must come with the offer.
func TestAPolicyComesWithTheOffer(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 2)
	r.awaitQuiet(t, db, x)
	id, _ := insert(t, db, spec{options: twice})
	word := offered(t, db, id)
	word.Retry = &taskv1.RetryPolicy{MaxAttempts: 2}
	r.tell(t, []*schedulerv1.OfferedTask{word})
	x.finish(x.assigned(id), failed("A"))
	x.next("finished")
	if now := read(t, db, id); now.state != "waiting" {
		t.Errorf("it is %s", now.state)
	}
}

func TestABurstEndsWhenNothingIsLeft(t *testing.T) {
	r, db := alone(t)
	id, _ := insert(t, db, spec{options: twice}) // and nobody tells
	x := connect(t, r, "x", register(t, db, "x"), &schedulerv1.Hello{Slots: 1, Burst: true})
	x.next("welcome")
	x.finish(x.assigned(id), failed("A"))
	x.next("finished")
	x.finish(x.assigned(id), completed("null"))
	x.next("finished")
	x.next("nothing left")
}

package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

func (r *running) explain(t *testing.T, id string) *schedulerv1.ExplainResponse {
	t.Helper()
	answer, err := r.client.Explain(t.Context(), &schedulerv1.ExplainRequest{TaskId: id})
	if err != nil {
		t.Fatalf("explain %s: %v", id, err)
	}
	return answer
}

func TestExplainSaysHowARunIsAndHowItEnded(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{options: twice})
	r.offer(t)
	a := x.assigned(id)
	// As the services store it: when its executor was last heard of, and how far the run is. What a run before it told does not count.
	pgtest.Must(t, db, 1, `update app set last_beat_at = '2026-01-02 03:04:05Z' where name = 'x'`)
	pgtest.Must(t, db, 1, `
		insert into task_report (task_id, claim, progress, updated_at)
		values ($1::text::uuid, $2, '[{"code":"sync","message":"Syncing","total":50,"done":12,"suffix":"files"}]', '2026-01-02 03:04:06Z')`, id, a.GetClaim()-1)
	e := r.explain(t, id)
	if e.GetState() != taskv1.State_STATE_RUNNING || !e.GetLive() || e.GetExecutor() != "x" || e.GetAttempt() != 1 || e.GetName() != "t" ||
		!strings.HasPrefix(e.GetSummary(), "It runs on x and has for ") {
		t.Errorf("while it runs: %v", e)
	}
	if len(e.GetProgress()) != 0 || e.GetProgressAt() != nil {
		t.Errorf("the progress is of another run: %v", e)
	}
	pgtest.Must(t, db, 1, `update task_report set claim = $2 where task_id = $1::text::uuid`, id, a.GetClaim())
	e = r.explain(t, id)
	now := read(t, db, id)
	for what, times := range map[string][2]time.Time{
		"started": {e.GetStartedAt().AsTime(), *now.started}, "unblocked": {e.GetUnblockedAt().AsTime(), *now.unblocked},
		"beat":     {e.GetLastBeatAt().AsTime(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		"progress": {e.GetProgressAt().AsTime(), time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)},
	} {
		if !times[0].Equal(times[1]) {
			t.Errorf("%s at %v, want %v", what, times[0], times[1])
		}
	}
	if p := e.GetProgress(); len(p) != 1 || p[0].GetDone() != 12 || p[0].GetTotal() != 50 || p[0].GetState() != taskv1.State_STATE_RUNNING || p[0].GetMessage() != "Syncing" {
		t.Errorf("progress: %v", p)
	}

	x.finish(a, &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: "no space left\non the disk", Code: "DISK"}})
	x.next("finished")
	a = x.assigned(id)
	x.finish(a, &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: "no space left\non the disk", Code: "DISK"}})
	x.next("finished")
	e = r.explain(t, id)
	if e.GetLive() || e.GetState() != taskv1.State_STATE_FAILED || e.GetFinishedAt() == nil || e.GetLastBeatAt() != nil || e.GetExecutor() != "x" ||
		!strings.HasPrefix(e.GetSummary(), "It failed after ") || !strings.HasSuffix(e.GetSummary(), "; that was attempt 2: no space left.") {
		t.Errorf("at the end: %v", e)
	}
}

func TestExplainKnowsWhatTheLeaderDoesNot(t *testing.T) {
	r, db := alone(t)
	if _, err := r.client.Explain(t.Context(), &schedulerv1.ExplainRequest{TaskId: uuid.NewString()}); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("of no task: %v", err)
	}
	unseen, _ := insert(t, db, spec{}) // it will not look for an hour
	if e := r.explain(t, unseen); e.GetLive() || e.GetState() != taskv1.State_STATE_WAITING || e.GetSummary() != "It was dispatched, and the scheduler has not seen it yet." {
		t.Errorf("of one that it has not seen: %v", e)
	}
	r.offer(t)
	probe.Eventually(t, "it is seen", func() bool { return r.explain(t, unseen).GetLive() })
	cancelRow(t, db, unseen)
	r.offer(t)
	probe.Eventually(t, "it is over", func() bool {
		return strings.HasPrefix(r.explain(t, unseen).GetSummary(), "It was canceled after it had waited for ")
	})
}

func TestTheLoadIsWhatTheLastLookCounted(t *testing.T) {
	r, db := pair(t)
	x := join(t, r, db, "x", 1)
	holder, _ := insert(t, db, spec{exclusive: []string{"a"}})
	insert(t, db, spec{exclusive: []string{"a"}})
	insert(t, db, spec{})
	a := x.assigned(holder)
	probe.Eventually(t, "all is counted", func() bool {
		load, err := r.client.GetLoad(t.Context(), &schedulerv1.GetLoadRequest{})
		return err == nil && load.GetBlocked() == 1 && load.GetReady() == 1 && load.GetGiven() == 1 && load.GetRunnable() == 2 &&
			load.GetSlots() == 1 && load.GetFreeSlots() == 0 && load.GetExecutors() == 1 &&
			load.GetLongestBlocked().AsDuration() > 0 && load.GetLongestReady().AsDuration() > 0
	})
	x.finish(a, completed("null"))
}

// pair is a scheduler that leads and looks often, and its database.
func pair(t *testing.T) (*running, *pgxpool.Pool) {
	t.Helper()
	db := pgtest.New(t)
	r := start(t, db.Config().ConnString(), config())
	r.awaitLeading(t)
	return r, db
}

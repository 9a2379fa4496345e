package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
)

// What is broken here beside what stands in faults_test.go.
var (
	cancels = faults.Committing("insert into task_cancel")
	retries = faults.Committing("scheduler_retry(")
)

// race is a system in which everything can be held on its way: what the scheduler and the dispatcher tell the database and hear
// from it, and what the executor and the scheduler tell each other.
type race struct {
	*system
	db         postgres.Querier
	scheduler  *faults.Proxy
	dispatcher *faults.Proxy
	wire       *wire.Wire // from the executor to the scheduler
	executor   *process

	resource string
	// The task writes a line when it begins, and one when it ends; between them it stands at the gate.
	began, over string
	gate        *gate
}

// raceStories each force one interleaving of a cancel with what else happens to a task. Every one has its counterpart, in which
// the other side comes first. What is right is what the database has seen first: a task that is canceled before it was claimed
// never starts; one that is canceled before its end was committed is canceled, whatever its handler made of itself (as in Pulp);
// one whose end was committed is what that says, and the cancel is told so.
var raceStories = []struct {
	says string
	tell func(*race)
}{
	{"the cancel comes before the claim", cancelBeforeClaim},
	{"the claim waits for the commit of the cancel", claimWaitsForCancel},
	{"the cancel waits for the commit of the claim", cancelWaitsForClaim},
	{"the cancel comes before the scheduler knows of the claim", cancelBeforeAssignment},
	{"the cancel comes while the assignment is on its way", cancelDuringAssignment},
	{"the cancel is on its way to the executor when the task ends", finishDuringCancel},
	{"the cancel comes while the end is on its way", cancelDuringFinish},
	{"the cancel comes before the end is written", cancelBeforeFinish},
	{"the end waits for the commit of the cancel", finishWaitsForCancel},
	{"the cancel waits for the commit of the end", cancelWaitsForFinish},
	{"the end was written, and the scheduler does not know it yet", cancelAfterFinish},
	{"the cancel is on its way when the end is written", finishBeforeCancel},
	{"the cancel comes before a failure is written that is to be retried", cancelBeforeRetry},
	{"the cancel comes when a failure was written that is to be retried", cancelAfterRetry},
}

func TestExecutorRaces(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	base := race{scheduler: faults.Start(t, direct), dispatcher: faults.Start(t, direct), db: pgtest.Open(t, direct)}
	v.reaching = map[string]string{"scheduler": base.scheduler.URL(), "dispatcher": base.dispatcher.URL()}
	v.system = &system{t: t, dir: v.dir, work: v.dir, processes: map[string]*process{}}
	base.wire = wire.Start(t, v.addrs["scheduler"])
	for service, flags := range map[string]map[string]string{
		// Held for a moment, a tick must not cost the leadership on a slow machine.
		"scheduler": {"lease": "30s"}, "executor": {"scheduler-addr": base.wire.Addr()},
		"dispatcher": nil, "status": nil, "heartbeat": nil, "gateway": nil,
	} {
		v.launch(t, service, service, flags)
	}
	for name, p := range v.system.processes {
		p.ready(t, "sluice "+name+" is ready")
	}
	v.system.connect(t, "http://"+v.addrs["rest"], v.addrs["gateway"])
	base.executor = v.system.processes["executor"]
	for _, story := range raceStories {
		t.Run(story.says, func(t *testing.T) {
			r := base
			r.system = v.system.under(t)
			r.resource, r.began, r.over, r.gate = fresh("r"), r.file("began"), r.file("over"), r.system.gate()
			story.tell(&r)
		})
	}
}

// spec is the task that is raced for, which fails in the end if code is not 0.
func (r *race) spec(code int) client.Spec {
	spec := shell("echo x >> %s; cat %s; echo x >> %s; exit %d", r.began, r.gate.path, r.over, code)
	spec.Exclusive = []string{r.resource}
	return spec
}

// stands hands the task in, and returns when it stands at its gate.
func (r *race) stands(code int, retry *client.Retry) client.Task {
	r.t.Helper()
	spec := r.spec(code)
	spec.Retry = retry
	made := r.dispatch(spec)
	r.gate.reached()
	return made
}

// canceled is what a cancel returned.
type canceled struct {
	task client.Task
	err  error
}

func (r *race) cancel(id string) canceled {
	got, err := r.Cancel(r.soon(), id)
	return canceled{got, err}
}

// cancels begins a cancel that can't return yet.
func (r *race) cancels(id string) <-chan canceled {
	returned := make(chan canceled, 1)
	ctx := r.soon()
	go func() {
		got, err := r.Cancel(ctx, id)
		returned <- canceled{got, err}
	}()
	return returned
}

// returned checks what a cancel returned: a state, or that the task is final.
func (r *race) returned(got canceled, want task.State) {
	r.t.Helper()
	switch {
	case want == "" && !errs.Is(got.err, errs.TaskFinal):
		r.t.Errorf("the cancel returned %s, %v; want that the task is final", got.task.State, got.err)
	case want != "" && (got.err != nil || got.task.State != want):
		r.t.Errorf("the cancel returned %s, %v; want %s", got.task.State, got.err, want)
	}
}

// waitsForLock waits until somebody waits for a row that somebody else has changed.
func (r *race) waitsForLock(who string) {
	r.t.Helper()
	eventually(r.t, who+" waits", func() error {
		if n := pgtest.One[int](r.t, r.db, `
			select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and application_name = $1`, "sluice "+who); n != 1 {
			return fmt.Errorf("%d of its sessions wait for a lock", n)
		}
		return nil
	})
}

// hasEnded waits until the executor has seen the end of a run.
func (r *race) hasEnded(id string) {
	r.t.Helper()
	eventually(r.t, "the executor has seen the end", func() error {
		for line := range strings.Lines(r.executor.stderr()) {
			if strings.Contains(line, `"msg":"ended"`) && strings.Contains(line, id) {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// lines is how often the task wrote to a file.
func (r *race) lines(path string) int {
	r.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

// settles waits for the end, and checks it. How often it has begun and has come to its own end is -1 where both are right. What
// it had reserved must be free, and its processes gone.
func (r *race) settles(id string, want task.State, attempts, began, over int) {
	r.t.Helper()
	one := r.end(id)[0]
	if one.State != want || one.Attempt != attempts {
		r.t.Errorf("it is %s in attempt %d: %v; want %s in %d", one.State, one.Attempt, one.Error, want, attempts)
	}
	if attempts == 0 && one.StartedAt != nil {
		r.t.Errorf("it never began, and started at %v", one.StartedAt)
	}
	switch {
	case want == task.Canceled && (one.Error.String() != task.ReasonCanceled || len(one.Result) > 0):
		r.t.Errorf("it has the error %v and the result %s", one.Error, one.Result)
	case want == task.Completed && (one.Error != nil || !strings.Contains(string(one.Result), `"exit_code":0`)):
		r.t.Errorf("it has the error %v and the result %s", one.Error, one.Result)
	}
	next := r.run(client.Spec{Name: "test.noop", Exclusive: []string{r.resource}})
	if next.State != task.Completed || next.StartedAt.Before(*one.FinishedAt) {
		r.t.Errorf("the next task is %s and started at %v, this one ended at %v", next.State, next.StartedAt, one.FinishedAt)
	}
	if again := r.get(id); again.State != want || again.Claim != one.Claim {
		r.t.Errorf("in the end it is %s with claim %d, it was %s with claim %d", again.State, again.Claim, want, one.Claim)
	}
	if got := r.lines(r.began); began >= 0 && got != began {
		r.t.Errorf("it began %d times, want %d", got, began)
	}
	if got := r.lines(r.over); over >= 0 && got != over {
		r.t.Errorf("it came to its end %d times, want %d", got, over)
	}
	for _, process := range left(r.work) {
		if strings.Contains(process, r.gate.path) {
			r.t.Errorf("there is still %s", process)
		}
	}
}

func cancelBeforeClaim(r *race) {
	claim := r.scheduler.Arm(faults.Rule{Fault: faults.HoldRequest, Match: claims})
	one := r.dispatch(r.spec(0))
	claim.Wait(r.t, 1)
	r.returned(r.cancel(one.ID), task.Canceled)
	claim.Release()
	r.settles(one.ID, task.Canceled, 0, 0, 0)
}

func claimWaitsForCancel(r *race) {
	claim := r.scheduler.Arm(faults.Rule{Fault: faults.HoldRequest, Match: claims})
	one := r.dispatch(r.spec(0))
	claim.Wait(r.t, 1)
	commit := r.dispatcher.Arm(faults.Rule{Fault: faults.HoldCommit, Match: cancels})
	returned := r.cancels(one.ID)
	commit.Wait(r.t, 1)
	claim.Release()
	r.waitsForLock("scheduler")
	commit.Release()
	r.returned(<-returned, task.Canceled)
	r.settles(one.ID, task.Canceled, 0, 0, 0)
}

func cancelWaitsForClaim(r *race) {
	commit := r.scheduler.Arm(faults.Rule{Fault: faults.HoldCommit, Match: claims})
	one := r.dispatch(r.spec(0))
	commit.Wait(r.t, 1)
	returned := r.cancels(one.ID)
	r.waitsForLock("dispatcher")
	commit.Release()
	r.returned(<-returned, task.Canceling)
	r.settles(one.ID, task.Canceled, 1, -1, 0)
}

func cancelBeforeAssignment(r *race) {
	answer := r.scheduler.Arm(faults.Rule{Fault: faults.HoldAnswer, Match: claims})
	one := r.dispatch(r.spec(0))
	answer.Wait(r.t, 1)
	r.returned(r.cancel(one.ID), task.Canceling)
	answer.Release()
	r.settles(one.ID, task.Canceled, 1, -1, 0)
}

func cancelDuringAssignment(r *race) {
	r.wire.ToClient.Hold()
	r.t.Cleanup(r.wire.ToClient.Pass)
	one := r.dispatch(r.spec(0))
	eventually(r.t, "it is given away", func() error {
		if now := r.get(one.ID); now.State != task.Running {
			return errors.New(string(now.State))
		}
		return nil
	})
	r.returned(r.cancel(one.ID), task.Canceling)
	if n := r.lines(r.began); n > 0 {
		r.t.Errorf("it began %d times before the executor could know of it", n)
	}
	r.wire.ToClient.Pass()
	r.settles(one.ID, task.Canceled, 1, -1, 0)
}

func finishDuringCancel(r *race) {
	one := r.stands(0, nil)
	r.wire.ToClient.Hold()
	r.t.Cleanup(r.wire.ToClient.Pass)
	r.returned(r.cancel(one.ID), task.Canceling)
	r.gate.open()
	r.hasEnded(one.ID)
	eventually(r.t, "it is canceled, though the executor was not told to", func() error {
		if now := r.get(one.ID); now.State != task.Canceled {
			return errors.New(string(now.State))
		}
		return nil
	})
	r.wire.ToClient.Pass()
	r.settles(one.ID, task.Canceled, 1, 1, 1)
}

func cancelDuringFinish(r *race) {
	one := r.stands(0, nil)
	r.wire.ToServer.Hold()
	r.t.Cleanup(r.wire.ToServer.Pass)
	r.gate.open()
	r.hasEnded(one.ID)
	r.returned(r.cancel(one.ID), task.Canceling)
	r.wire.ToServer.Pass()
	r.settles(one.ID, task.Canceled, 1, 1, 1)
}

func cancelBeforeFinish(r *race) {
	one := r.stands(1, nil)
	end := r.scheduler.Arm(faults.Rule{Fault: faults.HoldRequest, Match: finishes})
	r.gate.open()
	end.Wait(r.t, 1)
	r.returned(r.cancel(one.ID), task.Canceling)
	end.Release()
	r.settles(one.ID, task.Canceled, 1, 1, 1)
}

func finishWaitsForCancel(r *race) {
	one := r.stands(0, nil)
	commit := r.dispatcher.Arm(faults.Rule{Fault: faults.HoldCommit, Match: cancels})
	returned := r.cancels(one.ID)
	commit.Wait(r.t, 1)
	r.gate.open()
	r.waitsForLock("scheduler")
	commit.Release()
	r.returned(<-returned, task.Canceling)
	r.settles(one.ID, task.Canceled, 1, 1, 1)
}

func cancelWaitsForFinish(r *race) {
	one := r.stands(0, nil)
	commit := r.scheduler.Arm(faults.Rule{Fault: faults.HoldCommit, Match: finishes})
	r.gate.open()
	commit.Wait(r.t, 1)
	returned := r.cancels(one.ID)
	r.waitsForLock("dispatcher")
	commit.Release()
	r.returned(<-returned, "")
	r.settles(one.ID, task.Completed, 1, 1, 1)
}

func cancelAfterFinish(r *race) {
	one := r.stands(0, nil)
	answer := r.scheduler.Arm(faults.Rule{Fault: faults.HoldAnswer, Match: finishes})
	r.gate.open()
	answer.Wait(r.t, 1)
	r.returned(r.cancel(one.ID), "")
	answer.Release()
	r.settles(one.ID, task.Completed, 1, 1, 1)
}

func finishBeforeCancel(r *race) {
	one := r.stands(0, nil)
	request := r.dispatcher.Arm(faults.Rule{Fault: faults.HoldRequest, Match: cancels})
	returned := r.cancels(one.ID)
	request.Wait(r.t, 1)
	r.gate.open()
	r.end(one.ID)
	request.Release()
	r.returned(<-returned, "")
	r.settles(one.ID, task.Completed, 1, 1, 1)
}

func cancelBeforeRetry(r *race) {
	one := r.stands(1, &client.Retry{MaxAttempts: 2, Backoff: -1})
	again := r.scheduler.Arm(faults.Rule{Fault: faults.HoldRequest, Match: retries})
	r.gate.open()
	again.Wait(r.t, 1)
	r.returned(r.cancel(one.ID), task.Canceling)
	again.Release()
	r.settles(one.ID, task.Canceled, 1, 1, 1)
}

func cancelAfterRetry(r *race) {
	one := r.stands(1, &client.Retry{MaxAttempts: 2, Backoff: -1})
	answer := r.scheduler.Arm(faults.Rule{Fault: faults.HoldAnswer, Match: retries})
	r.gate.open()
	answer.Wait(r.t, 1)
	r.returned(r.cancel(one.ID), task.Canceled)
	answer.Release()
	r.settles(one.ID, task.Canceled, 1, 1, 1)
}

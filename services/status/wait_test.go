package status_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/status"
)

// pending is a call to WaitTasks that has not returned.
type pending struct {
	answer *statusv1.WaitTasksResponse
	err    error
	done   chan struct{}
}

// wait calls WaitTasks and returns once it has looked and waits.
func (w *world) wait(t *testing.T, ids ...string) *pending {
	t.Helper()
	p := &pending{done: make(chan struct{})}
	looks := w.store.looks.Load()
	go func() {
		defer close(p.done)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p.answer, p.err = w.client.WaitTasks(ctx, &statusv1.WaitTasksRequest{TaskIds: ids, Timeout: seconds(300)})
	}()
	probe.Eventually(t, "the waiter has looked", func() bool { return w.store.looks.Load() > looks && w.service.Waiting(ids[0]) > 0 })
	select {
	case <-p.done:
		t.Fatalf("it returned at once: %v, %v", p.answer, p.err)
	default:
	}
	return p
}

// returns makes sure that a wait found all tasks final.
func (p *pending) returns(t *testing.T, ids ...string) {
	t.Helper()
	<-p.done
	if p.err != nil || !p.answer.GetDone() {
		t.Fatalf("done %v, %v", p.answer.GetDone(), p.err)
	}
	var got []string
	for _, task := range p.answer.GetTasks() {
		got = append(got, task.GetId())
		if task.GetFinishedAt() == nil {
			t.Errorf("%s is %s", task.GetId(), task.GetState())
		}
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("the tasks as asked for: %s", diff)
	}
}

func (w *world) finish(t *testing.T, id string) {
	t.Helper()
	pgtest.Must(t, w, 1, claim, id)
	pgtest.Must(t, w, 1, complete, id)
}

func TestWaitReturnsAtOnceWhenAllAreFinal(t *testing.T) {
	w := newWorld(t)
	var ids []string
	for _, state := range []string{"completed", "failed", "canceled", "skipped", "completed"} {
		ids = append(ids, w.add(t, row{state: state}))
	}
	ids = append(ids, ids[0]) // twice is once more
	answer, err := w.client.WaitTasks(t.Context(), &statusv1.WaitTasksRequest{TaskIds: ids})
	p := &pending{answer: answer, err: err, done: make(chan struct{})}
	close(p.done)
	p.returns(t, ids...)
	if n := w.store.looks.Load(); n != 1 {
		t.Errorf("it took %d looks", n)
	}
}

// The answer must fit into a message however much the tasks have to say. The first ones say all of it.
func TestAnswerToAWaitIsCutToAMessage(t *testing.T) {
	for state, change := range map[string]string{
		"completed": `update task set result = to_json(repeat('x', 1000000))`,
		"failed": `update task set error = json_build_object('description', repeat('ä', 30000), 'reason', repeat('ö', 30000), 'traceback', repeat('x', 60000),
			'code', 'ERROR')`,
	} {
		t.Run(state, func(t *testing.T) {
			w := newWorld(t)
			var ids []string
			for range 200 {
				ids = append(ids, w.add(t, row{state: state, result: "1"}))
			}
			pgtest.Must(t, w, int64(len(ids)), change)
			answer, err := w.client.WaitTasks(t.Context(), &statusv1.WaitTasksRequest{TaskIds: ids})
			if err != nil {
				t.Fatal(err)
			}
			if size := proto.Size(answer); !answer.GetDone() || len(answer.GetTasks()) != len(ids) || size > limits.MaxMessage {
				t.Errorf("done %t, %d tasks in %d bytes", answer.GetDone(), len(answer.GetTasks()), size)
			}
			first, last := answer.GetTasks()[0], answer.GetTasks()[len(ids)-1]
			if state == "completed" && (len(first.GetResultJson()) != 1_000_002 || last.GetResultJson() != "") {
				t.Errorf("results of %d and %d bytes", len(first.GetResultJson()), len(last.GetResultJson()))
			}
			if state == "failed" && (len(first.GetError().GetTraceback()) != 60_000 || last.GetError().GetTraceback() != "" ||
				last.GetError().GetDescription() != strings.Repeat("ä", 512)+"…" || last.GetError().GetCode() != "ERROR") {
				t.Errorf("the first one %d bytes, the last one %v", proto.Size(first), last.GetError())
			}
		})
	}
}

func TestWaitIsWokenByTheLeadersWord(t *testing.T) {
	w := newWorld(t)
	id, other := w.add(t, row{}), w.add(t, row{})
	p := w.wait(t, id)
	w.finish(t, other)
	w.finish(t, id)
	looks := w.store.looks.Load()
	w.leader.changes <- other // not its task
	w.leader.changes <- id
	p.returns(t, id)
	if n := w.store.looks.Load(); n != looks+1 {
		t.Errorf("%d looks, want one, for its own task", n-looks)
	}
}

func TestWaitForManyEndsWithTheLastOfThem(t *testing.T) {
	w := newWorld(t)
	a, b := w.add(t, row{}), w.add(t, row{})
	p := w.wait(t, b, a)
	w.finish(t, a)
	looks := w.store.looks.Load()
	w.leader.changes <- a
	probe.Eventually(t, "it looks and goes on waiting", func() bool { return w.store.looks.Load() > looks && w.service.Waiting(b) == 1 })
	w.finish(t, b)
	w.leader.changes <- b
	p.returns(t, b, a)
	probe.Eventually(t, "no waiter is left", func() bool { return w.service.Registered() == 0 })
}

func TestWaitFindsTheEndByItselfWhileNobodyIsFollowed(t *testing.T) {
	w := worldWith(t, pgtest.URL(t), status.Config{LookEvery: never, LookAlone: 10 * time.Millisecond}, newLeader(false))
	id := w.add(t, row{})
	p := w.wait(t, id)
	w.finish(t, id)
	p.returns(t, id)
}

func TestWaitFindsTheEndThoughTheLeadersWordWasLost(t *testing.T) {
	w := worldWith(t, pgtest.URL(t), status.Config{LookEvery: 10 * time.Millisecond, LookAlone: never}, newLeader(true))
	probe.Eventually(t, "the leader is followed", w.service.Following)
	id := w.add(t, row{})
	p := w.wait(t, id)
	w.finish(t, id)
	p.returns(t, id)
}

// What was committed while nobody was followed was told to nobody: with a new leader everybody looks, and when one is lost.
func TestWaitLooksWhenALeaderIsFoundOrLost(t *testing.T) {
	w := worldWith(t, pgtest.URL(t), status.Config{LookEvery: never, LookAlone: never}, newLeader(false))
	id := w.add(t, row{})
	p := w.wait(t, id)
	w.finish(t, id)
	w.leader.leads.Store(true)
	p.returns(t, id)

	probe.Eventually(t, "the leader is followed", w.service.Following)
	id = w.add(t, row{})
	p = w.wait(t, id)
	w.finish(t, id)
	w.leader.leads.Store(false)
	w.leader.depose <- struct{}{}
	p.returns(t, id)
}

func TestWaitThatTimesOutShowsTheTasksAsTheyAre(t *testing.T) {
	w := newWorld(t)
	waiting, ended := w.add(t, row{}), w.add(t, row{state: "failed"})
	for _, timeout := range []time.Duration{0, 30 * time.Millisecond} {
		answer, err := w.client.WaitTasks(t.Context(), &statusv1.WaitTasksRequest{TaskIds: []string{waiting, ended}, Timeout: durationOf(timeout)})
		if err != nil || answer.GetDone() || len(answer.GetTasks()) != 2 ||
			answer.GetTasks()[0].GetState() != taskv1.State_STATE_WAITING || answer.GetTasks()[1].GetState() != taskv1.State_STATE_FAILED {
			t.Errorf("timeout %s: %v, %v", timeout, answer, err)
		}
	}
	probe.Eventually(t, "no waiter is left", func() bool { return w.service.Registered() == 0 })
}

func TestWaitForAnUnknownTaskIsNotFound(t *testing.T) {
	w := newWorld(t)
	known := w.add(t, row{})
	_, err := w.client.WaitTasks(t.Context(), &statusv1.WaitTasksRequest{TaskIds: []string{known, unknownID}})
	if !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("got %v", err)
	}
	p := w.wait(t, known)
	pgtest.Must(t, w, 1, `delete from task where id = $1::text::uuid`, known)
	w.leader.changes <- known
	<-p.done
	if !errs.Is(p.err, errs.TaskNotFound) {
		t.Errorf("deleted meanwhile: %v", p.err)
	}
}

func TestWaitEndsWhenTheServiceStops(t *testing.T) {
	w := newWorld(t)
	p := w.wait(t, w.add(t, row{}))
	w.stop()
	<-p.done
	if p.err != nil || p.answer.GetDone() {
		t.Errorf("done %v, %v", p.answer.GetDone(), p.err)
	}
}

func TestWaiterOfACallerThatLeftIsForgotten(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := w.client.WaitTasks(ctx, &statusv1.WaitTasksRequest{TaskIds: []string{id}})
		answered <- err
	}()
	probe.Eventually(t, "the waiter is there", func() bool { return w.service.Waiting(id) == 1 })
	cancel()
	if err := <-answered; grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	probe.Eventually(t, "no waiter is left", func() bool { return w.service.Registered() == 0 })
}

// registrar catches a service's gRPC face.
type registrar struct{ face statusv1.StatusServiceServer }

func (r *registrar) RegisterService(_ *grpc.ServiceDesc, face any) {
	r.face = face.(statusv1.StatusServiceServer)
}

// still is a database in which nothing happens, and which takes its time.
type still struct {
	status.Database
	takes time.Duration
}

// States finds a waiting task, unless the call has ended.
func (s still) States(ctx context.Context, ids []string) (map[string]task.State, error) {
	select {
	case <-time.After(s.takes):
		return map[string]task.State{ids[0]: task.Waiting}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// GetMany finds it too, at once.
func (s still) GetMany(ctx context.Context, ids []string) (map[string]*task.Task, error) {
	return map[string]*task.Task{ids[0]: {ID: ids[0], State: task.Waiting}}, ctx.Err()
}

func TestWaitAnswersBeforeTheCallersDeadline(t *testing.T) {
	for _, c := range []struct {
		name            string
		deadline, takes time.Duration
		timeout         int64
		want            time.Duration // until the answer
		late            bool          // the database is too slow for any answer
	}{
		{name: "deadline before the timeout", deadline: 10 * time.Second, timeout: 60, want: 9750 * time.Millisecond},
		{name: "timeout before the deadline", deadline: 10 * time.Second, timeout: 3, want: 3 * time.Second},
		{name: "default timeout", deadline: time.Hour, want: time.Minute},
		{name: "deadline shorter than what is left for the answer", deadline: 100 * time.Millisecond, timeout: 60, want: 0},
		{name: "a look that outlasts the time to wait", deadline: 10 * time.Second, timeout: 1, takes: 2 * time.Second, want: 2 * time.Second},
		{name: "a look that outlasts the call", deadline: 10 * time.Second, timeout: 1, takes: time.Hour, want: 10 * time.Second, late: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := status.New(status.Config{LookEvery: never, LookAlone: never}, still{takes: c.takes}, nil, quiet())
				var r registrar
				service.Register(&r)
				ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
				defer cancel()
				request := &statusv1.WaitTasksRequest{TaskIds: []string{unknownID}}
				if c.timeout > 0 {
					request.Timeout = seconds(c.timeout)
				}
				begin := time.Now()
				answer, err := r.face.WaitTasks(ctx, request)
				if took := time.Since(begin); took != c.want {
					t.Errorf("answered after %s, want %s", took, c.want)
				}
				if c.late != (err != nil) || (err == nil && (answer.GetDone() || len(answer.GetTasks()) != 1)) {
					t.Errorf("%v, %v", answer, err)
				}
			})
		})
	}
}

// watched is an open stream of one task.
type watched struct {
	grpc.ServerStreamingClient[statusv1.WatchTaskResponse]
}

func (w *world) watch(t *testing.T, id string) watched {
	t.Helper()
	stream, err := w.client.WatchTask(t.Context(), &statusv1.WatchTaskRequest{TaskId: id})
	if err != nil {
		t.Fatal(err)
	}
	return watched{stream}
}

func (s watched) next(t *testing.T) *taskv1.Task {
	t.Helper()
	answer, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetTask()
}

func TestWatchShowsEveryChangeUntilTheTaskIsFinal(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	s := w.watch(t, id)
	if got := s.next(t); got.GetState() != taskv1.State_STATE_WAITING || got.GetUnblockedAt() != nil {
		t.Errorf("as it is now: %v", got)
	}
	pgtest.Must(t, w, 1, unblock, id)
	w.leader.changes <- id
	if got := s.next(t); got.GetState() != taskv1.State_STATE_WAITING || got.GetUnblockedAt() == nil {
		t.Errorf("unblocked: %v", got)
	}
	// A word without a change shows nothing.
	w.leader.changes <- id
	w.leader.changes <- id
	pgtest.Must(t, w, 1, claim, id)
	w.leader.changes <- id
	if got := s.next(t); got.GetState() != taskv1.State_STATE_RUNNING {
		t.Errorf("claimed: %v", got)
	}
	pgtest.Must(t, w, 1, `update task set state = 'canceling', updated_at = clock_timestamp() where id = $1::text::uuid`, id)
	w.leader.changes <- id
	if got := s.next(t); got.GetState() != taskv1.State_STATE_CANCELING {
		t.Errorf("canceling: %v", got)
	}
	pgtest.Must(t, w, 1, `update task set state = 'canceled', error = '{"reason":"r"}', finished_at = clock_timestamp(), updated_at = clock_timestamp() where id = $1::text::uuid`, id)
	w.leader.changes <- id
	if got := s.next(t); got.GetState() != taskv1.State_STATE_CANCELED || got.GetError().GetReason() != "r" {
		t.Errorf("canceled: %v", got)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	probe.Eventually(t, "no waiter is left", func() bool { return w.service.Registered() == 0 })
}

func TestWatchOfAFinalTaskShowsItOnce(t *testing.T) {
	w := newWorld(t)
	s := w.watch(t, w.add(t, row{state: "completed", result: "1"}))
	if got := s.next(t); got.GetResultJson() != "1" {
		t.Errorf("got %v", got)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after it: %v", err)
	}
}

func TestWatchOfAnUnknownOrDeletedTaskIsNotFound(t *testing.T) {
	w := newWorld(t)
	if _, err := w.watch(t, unknownID).Recv(); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("unknown: %v", err)
	}
	id := w.add(t, row{})
	s := w.watch(t, id)
	s.next(t)
	pgtest.Must(t, w, 1, `delete from task where id = $1::text::uuid`, id)
	w.leader.changes <- id
	if _, err := s.Recv(); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

func TestWatchEndsWhenTheServiceStops(t *testing.T) {
	w := newWorld(t)
	s := w.watch(t, w.add(t, row{}))
	s.next(t)
	w.stop()
	if _, err := s.Recv(); !errs.Is(err, errs.Stopping) {
		t.Errorf("got %v", err)
	}
}

func TestWatchThatNobodyReadsAnyMoreEnds(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := w.client.WatchTask(ctx, &statusv1.WatchTaskRequest{TaskId: id})
	if err != nil {
		t.Fatal(err)
	}
	watched{stream}.next(t)
	cancel()
	probe.Eventually(t, "no waiter is left", func() bool { return w.service.Registered() == 0 })
}

func TestManyWaitersOfOneTaskAreAllWoken(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	var all []*pending
	for range 20 {
		all = append(all, w.wait(t, id))
	}
	s := w.watch(t, id)
	s.next(t)
	w.finish(t, id)
	w.leader.changes <- id
	for _, p := range all {
		p.returns(t, id)
	}
	if got := s.next(t); got.GetState() != taskv1.State_STATE_COMPLETED {
		t.Errorf("the watcher sees %v", got)
	}
}

func TestServiceIsAlwaysReadyAndStopsWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := status.New(status.Defaults(), nil, nobody{}, quiet())
		if err := service.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := service.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// nobody is a scheduler that is never there.
type nobody struct {
	schedulerv1.SchedulerServiceClient
}

// Follow fails.
func (nobody) Follow(context.Context, *schedulerv1.FollowRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[schedulerv1.FollowResponse], error) {
	return nil, errors.New("nobody there")
}

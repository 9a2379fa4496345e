package status_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

// following is one who follows a log.
type following struct {
	t      *testing.T
	stream statusv1.StatusService_FollowTaskLogClient
}

func (w *world) followLog(t *testing.T, id string) following {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stream, err := w.client.FollowTaskLog(ctx, &statusv1.FollowTaskLogRequest{TaskId: id})
	if err != nil {
		t.Fatal(err)
	}
	return following{t, stream}
}

// next expects a piece.
func (f following) next(text string, skipped bool, attempt int32, state taskv1.State) {
	f.t.Helper()
	got, err := f.stream.Recv()
	if err != nil {
		f.t.Fatal(err)
	}
	want := &statusv1.FollowTaskLogResponse{Text: text, Skipped: skipped, Attempt: attempt, State: state}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		f.t.Fatalf("the next piece (-want +got): %.2000s", diff)
	}
}

// over expects the end of the stream.
func (f following) over() {
	f.t.Helper()
	if got, err := f.stream.Recv(); !errors.Is(err, io.EOF) {
		f.t.Fatalf("after the end: %v, %v", got, err)
	}
}

// print stores a log as executors of ours do.
func (w *world) print(t *testing.T, id string, claim int64, text string, written int) {
	t.Helper()
	request := &statusv1.PutTaskLogRequest{TaskId: id, Claim: claim, Text: text, Truncated: written > len(text), Written: int64(written)}
	if _, err := w.client.PutTaskLog(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// printed stores a log as another process does, and an older one at that.
const printed = `insert into task_log (task_id, claim, text) values ($1::text::uuid, 1, $2)
	on conflict (task_id) do update set text = excluded.text`

// What a scheduler does to a task whose attempt failed and is to be repeated.
const again = `
	with failed as (
		update task set state = 'waiting', started_at = null, executor = null, incarnation = null, updated_at = clock_timestamp()
		where id = $1::text::uuid and state = 'running' returning id, attempt, claim
	)
	insert into task_attempt (task_id, attempt, claim, executor, started_at, ended_at, error)
	select id, attempt, claim, 'e1', now(), now(), '{"reason":"r"}' from failed`

func TestALogIsFollowedToItsEnd(t *testing.T) {
	w := newWorld(t) // nobody looks by himself
	id := w.add(t, row{})
	f := w.followLog(t, id)
	f.next("", false, 0, taskv1.State_STATE_WAITING)
	pgtest.Must(t, w, 1, claim, id)
	w.leader.changes <- id
	f.next("", false, 1, taskv1.State_STATE_RUNNING)
	w.print(t, id, 1, "one\n", 4)
	f.next("one\n", false, 1, taskv1.State_STATE_RUNNING)
	w.print(t, id, 1, "one\n", 4) // again: nothing new
	w.print(t, id, 1, "one\ntwö\n", 9)
	f.next("twö\n", false, 1, taskv1.State_STATE_RUNNING)
	pgtest.Must(t, w, 1, printed, id, "one\ntwö\nthree\n")
	pgtest.Must(t, w, 1, complete, id)
	w.leader.changes <- id
	f.next("three\n", false, 1, taskv1.State_STATE_COMPLETED)
	f.over()

	late := w.followLog(t, id)
	late.next("one\ntwö\nthree\n", false, 1, taskv1.State_STATE_COMPLETED)
	late.over()
}

func TestWhoFollowsALogIsToldOfWhatIsLeftOut(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	w.print(t, id, 1, "cd", 4)
	f := w.followLog(t, id)
	f.next("cd", true, 0, taskv1.State_STATE_RUNNING)
	w.print(t, id, 1, "def", 6) // one of them is known
	f.next("ef", false, 0, taskv1.State_STATE_RUNNING)
	w.print(t, id, 1, "ghi", 9) // none of them, and nothing is missing
	f.next("ghi", false, 0, taskv1.State_STATE_RUNNING)
	long := strings.Repeat("x", limits.MaxLog-6) + "🚰"
	w.print(t, id, 1, long, 1<<40)
	f.next(long, true, 0, taskv1.State_STATE_RUNNING)
}

func TestTheLogOfANewAttemptBeginsAnew(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{})
	pgtest.Must(t, w, 1, claim, id)
	w.print(t, id, 1, "first\n", 6)
	f := w.followLog(t, id)
	f.next("first\n", false, 1, taskv1.State_STATE_RUNNING)
	pgtest.Must(t, w, 1, printed, id, "first\nfailed\n")
	pgtest.Must(t, w, 1, again, id)
	pgtest.Must(t, w, 1, claim, id)
	w.leader.changes <- id
	f.next("failed\n", false, 1, taskv1.State_STATE_RUNNING) // which the first one wrote
	w.print(t, id, 2, "second\n", 7)
	f.next("second\n", false, 2, taskv1.State_STATE_RUNNING)
	w.print(t, id, 1, "first, late\n", 12)
	w.print(t, id, 2, "second\nend\n", 11)
	f.next("end\n", false, 2, taskv1.State_STATE_RUNNING)
}

func TestALogThatIsStoredElsewhereIsFoundByALook(t *testing.T) {
	cfg := status.Config{LookEvery: 10 * time.Millisecond, LookAlone: 10 * time.Millisecond}
	w := worldWith(t, pgtest.URL(t), cfg, newLeader(false))
	id := w.add(t, row{state: "running"})
	f := w.followLog(t, id)
	f.next("", false, 0, taskv1.State_STATE_RUNNING)
	pgtest.Must(t, w, 1, printed, id, "one ")
	f.next("one ", false, 0, taskv1.State_STATE_RUNNING)
	pgtest.Must(t, w, 1, printed, id, "one two")
	f.next("two", false, 0, taskv1.State_STATE_RUNNING)
	pgtest.Must(t, w, 1, complete, id)
	f.next("", false, 0, taskv1.State_STATE_COMPLETED)
	f.over()
}

func TestWhoCanNotFollowALogIsToldWhy(t *testing.T) {
	w := newWorld(t)
	if _, err := w.followLog(t, unknownID).stream.Recv(); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("of no task: %v", err)
	}
	if _, err := w.followLog(t, "x").stream.Recv(); grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("of what is no id: %v", err)
	}
	id := w.add(t, row{})
	gone := w.followLog(t, id)
	gone.next("", false, 0, taskv1.State_STATE_WAITING)
	pgtest.Must(t, w, 1, `delete from task where id = $1::text::uuid`, id)
	w.leader.changes <- id
	if _, err := gone.stream.Recv(); !errs.Is(err, errs.TaskNotFound) {
		t.Errorf("of one that was deleted: %v", err)
	}
	f := w.followLog(t, w.add(t, row{}))
	f.next("", false, 0, taskv1.State_STATE_WAITING)
	w.stop()
	if _, err := f.stream.Recv(); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("of a service that stops: %v", err)
	}
}

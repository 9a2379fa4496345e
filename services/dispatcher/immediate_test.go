package dispatcher_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

func immediate(deferred bool) *taskv1.TaskSpec {
	return &taskv1.TaskSpec{Name: "test.asleep", Immediate: true, Deferred: proto.Bool(deferred)}
}

func TestImmediateTaskThatRanIsAnsweredAsItEnded(t *testing.T) {
	l := &leader{}
	w := newWorld(t, l)
	l.settle = func(_ context.Context, id string) error {
		pgtest.Must(t, w, 1, claim, id)
		pgtest.Must(t, w, 1, complete, id)
		return nil
	}
	for _, deferred := range []bool{true, false} {
		got := w.send(t, immediate(deferred))
		if got.GetState() != taskv1.State_STATE_COMPLETED || got.GetResultJson() != "[1]" || !got.GetImmediate() || got.GetDeferred() != deferred {
			t.Errorf("deferred %v: %v", deferred, got)
		}
	}
	if wishes := w.wishes(t); len(wishes) != 0 {
		t.Errorf("wishes to cancel: %v", wishes)
	}
}

func TestImmediateTaskThatCannotRunNowWaitsOnlyIfItMay(t *testing.T) {
	for name, settle := range map[string]func(context.Context, string) error{
		"blocked":        func(context.Context, string) error { return nil },
		"nobody leads":   func(context.Context, string) error { return errs.Away(errs.NotLeading, nil, "another scheduler leads") },
		"leader is away": nil,
		"leader breaks":  func(context.Context, string) error { return errors.New("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			l := &leader{settle: settle}
			w := newWorld(t, l)
			if settle == nil {
				w.stopLeader()
			}
			if got := w.send(t, immediate(true)); got.GetState() != taskv1.State_STATE_WAITING || !w.living(t, got.GetId()) {
				t.Errorf("deferred: %v", got)
			}
			got := w.send(t, immediate(false))
			if got.GetState() != taskv1.State_STATE_CANCELED || got.GetError().GetReason() != "Resources temporarily unavailable." || got.GetFinishedAt() == nil {
				t.Errorf("not deferred: %v", got)
			}
			if w.living(t, got.GetId()) {
				t.Error("the rejected one is still among the living")
			}
			if wishes := w.wishes(t); len(wishes) != 1 || wishes[0] != got.GetId() {
				t.Errorf("the scheduler is not told to free the place of the rejected one: %v", wishes)
			}
			if settle != nil {
				probe.Eventually(t, "the leader is hinted", func() bool { return l.hinted() > 0 })
			}
		})
	}
}

func TestImmediateTaskThatStillRunsIsNotRejected(t *testing.T) {
	l := &leader{}
	w := worldOn(t, l, pgtest.URL(t), dispatcher.Config{SettleFor: 300 * time.Millisecond})
	l.settle = func(ctx context.Context, id string) error {
		pgtest.Must(t, w, 1, claim, id)
		<-ctx.Done() // longer than the dispatcher waits
		return ctx.Err()
	}
	got := w.send(t, immediate(false))
	if got.GetState() != taskv1.State_STATE_RUNNING || len(w.wishes(t)) != 0 {
		t.Errorf("got %v, wishes %v", got, w.wishes(t))
	}
}

// The caller that gave up must not leave a task behind that would not wait, and waits.
func TestImmediateTaskWhoseCallerIsGoneIsStillSettled(t *testing.T) {
	asked := make(chan string, 1)
	l := &leader{settle: func(ctx context.Context, id string) error {
		asked <- id
		<-ctx.Done()
		return ctx.Err()
	}}
	w := newWorld(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := w.client.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: immediate(false)})
		answered <- err
	}()
	id := <-asked
	cancel()
	if err := <-answered; err == nil {
		t.Error("the caller that canceled got an answer")
	}
	probe.Eventually(t, "the task is rejected", func() bool { return w.stored(t, id).State == task.Canceled })
	if w.living(t, id) {
		t.Error("it is still among the living")
	}
}

func TestTaskThatIsNotImmediateIsNotWaitedFor(t *testing.T) {
	l := &leader{settle: func(context.Context, string) error {
		t.Error("the leader was asked to settle it")
		return nil
	}}
	w := newWorld(t, l)
	w.dispatch(t)
}

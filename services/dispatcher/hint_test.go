package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// line is a client of a scheduler without a network, so that time can be that of synctest.
type line struct {
	schedulerv1.SchedulerServiceClient

	offer func(context.Context, *schedulerv1.OfferRequest) error
}

// Offer does what the test says.
func (l line) Offer(ctx context.Context, r *schedulerv1.OfferRequest, _ ...grpc.CallOption) (*schedulerv1.OfferResponse, error) {
	return &schedulerv1.OfferResponse{}, l.offer(ctx, r)
}

// hinting runs a hinter until stop.
func hinting(t *testing.T, offer func(context.Context, *schedulerv1.OfferRequest) error) (h *dispatcher.Hinter, stop func()) {
	t.Helper()
	h = dispatcher.NewHinter(line{offer: offer}, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	return h, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
}

func TestManyHintsWhileOneIsUnderWayBecomeOneMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, release := 0, make(chan struct{})
		h, stop := hinting(t, func(context.Context, *schedulerv1.OfferRequest) error {
			calls++
			<-release
			return nil
		})
		defer stop()
		h.Offer()
		synctest.Wait()
		if calls != 1 {
			t.Fatalf("%d calls after the first hint", calls)
		}
		for range 1000 {
			h.Offer()
		}
		synctest.Wait()
		if calls != 1 {
			t.Errorf("%d calls at the same time", calls)
		}
		release <- struct{}{}
		synctest.Wait()
		if calls != 2 {
			t.Errorf("%d calls, want one more for all that came meanwhile", calls)
		}
		release <- struct{}{}
		<-time.After(time.Hour)
		synctest.Wait()
		if calls != 2 {
			t.Errorf("%d calls, though nothing new came", calls)
		}
		h.Offer()
		synctest.Wait()
		if calls != 3 {
			t.Errorf("%d calls: the hint after a quiet time is lost", calls)
		}
		release <- struct{}{}
	})
}

func TestHintBeforeRunIsSentWhenItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		h := dispatcher.NewHinter(line{offer: func(context.Context, *schedulerv1.OfferRequest) error { calls++; return nil }}, quiet())
		h.Offer()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestFailingSchedulerLosesNoLaterHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var answer error = errors.New("nobody there")
		h, stop := hinting(t, func(context.Context, *schedulerv1.OfferRequest) error { calls++; return answer })
		defer stop()
		for i := range 5 {
			if i == 4 {
				answer = nil
			}
			h.Offer()
			synctest.Wait()
			if calls != i+1 {
				t.Errorf("%d calls after %d hints", calls, i+1)
			}
		}
	})
}

func TestHangingSchedulerHoldsHintsUpForASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began []time.Time
		h, stop := hinting(t, func(ctx context.Context, _ *schedulerv1.OfferRequest) error {
			began = append(began, time.Now())
			<-ctx.Done()
			return ctx.Err()
		})
		h.Offer()
		synctest.Wait()
		h.Offer()
		<-time.After(1500 * time.Millisecond)
		synctest.Wait()
		if len(began) != 2 || began[1].Sub(began[0]) != time.Second {
			t.Errorf("calls began at %v", began)
		}
		stop() // while the second one hangs
	})
}

// stored makes tasks as they come out of the store, numbered from first on.
func stored(first, n int) []*dispatcher.New {
	tasks := make([]*dispatcher.New, n)
	for i := range tasks {
		seq := first + i
		tasks[i] = &dispatcher.New{Task: task.Task{Seq: int64(seq), ID: fmt.Sprintf("00000000-0000-7000-8000-%012d", seq), Name: "n"}}
	}
	return tasks
}

// told are the numbers in the hints, one list for each; a plain look is an empty one.
func told(requests []*schedulerv1.OfferRequest) [][]int64 {
	lists := [][]int64{}
	for _, r := range requests {
		list := []int64{}
		for _, t := range r.GetTasks() {
			list = append(list, t.GetSeq())
		}
		lists = append(lists, list)
	}
	return lists
}

func numbers(first, n int) []int64 {
	list := make([]int64, n)
	for i := range list {
		list[i] = int64(first + i)
	}
	return list
}

func TestHintsTellOfTasksInTheirOrderAndOfEachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []*schedulerv1.OfferRequest
		release := make(chan struct{})
		h, stop := hinting(t, func(_ context.Context, r *schedulerv1.OfferRequest) error {
			heard = append(heard, r)
			<-release
			return nil
		})
		defer stop()
		h.Offer(stored(1, 3)...)
		synctest.Wait()
		h.Offer(stored(4, 1)...)
		h.Offer() // a cancel, say: nothing tells what, so the leader must look
		h.Offer(stored(5, 2)...)
		for range 3 {
			release <- struct{}{}
			synctest.Wait()
		}
		if diff := cmp.Diff([][]int64{{1, 2, 3}, {4, 5, 6}, {}}, told(heard)); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

func TestWhatOneHintCanNotCarryBecomesALook(t *testing.T) {
	// Each of these is a little less than a tenth of what a hint carries: the eleventh is the last that begins within it.
	large := func(first, n int) []*dispatcher.New {
		tasks := stored(first, n)
		for _, task := range tasks {
			task.Reserved.Exclusive = slices.Repeat([]string{strings.Repeat("r", 1000)}, dispatcher.MaxOffer/10_000)
		}
		return tasks
	}
	for name, c := range map[string]struct {
		first, more []*dispatcher.New
		want        [][]int64
	}{
		"as many as there can be": {first: stored(1, limits.MaxOffered), want: [][]int64{numbers(1, limits.MaxOffered)}},
		"one more":                {first: stored(1, limits.MaxOffered+1), want: [][]int64{numbers(1, limits.MaxOffered), {}}},
		"one more, later": {
			first: stored(1, limits.MaxOffered), more: stored(limits.MaxOffered+1, 5), want: [][]int64{numbers(1, limits.MaxOffered), {}},
		},
		// None that is small may be told of before one that is not: the order has no holes.
		"large": {first: large(1, 20), more: stored(21, 1), want: [][]int64{numbers(1, 11), {}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var heard []*schedulerv1.OfferRequest
				h := dispatcher.NewHinter(line{offer: func(_ context.Context, r *schedulerv1.OfferRequest) error {
					heard = append(heard, r)
					return nil
				}}, quiet())
				h.Offer(c.first...)
				if c.more != nil {
					h.Offer(c.more...)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := h.Run(ctx); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(c.want, told(heard)); diff != "" {
					t.Errorf("told (-want +got):\n%s", diff)
				}
				for _, r := range heard {
					if err := limits.Check(r); err != nil || proto.Size(r) > 2*dispatcher.MaxOffer {
						t.Errorf("a hint of %d bytes: %v", proto.Size(r), err)
					}
				}
			})
		})
	}
}

func TestSettleNamesAllTasksAndTellsOfAsManyAsAHintCarries(t *testing.T) {
	var heard []*schedulerv1.OfferRequest
	h := dispatcher.NewHinter(line{offer: func(_ context.Context, r *schedulerv1.OfferRequest) error {
		heard = append(heard, r)
		return nil
	}}, quiet())
	tasks := stored(1, 1000)
	for _, task := range tasks[100:] {
		task.Reserved.Shared = slices.Repeat([]string{strings.Repeat("r", 1000)}, dispatcher.MaxOffer/10_000)
	}
	if err := h.Settle(t.Context(), tasks); err != nil {
		t.Fatal(err)
	}
	if len(heard) != 1 || len(heard[0].GetSettleTaskIds()) != len(tasks) {
		t.Fatalf("%d requests", len(heard))
	}
	for i, id := range heard[0].GetSettleTaskIds() {
		if id != tasks[i].ID {
			t.Errorf("settles %s in place %d", id, i)
		}
	}
	if diff := cmp.Diff([][]int64{numbers(1, 109)}, told(heard)); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if err := limits.Check(heard[0]); err != nil {
		t.Error(err)
	}
	h = dispatcher.NewHinter(line{offer: func(context.Context, *schedulerv1.OfferRequest) error { return errors.New("nobody") }}, quiet())
	if err := h.Settle(t.Context(), tasks); err == nil {
		t.Error("nobody settled, and nobody says so")
	}
}

// The leader takes in what it is told without reading it again: it must be there, and be told as it is.
func TestHintsTellOfCommittedRowsAsTheyAre(t *testing.T) {
	url := pgtest.URL(t)
	aside := pgtest.Open(t, url) // no connection of the dispatcher's own
	var mu sync.Mutex
	var heard []*schedulerv1.OfferedTask
	l := &leader{}
	l.heard = func(r *schedulerv1.OfferRequest) {
		mu.Lock()
		defer mu.Unlock()
		for _, o := range r.GetTasks() {
			var live bool
			if err := aside.QueryRow(context.Background(), `select exists (select from task_live where seq = $1 and task_id = $2::text::uuid)`,
				o.GetSeq(), o.GetTaskId()).Scan(&live); err != nil || !live {
				t.Errorf("told of %v before it was committed: %v", o, err)
			}
		}
		if len(r.GetSettleTaskIds()) == 0 {
			heard = append(heard, r.GetTasks()...)
		}
	}
	w := worldOn(t, l, url, dispatcher.Defaults())
	var want []*schedulerv1.OfferedTask
	expect := func(answers ...*taskv1.Task) {
		for _, a := range answers {
			want = append(want, &schedulerv1.OfferedTask{
				Seq: a.GetSeq(), TaskId: a.GetId(), Name: a.GetName(), ExclusiveResources: a.GetExclusiveResources(), SharedResources: a.GetSharedResources(),
				Immediate: a.GetImmediate(), Deferred: a.GetDeferred(), Versions: a.GetVersions(), CreatedAt: timestamppb.New(a.GetCreatedAt().AsTime()),
				Retry: a.GetRetry(),
			})
		}
	}
	full := &taskv1.TaskSpec{
		Name: "full", ExclusiveResources: []string{"b", "a", "b"}, SharedResources: []string{"c", "a"}, Versions: map[string]string{"core": "3"},
		Immediate: true, Deferred: proto.Bool(true),
	}
	expect(w.send(t, full))
	expect(w.batch(t, specs(300)...)...)
	if _, err := w.tryBatch(t.Context(), append(specs(2), &taskv1.TaskSpec{Name: "n", ParentId: unknownID})...); err == nil {
		t.Error("a child of nobody is stored")
	}
	last := newSpec("last")
	last.Retry = &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: durationpb.New(time.Minute), On: []string{"TIMEOUT"}}
	expect(w.send(t, last))
	probe.Eventually(t, "all are told of", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(heard) >= len(want)
	})
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, heard, protocmp.Transform()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

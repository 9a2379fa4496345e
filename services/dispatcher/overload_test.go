package dispatcher_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// overloaded fails the test unless err says that there is no room, and when to come again.
func overloaded(t *testing.T, err error) time.Duration {
	t.Helper()
	var own *errs.Error
	if !errors.As(errs.From(err), &own) || own.Reason != errs.Overloaded || status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("got %v, want that there is no room", err)
	}
	if own.RetryAfter <= 0 {
		t.Errorf("no hint when to come again in %v", err)
	}
	return own.RetryAfter
}

func TestDispatchIsRefusedWhenTooMuchWaitsToBeStored(t *testing.T) {
	heavy := func() *taskv1.TaskSpec {
		return &taskv1.TaskSpec{Name: "heavy", ArgsJson: `["` + strings.Repeat("x", 1<<20-4) + `"]`}
	}
	for name, c := range map[string]struct {
		cfg       dispatcher.Config
		fits, not []*taskv1.TaskSpec
	}{
		"tasks": {dispatcher.Config{MaxPending: 6}, specs(5), specs(1)},
		"bytes": {dispatcher.Config{MaxPendingBytes: 3<<20 + 1<<19}, []*taskv1.TaskSpec{heavy(), heavy(), heavy()}, []*taskv1.TaskSpec{heavy()}},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.URL(t)
			w := worldOn(t, &leader{}, url, c.cfg)
			g, first := w.shutBehind(t, url)
			fits := w.call(t.Context(), c.fits...)
			g.queued(t, 1)
			for range 3 {
				refused := w.call(t.Context(), c.not...)
				<-refused.done // though the gate is shut
				overloaded(t, refused.err)
			}
			if n := w.service.Waiting(); n != 1 {
				t.Errorf("%d calls wait: what was refused waits too", n)
			}
			g.open(t)
			first.stored(t)
			fits.stored(t)
			// Now there is room again.
			w.call(t.Context(), c.not...).stored(t)
			if n := w.rows(t); n.Task != 1+len(c.fits)+len(c.not) {
				t.Errorf("stored %+v", n)
			}
		})
	}
}

func TestCallThatIsLargerThanTheBoundPassesAlone(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Config{MaxPending: 2})
	w.batch(t, specs(10)...)
	g, first := w.shutBehind(t, url)
	_, err := w.tryBatch(t.Context(), specs(10)...)
	overloaded(t, err)
	g.open(t)
	first.stored(t)
	w.batch(t, specs(10)...)
}

func TestCallThatGivesUpMakesRoom(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Config{MaxPending: 3})
	g, first := w.shutBehind(t, url)
	ctx, giveUp := context.WithCancel(t.Context())
	gone := w.call(ctx, specs(2)...)
	g.queued(t, 1)
	refused := w.call(t.Context(), newSpec("n"))
	<-refused.done
	overloaded(t, refused.err)
	giveUp()
	<-gone.done
	g.queued(t, 0) // the caller knows before the service does
	stays := w.call(t.Context(), specs(2)...)
	g.queued(t, 1)
	g.open(t)
	first.stored(t)
	stays.stored(t)
	if n := w.rows(t); n.Task != 3 {
		t.Errorf("stored %+v", n)
	}
}

// slow is a database that takes its time, by the clock of the test's bubble.
type slow struct {
	instant

	takes time.Duration
}

func (d *slow) Insert(ctx context.Context, tasks []*dispatcher.New) error {
	time.Sleep(d.takes * time.Duration(len(tasks))) //nolint:forbidigo // in the bubble this takes no time
	return d.instant.Insert(ctx, tasks)
}

// Who is refused is told to come when what waits will have been stored, and not all at the same moment.
func TestHintWhenToComeAgainGrowsWithWhatWaits(t *testing.T) {
	hints := func(takes time.Duration) (least, most time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			cfg := dispatcher.Defaults()
			cfg.MaxPending = 100
			service := dispatcher.NewService(cfg, &slow{takes: takes}, noLeader{}, quiet())
			dispatch := func() error {
				_, err := service.Dispatch(t.Context(), []*dispatcher.New{{Task: task.Task{Name: "n", Deferred: true}}})
				return err
			}
			for range 50 { // so that it knows how long they take
				if err := dispatch(); err != nil {
					t.Fatal(err)
				}
			}
			var all sync.WaitGroup
			defer all.Wait()
			for range 100 {
				all.Go(func() { _ = dispatch() })
			}
			synctest.Wait()
			least = time.Hour
			for range 50 {
				hint := overloaded(t, dispatch())
				least, most = min(least, hint), max(most, hint)
			}
		})
		return least, most
	}
	fastLeast, fastMost := hints(time.Millisecond)
	slowLeast, slowMost := hints(20 * time.Millisecond)
	if fastLeast < 100*time.Millisecond || fastMost > 250*time.Millisecond {
		t.Errorf("a hundred tasks of 1 ms: come again in %s to %s", fastLeast, fastMost)
	}
	if slowLeast < 1500*time.Millisecond || slowMost > 5*time.Second {
		t.Errorf("a hundred tasks of 20 ms: come again in %s to %s", slowLeast, slowMost)
	}
	if fastMost-fastLeast < 20*time.Millisecond || slowMost-slowLeast < 400*time.Millisecond {
		t.Errorf("the hints lie too close together: %s to %s, %s to %s", fastLeast, fastMost, slowLeast, slowMost)
	}
	// A database that hangs is not expected back in no time.
	if _, most := hints(time.Hour); most > 30*time.Second {
		t.Errorf("come again in %s", most)
	}
}

// counting is a leader that tells how many tasks there are.
type counting struct {
	schedulerv1.SchedulerServiceClient

	live  atomic.Int64
	calls atomic.Int64
	away  atomic.Bool
}

func (c *counting) Offer(_ context.Context, _ *schedulerv1.OfferRequest, _ ...grpc.CallOption) (*schedulerv1.OfferResponse, error) {
	c.calls.Add(1)
	if c.away.Load() {
		return nil, errors.New("away")
	}
	return &schedulerv1.OfferResponse{LiveTasks: c.live.Load()}, nil
}

// live is a dispatcher in a bubble, with a leader that counts.
func live(t *testing.T, most int64, test func(c *counting, dispatch func(n int) error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		hinter := dispatcher.NewHinter(c, quiet())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = hinter.Run(ctx) }()
		cfg := dispatcher.Defaults()
		cfg.MaxLive = most
		service := dispatcher.NewService(cfg, &instant{}, hinter, quiet())
		test(c, func(n int) error {
			defer synctest.Wait() // until the leader knows
			tasks := make([]*dispatcher.New, n)
			for i := range tasks {
				tasks[i] = &dispatcher.New{Task: task.Task{Name: "n", Deferred: true}}
			}
			_, err := service.Dispatch(t.Context(), tasks)
			return err
		})
		stop()
		<-ended
	})
}

func TestDispatchIsRefusedWhenTooManyTasksAreLive(t *testing.T) {
	live(t, 1000, func(c *counting, dispatch func(int) error) {
		c.live.Store(990)
		if err := dispatch(1); err != nil { // nothing is known yet
			t.Fatal(err)
		}
		overloaded(t, dispatch(12))
		if err := dispatch(5); err != nil {
			t.Errorf("there is room for 10, and 5 were refused: %v", err)
		}
		c.live.Store(2000)
		_ = dispatch(1)
		overloaded(t, dispatch(1))
		// It keeps asking, but not for each call, and learns when there is room.
		calls := c.calls.Load()
		for range 1000 {
			overloaded(t, dispatch(1))
		}
		if n := c.calls.Load() - calls; n > 1 {
			t.Errorf("the leader was asked %d times at the same moment", n)
		}
		c.live.Store(10)
		time.Sleep(2 * time.Second) //nolint:forbidigo // in the bubble this takes no time
		overloaded(t, dispatch(1))  // this one asks
		if err := dispatch(1); err != nil {
			t.Errorf("when there was room again: %v", err)
		}
	})
	live(t, 0, func(c *counting, dispatch func(int) error) {
		c.live.Store(1 << 40)
		for range 3 {
			if err := dispatch(1); err != nil {
				t.Errorf("without a limit: %v", err)
			}
		}
	})
}

// What the leader has not counted yet counts.
func TestTasksThatTheLeaderHasNotCountedYetAreLive(t *testing.T) {
	live(t, 100, func(c *counting, dispatch func(int) error) {
		if err := dispatch(1); err != nil {
			t.Fatal(err)
		}
		c.away.Store(true)
		var stored int
		for dispatch(10) == nil {
			if stored += 10; stored > 200 {
				t.Fatalf("%d were stored", stored)
			}
		}
		if stored < 80 {
			t.Errorf("only %d were stored", stored)
		}
	})
}

// A count that nobody renews must not close the door for ever: dispatch works without a scheduler.
func TestCountThatIsOldIsForgotten(t *testing.T) {
	live(t, 100, func(c *counting, dispatch func(int) error) {
		c.live.Store(500)
		_ = dispatch(1)
		overloaded(t, dispatch(1))
		c.away.Store(true)
		time.Sleep(11 * time.Second) //nolint:forbidigo // in the bubble this takes no time
		for range 3 {
			if err := dispatch(1); err != nil {
				t.Errorf("ten seconds later: %v", err)
			}
		}
	})
}

func TestLiveTasksTravelWithTheAnswerToAHint(t *testing.T) {
	l := &leader{}
	l.live.Store(7)
	w := worldOn(t, l, pgtest.URL(t), dispatcher.Config{SettleFor: 20 * time.Second, MaxLive: 5})
	w.dispatch(t)
	probe.Eventually(t, "there are too many", func() bool {
		return errs.Is(w.call(t.Context(), newSpec("n")).wait(), errs.Overloaded)
	})
	stored := w.rows(t).Task
	_, err := w.tryBatch(t.Context(), specs(3)...)
	overloaded(t, err)
	if n := w.rows(t).Task; n != stored {
		t.Errorf("%d tasks were stored and refused", n-stored)
	}
	l.live.Store(0)
	probe.Eventually(t, "there is room", func() bool { return w.call(t.Context(), newSpec("n")).wait() == nil })
}

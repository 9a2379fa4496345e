package worker_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// ledger notes what a run adds to its group, and when.
type ledger struct {
	*notebook
	added []*taskv1.GroupProgress
}

func (l *ledger) GroupProgress(p *taskv1.GroupProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.added = append(l.added, p)
	l.at = append(l.at, time.Since(l.begin))
}

// member runs a handler as a member of a group.
func (l *ledger) member(ctx context.Context, fn func(context.Context) error) *taskv1.Outcome {
	mux := worker.NewMux()
	worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) { return worker.None{}, fn(ctx) })
	return mux.Run(ctx, worker.Run{Assignment: &taskv1.Assignment{Name: "t", GroupId: "g"}, Calls: l})
}

func newLedger() *ledger { return &ledger{notebook: newNotebook()} }

func TestGroupProgressIsSentAtOnceThenCollectedAndCompleteInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		completes(t, l.member(t.Context(), func(ctx context.Context) error {
			p, err := worker.NewGroupProgress(ctx, worker.Part{Code: "a", Message: "m", Total: 10, Suffix: "s"})
			if err != nil {
				return err
			}
			for range 5 {
				pass(10 * time.Millisecond)
				p.Add(1)
			}
			p.AddTotal(2)
			pass(time.Second)
			p.Add(1)
			p.Add(1)
			return nil
		}))
		of := func(total, done int64) *taskv1.GroupProgress {
			return &taskv1.GroupProgress{Code: "a", Message: "m", Total: total, Done: done, Suffix: "s"}
		}
		if diff := cmp.Diff([]*taskv1.GroupProgress{of(10, 0), of(12, 5), of(12, 7)}, l.added, protocmp.Transform()); diff != "" {
			t.Errorf("added (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]time.Duration{0, 100 * time.Millisecond, 1050 * time.Millisecond}, l.at); diff != "" {
			t.Errorf("sent at (-want +got):\n%s", diff)
		}
	})
}

func TestGroupProgressThatIsAskedForAgainIsTheSame(t *testing.T) {
	l := newLedger()
	completes(t, l.member(t.Context(), func(ctx context.Context) error {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				p, err := worker.NewGroupProgress(ctx, worker.Part{Code: "a", Total: 3})
				if err != nil {
					t.Error(err)
				}
				p.Add(1)
			})
		}
		all.Wait()
		return nil
	}))
	last := l.added[len(l.added)-1]
	if last.GetTotal() != 60 || last.GetDone() != 20 {
		t.Errorf("added %v", last)
	}
	for i, p := range l.added[1:] {
		if before := l.added[i]; p.GetDone() < before.GetDone() || p.GetTotal() < before.GetTotal() {
			t.Errorf("it went back from %v to %v", before, p)
		}
	}
}

func TestGroupProgressStaysBetweenNothingAndTheMostThatIsCounted(t *testing.T) {
	l := newLedger()
	completes(t, l.member(t.Context(), func(ctx context.Context) error {
		p, err := worker.NewGroupProgress(ctx, worker.Part{Code: "a", Total: limits.MaxCounted})
		if err != nil {
			return err
		}
		p.AddTotal(1 << 62)
		p.Add(5)
		p.Add(-7)
		p.Add(3)
		return nil
	}))
	if last := l.added[len(l.added)-1]; last.GetTotal() != limits.MaxCounted || last.GetDone() != 3 {
		t.Errorf("added %v", last)
	}
}

func TestGroupProgressThatCannotBeToldIsRefused(t *testing.T) {
	n := newNotebook()
	completes(t, n.perform(t.Context(), func(ctx context.Context) error {
		p, err := worker.NewGroupProgress(ctx, worker.Part{Code: "a"})
		if err == nil || !strings.Contains(err.Error(), "in no group") {
			t.Errorf("without a group: %v", err)
		}
		p.Add(1) // goes nowhere
		p.AddTotal(1)
		return nil
	}))
	if _, err := worker.NewGroupProgress(t.Context(), worker.Part{Code: "a"}); err == nil {
		t.Error("outside of a task it is taken")
	}
	l := newLedger()
	var late *worker.GroupProgress
	completes(t, l.member(t.Context(), func(ctx context.Context) error {
		for _, part := range []worker.Part{{}, {Code: "a", Total: -1}, {Code: "a", Total: limits.MaxCounted + 1}, {Code: "a", Message: "a\nb"}} {
			if _, err := worker.NewGroupProgress(ctx, part); err == nil {
				t.Errorf("%+v is taken", part)
			}
		}
		for i := range limits.MaxParts {
			p, err := worker.NewGroupProgress(ctx, worker.Part{Code: fmt.Sprint(i)})
			if err != nil {
				return err
			}
			late = p
		}
		if _, err := worker.NewGroupProgress(ctx, worker.Part{Code: "one more"}); err == nil {
			t.Error("one more is taken")
		}
		_, err := worker.NewGroupProgress(ctx, worker.Part{Code: "0"})
		return err
	}))
	told := len(l.added)
	late.Add(1)
	if len(l.added) != told {
		t.Errorf("after the end it was told %v", l.added[told:])
	}
}

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// notebook stands for the executor: it notes what a run tells it, and when.
type notebook struct {
	worker.Calls // for what nobody calls
	begin        time.Time
	hold         func() // called before anything is noted

	mu       sync.Mutex
	progress []*taskv1.Progress
	at       []time.Duration
	created  []*taskv1.CreatedResource
}

func newNotebook() *notebook { return &notebook{begin: time.Now(), hold: func() {}} }

func (n *notebook) Progress(p *taskv1.Progress) {
	n.hold()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.progress = append(n.progress, p)
	n.at = append(n.at, time.Since(n.begin))
}

func (n *notebook) Created(c *taskv1.CreatedResource) {
	n.hold()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.created = append(n.created, c)
}

// perform runs a handler under a notebook.
func (n *notebook) perform(ctx context.Context, fn func(context.Context) error) *taskv1.Outcome {
	mux := worker.NewMux()
	worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) { return worker.None{}, fn(ctx) })
	return mux.Run(ctx, worker.Run{Assignment: &taskv1.Assignment{Name: "t"}, Calls: n})
}

// pass lets time pass, which takes none in a test with a clock of its own.
func pass(d time.Duration) { <-time.After(d) }

func completes(t *testing.T, outcome *taskv1.Outcome) {
	t.Helper()
	if outcome.GetState() != taskv1.State_STATE_COMPLETED {
		t.Errorf("outcome: %v", outcome)
	}
}

func state(code string, done int64, how taskv1.State) *taskv1.Progress {
	return &taskv1.Progress{Code: code, Done: done, State: how}
}

const (
	running   = taskv1.State_STATE_RUNNING
	completed = taskv1.State_STATE_COMPLETED
	failing   = taskv1.State_STATE_FAILED
)

func TestProgressIsSentAtOnceThenCollectedAndCompleteInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNotebook()
		completes(t, n.perform(t.Context(), func(ctx context.Context) error {
			p, err := worker.NewProgress(ctx, worker.Part{Code: "a"})
			if err != nil {
				return err
			}
			pass(10 * time.Millisecond)
			p.Add(1) // waits for the next
			pass(10 * time.Millisecond)
			p.Add(1)
			pass(time.Second)
			p.Add(1) // at 1020 ms there is none to wait for
			pass(time.Millisecond)
			p.Add(1)
			p.Done()
			return nil // at 1021 ms
		}))
		if diff := cmp.Diff([]*taskv1.Progress{
			state("a", 0, running), state("a", 2, running), state("a", 3, running), state("a", 4, completed),
		}, n.progress, protocmp.Transform()); diff != "" {
			t.Errorf("progress (-want +got):\n%s", diff)
		}
		want := []time.Duration{0, 100 * time.Millisecond, 1020 * time.Millisecond, 1021 * time.Millisecond}
		if diff := cmp.Diff(want, n.at); diff != "" {
			t.Errorf("sent at (-want +got):\n%s", diff)
		}
	})
}

func TestFloodOfProgressIsFewMessagesAndLosesNothing(t *testing.T) {
	const parts, goroutines, adds = 5, 8, 10_000
	synctest.Test(t, func(t *testing.T) {
		n := newNotebook()
		completes(t, n.perform(t.Context(), func(ctx context.Context) error {
			var working sync.WaitGroup
			for i := range parts {
				p, err := worker.NewProgress(ctx, worker.Part{Code: fmt.Sprint(i)})
				if err != nil {
					return err
				}
				for range goroutines {
					working.Go(func() {
						for range adds {
							p.Add(1)
						}
						pass(time.Second)
						p.Add(1)
					})
				}
			}
			working.Wait()
			return nil
		}))
		last := map[string]int64{}
		messages := map[string]int{}
		for _, p := range n.progress {
			if p.GetDone() < last[p.GetCode()] {
				t.Errorf("part %s went back from %d to %d", p.GetCode(), last[p.GetCode()], p.GetDone())
			}
			last[p.GetCode()] = p.GetDone()
			messages[p.GetCode()]++
		}
		for i := range parts {
			code := fmt.Sprint(i)
			if last[code] != goroutines*(adds+1) {
				t.Errorf("part %s ended with %d", code, last[code])
			}
			// One at once and one at 100 ms; one at 1 s and one at the end.
			if messages[code] > 4 {
				t.Errorf("part %s took %d messages", code, messages[code])
			}
		}
	})
}

func TestProgressKeepsItsRules(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(p *worker.Progress)
		want *taskv1.Progress
	}{
		"nothing":        {func(*worker.Progress) {}, state("a", 0, running)},
		"beyond total":   {func(p *worker.Progress) { p.SetTotal(1); p.Add(2) }, &taskv1.Progress{Code: "a", State: running, Done: 2, Total: proto.Int64(1)}},
		"total 0":        {func(p *worker.Progress) { p.SetTotal(0) }, &taskv1.Progress{Code: "a", State: running, Total: proto.Int64(0)}},
		"total unknown":  {func(p *worker.Progress) { p.SetTotal(5); p.SetTotal(-1) }, state("a", 0, running)},
		"back":           {func(p *worker.Progress) { p.Add(5); p.Add(-2) }, state("a", 3, running)},
		"below nothing":  {func(p *worker.Progress) { p.Add(5); p.Add(-7); p.Add(1) }, state("a", 1, running)},
		"lowest":         {func(p *worker.Progress) { p.Add(5); p.Add(math.MinInt64) }, state("a", 0, running)},
		"overflow":       {func(p *worker.Progress) { p.Add(5); p.Add(math.MaxInt64 - 2) }, state("a", math.MaxInt64, running)},
		"set":            {func(p *worker.Progress) { p.Add(5); p.Set(2) }, state("a", 2, running)},
		"set negative":   {func(p *worker.Progress) { p.Set(-2) }, state("a", 0, running)},
		"suffix":         {func(p *worker.Progress) { _ = p.SetSuffix("€") }, &taskv1.Progress{Code: "a", State: running, Suffix: "€"}},
		"bad suffix":     {func(p *worker.Progress) { _ = p.SetSuffix("x"); _ = p.SetSuffix("\n") }, &taskv1.Progress{Code: "a", State: running, Suffix: "x"}},
		"done is done":   {func(p *worker.Progress) { p.Add(1); p.Done(); p.Add(1); p.Fail(); p.SetTotal(7) }, state("a", 1, completed)},
		"failed is over": {func(p *worker.Progress) { p.Fail(); p.Done(); p.Set(3) }, state("a", 0, failing)},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNotebook()
			completes(t, n.perform(t.Context(), func(ctx context.Context) error {
				p, err := worker.NewProgress(ctx, worker.Part{Code: "a"})
				if err == nil {
					c.do(p)
				}
				return err
			}))
			if diff := cmp.Diff(c.want, n.progress[len(n.progress)-1], protocmp.Transform()); diff != "" {
				t.Errorf("last (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewProgressReplacesThatWithItsCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNotebook()
		completes(t, n.perform(t.Context(), func(ctx context.Context) error {
			older, err := worker.NewProgress(ctx, worker.Part{Code: "a", Message: "older"})
			if err != nil {
				return err
			}
			older.Add(5)
			newer, err := worker.NewProgress(ctx, worker.Part{Code: "a", Message: "newer", Total: 3, Suffix: "x"})
			older.Add(5)
			older.Fail()
			newer.Add(1)
			return err
		}))
		want := &taskv1.Progress{Code: "a", Message: "newer", State: running, Total: proto.Int64(3), Done: 1, Suffix: "x"}
		if diff := cmp.Diff(want, n.progress[len(n.progress)-1], protocmp.Transform()); diff != "" {
			t.Errorf("last (-want +got):\n%s", diff)
		}
		replaced := false
		for _, p := range n.progress {
			if p.GetMessage() == "older" && (replaced || p.GetState() == failing) {
				t.Errorf("the replaced part had a say: %v", p)
			}
			replaced = replaced || p.GetMessage() == "newer"
		}
	})
}

func TestMistakesInReportsAreErrors(t *testing.T) {
	n := newNotebook()
	completes(t, n.perform(t.Context(), func(ctx context.Context) error {
		for want, part := range map[string]worker.Part{
			"progress.code: must not be empty":      {},
			"progress.code: must be at most 255":    {Code: strings.Repeat("x", 256)},
			"progress.code: must not contain":       {Code: "a\nb"},
			"progress.message: must be valid UTF-8": {Code: "a", Message: "\xff"},
			"progress.message: must be at most":     {Code: "a", Message: strings.Repeat("x", 1025)},
			"progress.suffix: must be at most 255":  {Code: "a", Suffix: strings.Repeat("x", 256)},
			"progress.total: must be between 0 and": {Code: "a", Total: -1},
		} {
			p, err := worker.NewProgress(ctx, part)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q, got %v", want, err)
			}
			// Nobody has to look at the error to go on.
			p.Add(1)
			p.Set(1)
			p.SetTotal(1)
			if err := p.SetSuffix("x"); err != nil {
				t.Errorf("suffix of no progress: %v", err)
			}
			p.Done()
			p.Fail()
		}
		for _, name := range []string{"", " ", "a\x00", "\xff", strings.Repeat("x", 1025)} {
			if err := worker.Creating(ctx, name); err == nil {
				t.Errorf("creating %.10q: no error", name)
			}
			if err := worker.Created(ctx, name); err == nil {
				t.Errorf("created %.10q: no error", name)
			}
		}
		p, err := worker.NewProgress(ctx, worker.Part{Code: "a"})
		if err != nil {
			return err
		}
		if err := p.SetSuffix("\xff"); err == nil {
			t.Error("suffix that is not UTF-8: no error")
		}
		for i := range limits.MaxParts - 1 {
			if _, err := worker.NewProgress(ctx, worker.Part{Code: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		if _, err := worker.NewProgress(ctx, worker.Part{Code: "one more"}); err == nil {
			t.Error("one part too many: no error")
		}
		_, err = worker.NewProgress(ctx, worker.Part{Code: "0"}) // not one more
		return err
	}))
	if len(n.created) != 0 {
		t.Errorf("created %v", n.created)
	}
}

func TestCreatedResourcesAreToldInOrderUpToTheLimit(t *testing.T) {
	n := newNotebook()
	completes(t, n.perform(t.Context(), func(ctx context.Context) error {
		for i := range limits.MaxCreated {
			if err := worker.Creating(ctx, fmt.Sprint(i)); err != nil {
				return err
			}
		}
		if err := worker.Creating(ctx, "one more"); err == nil || !strings.Contains(err.Error(), "at most 1000") {
			t.Errorf("one more: %v", err)
		}
		return worker.Created(ctx, "7") // not one more
	}))
	var want []*taskv1.CreatedResource
	for i := range limits.MaxCreated {
		want = append(want, &taskv1.CreatedResource{Resource: fmt.Sprint(i), Incomplete: true})
	}
	want = append(want, &taskv1.CreatedResource{Resource: "7"})
	if diff := cmp.Diff(want, n.created, protocmp.Transform()); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
}

// A slow executor must hold up neither the handler nor lose what it was told, and what is told late must not come late.
func TestEndWaitsForReportsThatAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNotebook()
		release := make(chan struct{})
		n.hold = func() { <-release }
		ended := make(chan *taskv1.Outcome)
		leftover := make(chan error)
		returned := make(chan struct{})
		go func() {
			ended <- n.perform(t.Context(), func(ctx context.Context) error {
				defer close(returned)
				p, err := worker.NewProgress(ctx, worker.Part{Code: "a"})
				if err != nil {
					return err
				}
				go func() {
					<-ctx.Done() // it has ended
					p.Add(100)
					_, err := worker.NewProgress(ctx, worker.Part{Code: "late"})
					leftover <- errors.Join(err, worker.Created(ctx, "late"))
				}()
				pass(time.Hour) // the first message is still under way
				for range 1000 {
					p.Add(1)
				}
				return nil
			})
		}()
		<-returned
		synctest.Wait()
		select {
		case outcome := <-ended:
			t.Fatalf("the end overtook the progress: %v", outcome)
		default:
		}
		close(release)
		completes(t, <-ended)
		if err := <-leftover; err == nil || strings.Count(err.Error(), "the run has ended") != 2 {
			t.Errorf("reporting after the end: %v", err)
		}
		pass(time.Hour)
		if diff := cmp.Diff([]*taskv1.Progress{state("a", 0, running), state("a", 1000, running)}, n.progress, protocmp.Transform()); diff != "" {
			t.Errorf("progress (-want +got):\n%s", diff)
		}
		if len(n.created) != 0 {
			t.Errorf("created after the end: %v", n.created)
		}
	})
}

// Whatever ends a handler, what it said before counts.
func TestReportsSurviveAnyEndOfTheHandler(t *testing.T) {
	for name, end := range map[string]func() error{
		"error": func() error { return errors.New("no luck") },
		"panic": func() error { panic("no luck") },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNotebook()
			outcome := n.perform(t.Context(), func(ctx context.Context) error {
				p, err := worker.NewProgress(ctx, worker.Part{Code: "a"})
				if err != nil {
					return err
				}
				p.Add(7)
				if err := worker.Creating(ctx, "x"); err != nil {
					return err
				}
				return end()
			})
			if !strings.Contains(outcome.GetError().GetDescription(), "no luck") {
				t.Errorf("outcome: %v", outcome)
			}
			if len(n.progress) == 0 || n.progress[len(n.progress)-1].GetDone() != 7 || len(n.created) != 1 {
				t.Errorf("progress %v, created %v", n.progress, n.created)
			}
		})
	}
}

func TestWithoutAnExecutorProgressIsHeardByNobody(t *testing.T) {
	mux := worker.NewMux()
	worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) {
		p, err := worker.NewProgress(ctx, worker.Part{Code: "a"})
		p.Add(1)
		if worker.Created(ctx, "x") == nil || worker.Creating(ctx, "x") == nil {
			t.Error("nobody was told what was created, and nothing was said")
		}
		return worker.None{}, err
	})
	completes(t, mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t"}}))
}

func BenchmarkAdd(b *testing.B) {
	newNotebook().perform(b.Context(), func(ctx context.Context) error {
		p, err := worker.NewProgress(ctx, worker.Part{Code: "a"})
		b.ReportAllocs()
		for b.Loop() {
			p.Add(1)
		}
		return err
	})
}

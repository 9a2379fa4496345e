package executor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/services/executor"
)

// leave closes the worker's side of the stream.
func (g *guest) leave() {
	g.t.Helper()
	if err := g.stream.CloseSend(); err != nil {
		g.t.Fatal(err)
	}
}

// A worker that says how its task ended and goes at once has said it.
func TestTheLastWordsOfAWorkerCount(t *testing.T) {
	for i := range 50 {
		f, s, _ := connect(t, executor.Config{Name: "host"})
		g := attach(t, s.invite(), &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a"), Slots: 3})
		g.next()
		l := f.line()
		l.welcome()
		var all []*taskv1.Assignment
		for range 3 {
			all = append(all, l.assign(order("py.a", "")))
			g.run(all[len(all)-1])
		}
		for _, a := range all[:2] {
			g.end(a, done(fmt.Sprint(i)))
		}
		g.leave()
		outcomes := l.finishes(all...)
		for _, a := range all[:2] {
			expectOutcome(t, done(fmt.Sprint(i)), outcomes[a.GetTaskId()])
		}
		want := &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{
			Code: task.CodeDisconnected, Reason: "The worker is gone: its stream ended: it closed the stream.",
		}}
		expectOutcome(t, want, outcomes[all[2].GetTaskId()])
		if err := receive(t, g.ended, "the end of the stream"); err.Error() != "EOF" {
			t.Errorf("the stream ended with %v", err)
		}
		if s.end(); t.Failed() {
			return
		}
	}
}

// The executor goes on, and so does the reporting of what a worker did that does not.
func TestTheEndsOfAWorkerThatLeftWaitForTheScheduler(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{ReportTimeout: 20 * time.Millisecond}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	receive(t, f.registers, "the worker's registration")
	a := l.assign(order("py.a", ""))
	g.run(a)
	f.away.Store(true)
	l.breakOff()
	g.end(a, done("1"))
	g.leave()
	if err := receive(t, g.ended, "the end of the stream"); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	select {
	case <-f.deregisters:
		t.Error("it said goodbye though the end of its task was not accepted")
	case <-time.After(200 * time.Millisecond): // many a report timeout
	}
	f.away.Store(false)
	l = f.line()
	if held := l.hello.GetHeld(); l.hello.GetExecutor() != "host/py" || len(held) != 1 || !names(held[0], a) {
		t.Fatalf("its hello is %v", l.hello)
	}
	l.welcome()
	expectOutcome(t, done("1"), l.last(a))
	receive(t, f.deregisters, "the goodbye")
}

// When the executor itself stops, that has a limit.
func TestTheEndsOfAWorkerThatLeftDoNotKeepTheExecutor(t *testing.T) {
	f, s, _, g, l := host(t, executor.Config{ReportTimeout: 20 * time.Millisecond}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	f.away.Store(true)
	l.breakOff()
	g.leave()
	if err := receive(t, g.ended, "the end of the stream"); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	s.end()
}

func TestOfAWorkerThatLostItsLeaseNothingIsReported(t *testing.T) {
	f, _, face, g, l := host(t, executor.Config{TTL: time.Second}, &executorv1.WorkerHello{
		Name: "py", Handlers: []*executorv1.TaskHandler{{Name: "py.a", Discards: true}},
	})
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.created(a, "half", true)
	l.acknowledged(a)
	l.hang <- errFenced
	if err := receive(t, g.ended, "the end of the stream"); !errs.Is(err, errs.Fenced) {
		t.Errorf("the stream ended with %v", err)
	}
	receive(t, l.gone, "the end of the line")
	// Its name is free when all is over.
	for {
		again := attach(t, face, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
		select {
		case <-again.in:
		case err := <-again.ended:
			if status.Code(err) != codes.AlreadyExists {
				t.Fatal(err)
			}
			continue
		}
		break
	}
	for {
		next := f.line()
		if next.hello.GetExecutor() != "host/py" {
			continue
		}
		if held := next.hello.GetHeld(); len(held) != 0 {
			t.Errorf("it holds %v", held)
		}
		break
	}
	for _, m := range arrived(l.in) {
		t.Errorf("said %v", m)
	}
	for _, m := range arrived(g.in) {
		if m.GetStop() == nil { // that it is to stop it may have heard
			t.Errorf("the worker was sent %v", m)
		}
	}
}

func TestARefusedRunKeepsItsPlaceUntilTheWorkerHasStopped(t *testing.T) {
	_, s, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{
		Name: "py", Handlers: []*executorv1.TaskHandler{{Name: "py.a", Discards: true}},
	})
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.started(a)
	g.created(a, "half", true)
	l.acknowledged(a)
	l.refuse(a)
	g.stop(a)
	again := order("py.a", "") // the same task, claimed anew, and another one
	again.TaskId, again.Claim = a.GetTaskId(), 2
	l.assign(again)
	l.acknowledged(again)
	other := l.assign(order("py.a", ""))
	l.acknowledged(other)
	if running := s.running(); len(running) != 2 {
		t.Errorf("running: %v", running)
	}
	select {
	case m := <-g.in:
		t.Errorf("the worker, which has one slot, was sent %v", m)
	case <-time.After(50 * time.Millisecond):
	}
	g.end(a, done("1"))
	for range 2 { // in whatever order; of the first one nothing is said or deleted
		next := g.next().GetRun().GetAssignment()
		g.end(next, done("2"))
		expectOutcome(t, done("2"), l.end(next))
	}
}

func TestAWorkerThatWantsNoMoreEndsWhatItHas(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Drain{Drain: &executorv1.WorkerDrain{}}})
	for m := l.next(); m.drain == nil; m = l.next() {
	}
	g.end(a, done("1"))
	expectOutcome(t, done("1"), l.last(a))
	l.breakOff()
	if l = f.line(); l.hello.GetExecutor() != "host/py" || !l.hello.GetDraining() {
		t.Errorf("the next hello is %v", l.hello)
	}
	l.welcome()
}

func TestAnImmediateTaskOfAWorkerHasTheTimeOfAll(t *testing.T) {
	const most = 50 * time.Millisecond
	for name, c := range map[string]struct{ handlers, dispatch, want time.Duration }{
		"neither says":              {0, 0, most},
		"its handler says more":     {time.Hour, 0, most},
		"its dispatch says more":    {0, time.Hour, most},
		"its dispatch says less":    {time.Hour, most / 2, most / 2},
		"its handler says less":     {most / 2, 0, most / 2},
		"both say, dispatch counts": {most / 2, time.Hour, most},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, g, l := host(t, executor.Config{ImmediateTimeout: most}, &executorv1.WorkerHello{
				Name: "py", ImmediateSlots: 1, Handlers: []*executorv1.TaskHandler{{Name: "py.a", Immediate: true, Timeout: durationpb.New(c.handlers)}},
			})
			a := order("py.a", "")
			a.Immediate = true
			if c.dispatch > 0 {
				a.Timeout = durationpb.New(c.dispatch)
			}
			l.assign(a)
			if got := g.run(a).GetTimeout().AsDuration(); got != c.want {
				t.Errorf("it was told that it has %s, want %s", got, c.want)
			}
			g.stop(a)
			g.end(a, done("1"))
			if e := l.end(a).GetError(); e.GetCode() != task.CodeTimeout {
				t.Errorf("error %v", e)
			}
		})
	}
}

// deafStream is a stream whose other side says things and reads nothing.
type deafStream struct {
	grpc.ServerStream
	ctx    context.Context
	says   chan *executorv1.WorkRequest
	writes chan struct{}
}

func (s *deafStream) Context() context.Context { return s.ctx }

func (s *deafStream) Recv() (*executorv1.WorkRequest, error) {
	select {
	case m := <-s.says:
		return m, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *deafStream) Send(*executorv1.WorkResponse) error {
	select {
	case s.writes <- struct{}{}:
	default:
	}
	<-s.ctx.Done()
	return s.ctx.Err()
}

// Whoever ends the stream of a worker must not wait for it to read.
func TestAWorkerThatReadsNothingLosesItsStream(t *testing.T) {
	f, s, _ := connect(t, executor.Config{Name: "host"})
	receive(t, f.registers, "the executor's registration")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := &deafStream{ctx: ctx, says: make(chan *executorv1.WorkRequest), writes: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() { ended <- s.face().Work(stream) }()
	stream.says <- &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Hello{Hello: &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")}}}
	receive(t, stream.writes, "the welcome")
	unknown := &executorv1.WorkRequest{Message: &executorv1.WorkRequest_Started{Started: &executorv1.RunStarted{TaskId: newID(), Claim: 1}}}
	for {
		select {
		case stream.says <- unknown: // each has an answer
			continue
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "does not read") {
				t.Errorf("the stream ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("the stream does not end")
		}
		break
	}
	receive(t, f.deregisters, "the goodbye")
}

func TestAWorkerThatComesWhileTheExecutorIsFencedStaysOne(t *testing.T) {
	f, s, l := connect(t, executor.Config{Name: "host"})
	receive(t, f.registers, "the executor's registration")
	f.nameTaken.Store(1) // there is a moment between its lives
	l.hang <- errFenced
	g := attach(t, s.invite(), &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	if g.next().GetWelcome() == nil {
		t.Fatal("it is not welcome")
	}
	lines := map[string]*fakeLine{}
	for len(lines) < 2 {
		next := f.line()
		next.welcome()
		lines[next.hello.GetExecutor()] = next
	}
	a := lines["host/py"].assign(order("py.a", ""))
	g.run(a)
	lines["host"].do(order("test.noop", ""))
	g.end(a, done("1"))
	expectOutcome(t, done("1"), lines["host/py"].end(a))
}

func TestAWorkerIsRefusedBeforeTheExecutorHasItsName(t *testing.T) {
	f := newFakes(t)
	f.nameTaken.Store(1 << 30)
	s := f.begin(executor.Config{})
	attach(t, s.invite(), &executorv1.WorkerHello{Handlers: handlers("a")}).over(codes.Unavailable)
	s.end()
	attach(t, s.invite(), &executorv1.WorkerHello{Handlers: handlers("a")}).over(codes.Unavailable)
}

// What is said to be deleted before it was to be is still there.
func TestAWorkerCannotAnswerBeforeItIsAsked(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{
		Name: "py", Handlers: []*executorv1.TaskHandler{{Name: "py.a", Discards: true}},
	})
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.created(a, "half", true)
	discarded := func(failed map[string]string) {
		g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Discarded{Discarded: &executorv1.RunDiscarded{
			TaskId: a.GetTaskId(), Claim: 1, Failed: failed,
		}}})
	}
	discarded(nil)
	if r := g.next().GetRefusal(); r.GetTaskId() != a.GetTaskId() || !strings.Contains(r.GetReason(), "nothing was to be deleted") {
		t.Errorf("refused with %v", r)
	}
	g.end(a, &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: "no luck"}})
	if m := g.next(); len(m.GetDiscard().GetResources()) != 1 {
		t.Fatalf("expected to be told what to delete, got %v", m)
	}
	discarded(map[string]string{"half": "in use"})
	l.outcome(a)
	if made, gone := lastReport(t, f); len(made) != 1 || made[0] != "half?" || len(gone) != 0 {
		t.Errorf("made %v, deleted %v", made, gone)
	}
	l.finished(a)
}

// Once the claim is refused, nobody here may delete anything more, or wait for it.
func TestARefusalEndsADeletion(t *testing.T) {
	t.Run("by a worker", func(t *testing.T) {
		_, _, _, g, l := host(t, executor.Config{CancelGrace: time.Hour}, &executorv1.WorkerHello{
			Name: "py", Handlers: []*executorv1.TaskHandler{{Name: "py.a", Discards: true}},
		})
		a := l.assign(order("py.a", ""))
		g.run(a)
		g.created(a, "half", true)
		l.acknowledged(a)
		g.end(a, &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: "no luck"}})
		if m := g.next(); m.GetDiscard() == nil {
			t.Fatalf("expected to be told to delete, got %v", m)
		}
		l.refuse(a)
		next := l.assign(order("py.a", "")) // for which there is one slot
		g.run(next)
		g.end(next, done("1"))
		expectOutcome(t, done("1"), l.last(next))
	})
	t.Run("by a child", func(t *testing.T) {
		f, s, l := connect(t, executor.Config{CancelGrace: time.Hour, Slots: 1})
		dir := t.TempDir()
		a := l.assign(order("makes", fmt.Sprintf(`{"Dir": %q, "Half": ["hangs"], "End": "fail"}`, dir)))
		l.acknowledged(a)
		for deadline := time.Now().Add(patience); !slices.Contains(files(t, dir), "hangs.begun"); {
			if time.Now().After(deadline) {
				t.Fatal("the deletion does not begin")
			}
		}
		l.refuse(a)
		l.do(order("test.sleep", `{"seconds": 0}`))
		s.end()
		if children := childrenOf(t, os.Getpid()); len(children) != 0 {
			t.Errorf("children left: %v", children)
		}
		for _, report := range arrived(f.reports) {
			if len(report.GetDiscarded()) > 0 {
				t.Errorf("reported %v", report)
			}
		}
	})
}

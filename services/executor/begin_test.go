package executor_test

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/services/executor"
)

// cautious connects an executor to a scheduler that lets nothing begin by itself.
func cautious(t *testing.T, config executor.Config) (*fakes, *subject, *fakeLine) {
	t.Helper()
	f, s, l := connect(t, config)
	f.held.Store(true)
	return f, s, l
}

// hold assigns a task and waits until the executor says that it has it.
func (l *fakeLine) hold(a *taskv1.Assignment) *taskv1.Assignment {
	l.t.Helper()
	l.assign(a)
	l.acknowledged(a)
	return a
}

// nothingBegan fails the test if a task said a word.
func (f *fakes) nothingBegan() {
	f.t.Helper()
	select {
	case spec := <-f.dispatches:
		f.t.Errorf("a task began: %v", spec)
	default:
	}
}

func TestNothingBeginsBeforeTheSchedulerKnowsThatWeHaveIt(t *testing.T) {
	for _, name := range []string{"wait", "wait.here"} {
		t.Run(name, func(t *testing.T) {
			f, s, l := cautious(t, executor.Config{Slots: 1})
			a := l.hold(order(name, ""))
			b := l.hold(order("test.noop", ""))
			l.begin(b) // the only slot is free
			l.end(b)
			if running := s.running(); len(running) != 1 || running[0].GetTaskId() != a.GetTaskId() || running[0].GetPid() != 0 {
				t.Errorf("running: %v", running)
			}
			if children := childrenOf(t, os.Getpid()); name == "wait" && len(children) != 0 {
				t.Errorf("children: %v", children)
			}
			f.nothingBegan()

			l.begin(a, order("test.noop", "")) // the other one is nothing to us
			var pids []int
			told(t, f, &pids)
			l.begin(a)
			l.cancel(a)
			expectOutcome(t, canceled, l.end(a))
			l.begin(a)
			c := l.hold(order("test.noop", ""))
			l.begin(c)
			l.end(c)
			f.nothingBegan() // again
		})
	}
}

// announce says what is about to be assigned, and waits until the executor says that it would take it.
func (l *fakeLine) announce(a *taskv1.Assignment) *taskv1.Assignment {
	l.t.Helper()
	l.order(&schedulerv1.Orders{Announced: []*schedulerv1.Claim{claimOf(a)}})
	l.acknowledged(a)
	return a
}

func TestWhatWasAnnouncedBeginsAsItComes(t *testing.T) {
	f, s, l := cautious(t, executor.Config{})
	a, b, c := l.announce(order("test.noop", "")), l.announce(order("wait", "")), l.announce(order("wait", ""))
	l.begin(a) // it has not come yet
	if running := s.running(); len(running) != 0 {
		t.Errorf("running what was announced: %v", running)
	}
	l.order(&schedulerv1.Orders{Run: []*taskv1.Assignment{a}})
	if m := l.next(); !names(m.finish.GetClaim(), a) {
		t.Fatalf("expected the end, and no other acknowledgement, got %v", m)
	}
	l.finished(a)
	// What is canceled in the message that brings it never begins; nor does what comes as if it had not been announced.
	l.order(&schedulerv1.Orders{Run: []*taskv1.Assignment{b}, Cancel: []*schedulerv1.Claim{claimOf(b)}})
	expectOutcome(t, canceled, l.outcome(b))
	l.finished(b)
	l.hold(c)
	f.nothingBegan()
	// The next line knows nothing of what was announced on this one.
	l.announce(order("wait", ""))
	l.breakOff()
	if held := f.line().hello.GetHeld(); len(held) != 1 || !names(held[0], c) {
		t.Errorf("held: %v", held)
	}
}

func TestWhatIsAnnouncedToWhoStopsIsNotAcknowledged(t *testing.T) {
	f, s, l := cautious(t, executor.Config{ShutdownGrace: time.Hour})
	a := l.hold(order("wait.here", ""))
	l.begin(a)
	told(t, f, new([]int))
	s.Stop(executor.Patiently)
	if m := l.next(); m.drain == nil {
		t.Fatalf("expected its drain, got %v", m)
	}
	b := order("wait", "")
	l.order(&schedulerv1.Orders{Announced: []*schedulerv1.Claim{claimOf(b)}})
	l.pulse(1) // the next thing that is said is the answer
	l.order(&schedulerv1.Orders{Run: []*taskv1.Assignment{b}})
	l = f.line() // it was acknowledged before, say: the hello gives it back
	if held := l.hello.GetHeld(); len(held) != 1 || !names(held[0], a) {
		t.Errorf("held: %v", held)
	}
	l.welcome()
	l.cancel(a)
	expectOutcome(t, canceled, l.last(a))
}

func TestWhatHasNotBegunSurvivesItsLine(t *testing.T) {
	f, _, l := cautious(t, executor.Config{})
	a, b, c := l.hold(order("wait", "")), l.hold(order("wait", "")), l.hold(order("wait", ""))
	l.breakOff()
	l = f.line()
	if held := l.hello.GetHeld(); len(held) != 3 {
		t.Fatalf("held: %v", held)
	}
	l.greet(&schedulerv1.Welcome{Epoch: 2})
	l.refuse(c)
	l.cancel(b)
	expectOutcome(t, canceled, l.end(b))
	f.nothingBegan()
	l.begin(a, c)
	var pids []int
	told(t, f, &pids)
	f.nothingBegan() // c: it was refused
	l.breakOff()
	l = f.line()
	if held := l.hello.GetHeld(); len(held) != 1 || !names(held[0], a) {
		t.Errorf("held: %v", held)
	}
	l.welcome() // which says again that it is to begin
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
	f.nothingBegan()
}

func TestWhatHasNotBegunIsCanceledWithoutABeginning(t *testing.T) {
	f, _, l := cautious(t, executor.Config{})
	a := l.hold(order("wait", ""))
	l.cancel(a)
	expectOutcome(t, canceled, l.outcome(a))
	l.begin(a) // they crossed
	l.finished(a)
	b := l.hold(order("test.noop", ""))
	l.begin(b)
	l.end(b)
	f.nothingBegan()
}

// Who stops gives back what it has not begun: nobody aborts it, and it goes to others.
func TestWhatHasNotBegunIsGivenBackByWhoStops(t *testing.T) {
	for name, c := range map[string]struct{ how executor.Stopping }{
		"patiently": {executor.Patiently}, "with a grace": {executor.Graceful}, "at once": {executor.AtOnce},
	} {
		t.Run(name, func(t *testing.T) {
			f, s, l := cautious(t, executor.Config{ShutdownGrace: time.Hour})
			a := l.hold(order("wait.here", ""))
			l.begin(a)
			told(t, f, new([]int))
			b := l.hold(order("wait", ""))
			s.Stop(c.how)
			if c.how != executor.AtOnce {
				// Beside what goes on, a hello gives it back.
				next := f.line()
				if held := next.hello.GetHeld(); len(held) != 1 || !names(held[0], a) || !next.hello.GetDraining() {
					t.Errorf("its hello: %v", next.hello)
				}
				for _, m := range arrived(l.in) {
					if m.finish != nil {
						t.Errorf("said %v", m)
					}
				}
				l = next
				l.welcome()
				l.begin(b) // too late
				l.cancel(a)
				expectOutcome(t, canceled, l.last(a))
			} else {
				l = f.line()
				l.welcome()
				expectOutcome(t, aborted, l.last(a))
			}
			receive(t, f.deregisters, "the goodbye")
			receive(t, s.done, "its end")
			f.nothingBegan()
			for _, m := range arrived(l.in) {
				if m.finish != nil {
					t.Errorf("said %v", m)
				}
			}
		})
	}
}

// With nothing else to do the goodbye says it: what was assigned never began.
func TestTheGoodbyeGivesBackWhatHasNotBegun(t *testing.T) {
	f, s, l := cautious(t, executor.Config{})
	l.hold(order("wait", ""))
	s.end()
	if got := receive(t, f.deregisters, "the goodbye"); got != l.hello.GetIncarnation() {
		t.Errorf("goodbye of %s", got)
	}
	f.nothingBegan()
	for _, m := range arrived(l.in) {
		if m.finish != nil {
			t.Errorf("said %v", m)
		}
	}
}

func TestTheTimeOfATaskBeginsWithIt(t *testing.T) {
	_, _, l := cautious(t, executor.Config{})
	a := order("test.sleep", `{"seconds": 0}`)
	a.Timeout = durationpb.New(2 * time.Second)
	l.hold(a)
	for range 5 { // longer than that in all
		b := l.hold(order("test.sleep", `{"seconds": 0.5}`))
		l.begin(b)
		l.end(b)
	}
	l.begin(a)
	if outcome := l.end(a); outcome.GetState() != taskv1.State_STATE_COMPLETED {
		t.Errorf("outcome %v", outcome)
	}
}

func TestAWorkerHearsOfATaskWhenItIsToBegin(t *testing.T) {
	f, _, _, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a"), Slots: 2})
	f.held.Store(true)
	a, b := l.hold(order("py.a", "")), l.hold(order("py.a", ""))
	l.begin(b)
	g.run(b)
	g.end(b, done("1"))
	expectOutcome(t, done("1"), l.end(b))
	l.pulse(1) // what is answered after the acceptance has come tells that it has
	g.vanish()
	// The other one it never had: it goes to others unharmed, with the goodbye.
	if got := receive(t, f.deregisters, "the goodbye"); got != l.hello.GetIncarnation() {
		t.Errorf("goodbye of %s", got)
	}
	for _, m := range arrived(l.in) {
		if m.finish != nil {
			t.Errorf("said %v of %v", m, a)
		}
	}
}

func TestPulsesAreAnswered(t *testing.T) {
	f, _, l := cautious(t, executor.Config{})
	for number := range int64(3) {
		l.pulse(number + 1)
	}
	l.breakOff()
	l = f.line()
	l.greet(&schedulerv1.Welcome{Epoch: 2, PulseEvery: durationpb.New(time.Hour)})
	l.pulse(7)
}

// Whatever the network says of it: nothing comes on it.
func TestALineOnWhichNothingComesIsLeft(t *testing.T) {
	f := newFakes(t)
	f.begin(executor.Config{})
	l := f.line()
	l.greet(&schedulerv1.Welcome{Epoch: 1, PulseEvery: durationpb.New(20 * time.Millisecond)})
	f.held.Store(true)
	a := order("wait", "")
	l.tryOrder(&schedulerv1.Orders{Assign: []*taskv1.Assignment{a}}) // nothing comes after that
	receive(t, l.gone, "the end of the line")
	l = f.line()
	if l.hello.GetLine() != 2 {
		t.Errorf("its hello: %v", l.hello)
	}
	l.greet(&schedulerv1.Welcome{Epoch: 2}) // one that has no pulses
	for range 5 {
		b := l.hold(order("test.sleep", `{"seconds": 0.05}`))
		l.begin(b)
		l.end(b)
	}
}

func TestABeatTellsWhatIsHeardOfTheScheduler(t *testing.T) {
	f := newFakes(t)
	f.begin(executor.Config{TTL: time.Second})
	l := f.line()
	later := func(n int64) {
		t.Helper()
		for want := f.beats.Load() + n; f.beats.Load() < want; {
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("no beats")
			}
		}
	}
	later(1)
	if heard := f.hearing.Load(); heard != nil {
		t.Errorf("it heard %v before there was a line", heard)
	}
	l.greet(&schedulerv1.Welcome{Epoch: 5})
	later(6)
	first := f.hearing.Load()
	if first.GetEpoch() != 5 || first.GetSilentFor().AsDuration() < time.Second*3/5 {
		t.Errorf("after a silence of more than %s it heard %v", time.Second*3/5, first)
	}
	l.pulse(1)
	later(2)
	if heard := f.hearing.Load(); heard.GetEpoch() != 5 || heard.GetSilentFor().AsDuration() >= first.GetSilentFor().AsDuration() {
		t.Errorf("after a pulse it heard %v", heard)
	}
	f.away.Store(true)
	l.breakOff()
	later(3)
	if heard := f.hearing.Load(); heard != nil {
		t.Errorf("it heard %v after the line had ended", heard)
	}
}

// book is a log that can be read while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) count(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), what)
}

func TestATakenNameIsWaitedForAndLoggedOnce(t *testing.T) {
	f := newFakes(t)
	log := &book{}
	f.executorLog = log
	f.nameTaken.Store(5)
	f.begin(executor.Config{Name: "taken", TTL: time.Second})
	for range 6 {
		receive(t, f.registers, "a registration")
	}
	f.line().welcome()
	if n := log.count("another living executor is called"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// It was only cut off, somebody else has the name meanwhile, and it must wait. Each time it says whom it replaces: if that is who has
// the name, it gets it at once.
func TestAFencedExecutorWaitsForItsNameLikeAnyOther(t *testing.T) {
	f, _, l := connect(t, executor.Config{TTL: time.Second})
	_, pids := start(f, l, "wait")
	child := watch(t, pids[0])
	receive(t, f.registers, "the first registration")
	f.nameTaken.Store(3)
	f.fenced.Store(true)
	for range 4 {
		if r := receive(t, f.registers, "another registration"); r.GetReplaces() != l.hello.GetIncarnation() {
			t.Errorf("replaces %q", r.GetReplaces())
		}
		if !child.over(0) {
			t.Error("something of it still ran when it said that nothing did")
		}
	}
	old := l
	l = f.line()
	l.welcome()
	if l.hello.GetIncarnation() == old.hello.GetIncarnation() {
		t.Error("the new life has the old incarnation")
	}
	for _, m := range arrived(old.in) {
		t.Errorf("said %v", m)
	}
}

func TestNobodyIsReplacedWhileAHandlerGoesOn(t *testing.T) {
	f, _, l := connect(t, executor.Config{TTL: time.Second, CancelGrace: time.Millisecond})
	start(f, l, "sticky.here")
	receive(t, f.registers, "the first registration")
	f.fenced.Store(true)
	if r := receive(t, f.registers, "another registration"); r.GetReplaces() != "" {
		t.Errorf("replaces %q, of which something goes on", r.GetReplaces())
	}
	f.line().welcome()
	letGo <- struct{}{}
}

// The lease ends while it is stopped, orders wait to be read, and whatever of it wakes first must say nothing.
func TestAnExecutorThatWasStoppedForTooLongReportsNothing(t *testing.T) {
	f := newFakes(t)
	r := f.remote("TTL=1s")
	l := f.line()
	l.welcome()
	child, _, _ := stickies(f, l)
	here, _ := start(f, l, "wait.here")
	f.held.Store(true)
	waits := l.hold(order("wait.here", ""))
	r.freezes()
	l.cancel(here)
	l.begin(waits)
	child.ends("a child, with the lease") // the guard sees to that
	r.signal(unix.SIGCONT)
	again := f.line()
	if again.hello.GetIncarnation() == l.hello.GetIncarnation() || len(again.hello.GetHeld()) != 0 {
		t.Errorf("its hello: %v", again.hello)
	}
	again.welcome()
	for _, m := range arrived(l.in) {
		t.Errorf("said of its old life: %v", m)
	}
	f.nothingBegan()
}

func TestAWorkerThatComesBackIsLetInWhenItsTasksAreSettled(t *testing.T) {
	f, _, face, g, l := host(t, executor.Config{}, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	receive(t, f.registers, "the worker's registration")
	a := l.assign(order("py.a", ""))
	g.run(a)
	g.vanish()
	again := attach(t, face, &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	end := l.next()
	for end.finish == nil {
		end = l.next()
	}
	select {
	case m := <-again.in:
		t.Errorf("told %v before it was accepted that its tasks failed", m)
	case err := <-again.ended:
		t.Errorf("refused: %v", err)
	case r := <-f.registers:
		t.Errorf("registered too early: %v", r)
	default:
	}
	if code := end.finish.GetOutcome().GetError().GetCode(); code != "DISCONNECTED" {
		t.Errorf("ended with %q", code)
	}
	l.finished(a)
	receive(t, f.deregisters, "the goodbye of the one before")
	if got := again.next().GetWelcome().GetWorker(); got != "host/py" {
		t.Errorf("welcomed as %q", got)
	}
	l = f.line()
	l.welcome()
	b := l.assign(order("py.a", ""))
	again.run(b)
	again.end(b, done("1"))
	expectOutcome(t, done("1"), l.end(b))
}

func TestAWorkersFirstLeaseComesWithItsWelcome(t *testing.T) {
	f := newFakes(t)
	f.deaf.Store(true) // no beat is ever confirmed
	s := f.begin(executor.Config{TTL: time.Hour, Name: "host"})
	f.line().welcome()
	g := attach(t, s.invite(), &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	welcome := g.next().GetWelcome()
	lease := receive(t, g.leases, "a lease")
	if left := lease.GetValidFor().AsDuration(); left <= 0 || left > 40*time.Minute || left > welcome.GetLease().AsDuration() || lease.GetEndsAtMonotonic() <= 0 {
		t.Errorf("%v after %v", lease, welcome)
	}
}

package executor_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/services/executor"
)

// journal is a log that may still be written to.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// lineWith is the line of the journal that has this text.
func (j *journal) lineWith(text string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

var reference = regexp.MustCompile(`reference ([0-9a-f-]{36})\.$`)

// withheld expects that a failure says nothing but a reference to the executor's log, where this text is.
func withheld(t *testing.T, log *journal, outcome *taskv1.Outcome, code, text string) {
	t.Helper()
	failure := outcome.GetError()
	match := reference.FindStringSubmatch(failure.GetDescription())
	if match == nil || failure.GetTraceback() != "" || failure.GetReason() != "" || failure.GetCode() != code || outcome.GetSafe() {
		t.Fatalf("outcome %v", outcome)
	}
	if line := log.lineWith(match[1]); !strings.Contains(line, text) {
		t.Errorf("the log says of %s: %q", match[1], line)
	}
}

func TestErrorsThatWereNotDeclaredSafeAreWithheld(t *testing.T) {
	log := &journal{}
	f := newFakes(t)
	f.executorLog = log
	f.begin(executor.Config{RedactErrors: true})
	l := f.line()
	l.welcome()
	withheld(t, log, l.do(order("unsafe", "")), task.CodeError, "the password is 1234")
	withheld(t, log, l.do(order("unsafe.here", "")), task.CodeError, "the password is 1234")
	withheld(t, log, l.do(order("panic", "")), task.CodePanic, "executor_test.panicking")

	for name, c := range map[string]struct {
		assignment *taskv1.Assignment
		want       string
	}{
		"declared safe":     {order("safe", ""), "the disk is full"},
		"of a bad argument": {order("test.sleep", `{"seconds": "x"}`), "seconds"},
		"of an end by us":   {order("die", ""), "Killed by signal 9."},
		"of no handler":     {order("nobody.knows", ""), "no handler"},
	} {
		t.Run(name, func(t *testing.T) {
			e := l.do(c.assignment).GetError()
			if text := e.GetDescription() + e.GetReason(); !strings.Contains(text, c.want) {
				t.Errorf("error %v does not say %q", e, c.want)
			}
		})
	}
}

func TestErrorsOfWorkersAreWithheldToo(t *testing.T) {
	log := &journal{}
	f := newFakes(t)
	f.executorLog = log
	s := f.begin(executor.Config{Name: "host", RedactErrors: true})
	f.line().welcome()
	g := attach(t, s.invite(), &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	g.next()
	l := f.line()
	l.welcome()
	for _, safe := range []bool{false, true} {
		a := l.assign(order("py.a", ""))
		g.run(a)
		g.end(a, &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Safe: safe, Error: &taskv1.TaskError{
			Code: "DISK_FULL", Description: "password 1", Traceback: "password 2", Reason: "password 3",
		}})
		outcome := l.end(a)
		if !safe {
			for _, text := range []string{"password 1", "password 2", "password 3"} {
				withheld(t, log, outcome, "DISK_FULL", text)
			}
			continue
		}
		if e := outcome.GetError(); e.GetDescription() != "password 1" || e.GetTraceback() != "password 2" || e.GetReason() != "password 3" {
			t.Errorf("what was declared safe became %v", e)
		}
	}
}

func TestAChildHasNoMoreMemoryThanItMay(t *testing.T) {
	f, s, l := connect(t, executor.Config{ChildMemory: leastMemory, Slots: 2})
	var got struct{ Own, Inherited string }
	l.result(order("limits", ""), &got)
	if want := fmt.Sprint(leastMemory >> 10); got.Own != want || got.Inherited != want {
		t.Errorf("limits %+v, want %s KiB", got, want)
	}
	other := l.assign(order("wait", ""))
	l.acknowledged(other)
	told(t, f, new([]int))
	outcome := l.do(order("gobbles", fmt.Sprintf(`{"MiB": %d}`, 2*leastMemory>>20)))
	if e := outcome.GetError(); outcome.GetState() != taskv1.State_STATE_FAILED || e.GetCode() != task.CodeProcessDied {
		t.Errorf("one that takes twice as much: %v", outcome)
	}
	if log := receive(t, f.logs, "the log").GetText(); !strings.Contains(log, "memory") && !strings.Contains(log, "allocate") {
		t.Errorf("its log does not say why: %.300q", log)
	}
	if running := s.running(); len(running) != 1 || running[0].GetTaskId() != other.GetTaskId() {
		t.Errorf("running: %v", running)
	}
	l.result(order("gobbles", `{"MiB": 4}`), new(int))
	l.cancel(other)
	expectOutcome(t, canceled, l.end(other))
}

func TestAFreshProcessForEachTask(t *testing.T) {
	_, s, l := connect(t, executor.Config{MaxTasksPerChild: 1, Slots: 1})
	seen := map[int]bool{}
	for range 5 {
		var pid int
		l.result(order("print", `{"Text": ""}`), &pid)
		if seen[pid] {
			t.Errorf("process %d had two tasks", pid)
		}
		seen[pid] = true
	}
	if children := childrenOf(t, os.Getpid()); len(children) != 0 {
		t.Errorf("children left: %v", children)
	}
	s.end()
}

func TestAnIdleChildIsEndedAndNotBefore(t *testing.T) {
	const idle = 300 * time.Millisecond
	_, s, l := connect(t, executor.Config{ChildIdle: idle, Slots: 3})
	var busy []*taskv1.Assignment
	var gates []string
	var children []process
	for range 3 {
		gate := pipe(t, "gate")
		a := l.assign(order("tells", fmt.Sprintf(`{"Steps": 1, "Gate": %q}`, gate)))
		l.acknowledged(a)
		busy, gates, children = append(busy, a), append(gates, gate), append(children, watch(t, s.childOf(a)))
	}
	// Two have nothing to do from now on, one has for longer than one would wait for it.
	began := time.Now()
	for i, a := range busy[:2] {
		open(t, gates[i])
		l.end(a)
	}
	for i := range children[:2] {
		children[i].ends("a child without a task")
	}
	if took := time.Since(began); took < idle {
		t.Errorf("they were ended after %s", took)
	}
	children[2].lives("a child with a task")
	open(t, gates[2])
	l.end(busy[2])
	children[2].ends("a child without a task")
	s.end()
	if left := childrenOf(t, os.Getpid()); len(left) != 0 {
		t.Errorf("children left: %v", left)
	}
}

// childOf waits until a task has a child, and returns its process id.
func (s *subject) childOf(a *taskv1.Assignment) int {
	s.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		for _, r := range s.running() {
			if r.GetTaskId() == a.GetTaskId() && r.GetPid() != 0 {
				return int(r.GetPid())
			}
		}
	}
	s.t.Fatal("the task has no child")
	return 0
}

// finishes accepts ends until all of these have come, and returns them by task.
func (l *fakeLine) finishes(of ...*taskv1.Assignment) map[string]*taskv1.Outcome {
	l.t.Helper()
	outcomes := map[string]*taskv1.Outcome{}
	for len(outcomes) < len(of) {
		m := l.next()
		if m.finish == nil {
			continue
		}
		outcomes[m.finish.GetClaim().GetTaskId()] = m.finish.GetOutcome()
		l.order(&schedulerv1.Orders{Finished: []*schedulerv1.Claim{m.finish.GetClaim()}})
	}
	return outcomes
}

func TestStoppingCanBecomeMoreUrgent(t *testing.T) {
	f, s, l := connect(t, executor.Config{ShutdownGrace: time.Hour, CancelGrace: time.Hour})
	first, pids := start(f, l, "wait")
	child := watch(t, pids[0])
	second, _ := start(f, l, "sticky")
	here, _ := start(f, l, "wait.here")

	s.Stop(executor.Patiently)
	if l.next().drain == nil {
		t.Error("the scheduler was not told")
	}
	child.lives("a child, while the executor stops patiently")
	l.cancel(first) // possible in each stage
	expectOutcome(t, canceled, l.end(first))

	s.Stop(executor.Graceful)
	s.Stop(executor.Patiently) // too late for that
	select {
	case m := <-l.in:
		t.Errorf("said %v", m)
	case <-s.done:
		t.Error("stopped")
	case <-time.After(50 * time.Millisecond):
	}
	s.Stop(executor.AtOnce)
	outcomes := l.finishes(second, here)
	for _, a := range []*taskv1.Assignment{second, here} {
		expectOutcome(t, aborted, outcomes[a.GetTaskId()])
	}
	receive(t, f.deregisters, "the goodbye")
	s.end()
}

// What was patient has no limit of its own; the grace begins when it is asked for.
func TestTheGraceBeginsWhenItIsAskedFor(t *testing.T) {
	const grace = 400 * time.Millisecond
	f, s, l := connect(t, executor.Config{ShutdownGrace: grace})
	a, _ := start(f, l, "wait")
	s.Stop(executor.Patiently)
	if l.next().drain == nil {
		t.Error("the scheduler was not told")
	}
	select {
	case m := <-l.in:
		t.Errorf("said %v", m)
	case <-time.After(grace + 100*time.Millisecond):
	}
	began := time.Now()
	s.Stop(executor.Graceful)
	expectOutcome(t, aborted, l.end(a))
	if took := time.Since(began); took < grace {
		t.Errorf("aborted after %s of a grace of %s", took, grace)
	}
	s.end()
}

func TestACancelIsHonouredWhileTheExecutorDrains(t *testing.T) {
	f, s, l := connect(t, executor.Config{})
	a, _ := start(f, l, "family")
	s.drain()
	if l.next().drain == nil {
		t.Error("the scheduler was not told")
	}
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
}

// burst starts an executor that tells when there is nothing left for it.
func burst(t *testing.T) (*fakes, *subject, *fakeLine, chan struct{}) {
	t.Helper()
	left := make(chan struct{}, 100)
	f, s, l := connect(t, executor.Config{Name: "host", NothingLeft: func() { left <- struct{}{} }})
	if !l.hello.GetBurst() {
		t.Error("its hello does not ask")
	}
	receive(t, f.registers, "the registration")
	return f, s, l, left
}

func (l *fakeLine) nothingLeft() {
	l.t.Helper()
	l.order(&schedulerv1.Orders{NothingLeft: true})
}

// silent expects that nothing has come through a channel by the time that an executor has heard all it was sent.
func silent(t *testing.T, left chan struct{}, l *fakeLine) {
	t.Helper()
	l.do(order("test.noop", ""))
	select {
	case <-left:
		t.Error("it says that nothing is left")
	case <-time.After(20 * time.Millisecond):
	}
}

func TestNothingIsLeftWhenNoStationHasAnything(t *testing.T) {
	f, s, l, left := burst(t)
	l.nothingLeft()
	receive(t, left, "the word that nothing is left")

	l.do(order("test.noop", "")) // that was not all, then
	g := attach(t, s.invite(), &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	g.next()
	theirs := f.line()
	theirs.welcome()
	theirs.nothingLeft()
	silent(t, left, l)
	a := theirs.assign(order("py.a", ""))
	g.run(a)
	l.nothingLeft()
	select {
	case <-left:
		t.Error("nothing is left though a worker has a task")
	case <-time.After(20 * time.Millisecond):
	}
	g.end(a, done("1"))
	theirs.end(a)
	theirs.nothingLeft()
	receive(t, left, "the word that nothing is left")
}

func TestNothingIsLeftWhenTheOnlyOneThatHadSomethingIsGone(t *testing.T) {
	nothing := func(t *testing.T, left chan struct{}) {
		t.Helper()
		select {
		case <-left:
			t.Error("nothing is left though a worker has a task")
		case <-time.After(20 * time.Millisecond):
		}
	}
	for name, leave := range map[string]func(*guest, *fakeLine, *taskv1.Assignment, func()){
		"it vanishes": func(g *guest, l *fakeLine, a *taskv1.Assignment, _ func()) {
			g.vanish()
			l.last(a)
		},
		"it wants no more": func(g *guest, l *fakeLine, a *taskv1.Assignment, notYet func()) {
			g.say(&executorv1.WorkRequest{Message: &executorv1.WorkRequest_Drain{Drain: &executorv1.WorkerDrain{}}})
			if l.next().drain == nil {
				l.t.Error("the scheduler was not told")
			}
			notYet()
			g.end(a, done("1"))
			l.end(a)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, s, l, left := burst(t)
			g := attach(t, s.invite(), &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
			g.next()
			theirs := f.line()
			theirs.welcome()
			a := theirs.assign(order("py.a", ""))
			g.run(a)
			g.started(a)
			theirs.acknowledged(a)
			l.nothingLeft()
			nothing(t, left)
			leave(g, theirs, a, func() { nothing(t, left) })
			receive(t, left, "the word that nothing is left")
		})
	}
}

// A scheduler that has just begun to lead may know of more than the one before.
func TestWhatASchedulerSaidIsForgottenWithIt(t *testing.T) {
	f, s, l, left := burst(t)
	g := attach(t, s.invite(), &executorv1.WorkerHello{Name: "py", Handlers: handlers("py.a")})
	g.next()
	theirs := f.line()
	theirs.welcome()
	l.nothingLeft()
	l.breakOff()
	l = f.line()
	l.welcome()
	if !l.hello.GetBurst() {
		t.Error("its hello does not ask again")
	}
	theirs.nothingLeft()
	select {
	case <-left:
		t.Error("nothing is left, though the new scheduler has not said so")
	case <-time.After(50 * time.Millisecond):
	}
	l.nothingLeft()
	receive(t, left, "the word that nothing is left")
}
